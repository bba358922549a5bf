"""The mergeable statistic of numpy arrays: moments, extremes, zeros, what is not finite.

Everything runs block by block, on as many threads as its caller gives, and partial results are merged in block order:
the number of threads changes no bit of a result. Statistics are over finite elements; NaN and infinities are counted
apart.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxscope.errors import InputError
from onnxscope.numerics.blocks import Index, checked_array, spans, widened

__all__ = ["ChannelStatistics", "Moments", "Statistics", "measure_span"]

Array: TypeAlias = npt.NDArray[Any]
Counts: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


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


@dataclass(eq=False)
class Moments:
    """The mergeable statistic: count, moments, extremes and zeros of everything seen so far, each channel apart.

    All arrays have one shape: (channels,), or (samples, channels) where samples are kept apart too. Sums are float64
    whatever the element type, since float16 overflows at 65504 and float32 loses the mean of a centred weight. Only
    `update` and `absorb` change an object, so whoever takes one over must not call them.

    Attributes:
        count: int64, finite elements.
        mean: float64, 0 where no element is finite.
        m2: float64, sum of squared deviations from `mean`.
        min: float64, `inf` where no element is finite.
        max: float64, `-inf` likewise.
        nan: int64, elements that are NaN.
        inf: int64, infinite elements of either sign.
        examined: int64, the finite elements among those that zeros are counted from: all of them, but where a tap's
            values are too many.
        zeros: int64, zeros among them.
    """

    count: Counts
    mean: Floats
    m2: Floats
    min: Floats
    max: Floats
    nan: Counts
    inf: Counts
    examined: Counts
    zeros: Counts

    @classmethod
    def empty(cls, *shape: int) -> Moments:
        """Return what is known before the first element."""
        count, nan, inf, examined, zeros = np.zeros((5, *shape), np.int64)
        mean, m2, low, high = np.zeros((4, *shape))
        low += math.inf
        high -= math.inf
        return cls(count=count, mean=mean, m2=m2, min=low, max=high, nan=nan, inf=inf, examined=examined, zeros=zeros)

    def update(self, array: Array, channel_axis: int | None = None) -> None:
        """Take in one more array, which is neither changed nor kept; for moments of shape (channels,).

        Args:
            array: Any shape, layout and numeric element type, those of ml_dtypes included.
            channel_axis: The axis whose length is the number of channels, None for a single channel.

        Raises:
            InputError: The elements are not real numbers, or the axis does not fit.
        """
        array, axis = checked_array(array, channel_axis)
        channels = 1 if axis is None else array.shape[axis]
        if channels != self.count.size:
            raise InputError(f"{channels} channels instead of {self.count.size}: an array of shape {array.shape}")
        for span in spans(array.shape):
            self.absorb(*measure_span(array, axis, span))

    def merge(self, other: Moments) -> Moments:
        """Combine with moments of disjoint data and the same shape.

        Returns:
            New moments that share no array with either side; an empty side changes no bit of the other.

        Raises:
            InputError: The two sides differ in their number of channels.
        """
        if other.count.shape != self.count.shape:
            raise InputError(f"{other.count.size} channels instead of {self.count.size}: an accumulator to merge")
        merged = Moments(**{name: values.copy() for name, values in vars(self).items()})
        merged.absorb(slice(None), other)
        return merged

    def absorb(self, channels: slice, part: Moments) -> None:
        """Merge `part` into these channels in place.

        References:
            Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983: pairwise update.
        """
        before, mean = self.count[channels], self.mean[channels]
        with np.errstate(over="ignore", invalid="ignore"):
            share = part.count / np.maximum(before + part.count, 1)
            # An empty side must not change the other one, not even where that has overflowed: 0 * inf is NaN.
            delta = np.where(part.count > 0, part.mean - mean, 0.0)
            between = np.where(before > 0, before * share * delta * delta, 0.0)
            self.m2[channels] += part.m2 + between
            mean += delta * share
        np.minimum(self.min[channels], part.min, out=self.min[channels])
        np.maximum(self.max[channels], part.max, out=self.max[channels])
        for name in ("count", "nan", "inf", "examined", "zeros"):
            getattr(self, name)[channels] += getattr(part, name)

    def combined(self) -> Moments:
        """Return new moments of everything along the first axis taken together: all samples of a run, all channels.

        References:
            Chan, Golub and LeVeque, 1983: the update of many sets at once.
        """
        count = self.count.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = (self.mean * (self.count / np.maximum(count, 1))).sum(axis=0)
            deviations = self.mean - mean
            m2 = self.m2.sum(axis=0) + (self.count * deviations * deviations).sum(axis=0)
        low = self.min.min(axis=0, initial=math.inf) + 0.0  # which zero came first depends on the cut
        high = self.max.max(axis=0, initial=-math.inf) + 0.0
        constant = low == high  # rounding must not spread it
        return Moments(
            count=count,
            mean=np.where(constant, low, mean),
            m2=np.where(constant, 0.0, m2),
            min=low,
            max=high,
            nan=self.nan.sum(axis=0),
            inf=self.inf.sum(axis=0),
            examined=self.examined.sum(axis=0),
            zeros=self.zeros.sum(axis=0),
        )

    def reshaped(self, *shape: int) -> Moments:
        """Return the same moments with axes of other lengths; the arrays are shared."""
        return Moments(**{name: values.reshape(shape) for name, values in vars(self).items()})

    @property
    def overall(self) -> Statistics:
        """Statistics of all channels together."""
        count, nan, inf = (int(counts.sum()) for counts in (self.count, self.nan, self.inf))
        if not count:
            return Statistics(
                count=nan + inf,
                mean=None,
                std=None,
                min=None,
                max=None,
                zero_fraction=None,
                nan_count=nan,
                inf_count=inf,
            )
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = float(self.min.min()), float(self.max.max())
            # Not `combined()`: what is printed has always been summed in this order, which rounds otherwise.
            mean = float((self.mean * self.count).sum() / count)
            if math.isfinite(mean):  # rounding must not move the mean of a constant
                mean = min(max(mean, low), high)
            delta = self.mean - mean
            m2 = float((self.m2 + self.count * delta * delta).sum())
        examined = int(self.examined.sum())
        return Statistics(
            count=count + nan + inf,
            mean=_or_none(mean),
            std=_or_none(math.sqrt(m2 / (count - 1))) if count > 1 and m2 >= 0 else None,
            min=low + 0.0,  # which zero came first depends on the cut, and -0.0 helps nobody
            max=high + 0.0,
            zero_fraction=int(self.zeros.sum()) / examined if examined else None,
            nan_count=nan,
            inf_count=inf,
        )

    @property
    def channels(self) -> ChannelStatistics:
        """Statistics of each channel, for moments of shape (channels,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            std = np.sqrt(self.m2 / np.where(self.count > 1, self.count - 1, math.nan))
            mean = np.where(self.count > 0, self.mean, math.nan)
            zero_fraction = self.zeros / self.examined
        return ChannelStatistics(
            mean=_plain(mean),
            std=_plain(std),
            min=_plain(self.min),
            max=_plain(self.max),
            zero_fraction=_plain(zero_fraction),
        )

    @property
    def zero_channels(self) -> tuple[int, ...]:
        """Numbers of the channels of which every element is zero, and of which there is at least one."""
        only_zeros = (self.min == 0) & (self.max == 0) & (self.nan == 0) & (self.inf == 0)
        return tuple(np.flatnonzero(only_zeros).tolist())


def measure_span(array: Array, axis: int | None, span: list[Index]) -> tuple[slice, Moments]:
    """Return the state of a run of blocks, and the channels that it is about."""
    places = [slice(0, 1) if axis is None else index[axis] for index in span]
    first = min(place.start for place in places)
    channels = slice(first, max(place.stop for place in places))
    if len(span) == 1:
        return channels, _measure(array[span[0]], axis)
    total = Moments.empty(channels.stop - first)
    for index, place in zip(span, places, strict=True):
        total.absorb(slice(place.start - first, place.stop - first), _measure(array[index], axis))
    return channels, total


@np.errstate(invalid="ignore")  # a signalling NaN is a NaN
def _measure(block: Array, channel_axis: int | None) -> Moments:
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
    part = Moments.empty(channels)
    part.count += outer * inner
    part.min[:], part.max[:] = np.minimum.reduce(values, axis), np.maximum.reduce(values, axis)
    finite = None
    if not (np.isfinite(part.min) & np.isfinite(part.max)).all():
        finite = np.isfinite(values)
        _set_aside(part, values, finite, axis)
    if ((part.min <= 0) & (part.max >= 0)).any() and (zero := values == 0).any():
        part.zeros += np.add.reduce(zero, axis, dtype=np.int64)
    part.examined += part.count
    filled = values if finite is None else np.where(finite, values, 0)
    _add_moments(part, filled.astype(np.float64, copy=False), finite, axis, letters)
    return part


def _set_aside(part: Moments, values: Array, finite: npt.NDArray[np.bool_], axis: int | tuple[int, ...]) -> None:
    """Count what is not finite, and take the extremes of the rest."""
    part.nan += np.add.reduce(np.isnan(values), axis, dtype=np.int64)
    part.inf += part.count - part.nan
    part.count[:] = np.add.reduce(finite, axis, dtype=np.int64)
    part.inf -= part.count
    part.min[:] = np.minimum.reduce(values, axis, where=finite, initial=math.inf)
    part.max[:] = np.maximum.reduce(values, axis, where=finite, initial=-math.inf)


@np.errstate(over="ignore", invalid="ignore")  # of float64 only; what has overflowed is reported as undefined
def _add_moments(
    part: Moments,
    values: Floats,
    finite: npt.NDArray[np.bool_] | None,
    axis: int | tuple[int, ...],
    letters: str,
) -> None:
    """Fill in mean and m2 of a block in which zeros stand for what is not finite."""
    dot = f"{letters},{letters}->c"
    count = np.maximum(part.count, 1)
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
