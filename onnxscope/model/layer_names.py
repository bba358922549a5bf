"""Layers, modules and parameters, as the source framework called them.

People look for `layer1.0.conv1`, not `/layer1/layer1.0/conv1/Conv_output_0`. The layer of a node is taken from, in
this order: what our converter recorded (on the node, or for the weight that it uses), the scope that PyTorch's dynamo
exporter writes into the node's metadata, the scope in a node name written by PyTorch's legacy exporter or by tf2onnx,
the node's name, its operator and index.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnx import TensorProto

from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.provenance import LAYER_KEY, ParameterRecord
from onnxscope.model.stored_model import StoredModel

__all__ = ["Names", "Operand", "Origin", "are_apart", "is_anonymous", "operand_roles", "own_name"]

_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_ANONYMOUS = re.compile(r"onnx::.*|\d+|_?val_\d+|_?t?const[_a-z]*_?_\d+.*|.*:\d+|", re.IGNORECASE)
_COUNTED = re.compile(r"_\d+\Z")
_SEPARATOR = re.compile(r"[./]")
# What quantizers and converters to half precision append to the names of nodes and tensors.
_ADDED = re.compile(
    r"((_MatMul)?_quant(ized)?|_QuantizeLinear(_Input|_Output)?|_(DQ_)?Q\d+(G\d+)?|_b?fp?16|(?-i:_Transposed(_\d+)?))+\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Origin:
    """The stored tensor that a constant operand comes from.

    Attributes:
        value: The initializer, or the output of the Constant node, that stores it.
        alias: The name nearest to the user that is only an Identity away from the operand's own.
        permutation: `operand = stored.transpose(permutation)`; empty where the axes are the same, None where the shape
            changed on the way.
        dequantized: The output of the DequantizeLinear passed on the way, or None.
    """

    value: str
    alias: str
    permutation: tuple[int, ...] | None
    dequantized: str | None


@dataclass(frozen=True)
class Operand:
    """A constant operand of a node.

    Attributes:
        node: Who uses it.
        position: Which of the node's inputs it is.
        role: `weight`, `bias`, `running_mean`, …, or `constant` for operators without a fixed meaning.
        origin: Where it is stored; None where nodes compute it from no stored tensor.
    """

    node: Node
    position: int
    role: str
    origin: Origin | None


def is_anonymous(name: str) -> bool:
    """Whether an exporter made the name up: `onnx::Conv_345`, `val_3`, `conv2d/ReadVariableOp:0`."""
    return _ANONYMOUS.fullmatch(name) is not None


def own_name(name: str) -> str:
    """The name without what a quantizer, or a converter to half precision, has appended to it."""
    return _ADDED.sub("", name) or name


def are_apart(left: str, right: str) -> bool:
    """Whether neither of two scopes is the other or holds it: a module may use its children's weights itself."""
    return not f"{left}.".startswith(f"{right}.") and not f"{right}.".startswith(f"{left}.")


def operand_roles(node: Node) -> Iterator[tuple[int, str]]:
    """Yield position and role of each operand of a node that could be a parameter."""
    operator = node.operator
    for position, value in enumerate(node.inputs):
        if value and position not in operator.control:
            yield position, operator.roles.get(position, operator.other_role)


