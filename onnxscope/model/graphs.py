"""Graphs as stored: nodes in execution order, values, declared types, and the checks that names and order hold."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxscope.base.text import printable
from onnxscope.errors import ModelError
from onnxscope.model.operators import Operator, operator_of

__all__ = [
    "Graph",
    "Node",
    "Step",
    "ValueType",
    "attribute_value",
    "check_graphs",
    "check_text",
    "declared_types",
    "require_text",
    "value_type",
    "walk_graphs",
]


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
        return operator_of(self.op_type)

    @property
    def is_standard(self) -> bool:
        """Whether the operator is one of ONNX's own."""
        return self.domain in ("", "ai.onnx")

    def attribute(self, name: str) -> Any:
        """The attribute's value as onnx reads it, or None where it is missing or of a type that does not exist."""
        return next((attribute_value(stored) for stored in self.proto.attribute if stored.name == name), None)


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

    def stored(self, name: str) -> TensorProto | None:
        """The tensor behind a visible initializer or Constant node's output, or None."""
        graph: Graph | None = self
        while graph is not None:
            if name in graph.initializers:
                return graph.initializers[name]
            node = graph.producers.get(name)
            if node is not None:
                value = node.attribute("value") if node.op_type == "Constant" and node.is_standard else None
                return value if isinstance(value, TensorProto) else None
            graph = graph.parent
        return None


def check_graphs(proto: GraphProto, *, where: str) -> list[Graph]:
    """Describe a graph and every nested one, outer ones first.

    Raises:
        ModelError: A name is missing, empty or repeated, the nodes form a cycle, or an attribute hides a graph.
    """
    graphs: list[Graph] = []
    _Checker(where, graphs).graph(proto, (), (), None)
    graphs.sort(key=lambda graph: len(graph.path))
    by_path = {graph.path: graph for graph in graphs}
    for graph in graphs:
        graph.parent = by_path[graph.path[:-1]] if graph.path else None
    return graphs


def check_text(graph: GraphProto, *, where: str) -> None:
    """Check the names and metadata of a stored graph and every nested one; `Storage` checks those of tensors.

    Raises:
        ModelError: One is not UTF-8.
    """
    for inner in walk_graphs(graph):
        require_text((inner.name, *_metadata(inner)), where=where)
        for node in inner.node:
            require_text((node.name, node.op_type, node.domain, *node.input, *node.output), where=where)
            require_text((attribute.name for attribute in node.attribute), where=where)
            require_text(_metadata(node), where=where)
        values: Iterable[ValueInfoProto] = (*inner.input, *inner.output, *inner.value_info)
        for value in values:
            dims = value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ()
            require_text((value.name, *(dim.dim_param for dim in dims)), where=where)


def require_text(texts: Iterable[str], *, where: str) -> None:
    """Check strings that come from protobuf, which hands over as bytes what is not UTF-8.

    Raises:
        ModelError: One is bytes.
    """
    texts = tuple(texts)
    try:
        "".join(texts)
    except TypeError as error:
        broken: Any = next(text for text in texts if not isinstance(text, str))
        raise ModelError(f"a name that is not UTF-8 ({broken[:60]!r}): {where}") from error


def _metadata(owner: GraphProto | NodeProto) -> Iterator[str]:
    for entry in owner.metadata_props:
        yield entry.key
        yield entry.value


