"""Accumulators of numpy arrays: moments, extremes, zeros, what is not finite.

Everything runs block by block, so that memory stays bounded however large an array is, and on as many threads as its
caller gives. The cut into blocks follows from the shape alone and partial results are merged in block order: the number
of threads changes no bit of a result. Statistics are over finite elements; NaN and infinities are counted apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxscope.errors import InputError

__all__ = [
    "Accumulator",
    "ChannelStatistics",
    "Index",
    "Statistics",
    "checked_array",
    "measure_span",
    "spans",
    "widened",
]

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Index: TypeAlias = tuple[slice, ...]

_BLOCK = 1 << 16  # elements: as float64 half of a 1 MB second-level cache; larger blocks measured no faster
_SPAN_BLOCKS = 16  # blocks in one task of a thread pool: about 3 ms of work against 30 us of hand-over
_NARROW = frozenset(np.dtype(name) for name in ("bool", "int8", "uint8", "int16", "uint16", "float16", "float32"))


@dataclass(frozen=True)
class Statistics:
    """What is known of one tensor as a whole.

    Attributes:
        count: All elements, finite or not.
        mean: Over finite elements, None where there is none or where float64 overflows; so are the next three.
        std: Sample standard deviation (ddof 1), None for fewer than two finite elements.
        min: Smallest finite element; an int where a 64-bit integer is beyond what float64 holds exactly.
        max: Largest finite element, likewise.
        zero_fraction: Zeros among the finite elements, 0 to 1.
        nan_count: Elements that are NaN.
        inf_count: Elements that are infinite, of either sign.
    """

    count: int
    mean: float | None
    std: float | None
    min: float | int | None
    max: float | int | None
    zero_fraction: float | None
    nan_count: int
    inf_count: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for strict JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ChannelStatistics:
    """The same for each channel, in channel order; None stands for what is undefined."""

    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]
    min: tuple[float | int | None, ...]
    max: tuple[float | int | None, ...]
    zero_fraction: tuple[float | None, ...]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the fields as lists, ready for strict JSON."""
        return {name: list(values) for name, values in vars(self).items()}


