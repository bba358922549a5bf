"""Mean, spread and state of every channel over two sets of samples, and how far chance alone moves them.

What of a difference is noise follows from the numbers of samples alone. The elements of one sample depend on each
other, so that a sample counts as one draw, however many elements it has: its mean varies no more than its elements do.
Under the hypothesis that both sets are random parts of one, of about one size, a difference in units of its deviation
exceeds t with a chance of at most `2 * exp(-t**2 / 2)`, where the deviation is that of both sets together (Pinelis,
"Optimum Bounds for the Distributions of Martingales in Banach Spaces", 1994, for symmetric sums divided by the root of
their squares). Where one set is much smaller, a rare event in it weighs more; then Bernstein's inequality holds, which
knows how far elements reach (for samples without replacement: Hoeffding, "Probability Inequalities for Sums of Bounded
Random Variables", 1963, section 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.moments import Moments
from onnxscope.profiling.tap_profile import TapProfile

__all__ = ["Chance", "Moved", "Population", "compare_populations"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_CONSTANT = 1e-6  # a deviation of so much of the mean is how float32 rounds a constant
_MARGIN = 1 / 128  # of the distance between the limits of an activation function, as in `stats`


@dataclass(frozen=True)
class Chance:
    """What two numbers of samples leave to chance.

    Attributes:
        first: Samples of the first set; infinite where its numbers are taken as they are.
        second: Samples of the second set.
        log_odds: The natural logarithm of one over the chance that one comparison may take something for a difference.
    """

    first: float
    second: float
    log_odds: float

    @property
    def deviation(self) -> float:
        """Standard deviation of a difference of two means, in deviations of one sample."""
        return math.sqrt(1 / self.first + 1 / self.second)

    @property
    def largest(self) -> float:
        """How far chance moves a mean at most, in deviations of both sets together, however far elements reach.

        All of k rare events fall into the smaller set, of share p, with a chance of `p**k`, and are `k * (1 - p) / p`
        squared deviations: where p is below a third or so, more than a normal number would be.
        """
        small = min(self.share, 1 - self.share)
        if not small:
            return math.inf
        excess = max(1.0, (1 - small) / (2 * small * -math.log(small)))
        return math.sqrt(2 * self.log_odds * excess) * self.deviation

    def bound(self, deviation: Floats, reach: Floats) -> Floats:
        """How far chance moves a mean at most, of elements with this deviation and at most so far from their mean."""
        samples = min(self.first, self.second)
        rare = reach * self.log_odds / (3 * samples)
        bernstein = rare + np.sqrt(rare**2 + 2 * deviation**2 * self.log_odds / samples)
        others = max(self.share, 1 - self.share)
        return np.fmin(bernstein / others, np.where(deviation > 0, self.largest, 0.0) * deviation)

    @property
    def share(self) -> float:
        """The first set's share of all samples."""
        return 1.0 if math.isinf(self.first) else self.first / (self.first + self.second)

    @property
    def decides(self) -> bool:
        """Whether sets of these sizes can differ by more than chance explains."""
        return self.first + self.second > 2 * self.log_odds

    def never_again(self, share: Floats) -> Flags:
        """Whether it is no chance that nothing in the second set does what at least this share of the first does."""
        with np.errstate(invalid="ignore"):
            if math.isinf(self.first):
                return np.asarray(share * self.second > self.log_odds)
            return np.asarray(np.floor(share * self.first) * math.log1p(self.second / self.first) > self.log_odds)


