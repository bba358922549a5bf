"""The weights of one model's layers, read where they lie: by role, with the output channels first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.errors import RunError
from onnxscope.model.encodings import codes_scale, encoding_of
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.layer_names import Operand, Origin
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.numerics.hashes import content_hash
from onnxscope.numerics.sketches import sketch
from onnxscope.runtime.stored_values import read_operand

__all__ = ["NORM", "LayerWeights", "StoredWeight"]

Array = NDArray[Any]
_UNREAD = (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
NORM = "norm."
"""What the roles of an absorbed BatchNorm's weights start with."""


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One weight of a layer.

    Attributes:
        name: The parameter's name.
        values: With the output channels along axis 0; read where they lie.
        stored: numpy's name of the stored element type.
        quantized: Whether `values` are the real numbers behind stored integers, or such integers where nobody knows
            their scale.
        position: Which of its node's operands it is.
        seen: Its shape as the node sees it.
    """

    name: str
    values: Array
    stored: str
    quantized: bool
    position: int
    seen: tuple[int, ...]


class LayerWeights:
    """Reads the weights of the layers of one model."""

    def __init__(self, model: Model, contents: Mapping[str, str | None] | None = None) -> None:
        """Name the parameters; nothing is read yet.

        Args:
            model: Whose layers.
            contents: What `content_hash` says of parameters that were read before, by name.
        """
        self._model = model
        self._contents = contents or {}
        self._named: dict[tuple[Graph, str, str, str], str] = {}  # the role is told of parts of a tensor alone
        self._by_role: dict[tuple[str, str], list[str]] = {}
        self._keys: dict[Layer, str | None] = {}
        self._parts = {part for layer in model.layers for part in layer.parts}
        self._unreadable: set[Operand] = set()
        for parameter in model.parameters:
            operand = parameter.operand
            alias = operand.origin.alias if operand is not None and operand.origin is not None else ""
            part = "" if parameter.cut is None else parameter.role
            self._named[parameter.graph, parameter.initializer, alias, part] = parameter.name
            self._by_role.setdefault((parameter.layer, parameter.role), []).append(parameter.name)

    def read(self, layer: Layer) -> dict[str, StoredWeight]:
        """Return a layer's weights by role; those of an absorbed BatchNorm have roles that start with `norm.`."""
        return {role: weight for role, _, weight in self.entries(layer)}

    def entries(self, layer: Layer) -> list[tuple[str, Node, StoredWeight]]:
        """Return a layer's weights in the order of its nodes: each with its role, which is its own, and its node."""
        found: list[tuple[str, Node, StoredWeight]] = []
        for role, operand in self._operands(layer):
            weight = self._stored(layer, operand, role)
            if weight is not None:
                parts = self._directions(layer, operand, role, weight) or {role: weight}
                found += [(part, operand.node, value) for part, value in parts.items()]
        return found

    def _directions(
        self, layer: Layer, operand: Operand, role: str, weight: StoredWeight
    ) -> dict[str, StoredWeight] | None:
        """The weights of a recurrent layer that lie in one tensor, by direction and use; None for others."""
        is_bias = role == "bias"
        if operand.node.operator.cost != "recurrent" or role not in ("weight_ih", "weight_hh", "bias"):
            return None
        values = weight.values
        if values.ndim != (2 if is_bias else 3) or (is_bias and values.shape[1] % 2):
            return None
        parts = {}
        for direction, rows in enumerate(values):
            for part, half in (
                zip(("bias_ih", "bias_hh"), np.split(rows, 2), strict=True) if is_bias else ((role, rows),)
            ):
                name = f"{part}{'_reverse' * direction}"
                known = self._by_role.get((layer.name, name), ())
                own = self._name(operand.node, operand.origin, name) if operand.origin is not None else ""
                called = own or (known[0] if len(known) == 1 else f"{layer.name}.{name}")
                parts[name] = replace(weight, name=called, values=half, seen=half.shape)
        return parts

    def lists(self, operand: Operand) -> bool:
        """Whether `read` returns an operand among the weights of the layer that its node is part of."""
        if operand.node not in self._parts:
            return False
        origin = operand.origin
        if origin is None or origin.permutation is None or origin.dequantized is not None:
            return self._read(operand) is not None
        tensor = self._model.graphs[operand.node.path].stored(origin.value)
        return tensor is None or tensor.data_type not in _UNREAD

    def content(self, layer: Layer) -> str | None:
        """A digest of a layer's main weight that no permutation of its numbers changes; None where it has none."""
        if layer not in self._keys:
            self._keys[layer] = self._content(layer)
        return self._keys[layer]

    def sketch(self, layer: Layer) -> NDArray[np.float64] | None:
        """What tells whether a layer's main weight is nearly that of another; None where it has none."""
        for role, operand in self._operands(layer):
            weight = self._stored(layer, operand, role) if role == "weight" else None
            if weight is not None:
                return sketch(weight.values)
        return None

    def _content(self, layer: Layer) -> str | None:
        for role, operand in self._operands(layer):
            if role != "weight":
                continue
            origin = operand.origin
            name = "" if origin is None else self._name(operand.node, origin)
            if name in self._contents:
                return self._contents[name]
            weight = self._stored(layer, operand, role)
            if weight is not None:
                return content_hash(weight.values)
        return None

    def _operands(self, layer: Layer) -> Iterator[tuple[str, Operand]]:
        counts: Counter[str] = Counter()
        graph = self._model.graphs[layer.path]
        operands = [operand for node in layer.parts for operand in self._model.names.operands(node)]
        encodings = [encoding_of(graph, operand) for operand in operands]
        scaling = {value for encoding in encodings if encoding is not None for value in encoding.values}
        for operand in operands:
            if operand.node.inputs[operand.position] not in scaling:
                role = _role(layer, operand)
                counts[role] += 1
                yield role if counts[role] == 1 else f"{role} {counts[role]}", operand

    def _stored(self, layer: Layer, operand: Operand, role: str) -> StoredWeight | None:
        origin = operand.origin
        values = self._read(operand)
        if values is None:
            return None
        name = f"{layer.name}.{role}"
        graph = self._model.graphs[operand.node.path]
        quantized = encoding_of(graph, operand) is not None
        quantized = quantized or codes_scale(graph, operand.node.inputs[operand.position]) is not None
        stored = values.dtype.name
        if origin is not None:
            name = self._name(operand.node, origin) or name
            quantized = quantized or origin.dequantized is not None
            tensor = graph.stored(origin.value)
            if tensor is not None:
                stored = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        return StoredWeight(
            name=name,
            values=_outputs_first(operand, values),
            stored=stored,
            quantized=quantized,
            position=operand.position,
            seen=values.shape,
        )

    def _read(self, operand: Operand) -> Array | None:
        """A constant operand as its node sees it, None where it is no numbers or cannot be computed."""
        if operand in self._unreadable:
            return None
        try:
            values = read_operand(self._model, operand)
        except RunError:
            self._unreadable.add(operand)  # it is computed in a way that onnxruntime does not know
            return None
        return None if values.dtype.kind in "OUSc" else values

    def _name(self, node: Node, origin: Origin, part: str = "") -> str:
        """The name of a parameter, of several in one tensor that of a role; empty where what a node uses is none."""
        graph = self._model.graphs[node.path].scope_of(origin.value)
        return self._named.get((graph, origin.value, origin.alias, part), "")


