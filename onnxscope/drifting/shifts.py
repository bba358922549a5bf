"""How far one value is from what it was: a row for a layer or an input, and one for each channel that moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxscope.base.results import Record
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, ranges_text
from onnxscope.drifting.populations import Chance, Moved, Population, compare_populations
from onnxscope.profiling.findings import saturated_fraction
from onnxscope.profiling.tap_profile import TapProfile

__all__ = ["COLUMNS", "PER_CHANNEL", "PER_VALUE", "ChannelShift", "Measure", "Shift", "compare_taps", "compare_with"]

COLUMNS = ("layer", "shift", "spread", "PSI", "Wasserstein", "outside", "channels", "what")
PER_VALUE, PER_CHANNEL = 6, 4
"""How many comparisons are made of a value as a whole, and of each of its channels."""

_SHOWN = 3  # channels that a row names
State = Literal["dead", "saturated", "constant"]
_STATES: tuple[State, ...] = ("dead", "saturated", "constant")


@dataclass(frozen=True)
class Measure:
    """One number, and how far chance alone takes it.

    Attributes:
        value: None where it cannot be told; infinite where the first set has no spread to measure with.
        noise: In the same unit.
    """

    value: float | None
    noise: float

    @property
    def amount(self) -> float:
        """The number without its sign where it is more than noise, else 0."""
        return abs(self.value) if self.value is not None and abs(self.value) > self.noise else 0.0

    def to_dict(self) -> dict[str, float | None]:
        """Ready for strict JSON: what is infinite is null."""
        return {"value": _finite(self.value), "noise": _finite(self.noise)}


@dataclass(frozen=True)
class ChannelShift:
    """How far one channel is from what it was.

    Attributes:
        channel: Its number.
        drift: The largest of what is beyond its noise; infinite for a channel that has become dead, saturated or
            constant, or is so no more.
        shift: Of the mean, in deviations of the first set.
        ratio: The second deviation over the first; its noise is that of the logarithm.
        beyond: How far it reaches out of the first's range, in deviations; None where the range is not known.
        state: What it has become, None for nothing special.
    """

    channel: int
    drift: float
    shift: Measure
    ratio: Measure
    beyond: float | None
    state: State | None

    def to_dict(self) -> dict[str, Any]:
        """The row in `onnxscope.drift/1`."""
        return {
            "channel": self.channel,
            "drift": _finite(self.drift),
            "shift": self.shift.to_dict(),
            "spread": self.ratio.to_dict(),
            "beyond": _finite(self.beyond),
            "state": self.state,
        }


@dataclass(frozen=True, repr=False)
class Shift(Record):
    """How far one value is from what it was.

    Attributes:
        name: The value.
        layer: Whose it is, empty for an input of the model.
        op_type: The layer's operator, empty for an input.
        drift: The largest of what is beyond its noise, channels included.
        drifts: Whether that is beyond the threshold.
        shift: Of the mean over all channels, in deviations of the first set.
        ratio: The second deviation over the first; its noise is that of the logarithm.
        stability_index: The population stability index, in nats.
        wasserstein: The Wasserstein distance, in deviations of the first set.
        outside: The share of elements outside of the first's range.
        saturated: By how much the share of saturated elements has grown.
        channels: Those that move by more than noise, the farthest first.
    """

    name: str
    layer: str
    op_type: str
    drift: float
    drifts: bool
    shift: Measure
    ratio: Measure
    stability_index: Measure
    wasserstein: Measure
    outside: Measure
    saturated: Measure
    channels: tuple[ChannelShift, ...]

    @property
    def is_input(self) -> bool:
        """Whether it is what the model is fed, not what a layer makes of that."""
        return not self.op_type

    @property
    def where(self) -> str:
        """The layer, or the input."""
        return self.layer or self.name

    def of_state(self, state: State) -> tuple[int, ...]:
        """Numbers of the channels that have become `dead`, `saturated` or `constant`, ascending."""
        return tuple(sorted(channel.channel for channel in self.channels if channel.state == state))

    def what(self) -> str:
        """What there is to say about it in a few words; empty for a value that does not drift."""
        words = [f"{state} {ranges_text(numbers)}" for state in _STATES if (numbers := self.of_state(state))]
        return "; ".join(words) or ("drifts" if self.drifts else "")

    def to_dict(self) -> dict[str, Any]:
        """The row in `onnxscope.drift/1`."""
        return {
            "name": self.name,
            "layer": self.layer,
            "op_type": self.op_type,
            "input": self.is_input,
            "drift": _finite(self.drift),
            "drifts": self.drifts,
            "shift": self.shift.to_dict(),
            "spread": self.ratio.to_dict(),
            "stability_index": self.stability_index.to_dict(),
            "wasserstein": self.wasserstein.to_dict(),
            "outside": self.outside.to_dict(),
            "saturated": self.saturated.to_dict(),
            "dead_channels": list(self.of_state("dead")),
            "saturated_channels": list(self.of_state("saturated")),
            "channels": [channel.to_dict() for channel in self.channels],
        }

    def cells(self, *, short: bool = False) -> tuple[Cell, ...]:
        """A row of a table with `COLUMNS`; `short` numbers have three digits, so that a row fits a terminal."""
        named = ", ".join(str(channel.channel) for channel in self.channels[:_SHOWN])
        more = len(self.channels) - _SHOWN
        measures = (self.shift, self.ratio, self.stability_index, self.wasserstein, self.outside)
        numbers = [_finite(measure.value) for measure in measures]
        return (
            self.where,
            *(None if number is None else float(f"{number:.3g}") if short else number for number in numbers),
            f"{named} +{more:,}" if more > 0 else named,
            self.what(),
        )

    def table(self) -> Table:
        """One row."""
        return Table("", COLUMNS, (self.cells(),))

    def message(self) -> str:
        """In a sentence: what moves, and how far."""
        said = [text for text in (self.what(),) if text and text != "drifts"]
        shift, ratio, index = self.shift, self.ratio, self.stability_index
        if shift.amount and shift.value is not None:
            said.append(f"the mean moves by {_number(shift.value)} deviations")
        if ratio.value is not None and ratio.value > 0 and abs(math.log(ratio.value)) > ratio.noise:
            said.append(f"{_number(ratio.value)} times the spread")
        if index.amount and index.value is not None:
            said.append(f"a stability index of {_number(index.value)}")
        if self.outside.amount and self.outside.value is not None:
            said.append(f"{self.outside.value:.1%} outside of the range")
        moving = [channel for channel in self.channels if channel.state is None]
        if moving:
            first = moving[0]
            value = 0.0 if first.shift.value is None else first.shift.value
            said.append(f"{counted(len(moving), 'channel')}, the most channel {first.channel} by {_number(value)}")
        return "; ".join(said) or "nothing beyond chance"

    def __repr__(self) -> str:
        return self.table().text()


def compare_taps(first: TapProfile, second: TapProfile, chance: Chance, threshold: float) -> Shift:
    """Compare what two profiles know of one value."""
    moved = compare_populations(Population.of(first, together=True), Population.of(second, together=True), chance)
    known = first.channel_axis is not None and second.channel_axis is not None
    apart = None
    if known and 1 < first.state.moments.count.size == second.state.moments.count.size:
        apart = compare_populations(Population.of(first), Population.of(second), chance)
    deviation = math.sqrt(float(Population.of(first, together=True).variance[0]))
    return _row(
        second,
        threshold,
        moved,
        apart,
        _constant(first, second),
        _index(first, second, chance),
        _distance(first, second, chance, deviation),
        _outside(first, second, chance),
        _saturated(first, second, chance),
    )


def compare_with(reference: Population, tap: TapProfile, chance: Chance, threshold: float) -> Shift:
    """Compare what a model stores of a value's channels with what a profile knows of them."""
    both = Population.known(
        reference.mean.mean(keepdims=True), (reference.variance + reference.mean**2).mean(keepdims=True)
    )
    mean = both.mean
    together = Population.known(mean, both.variance - mean**2)
    moved = compare_populations(together, Population.of(tap, together=True), chance)
    apart = compare_populations(reference, Population.of(tap), chance)
    variance = tap.state.moments.m2 == 0
    constant = frozenset((variance & (reference.variance > 0)).nonzero()[0].tolist())
    unknown = Measure(None, math.nan)
    return _row(tap, threshold, moved, apart, constant, unknown, unknown, unknown, unknown)


