"""A mergeable histogram whose buckets are fixed in advance: log-spaced, by sign and magnitude.

A bucket holds the values that agree in the top 16 bits of their float32: the sign, the exponent and seven bits of the
mantissa. Its width is 1/128 of its lower end, so that its midpoint is at most 1/256 away, relative to any value in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_KEY", "RELATIVE_ERROR", "LogHistogram"]

RELATIVE_ERROR = 2.0**-8
"""Of a quantile, for magnitudes from 2**-126 up to the largest float32; below 2**-133 everything counts as zero."""

MAX_KEY = 0x7F7F  # the bucket of the largest float32
_FEWEST = 4
_TOLD = 8.0  # a deviation of so many errors of a bucket says how numbers are spread
_LEAST_SHARE = 1e-4  # of a bin of the stability index: an empty one would make it infinite
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class LogHistogram:
    """Counts of finite elements by bucket, only those that are not empty.

    Attributes:
        keys: int32, ascending: the top 15 bits of the magnitude's float32, negative for negative values, so that keys
            are in the order of the values. 0 is zero itself. Values beyond float32 stand in the outermost buckets.
        counts: int64, of the same length, above 0.
    """

    keys: NDArray[np.int32]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> LogHistogram:
        """A histogram that has seen nothing."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int64))

    @classmethod
    def of(cls, values: NDArray[Any]) -> LogHistogram:
        """Count an array of any shape; what is not finite is left out."""
        narrow = np.asarray(values)
        if narrow.dtype != np.float32:
            with np.errstate(invalid="ignore"):
                wide = narrow.astype(np.float64)
                finite = np.isfinite(wide)
                narrow = np.clip(wide, -_LARGEST, _LARGEST).astype(np.float32)
                narrow = narrow[finite] if not finite.all() else narrow
        bits = np.ascontiguousarray(narrow).reshape(-1).view(np.uint32) >> np.uint32(16)
        dense = np.bincount(bits, minlength=1 << 16)
        positive, negative = dense[: MAX_KEY + 1], dense[0x8000 : 0x8000 + MAX_KEY + 1]
        # Key 0 takes in the negative numbers that are as good as zero, -0.0 among them.
        positive[0] += negative[0]
        negative[0] = 0
        above, below = np.flatnonzero(positive != 0), np.flatnonzero(negative != 0)[::-1]
        keys = np.concatenate((-below, above)).astype(np.int32)
        return cls(keys, np.concatenate((negative[below], positive[above])).astype(np.int64))

    def merge(self, other: LogHistogram) -> LogHistogram:
        """Return the counts of both."""
        if not len(other.keys) or not len(self.keys):
            return self if len(self.keys) else other
        places = np.searchsorted(self.keys, other.keys)
        known = self.keys[np.minimum(places, len(self.keys) - 1)] == other.keys
        counts = self.counts.copy()
        counts[places[known]] += other.counts[known]
        if known.all():  # of one value, a batch is much like another
            return LogHistogram(self.keys, counts)
        new = ~known
        return LogHistogram(
            np.insert(self.keys, places[new], other.keys[new]), np.insert(counts, places[new], other.counts[new])
        )

    @property
    def total(self) -> int:
        """How many elements were counted."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float | None:
        """Return the value of rank `ceil(share * total)`, as the midpoint of its bucket; None where there is none.

        This is numpy's method `inverted_cdf`, within `RELATIVE_ERROR`.
        """
        total = self.total
        if not total:
            return None
        rank = min(max(math.ceil(share * total), 1), total)
        return _midpoint(int(self.keys[np.searchsorted(np.cumsum(self.counts), rank)]))

    @property
    def kurtosis(self) -> float | None:
        """The fourth central moment over the square of the second: 3 for normal numbers.

        Every element counts as its bucket's midpoint, so that it is within 2 % or so. None below four elements, and
        where buckets are too wide to tell how numbers far from zero are spread.
        """
        if self.total < _FEWEST:
            return None
        places = np.array([_midpoint(int(key)) for key in self.keys])
        largest = float(np.abs(places).max())
        if not largest:
            return None
        scaled = places / largest  # no fourth power overflows
        mean = float(np.average(scaled, weights=self.counts))
        second, fourth = (float(np.average((scaled - mean) ** power, weights=self.counts)) for power in (2, 4))
        if second <= (_TOLD * RELATIVE_ERROR * mean) ** 2 or not second:
            return None
        return fourth / second**2

    @property
    def median_magnitude(self) -> float | None:
        """The median of the magnitudes, as the midpoint of its bucket; None where nothing was counted."""
        if not self.total:
            return None
        order = np.argsort(np.abs(self.keys), kind="stable")
        place = np.searchsorted(np.cumsum(self.counts[order]), -(-self.total // 2))
        return abs(_midpoint(int(self.keys[order[place]])))

    def count_between(self, low: float, high: float) -> int:
        """Count the elements in buckets that lie between two values, to the nearest bucket."""
        first = np.searchsorted(self.keys, _key(low))
        last = np.searchsorted(self.keys, _key(high), "right")
        return int(self.counts[first:last].sum())

    def count_beyond(self, low: float, high: float) -> int:
        """Count the elements in buckets that lie wholly below the first value or above the second."""
        return int(self.counts[(self.keys < _key(low)) | (self.keys > _key(high))].sum())

    def stability_index(self, other: LogHistogram, bins: int = 10) -> tuple[float, int] | None:
        """Return the population stability index of another histogram against this one, and the number of its bins.

        The index is the sum over bins of `(q - p) * log(q / p)`, in nats, for the shares p here and q there. Bins end
        at the buckets of this histogram's quantiles, so that each holds about as much; a bucket that holds as much as a
        bin is one of its own, and the outermost bins are open. A share counts as 1e-4 at least. None where a side is
        empty.
        """
        if not self.total or not other.total:
            return None
        ranks = np.ceil(np.arange(1, bins) / bins * self.total)
        places = np.unique(np.searchsorted(np.cumsum(self.counts), ranks))
        heavy = places[self.counts[places] * bins >= self.total]
        ends = np.union1d(self.keys[places], self.keys[heavy] - 1)
        shares = []
        for side in (self, other):
            counts = np.bincount(np.searchsorted(ends, side.keys), side.counts, len(ends) + 1)
            shares.append(np.maximum(counts / side.total, _LEAST_SHARE))
        p, q = shares
        return float(((q - p) * np.log(q / p)).sum()), len(p)

    def wasserstein(self, other: LogHistogram) -> tuple[float, float] | None:
        """Return the Wasserstein distance (of order 1) between this histogram and another, in the unit of their values.

        Every element counts as its bucket's midpoint. The second number is the integral of `sqrt(F * (1 - F))` over
        the distribution F of both, each with the same weight: what the distance of random samples is measured in. None
        where a side is empty, and where buckets are too wide to tell how far numbers far from zero are moved.

        References:
            Vallender, "Calculation of the Wasserstein Distance Between Probability Distributions on the Line", 1974.
        """
        if not self.total or not other.total:
            return None
        keys = np.union1d(self.keys, other.keys)
        places = np.array([_midpoint(int(key)) for key in keys])
        shares = np.zeros((2, len(keys)))
        for row, side in zip(shares, (self, other), strict=True):
            row[np.searchsorted(keys, side.keys)] = side.counts / side.total
        if self._is_coarse or other._is_coarse:
            return None
        gaps = np.diff(places)
        mine, theirs = np.cumsum(shares, axis=1)[:, :-1]
        both = np.clip((mine + theirs) / 2, 0, 1)
        return float(np.abs(mine - theirs) @ gaps), float(np.sqrt(both * (1 - both)) @ gaps)

    @property
    def _is_coarse(self) -> bool:
        """Whether buckets are too wide to tell how numbers far from zero are spread."""
        places = np.array([_midpoint(int(key)) for key in self.keys])
        largest = float(np.abs(places).max(initial=0.0))
        if not largest:
            return False
        scaled = places / largest  # no square overflows
        mean = float(np.average(scaled, weights=self.counts))
        return float(np.average((scaled - mean) ** 2, weights=self.counts)) <= (_TOLD * RELATIVE_ERROR * mean) ** 2

    def count_tiny(self, limit: float) -> int:
        """Count the elements that are not zero and below `limit`, a power of two, in magnitude."""
        key = _key(limit)
        tiny = (np.abs(self.keys) < key) & (self.keys != 0)
        return int(self.counts[tiny].sum())


def _key(value: float) -> int:
    narrow = np.float32(min(max(value, -_LARGEST), _LARGEST))
    magnitude = int(np.abs(narrow).view(np.uint32) >> np.uint32(16))
    return -magnitude if narrow < 0 else magnitude


def _midpoint(key: int) -> float:
    if key == 0:
        return 0.0
    ends = np.array([abs(key) << 16, (abs(key) << 16) + 0x10000], np.uint32).view(np.float32).astype(np.float64)
    upper = _LARGEST if abs(key) == MAX_KEY else ends[1]
    return math.copysign(float(ends[0] + upper) / 2, key)