def _role(layer: Layer, operand: Operand) -> str:
    if operand.node is layer.node:
        return operand.role
    if operand.node is layer.norm:
        return NORM + operand.role
    if operand.node.operator.kind == "Add" and layer.node.operator.cost in ("convolution", "product"):
        return "bias"
    return f"{operand.node.operator.kind.lower()}.{operand.role}"


def _outputs_first(operand: Operand, values: Array) -> Array:
    """The same numbers with the output channels along axis 0."""
    node = operand.node
    if operand.role == "bias" and values.ndim > 1 and values.size == max(values.shape):
        return values.reshape(-1)
    if not operand.role.startswith("weight") or values.ndim < 2:
        return values
    lies = node.operator.weight
    if lies == "grouped":
        groups = int(node.attribute("group") or 1)
        if values.shape[0] % groups:
            return values
        split = values.reshape(groups, values.shape[0] // groups, *values.shape[1:])
        return split.swapaxes(1, 2).reshape(groups * values.shape[1], -1, *values.shape[2:])
    if lies == "gemm":
        transposed = bool(node.attribute("transA" if operand.position == 0 else "transB"))
        return values if transposed == (operand.position != 0) else np.moveaxis(values, -1, 0)
    if lies == "matmul" and operand.position != 0:
        return np.moveaxis(values, -1, 0)
    if lies == "directions_last":
        return values.swapaxes(1, -1)
    return values