class Accumulator:
    """Count, moments, extremes and zeros of every channel, over all arrays given so far.

    The state is public, for storing and merging; every array has shape (channels,). Sums are float64 whatever the
    element type, since float16 overflows at 65504 and float32 loses the mean of a centred weight.

    Attributes:
        finite: int64, finite elements.
        mean: float64, 0 for a channel without finite elements.
        m2: float64, sum of squared deviations from `mean`.
        min: float64, `inf` for a channel without finite elements.
        max: float64, `-inf` likewise.
        zeros: int64, elements equal to zero.
        nan: int64, elements that are NaN.
        inf: int64, infinite elements.
    """

    def __init__(self, channels: int = 1) -> None:
        self.finite, self.zeros, self.nan, self.inf = np.zeros((4, channels), np.int64)
        self.mean, self.m2, self.min, self.max = np.zeros((4, channels))
        self.min += math.inf
        self.max -= math.inf

    def update(self, array: Array, channel_axis: int | None = None) -> None:
        """Take in one more array, which is neither changed nor kept.

        Args:
            array: Any shape, layout and numeric element type, those of ml_dtypes included.
            channel_axis: The axis whose length is the number of channels, None for a single channel.

        Raises:
            InputError: The elements are not real numbers, or the axis does not fit.
        """
        array, axis = checked_array(array, channel_axis)
        channels = 1 if axis is None else array.shape[axis]
        if channels != self.mean.size:
            raise InputError(f"{channels} channels instead of {self.mean.size}: an array of shape {array.shape}")
        for span in spans(array.shape):
            self.absorb(*measure_span(array, axis, span))

    def merge(self, other: Accumulator) -> Accumulator:
        """Combine two accumulators that have seen disjoint data.

        Returns:
            A new accumulator that shares no array with either side; an empty side changes no bit of the other.

        Raises:
            InputError: The two sides differ in their number of channels.

        References:
            Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983: pairwise update.
        """
        if other.mean.size != self.mean.size:
            raise InputError(f"{other.mean.size} channels instead of {self.mean.size}: an accumulator to merge")
        merged = Accumulator(self.mean.size)
        for side in (self, other):
            merged.absorb(slice(None), side)
        return merged

    def absorb(self, channels: slice, part: Accumulator) -> None:
        """Merge `part` into these channels in place."""
        before, mean = self.finite[channels], self.mean[channels]
        with np.errstate(over="ignore", invalid="ignore"):
            share = part.finite / np.maximum(before + part.finite, 1)
            delta = part.mean - mean
            # In this order an empty side contributes 0 * delta, never 0 * inf.
            self.m2[channels] += part.m2 + before * share * delta * delta
            mean += delta * share
        before += part.finite
        np.minimum(self.min[channels], part.min, out=self.min[channels])
        np.maximum(self.max[channels], part.max, out=self.max[channels])
        self.zeros[channels] += part.zeros
        self.nan[channels] += part.nan
        self.inf[channels] += part.inf

    @property
    def overall(self) -> Statistics:
        """Statistics of all channels together."""
        finite, nan, inf = (int(counts.sum()) for counts in (self.finite, self.nan, self.inf))
        count = finite + nan + inf
        if not finite:
            return Statistics(count, None, None, None, None, None, nan, inf)
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = float(self.min.min()), float(self.max.max())
            mean = float((self.mean * self.finite).sum() / finite)
            if math.isfinite(mean):  # rounding must not move the mean of a constant
                mean = min(max(mean, low), high)
            delta = self.mean - mean
            m2 = float((self.m2 + self.finite * delta * delta).sum())
        return Statistics(
            count=count,
            mean=_or_none(mean),
            std=_or_none(math.sqrt(m2 / (finite - 1))) if finite > 1 and m2 >= 0 else None,
            min=low + 0.0,  # which zero came first depends on the cut, and -0.0 helps nobody
            max=high + 0.0,
            zero_fraction=int(self.zeros.sum()) / finite,
            nan_count=nan,
            inf_count=inf,
        )

    @property
    def channels(self) -> ChannelStatistics:
        """Statistics of each channel."""
        with np.errstate(divide="ignore", invalid="ignore"):
            std = np.sqrt(self.m2 / np.where(self.finite > 1, self.finite - 1, math.nan))
            mean = np.where(self.finite > 0, self.mean, math.nan)
            zero_fraction = self.zeros / self.finite
        return ChannelStatistics(*map(_plain, (mean, std, self.min, self.max, zero_fraction)))

    @property
    def zero_channels(self) -> tuple[int, ...]:
        """Numbers of the channels of which every element is zero, and of which there is at least one."""
        only_zeros = (self.min == 0) & (self.max == 0) & (self.nan == 0) & (self.inf == 0)
        return tuple(np.flatnonzero(only_zeros).tolist())


def checked_array(array: Array, channel_axis: int | None) -> tuple[Array, int | None]:
    """Return the array with at least one axis, as a plain ndarray, and its channel axis counted from the left.

    Raises:
        InputError: The elements are not real numbers, or the axis does not fit.
    """
    array = np.asarray(array)
    kind = array.dtype.kind
    if kind not in "biuf" and not (kind == "V" and array.dtype.type is not np.void):  # V: the types of ml_dtypes
        raise InputError(f"no statistics for elements of type {array.dtype}: an array of shape {array.shape}")
    if channel_axis is None:
        return np.atleast_1d(array), None
    if not -array.ndim <= channel_axis < array.ndim:
        raise InputError(f"no axis {channel_axis} for channels: an array of shape {array.shape}")
    return array, channel_axis % array.ndim


def spans(shape: tuple[int, ...]) -> Iterator[list[Index]]:
    """Cut an array of this shape into runs of blocks, in C order; nothing for an array without elements."""
    blocks = _blocks(shape)
    while span := list(itertools.islice(blocks, _SPAN_BLOCKS)):
        yield span


