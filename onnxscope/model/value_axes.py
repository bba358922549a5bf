"""What the axes of a value stand for: batch, head, query, key, direction, time, token, channel, places.

Some operators fix all axes of an output (a recurrent layer, an attention with its scores), as the table says. Other
values are told by their use: a product of two computed values that a Softmax makes into shares along its last axis
holds attention scores, a map of queries by keys for each head; the queries, keys and values keep their axes back to
where the heads were split off. Everything else has its channel axis and its rank.
Where no operator says which axis counts samples, that one does which a sample more makes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxscope.model.channel_axes import default_axis
from onnxscope.model.graphs import Graph, Node

__all__ = ["SCORES", "Growth", "ValueAxes", "axes_of", "batch_axis_of", "channel_axis_of", "grown_axis", "known_axes"]

SCORES = ("batch", "head", "query", "key")
"""Of attention scores."""

_HEADS = ("batch", "head", "token", "channel")
_TURNED = ("batch", "head", "channel", "token")
_PLACES = ("depth", "height", "width")
_FARTHEST = 12  # nodes between the product of queries and keys and its Softmax: a scale, masks, biases, a softcap


@dataclass(frozen=True)
class ValueAxes:
    """What is known of the axes of one value, whatever its rank.

    Attributes:
        names: What its last axes stand for; where it has fewer, the first of these are missing or one with the next.
        are_shares: Whether its numbers are shares of one along the last axis.
    """

    names: tuple[str, ...]
    are_shares: bool = False


@dataclass(frozen=True)
class Growth:
    """Where one sample more makes a value longer.

    Attributes:
        axis: Of the value.
        size: How long it is for one sample: above 1 it holds something else along with the samples.
    """

    axis: int
    size: int


def grown_axis(one: tuple[int, ...] | None, two: tuple[int, ...] | None) -> Growth | None:
    """Return where a value of one sample and that of two differ, None where that is not one axis, twice as long."""
    if one is None or two is None or len(one) != len(two):
        return None
    grown = [axis for axis, (before, after) in enumerate(zip(one, two, strict=True)) if before != after]
    if len(grown) != 1 or two[grown[0]] != 2 * one[grown[0]]:
        return None
    return Growth(grown[0], one[grown[0]])


def known_axes(graph: Graph, shape_of: Callable[[str], Sequence[int | str | None] | None]) -> Mapping[str, ValueAxes]:
    """Return what operators tell of all axes of values: of recurrent layers, attention scores, queries and keys.

    Args:
        graph: Whose values.
        shape_of: Returns the shape of a value, None where it is not known; it is asked where shares may be of another
            axis than the last.
    """
    known: dict[str, ValueAxes] = {}
    for node in graph.nodes:
        for place, names in node.operator.output_axes.items():
            if place < len(node.outputs) and node.outputs[place]:
                moved = node.attribute("layout") == 1 and "direction" in names
                order = ("batch", *(name for name in names if name != "batch")) if moved else names
                shares = names == SCORES and node.attribute("qk_matmul_output_mode") == 3
                known[node.outputs[place]] = ValueAxes(order, shares)
    for node in graph.nodes:
        if node.operator.gives_shares and _along_last(node, shape_of):
            known |= _attention(graph, node)
    for node in reversed(graph.nodes):
        behind = known.get(node.outputs[0]) if node.outputs else None
        if behind is not None and behind.names != SCORES:  # the way from their product is known, and masks are none
            names = _before(node, behind.names)
            for source in _sources(graph, node) if names else ():
                known.setdefault(source, ValueAxes(names))
    for node in graph.nodes:
        if node.inputs and node.inputs[0] in known and node.outputs[0] not in known:
            names = _handed_on(node, known[node.inputs[0]].names)
            if names:
                known[node.outputs[0]] = ValueAxes(names)
    return known


def _handed_on(node: Node, names: tuple[str, ...]) -> tuple[str, ...]:
    """The axes behind a node that turns them or works on each element; empty where it does something else."""
    if node.operator.passes_on == "permuted":
        order = node.axis_order(len(names))
        return () if order is None else tuple(names[axis] for axis in order)
    return names if node.operator.function is not None or _hands_on(node) else ()


def _sources(graph: Graph, node: Node) -> list[str]:
    """The computed values with the axes of what a node gives, or those that it turns."""
    operator = node.operator
    if operator.passes_on == "permuted" or _hands_on(node):  # what it quantizes by may be computed
        sources = list(node.inputs[:1])
    elif operator.keeps_axes and not operator.contracts and operator.channel_axis is None and node.is_standard:
        steering = operator.control | operator.shaped_by
        sources = [name for place, name in enumerate(node.inputs) if place not in steering]
    else:
        sources = []
    return [name for name in sources if name and name not in graph.constants]


def _before(node: Node, names: tuple[str, ...]) -> tuple[str, ...]:
    """The axes of what a node hands on with these, empty where it turns another number of axes."""
    if node.operator.passes_on != "permuted":
        return names
    written = node.attribute("perm")
    behind = names if written is None else names[-len(written) :]
    order = node.axis_order(len(behind))
    if order is None:
        return ()
    return tuple(behind[order.index(axis)] for axis in range(len(order)))


def channel_axis_of(rank: int, channel_axis: int | None, known: ValueAxes | None) -> int | None:
    """Return the axis of a value whose statistics are kept apart, None where there is none.

    Args:
        rank: How many axes the value has.
        channel_axis: Where the operators around it put channels, None where they do not tell; -1 stands for the last.
        known: What they tell of all axes: scores are kept apart by heads.
    """
    names = known.names[-rank:] if known is not None and rank > 1 else ()
    for kept_apart in ("channel", "head"):
        if kept_apart in names:
            return rank - len(names) + names.index(kept_apart)
    return None if names else default_axis(rank, channel_axis)


def batch_axis_of(rank: int, known: ValueAxes | None) -> int | None:
    """Return the axis of samples of a value, None where operators do not tell."""
    names = known.names[-rank:] if known is not None and rank else ()
    return rank - len(names) + names.index("batch") if "batch" in names else None


def axes_of(
    rank: int, channel_axis: int | None, known: ValueAxes | None, growth: Growth | None, assumed: int | None = None
) -> tuple[str, ...]:
    """Name every axis of a value.

    Args:
        rank: How many there are.
        channel_axis: As `Tap.axis_of` has it.
        known: What operators tell of all of them.
        growth: Where one sample more makes it longer, None where that is not known.
        assumed: The axis of samples where there is nothing that grows.
    """
    if known is not None and rank >= 2:
        names = ("part",) * (rank - len(known.names)) + known.names[-rank:]
        if "batch" not in names and growth is not None and growth.size == 1:  # attention of one head without its axis
            names = (*names[: growth.axis], "batch", *names[growth.axis + 1 :])
        return names
    batch = growth.axis if growth is not None and growth.size == 1 else None
    if batch is None and growth is None:
        batch = assumed
    if batch == channel_axis:
        channel_axis = None
    merged = growth.axis if growth is not None and growth.size > 1 and rank > 2 else None
    others = [axis for axis in range(rank) if axis not in (batch, channel_axis, merged)]
    names_by_axis = {axis: name for axis, name in ((batch, "batch"), (channel_axis, "channel")) if axis is not None}
    last = channel_axis is None or channel_axis == rank - 1
    if len(others) == 1 and channel_axis is not None:
        # A sequence with time first has its samples behind it.
        names_by_axis[others[0]] = "time" if not last or (batch is not None and batch > others[0]) else "token"
    elif 1 < len(others) <= 3 and channel_axis is not None:
        names_by_axis |= dict(zip(others, _PLACES[-len(others) :], strict=True))
    return tuple(names_by_axis.get(axis, "part") for axis in range(rank))


def _along_last(node: Node, shape_of: Callable[[str], Sequence[int | str | None] | None]) -> bool:
    """Whether its shares are of the last axis: by default from operator set 13 on, else of a known rank."""
    axis = node.attribute("axis")
    if axis is None or axis == -1:
        return True
    shape = shape_of(node.outputs[0]) or shape_of(node.inputs[0])
    return bool(axis >= 2 if shape is None else axis == len(shape) - 1)


def _attention(graph: Graph, softmax: Node) -> dict[str, ValueAxes]:
    """Scores from their product to the Softmax, its shares, the queries and keys, and what leaves the attention."""
    axes: dict[str, ValueAxes] = {}
    for product, path in _products(graph, softmax):
        axes |= {name: ValueAxes(SCORES) for name in path}
        axes[product.inputs[0]] = ValueAxes(_HEADS)
        # FusedMatMul turns its second operand itself.
        axes[product.inputs[_second(product)]] = ValueAxes(_HEADS if product.attribute("transB") else _TURNED)
    if not axes:
        return {}
    shares = [softmax.outputs[0]]
    for name in shares:
        axes[name] = ValueAxes(SCORES, are_shares=True)
        for reader in graph.readers.get(name, ()):
            if _hands_on(reader) and reader.outputs[0] not in shares:
                shares.append(reader.outputs[0])
            elif reader.operator.contracts and reader.inputs[0] == name:
                axes[reader.outputs[0]] = ValueAxes(_HEADS)
                axes[reader.inputs[_second(reader)]] = ValueAxes(_HEADS)
    return axes


def _products(graph: Graph, softmax: Node) -> Iterator[tuple[Node, tuple[str, ...]]]:
    """The product of two computed values behind a Softmax's input, and the values between."""
    waiting: list[tuple[str, tuple[str, ...]]] = [(softmax.inputs[0], ())]
    while waiting:
        name, path = waiting.pop()
        node = graph.producers.get(name)
        if node is None or len(path) > _FARTHEST:
            continue
        path = (*path, name)
        if node.operator.contracts and len(node.inputs) > _second(node):
            operands = node.inputs[0], node.inputs[_second(node)]
            if not any(operand in graph.constants for operand in operands):
                yield node, path
        elif node.operator.keeps_axes and node.operator.passes_on != "permuted" and node.operator.channel_axis is None:
            waiting += [(operand, path) for operand in node.inputs if operand and operand not in graph.constants]


def _second(product: Node) -> int:
    """Where its second operand is: quantized products have the first one's scale and zero point before it."""
    return max(product.operator.roles, default=1)


def _hands_on(node: Node) -> bool:
    """Whether shares are still shares behind it: types, codes, and what drops them in training alone."""
    operator = node.operator
    return operator.passes_on in ("same", "cast", "dequantized") or operator.quantizes or operator.training is not None
