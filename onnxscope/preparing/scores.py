"""How far what a preparation leads to is from what it should be, over any of the pictures.

By running statistics it is the Kullback-Leibler divergence, in nats, of the normal distribution that has the mean and
variance of a channel from the one that has the running mean and variance, on average over channels: it counts shifts in
deviations and ratios of spread alike. By known outputs it is the error relative to these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.shapes import shape_text
from onnxscope.errors import InputError
from onnxscope.preparing.running_statistics import RunningStatistics

__all__ = ["ByOutputs", "ByStatistics", "Distance", "Score", "channel_moments", "score_of"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

_MOST_ELEMENTS = 1 << 14  # of a channel of a picture; more say nothing new


@dataclass(frozen=True)
class Distance:
    """How far one preparation is.

    Attributes:
        distance: What is ranked by; infinite where something is not finite.
        shift: Of the means, in deviations: the root mean square over channels; None by outputs.
        spread: Natural logarithm of the ratio of deviations, its root mean square over channels; None by outputs.
    """

    distance: float
    shift: float | None = None
    spread: float | None = None


class Score(Protocol):
    """What is known of one preparation."""

    def over(self, pictures: Sequence[int]) -> Distance:
        """How far it is by these pictures alone."""


@dataclass(frozen=True, eq=False)
class ByStatistics:
    """What entered the first BatchNormalizations.

    Attributes:
        moments: Of each: mean and mean square, float64 of shape (pictures, channels).
        references: What each should have.
    """

    moments: Sequence[tuple[Floats, Floats]]
    references: Sequence[RunningStatistics]

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")
    def over(self, pictures: Sequence[int]) -> Distance:
        """On average over the channels of each BatchNormalization, and then over these."""
        parts = []
        for (means, squares), reference in zip(self.moments, self.references, strict=True):
            counted = reference.counted
            mean = means[list(pictures)].mean(axis=0)[counted]
            variance = squares[list(pictures)].mean(axis=0)[counted] - mean**2
            known = reference.variance[counted]
            # What is constant on a picture without texture is not infinitely far.
            ratio = np.maximum(variance / known, np.finfo(np.float32).eps)
            shift = (mean - reference.mean[counted]) ** 2 / known
            divergence = 0.5 * (ratio + shift - 1 - np.log(ratio))
            parts.append([divergence.mean(), shift.mean(), (0.25 * np.log(ratio) ** 2).mean()])
        distance, shift, spread = np.mean(parts, axis=0)
        finite = bool(np.isfinite([distance, shift, spread]).all())
        return Distance(float(distance), math.sqrt(shift), math.sqrt(spread)) if finite else Distance(math.inf)


@dataclass(frozen=True, eq=False)
class ByOutputs:
    """What the model gave.

    Attributes:
        errors: Sum of the squared errors of each picture.
        sizes: Sum of the squares of what was expected of each.
    """

    errors: Floats
    sizes: Floats

    def over(self, pictures: Sequence[int]) -> Distance:
        """The root of the sum of squared errors over that of the squares expected."""
        chosen = list(pictures)
        error, size = float(self.errors[chosen].sum()), float(self.sizes[chosen].sum())
        if not math.isfinite(error):
            return Distance(math.inf)
        return Distance(math.sqrt(error / size) if size else 0.0 if not error else math.inf)


def score_of(
    kept: Sequence[Mapping[str, Any]],
    references: Sequence[RunningStatistics],
    expected: Mapping[str, Array] | None,
) -> Score:
    """Score one preparation by what each picture gave, each with an axis of one sample in front where there is one.

    Args:
        kept: Of each picture by name: arrays where outputs are expected, what `channel_moments` returned else.
        references: The running statistics.
        expected: Right outputs by name, of all pictures along the first axis; None where they are not known.

    Raises:
        InputError: The model's outputs have another shape.
    """
    if expected is None:
        names = [reference.node.inputs[0] for reference in references]
        together = [
            (np.stack([one[name][0] for one in kept]), np.stack([one[name][1] for one in kept])) for name in names
        ]
        return ByStatistics(together, references)
    errors, sizes = np.zeros(len(kept)), np.zeros(len(kept))
    for name, right in expected.items():
        parts = [np.asarray(one[name], np.float64) for one in kept]
        given = parts[0] if len(parts) == 1 else np.concatenate([np.atleast_1d(part) for part in parts])
        if given.shape != right.shape:
            raise InputError(
                f"the expected output has the shape {shape_text(right.shape)}, and the model gives "
                f"{shape_text(given.shape)}: output {name!r}",
                hint="one array of an output for these pictures, in their order, along the first axis",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            difference = (given - right).reshape(len(kept), -1)
            errors += np.einsum("pk,pk->p", difference, difference)
            sizes += np.einsum("pk,pk->p", *[right.astype(np.float64).reshape(len(kept), -1)] * 2)
    return ByOutputs(errors, sizes)


def channel_moments(value: Array) -> tuple[Floats, Floats]:
    """Return mean and mean square of each channel, axis 1, of what entered a BatchNormalization."""
    rows = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
    step = max(1, math.ceil(rows.shape[1] / _MOST_ELEMENTS))
    chosen = rows[:, ::step].astype(np.float64)
    mean = chosen.mean(axis=1)
    return mean, np.einsum("ck,ck->c", chosen, chosen) / chosen.shape[1]