def _row(
    tap: TapProfile,
    threshold: float,
    moved: Moved,
    apart: Moved | None,
    constant: frozenset[int],
    index: Measure,
    distance: Measure,
    outside: Measure,
    saturated: Measure,
) -> Shift:
    channels = [] if apart is None else _channels(apart, constant)
    own = [float(moved.amount[0]), *(measure.amount for measure in (index, distance, outside, saturated))]
    drift = max(own + [channel.drift for channel in channels])
    return Shift(
        name=tap.name,
        layer=tap.layer,
        op_type=tap.op_type,
        drift=drift,
        drifts=drift > threshold,
        shift=_measure(moved.shift[0], moved.shift_noise[0]),
        ratio=_measure(moved.ratio[0], moved.ratio_noise[0]),
        stability_index=index,
        wasserstein=distance,
        outside=outside,
        saturated=saturated,
        channels=tuple(channels),
    )


def _channels(moved: Moved, constant: frozenset[int]) -> list[ChannelShift]:
    """Those that move, the farthest first."""
    found = []
    for channel in moved.amount.nonzero()[0].tolist():
        state: State | None = None
        if moved.dead[channel]:
            state = "dead"
        elif moved.saturated[channel]:
            state = "saturated"
        elif channel in constant:
            state = "constant"
        beyond = float(moved.beyond[channel])
        found.append(
            ChannelShift(
                channel=channel,
                drift=float(moved.amount[channel]),
                shift=_measure(moved.shift[channel], moved.shift_noise[channel]),
                ratio=_measure(moved.ratio[channel], moved.ratio_noise[channel]),
                beyond=None if math.isnan(beyond) else beyond,
                state=state,
            )
        )
    return sorted(found, key=lambda channel: (-channel.drift, -abs(channel.shift.value or 0.0), channel.channel))


