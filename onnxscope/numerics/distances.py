"""How far apart two arrays are: values, accumulated over batches by channel, and weights, number by number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.blocks import difference_of, exceeds_float64, row_blocks

__all__ = [
    "Difference",
    "Discrepancy",
    "Tolerance",
    "decibels",
    "difference",
    "from_sums",
    "measure",
    "relative_l2",
]

Array = NDArray[Any]
_BLOCK = 1 << 16  # numbers widened at a time: what the cache of a core holds
_SHOWN = 4  # channels that a message names


def relative_l2(squares: float, reference: float) -> float | None:
    """The norm of a difference over the norm of the reference, of their sums of squares; None where it is infinite."""
    if not squares:
        return 0.0
    return math.sqrt(squares / reference) if reference else None


def decibels(relative: float | None) -> float | None:
    """The signal-to-noise ratio of a relative difference, the reference being the signal; None where it is infinite."""
    return 0 - 20 * math.log10(relative) if relative else None


@dataclass(frozen=True)
class Tolerance:
    """What an element may be off by: `atol + rtol * abs(reference)`, as in `numpy.isclose`."""

    rtol: float
    atol: float

    def forgives(self, reference: Array, other: Array) -> bool:
        """Whether no number is beyond it; both are of one shape."""
        return measure(reference, other, None, self).beyond == 0


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """The difference between a reference and another value over everything seen.

    Attributes:
        squares: Sums of squared differences, one for each channel.
        largest: Largest absolute differences.
        reference: Sums of squares of the reference.
        other: Sums of squares of the other value.
        count: Numbers compared.
        mismatched: Numbers of which only one side is finite, or that are infinite in two directions.
        beyond: Numbers beyond the tolerance, None where none was given.
        moved: Of a model against itself, numbers that are finite with onnxruntime's optimizations or without them, not
            both; they stay out of `mismatched`.
    """

    squares: NDArray[np.float64]
    largest: NDArray[np.float64]
    reference: NDArray[np.float64]
    other: NDArray[np.float64]
    count: int
    mismatched: int
    beyond: int | None
    moved: int = 0

    def __add__(self, more: Discrepancy) -> Discrepancy:
        """What both have seen together."""
        return Discrepancy(
            squares=self.squares + more.squares,
            largest=np.maximum(self.largest, more.largest),
            reference=self.reference + more.reference,
            other=self.other + more.other,
            count=self.count + more.count,
            mismatched=self.mismatched + more.mismatched,
            beyond=None if self.beyond is None or more.beyond is None else self.beyond + more.beyond,
        )

    @property
    def max_abs(self) -> float | None:
        """Largest absolute difference, None where one side alone is not finite."""
        return None if self.mismatched else float(self.largest.max(initial=0.0))

    @property
    def relative_l2(self) -> float | None:
        """Norm of the difference over the reference's norm; None where it is infinite."""
        return None if self.mismatched else relative_l2(float(self.squares.sum()), float(self.reference.sum()))

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both, None where one of them is all zeros or not finite."""
        squares, reference, other = (float(sums.sum()) for sums in (self.squares, self.reference, self.other))
        if self.mismatched or not reference or not other:
            return None
        return max(-1.0, min(1.0, (reference + other - squares) / (2 * math.sqrt(reference) * math.sqrt(other))))

    @property
    def sqnr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels, the reference being the signal; None where it is infinite."""
        return decibels(self.relative_l2)

    @property
    def beyond_fraction(self) -> float | None:
        """Share of the numbers that are beyond the tolerance."""
        return None if self.beyond is None else self.beyond / max(self.count, 1)

    @property
    def worst_channel(self) -> tuple[int, float] | None:
        """The channel that is furthest off, with the norm of its difference over that of an average channel."""
        reference = float(self.reference.sum()) / max(len(self.reference), 1)
        if len(self.squares) < 2 or not reference or not self.squares.any():
            return None
        place = int(self.squares.argmax())
        return place, math.sqrt(float(self.squares[place]) / reference)


