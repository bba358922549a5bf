"""Say why the layers of a second model differ, and mend them: `explain()`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from onnxscope.base import option_types
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.text import printable
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.comparison.compare_models import run_diff
from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.result import Comparison
from onnxscope.errors import InputError, OnnxscopeError
from onnxscope.explaining.causes import Causes, find_causes
from onnxscope.explaining.edits import Edit, shown
from onnxscope.explaining.explained import ExplainedComparison, Explanation
from onnxscope.explaining.fed_parts import FedPart, blamed_rows, fed_values, find_parts
from onnxscope.explaining.hypotheses import Hypothesis, hypotheses, other_values
from onnxscope.explaining.mended_copy import refuse_mended, save_mended
from onnxscope.explaining.trials import Trial, Tried
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.pairing.align_layers import Align
from onnxscope.selection.feeding_recipes import load_to_run

__all__ = ["explain", "explain_comparison", "explain_outputs"]

_MOST_LAYERS = 5
_MOST_TRIALS = 80  # of one layer
_MOST_ROUNDS = 3
_NOTHING = "nothing in the table explains it"


@option_types.checked
def explain(
    a: Any,
    b: Any,
    inputs: Any,
    *,
    mend: str | os.PathLike[str] | None = None,
    force: bool = False,
    align: Align = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    select: str | Sequence[str] = (),
    batch_size: int = 8,
    limit: int | None = None,
    memory_budget_bytes: int = 512 << 20,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> ExplainedComparison:
    """Compare two models, and try which single edit of the second one's nodes makes each guilty layer equal.

    A layer's nodes are fed the first model's values, and run under one hypothesis after the other: what its node in the
    first model has first, then what such nodes are often given by mistake. Nothing is an answer, too. Beside that, the
    smallest set of layers is found that carries 95 % of the difference of the outputs; of a selection, none is.

    Args:
        a: The reference, as for `diff`.
        b: The model that is to be explained.
        inputs: What both are fed.
        mend: Where a copy of the second model with all edits is written, which is compared again.
        force: Whether a file there that is no model may be replaced.
        align: As for `diff`, like all that follows.
        rtol: Relative tolerance of an element.
        atol: Absolute tolerance of an element.
        select: Selectors over the first model's layers.
        batch_size: Samples of a run.
        limit: Only the first so many samples.
        memory_budget_bytes: What values may take that leave onnxruntime.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators.
        dims: Sizes for open dimensions.
        feeding: How what is given becomes the model's inputs.

    Returns:
        The comparison, with explanations of the first five layers that have a difference of their own.

    Raises:
        InputError: The inputs do not fit, or there are none.
        ModelError: A model cannot be read.
        OutputError: The mended copy cannot be written.
        RunError: onnxruntime fails.
    """
    if inputs is None:
        raise InputError("nothing is run, so nothing can be explained", hint="name what the models are fed")
    options = RunOptions(
        **feeding, batch_size=batch_size, limit=limit, memory_budget_bytes=memory_budget_bytes, threads=threads
    )
    if isinstance(inputs, Iterator):
        inputs = list(inputs)  # it is read several times
    first, options = load_to_run(a, options, inputs, custom_ops=custom_ops, dims=dims)
    second = load_model(b, custom_ops=custom_ops).run_as(first.running)
    if mend is not None:
        refuse_mended(Path(mend), force=force)

    def compare(model: Model) -> Comparison:
        return run_diff(first, model, inputs, options, align=align, rtol=rtol, atol=atol, select=select)

    comparison = compare(second)
    found = explain_comparison(comparison, first, second, inputs, options)
    mended = None
    rounds = 0
    while mend is not None and rounds < _MOST_ROUNDS:
        edits = [edit for explanation in found for edit in explanation.edits]
        if not edits:
            break
        save_mended(second, edits, Path(mend), force=force or rounds > 0)
        copy = load_model(mend, custom_ops=custom_ops).run_as(first.running)
        mended, rounds = compare(copy), rounds + 1
        if mended.equal or rounds == _MOST_ROUNDS:
            break
        known = {explanation.b.name for explanation in found}
        more = [
            explanation
            for explanation in explain_comparison(mended, first, copy, inputs, options, skip=known)
            if explanation.b.name not in known
        ]
        found += more
        if not any(explanation.is_explained for explanation in more):
            break
    causes, notes = (None, ()) if select else explain_outputs(comparison, (first, second), inputs, options)
    fields = {field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)}
    fields["notes"] = (*comparison.notes, *notes)
    return ExplainedComparison(**fields, explanations=tuple(found), mended=mended, second=second, causes=causes)


def explain_outputs(
    comparison: Comparison, models: tuple[Model, Model], inputs: Any, options: RunOptions
) -> tuple[Causes | None, tuple[str, ...]]:
    """Find which layers carry the difference of the outputs.

    Args:
        comparison: Of both models, whole.
        models: The first and the second.
        inputs: What they were fed.
        options: How.

    Returns:
        The layers, None where nothing differs; or no layers, and a remark on why that cannot be found out.
    """
    try:
        return find_causes(comparison, models, inputs, options), ()
    except OnnxscopeError as error:
        return None, (printable(f"which layers carry the difference cannot be found out: {error}"),)


def explain_comparison(
    comparison: Comparison,
    a: Model,
    b: Model,
    inputs: Any,
    options: RunOptions,
    *,
    skip: Sequence[str] | set[str] = (),
) -> list[Explanation]:
    """Explain the layers of a comparison that have a difference of their own.

    Args:
        comparison: Of the two models.
        a: The first.
        b: The second.
        inputs: What they were fed.
        options: How.
        skip: Values of the second model that are explained already.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
    """
    rows = [row for row in blamed_rows(comparison) if row.b.name not in skip][:_MOST_LAYERS]
    found: dict[LayerDifference, Explanation] = {}
    parts: list[FedPart] = []
    for row in rows:
        part = find_parts(comparison, row, a, b)
        if part is None:
            reason = "it is no node of the file, so that nothing is tried"
            found[row] = Explanation(row.a, row.b, reason)
        else:
            parts.append(part)
    if parts:
        with contextlib.closing(open_common_feed((a, b), inputs, options)) as feed:
            found |= _explained((a, b), parts, fed_values((a, b), parts, feed, options.threads), options.threads)
    return [found[row] for row in rows]


def _explained(
    models: tuple[Model, Model], parts: Sequence[FedPart], values: Iterator[Any], threads: int
) -> dict[LayerDifference, Explanation]:
    found: dict[LayerDifference, Explanation] = {}
    mending: dict[int, tuple[Trial, Tried]] = {}
    for place, (part, sample) in enumerate(zip(parts, next(values), strict=True)):
        try:
            trial = Trial(models, part, sample, threads)
            explanation, tried = _searched(models, trial)
        except OnnxscopeError as error:
            explanation, tried = _without(part.row, f"nothing is tried: {error}"), None
        found[part.row] = explanation
        if tried is not None:
            mending[place] = trial, tried
    for samples in values if mending else ():
        for place, (trial, tried) in list(mending.items()):
            if not trial.holds_for(tried, samples[place]):
                del mending[place]
                row = parts[place].row
                found[row] = _without(row, f"{_NOTHING}: what mends the first samples does not mend all of them")
    return found


def _searched(models: tuple[Model, Model], trial: Trial) -> tuple[Explanation, Tried | None]:
    """Try one hypothesis after the other."""
    row = trial.part.row
    if not trial.is_at_fault:
        return _without(row, f"{_NOTHING}: run by itself, B's layer gives what A's gives"), None
    for hypothesis in itertools.islice(hypotheses(models, (trial.part.first, trial.part.second)), _MOST_TRIALS):
        tried = trial.run(hypothesis.edits)
        if not trial.mends(tried, leaves_rounding=bool(hypothesis.leaves)):
            continue
        if not (hypothesis.is_of_a or trial.tells):
            text = f"{_NOTHING}: an edit mends it, but so few numbers differ that it may do so by chance"
            return _without(row, text), None
        edits, tried = _needed(trial, hypothesis, tried)
        also = [
            other.edits[0].wanted
            for other in other_values(models[1], hypothesis)
            if trial.mends(trial.run(other.edits))
        ]
        text = _sentence(edits, also, hypothesis.leaves)
        return Explanation(row.a, row.b, text, edits, tuple(also), trial.before.relative, tried.relative), tried
    return _without(row, _NOTHING, trial.before.relative), None


def _needed(trial: Trial, hypothesis: Hypothesis, tried: Tried) -> tuple[tuple[Edit, ...], Tried]:
    """Of several edits those without which it is not mended."""
    kept = list(hypothesis.edits)
    for edit in hypothesis.edits if len(kept) > 1 else ():
        fewer = [other for other in kept if other is not edit]
        again = trial.run(fewer)
        if trial.mends(again):
            kept, tried = fewer, again
    return tuple(kept), tried


def _sentence(edits: Sequence[Edit], also: Sequence[Any], leaves: str) -> str:
    faults = " and ".join(dict.fromkeys(edit.fault for edit in edits))
    cures = " and ".join(dict.fromkeys(edit.cure for edit in edits))
    others = ", ".join(f"`{shown(value)}`" for value in also)
    tail = f"; on this data it is with {others}, too" if also else ""
    rounding = f" but for the rounding to {leaves}" if leaves else ""
    return f"{faults}; {cures} it is equal{rounding}{tail}"


def _without(row: LayerDifference, reason: str, before: float | None = None) -> Explanation:
    return Explanation(row.a, row.b, printable(reason), before=before)
