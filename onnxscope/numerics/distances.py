"""How far apart two values are, accumulated over batches: sums of squares and extremes of the difference by channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Discrepancy", "Tolerance", "from_sums", "measure"]

Array = NDArray[Any]
_BLOCK = 1 << 20  # numbers widened at a time


@dataclass(frozen=True)
class Tolerance:
    """What an element may be off by: `atol + rtol * abs(reference)`, as in `numpy.isclose`."""

    rtol: float
    atol: float


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
    """

    squares: NDArray[np.float64]
    largest: NDArray[np.float64]
    reference: NDArray[np.float64]
    other: NDArray[np.float64]
    count: int
    mismatched: int
    beyond: int | None

    def __add__(self, more: Discrepancy) -> Discrepancy:
        """What both have seen together."""
        return Discrepancy(
            self.squares + more.squares,
            np.maximum(self.largest, more.largest),
            self.reference + more.reference,
            self.other + more.other,
            self.count + more.count,
            self.mismatched + more.mismatched,
            None if self.beyond is None or more.beyond is None else self.beyond + more.beyond,
        )

    @property
    def max_abs(self) -> float | None:
        """Largest absolute difference, None where one side alone is not finite."""
        return None if self.mismatched else float(self.largest.max(initial=0.0))

    @property
    def relative_l2(self) -> float | None:
        """Norm of the difference over the reference's norm; None where it is infinite."""
        squares, reference = float(self.squares.sum()), float(self.reference.sum())
        if self.mismatched or (squares and not reference):
            return None
        return math.sqrt(squares / reference) if squares else 0.0

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both, None where one of them is all zeros or not finite."""
        squares, reference, other = (float(each.sum()) for each in (self.squares, self.reference, self.other))
        if self.mismatched or not reference or not other:
            return None
        return max(-1.0, min(1.0, (reference + other - squares) / (2 * math.sqrt(reference) * math.sqrt(other))))

    @property
    def sqnr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels, the reference being the signal; None where it is infinite."""
        relative = self.relative_l2
        return None if not relative else -20 * math.log10(relative)

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
        left, right = (np.moveaxis(each, axis, 0).reshape(shape) for each in (reference, other))
    totals = np.zeros((4, len(left)))
    mismatched = beyond = 0
    step = max(1, _BLOCK // max(1, len(left)))
    for start in range(0, left.shape[1], step):
        x, y = (each[:, start : start + step].astype(np.float64) for each in (left, right))
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            mismatched += int(np.count_nonzero(~finite & ~same))
            x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        gap = np.abs(y - x)
        totals[0] += np.square(gap).sum(axis=1)
        totals[1] = np.maximum(totals[1], gap.max(axis=1, initial=0.0))
        totals[2] += np.square(x).sum(axis=1)
        totals[3] += np.square(y).sum(axis=1)
        if tolerance is not None:
            beyond += int(np.count_nonzero(gap > tolerance.atol + tolerance.rtol * np.abs(x)))
    beyond_or_none = None if tolerance is None else beyond + mismatched
    return Discrepancy(totals[0], totals[1], totals[2], totals[3], reference.size, mismatched, beyond_or_none)


def from_sums(found: Mapping[str, Array], lead: str) -> Discrepancy | None:
    """What the outputs of a merged graph tell, or None where something is not finite; `lead` is `own_` or nothing."""
    keys = (f"{lead}squares", f"{lead}low", f"{lead}high", "a", "b")
    sums = [found[key].reshape(-1).astype(np.float64) for key in keys]
    if not all(np.isfinite(each).all() for each in sums):
        return None
    squares, low, high, reference, other = sums
    beyond = int(found[f"{lead}beyond"].sum()) if f"{lead}beyond" in found else None
    return Discrepancy(
        squares, np.maximum(high, 0 - low), reference, other, math.prod(found["shape"].tolist()), 0, beyond
    )
