"""Values cut by samples and channels: what one run showed of one tap, as observers make it and profiles take it in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.attention_shares import AttentionShares
from onnxscope.numerics.blocks import widened
from onnxscope.numerics.moments import Moments

__all__ = [
    "GroupedMoments",
    "Observation",
    "count_zeros",
    "counted_parts",
    "observe_array",
    "sample_rows",
    "sample_steps",
]

_EXAMINED = 8192  # elements of a value and a sample that zeros and the histogram are counted from


@dataclass(frozen=True, eq=False)
class GroupedMoments:
    """Moments of the places along one axis, by the groups that these belong to.

    Attributes:
        keys: int64, ascending: what the groups are called, of those that were seen.
        moments: Of shape (groups,).
    """

    keys: NDArray[np.int64]
    moments: Moments

    @classmethod
    def empty(cls) -> GroupedMoments:
        """What is known before the first place."""
        return cls(np.zeros(0, np.int64), Moments.empty(0))

    @classmethod
    def of(cls, array: NDArray[Any], axis: int, keys: NDArray[np.int64]) -> GroupedMoments:
        """Reduce a value whose places along an axis belong to groups.

        Args:
            array: Of real numbers, neither changed nor kept.
            axis: Whose places are told apart.
            keys: The group of each.

        References:
            Chan, Golub and LeVeque, 1983: the update of many sets at once.
        """
        apart = Moments.empty(array.shape[axis])
        apart.update(array, axis)
        names, group = np.unique(keys, return_inverse=True)
        joined = Moments.empty(len(names))
        for name in ("count", "nan", "inf", "examined", "zeros"):
            np.add.at(getattr(joined, name), group, getattr(apart, name))
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(joined.mean, group, apart.mean * (apart.count / np.maximum(joined.count[group], 1)))
            deviations = apart.mean - joined.mean[group]
            np.add.at(joined.m2, group, apart.m2 + apart.count * deviations * deviations)
        np.minimum.at(joined.min, group, apart.min)
        np.maximum.at(joined.max, group, apart.max)
        constant = joined.min == joined.max  # rounding must not spread it
        joined.mean[constant], joined.m2[constant] = joined.min[constant], 0
        return cls(names.astype(np.int64), joined)

    def merge(self, other: GroupedMoments) -> GroupedMoments:
        """Return the moments of both, which are of disjoint data; neither side is changed."""
        keys = np.union1d(self.keys, other.keys)
        return GroupedMoments(keys, self._spread(keys).merge(other._spread(keys)))

    def _spread(self, keys: NDArray[np.int64]) -> Moments:
        """The moments of more groups, of which the others are empty."""
        spread = Moments.empty(len(keys))
        places = np.searchsorted(keys, self.keys)
        for name, values in vars(self.moments).items():
            getattr(spread, name)[places] = values
        return spread


@dataclass(frozen=True, eq=False)
class Observation:
    """Statistics of one tap for every sample of a run and every channel, with some or all of its elements.

    Samples that only fill a fixed batch are left out.

    Attributes:
        moments: Of shape (samples, channels): 1 sample for a value without a batch axis, 1 channel for one without a
            channel axis.
        values: float32 or float64 of shape (samples, channels, elements): the elements that zeros and the histogram are
            counted from, chosen by their place alone; finite or not.
        shape: The value's shape for one sample: without the batch axis where it has one.
        heads: What the heads of an attention do with their shares, None for any other value.
        parts: Where samples differ in what of them counts: those that have as much, by their places among the samples;
            of their union all the rest here is then empty.
        groups: The same elements by groups of tokens or of positions, None where these were not asked for, or the value
            has none.
    """

    moments: Moments
    values: NDArray[Any]
    shape: tuple[int, ...]
    heads: AttentionShares | None = None
    parts: tuple[tuple[tuple[int, ...], Observation], ...] | None = None
    groups: GroupedMoments | None = None

    def by_samples(self) -> tuple[tuple[tuple[int, ...], Observation], ...]:
        """Observations of samples that can be taken together, with the places of these among the run's samples.

        A value without an axis of samples counts once, for the first one.
        """
        return ((tuple(range(len(self.moments.count))), self),) if self.parts is None else self.parts


def sample_steps(shape: Sequence[int], batch_axis: int | None, channel_axis: int | None) -> tuple[int, ...]:
    """Choose which elements are examined: for each axis, every n-th.

    Every channel is examined; the longest of the other axes are thinned out until at most 8,192 elements are left, or
    one a channel.
    """
    sizes = {axis: size for axis, size in enumerate(shape) if axis not in (batch_axis, channel_axis)}
    channels = 1 if channel_axis is None else shape[channel_axis]
    steps = [1] * len(shape)

    def left(axis: int) -> int:
        return -(-sizes[axis] // steps[axis])

    while sizes and channels * math.prod(map(left, sizes)) > _EXAMINED:
        axis = max(sizes, key=left)
        if left(axis) == 1:
            break
        steps[axis] += 1
    return tuple(steps)


def observe_array(
    array: NDArray[Any],
    batch_axis: int | None,
    channel_axis: int | None,
    *,
    samples: int = 1,
    steps: Sequence[int] | None = None,
) -> Observation:
    """Reduce a value in numpy.

    Args:
        array: Of real numbers, neither changed nor kept.
        batch_axis: The axis of samples, None where there is none.
        channel_axis: The axis of channels, None where there is none.
        samples: How many samples are observed, the first ones.
        steps: Which elements are examined, None for all.
    """
    rows = sample_rows(array, batch_axis, channel_axis, samples)
    sides = rows.shape[:2]
    flat = Moments.empty(math.prod(sides))
    flat.update(rows.reshape(flat.count.size, rows.shape[2]), 0)
    moments = flat.reshaped(*sides)
    thinned = steps is not None and max(steps, default=1) > 1
    if thinned:
        places = tuple(slice(None, None, step) for step in steps or ())
        rows = sample_rows(array[places], batch_axis, channel_axis, samples)
    values = widened(rows)
    if thinned:
        moments = count_zeros(moments, values)
    return Observation(moments, values, tuple(size for axis, size in enumerate(array.shape) if axis != batch_axis))


def counted_parts(
    array: NDArray[Any], batch_axis: int | None, counted: Mapping[int, NDArray[np.bool_]], samples: int
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Cut positions that do not count out of a value.

    Args:
        array: Neither changed nor kept.
        batch_axis: The axis of samples, None where the value is one sample.
        counted: By axis, which of its places count, of shape (samples, places).
        samples: How many samples are looked at, the first ones.

    Returns:
        The places of the samples of which the same positions count, and the value of these samples and positions alone,
        in the order of their first samples. A sample of which nothing counts is left out.
    """
    groups: dict[bytes, list[int]] = {}
    for sample in range(1 if batch_axis is None else min(samples, array.shape[batch_axis])):
        groups.setdefault(b"".join(rows[sample].tobytes() for rows in counted.values()), []).append(sample)
    for places in groups.values():
        if not all(rows[places[0]].any() for rows in counted.values()):
            continue
        part = array if batch_axis is None else array.take(places, batch_axis)
        for axis, rows in counted.items():
            row = rows[places[0]]
            part = part if row.all() else part.compress(row, axis)
        yield tuple(places), part


def count_zeros(moments: Moments, values: NDArray[Any]) -> Moments:
    """Return moments of shape (samples, channels) whose zeros are counted from these values alone."""
    if np.isfinite(moments.min).all() and not moments.nan.any() and not moments.inf.any():
        examined = np.full(moments.count.shape, values.shape[2], np.int64)
    else:
        examined = np.isfinite(values).sum(axis=2, dtype=np.int64)
    return replace(moments, examined=examined, zeros=(values == 0).sum(axis=2, dtype=np.int64))


def sample_rows(array: NDArray[Any], batch_axis: int | None, channel_axis: int | None, samples: int) -> NDArray[Any]:
    """The first samples of an array as (samples, channels, elements); one of each where there is no such axis."""
    order = [axis for axis in (batch_axis, channel_axis) if axis is not None]
    rest = [axis for axis in range(array.ndim) if axis not in order]
    sides = [1 if axis is None else array.shape[axis] for axis in (batch_axis, channel_axis)]
    rows = array.transpose(order + rest).reshape(*sides, math.prod(array.shape[axis] for axis in rest))
    return rows if batch_axis is None else rows[:samples]
