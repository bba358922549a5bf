"""The error that each format makes in each layer: predicted by the layer's gain, or measured.

A layer's gain is found once, with noise; what a format does to the layer by itself takes a run of that layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.narrowing.formats import Format
from onnxscope.narrowing.narrowed_layers import NarrowedLayer
from onnxscope.narrowing.narrowed_runs import NarrowedRuns
from onnxscope.narrowing.quality import Quality
from onnxscope.narrowing.sample_halves import SampleBatch

__all__ = ["Effect", "Gain", "Row", "measure_rows", "measure_sets", "predict_rows"]

Array = NDArray[Any]
Row = tuple[NarrowedLayer, Format]
"""A layer in a format."""


@dataclass
class Gain:
    """How much of a layer's error reaches the outputs.

    Attributes:
        own: The noise, at the layer.
        output: What it makes of the outputs.
    """

    own: Quality = field(default_factory=Quality)
    output: Quality = field(default_factory=Quality)

    @property
    def ratio(self) -> float | None:
        """Mean square of the outputs' error over that of the layer's, None where the layer was given no noise."""
        return self.output.noise_power / self.own.noise_power if self.own.noise_power else None


@dataclass
class Effect:
    """What a format does to a layer, and to the outputs.

    Attributes:
        own: At the layer.
        output: At the outputs.
        measured: Whether that was run.
    """

    own: Quality = field(default_factory=Quality)
    output: Quality = field(default_factory=Quality)
    measured: bool = False


def predict_rows(
    runs: NarrowedRuns, batches: Iterable[SampleBatch], formats: Sequence[Format]
) -> tuple[dict[NarrowedLayer, Gain], dict[Row, Effect]]:
    """Find the gain of every layer, and with it the effect of every format.

    The outputs of a format are those of the noise, in proportion: `outputs + (outputs with noise - outputs) * s`, where
    `s` is the ratio of the format's root mean square error at the layer to the noise's.

    Args:
        runs: The model.
        batches: Some samples.
        formats: Which ones.

    Raises:
        RunError: onnxruntime fails.
    """
    gains = {layer: Gain() for layer in runs.layers}
    effects = {(layer, form): Effect() for layer in runs.layers for form in formats}
    for batch in batches:
        clean = runs.segments.run(batch.feeds, batch.samples)
        outputs = batch.real(runs.outputs(clean))
        for place, layer in enumerate(runs.layers):
            name = runs.looked_at(layer)
            value = batch.real({name: clean[name]})
            after = {**clean, **runs.run_with_noise(clean, batch.samples, layer, seed=place)}
            reached = batch.real(runs.outputs(after))
            noise = Quality()
            noise.add(value, batch.real({name: after[name]}))
            gains[layer].own.include(noise)
            gains[layer].output.add(outputs, reached)
            for form in formats:
                own = Quality()
                own.add(value, batch.real({name: _alone(runs, layer, form, clean, batch)}))
                effects[layer, form].own.include(own)
                share = math.sqrt(own.noise / noise.noise) if noise.noise else 0.0
                effects[layer, form].output.add(outputs, _in_proportion(outputs, reached, share))
    return gains, effects


def measure_rows(runs: NarrowedRuns, batches: Iterable[SampleBatch], rows: Sequence[Row]) -> dict[Row, Effect]:
    """Run the model with one layer narrowed at a time.

    Args:
        runs: The model.
        batches: All samples that errors are measured on.
        rows: Which layer in which format.

    Raises:
        RunError: onnxruntime fails.
    """
    effects = {row: Effect(measured=True) for row in rows}
    for batch in batches:
        clean = runs.segments.run(batch.feeds, batch.samples)
        outputs = batch.real(runs.outputs(clean))
        for layer, form in rows:
            name = runs.looked_at(layer)
            changed: Mapping[str, Array] = {}
            if not runs.changes_nothing(layer, form):
                changed = runs.run(clean, batch.samples, [layer], form)
            after = {**clean, **changed}
            effects[layer, form].own.add(batch.real({name: clean[name]}), batch.real({name: after[name]}))
            effects[layer, form].output.add(outputs, batch.real(runs.outputs(after)))
    return effects


def measure_sets(
    runs: NarrowedRuns, batches: Iterable[SampleBatch], sets: Sequence[tuple[Collection[NarrowedLayer], Format]]
) -> list[Quality]:
    """Run the model with several layers narrowed at once.

    Args:
        runs: The model.
        batches: All samples that errors are measured on.
        sets: Which layers in which format.

    Returns:
        How far the outputs are off, for each set.

    Raises:
        RunError: onnxruntime fails.
    """
    found = [Quality() for _ in sets]
    for batch in batches:
        clean = runs.segments.run(batch.feeds, batch.samples)
        outputs = batch.real(runs.outputs(clean))
        for quality, (layers, form) in zip(found, sets, strict=True):
            changed = runs.run(clean, batch.samples, layers, form) if layers else {}
            quality.add(outputs, batch.real(runs.outputs({**clean, **changed})))
    return found


def _alone(
    runs: NarrowedRuns, layer: NarrowedLayer, form: Format, clean: Mapping[str, Array], batch: SampleBatch
) -> Array:
    """What a layer gives in a format; nothing behind it is run."""
    name = runs.looked_at(layer)
    if runs.changes_nothing(layer, form):
        return clean[name]
    return runs.run(clean, batch.samples, [layer], form, until=name).get(name, clean[name])


def _in_proportion(outputs: Mapping[str, Array], reached: Mapping[str, Array], share: float) -> dict[str, Array]:
    """Outputs with so many times the error of those that noise has reached."""
    made = {}
    for name, clean in outputs.items():
        if clean.dtype.kind == "f" or "float" in clean.dtype.name:
            exact = clean.astype(np.float64)
            with np.errstate(invalid="ignore"):
                error = reached[name].astype(np.float64) - exact
            made[name] = exact + np.where(np.isfinite(error), error, 0.0) * share
        else:
            made[name] = reached[name]
    return made
