"""The parameters that a model stores: what they are called and where they lie."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxscope.model.channel_axes import stacked_parts, weight_axis
from onnxscope.model.encodings import Encoding, encoding_of
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.layer_names import Names, Operand, are_apart, is_anonymous, own_name
from onnxscope.model.provenance import ParameterRecord
from onnxscope.model.stored_model import StoredModel

__all__ = ["Cut", "Parameter", "find_parameters"]

_Place = tuple[tuple[Step, ...], str, str]  # the path of the graph that stores a tensor, its name there, and its alias

_PYTORCH_GATES = {("i", "o", "f", "c"): (0, 2, 3, 1), ("z", "r", "h"): (1, 0, 2)}
"""Where ONNX has the gates of a recurrent layer, in the order in which PyTorch has them."""

_LEGACY_FOLDED = re.compile(r"onnx::Conv(Transpose)?_\d+")
_TENSORFLOW_FOLDED = re.compile(r"batch_?norm", re.IGNORECASE)


@dataclass(frozen=True)
class Cut:
    """What of a stored tensor a parameter is: query of a packed attention, or one direction of a recurrent layer.

    Attributes:
        places: Which of an axis, from and to, one range behind the other.
        axis: That axis, of what is left.
        direction: Which place of axis 0, that is then left out; None where the axis stays.
    """

    places: tuple[tuple[int, int], ...]
    axis: int = -1
    direction: int | None = None


@dataclass(frozen=True)
class Parameter:
    """A stored parameter, before its values are read.

    Attributes:
        name: The framework's name where it is known, else `layer.role`.
        layer: The layer that it belongs to.
        role: What it is to its operator: `weight`, `bias`, `running_mean`, …
        initializer: The stored tensor's name.
        folded: Whether it holds more than the parameter, such as a BatchNorm folded into a convolution.
        shape: In the framework's axis order.
        dtype: The stored element type.
        channel_axis: The output axis within `shape`, None below two axes or where it is unknown.
        groups: Into how many groups the channel axis of the stored tensor is split (grouped ConvTranspose).
        permutation: `stored = parameter.transpose(permutation)`, empty where both are the same.
        graph: The graph that stores it.
        operand: How it is used; None where nothing uses it.
        encoding: How the stored integers stand for real numbers, None where the parameter is stored as it is.
        cut: What of the stored tensor it is, None where it is all of it.
    """

    name: str
    layer: str
    role: str
    initializer: str
    folded: bool
    shape: tuple[int, ...]
    dtype: str
    channel_axis: int | None
    groups: int
    permutation: tuple[int, ...]
    graph: Graph
    operand: Operand | None
    encoding: Encoding | None
    cut: Cut | None = None


def find_parameters(model: StoredModel, names: Names) -> tuple[list[Parameter], list[tuple[str, str]]]:
    """List the parameters that a model stores, and name those that it does not, with the reason.

    Returns:
        Parameters, recorded ones first and in the framework's order, the others in execution order; then name and
        reason of each absent one.
    """
    return _Finder(model, names).find()


class _Finder:
    def __init__(self, model: StoredModel, names: Names) -> None:
        self._model = model
        self._names = names
        self._absent: dict[str, str] = {}
        self._missing: list[tuple[str, str]] = []  # wanted names and reasons: what is stored is named first
        self._parts: dict[tuple[tuple[Step, ...], str], tuple[Node, str]] = {}  # of a recurrent layer's weights
        self._taken: set[str] = set()
        self._encodings: dict[Operand, Encoding] = {}
        self._steering: set[tuple[tuple[Step, ...], str]] = set()  # scales and zero points, by graph and name

    def find(self) -> tuple[list[Parameter], list[tuple[str, str]]]:
        uses = self._uses()
        for operands in uses.values():
            for operand in operands:
                self._note_encoding(operand)
        parameters = list(self._recorded(uses))
        claimed = {(parameter.graph.path, parameter.initializer) for parameter in parameters}
        for (path, value, _), operands in uses.items():
            graph = self._model.graphs[path]
            if (path, value) not in claimed and self._is_parameter(operands, graph):
                parameters += self._unrecorded(operands[0], graph)
        parameters += self._unused({(path, value) for path, value, _ in uses} | claimed)
        for name, reason in self._missing:
            self._absent[self._unique(name)] = reason
        return parameters, list(self._absent.items())

    def _uses(self) -> dict[_Place, list[Operand]]:
        """Operands by where they are stored and under which alias, in execution order."""
        uses: dict[_Place, list[Operand]] = {}
        for graph in self._model.graphs.values():
            for node in graph.nodes:
                for operand in self._names.operands(node):
                    if operand.origin is not None:
                        value = operand.origin.value
                        place = (graph.scope_of(value).path, value, operand.origin.alias)
                        uses.setdefault(place, []).append(operand)
                    elif parts := stacked_parts(graph, operand) if _is_recurrent(node) else {}:
                        for value, role in parts.items():
                            self._parts.setdefault((graph.scope_of(value).path, value), (node, role))
                    elif (
                        operand.role.startswith("weight") and self._names.owns_weights(node) and not self._names.records
                    ):
                        producer = graph.producers.get(node.inputs[operand.position])
                        kind = producer.op_type if producer else "the enclosing graph"
                        name = f"{self._names.layers[node]}.{operand.role}"
                        self._missing.append((name, f"computed by {kind}, not stored"))
        return uses

    def _note_encoding(self, operand: Operand) -> None:
        graph = self._model.graphs[operand.node.path]
        encoding = encoding_of(graph, operand)
        if encoding is not None:
            self._encodings[operand] = encoding
            self._steering |= {(graph.scope_of(value).path, value) for value in encoding.values}

    def _recorded(self, uses: dict[_Place, list[Operand]]) -> Iterator[Parameter]:
        by_value: dict[str, list[Operand]] = {}
        by_alias: dict[str, list[Operand]] = {}
        for (path, value, alias), operands in uses.items():
            if path:
                continue  # a body's own tensor may have the same name as one of the main graph's
            by_value.setdefault(value, []).extend(operands)
            by_alias.setdefault(alias, []).extend(operands)
        main = self._model.main
        renamed = {own_name(name): name for name in main.initializers if name != own_name(name)}
        for record in self._names.records:
            self._taken.add(record.name)
            initializer = record.initializer if record.initializer in main.initializers else None
            if record.initializer and initializer is None:
                initializer = renamed.get(own_name(record.initializer))
            if record.initializer is None or initializer is None:
                self._absent[record.name] = record.reason or "not in the file"
                continue
            used = by_alias.get(record.name) or by_value.get(initializer)
            operand = used[0] if used else None
            yield self._parameter(record.name, record.layer, initializer, main, operand, record)

    def _unrecorded(self, operand: Operand, graph: Graph) -> list[Parameter]:
        origin = operand.origin
        assert origin is not None
        owner, role = self._parts.get((graph.scope_of(origin.value).path, origin.value), (operand.node, operand.role))
        operand = replace(operand, role=role)
        layer = self._names.layers[owner]
        producer = graph.producers.get(origin.alias)
        anonymous = is_anonymous(origin.alias) or (producer is not None and producer.op_type == "Constant")
        alias = own_name(origin.alias) if operand in self._encodings else origin.alias
        scope = self._names.exporter_scope(owner)
        if alias.endswith(".weight") and scope == layer and are_apart(layer, alias.removesuffix(".weight")):
            anonymous = True  # dynamo stored what two layers share under the name of the other one
        elif not anonymous and "." in alias and "/" not in alias:
            layer = alias.rpartition(".")[0]
        # dynamo calls the bias of a convolution with a folded BatchNorm `conv1.weight_bias`.
        anonymous = anonymous or (operand.role == "bias" and alias.endswith(".weight_bias"))
        if operand.position in operand.node.operator.packs and (anonymous or "." not in alias or "/" in alias):
            packed = self._packed(operand, graph)
            if packed:
                return packed
        if anonymous and _is_recurrent(owner) and self._is_of_pytorch(owner, alias):
            directions = self._directions(operand, graph)
            if directions:
                return directions
        role, reverse, _ = operand.role.partition("_reverse")
        name = self._unique(f"{layer}.{role}{self._stacked(owner)}{reverse}" if anonymous else alias)
        return [self._parameter(name, layer, origin.value, graph, operand, None)]

    def _packed(self, operand: Operand, graph: Graph) -> list[Parameter]:
        """Query, key and value of a tensor that an optimizer has packed; none where it is not known where they lie."""
        layer, origin = self._names.layers[operand.node], operand.origin
        assert origin is not None
        whole = self._parameter("", layer, origin.value, graph, operand, None)
        total = whole.shape[-1] if whole.shape and origin.permutation == () else 0
        sizes = [int(size) for size in operand.node.attribute("qkv_hidden_sizes") or (total // 3,) * 3]
        if not total or len(sizes) != 3 or sum(sizes) != total:
            return []
        return [
            replace(
                whole,
                name=self._unique(f"{layer}.{part}.{operand.role}"),
                layer=f"{layer}.{part}",
                shape=(*whole.shape[:-1], size),
                cut=Cut(((end - size, end),)),
            )
            for part, size, end in zip(("query", "key", "value"), sizes, itertools.accumulate(sizes), strict=True)
        ]

    def _directions(self, operand: Operand, graph: Graph) -> list[Parameter]:
        """What PyTorch has in several tensors and the file in one, in PyTorch's order of gates; nothing for others."""
        layer, origin, gates = self._names.layers[operand.node], operand.origin, operand.node.operator.gates
        assert origin is not None
        whole = self._parameter("", layer, origin.value, graph, operand, None)
        is_bias, count = operand.role == "bias", len(gates) or 1
        if operand.role not in ("weight_ih", "weight_hh", "bias") or origin.permutation != ():
            return []
        axis = 1 if operand.node.operator.weight == "directions_first" or is_bias else len(whole.shape) - 1
        size, rest = divmod(whole.shape[axis], count * (2 if is_bias else 1))
        if len(whole.shape) != (2 if is_bias else 3) or rest or whole.shape[0] > 2:
            return []
        stacked = self._stacked(operand.node)
        turned = (1, 0) if axis == 2 else ()
        kept = tuple(side for place, side in enumerate(whole.shape) if place not in (0, axis))
        found = []
        for direction, half in itertools.product(range(whole.shape[0]), range(2 if is_bias else 1)):
            role = ("bias_ih", "bias_hh")[half] if is_bias else operand.role
            starts = [(half * count + gate) * size for gate in _PYTORCH_GATES.get(gates, range(count))]
            found.append(
                replace(
                    whole,
                    name=self._unique(f"{layer}.{role}{stacked}{'_reverse' * direction}"),
                    role=f"{role}{'_reverse' * direction}",
                    shape=(count * size, *kept),
                    channel_axis=None if is_bias else 0,
                    permutation=turned,
                    cut=Cut(tuple((start, start + size) for start in starts), axis - 1, direction),
                )
            )
        return found

    def _is_of_pytorch(self, node: Node, alias: str) -> bool:
        """Whether PyTorch exported a node: quantizers and optimizers put themselves in its place as the producer."""
        named = alias.startswith("onnx::") or self._names.exporter_scope(node) is not None
        return named or self._model.producer.startswith("pytorch")

    def _parameter(
        self,
        name: str,
        layer: str,
        initializer: str,
        graph: Graph,
        operand: Operand | None,
        record: ParameterRecord | None,
    ) -> Parameter:
        tensor = graph.stored(initializer)
        assert tensor is not None
        encoding = None if operand is None else self._encodings.get(operand)
        stored_shape = tuple(tensor.dims) if encoding is None else encoding.shape
        axis, groups = (None, 1) if operand is None else weight_axis(operand, len(stored_shape))
        permutation: tuple[int, ...] = ()
        if record is not None and record.permutation is not None:
            permutation = record.permutation
            if sorted(permutation) != list(range(len(stored_shape))):
                permutation = ()
        if permutation and axis is not None:
            axis = permutation[axis]
        inverse = np.argsort(permutation) if permutation else range(len(stored_shape))
        role = operand.role if operand is not None else re.split(r"[./]", name)[-1]
        return Parameter(
            name=name,
            layer=layer,
            role=role,
            initializer=initializer,
            folded=record.folded if record is not None else self._is_folded(operand),
            shape=tuple(stored_shape[place] for place in inverse),
            dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name,
            channel_axis=axis,
            groups=groups,
            permutation=permutation,
            graph=graph,
            operand=operand,
            encoding=encoding,
        )

    def _is_parameter(self, operands: Sequence[Operand], graph: Graph) -> bool:
        """Whether a stored tensor without a record is a parameter, not a constant of the computation."""
        origin = operands[0].origin
        assert origin is not None
        tensor = graph.stored(origin.value)
        if tensor is None or tensor.data_type == TensorProto.STRING:
            return False
        if (graph.scope_of(origin.value).path, origin.value) in self._steering:
            return False
        if (graph.scope_of(origin.value).path, origin.value) in self._parts:
            return True
        has_role = any(self._names.owns_weights(operand.node) for operand in operands)
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if kind.kind in "iub" and operands[0] not in self._encodings:
            if origin.dequantized is not None:
                name = f"{self._names.layers[operands[0].node]}.{operands[0].role}"
                self._missing.append((name, "codes that are laid out in another way for their scales, not read"))
                return False
            return any(operand.node.operator.integers for operand in operands)
        packing = next((operand.node for operand in operands if operand.node.operator.is_packed), None)
        if packing is not None:
            name = f"{self._names.layers[operands[0].node]}.{operands[0].role}"
            self._missing.append((name, f"packed for {packing.op_type}, not unpacked"))
            return False
        if has_role:
            return True
        named = origin.value in graph.initializers and not is_anonymous(origin.alias)
        size = int(np.prod(tensor.dims))
        return size > 1 and (named or origin.value in graph.initializers or len(tensor.dims) > 1)

    def _unused(self, used: set[tuple[tuple[Step, ...], str]]) -> Iterator[Parameter]:
        main = self._model.main
        read = set(main.readers) | {value for graph in self._model.graphs.values() for value in graph.readers}
        for name, tensor in main.initializers.items():
            kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).kind
            is_stray = ((), name) not in used and name not in read
            if is_stray and kind not in "iubOUST" and int(np.prod(tensor.dims)) > 1:
                layer = name.rpartition(".")[0] if "/" not in name else ""
                yield self._parameter(self._unique(name), layer, name, main, None, None)

    def _stacked(self, node: Node) -> str:
        """What PyTorch calls each of the recurrent layers that are stacked in one; nothing for other layers."""
        layer = self._names.layers[node]
        stack = [other for other in self._names.weighted if _is_recurrent(other) and self._names.layers[other] == layer]
        stored = (operand.origin.alias for operand in self._names.operands(node) if operand.origin is not None)
        is_named = any(self._is_of_pytorch(node, own_name(alias)) for alias in stored)
        if node not in stack or (len(stack) == 1 and not is_named and not self._model.producer.startswith("pytorch")):
            return ""
        return f"_l{stack.index(node)}"

    def _is_folded(self, operand: Operand | None) -> bool:
        """Whether a weight of a convolution carries a BatchNorm, by the traces that each exporter leaves."""
        if operand is None or not operand.node.operator.takes_norm:
            return False
        origins = [used.origin for used in self._names.operands(operand.node) if used.origin is not None]
        folded = {record.name for record in self._names.records if record.folded}
        if any(own_name(origin.alias) in folded for origin in origins):
            return True  # a convolution's bias carries what its weight does
        producer = self._model.producer
        if producer.startswith("pytorch"):
            if any(_LEGACY_FOLDED.fullmatch(origin.value) for origin in origins):
                return True
            scope = self._names.exporter_scope(operand.node)
            weight = next((origin.alias for origin in origins if origin.alias.endswith(".weight")), None)
            return scope is not None and weight is not None and weight.removesuffix(".weight") != scope
        if producer.startswith("tf2onnx"):
            return any(_TENSORFLOW_FOLDED.search(origin.value) for origin in origins)
        return False

    def _unique(self, name: str) -> str:
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}_{number}", number + 1
        self._taken.add(candidate)
        return candidate


def _is_recurrent(node: Node) -> bool:
    return node.operator.cost == "recurrent"
