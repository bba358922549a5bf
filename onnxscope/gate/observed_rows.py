"""What a run adds to the rows of a baseline: the statistics of every layer and output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxscope.analyses.weight_statistics import WeightStatistics
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.floors import own_floors
from onnxscope.datasets.dataset import open_dataset
from onnxscope.gate.baseline_rows import (
    EXACT,
    composite_outputs,
    long_outputs,
    numbers_of,
    output_row,
    outputs_in_order,
)
from onnxscope.model.loading import Model
from onnxscope.profiling.dataset_run import run_stats, start_pilot
from onnxscope.profiling.plan import make_plan
from onnxscope.runtime.half_range import Unfit
from onnxscope.runtime.unstable_nodes import unstable_values
from onnxscope.selection.selectors import tap_values

__all__ = ["Observed", "observe"]


@dataclass(frozen=True)
class Observed:
    """What else a run has told.

    Attributes:
        record: The `input` record, with a digest of the samples; None where nothing was run.
        unfit: Values of half precision that held numbers beyond their type.
        notes: Remarks for people.
    """

    record: dict[str, Any] | None = None
    unfit: tuple[Unfit, ...] = ()
    notes: tuple[str, ...] = ()


def observe(
    model: Model, inputs: Any, options: RunOptions, stored: WeightStatistics, rows: list[dict[str, Any]]
) -> Observed:
    """Run a model, and write the statistics of its layers into their rows; outputs get rows of their own.

    Args:
        model: In its one form.
        inputs: As for `snapshot`.
        options: What is asked of the run.
        stored: Statistics of its parameters.
        rows: One for each layer; they are changed.

    Raises:
        InputError: The inputs do not fit.
        RunError: onnxruntime fails.
    """
    opened = open_dataset(inputs, model, options)
    layers, outputs = model.layers, model.main.outputs
    taps = tap_values(model, [*((layer.path, layer.value) for layer in layers), *(((), name) for name in outputs)])
    observed = list(taps.values())
    pilot, dataset = start_pilot(model, observed, opened, options)
    notes = tuple(note for note in dataset.notes if note not in opened.notes)
    plan = make_plan(pilot, observed, dataset, options)
    floors, causes = own_floors(pilot, taps), unstable_values(model)
    composites, digests_of_long = composite_outputs(pilot), long_outputs(pilot)
    places = outputs_in_order(pilot)
    pilot.close()
    selection = {"select": [], "at": "post"}
    profiled = run_stats(model, dataset, options, plan, stored, selection=selection)
    profile = profiled.profile
    record = {**profile.input, "samples": profile.samples, "content": f"{profile.content:064x}"}
    statistics = {tap.name: tap for tap in profiled}
    for layer, row in zip(layers, rows, strict=True):
        name = taps[layer.path, layer.value].name
        if name in statistics:
            floor = floors.get(layer.value, EXACT)
            of_output = None if layer.path else places.get(layer.value)
            tap = statistics[name]
            row |= numbers_of(tap.overall, tap, floor, cause=causes.get(layer.value), places=of_output)
    of_layers = {layer.value for layer in layers}
    for name in outputs:
        floor = floors.get(name, EXACT)
        if name in statistics and name not in of_layers:
            tap = statistics[name]
            numbers = numbers_of(tap.overall, tap, floor, cause=causes.get(name), places=places.get(name))
            rows.append(output_row(name, digests_of_long.get(name), numbers))
        elif name in composites:
            overall, rest = composites[name]
            numbers = numbers_of(overall, None, floor, cause=causes.get(name), places=places.get(name))
            rows.append(output_row(name, rest, numbers))
    return Observed(record, profile.unfit, notes)
