"""Shapes of values behind operators that onnx does not know: those that quantizers and optimizers write."""

from __future__ import annotations

from collections.abc import Mapping

from onnxscope.model.channel_axes import weight_axis
from onnxscope.model.encodings import encoding_of
from onnxscope.model.graphs import Graph, Node, ValueType
from onnxscope.model.loading import Model

__all__ = ["known_shapes"]

_Shape = tuple[int | str | None, ...]
_SAME = ("same", "cast", "dequantized")


_NORMS = ("LayerNormalization", "RMSNormalization", "GroupNormalization")


def known_shapes(model: Model, graph: Graph, types: Mapping[str, ValueType]) -> Mapping[str, _Shape]:
    """Return the shapes of a graph's values, with those that follow from the values read and from stored weights.

    What only changes the type has one shape before and behind. A matrix product keeps all axes of what it reads but for
    the last, and puts its outputs there; what works on each element, or normalizes, keeps all of them. Attention gives
    each query as many numbers as the values have, all heads together. What is looked up has the axes of the places in
    place of that along which they count.

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
            if node.operator.attends is not None:
                shape = _attended(model, graph, node, shapes)
            else:
                shape = None if read is None else _made(model, graph, node, read)
            if shape is not None:
                shapes[node.outputs[0]] = shape
    return shapes


def _made(model: Model, graph: Graph, node: Node, read: _Shape) -> _Shape | None:
    operator = node.operator
    if operator.passes_on in _SAME or operator.function or node.op_type == "QuantizeLinear":
        return read
    if operator.kind in _NORMS:
        return read
    if (
        node.op_type == "Gather"
        and node.is_standard
        and len(node.inputs) == 2
        and node.inputs[0] not in graph.constants
    ):
        places, axis = graph.stored(node.inputs[1]), int(node.attribute("axis") or 0)
        if places is not None and -len(read) <= axis < len(read):
            axis %= len(read)
            return (*read[:axis], *places.dims, *read[axis + 1 :])
    outputs = _outputs(model, graph, node) if operator.cost == "product" and read else None
    return None if outputs is None else (*read[:-1], outputs)


def _attended(model: Model, graph: Graph, node: Node, shapes: Mapping[str, _Shape]) -> _Shape | None:
    attends = node.operator.attends
    assert attends is not None
    query, value = (
        shapes.get(node.inputs[place]) if place < len(node.inputs) else None for place in (attends.query, attends.value)
    )
    if query is None or len(query) != 3:
        return None
    if attends.is_projected:
        sizes, outputs = node.attribute("qkv_hidden_sizes"), _outputs(model, graph, node)
        width = sizes[2] if sizes else None if outputs is None else outputs // 3
        return None if width is None else (*query[:-1], width)
    if value is None or len(value) != 3 or not isinstance(value[-1], int):
        return None
    heads = node.attribute("q_num_heads") or node.attribute("num_heads") or 1
    return (*query[:-1], value[-1] * heads // (node.attribute("kv_num_heads") or heads))


def _outputs(model: Model, graph: Graph, node: Node) -> int | None:
    """How many numbers a weight of two axes makes of each row."""
    for operand in model.names.operands(node):
        tensor = None if operand.origin is None else graph.stored(operand.origin.value)
        if operand.role == "weight" and operand.position and tensor is not None:
            encoding = encoding_of(graph, operand)
            dims = tuple(tensor.dims) if encoding is None else encoding.shape
            axis, _ = weight_axis(operand, len(dims))
            return dims[axis] if axis is not None and len(dims) == 2 else None
    return None