def _blocks(shape: tuple[int, ...]) -> Iterator[Index]:
    size = math.prod(shape)
    if 0 < size <= _BLOCK:
        yield tuple(slice(0, length) for length in shape)
    elif size:
        axis = next(i for i, length in enumerate(shape) if length > 1)
        length = shape[axis]
        pieces = -(-length // max(1, _BLOCK * length // size))
        for piece in range(pieces):  # of even length
            start, stop = piece * length // pieces, (piece + 1) * length // pieces
            for rest in _blocks((stop - start, *shape[axis + 1 :])):
                yield (
                    *(slice(0, 1) for _ in shape[:axis]),
                    slice(start + rest[0].start, start + rest[0].stop),
                    *rest[1:],
                )


def widened(block: Array) -> Array:
    """Return the block as float32 where that holds the element type exactly, else as float64; perhaps a view."""
    narrow = block.dtype in _NARROW or block.dtype.kind == "V"
    return block.astype(np.float32 if narrow else np.float64, copy=False)


def measure_span(array: Array, axis: int | None, span: list[Index]) -> tuple[slice, Accumulator]:
    """Return the state of a run of blocks, and the channels that it is about."""
    places = [slice(0, 1) if axis is None else index[axis] for index in span]
    first = min(place.start for place in places)
    channels = slice(first, max(place.stop for place in places))
    if len(span) == 1:
        return channels, _measure(array[span[0]], axis)
    total = Accumulator(channels.stop - first)
    for index, place in zip(span, places, strict=True):
        total.absorb(slice(place.start - first, place.stop - first), _measure(array[index], axis))
    return channels, total


def _measure(block: Array, channel_axis: int | None) -> Accumulator:
    """Return the state of one block, which holds at least one element."""
    outer, channels, inner = 1, 1, block.size
    if channel_axis is not None:
        outer, channels = math.prod(block.shape[:channel_axis]), block.shape[channel_axis]
        inner = math.prod(block.shape[channel_axis + 1 :])
    values = widened(block.reshape(outer, channels, inner))
    axis: int | tuple[int, ...] = (0, 2)
    letters = "oci"
    if outer == 1:  # numpy reduces one axis much faster than two
        values, axis, letters = values[0], 1, "ci"
    elif inner == 1:
        values, axis, letters = values[:, :, 0], 0, "oc"
    part = Accumulator(channels)
    part.finite += outer * inner
    part.min[:], part.max[:] = np.minimum.reduce(values, axis), np.maximum.reduce(values, axis)
    finite = None
    if not (np.isfinite(part.min) & np.isfinite(part.max)).all():
        finite = np.isfinite(values)
        _set_aside(part, values, finite, axis)
    if ((part.min <= 0) & (part.max >= 0)).any() and (zero := values == 0).any():
        part.zeros += np.add.reduce(zero, axis, dtype=np.int64)
    filled = values if finite is None else np.where(finite, values, 0)
    _add_moments(part, filled.astype(np.float64, copy=False), finite, axis, letters)
    return part


def _set_aside(part: Accumulator, values: Array, finite: npt.NDArray[np.bool_], axis: int | tuple[int, ...]) -> None:
    """Count what is not finite, and take the extremes of the rest."""
    part.nan += np.add.reduce(np.isnan(values), axis, dtype=np.int64)
    part.inf += part.finite - part.nan
    part.finite[:] = np.add.reduce(finite, axis, dtype=np.int64)
    part.inf -= part.finite
    part.min[:] = np.minimum.reduce(values, axis, where=finite, initial=math.inf)
    part.max[:] = np.maximum.reduce(values, axis, where=finite, initial=-math.inf)


@np.errstate(over="ignore", invalid="ignore")  # of float64 only; what has overflowed is reported as undefined
def _add_moments(
    part: Accumulator,
    values: Floats,
    finite: npt.NDArray[np.bool_] | None,
    axis: int | tuple[int, ...],
    letters: str,
) -> None:
    """Fill in mean and m2 of a block in which zeros stand for what is not finite."""
    dot = f"{letters},{letters}->c"
    count = np.maximum(part.finite, 1)
    total = np.add.reduce(values, axis)
    squares = np.einsum(dot, values, values)  # not a BLAS call, whose rounding depends on its own threads
    part.mean[:] = total / count
    part.m2[:] = squares - total * part.mean
    if (part.m2 >= 1e-3 * squares).all():  # little was cancelled: a further pass over the data would gain nothing
        return
    deviations = values - np.expand_dims(part.mean, axis)
    if finite is not None:
        deviations *= finite
    residue = np.add.reduce(deviations, axis)
    part.m2[:] = np.maximum(np.einsum(dot, deviations, deviations) - residue * residue / count, 0)
    constant = part.min == part.max  # here rounding is all that there would be
    part.mean[constant], part.m2[constant] = part.min[constant], 0


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(values: Floats) -> tuple[float | None, ...]:
    plain = (values + 0.0).tolist()
    return tuple(plain) if np.isfinite(values).all() else tuple(x if math.isfinite(x) else None for x in plain)