@dataclass(frozen=True, eq=False)
class Population:
    """What is known of each channel of a value over a set of samples; all arrays have shape (channels,).

    Attributes:
        mean: NaN where nothing is finite.
        variance: With ddof 1; 0 for what is constant but for rounding.
        low: The smallest element, -inf where that is not known.
        high: The largest element, inf where that is not known.
        dead: Whether every element is zero.
        saturated: Whether every element is at the same limit of a bounded activation function.
        active: At least this share of the elements is not zero; NaN where that is not known.
        free: At least this share of the elements is at neither limit; NaN where there is no limit.
    """

    mean: Floats
    variance: Floats
    low: Floats
    high: Floats
    dead: Flags
    saturated: Flags
    active: Floats
    free: Floats

    @classmethod
    @np.errstate(divide="ignore", invalid="ignore", over="ignore")
    def of(cls, tap: TapProfile, *, together: bool = False) -> Population:
        """What a profile knows of a tap's channels, or of all of them `together` as one."""
        moments = tap.state.moments
        if together:
            moments = moments.reshaped(-1, 1).combined() if moments.count.size else Moments.empty(1)
        counted = moments.count > 0
        nothing = np.full(moments.count.shape, math.nan)
        saturated, free = np.zeros(counted.shape, np.bool_), nothing
        if tap.limits is not None:
            low, high = tap.limits
            margin = (high - low) * _MARGIN
            saturated = counted & (moments.min >= high - margin)
            free = (high - margin - moments.mean) / (high - low)
            if not (low == 0 and high > 1):  # as ReLU6: many zeros are what it is for
                saturated |= counted & (moments.max <= low + margin)
                free = np.minimum(free, (moments.mean - low - margin) / (high - low))
        active = 1 - moments.zeros / np.where(moments.examined > 0, moments.examined, math.nan)
        variance = moments.m2 / np.maximum(moments.count - 1, 1)
        variance = np.where(variance < (_CONSTANT * moments.mean) ** 2, 0.0, variance)
        return cls(
            mean=np.where(counted, moments.mean, math.nan),
            variance=variance,
            low=np.where(counted, moments.min, -math.inf),
            high=np.where(counted, moments.max, math.inf),
            dead=(moments.min == 0) & (moments.max == 0),
            saturated=np.asarray(saturated),
            active=active,
            free=free,
        )

    @classmethod
    def known(cls, mean: Floats, variance: Floats) -> Population:
        """What is stored of each channel: its mean and its variance."""
        nothing, no = np.full(mean.shape, math.nan), np.zeros(mean.shape, np.bool_)
        infinite = np.full(mean.shape, math.inf)
        return cls(mean, variance, -infinite, infinite, no, no, nothing, nothing)


@dataclass(frozen=True, eq=False)
class Moved:
    """How far each channel of a second population is from a first one; all arrays have shape (channels,).

    Attributes:
        shift: Of the mean, in deviations of the first; infinite where that is constant.
        shift_noise: How far chance moves it at most.
        ratio: The second's deviation over the first's; infinite where the first alone is constant.
        ratio_noise: How far chance moves its logarithm at most.
        beyond: How far the second reaches out of the first's range, in deviations of the first.
        dead: Whether the channel was not dead in the first and is in the second, beyond chance.
        saturated: The same for saturated channels.
        amount: The largest of `abs(shift)` and `abs(log(ratio))` that is beyond its noise, 0 where none is; infinite
            for what is constant in one of both, and for new dead and saturated channels.
    """

    shift: Floats
    shift_noise: Floats
    ratio: Floats
    ratio_noise: Floats
    beyond: Floats
    dead: Flags
    saturated: Flags
    amount: Floats


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def compare_populations(first: Population, second: Population, chance: Chance) -> Moved:
    """Compare two populations with the same channels."""
    share = chance.share
    mean = share * first.mean + (1 - share) * second.mean
    gap = second.mean - first.mean
    gap = np.where(np.abs(gap) <= _CONSTANT * np.abs(mean), 0.0, gap)
    variance = share * first.variance + (1 - share) * second.variance + share * (1 - share) * gap * gap
    here, there, both = (np.sqrt(square) for square in (first.variance, second.variance, variance))
    shift = np.where(gap == 0, 0.0, gap / here)
    # The fourth moment is at most the second times the square of the farthest element.
    reach = np.maximum(np.abs(_ends(first) - mean).max(axis=0), np.abs(_ends(second) - mean).max(axis=0))
    tail = np.sqrt(np.maximum(reach * reach / variance - 1, 0))
    moved, spread = chance.bound(both, reach), chance.bound(variance * tail, reach * reach)
    moves = np.abs(gap) > moved
    spreads = np.abs(second.variance - first.variance) > spread
    ratio = np.where(first.variance == second.variance, 1.0, there / here)
    dead = second.dead & ~first.dead & chance.never_again(first.active)
    saturated = second.saturated & ~first.saturated & chance.never_again(first.free)
    amount = np.maximum(np.where(moves, np.abs(shift), 0.0), np.where(spreads, np.abs(np.log(ratio)), 0.0))
    stops = (moves | spreads) & ((first.variance == 0) != (second.variance == 0))
    amount = np.where(dead | saturated | stops, math.inf, amount)
    beyond = np.maximum(np.maximum(first.low - second.low, second.high - first.high), 0) / here
    return Moved(
        shift=shift,
        shift_noise=moved / here,
        ratio=ratio,
        ratio_noise=spread / variance / 2,
        beyond=np.where(np.isfinite(first.low) & np.isfinite(first.high), beyond, math.nan),
        dead=dead,
        saturated=saturated,
        amount=np.where(np.isfinite(first.mean) & np.isfinite(second.mean), amount, 0.0),
    )


def _ends(population: Population) -> Floats:
    """Of shape (2, channels); the mean where the range is not known."""
    low, high = population.low, population.high
    return np.stack([np.where(np.isfinite(end), end, population.mean) for end in (low, high)])
