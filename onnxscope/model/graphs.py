"""Graphs as stored: nodes in execution order, the values between them, and what is declared of these."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxscope.operators.operator import Operator
from onnxscope.operators.table import BLOCKED_DOMAIN, operator_of

__all__ = [
    "Graph",
    "Node",
    "Step",
    "ValueType",
    "attribute_value",
    "declared_types",
    "graphs_of",
    "value_type",
    "walk_graphs",
]

_MOST_COMPARED = 64  # elements of a constant that is told by its numbers
_OWN_EACH_TIME = frozenset({"Dropout", "BatchNormalization", "Constant"})  # some are random or carry state


@dataclass(frozen=True)
class ValueType:
    """What the model declares about a value.

    Attributes:
        dtype: numpy's name of the element type, `str` for strings, None for sequences, maps and optionals.
        shape: Dimensions; a string is a symbolic one, None an unknown one. None altogether for an unknown rank.
        elem_type: ONNX's number of the element type (`TensorProto.FLOAT`), 0 where there is none.
        kind: `tensor`, `sequence`, `map`, `optional` or `sparse_tensor`.
    """

    dtype: str | None
    shape: tuple[int | str | None, ...] | None
    elem_type: int
    kind: str


@dataclass(frozen=True)
class Step:
    """One step down into a nested body: the node that owns it, and the attribute that holds it."""

    node_index: int
    attribute: str


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operation in the graph.

    Attributes:
        path: The steps that lead to its graph, empty in the main graph.
        index: Its place in the stored graph's list of nodes.
        name: As stored; may be empty or repeated.
        op_type: The operator, such as `Conv`.
        domain: The operator's domain, empty for ONNX's own.
        inputs: Names of the values it reads; an omitted optional input is empty.
        outputs: Names of the values it produces; an omitted one is empty.
        captured: Names from the enclosing graph that its bodies (If, Loop, Scan) read.
        proto: The stored node; not to be changed.
    """

    path: tuple[Step, ...]
    index: int
    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]
    proto: NodeProto

    @property
    def label(self) -> str:
        """The node's name, or its operator and first output where it has none."""
        return self.name or f"{self.op_type}({next(filter(None, self.outputs), self.index)})"

    @property
    def operator(self) -> Operator:
        """What is known of its operator."""
        if not self.domain:
            return operator_of(self.op_type)
        return operator_of(self.op_type, self.domain, channels_last=self.attribute("channels_last") == 1)

    @property
    def is_standard(self) -> bool:
        """Whether the operator is one of ONNX's own."""
        return self.domain in ("", "ai.onnx")

    def attribute(self, name: str) -> Any:
        """The attribute's value as onnx reads it, or None where it is missing or of a type that does not exist."""
        return next((attribute_value(stored) for stored in self.proto.attribute if stored.name == name), None)

    def axis_order(self, rank: int | None) -> list[int] | None:
        """The axes of what a Transpose reads, in the order in which it gives them: the other way round by default.

        Args:
            rank: How many axes there are, None where that is not known.

        Returns:
            None where nothing tells it, and where what is told is no order of all axes.
        """
        order = self.attribute("perm")
        if order is None:
            return None if rank is None else list(range(rank))[::-1]
        axes = [int(axis) for axis in order]
        return axes if sorted(axes) == list(range(len(axes) if rank is None else rank)) else None


def attribute_value(attribute: AttributeProto) -> Any:
    """Return an attribute's value as onnx reads it, or None where its type does not exist."""
    try:
        return onnx.helper.get_attribute_value(attribute)
    except ValueError:
        return None


