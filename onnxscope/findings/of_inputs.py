"""What speaks against the pre-processing of an input, without a profile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from onnxscope.errors import InputError
from onnxscope.findings.kinds import Finding, FindingKind, by_gravity
from onnxscope.inputs.presets import Preset, load_preset, preset_of_model
from onnxscope.model.loading import Model
from onnxscope.preparing.prepared_result import Preparation, as_option

__all__ = ["find_in_input", "find_in_preparation"]

Array = np.ndarray[Any, Any]


def find_in_input(record: Mapping[str, Any], model: Model) -> tuple[Finding, ...]:
    """Return what speaks against the pre-processing of an input.

    Images are judged by the presets: the one used and the one that the model records. Arrays are judged by their
    numbers: those that the recorded preset cannot make, those between 0 and 1 where it takes the mean away, and, where
    the model records none and does not scale its input itself, those that look like 8-bit pixels. Random numbers are
    not judged.

    Args:
        record: The `input` record of results.
        model: What it was fed to.
    """
    recorded = _preset(lambda: preset_of_model(model.provenance.preprocess if model.provenance else None))
    if record["kind"] == "images" and recorded is not None:
        recipe = record["preset"]
        used = _preset(lambda: load_preset(recipe if isinstance(recipe, str) else json.dumps(recipe), files=False))
        name = model.inputs[0].name if model.inputs else ""
        return by_gravity(_other_preset(used, recorded, name)) if used is not None else ()
    if record["kind"] != "arrays":
        return ()
    pictures = [
        array
        for array in record["inputs"]
        if "mean" in array
        and array["channel_axis"] is not None
        and "float" in array["dtype"]
        and len(array["mean"]) in (1, 3)
    ]
    findings = [_other_range(array, recorded) if recorded else _raw_pixels(array, model) for array in pictures]
    return by_gravity(finding for finding in findings if finding is not None)


def find_in_preparation(preparation: Preparation, name: str) -> tuple[Finding, ...]:
    """Return what the model's own running statistics have against how its pictures were prepared.

    Args:
        preparation: What was found, and what was used.
        name: Of the input.
    """
    used, answer = preparation.used, preparation.answer
    if not preparation.is_used_wrong or used is None or answer is None:
        return ()
    best = preparation.ranked[0]
    distances = [_short(row.distance.distance) for row in (used, best)]
    message = (
        f"prepared with {as_option(used.candidate.preset)}, what enters the first BatchNormalization is {distances[0]} "
        f"nats from its running statistics; with `--preprocess {as_option(answer)}` it is {distances[1]} "
        f"({preparation.sureness})"
    )
    kind: FindingKind = "input_order" if used.candidate.has_numbers_of(best.candidate) else "input_range"
    return (Finding(kind=kind, layer=name, channel=None, message=message),)


def _preset(read: Callable[[], Preset]) -> Preset | None:
    try:
        return read()
    except InputError:
        return None


def _other_preset(used: Preset, recorded: Preset, name: str) -> Iterator[Finding]:
    if used.order != recorded.order:
        message = f"prepared as {used.order} with the preset {used.name!r}, and the model records {recorded.order} "
        message += f"({recorded.name!r})"
        yield Finding(kind="input_order", layer=name, channel=None, message=message)
    by_colour = [_range(preset, 3) if preset.order == "RGB" else _range(preset, 3)[::-1] for preset in (used, recorded)]
    if not np.allclose(by_colour[0], by_colour[1], rtol=1e-3, atol=1e-6):
        message = f"prepared with the preset {used.name!r}, which gives {_range_text(used)}, and the model records "
        message += f"{recorded.name!r}, which gives {_range_text(recorded)}"
        yield Finding(kind="input_range", layer=name, channel=None, message=message)


def _range(preset: Preset, channels: int) -> Array:
    """What a preset makes of 0 and 255: an array of shape (channels, 2), ascending in each row."""
    mean, std = (
        np.broadcast_to(np.asarray(numbers[:channels], np.float64), channels) for numbers in (preset.mean, preset.std)
    )
    ends = (np.array([[0.0, 255.0]]) / preset.divisor - mean[:, None]) / std[:, None]
    return np.sort(ends, axis=1)


def _range_text(preset: Preset) -> str:
    ends = _range(preset, 3)
    return f"numbers from {_short(ends.min())} to {_short(ends.max())}"


def _short(number: float) -> str:
    return f"{number:.3g}"


def _other_range(array: Mapping[str, Any], recorded: Preset) -> Finding | None:
    """Numbers that the recorded preset does not make of any picture, or that look as if it had been left out."""
    low, high = array["min"], array["max"]
    channels = len(low)
    if None in low or None in high or max(len(recorded.mean), len(recorded.std)) > channels:
        return None
    ends = _range(recorded, channels)
    slack = 0.02 * (ends[:, 1] - ends[:, 0])
    array_text = f"holds numbers from {_short(min(low))} to {_short(max(high))}"
    preset_text = (
        f"the preset that the model records, {recorded.name!r}, makes {_short(ends.min())} to {_short(ends.max())}"
    )
    outside = (np.array(low) < ends[:, 0] - slack) | (np.array(high) > ends[:, 1] + slack)
    if outside.any():
        channel = int(np.flatnonzero(outside)[0])
        if not np.any((min(low) < ends.min() - slack.max(), max(high) > ends.max() + slack.max())):
            array_text = f"holds numbers from {_short(low[channel])} to {_short(high[channel])} in channel {channel}"
            preset_text = f"the preset that the model records, {recorded.name!r}, makes {_short(ends[channel, 0])} to "
            preset_text += _short(ends[channel, 1])
        return Finding(kind="input_range", layer=array["name"], channel=None, message=f"{array_text}; {preset_text}")
    if min(low) >= 0 and max(high) <= 1 and max(high) > 0.2:
        if ends.min() <= -0.5:
            why = "it looks as if mean and deviation had been left out"
        elif ends.max() >= 100:
            why = "it looks divided by 255 once too often"
        else:
            return None
        message = f"{array_text}; {preset_text}: {why}"
        return Finding(kind="input_range", layer=array["name"], channel=None, message=message)
    return None


def _raw_pixels(array: Mapping[str, Any], model: Model) -> Finding | None:
    """Numbers like 8-bit pixels, for a model that records no preset and does not scale them itself."""
    low, high = array["min"], array["max"]
    if None in low or None in high or min(low) < 0 or not 128 <= max(high) <= 255:
        return None
    readers = model.main.readers.get(array["name"], ())
    while len(readers) == 1 and readers[0].operator.passes_on in ("permuted", "same", "reshaped"):
        readers = model.main.readers.get(readers[0].outputs[0], ())
    if not readers or any(not reader.operator.is_convolution or reader.operator.integers for reader in readers):
        return None
    message = (
        f"holds numbers from {_short(min(low))} to {_short(max(high))}, like pixels that were not scaled, and goes "
    )
    message += "into a convolution as it is; the model records no preset that would say whether that is meant"
    return Finding(kind="input_range", layer=array["name"], channel=None, message=message)
