"""Which layers of a model lose most in narrower formats: `sensitivity()`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, get_args

from onnxscope.base import option_types
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.model.loading import CustomOps
from onnxscope.narrowing.formats import Format, Scheme, find_formats, scheme_of
from onnxscope.narrowing.kept_layers import KeptLayers, Target, keep_layers, read_target
from onnxscope.narrowing.measuring import Effect, Gain, Row, measure_rows, measure_sets, predict_rows
from onnxscope.narrowing.narrowed_layers import NarrowedLayer, Of, find_narrowed_layers
from onnxscope.narrowing.narrowed_runs import NarrowedRuns
from onnxscope.narrowing.pass_budget import choose_rows, is_small, plan_runs
from onnxscope.narrowing.result import LayerLoss, SampleCounts, Sensitivity, WholeLoss
from onnxscope.narrowing.sample_halves import Batches, halves, on_samples
from onnxscope.narrowing.value_ranges import RangeRule
from onnxscope.selection.feeding_recipes import load_to_run

__all__ = ["sensitivity"]

_NAMED = 3
_OF_RANDOM = "the inputs are random numbers: which layers lose most by them is not which do by real data"


@option_types.checked
def sensitivity(
    model: Any,
    inputs: Any,
    *,
    formats: str | Sequence[str] = "int8",
    of: Of = "weights",
    scheme: Scheme | None = None,
    ranges: RangeRule = "minmax",
    target: str | None = None,
    select: str | Sequence[str] = (),
    batch_size: int = 8,
    limit: int | None = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> Sensitivity:
    """Narrow one layer at a time, and all of them at once, and measure how far the model's outputs move.

    A layer is one that multiplies by a stored matrix of floating-point numbers. Where it takes long to run every layer
    in every format on every sample, fewer samples do for a layer. Where even one would be too much, the outputs' error
    follows from the layer's own error and its gain, but for the worst rows and those that noise does not stand for.

    Args:
        model: A path, a `ModelProto` or a `Model`, in floating point; it is not changed.
        inputs: What it is fed: see `open_dataset`.
        formats: Names of `int8`, `uint8`, `int6`, `int4`, `uint4`, `float16`, `bfloat16`, `fp8` (e4m3) and `fp8_e5m2`.
        of: What of a layer is narrowed: its weights, what leaves it (behind the activation function), or both, and then
            what it works on, too.
        scheme: What shares a scale in a weight: the tensor, a channel, or a block of 32 of a channel's numbers. None is
            blocks for four bits, the tensor for others.
        ranges: How ranges of activations are found: by every other sample, while errors are measured on the rest.
        target: How good the model has to be, `30dB`, `top1=0.99` or `kl=0.01`: the fewest layers to keep in float are
            looked for, for each format.
        select: Selectors over the layers; none narrows all of them.
        batch_size: Samples of a run, where the model does not fix it.
        limit: Only the first so many samples.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads: their code runs.
        dims: Sizes for open dimensions of the model's inputs.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Returns:
        Errors as ratios of sums of squares over all numbers, in decibels, and of scores of classes.

    Raises:
        SelectorError: A selector matches nothing.
        InputError: No layer can be narrowed, there is no such format or target, or the inputs do not fit.
        ModelError: The model cannot be read.
        RunError: onnxruntime fails.
    """
    forms = find_formats(formats)
    wanted = None if target is None else read_target(target)
    _check("of", of, get_args(Of))
    _check("ranges", ranges, get_args(RangeRule))
    schemes = {form: scheme_of(form, scheme) for form in forms}
    options = RunOptions(**feeding, batch_size=batch_size, limit=limit, threads=threads)
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    layers, missed = find_narrowed_layers(loaded, [select] if isinstance(select, str) else list(select))
    dataset = on_samples(loaded, open_dataset(inputs, loaded, options), options)
    runs = NarrowedRuns(loaded, layers, of=of, scheme=scheme, threads=threads)
    others, measured = halves(dataset.count) if of != "weights" else (range(0), range(dataset.count))
    every = Batches(dataset, measured, options.batch_size)
    runs.observe(Batches(dataset, others, options.batch_size), every, ranges)
    gains, effects, counts = _measured(runs, forms, every, len(others))
    rows = _rows(runs, gains, effects)
    must_run = Counter(row.form for row in rows if row.must_run)
    whole = measure_sets(runs, every, [(layers, form) for form in forms])
    passes = runs.segments.passes / len(every)
    kept = () if wanted is None else _kept(runs, every, forms, effects, wanted)
    return Sensitivity(
        model=loaded.to_dict(),
        input=dataset.record,
        of=of,
        rule=ranges,
        ranges=runs.ranges,
        samples=counts,
        passes=passes,
        whole=tuple(
            WholeLoss(form.name, schemes[form], quality, must_run[form.name])
            for form, quality in zip(forms, whole, strict=True)
        ),
        layers=tuple(rows),
        kept=kept,
        unreachable=missed,
        notes=(
            *dataset.notes,
            *_notes(rows, counts, dataset.kind, ranges),
            *_unfolded(runs),
            *dict.fromkeys(note for each in kept for note in each.notes),
        ),
    )


def _check(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise InputError(f"unknown {what}: '{printable(str(given))}'", hint=f"one of {', '.join(known)}")


def _measured(
    runs: NarrowedRuns, forms: Sequence[Format], every: Batches, ranging: int
) -> tuple[Mapping[NarrowedLayer, Gain], Mapping[Row, Effect], SampleCounts]:
    """Find the gain of every layer, and the effect of every format on it."""
    plan = plan_runs(runs, forms, len(every), every.size, runs.segments.passes / len(every))
    few = every.spread(plan.gains)
    if plan.all_rows:
        gains, effects = predict_rows(runs, few, ())
        chosen = [(layer, form) for layer in runs.layers for form in forms]
    else:
        gains, effects = predict_rows(runs, few, forms)
        chosen = choose_rows(runs, effects, plan, len(every))
    effects |= measure_rows(runs, every.spread(plan.rows), chosen)
    return gains, effects, SampleCounts(ranging, len(every), plan.rows, plan.gains)


def _kept(
    runs: NarrowedRuns, every: Batches, forms: Sequence[Format], effects: Mapping[Row, Effect], target: Target
) -> tuple[KeptLayers, ...]:
    """Find the layers to keep in float, for each format."""
    cheap = is_small(runs, len(every), len(runs.layers) * len(forms), every.size)
    found = []
    for form in forms:
        losses = {layer: effects[layer, form].output.relative_noise for layer in runs.layers}
        found.append(keep_layers(runs, every, form, losses, target, is_small=cheap))
    return tuple(found)


def _rows(runs: NarrowedRuns, gains: Mapping[NarrowedLayer, Gain], effects: Mapping[Row, Effect]) -> list[LayerLoss]:
    """The worst first; of those that are as bad, in execution order."""
    rows = [
        LayerLoss(
            name=layer.own,
            layer=layer.layer,
            op_type=layer.node.op_type,
            form=form.name,
            of=runs.of,
            own=effect.own,
            output=effect.output,
            gain=gains[layer].ratio,
            measured=effect.measured,
            must_run=runs.must_run(layer, form, effect.own.noise_power),
        )
        for layer in runs.layers
        for form in dict.fromkeys(form for _, form in effects)
        if (effect := effects.get((layer, form))) is not None
    ]
    return sorted(rows, key=lambda row: -row.output.relative_noise)


def _unfolded(runs: NarrowedRuns) -> list[str]:
    """What is another model to a quantizer, which folds it first."""
    graph = runs.model.main
    apart = [
        layer
        for layer in runs.layers
        if any(reader.op_type == "BatchNormalization" for reader in graph.readers_of(layer.node.outputs[0]))
    ]
    if not apart:
        return []
    named = f"{counted(len(apart), 'layer')} has" if len(apart) == 1 else f"{len(apart)} layers have"
    return [
        f"{named} a BatchNormalization apart, which quantizers fold into the weights first: narrow the folded model"
    ]


def _notes(rows: Sequence[LayerLoss], counts: SampleCounts, kind: str, rule: RangeRule) -> list[str]:
    notes = [_OF_RANDOM] if kind == "random" else []
    run = sum(row.measured for row in rows)
    if run < len(rows):
        samples = counted(counts.rows, "sample")
        notes.append(f"{run} of {len(rows)} rows were run, on {samples}; the others are predicted by the layers' gains")
    elif counts.rows < counts.errors:
        notes.append(f"each layer was run on {counts.rows} of {counted(counts.errors, 'sample')}")
    if counts.ranges and counts.ranges == counts.errors == 1:
        notes.append("ranges and errors are from the same sample")
    for form in dict.fromkeys(row.form for row in rows):
        clipping = [printable(row.layer) for row in rows if row.form == form and row.must_run == "clips"]
        if clipping:
            more = f" and {len(clipping) - _NAMED} more" if len(clipping) > _NAMED else ""
            where = "of some samples clip others" if counts.ranges and rule == "minmax" else "clip values"
            notes.append(f"{form}: ranges {where} at {', '.join(clipping[:_NAMED])}{more}")
    broken = [row for row in rows if row.output.broken]
    if broken:
        named = ", ".join(f"{printable(row.layer)} as {row.form}" for row in broken[:_NAMED])
        notes.append(f"outputs are not finite any more with {named}{' and others' if len(broken) > _NAMED else ''}")
    return notes
