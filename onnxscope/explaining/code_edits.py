"""Codes of a weight that stand for other numbers than the first model's weight: a wrong scale, or a wrong zero point.

Codes are that weight's where every number is within half a step of what its code stands for: that is found out without
a run. What is left is the rounding to codes, which no edit takes away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxscope.explaining.edits import Edit, set_operands
from onnxscope.explaining.parameters import plain
from onnxscope.explaining.weight_edits import weight_of
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model

__all__ = ["code_edits", "right_scale", "right_zero_point"]

Array = NDArray[np.float64]
_HALF = 0.6  # a step, and what a scale that is fitted is off by at the largest codes
_WRONG = 0.02  # relative: a scale that is closer is one that was chosen otherwise
_FEWEST_NUMBERS = 8  # of a channel that has a scale of its own
_DEFAULT_AXIS = 1


def code_edits(models: tuple[Model, Model], pairs: Sequence[tuple[Node, Node]]) -> Iterator[tuple[Edit, str]]:
    """Yield what gives codes the scale, or the zero point, with which they stand for A's weight, and the codes' type.

    Args:
        models: Both; the first has the weight in floating point.
        pairs: Nodes in the same place.
    """
    for left, right in pairs:
        graph = models[1].graphs[right.path]
        for wide, name in zip(left.inputs[1:], right.inputs[1:], strict=False):
            maker = graph.producers.get(name) if name in graph.constants else None
            if maker is None or maker.op_type != "DequantizeLinear" or maker.attribute("block_size"):
                continue
            weight = weight_of(models[0], models[0].graphs[left.path], wide)
            stored = [weight_of(models[1], graph, operand) for operand in maker.inputs]
            if weight is None or weight.dtype.kind != "f" or stored[0] is None or stored[1] is None:
                continue
            if stored[0].shape != weight.shape or (len(stored) > 2 and stored[2] is None):
                continue
            yield from _of_codes(maker, weight.astype(np.float64), stored)


def right_scale(weight: Array, codes: Array) -> Array | None:
    """Return for every row the scale with which codes stand for a weight; None where with no scale they do.

    Args:
        weight: Of shape (rows, numbers).
        codes: Likewise, without their zero point.
    """
    squares = (codes**2).sum(axis=1)
    if weight.shape[1] < _FEWEST_NUMBERS or not squares.all():
        return None
    scale: Array = (weight * codes).sum(axis=1) / squares
    return scale if (scale > 0).all() and _stand_for(weight, codes, scale) else None


def right_zero_point(weight: Array, codes: Array, scale: Array) -> Array | None:
    """Return for every row the zero point with which codes of a scale stand for a weight; None where with none they do.

    Args:
        weight: Of shape (rows, numbers).
        codes: Likewise, as they are stored.
        scale: A number a row.
    """
    if weight.shape[1] < _FEWEST_NUMBERS or not (scale > 0).all():
        return None
    zero: Array = np.round((codes - weight / scale[:, None]).mean(axis=1))
    return zero if _stand_for(weight, codes - zero[:, None], scale) else None


def _stand_for(weight: Array, codes: Array, scale: Array) -> bool:
    within = np.abs(weight / scale[:, None] - codes) <= _HALF
    edges = (codes == codes.min()) | (codes == codes.max())  # what lies beyond is clipped
    return bool((within | edges).all() and within.mean() > 0.9)


def _of_codes(maker: Node, weight: Array, stored: Sequence[NDArray[np.generic] | None]) -> Iterator[tuple[Edit, str]]:
    codes, scale = stored[0], stored[1]
    zero = stored[2] if len(stored) > 2 else None
    if codes is None or scale is None or scale.ndim > 1:
        return
    axis = maker.attribute("axis")
    axis = _DEFAULT_AXIS if axis is None else int(axis)
    count = scale.size
    rows = [np.moveaxis(array, axis, 0) if scale.ndim and count > 1 else array for array in (weight, codes)]
    flat = [array.astype(np.float64).reshape(count, -1) for array in rows]
    steps = scale.astype(np.float64).reshape(-1)
    zeros = np.zeros(count) if zero is None else np.broadcast_to(zero.astype(np.float64).reshape(-1), count)
    if _stand_for(flat[0], flat[1] - zeros[:, None], steps):
        return
    found = right_scale(flat[0], flat[1] - zeros[:, None])
    if found is not None and (np.abs(found - steps) > _WRONG * found).any():
        wanted = found.reshape(scale.shape).astype(scale.dtype)
        yield _edit(maker, "x_scale", scale, wanted, 1), codes.dtype.name
    elif zero is not None:
        point = right_zero_point(flat[0], flat[1], steps)
        limits = np.iinfo(zero.dtype.name)
        if point is not None and (point >= limits.min).all() and (point <= limits.max).all():
            first = point if zero.size == count else point[: zero.size]
            yield _edit(maker, "x_zero_point", zero, first.reshape(zero.shape).astype(zero.dtype), 2), codes.dtype.name


def _edit(maker: Node, name: str, found: NDArray[np.generic], wanted: NDArray[np.generic], position: int) -> Edit:
    return Edit(maker, "operand", name, plain(found), plain(wanted), set_operands({position: wanted}))