class Graph:
    """The main graph, or a graph inside an If, a Loop or a Scan. Read-only.

    Attributes:
        path: The steps that lead to it from the main graph, outermost first; empty for the main graph.
        owner: Label of the innermost owning node, empty for the main graph.
        owner_op: That node's operator.
        nodes: In execution order.
        initializers: What it stores, by name.
        inputs: Names of its declared inputs.
        outputs: Names of its declared outputs.
        types: What it declares about its values, initializers included.
        parent: The enclosing graph, None for the main graph.
    """

    def __init__(self, proto: GraphProto, path: tuple[Step, ...], nodes: tuple[Node, ...], owner: Node | None) -> None:
        """Describe a checked graph whose nodes are in execution order."""
        self.path = path
        self.owner = owner.label if owner else ""
        self.owner_op = owner.op_type if owner else ""
        self.nodes = nodes
        self.initializers: Mapping[str, TensorProto] = {tensor.name: tensor for tensor in proto.initializer}
        self.inputs = tuple(value.name for value in proto.input)
        self.outputs = tuple(value.name for value in proto.output)
        self.types: Mapping[str, ValueType] = MappingProxyType(declared_types(proto))
        self.parent: Graph | None = None

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that produces a value."""
        return MappingProxyType({output: node for node in self.nodes for output in node.outputs if output})

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that read a value, in execution order, each once; a node also reads what its bodies capture."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys((*node.inputs, *node.captured)):
                if value:
                    readers.setdefault(value, []).append(node)
        return MappingProxyType({value: tuple(nodes) for value, nodes in readers.items()})

    @cached_property
    def repeated(self) -> Mapping[str, str]:
        """Values that a node computes again, from the same by the same, and what the first such node calls them."""
        first: dict[Hashable, Node] = {}
        same: dict[str, str] = {}
        for node in self.nodes:
            key = self._computation(node, same)
            earlier = node if key is None else first.setdefault(key, node)
            if earlier is not node:
                same.update((again, name) for again, name in zip(node.outputs, earlier.outputs, strict=True) if again)
        return MappingProxyType(same)

    def inputs_of(self, node: Node) -> tuple[str, ...]:
        """What a node reads, by the name that each value has where it is first computed."""
        return tuple(self.repeated.get(name, name) for name in node.inputs)

    def names_of(self, value: str) -> tuple[str, ...]:
        """The names of a value that may be computed several times: the one given, and where it is computed again."""
        return (value, *self._again.get(value, ()))

    @cached_property
    def _again(self) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = {}
        for again, first in self.repeated.items():
            names.setdefault(first, []).append(again)
        return names

    def readers_of(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value, also where it is computed again, without those that repeat another's work."""
        found = {node for name in self.names_of(value) for node in self.readers.get(name, ())}
        return tuple(sorted((node for node in found if not self.repeats(node)), key=self.position))

    def decoder_of(self, value: str) -> Node | None:
        """The first node that makes real numbers of the codes that a value holds, None where none does."""
        readers = self.readers_of(value)
        return next(
            (node for node in readers if node.operator.passes_on == "dequantized" and self.inputs_of(node)[0] == value),
            None,
        )

    def repeats(self, node: Node) -> bool:
        """Whether a node only computes again what one before it has computed."""
        return any(output in self.repeated for output in node.outputs)

    def _computation(self, node: Node, same: Mapping[str, str]) -> Hashable | None:
        """What tells a node's work from any other; None where doing it twice may give two results, or is not known."""
        attributes = node.proto.attribute
        if node.operator.is_random or node.op_type in _OWN_EACH_TIME or not node.inputs:
            return None
        if node.domain not in ("", "ai.onnx", "com.microsoft") or any(
            stored.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for stored in attributes
        ):
            return None
        written = sorted(stored.SerializeToString(deterministic=True) for stored in attributes)
        read = tuple(self.small_constant(name) or same.get(name, name) for name in node.inputs)
        outputs = tuple(bool(name) for name in node.outputs)  # with a mask a node does more than without
        return node.domain, node.op_type, read, tuple(written), outputs

    def small_constant(self, name: str) -> Hashable | None:
        """The numbers of a small stored constant, None for others: exporters store one for each reader."""
        tensor = self.stored(name) if name else None
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.STRING:
            return None
        if name in self.inputs or math.prod(tensor.dims) > _MOST_COMPARED:
            return None
        return tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()

    @cached_property
    def needed(self) -> frozenset[str]:
        """Values that its outputs depend on, those of enclosing graphs included."""
        needed = set(self.outputs)
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update((*filter(None, node.inputs), *node.captured))
        return frozenset(needed)

    @cached_property
    def blocked(self) -> frozenset[str]:
        """Values whose channels lie in blocks, in an order of onnxruntime's own, whatever shape they declare."""
        blocked: set[str] = set()
        for node in self.nodes:
            reorders = node.domain == BLOCKED_DOMAIN
            if node.op_type != "ReorderOutput" if reorders else not blocked.isdisjoint(node.inputs):
                blocked.update(filter(None, node.outputs))
        return frozenset(blocked)

    @cached_property
    def _positions(self) -> Mapping[Node, int]:
        return {node: position for position, node in enumerate(self.nodes)}

    def position(self, node: Node) -> int:
        """The node's place in execution order."""
        return self._positions[node]

    @cached_property
    def constants(self) -> frozenset[str]:
        """Visible values that do not depend on any input: initializers and what is computed from them."""
        inherited = self.parent.constants if self.parent else frozenset()
        fed = set(self.inputs) - (set() if self.parent else set(self.initializers))
        known = (set(inherited) | set(self.initializers)) - fed
        for node in self.nodes:
            if not node.operator.is_random and all(
                value in known for value in (*filter(None, node.inputs), *node.captured)
            ):
                known.update(filter(None, node.outputs))
        return frozenset(known)

    def scope_of(self, name: str) -> Graph:
        """The graph, this or one around it, that stores or produces a visible value; the main graph where none does."""
        graph = self
        while name not in graph.initializers and name not in graph.producers and graph.parent:
            graph = graph.parent
        return graph

    def behind(self, values: Iterable[str]) -> dict[str, Graph]:
        """All that visible values are computed from, themselves included, and the graph whose each one is.

        Names are told apart along a path, so that all of it may stand in one graph.
        """
        found: dict[str, Graph] = {}
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if value and value not in found:
                scope = found[value] = self.scope_of(value)
                if value in scope.producers:
                    waiting += (*scope.producers[value].inputs, *scope.producers[value].captured)
        return found

    def leaving(self, nodes: Iterable[Node]) -> list[str]:
        """Values that leave some of its nodes: produced there, and read elsewhere or declared as outputs.

        They are in execution order, as the nodes are; constants are left out.
        """
        inside = dict.fromkeys(nodes)
        return [
            output
            for node in inside
            for output in node.outputs
            if output and output not in self.constants
            if output in self.outputs or any(reader not in inside for reader in self.readers.get(output, ()))
        ]

    @cached_property
    def index_values(self) -> frozenset[str]:
        """Values whose numbers say places: index outputs of operators, and what hands these on."""
        places: set[str] = set()
        for node in self.nodes:
            if not node.is_standard:
                continue
            outputs = {node.outputs[place] for place in node.operator.index_outputs if place < len(node.outputs)}
            if node.operator.passes_on is not None and node.inputs[:1] and node.inputs[0] in places:
                outputs |= set(node.outputs[:1])
            places |= outputs - {""}
        return frozenset(places)

    def stored(self, name: str) -> TensorProto | None:
        """The tensor behind a visible initializer or Constant node's output, or None."""
        graph = self.scope_of(name)
        if name in graph.initializers:
            return graph.initializers[name]
        node = graph.producers.get(name)
        value = node.attribute("value") if node and node.op_type == "Constant" and node.is_standard else None
        return value if isinstance(value, TensorProto) else None