class Names:
    """The layers and modules of one model.

    Attributes:
        graphs: The model's graphs by path.
        main: The main graph.
        records: What the converter recorded of the parameters.
    """

    def __init__(self, model: StoredModel) -> None:
        """Describe `model`; most answers are worked out when they are first asked for."""
        # The model keeps its names: were it kept here too, its memory map would stay until a garbage collection.
        self.graphs = model.graphs
        self.main = model.main
        self._producer = model.producer
        provenance = model.provenance
        self.records: Sequence[ParameterRecord] = provenance.parameters if provenance else ()
        self._by_name = {record.name: record for record in self.records}
        self._by_initializer: dict[str, list[ParameterRecord]] = {}
        for record in self.records:
            if record.initializer is not None:
                self._by_initializer.setdefault(record.initializer, []).append(record)
        self._operands: dict[Node, tuple[Operand, ...]] = {}

    @cached_property
    def layers(self) -> Mapping[Node, str]:
        """The layer of every node of every graph; several nodes may share one."""
        nodes = [node for graph in self.graphs.values() for node in graph.nodes]
        scopes = self._tensorflow_scopes(nodes)
        counts: dict[str, int] = {}
        layers = {}
        for node in nodes:
            index = counts[node.op_type] = counts.get(node.op_type, -1) + 1
            layer = self._recorded_layer(node) or _dynamo_scope(node) or scopes.get(node) or _scope_of(node)
            layers[node] = layer or node.name or f"{node.op_type}_{index}"
        return layers

    @cached_property
    def modules(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes of the main graph within each scope, single layers included, in execution order."""
        modules: dict[str, list[Node]] = {}
        for node in self.main.nodes:
            layer = self.layers[node]
            ends = [] if layer == node.name else [match.start() for match in _SEPARATOR.finditer(layer)]
            for end in (*ends, len(layer)):
                modules.setdefault(layer[:end], []).append(node)
        return {scope: tuple(nodes) for scope, nodes in modules.items()}

    @cached_property
    def weighted(self) -> tuple[Node, ...]:
        """The nodes that own weights or learned attributes, those of bodies too, in the order of graphs and nodes."""
        nodes = (node for graph in self.graphs.values() for node in graph.nodes)
        return tuple(node for node in nodes if node.operator.holds or self.owns_weights(node))

    def is_module(self, scope: str) -> bool:
        """Whether a scope holds other layers, rather than being one."""
        return any(self.layers[node] != scope for node in self.modules.get(scope, ()))

    def operands(self, node: Node) -> tuple[Operand, ...]:
        """The constant operands of a node, and what they are to it."""
        if node not in self._operands:
            self._operands[node] = tuple(self._find_operands(node))
        return self._operands[node]

    def owns_weights(self, node: Node) -> bool:
        """Whether a node is a layer: an operator with a weight of its own, stored or computed from stored ones.

        What computes a shape from a shape, as a Gather of sides does that are stored or a stored tensor's, is none.
        """
        owned = [operand for operand in self.operands(node) if operand.role.startswith(("weight", "running"))]
        if not node.operator.roles or not owned:
            return False
        graph = self.graphs[node.path]
        if any(value not in graph.constants for value in node.inputs if value):
            return True
        stored = [graph.stored(operand.origin.value) for operand in owned if operand.origin is not None]
        return any(tensor is None or tensor.data_type != TensorProto.INT64 for tensor in stored)

    def value(self, graph: Graph, value: str) -> str:
        """What tells a value of a graph from every other: its name, led by its body's where graphs share that name."""
        if not graph.path or value not in self._shared_names:
            return value
        return f"{self._body_names[graph.path]}/{value}"

    def leaving(self, scope: str) -> list[str]:
        """Values of the main graph that leave a scope, in execution order; see `Graph.leaving`."""
        return self.main.leaving(self.modules.get(scope, ()))

    def origin(self, graph: Graph, value: str) -> Origin | None:
        """Trace a constant value back to the tensor that stores it, through layout, casts and quantization.

        What an Identity hands on is called as it is behind that: exporters store once what has several names.
        """
        alias, dequantized, is_named = value, None, False
        turns: list[Node] | None = []
        while graph.stored(value) is None:
            node = graph.scope_of(value).producers.get(value)
            passed_on = None if node is None else node.operator.passes_on
            if node is not None and dequantized is not None and node.op_type == "QuantizeLinear":
                passed_on = "dequantized"  # the other way, to what the codes were made of
            if node is None or passed_on is None:
                return None
            if passed_on == "dequantized":
                dequantized = dequantized or value
            elif passed_on == "permuted":
                if turns is not None:
                    turns.append(node)
            elif passed_on == "reshaped":
                turns = None
            is_named = is_named or (passed_on == "same" and not alias.startswith("/") and not is_anonymous(alias))
            value = node.inputs[0]
            if not is_named:
                alias = value
        stored = graph.stored(value)
        return Origin(value, alias, _compose(turns, len(stored.dims)) if stored else None, dequantized)

    def exporter_scope(self, node: Node) -> str | None:
        """The scope that PyTorch's dynamo exporter recorded for a node, or None."""
        return _dynamo_scope(node)

    def record(self, origin: Origin) -> ParameterRecord | None:
        """What the converter recorded of the parameter stored at `origin`; None where several share it."""
        if origin.alias in self._by_name:
            return self._by_name[origin.alias]
        shared = self._by_initializer.get(origin.value, ())
        return shared[0] if len(shared) == 1 else None

    @cached_property
    def _recorded_layers(self) -> frozenset[str]:
        return frozenset(record.layer for record in self.records)

    @cached_property
    def _body_names(self) -> Mapping[tuple[Step, ...], str]:
        """What tells a body from every other: owner and attribute, with the way there where owners share a name."""
        bodies = [graph for graph in self.graphs.values() if graph.path]
        names = {graph.path: f"{graph.owner}/{graph.path[-1].attribute}" for graph in bodies}
        counts = Counter(names.values())
        for path, name in names.items():
            if counts[name] > 1:
                names[path] = f"{name}@{'.'.join(str(step.node_index) for step in path)}"
        return names

    @cached_property
    def _shared_names(self) -> frozenset[str]:
        """Names that more than one graph gives to a value: sibling bodies may repeat each other's."""
        counts = Counter(
            name for graph in self.graphs.values() for name in {*graph.producers, *graph.initializers, *graph.inputs}
        )
        return frozenset(name for name, count in counts.items() if count > 1)

    def _find_operands(self, node: Node) -> Iterator[Operand]:
        graph = self.graphs[node.path]
        if _hands_on(graph, node) and all(value in graph.constants for value in filter(None, node.inputs)):
            return
        for position, role in operand_roles(node):
            value = node.inputs[position]
            if value in graph.constants:
                yield Operand(node, position, role, self.origin(graph, value))

    def _recorded_layer(self, node: Node) -> str | None:
        for entry in node.proto.metadata_props:
            if entry.key == LAYER_KEY and entry.value:
                return str(entry.value)
        if not node.operator.roles:
            return None
        # A weight's own name is more faithful than a scope: dynamo puts a Conv with a folded BatchNorm into the
        # BatchNorm's scope, though its weight is still called conv1.weight. Nothing is folded into other layers, and
        # dynamo stores what several share, or what is alike in several, under the name of one of them.
        scope = None if node.operator.takes_norm else _dynamo_scope(node)
        for operand in self.operands(node):
            if operand.role.startswith("weight") and operand.origin is not None:
                record = self.record(operand.origin)
                if record is not None:
                    return scope if scope in self._recorded_layers else record.layer
                name = own_name(operand.origin.alias)
                if name.endswith(".weight") and not is_anonymous(name):
                    layer = name.removesuffix(".weight")
                    scope = scope or self._scope_of_shared(node, operand.origin, layer)
                    return scope if scope is not None and are_apart(scope, layer) else layer
        return None

    def _scope_of_shared(self, node: Node, origin: Origin, layer: str) -> str | None:
        """The scope of a layer that uses a weight which is stored once for several layers, under the name of one.

        None for the layer of that name, and where all that use the weight may be one layer, which is called again as
        `fc_1`. Optimizers leave out the Identity nodes that would tell the names apart.
        """
        sharing = self._sharing.get((origin.value, origin.alias), ())
        scopes = {_scope_left(one) for one in sharing}
        if len({_COUNTED.sub("", scope) for scope in scopes if scope}) < 2:
            return None
        own = _scope_left(node)
        return None if own is None or f".{layer}".endswith(f".{own}") else own

    @cached_property
    def _sharing(self) -> Mapping[tuple[str, str], Sequence[Node]]:
        """The layers that use a stored weight under one name."""
        sharing: dict[tuple[str, str], list[Node]] = {}
        for graph in self.graphs.values():
            for node in graph.nodes:
                for operand in self.operands(node) if node.operator.roles else ():
                    if operand.role.startswith("weight") and operand.origin is not None:
                        sharing.setdefault((operand.origin.value, operand.origin.alias), []).append(node)
        return sharing

    def _tensorflow_scopes(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """Scopes of a model written by tf2onnx, without the scope that the whole model shares."""
        if not self._producer.startswith("tf2onnx"):
            return {}
        paths = {}
        for node in nodes:
            parts = [part for part in node.name.split("/") if part]
            if parts and parts[0] in ("StatefulPartitionedCall", "PartitionedCall"):
                parts = parts[1:]
            if len(parts) > 1:
                paths[node] = parts[:-1]
        while paths and len({parts[0] if parts else "" for parts in paths.values()}) == 1 and any(paths.values()):
            if max(map(len, paths.values())) == 1:
                break
            paths = {node: parts[1:] for node, parts in paths.items()}
        return {node: "/".join(parts) for node, parts in paths.items() if parts}


def _hands_on(graph: Graph, node: Node) -> bool:
    """Whether a node only hands a weight on, or rounds it to codes that are made real numbers again."""
    if node.op_type != "QuantizeLinear":
        return node.operator.passes_on is not None
    readers = graph.readers_of(node.outputs[0])
    return bool(readers) and all(reader.operator.passes_on == "dequantized" for reader in readers)


def _dynamo_scope(node: Node) -> str | None:
    for entry in node.proto.metadata_props:
        if entry.key == _NAME_SCOPES:
            scopes = [first or second for first, second in _QUOTED.findall(entry.value)]
            return scopes[-2] if len(scopes) > 1 else None
    return None


def _scope_of(node: Node) -> str | None:
    """The scope in a node's name; where an optimizer has fused several, that in what their output is still called."""
    scope = _legacy_scope(node.name)
    return _legacy_scope(node.outputs[0]) if scope is None and node.operator.packs else scope


def _scope_left(node: Node) -> str | None:
    """The scope in a node's name, else that in what its output is still called."""
    return _legacy_scope(node.name) or _legacy_scope(node.outputs[0])


def _legacy_scope(name: str) -> str | None:
    """`/layer1/layer1.0/conv1/Conv` → `layer1.0.conv1`: a child of a container repeats the container's name."""
    if not name.startswith("/"):
        return None
    layer: list[str] = []
    for part in name.split("/")[1:-1]:
        if layer and part.startswith(layer[-1] + "."):
            layer[-1] = part
        else:
            layer.append(part)
    return ".".join(filter(None, layer)) or None


def _compose(turns: list[Node] | None, rank: int) -> tuple[int, ...] | None:
    """One permutation for several Transposes; None where it is unknown, empty where there is none.

    Args:
        turns: Nearest to the operand first.
        rank: Of what they turn.
    """
    if turns is None:
        return None
    result: tuple[int, ...] = ()
    for turn in turns:
        order = turn.axis_order(rank)
        if order is None:
            return None
        result = tuple(order[axis] for axis in result) if result else tuple(order)
    return result
