"""Summaries of stored tensors: statistics as a whole and per channel, with a histogram."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from onnxscope.errors import InputError
from onnxscope.numerics.blocks import Index, checked_array, spans
from onnxscope.numerics.histograms import Histogram, count_span, histogram_edges
from onnxscope.numerics.moments import ChannelStatistics, Moments, Statistics, measure_span

__all__ = ["Summary", "describe", "describe_all"]

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
_Result = TypeVar("_Result")

_SHARED = 1 << 22  # elements from which on several threads work on one tensor
_GROUP = 1 << 18  # elements of small tensors that make one task
_EXACT_INTEGERS = 2**53  # float64 holds every integer up to here


@dataclass(frozen=True)
class Summary:
    """Everything that `describe` finds out about one tensor.

    Attributes:
        overall: Statistics of the whole tensor.
        channels: Statistics per channel, None where no channel axis was given.
        zero_channels: Numbers of the channels that hold nothing but zeros.
        histogram: None where no element is finite, or where numpy cannot divide the range.
    """

    overall: Statistics
    channels: ChannelStatistics | None
    zero_channels: tuple[int, ...]
    histogram: Histogram | None


def describe(
    array: Array, channel_axis: int | None = None, *, bins: int = 50, pool: ThreadPoolExecutor | None = None
) -> Summary:
    """Summarise one tensor in two passes over its blocks.

    Args:
        array: Any shape, layout and numeric element type; neither changed nor kept.
        channel_axis: The axis whose channels are kept apart, None for none.
        bins: Bins of the histogram.
        pool: Threads to share large arrays among; not one whose own task calls this, which could wait for itself.

    Raises:
        InputError: The elements are not real numbers, the axis does not fit, or `bins` is below 1.
    """
    array, axis = checked_array(array, channel_axis)
    if bins < 1:
        raise InputError(f"a histogram needs at least one bin: {bins}")
    runs = list(spans(array.shape))
    parts = _shared(lambda span: measure_span(array, axis, span), runs, pool)
    if len(runs) == 1:
        _, moments = next(parts)
    else:
        moments = Moments.empty(1 if axis is None else array.shape[axis])
        for channels, part in parts:
            moments.absorb(channels, part)
    overall = moments.overall
    histogram = None
    if overall.min is not None and overall.max is not None:
        histogram = _histogram(array, histogram_edges(overall.min, overall.max, bins), runs, pool)
    summary = Summary(
        overall=overall,
        channels=None if axis is None else moments.channels,
        zero_channels=() if axis is None else moments.zero_channels,
        histogram=histogram,
    )
    if array.dtype.kind in "iu" and max(abs(overall.min or 0), abs(overall.max or 0)) >= _EXACT_INTEGERS:
        return _with_exact_extremes(array, axis, summary)
    return summary


def _shared(
    work: Callable[[list[Index]], _Result], runs: list[list[Index]], pool: ThreadPoolExecutor | None
) -> Iterator[_Result]:
    """Map over runs of blocks, in order, on the pool where there is one and it would help."""
    return map(work, runs) if pool is None or len(runs) == 1 else pool.map(work, runs)


def describe_all(
    tensors: Iterable[tuple[Array, int | None]], *, bins: int = 50, threads: int | None = None
) -> Iterator[Summary]:
    """Summarise many tensors on several threads, in the order given.

    Small tensors travel together, large ones are shared among the threads block by block; `tensors` may be a generator
    and is read only a little ahead.

    Args:
        tensors: Each array with its channel axis.
        bins: Bins of every histogram.
        threads: None for one per core.

    Raises:
        InputError: As `describe`.
    """
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[list[Summary]]] = deque()
        for group in _groups(tensors):
            array, axis = group[0]
            if array.size > _SHARED:
                while waiting:
                    yield from waiting.popleft().result()
                yield describe(array, axis, bins=bins, pool=pool)
                continue
            waiting.append(pool.submit(_describe_group, group, bins))
            while len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _histogram(
    array: Array, edges: Floats | None, runs: list[list[Index]], pool: ThreadPoolExecutor | None
) -> Histogram | None:
    if edges is None:
        return None
    counts = np.zeros(len(edges) - 1, np.int64)
    for part in _shared(lambda span: count_span(array, edges, span), runs, pool):
        counts += part
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _describe_group(group: Sequence[tuple[Array, int | None]], bins: int) -> list[Summary]:
    return [describe(array, axis, bins=bins) for array, axis in group]


def _groups(tensors: Iterable[tuple[Array, int | None]]) -> Iterator[list[tuple[Array, int | None]]]:
    """Put small tensors together, so that each task is worth its hand-over to a thread."""
    group: list[tuple[Array, int | None]] = []
    size = 0
    for tensor in tensors:
        large = tensor[0].size > _SHARED
        if group and (large or size > _GROUP):
            yield group
            group, size = [], 0
        if large:
            yield [tensor]
        else:
            group.append(tensor)
            size += tensor[0].size + _GROUP // 64  # at most 64 tensors: each has a cost of its own
    if group:
        yield group


def _with_exact_extremes(array: Array, axis: int | None, summary: Summary) -> Summary:
    """Replace minimum and maximum by Python integers where float64 does not hold them."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    low, high = (np.atleast_1d(extreme).tolist() for extreme in (array.min(axis=others), array.max(axis=others)))
    channels = None if summary.channels is None else replace(summary.channels, min=tuple(low), max=tuple(high))
    return replace(summary, overall=replace(summary.overall, min=min(low), max=max(high)), channels=channels)
