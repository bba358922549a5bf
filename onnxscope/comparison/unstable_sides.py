"""Which of two compared models do not give the same for the same input, and where they are not alike in that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from onnxscope.comparison.result import StructureChange
from onnxscope.model.loading import Model
from onnxscope.runtime.unstable_nodes import UnstableNode, find_unstable, remarks_on_unstable

__all__ = ["mode_changes", "notes_on_unstable"]

_Key = Callable[[UnstableNode], tuple[str, ...]]


def notes_on_unstable(first: Model, second: Model) -> tuple[str, ...]:
    """Return a remark for each of the first random or stateful nodes of either model."""
    remarks = remarks_on_unstable(first), remarks_on_unstable(second)
    if remarks[0] == remarks[1]:
        return tuple(f"both models: {remark}" for remark in remarks[0])
    sides = zip(("first", "second"), remarks, strict=True)
    return tuple(f"the {side} model: {remark}" for side, of_side in sides for remark in of_side)


def mode_changes(first: Model, second: Model) -> tuple[StructureChange, ...]:
    """Return the random or stateful nodes that one of the models has alone.

    A node of one is that of the other where both have the layer's name, else in the order of nodes with one operator.
    """
    sides = list(find_unstable(first)), list(find_unstable(second))
    for alike in (_layer, _operator):
        sides = _without_pairs(sides[0], sides[1], alike), _without_pairs(sides[1], sides[0], alike)
    return tuple(
        StructureChange(node.layer, f"{node.subject} {node.reason}; in the {side} model alone")
        for side, nodes in zip(("first", "second"), sides, strict=True)
        for node in nodes
    )


def _layer(node: UnstableNode) -> tuple[str, ...]:
    return node.operator, node.kind, node.layer


def _operator(node: UnstableNode) -> tuple[str, ...]:
    return node.operator, node.kind


def _without_pairs(nodes: Sequence[UnstableNode], others: Sequence[UnstableNode], alike: _Key) -> list[UnstableNode]:
    """The nodes that are left when each of the others has taken one like it."""
    taken = Counter(map(alike, others))
    left_over = []
    for node in nodes:
        if taken[alike(node)]:
            taken[alike(node)] -= 1
        else:
            left_over.append(node)
    return left_over
