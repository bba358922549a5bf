"""Whether the values of one dataset are those of another: `drift()`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxscope.base import option_types
from onnxscope.base.text import counted
from onnxscope.drifting.drift_result import Drift
from onnxscope.drifting.populations import Chance, Population
from onnxscope.drifting.running_statistics import running_populations
from onnxscope.drifting.shifts import PER_CHANNEL, PER_VALUE, Shift, compare_taps, compare_with
from onnxscope.errors import InputError, ProfileError
from onnxscope.model.loading import Model, load_model
from onnxscope.profiling.dataset_statistics import DatasetStatistics
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import TapProfile

__all__ = ["drift"]

_CHANCE = 1e-2  # that random parts of one dataset are said to drift, in any of their values
_REACH = 4.0  # deviations that elements are away, for a rule of thumb
_SETTINGS = ("preset", "layout", "sound", "text", "masks")


@option_types.checked
def drift(first: Any, second: Any, *, threshold: float = 0.2) -> Drift:
    """Say how far the values of one dataset are from those of another, beyond what chance does.

    Args:
        first: A profile, of `stats()` or `watch()`, or its file; or a model, whose BatchNormalizations know the mean
            and the variance of the data that it was trained on.
        second: The profile of the data in question, or its file.
        threshold: Beyond which a value drifts: a shift of the mean in deviations of the first set, a logarithm of the
            ratio of both deviations, a population stability index, a Wasserstein distance in deviations, a share.
            Nothing drifts by what chance does to so many samples.

    Raises:
        InputError: The first of them is nothing of that kind, or the threshold is below 0.
        ProfileError: A profile cannot be read, or they have no value in common.
        ModelError: The model cannot be read.
    """
    later = _profile(second)
    if not threshold >= 0:
        raise InputError(f"a threshold is a number of at least 0, not {threshold!r}")
    if _is_model(first):
        return _against_model(load_model(first), later, float(threshold))
    return _against_profile(_profile(first), later, float(threshold))


def _against_profile(first: Profile, second: Profile, threshold: float) -> Drift:
    pairs, unmatched = _pairs(first, second)
    if not pairs:
        raise ProfileError(
            f"the profiles have no value in common: {first.model['name']} and {second.model['name']}",
            hint="make both with the same --select and --at",
        )
    log_odds = _log_odds([after for _, after in pairs])
    rows = [
        compare_taps(before, after, Chance(before.samples, after.samples, log_odds), threshold)
        for before, after in pairs
    ]
    chance = Chance(max(first.samples, 1), max(second.samples, 1), log_odds)
    return Drift(
        model=str(second.model["name"]),
        samples=(first.samples, second.samples),
        threshold=threshold,
        shifts=_ranked(rows),
        unmatched=tuple(unmatched),
        decides=chance.decides,
        notes=(*_notes(first, second), *_notes_on_chance(chance, threshold)),
    )


def _against_model(model: Model, second: Profile, threshold: float) -> Drift:
    known = running_populations(model)
    taps = [tap for tap in second.reached if tap.name in known and _fits(known[tap.name], tap)]
    if not taps:
        what = "has no BatchNormalization" if not known else "has none of the values around its BatchNormalizations"
        whose = model.name if not known else "the profile"
        raise ProfileError(
            f"{whose} {what}: there is nothing to hold {second.model['name']} to",
            hint="give the profile of earlier data"
            if not known
            else f"`onnxscope stats {model.name} -i INPUT --select op:BatchNormalization --at pre -o PROFILE.json`",
        )
    log_odds = _log_odds(taps)
    rows = [compare_with(known[tap.name], tap, Chance(math.inf, tap.samples, log_odds), threshold) for tap in taps]
    chance = Chance(math.inf, max(second.samples, 1), log_odds)
    notes = [] if model.digest == second.digest else [f"the profile is of another model than {model.name}"]
    return Drift(
        model=model.name,
        samples=(None, second.samples),
        threshold=threshold,
        shifts=_ranked(rows),
        unmatched=(),
        decides=True,
        notes=(*notes, *_notes_on_chance(chance, threshold)),
    )


def _fits(reference: Population, tap: TapProfile) -> bool:
    return tap.channel_axis is not None and tap.state.moments.count.size == reference.mean.size


def _log_odds(taps: list[TapProfile]) -> float:
    """So many comparisons are made that each may go wrong with a small chance only; both signs count."""
    comparisons = sum(PER_VALUE + PER_CHANNEL * tap.state.moments.count.size for tap in taps)
    return math.log(2 * comparisons / _CHANCE)


def _pairs(first: Profile, second: Profile) -> tuple[list[tuple[TapProfile, TapProfile]], list[tuple[str, str]]]:
    """The values that both sides know, in execution order, and the others."""
    sides = [{tap.name: tap for tap in (*_inputs(side), *side.reached)} for side in (first, second)]
    pairs, unmatched = [], []
    for name, tap in sides[1].items():
        before = sides[0].get(name)
        if before is None:
            unmatched.append((tap.layer or name, "in the second profile alone"))
            continue
        if before.state.moments.count.size != tap.state.moments.count.size:
            sizes = " and ".join(str(side.state.moments.count.size) for side in (before, tap))
            unmatched.append((tap.layer or name, f"channels are compared together: there are {sizes} of them"))
        pairs.append((before, tap))
    unmatched += [
        (tap.layer or name, "in the first profile alone") for name, tap in sides[0].items() if name not in sides[1]
    ]
    return pairs, unmatched


def _inputs(profile: Profile) -> Iterator[TapProfile]:
    tapped = {tap.name for tap in profile.reached}
    return (tap for tap in profile.inputs if tap.samples and tap.name not in tapped)


def _ranked(rows: list[Shift]) -> tuple[Shift, ...]:
    """Inputs that drift, then the farthest; in execution order where that is the same."""
    return tuple(sorted(rows, key=lambda row: (not (row.drifts and row.is_input), -row.drift)))


def _notes(first: Profile, second: Profile) -> list[str]:
    notes = []
    if first.digest != second.digest:
        notes.append(f"the profiles are of two models: {first.model['name']} and {second.model['name']}")
    if first.content == second.content and first.samples:
        notes.append("both profiles are of the same samples")
    notes += [
        f"{key} was {_short(first.input, key)} and is {_short(second.input, key)}"
        for key in _SETTINGS
        if first.input.get(key) != second.input.get(key)
    ]
    return notes


def _short(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "not given" if value is None else str(value)[:80]


def _notes_on_chance(chance: Chance, threshold: float) -> list[str]:
    if not chance.decides:
        least = counted(math.ceil(2 * chance.log_odds) + 1, "sample")
        return [f"so few samples never differ by more than chance explains: {least} in both are the least"]
    largest = float(chance.bound(np.ones(1), np.full(1, _REACH))[0])
    if largest > threshold:
        return [f"with so many samples, chance alone moves a mean by up to {largest:.2g} deviations"]
    return []


def _profile(given: Any) -> Profile:
    if isinstance(given, DatasetStatistics):
        return given.profile
    return given if isinstance(given, Profile) else Profile.load(given)


def _is_model(given: Any) -> bool:
    """Whether something is a model or the file of one; a profile's file begins with a brace."""
    if isinstance(given, (Profile, DatasetStatistics)):
        return False
    if isinstance(given, (Model, ModelProto)):
        return True
    option_types.path("first", given)
    path = os.fspath(given)
    if str(path).endswith(".json") or not os.path.isfile(path):
        return str(path).endswith((".onnx", ".pb", ".ort", ".onnxtxt"))
    try:
        with open(path, "rb") as stream:
            return not stream.read(64).lstrip().startswith(b"{")
    except OSError:  # what reads it says so
        return False