def _constant(first: TapProfile, second: TapProfile) -> frozenset[int]:
    """Channels that hold one number in the second set alone."""
    if first.state.moments.count.size != second.state.moments.count.size:
        return frozenset()
    stopped = (Population.of(second).variance == 0) & (Population.of(first).variance > 0)
    return frozenset(stopped.nonzero()[0].tolist())


def _index(first: TapProfile, second: TapProfile, chance: Chance) -> Measure:
    """The population stability index; without a difference it is a chi-squared number over the numbers of samples.

    References:
        Yurdakul and Naranjo, "Statistical Properties of the Population Stability Index", 2020. Laurent and Massart,
        "Adaptive Estimation of a Quadratic Functional by Model Selection", 2000, lemma 1: what that exceeds.
    """
    found = first.histogram.stability_index(second.histogram)
    if found is None:
        return Measure(None, math.nan)
    value, bins = found
    free, odds = bins - 1, chance.log_odds
    return Measure(value, chance.deviation**2 * (free + 2 * math.sqrt(free * odds) + 2 * odds))


def _distance(first: TapProfile, second: TapProfile, chance: Chance, deviation: float) -> Measure:
    found = first.histogram.wasserstein(second.histogram)
    if found is None or not deviation:
        return Measure(None, math.nan)
    distance, scale = found
    return Measure(distance / deviation, chance.largest * scale / deviation)


def _outside(first: TapProfile, second: TapProfile, chance: Chance) -> Measure:
    """The share outside of the first's range; that of a new sample is so with a chance of 2 over samples seen."""
    low, high, total = first.overall.min, first.overall.max, second.histogram.total
    if low is None or high is None or not total:
        return Measure(None, math.nan)
    samples = 2 * chance.log_odds / math.log1p(chance.first / chance.second)
    return Measure(second.histogram.count_beyond(low, high) / total, samples / chance.second)


def _saturated(first: TapProfile, second: TapProfile, chance: Chance) -> Measure:
    shares = saturated_fraction(first), saturated_fraction(second)
    if shares[0] is None or shares[1] is None:
        return Measure(None, math.nan)
    both = chance.share * shares[0] + (1 - chance.share) * shares[1]
    noise = chance.bound(np.sqrt([both * (1 - both)]), np.ones(1))
    return Measure(max(shares[1] - shares[0], 0.0), float(noise[0]))


def _measure(value: float, noise: float) -> Measure:
    return Measure(None if math.isnan(value) else float(value), float(noise))


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.3g}"
