"""What a profile knows of one tap: mergeable state per channel and a histogram of all channels together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.results import Record
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import printable
from onnxscope.errors import MergeError
from onnxscope.numerics.attention_shares import AttentionShares
from onnxscope.numerics.code_use import CodeUse
from onnxscope.numerics.hashes import mix_bits
from onnxscope.numerics.log_histogram import RELATIVE_ERROR, LogHistogram
from onnxscope.numerics.moments import ChannelStatistics, Moments, Statistics
from onnxscope.numerics.sample_moments import GroupedMoments, Observation
from onnxscope.numerics.token_outlier import TokenOutlier

__all__ = ["COLUMNS", "LEAST", "QUANTILES", "ChannelState", "TapProfile"]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
COLUMNS = ("layer", "operator", "mean", "std", "min", "1 %", "median", "99 %", "max", "zeros", "dead")
LEAST = ("operator", "1 %", "99 %", "median")
"""Those that matter least."""

_HASHED_VALUES = 16

Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class ChannelState:
    """State of every channel; each array has shape (channels,).

    Attributes:
        moments: Count, moments, extremes and zeros; not to be changed.
        min_sample: int64, the first sample of the data that holds the minimum, -1 where there is none.
        max_sample: int64, the same for the maximum.
        nonfinite_sample: int64, the first sample with a NaN or an infinity, -1 where there is none.
        fingerprint: uint64, equal for channels that held the same in every sample.
    """

    moments: Moments
    min_sample: NDArray[np.int64]
    max_sample: NDArray[np.int64]
    nonfinite_sample: NDArray[np.int64]
    fingerprint: NDArray[np.uint64]

    @classmethod
    def empty(cls, channels: int) -> ChannelState:
        """The state of channels that were never seen."""
        return cls(
            moments=Moments.empty(channels),
            min_sample=np.full(channels, -1, np.int64),
            max_sample=np.full(channels, -1, np.int64),
            nonfinite_sample=np.full(channels, -1, np.int64),
            fingerprint=np.zeros(channels, np.uint64),
        )

    @classmethod
    def of(cls, observation: Observation, indices: Sequence[int]) -> ChannelState:
        """The state after one run; `indices` are the positions of its samples in the data, ascending."""
        samples = np.asarray(indices, np.int64)
        apart = observation.moments
        whole = apart.combined()
        broken = (apart.nan + apart.inf) > 0
        return cls(
            moments=whole,
            min_sample=np.where(whole.count > 0, samples[apart.min.argmin(axis=0)], -1),
            max_sample=np.where(whole.count > 0, samples[apart.max.argmax(axis=0)], -1),
            nonfinite_sample=np.where(broken.any(axis=0), samples[broken.argmax(axis=0)], -1),
            fingerprint=_fingerprints(observation, samples),
        )

    def merge(self, other: ChannelState) -> ChannelState:
        """Combine with samples that this state has not seen; neither side is changed."""
        mine, theirs = self.moments, other.moments
        return ChannelState(
            moments=mine.merge(theirs),
            min_sample=_holder(mine.min, self.min_sample, theirs.min, other.min_sample),
            max_sample=_holder(-mine.max, self.max_sample, -theirs.max, other.max_sample),
            nonfinite_sample=_earlier(self.nonfinite_sample, other.nonfinite_sample),
            fingerprint=self.fingerprint + other.fingerprint,
        )

    def collapsed(self) -> ChannelState:
        """The state of all channels taken as one."""
        apart = self.moments
        whole = apart.reshaped(-1, 1).combined() if apart.count.size else Moments.empty(1)
        return ChannelState(
            moments=whole,
            min_sample=_first(self.min_sample[apart.min == whole.min]),
            max_sample=_first(self.max_sample[apart.max == whole.max]),
            nonfinite_sample=_first(self.nonfinite_sample),
            # Which channel held what is lost, and with it what a fingerprint could be compared with.
            fingerprint=np.zeros(1, np.uint64),
        )


@dataclass(frozen=True, eq=False, repr=False)
class TapProfile(Record):
    """What is known of one tap, over all samples seen so far.

    Attributes:
        name: The tap's unique name.
        layer: The layer that it belongs to.
        op_type: The operator of the layer.
        at: `post` or `pre`, None for a value chosen by its own name.
        dtype: numpy's name of the element type.
        shape: The shape of a run's value; None for the batch axis and where it varies; None altogether for a varying
            rank, and before anything was seen.
        channel_axis: The axis in `shape` whose channels are kept apart, None where there is none.
        limits: Between which the activation function that made the value holds it, None for an unbounded one.
        samples: How many samples were seen.
        state: Per channel; one channel where there is no channel axis.
        histogram: Of the elements that were examined, all channels together.
        masked: Whether infinities are there by design: from a mask, a fill or a limit.
        heads: What the heads of an attention do with their shares, None for any other value.
        token: The token that stands out most, None where there are none.
        codes: How the elements that were examined use the codes of a quantized value, None for any other.
        groups: By tokens or by positions, None where these were not asked for, or the tap has none.
    """

    name: str
    layer: str
    op_type: str
    at: str | None
    dtype: str
    shape: Shape | None
    channel_axis: int | None
    limits: tuple[float, float] | None
    samples: int
    state: ChannelState
    histogram: LogHistogram
    masked: bool = False
    heads: AttentionShares | None = None
    token: TokenOutlier | None = None
    codes: CodeUse | None = None
    groups: GroupedMoments | None = None

    def observed(
        self, observation: Observation, indices: Sequence[int], batch_axis: int | None, token_step: int | None = None
    ) -> TapProfile:
        """Return this profile with one more run.

        Args:
            observation: With as many samples as `indices`.
            indices: Positions of the samples in the data, ascending.
            batch_axis: The value's axis of samples, None where it has none.
            token_step: Every how manyth token was examined, None for values that are not tokens by channels.
        """
        shape: list[int | None] = list(observation.shape)
        if batch_axis is not None:
            shape.insert(batch_axis, None)
        run = replace(
            self,
            shape=tuple(shape),
            samples=len(indices),
            state=ChannelState.of(observation, indices),
            histogram=LogHistogram.of(observation.values),
            heads=observation.heads,
            token=None if token_step is None else TokenOutlier.of(observation.values, indices, token_step),
            codes=None if self.codes is None else CodeUse.of(self.codes.grid, observation.values),
        )
        return self._joined(run)

    def merge(self, other: TapProfile) -> TapProfile:
        """Return the profile over the samples of both.

        Raises:
            MergeError: They are of different taps.
        """
        for field in ("name", "layer", "op_type", "at", "dtype", "limits", "masked"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                raise MergeError(f"cannot merge {field} {mine!r} with {theirs!r}: tap {printable(self.name)}")
        grids = [None if tap.codes is None else tap.codes.grid for tap in (self, other)]
        if grids[0] != grids[1]:
            raise MergeError(f"cannot merge codes {grids[0]} with {grids[1]}: tap {printable(self.name)}")
        return self._joined(other)

    def _joined(self, other: TapProfile) -> TapProfile:
        if not self.samples or not other.samples:
            return self if self.samples else other
        left, right = self.state, other.state
        axis = self.channel_axis
        if axis != other.channel_axis or left.moments.count.size != right.moments.count.size:
            # The number of channels changes from run to run: there are none to keep apart.
            axis = None
            left, right = (state if state.moments.count.size == 1 else state.collapsed() for state in (left, right))
        return replace(
            self,
            shape=_common_shape(self.shape, other.shape),
            channel_axis=axis,
            samples=self.samples + other.samples,
            state=left.merge(right),
            histogram=self.histogram.merge(other.histogram),
            heads=_merged_heads(self.heads, other.heads),
            token=other.token if self.token is None else self.token.merge(other.token),
            codes=None if self.codes is None or other.codes is None else self.codes.merge(other.codes),
            groups=None if self.groups is None or other.groups is None else self.groups.merge(other.groups),
        )

    @property
    def overall(self) -> Statistics:
        """Statistics of all channels together; `zero_fraction` rests on the elements that were examined."""
        return self.state.moments.overall

    @property
    def channels(self) -> ChannelStatistics | None:
        """Statistics per channel, None where there is no channel axis."""
        return None if self.channel_axis is None else self.state.moments.channels

    @property
    def sampled(self) -> float | None:
        """Which fraction of the finite elements zeros and quantiles rest on; None where it is all of them."""
        examined, count = int(self.state.moments.examined.sum()), int(self.state.moments.count.sum())
        return None if examined >= count else examined / count

    @property
    def quantiles(self) -> dict[str, float | None]:
        """Quantiles by their share, within `log_histogram.RELATIVE_ERROR`; None where no element is finite."""
        low = self.state.moments.min.min(initial=np.inf)
        high = self.state.moments.max.max(initial=-np.inf)
        quantiles = {str(share): self.histogram.quantile(share) for share in QUANTILES}
        return {
            key: None if quantile is None else float(min(max(quantile, low), high))
            for key, quantile in quantiles.items()
        }

    @property
    def dead_channels(self) -> tuple[int, ...]:
        """Numbers of the channels that were zero in every element of every sample."""
        return self.state.moments.zero_channels if self.channel_axis is not None else ()

    @property
    def channel_outlier(self) -> float | None:
        """The largest magnitude of a channel over the median of those of all channels that are not zero.

        None below two such channels, and where heads are kept apart.
        """
        largest = self.channel_magnitudes
        largest = largest[(largest > 0) & np.isfinite(largest)]
        return float(largest.max() / np.median(largest)) if largest.size > 1 and self.heads is None else None

    @property
    def channel_magnitudes(self) -> NDArray[np.float64]:
        """The largest magnitude in each channel, -inf where nothing is finite; empty where there is no channel axis."""
        moments = self.state.moments
        return np.maximum(-moments.min, moments.max) if self.channel_axis is not None else np.zeros(0)

    @property
    def massive(self) -> float | None:
        """The largest magnitude over the median one, None where that is 0 or nothing is finite."""
        median = self.histogram.median_magnitude
        low, high = self.overall.min, self.overall.max
        return None if not median or low is None or high is None else max(-low, high) / median

    def to_dict(self) -> dict[str, Any]:
        """What the tap's record in `onnxscope.stats/1` says of it without its dataset."""
        channels = self.channels
        return {
            "name": self.name,
            "layer": self.layer,
            "op_type": self.op_type,
            "at": self.at,
            "shape": None if self.shape is None else list(self.shape),
            "channel_axis": self.channel_axis,
            **self.overall.to_dict(),
            "quantiles": self.quantiles,
            "dead_channels": list(self.dead_channels),
            "channels": None if channels is None else channels.to_dict(),
            "dtype": self.dtype,
            "samples": self.samples,
            "sampled": self.sampled,
            "quantile_error": RELATIVE_ERROR,
            "kurtosis": self.histogram.kurtosis,
            "massive": self.massive,
            "channel_outlier": self.channel_outlier,
            "token_outlier": None if self.token is None else self.token.ratio,
            "heads": None if self.heads is None else self.heads.to_dict(),
            "quantization": None if self.codes is None else self.codes.quantization.to_dict(),
        }

    def cells(self) -> tuple[Cell, ...]:
        """A row of a table with `COLUMNS`."""
        overall, quantiles = self.overall, self.quantiles
        dead = f"{len(self.dead_channels)} of {self.state.moments.count.size}" if self.channel_axis is not None else ""
        return (
            self.layer,
            self.op_type,
            overall.mean,
            overall.std,
            overall.min,
            quantiles["0.01"],
            quantiles["0.5"],
            quantiles["0.99"],
            overall.max,
            overall.zero_fraction,
            dead,
        )

    def table(self) -> Table:
        """One row."""
        return Table("", COLUMNS, (self.cells(),), LEAST)

    def __repr__(self) -> str:
        return self.table().text()


