"""Shapes as numbers: where a Reshape or a Flatten leads to, of which one may be open, and what a Shape tells of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxscope.model.graphs import Node

__all__ = ["flattened", "is_one_shape", "known_sides", "without_zeros"]

_Sides = Sequence["int | str | None"]


def flattened(sides: _Sides | None, axis: int) -> list[int | None] | None:
    """Return what becomes of a shape in two parts; None where both parts are open.

    Args:
        sides: Of what is flattened; None where the rank is not known.
        axis: Where the second part begins.
    """
    if sides is None:
        return None
    axis += len(sides) if axis < 0 else 0
    parts = [_product(sides[:axis]), _product(sides[axis:])]
    return None if parts == [None, None] else parts


def without_zeros(target: Sequence[int | None], sides: _Sides | None) -> list[int | None] | None:
    """Return a target with the sides that its zeros stand for; None where more than one side stays open.

    Args:
        target: Of a Reshape, -1 or None for what is open.
        sides: Of what is reshaped; None where the rank is not known.
    """
    if sides is None or any(side == 0 and place >= len(sides) for place, side in enumerate(target)):
        return None
    copied = [sides[place] if side == 0 else None for place, side in enumerate(target)]
    found = [
        (other if isinstance(other, int) else None) if side == 0 else None if side is None or side < 0 else side
        for side, other in zip(target, copied, strict=True)
    ]
    open_copies = [place for place, side in enumerate(target) if side == 0 and found[place] is None]
    rest = [side for place, side in enumerate(sides) if place not in open_copies]
    numbers = [side for side in rest if isinstance(side, int)]
    if found.count(None) == len(open_copies) + 1 and len(numbers) == len(rest):
        known = math.prod(side for side in found if side is not None)
        follows = next(place for place, side in enumerate(found) if side is None and place not in open_copies)
        found[follows] = math.prod(numbers) // known if known else None
    return found if found.count(None) <= 1 else None


def known_sides(node: Node, shape: Callable[[str], _Sides | None]) -> list[int] | None:
    """Return what a Shape gives, where all of that is fixed; None for other nodes.

    Args:
        node: Of any operator.
        shape: Of a value of its graph, as far as it is known.
    """
    sides = shape(node.inputs[0]) if node.op_type == "Shape" and node.is_standard else None
    told = None if sides is None else sides[node.attribute("start") or 0 : node.attribute("end")]
    numbers = [side for side in told or () if isinstance(side, int)]
    return None if told is None or len(numbers) < len(told) else numbers


def is_one_shape(a: str, b: str) -> bool:
    """Whether two targets of the same numbers are one: where all sides but one agree, that one follows."""
    x, y = a.split(), b.split()
    apart = [place for place, (left, right) in enumerate(zip(x, y, strict=False)) if left != right]
    return len(x) == len(y) and (not apart or (len(apart) == 1 and "-1" in (x[apart[0]], y[apart[0]])))


def _product(sides: _Sides) -> int | None:
    numbers = [side for side in sides if isinstance(side, int)]
    return math.prod(numbers) if len(numbers) == len(sides) else None
