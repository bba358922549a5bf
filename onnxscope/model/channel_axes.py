"""Which axis of a value holds its channels, by the operators around it.

For activations the axis is carried forward from the operators that fix it (a convolution puts channels at axis 1, a
MatMul last) through those that keep it. For weights it is the output axis of the operator that uses them. Those of a
recurrent layer lie by direction and gate, and may be stacked of several tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.layer_names import Operand

__all__ = ["activation_axes", "default_axis", "stacked_parts", "weight_axis"]

_CUTTING = frozenset({"Concat", "Slice", "Split"})


def activation_axes(graph: Graph, shape_of: Callable[[str], Sequence[int | str | None] | None]) -> Mapping[str, int]:
    """Return the channel axis of every value of a graph for which the operators tell; -1 stands for the last.

    Args:
        graph: Whose values.
        shape_of: Returns the shape of a value, None where it is not known; it is asked where an operator does not say
            how many axes it turns.
    """
    axes: dict[str, int] = {}
    for node in graph.nodes:
        axis = _output_axis(node, axes, shape_of)
        if node.operator.passes_on == "permuted" and node.inputs[0] not in axes:
            # NHWC models turn their input into NCHW before the first convolution.
            follower = next(iter(graph.readers.get(node.outputs[0], ())), None)
            order = _order(node, shape_of)
            if follower is not None and follower.operator.channel_axis == 1 and order and len(order) > 1:
                axes.setdefault(node.inputs[0], order[1])
                axis = 1
        if node.operator.channel_axis == 1:
            axes.setdefault(node.inputs[0], 1)
        if axis is not None:
            axes.update((output, axis) for output in node.outputs if output)
    return axes


def default_axis(rank: int, known: int | None) -> int | None:
    """Return the channel axis of an array of `rank` axes: the known one, else 1 for images, the last for tokens.

    None where there is nothing to keep apart: below two axes.
    """
    if rank < 2:
        return None
    if known is not None and -rank <= known < rank:
        return known % rank
    return rank - 1 if rank == 3 else 1


def weight_axis(operand: Operand, rank: int) -> tuple[int | None, int]:
    """Return the output-channel axis of a stored weight, and into how many groups its channels are split.

    Args:
        operand: How the weight is used. Its axes are followed back through Transpose nodes.
        rank: How many axes the stored tensor has.

    Returns:
        The axis in the stored tensor, None where it has fewer than two axes or the way back is unknown. Groups are
        above 1 only for a grouped ConvTranspose: its channel c of group g is output channel g * (C / groups) + c.
    """
    origin, node = operand.origin, operand.node
    if rank < 2 or origin is None or origin.permutation is None:
        return None, 1
    axis, groups = _used_axis(node, operand.position, rank)
    if origin.permutation:
        if len(origin.permutation) != rank:
            return None, 1
        axis = origin.permutation[axis]
    return axis, groups


def stacked_parts(graph: Graph, operand: Operand) -> dict[str, str]:
    """The stored tensors that nothing but layout makes an operand of, with what each is to the operator.

    An exporter that folds no constants cuts the gates of a recurrent layer, puts them in ONNX's order, and stacks
    directions:

        weight_ih_l0 -> Slice -> Concat -> Unsqueeze -+
        weight_ih_l0_reverse -> ... -> Unsqueeze ------+-> Concat -> LSTM

    Returns:
        Roles by the names of the tensors, with the gate and the direction where each has a tensor of its own;
        empty where anything else takes part.
    """
    gates = operand.node.operator.gates
    is_open = operand.node.attribute("direction") in (b"bidirectional", "bidirectional")
    waiting = [(operand.node.inputs[operand.position], operand.role, "", None if is_open else "")]
    found: dict[str, list[tuple[str, str, str]]] = {}
    while waiting:
        value, role, gate, direction = waiting.pop()
        if graph.stored(value) is not None:
            found.setdefault(value, []).append((role, gate, direction or ""))
            continue
        node = graph.scope_of(value).producers.get(value)
        if node is None or not (node.operator.passes_on or node.op_type in _CUTTING):
            return {}
        inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        for place, name in enumerate(inputs):
            if direction is None and len(inputs) == 2:
                waiting.append((name, role, gate, ("", "_reverse")[place]))
            elif role == "bias" and len(inputs) == 2:
                waiting.append((name, ("bias_ih", "bias_hh")[place], gate, direction))
            elif len(inputs) == len(gates) > 1 and not gate:
                waiting.append((name, role, f"_{gates[place]}", direction))
            else:
                waiting.append((name, role, gate, direction))
    parts = {}
    for value, uses in found.items():
        role, gate, direction = uses[0]
        parts[value] = f"{role}{gate}{direction}" if len(uses) == 1 else f"{role}{direction}"  # one for all gates
    return parts


def _used_axis(node: Node, position: int, rank: int) -> tuple[int, int]:
    lies = node.operator.weight
    if lies == "grouped" and position == 1:
        return 1, int(node.attribute("group") or 1)
    if lies == "gemm":
        transposed = bool(node.attribute("transA" if position == 0 else "transB"))
        return (rank - 1 if transposed == (position == 0) else rank - 2), 1
    if lies == "matmul":
        return (rank - 2 if position == 0 else rank - 1), 1
    if lies in ("outputs_last", "directions_last"):
        return rank - 1, 1
    if lies == "directions_first":
        return 1, 1
    return 0, 1


def _output_axis(
    node: Node, axes: Mapping[str, int], shape_of: Callable[[str], Sequence[int | str | None] | None]
) -> int | None:
    operator = node.operator
    if operator.channel_axis is not None:
        return operator.channel_axis
    if not operator.keeps_axes or not node.inputs:
        return None
    known = [axes[name] for name in node.inputs if name in axes]
    if not known:
        return None
    if operator.passes_on == "permuted":
        order = _order(node, shape_of) if node.inputs[0] in axes else None
        if not order:
            return None
        axis = axes[node.inputs[0]]
        axis = axis if axis >= 0 else axis + len(order)
        return order.index(axis) if axis in order else None
    return known[0]


def _order(turn: Node, shape_of: Callable[[str], Sequence[int | str | None] | None]) -> list[int] | None:
    """Of a Transpose; one that names none has the rank of what it reads."""
    shape = shape_of(turn.inputs[0]) if turn.attribute("perm") is None else None
    return turn.axis_order(None if shape is None else len(shape))
