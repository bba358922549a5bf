"""Append nodes to a graph, in the spelling that its operator set asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from onnxscope.model.graphs import walk_graphs

__all__ = ["HALF_TYPES", "INTEGER_TYPES", "MIN_ROW", "GraphWriter", "declare_type", "opset_of", "with_unique_names"]

HALF_TYPES = frozenset({"float16", "bfloat16"})
INTEGER_TYPES = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})
"""numpy's names of the element types that a CPU seldom computes in."""

MIN_ROW = 32
"""Shorter rows are reduced faster together with the rest."""

_AXES_AS_INPUT = {"ReduceSum": 13, "ReduceMin": 18, "ReduceMax": 18, "ReduceSumSquare": 18, "Squeeze": 13}


def opset_of(proto: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)


def with_unique_names(proto: ModelProto) -> ModelProto:
    """Return a model in which no two nodes of one graph share a name: itself, or a copy with new names for the later.

    A name of a node means nothing to the result, but onnxruntime refuses a graph that has one twice.
    """
    if not any(_repeats_names(graph) for graph in walk_graphs(proto.graph)):
        return proto
    copy = ModelProto()
    copy.CopyFrom(proto)
    for graph in walk_graphs(copy.graph):
        taken = {node.name for node in graph.node}
        numbers: dict[str, int] = {}
        for node in graph.node:
            name = node.name
            if not name or name not in numbers:
                numbers[name] = 2
                continue
            while node.name in taken:
                node.name = f"{name}_{numbers[name]}"
                numbers[name] += 1
            taken.add(node.name)
    return copy


def _repeats_names(graph: GraphProto) -> bool:
    names = [node.name for node in graph.node if node.name]
    return len(set(names)) < len(names)


class GraphWriter:
    """Appends to the graph of a model that the caller owns, under names that the model does not use."""

    def __init__(self, proto: ModelProto, prefix: str) -> None:
        """Append nothing yet; no name of the model may start with `prefix`."""
        self._graph = proto.graph
        self._opset = opset_of(proto)
        self._prefix = prefix
        self._constants: dict[tuple[int, ...], str] = {}
        self._fresh = 0

    def node(self, kind: str, inputs: Iterable[str], **attributes: Any) -> str:
        """Append a node and return the name of its only output."""
        output = self._name("value")
        self._graph.node.append(onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def reduce(self, kind: str, value: str, axes: tuple[int, ...]) -> str:
        """Reduce over axes, which stay with length 1; over none, as in a scalar, each element is reduced by itself."""
        if not axes:  # to ONNX no axes are all of them, and older operator sets have no way to say it
            kind, inputs = ("Mul", [value, value]) if kind == "ReduceSumSquare" else ("Identity", [value])
            return self.node(kind, inputs)
        if self._opset >= _AXES_AS_INPUT[kind]:
            return self.node(kind, [value, self.integers(axes)], keepdims=1)
        return self.node(kind, [value], keepdims=1, axes=list(axes))

    def reduce_rows(self, kind: str, value: str, axes: tuple[int, ...]) -> str:
        """Sum, or sum squares, over the last of the axes first: in float32 that is faster and more accurate."""
        return self.reduce("ReduceSum", self.reduce(kind, value, axes[-1:]), axes[:-1])

    def cast(self, value: str, elem_type: int) -> str:
        """Convert to another element type."""
        return self.node("Cast", [value], to=elem_type)

    def rounded(self, value: str) -> str:
        """Return the name of a value of half precision under which it is read as its type holds it.

        A CPU computes most of float16 in float32, between Casts that onnxruntime adds. It drops a Cast behind one of
        them, even without optimizations, so that its reader sees numbers that were never rounded. It does not look
        across a Reshape; an Identity in between is dropped too.
        """
        return self.node("Reshape", [value, self.node("Shape", [value])])

    def array(self, values: NDArray[Any]) -> str:
        """Store an array."""
        name = self._name("array")
        self._graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return name

    def integers(self, values: tuple[int, ...]) -> str:
        """Store int64 numbers, equal ones once."""
        if values not in self._constants:
            self._constants[values] = self.array(np.array(values, np.int64))
        return self._constants[values]

    def output(self, name: str) -> None:
        """Declare an output, whose type is left to onnxruntime."""
        self._graph.output.add().name = name

    def _name(self, stem: str) -> str:
        self._fresh += 1
        return f"{self._prefix}{stem}_{self._fresh}"


def declare_type(output: ValueInfoProto, kind: str, sides: Sequence[int | str | None]) -> None:
    """Declare the type of an output as onnxruntime infers it; of what is no tensor nothing is said."""
    if not kind.startswith("tensor("):
        return
    name = kind.removeprefix("tensor(").removesuffix(")")
    elem_type = {"float": "FLOAT", "double": "DOUBLE"}.get(name, name.upper())
    if elem_type not in list(TensorProto.DataType.keys()):
        return
    output.type.tensor_type.elem_type = TensorProto.DataType.Value(elem_type)
    for side in sides:
        dim = output.type.tensor_type.shape.dim.add()
        if isinstance(side, int):
            dim.dim_value = side
        elif side is not None:
            dim.dim_param = str(side)
