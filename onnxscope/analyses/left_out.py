"""The numbers that a model holds and that are no parameters: what `weights` does not list, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, GraphProto, SparseTensorProto

from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import Model

__all__ = ["LeftOut", "left_out"]


@dataclass(frozen=True)
class LeftOut:
    """Numbers that lie together and are no parameter.

    Attributes:
        name: Of the tensor, or of the node behind whose attribute they are.
        body: The node whose body holds them, empty in the main graph.
        size: How many there are; a sparse tensor counts as the dense one that it stands for.
        reason: Why they are not listed.
    """

    name: str
    body: str
    size: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The row in `onnxscope.weights/1`."""
        return {"name": self.name, "body": self.body, "size": self.size, "reason": self.reason}


def left_out(model: Model) -> tuple[LeftOut, ...]:
    """Return what a model holds in tensors and in lists of floats beside its parameters, graph by graph.

    Calls of local functions count as often as they are made.
    """
    listed = {(parameter.graph.path, parameter.initializer) for parameter in model.parameters}
    readers = _readers(model)
    rest = [
        _tensor(graph, name, math.prod(tensor.dims), readers)
        for graph in model.graphs.values()
        for name, tensor in graph.initializers.items()
        if (graph.path, name) not in listed
    ]
    rest += _sparse(model.main, model.proto.graph, readers)
    for graph in model.graphs.values():
        for node in graph.nodes:
            for attribute in node.proto.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    inner = model.graphs[(*graph.path, Step(node.index, attribute.name))]
                    rest += _sparse(inner, attribute.g, readers)
                size = sum(_sizes(attribute))
                if node.op_type == "Constant" and node.is_standard:
                    if (graph.path, node.outputs[0]) not in listed:
                        rest.append(_tensor(graph, node.outputs[0], size, readers))
                elif size:
                    word = node.operator.holds.get(attribute.name, attribute.name)
                    reason = "in" if word == attribute.name else f"{word}, in"
                    rest.append(LeftOut(node.label, graph.owner, size, f"{reason} the attribute {attribute.name}"))
    return tuple(rest)


_Readers = dict[tuple[tuple[Step, ...], str], Node]


def _readers(model: Model) -> _Readers:
    """The first reader of every value, by the graph that holds the value."""
    readers: _Readers = {}
    for graph in model.graphs.values():
        for node in graph.nodes:
            for name in filter(None, node.inputs):
                readers.setdefault((graph.scope_of(name).path, name), node)
    return readers


def _tensor(graph: Graph, name: str, size: int, readers: _Readers) -> LeftOut:
    reader = readers.get((graph.path, name))
    reason = "nothing reads it" if reader is None else f"a constant that {reader.op_type} reads"
    if reader is None and name in graph.outputs:
        reason = "an output"
    return LeftOut(name, graph.owner, size, reason)


def _sparse(graph: Graph, proto: GraphProto, readers: _Readers) -> Iterable[LeftOut]:
    """What stays sparse, since it would take too much otherwise."""
    for sparse in proto.sparse_initializer:
        yield _tensor(graph, sparse.values.name, math.prod(sparse.dims), readers)


def _sizes(attribute: AttributeProto) -> Iterator[int]:
    tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    sparse: list[SparseTensorProto] = [*attribute.sparse_tensors]
    sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    yield from (math.prod(tensor.dims) for tensor in (*tensors, *sparse))
    yield len(attribute.floats)