def _merged_heads(left: AttentionShares | None, right: AttentionShares | None) -> AttentionShares | None:
    """Of both sides; nothing where a run had none, or another number of heads."""
    if left is None or right is None or left.queries.size != right.queries.size:
        return None
    return left.merge(right)


def _fingerprints(observation: Observation, samples: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number per channel that depends on the extremes and on some elements of every sample."""
    hashed = np.ascontiguousarray(observation.values[:, :, :_HASHED_VALUES])
    bits = hashed.view(np.uint32 if hashed.dtype == np.float32 else np.uint64).astype(np.uint64)
    # Odd multipliers, from the golden ratio: a polynomial hash modulo 2**64.
    weights = np.cumprod(np.full(bits.shape[2], 0x9E3779B97F4A7C15, np.uint64))
    mixed = (bits * weights).sum(axis=2, dtype=np.uint64)
    mixed += samples.astype(np.uint64)[:, None] * np.uint64(0xD1342543DE82EF95)
    for extreme in (observation.moments.min, observation.moments.max):
        mixed = mix_bits(mixed ^ np.ascontiguousarray(extreme + 0.0).view(np.uint64))
    summed: NDArray[np.uint64] = mixed.sum(axis=0, dtype=np.uint64)
    return summed


def _holder(
    left: NDArray[np.float64],
    left_sample: NDArray[np.int64],
    right: NDArray[np.float64],
    right_sample: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The sample with the smaller value, the earlier one where they are equal."""
    return np.where(
        left < right, left_sample, np.where(right < left, right_sample, _earlier(left_sample, right_sample))
    )


def _earlier(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(left < 0, right, np.where(right < 0, left, np.minimum(left, right)))


def _first(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest position, -1 where there is none; of shape (1,)."""
    positions = samples[samples >= 0]
    return positions.min(keepdims=True) if positions.size else np.full(1, -1, np.int64)


def _common_shape(left: Shape | None, right: Shape | None) -> Shape | None:
    if left is None or right is None or len(left) != len(right):
        return None
    return tuple(mine if mine == theirs else None for mine, theirs in zip(left, right, strict=True))
