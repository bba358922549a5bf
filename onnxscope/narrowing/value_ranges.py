"""The ranges that activations are narrowed to, of the samples that calibrate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.narrowing.sample_halves import SampleBatch

__all__ = ["Range", "RangeRule", "observe_clipping", "observe_ranges"]

Array = NDArray[Any]
RangeRule = Literal["minmax", "percentile", "entropy"]

PERCENTILE = 99.99
"""The share of magnitudes that a range of `percentile` holds."""
_BINS = 2048
_CODES = 128  # of a magnitude, in the entropy rule


@dataclass(frozen=True)
class Range:
    """What a value is narrowed to.

    Attributes:
        low: The least number that is held; not above 0.
        high: The largest one; not below 0.
        clipped_power: Mean square of what clipping takes of the samples that errors are measured on.
    """

    low: float
    high: float
    clipped_power: float = 0.0


def observe_ranges(
    run: Callable[[SampleBatch], Mapping[str, Array]],
    batches: Iterable[SampleBatch],
    names: Sequence[str],
    rule: RangeRule,
) -> dict[str, Range]:
    """Find the ranges of values over some samples.

    Args:
        run: Returns the values of a batch without those of copies.
        batches: Those that calibrate; they are walked over once or twice.
        names: Which values.
        rule: `minmax` holds every number. `percentile` and `entropy` clip magnitudes, to what holds `PERCENTILE` of
            them, or to where the distribution of 128 codes diverges least from their own.
    """
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for batch in batches:
        values = run(batch)
        for name in names:
            exact = values[name].astype(np.float64)
            finite = np.isfinite(exact)
            low[name] = min(low[name], float(exact.min(initial=0.0, where=finite)))
            high[name] = max(high[name], float(exact.max(initial=0.0, where=finite)))
    whole = {name: Range(low[name], high[name]) for name in names}
    if rule == "minmax":
        return whole
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    top = {name: max(-low[name], high[name]) for name in names}
    for batch in batches:
        values = run(batch)
        for name in names:
            magnitudes = np.abs(values[name].astype(np.float64))
            counts[name] += np.histogram(magnitudes, _BINS, (0.0, top[name] or 1.0))[0]
    find = _percentile_bins if rule == "percentile" else _entropy_bins
    found = {}
    for name in names:
        limit = top[name] * find(counts[name]) / _BINS
        found[name] = Range(max(low[name], -limit), min(high[name], limit))
    return found


def observe_clipping(
    run: Callable[[SampleBatch], Mapping[str, Array]], batches: Iterable[SampleBatch], ranges: Mapping[str, Range]
) -> dict[str, Range]:
    """Return ranges with what they clip of other samples.

    Args:
        run: Returns the values of a batch without those of copies.
        batches: Those that errors are measured on.
        ranges: By value.
    """
    squares, counts = dict.fromkeys(ranges, 0.0), dict.fromkeys(ranges, 0)
    for batch in batches:
        values = run(batch)
        for name, known in ranges.items():
            exact = values[name].astype(np.float64)
            exact = exact[np.isfinite(exact)]
            squares[name] += float(np.square(exact - np.clip(exact, known.low, known.high)).sum())
            counts[name] += exact.size
    return {name: replace(known, clipped_power=squares[name] / max(counts[name], 1)) for name, known in ranges.items()}


def _percentile_bins(counts: NDArray[np.int64]) -> int:
    """How many of the bins hold the share of all."""
    total = int(counts.sum())
    return int(np.searchsorted(np.cumsum(counts), total * PERCENTILE / 100)) + 1 if total else len(counts)


def _entropy_bins(counts: NDArray[np.int64]) -> int:
    """How many bins a range has whose codes diverge least from the distribution that is clipped to it.

    References:
        Migacz, "8-bit inference with TensorRT", 2017.
    """
    best, least = len(counts), np.inf
    for bins in range(_CODES, len(counts) + 1, _CODES // 8):
        reference = counts[:bins].astype(np.float64)
        inside = reference.copy()
        reference[-1] += counts[bins:].sum()
        edges = np.linspace(0, bins, _CODES + 1).astype(int)[:-1]
        held = np.maximum.reduceat(inside, edges) > 0
        sums, used = np.add.reduceat(inside, edges), np.add.reduceat((inside > 0).astype(float), edges)
        place = np.searchsorted(edges, np.arange(bins), side="right") - 1
        spread = np.where(inside > 0, (sums / np.maximum(used, 1))[place], 0.0)
        both = (reference > 0) & held[place]
        if not both.any() or not spread.sum() or (reference[~(spread > 0)] > 0).any():
            continue
        p, q = reference / reference.sum(), spread / spread.sum()
        divergence = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-300))).sum())
        if divergence < least:
            best, least = bins, divergence
    return best
