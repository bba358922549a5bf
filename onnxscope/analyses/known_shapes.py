"""Shapes of values behind operators that onnx's shape inference does not know: those that quantizers write."""

from __future__ import annotations

from collections.abc import Mapping

from onnxscope.model.channel_axes import weight_axis
from onnxscope.model.encodings import encoding_of
from onnxscope.model.graphs import Graph, Node, ValueType
from onnxscope.model.loading import Model

__all__ = ["known_shapes"]

_Shape = tuple[int | str | None, ...]
_SAME = ("same", "cast", "dequantized")


def known_shapes(model: Model, graph: Graph, types: Mapping[str, ValueType]) -> Mapping[str, _Shape]:
    """Return the shapes of a graph's values, with those that follow from the values read and from stored weights.

    What only changes the type has one shape before and behind. A matrix product keeps all axes of what it reads but for
    the last, and puts its outputs there; what works on each element keeps all of them.

    Args:
        model: Whose graph.
        graph: The graph.
        types: What is declared, or was inferred.
    """
    shapes: dict[str, _Shape] = {name: known.shape for name, known in types.items() if known.shape is not None}
    for node in reversed(graph.nodes):
        if node.operator.passes_on in _SAME and node.outputs[0] in shapes:
            shapes.setdefault(node.inputs[0], shapes[node.outputs[0]])
    for node in graph.nodes:
        if node.outputs and node.outputs[0] not in shapes:
            read = next((shapes[name] for name in node.inputs if name in shapes and name not in graph.constants), None)
            shape = None if read is None else _made(model, graph, node, read)
            if shape is not None:
                shapes[node.outputs[0]] = shape
    return shapes


def _made(model: Model, graph: Graph, node: Node, read: _Shape) -> _Shape | None:
    operator = node.operator
    if operator.passes_on in _SAME or operator.function or node.op_type == "QuantizeLinear":
        return read
    if operator.cost != "product" or not read:
        return None
    for operand in model.names.operands(node):
        tensor = None if operand.origin is None else graph.stored(operand.origin.value)
        if operand.role == "weight" and operand.position and tensor is not None:
            encoding = encoding_of(graph, operand)
            dims = tuple(tensor.dims) if encoding is None else encoding.shape
            axis, _ = weight_axis(operand, len(dims))
            return (*read[:-1], dims[axis]) if axis is not None and len(dims) == 2 else None
    return None
