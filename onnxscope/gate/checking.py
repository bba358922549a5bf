"""Check a model against a baseline: `check()`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from onnxscope.analyses.weight_statistics import weights
from onnxscope.base import option_types
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.drifting.compare_profiles import drift
from onnxscope.errors import InputError
from onnxscope.gate.baseline import Baseline, run_snapshot
from onnxscope.gate.baseline_nodes import (
    listed_nodes,
)
from onnxscope.gate.check_result import UNDECIDED, Check, Deviation, shown_value
from onnxscope.gate.compare_baselines import compare_baselines
from onnxscope.gate.renamed_weights import remarks_on_names
from onnxscope.gate.selected_rows import SelectedRows
from onnxscope.gate.settings import Settings
from onnxscope.gate.unstable_records import notes_on_change
from onnxscope.model.loading import CustomOps, Model
from onnxscope.profiling.dataset_run import run_stats, start_pilot
from onnxscope.profiling.plan import make_plan
from onnxscope.profiling.profile import Profile
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.selectors import select_taps
from onnxscope.structure.standard_model import standard_model

__all__ = ["check"]

_ONLY_OF_SOME = ("sound", "text", "state", "masks")
_ASKED = ("files", "samples", "preset", "layout", "random_seed", "batch_axes", "dims", *_ONLY_OF_SOME)


@option_types.checked
def check(
    model: Any,
    baseline: Baseline | str | os.PathLike[str],
    inputs: Any = None,
    *,
    select: str | Sequence[str] = (),
    settings: Settings | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    renew: bool = False,
    profile: Profile | str | os.PathLike[str] | None = None,
    threshold: float = 0.2,
    **feeding: Unpack[FeedingOptions],
) -> Check:
    """Compare a model with a baseline of it.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        baseline: Of `snapshot()`, or its file.
        inputs: The same that the baseline was taken with; None compares structure and weights alone. Where a profile is
            given, the data that is held to it.
        select: Selectors, as for `diff`; none checks everything. Outputs always are checked.
        settings: Tolerances and layers to ignore.
        batch_size: As for `snapshot`.
        limit: As for `snapshot`.
        threads: As for `snapshot`.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        renew: Whether the baseline is about to be replaced, so that other inputs are welcome.
        profile: Of earlier data, or its file: structure and weights are held to the baseline, and the values that the
            inputs give to the profile, as `drift` does.
        threshold: Of `drift`.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Raises:
        ModelError: The model cannot be read.
        BaselineError: The baseline cannot be read.
        ProfileError: The profile cannot be read, or has no value in common with what the inputs give.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit, or are others than the baseline's.
        RunError: onnxruntime fails.
    """
    options = RunOptions(
        **feeding,
        batch_size=batch_size,
        limit=limit,
        threads=threads,
    )
    expected = baseline if isinstance(baseline, Baseline) else Baseline.load(baseline)
    earlier = profile if isinstance(profile, Profile) or profile is None else Profile.load(profile)
    data = inputs
    if earlier is not None:
        if inputs is None:
            raise InputError("no inputs to hold to the profile", hint="name them: `-i INPUT`")
        inputs = None
    given, options = load_to_run(model, options, data, custom_ops=custom_ops, dims=dims)
    loaded = standard_model(given)
    selectors = [select] if isinstance(select, str) else list(select)
    rows = SelectedRows(loaded, expected.layers, selectors, settings or Settings())
    notes = []
    if data is None and expected.input is not None:
        notes.append("nothing was run: structure and weights alone are checked; -i names the baseline's input")
    if expected.nodes is None:
        notes.append("the baseline lists no nodes: only layers and weights are compared; `--update` lists them")
    actual = run_snapshot(loaded, inputs, options if renew else _cut_as(expected, loaded, options))
    notes += actual.notes
    if actual.input is not None and expected.input is None:
        notes.append("the baseline was taken without an input: activations are not checked")
    elif actual.input is not None and expected.input is not None and not renew:
        _require_same_input(expected.input, actual.input)
    notes += notes_on_change(expected.unstable, actual.unstable)
    nodes = listed_nodes(loaded) if selectors or rows.settings.ignore else None
    findings, layers, remarks = compare_baselines(expected, actual, rows, nodes)
    notes += remarks
    notes += remarks_on_names(expected, actual, [finding.statistic for finding in findings])
    if earlier is not None:
        drifted, remarks = _drift_findings(given, earlier, data, options, threshold)
        findings, notes = [*findings, *drifted], [*notes, *remarks]
    return Check(
        name=loaded.name,
        baseline=expected,
        found=actual,
        findings=tuple(findings),
        layers=tuple(layers),
        weights=sum(map(rows.holds_weight, expected.weights)),
        notes=tuple(notes),
    )


def _drift_findings(
    model: Model, earlier: Profile, data: Any, options: RunOptions, threshold: float
) -> tuple[list[Deviation], list[str]]:
    """What the data gives is held to an earlier profile, value by value as that was made; also remarks."""
    made = earlier.provenance
    dataset = open_dataset(data, model, options)
    taps = select_taps(model, list(made.get("select", ())), at=made.get("at", "post"))
    pilot, dataset = start_pilot(model, taps, dataset, options)
    plan = make_plan(pilot, taps, dataset, options)
    pilot.close()
    selection = {key: made[key] for key in ("select", "at") if key in made}
    later = run_stats(model, dataset, options, plan, weights(model), selection=selection)
    found = drift(earlier, later, threshold=threshold)
    rows = [
        Deviation(
            layer=row.where,
            statistic="drift",
            expected=None,
            found=row.drift if math.isfinite(row.drift) else row.what(),
            tolerance=threshold,
            message=row.message(),
        )
        for row in found.drifting
    ]
    if found.verdict == UNDECIDED:
        rows.append(
            Deviation(layer="", statistic=UNDECIDED, expected=None, found=None, tolerance=None, message=found.summary())
        )
    return rows, [*later.notes, *found.notes]


def _cut_as(expected: Baseline, model: Model, options: RunOptions) -> RunOptions:
    """Cut arrays as they were cut for the baseline, where nothing else is asked for and the inputs are the same."""
    axes = (expected.input or {}).get("batch_axes")
    names = {spec.name for spec in model.inputs}
    if options.batch_axis is not None or not isinstance(axes, dict) or axes.keys() != names:
        return options
    return replace(options, batch_axis=axes)


def _require_same_input(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    if expected["content"] == actual["content"]:
        return
    changes = [
        f"{key} {shown_value(expected.get(key))} became {shown_value(actual.get(key))}"
        for key in _ASKED
        if (key in expected or key in _ONLY_OF_SOME) and expected.get(key) != actual.get(key)
    ]
    difference = "; ".join(changes) or "the same names with other numbers in them"
    raise InputError(
        f"these inputs are not those of the baseline: {difference}",
        hint="give the baseline's inputs and pre-processing, or take it again with `--update`",
    )
