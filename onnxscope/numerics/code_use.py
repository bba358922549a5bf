"""How values use the codes that they are rounded to: which of them occur, and how many lie at either end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.quantization import Quantization

__all__ = ["CodeGrid", "CodeUse"]

_NEXT = 4  # codes beside an end with which it is compared
_CROWDED = 4.0  # times as many; the flat end of a Gelu or SiLU has 1.4 times as many
_FEWEST_USED = 32
_COUNTED_BITS = 8  # of more bits only the ends are told apart


@dataclass(frozen=True)
class CodeGrid:
    """The codes that stand for real numbers: `(code - zero_point) * scale`, one scale for all.

    Attributes:
        bits: Of a code.
        lowest: The lowest code.
        scale: Above 0.
        zero_point: The code that stands for zero.
    """

    bits: int
    lowest: int
    scale: float
    zero_point: int

    @property
    def highest(self) -> int:
        """The highest code."""
        return self.lowest + (1 << self.bits) - 1

    def codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The codes of finite values, as QuantizeLinear rounds: half to even, and what lies beyond to the end."""
        with np.errstate(over="ignore"):
            rounded = np.rint(np.asarray(values, np.float32) / np.float32(self.scale)).astype(np.float64)
        codes: NDArray[np.int64] = np.clip(rounded + self.zero_point, self.lowest, self.highest).astype(np.int64)
        return codes


@dataclass(frozen=True, eq=False)
class CodeUse:
    """How often codes occur.

    Attributes:
        grid: Which codes.
        counts: int64, of each code from the lowest on; of more than 8 bits of the lowest, all between, and the highest.
    """

    grid: CodeGrid
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, grid: CodeGrid) -> CodeUse:
        """Of no values."""
        return cls(grid, np.zeros(cls.places(grid), np.int64))

    @staticmethod
    def places(grid: CodeGrid) -> int:
        """How many counts there are."""
        return 1 << grid.bits if grid.bits <= _COUNTED_BITS else 3

    @classmethod
    def of(cls, grid: CodeGrid, values: NDArray[Any]) -> CodeUse:
        """Of an array of any shape; what is not finite is left out."""
        flat = np.asarray(values).reshape(-1)
        places = grid.codes(flat[np.isfinite(flat)]) - grid.lowest
        size = cls.places(grid)
        if grid.bits > _COUNTED_BITS:
            places = 1 + (places == grid.highest - grid.lowest) - (places == 0)
        return cls(grid, np.bincount(places, minlength=size).astype(np.int64))

    def merge(self, other: CodeUse) -> CodeUse:
        """Of the values of both, which have the same grid."""
        return CodeUse(self.grid, self.counts + other.counts)

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is in the middle of the codes."""
        grid = self.grid
        return grid.zero_point == grid.lowest + (1 << grid.bits - 1)

    @property
    def saturated_fraction(self) -> float | None:
        """The share of values with the lowest or the highest code, apart from a code that stands for zero.

        Where zero is in the middle and the lowest code is not used, the one above it counts. None of no values.
        """
        total = int(self.counts.sum())
        if not total:
            return None
        counts, grid = self.counts, self.grid
        low, high = int(counts[0]), int(counts[-1])
        if self.is_symmetric and not low and len(counts) > 3:
            low = int(counts[1])  # many quantizers leave the lowest code out, so that both ends are as far from zero
        low = 0 if grid.zero_point == grid.lowest else low
        high = 0 if grid.zero_point == grid.highest else high
        return (low + high) / total

    @property
    def clipped_fraction(self) -> float:
        """The share of values at those ends that are crowded: what lies beyond was rounded to them, as it seems.

        0 where few codes are used, or all of more than 8 bits: such values may be the largest ones by nature.
        """
        total, counts, grid = int(self.counts.sum()), self.counts, self.grid
        if not total or len(counts) <= _NEXT or np.count_nonzero(counts) < _FEWEST_USED:
            return 0.0
        first = int(self.is_symmetric and not counts[0])
        ends = [(grid.lowest, counts[first : first + 1 + _NEXT]), (grid.highest, counts[: -2 - _NEXT : -1])]
        crowded = [int(end[0]) for code, end in ends if code != grid.zero_point and end[0] > _CROWDED * end[1:].mean()]
        return sum(crowded) / total

    @property
    def quantization(self) -> Quantization:
        """The same in the words that weights have."""
        grid = self.grid
        return Quantization(
            bits=grid.bits,
            scheme="symmetric" if self.is_symmetric else "asymmetric",
            granularity="tensor",
            axis=None,
            block_size=None,
            scale_min=grid.scale,
            scale_max=grid.scale,
            zero_point_min=float(grid.zero_point),
            zero_point_max=float(grid.zero_point),
            saturated_fraction=self.saturated_fraction,
            unused_codes=int(np.count_nonzero(self.counts == 0)) if len(self.counts) > 3 else None,
        )