def measure(reference: Array, other: Array, channel_axis: int | None, tolerance: Tolerance | None) -> Discrepancy:
    """Compare two arrays of one shape in float64.

    Numbers that are not finite on both sides count as equal where they are the same, and as mismatched otherwise; they
    stay out of all sums.
    """
    axis = channel_axis if reference.ndim > 1 else None
    if axis is None:
        left, right = reference.reshape(1, -1), other.reshape(1, -1)
    else:
        shape = (reference.shape[axis], -1) if reference.size else (reference.shape[axis], 0)
        left, right = (np.moveaxis(array, axis, 0).reshape(shape) for array in (reference, other))
    totals = np.zeros((4, len(left)))
    mismatched = beyond = 0
    step = max(1, _BLOCK // max(1, len(left)))
    for start in range(0, left.shape[1], step):
        stored = [rows[:, start : start + step] for rows in (left, right)]
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            x, y = (rows.astype(np.float64) for rows in stored)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            mismatched += int(np.count_nonzero(~finite & ~same))
            x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        gap = np.abs(difference_of(*stored) if stored[0].dtype.kind in "iu" and finite.all() else y - x)
        totals[0] += np.square(gap).sum(axis=1)
        totals[1] = np.maximum(totals[1], gap.max(axis=1, initial=0.0))
        totals[2] += np.square(x).sum(axis=1)
        totals[3] += np.square(y).sum(axis=1)
        if tolerance is not None:
            beyond += int(np.count_nonzero(gap > tolerance.atol + tolerance.rtol * np.abs(x)))
    return Discrepancy(
        squares=totals[0],
        largest=totals[1],
        reference=totals[2],
        other=totals[3],
        count=reference.size,
        mismatched=mismatched,
        beyond=None if tolerance is None else beyond + mismatched,
    )


def from_sums(found: Mapping[str, Array], lead: str) -> Discrepancy | None:
    """What the outputs of a merged graph tell, or None where something is not finite; `lead` is `own_` or nothing."""
    keys = (f"{lead}squares", f"{lead}low", f"{lead}high", "a", "b")
    sums = [found[key].reshape(-1).astype(np.float64) for key in keys]
    if not all(np.isfinite(array).all() for array in sums):
        return None
    squares, low, high, reference, other = sums
    return Discrepancy(
        squares=squares,
        largest=np.maximum(high, 0 - low),
        reference=reference,
        other=other,
        count=math.prod(found["shape"].tolist()),
        mismatched=0,
        beyond=int(found[f"{lead}beyond"].sum()) if f"{lead}beyond" in found else None,
    )


@dataclass
class Difference:
    """How two weights of one shape differ."""

    equal: bool = True
    largest: float | None = None
    relative: float | None = None
    channels: tuple[int, ...] = ()
    count: int = 0
    size: int = 0
    rows: int = 0

    def text(self) -> str:
        """In words: how much, how many numbers, in which channels."""
        if self.largest is None:
            amount = "numbers that are not finite"
        else:
            amount = f"largest difference {self.largest:.3g}"
        if self.relative is not None:
            amount += f", relative {self.relative:.3g}"
        where = ""
        if 0 < len(self.channels) < self.rows:
            first = ", ".join(map(str, self.channels[:_SHOWN]))
            more = ", …" if len(self.channels) > _SHOWN else ""
            where = f", in {'channel' if len(self.channels) == 1 else 'channels'} {first}{more}"
        return f"{amount}, {self.count:,} of {self.size:,} numbers{where}"


def difference(x: Array, y: Array, scale: Array | None = None, tolerance: float = 0.0) -> Difference:
    """Compare two weights of one shape.

    Args:
        x: The reference.
        y: Of the same shape.
        scale: What each row of `x` is multiplied by first.
        tolerance: What counts as equal, relative to the number, and to a tenth of the largest one of its row.
    """
    result = Difference(size=x.size, rows=len(x) if x.ndim else 1)
    if scale is None and _are_equal(x, y):
        return result
    largest = squares = 0.0
    channels: list[int] = []
    is_long = scale is None and (exceeds_float64(x) or exceeds_float64(y))
    for start, left, right in row_blocks(x, y):
        if scale is not None:
            left = left * scale[start : start + len(left), None]
        with np.errstate(invalid="ignore", over="ignore"):
            gap = left - right
        if is_long:
            sides = (side.reshape(-1, left.shape[1])[start : start + len(left)] for side in (x, y))
            gap = difference_of(*sides)
        np.abs(gap, out=gap)
        if np.isnan(gap.max(initial=0.0)):
            gap[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
        if tolerance:
            # In place: memory for each step would take longer than the step.
            allowed = np.maximum(np.abs(left, out=left), np.abs(right, out=right), out=left)
            allowed += 0.1 * allowed.max(axis=1, keepdims=True, initial=0.0)
            allowed *= tolerance
            gap[gap <= allowed] = 0.0
        gap[np.isnan(gap)] = np.inf
        changed = gap > 0
        if not changed.any():
            continue
        result.count += int(np.count_nonzero(changed))
        channels += [start + int(row) for row in np.flatnonzero(changed.any(axis=1))]
        largest = max(largest, float(gap.max(initial=0.0)))
        squares += float(np.sum(np.square(gap)))
    result.equal = result.count == 0
    result.channels = tuple(channels)
    if not result.equal and math.isfinite(largest):
        reference = _squares(x, scale)
        result.largest = largest
        result.relative = relative_l2(squares, reference) if reference and math.isfinite(squares) else None
    return result


def _squares(x: Array, scale: Array | None) -> float:
    """The sum of the squares of finite numbers."""
    total = 0.0
    for start, block, _ in row_blocks(x, x):
        if scale is not None:
            block = block * scale[start : start + len(block), None]
        with np.errstate(over="ignore"):
            total += float(np.sum(np.square(block), where=np.isfinite(block)))
    return total


def _are_equal(x: Array, y: Array) -> bool:
    """Whether all numbers are equal as they are stored; none of them is widened."""
    if not x.ndim:
        return bool(x == y)
    rows = max(1, _BLOCK * len(x) // max(1, x.size))
    starts = range(0, len(x), rows)
    return all(np.array_equal(x[start : start + rows], y[start : start + rows]) for start in starts)