def graphs_of(proto: ModelProto) -> list[GraphProto]:
    """Return the main graph of a stored model, and every one nested in it or in a local function."""
    return [*walk_graphs(proto.graph), *(body for function in proto.functions for body in _bodies(function.node))]


def walk_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a stored graph and every one nested in it."""
    yield graph
    yield from _bodies(graph.node)


def _bodies(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from walk_graphs(attribute.g)
            for inner in attribute.graphs:
                yield from walk_graphs(inner)


def declared_types(graph: GraphProto) -> dict[str, ValueType]:
    """Return what a stored graph declares about its values, initializers included."""
    types = {tensor.name: _tensor_type(tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    values: Iterable[ValueInfoProto] = (*graph.value_info, *graph.input, *graph.output)
    for value in values:
        if value.type.WhichOneof("value"):
            types.setdefault(value.name, value_type(value.type))
    return types


def value_type(declared: TypeProto) -> ValueType:
    """Return a stored type in our terms."""
    kind = (declared.WhichOneof("value") or "tensor_type").removesuffix("_type")
    if kind != "tensor":
        return ValueType(None, None, 0, kind)
    tensor = declared.tensor_type
    shape: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else _symbol(dim.dim_param) for dim in tensor.shape.dim
        )
    return _tensor_type(tensor.elem_type, shape)


def _symbol(name: str) -> str | None:
    """A symbolic dimension's name; one that tf2onnx or shape inference made up says nothing."""
    return None if not name or name.startswith("unk__") else name


def _tensor_type(elem_type: int, shape: tuple[int | str | None, ...] | None) -> ValueType:
    if elem_type == TensorProto.STRING:
        return ValueType("str", shape, elem_type, "tensor")
    if not elem_type or elem_type not in TensorProto.DataType.values():
        return ValueType(None, shape, 0, "tensor")
    return ValueType(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name, shape, elem_type, "tensor")