def walk_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a stored graph and every one nested in it."""
    yield graph
    for node in graph.node:
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


class _Checker:
    """Orders the nodes of a graph and its bodies, and refuses names that are missing, repeated or cyclic."""

    def __init__(self, where: str, graphs: list[Graph]) -> None:
        self._where = where
        self._graphs = graphs

    def graph(
        self, proto: GraphProto, outer: tuple[Set[str], ...], path: tuple[Step, ...], owner: Node | None
    ) -> set[str]:
        """Add the graph and its bodies to the list; return the outer values that it reads.

        `outer` holds the names visible in each enclosing graph, innermost first: joining them for every body would
        take quadratic time.
        """
        given = self._given(proto)
        produced: dict[str, int] = {}
        for index, node in enumerate(proto.node):
            for output in node.output:
                if output in produced or output in given:
                    raise ModelError(f"value {printable(output)!r} is produced twice: {self._where}")
                if output:
                    produced[output] = index
        scopes = (given | produced.keys(), *outer)
        visible = scopes[0]
        nodes: list[Node] = []
        borrowed: set[str] = set()
        for index, stored in enumerate(proto.node):
            node = self._node(stored, index, scopes, path)
            for value in (*node.inputs, *node.captured):
                if value and value not in visible and not any(value in scope for scope in outer):
                    reader = printable(node.label)
                    raise ModelError(
                        f"node {reader!r} reads {printable(value)!r}, which nothing produces: {self._where}"
                    )
            borrowed.update(value for value in (*node.inputs, *node.captured) if value and value not in visible)
            nodes.append(node)
        for declared in proto.output:
            if not any(declared.name in scope for scope in scopes):
                raise ModelError(f"output {printable(declared.name)!r} is never produced: {self._where}")
            if declared.name not in visible:
                borrowed.add(declared.name)
        self._graphs.append(Graph(proto, path, self._ordered(nodes, produced), owner))
        return borrowed

    def _given(self, proto: GraphProto) -> set[str]:
        """Names of inputs and initializers; an initializer may stand for an input's default."""
        inputs = [value.name for value in proto.input]
        stored = [tensor.name for tensor in proto.initializer]
        stored += [sparse.values.name for sparse in proto.sparse_initializer]
        for kind, names in (("input", inputs), ("initializer", stored)):
            given = Counter(names)
            if "" in given:
                raise ModelError(f"an {kind} has an empty name: {self._where}")
            if len(given) < len(names):
                repeated = given.most_common(1)[0][0]
                raise ModelError(f"an {kind} has the name of another ({printable(repeated)!r}): {self._where}")
        return {*inputs, *stored}

    def _node(self, proto: NodeProto, index: int, scopes: tuple[Set[str], ...], path: tuple[Step, ...]) -> Node:
        node = Node(
            path, index, proto.name, proto.op_type, proto.domain, tuple(proto.input), tuple(proto.output), (), proto
        )
        captured: dict[str, None] = {}
        seen: set[str] = set()
        for attribute in proto.attribute:
            if attribute.name in seen:
                raise ModelError(f"{self._shown(attribute, node)} is given twice: {self._where}")
            seen.add(attribute.name)
            if attribute.type == AttributeProto.GRAPH:
                inner = (*path, Step(index, attribute.name))
                captured.update(dict.fromkeys(sorted(self.graph(attribute.g, scopes, inner, node))))
            elif attribute.HasField("g") or (attribute.graphs and attribute.type != AttributeProto.GRAPHS):
                # What reads the type first and what reads the field first would see two different models.
                raise ModelError(f"{self._shown(attribute, node)} hides a graph: {self._where}")
        return replace(node, captured=tuple(captured)) if captured else node

    @staticmethod
    def _shown(attribute: AttributeProto, node: Node) -> str:
        return f"attribute {printable(attribute.name)!r} of node {printable(node.label)!r}"

    def _ordered(self, nodes: list[Node], produced: dict[str, int]) -> tuple[Node, ...]:
        """Sort into execution order, keeping the stored order where it already is one (Kahn's algorithm)."""
        waiting: list[set[int]] = []
        followers: dict[int, list[int]] = {}
        in_order = True
        for node in nodes:
            needed = {produced[value] for value in (*node.inputs, *node.captured) if value in produced}
            in_order = in_order and all(index < node.index for index in needed)
            waiting.append(needed)
        if in_order:
            return tuple(nodes)
        for index, needed in enumerate(waiting):
            for source in needed:
                followers.setdefault(source, []).append(index)
        ready = [index for index, needed in enumerate(waiting) if not needed]
        order = []
        while ready:
            index = heapq.heappop(ready)
            order.append(nodes[index])
            for follower in followers.get(index, ()):
                waiting[follower].discard(index)
                if not waiting[follower]:
                    heapq.heappush(ready, follower)
        if len(order) < len(nodes):
            stuck = next(node for node, needed in zip(nodes, waiting, strict=True) if needed)
            raise ModelError(f"the graph has a cycle through node {printable(stuck.label)!r}: {self._where}")
        return tuple(order)
