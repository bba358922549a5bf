"""Whether a release gives what the first one gives, layer by layer, judged by the first one's own noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from onnxscope.comparison.floors import Floor, discrepancy_of, element_types, floor_of, larger_noise, rounds_to_codes
from onnxscope.comparison.layer_difference import LayerDifference, Side
from onnxscope.model.channel_axes import default_axis
from onnxscope.numerics.distances import Discrepancy
from onnxscope.releases.stored_values import Answers
from onnxscope.releases.trial_case import PLAIN, TAPPED, Trial, TrialCase

__all__ = ["Judge"]


@dataclass(frozen=True)
class _Value:
    """One value that is compared: of which job it is, and by what it is judged."""

    job: str
    output: str
    side: Side
    op_type: str
    axis: int | None
    noise: Discrepancy
    floor: Floor


class Judge:
    """Compares trials with the first one."""

    def __init__(self, case: TrialCase, first: Trial) -> None:
        """Measure how far the first release is from itself.

        Args:
            case: What was asked.
            first: Its trial, which has run.
        """
        self._first = first
        self._values = tuple(self._measured(case))
        self.has_layers = TAPPED in first.answers

    def rows(self, trial: Trial) -> list[LayerDifference]:
        """How far each layer, then each output, is from what the first release gave.

        Layers are left out where one of both does not run with them as outputs.
        """
        return [self._row(value, trial) for value in self._values if value.job in trial.answers]

    def _row(self, value: _Value, trial: Trial) -> LayerDifference:
        parts: list[Discrepancy] = []
        reason: str | None = None
        for run in range(self._first.answers[value.job].runs):
            ours, theirs = (side.answers[value.job].value(run, value.output) for side in (self._first, trial))
            reason = reason or _unlike(ours, theirs)
            if reason is None:
                parts.append(discrepancy_of(ours, theirs, _axis(ours, value.axis), None))
        entire = None if reason is not None else _total(parts)
        return LayerDifference(
            a=value.side,
            b=value.side,
            op_type=value.op_type,
            entire=entire,
            own=None,
            noise=value.noise,
            floor=value.floor.relative,
            unstable=None if reason is not None else value.floor.unstable_for(entire),
            reason=reason,
            incomparable=reason is not None,
        )

    def _measured(self, case: TrialCase) -> Iterable[_Value]:
        """The values that are compared, layers in execution order, then the outputs."""
        model = case.model
        layers, answers = model.layers, self._first.answers
        places: list[tuple[str, str, Side, str, int | None] | None] = [
            (TAPPED, case.outputs[layer], Side(layer.name, layer.value), layer.kind, case.taps[layer].channel_axis)
            if layer in case.outputs and TAPPED in answers
            else None
            for layer in layers
        ]
        places += [(PLAIN, name, Side("", name), "Output", None) for name in model.main.outputs]
        dtypes = [frozenset() if place is None else _dtypes(answers[place[0]], place[1]) for place in places]
        types = element_types(dtypes, [[(layer, [layers[index] for index in layer.before])] for layer in layers])
        in_codes = rounds_to_codes(model)
        for place, kinds in zip(places, types, strict=True):
            if place is None:
                continue
            job, output, side, op_type, channel_axis = place
            noise = self._noise(job, output, channel_axis)
            floor = floor_of(noise, kinds or ["float32"], in_codes=in_codes)
            yield _Value(job, output, side, op_type, channel_axis, noise, floor)

    def _noise(self, job: str, output: str, channel_axis: int | None) -> Discrepancy:
        """How far a value of the first release is from itself, over its first run."""
        answers = self._first.answers
        ours = answers[job].value(0, output)
        axis = _axis(ours, channel_axis)
        noise = discrepancy_of(ours, ours, axis, None)
        moved = 0
        for of, other, is_unfused in self._first.noise_jobs:
            if of != job or other not in answers:
                continue
            again = answers[other].value(0, output)
            if _unlike(ours, again) is not None:  # of random shape
                found = discrepancy_of(np.zeros(1), np.full(1, np.nan), None, None)
            else:
                found = discrepancy_of(ours, again, axis, None)
            if is_unfused:  # a padded convolution multiplies a NaN by the zeros around, or leaves them out
                moved = found.mismatched
                found = replace(found, mismatched=0)
            noise = larger_noise(found, noise)
        return replace(noise, moved=moved)


def _unlike(ours: Any, theirs: Any) -> str | None:
    """Why two values are not of one kind, None where they are."""
    if isinstance(ours, np.ndarray) != isinstance(theirs, np.ndarray):
        return "a tensor in one release alone"
    if not isinstance(ours, np.ndarray):
        return None
    if ours.shape != theirs.shape:
        return f"shapes {list(ours.shape)} and {list(theirs.shape)}"
    text = [array.dtype.kind in "OUS" for array in (ours, theirs)]
    if ours.dtype != theirs.dtype and not all(text):
        return f"element types {ours.dtype.name} and {theirs.dtype.name}"
    return None


def _axis(value: Any, channel_axis: int | None) -> int | None:
    return default_axis(value.ndim, channel_axis) if isinstance(value, np.ndarray) else None


def _total(parts: list[Discrepancy]) -> Discrepancy:
    """Over all runs; channels are added up where runs differ in how many there are."""
    if len({part.squares.shape for part in parts}) > 1:
        parts = [_over_channels(part) for part in parts]
    return reduce(add, parts)


def _over_channels(part: Discrepancy) -> Discrepancy:
    sums = {name: getattr(part, name).sum(keepdims=True) for name in ("squares", "reference", "other")}
    return replace(part, **sums, largest=part.largest.max(initial=0.0, keepdims=True))


def _dtypes(answers: Answers, output: str) -> frozenset[str]:
    value = answers.value(0, output)
    is_number = isinstance(value, np.ndarray) and value.dtype.kind not in "OUSc"
    return frozenset({value.dtype.name}) if is_number else frozenset()
