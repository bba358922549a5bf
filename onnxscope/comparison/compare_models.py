"""Compare two models layer by layer: `diff()`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from onnxscope.base import option_types
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.text import printable
from onnxscope.checkpoints.checkpoint import is_checkpoint
from onnxscope.comparison.checkpoint_comparison import compare_checkpoint
from onnxscope.comparison.common_feed import CommonFeed, open_common_feed
from onnxscope.comparison.layer_comparison import LayerComparison
from onnxscope.comparison.result import Comparison
from onnxscope.comparison.two_ways import compared_ways
from onnxscope.datasets.dataset import Dataset
from onnxscope.errors import InputError
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.numerics.distances import Tolerance
from onnxscope.pairing.align_layers import Align
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.patching.effects import with_replacements
from onnxscope.patching.replacements import Replacements
from onnxscope.patching.runs import Run, Runs, runs_of_dataset
from onnxscope.providers.provider import Optimization, Running, read_optimization, read_provider
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.structure.standard_model import standard_model
from onnxscope.timing.compared_times import compare_times
from onnxscope.timing.time_model import REPEATS, time_feeds

__all__ = ["diff", "run_diff"]


@option_types.checked
def diff(
    a: Any,
    b: Any = None,
    inputs: Any = None,
    *,
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
    replace: Replacements | None = None,
    against_provider: str | os.PathLike[str] | None = None,
    against_optimization: Optimization | None = None,
    against_threads: int | None = None,
    time: bool = False,
    repeats: int = REPEATS,
    **feeding: Unpack[FeedingOptions],
) -> Comparison:
    """Compare two models layer by layer, each layer at the value that leaves it.

    Args:
        a: The reference: a path, a `ModelProto` or a loaded `Model`. Where it or `b` is the path of a `.safetensors`
            checkpoint, weights alone are compared: what became of every tensor of either file.
        b: The model to compare with it; None compares the first with itself, run in another way.
        inputs: What `a` is fed; `b` is fed the same, with its own names, layout and element types. None compares
            structure and weights alone.
        align: Which evidence pairs layers: names, weights, structure, or all of it. What weights leave over, or all
            of it, is paired by its values on the first batch, where they are nearly the same numbers.
        rtol: Relative tolerance of an element, as in `numpy.isclose`; a difference beyond the noise counts only where
            some element is beyond it. None together with `atol` judges by the noise alone.
        atol: Absolute tolerance of an element.
        select: Selectors over the first model's layers; none compares all of them. Outputs always are.
        batch_size: Samples of a run, where no model fixes it.
        limit: Only the first so many samples.
        memory_budget_bytes: What values may take that leave onnxruntime, where one graph is not enough.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the first model's inputs: by their names, or as `INPUT:AXIS`.
        replace: By layer of the second model what stands in place of its value: `zero`, `mean` (over the samples), an
            array, a model (the first, for example), or the path of one of these; see `patch_model`.
        against_provider: What `b` runs on, as `provider` says it of `a`; by default the same.
        against_optimization: How much onnxruntime may fuse and fold of `b`: `all`, `extended`, `basic` or `none`.
        against_threads: onnxruntime's threads within an operator for `b`.
        time: Whether both are also run as they are, to say what each layer takes.
        repeats: How many runs of each are measured, after two that are not; the median counts.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Returns:
        Sums in float32 inside onnxruntime, as accurate as one part in a million.

    Raises:
        ModelError: A model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit, the models take different things, or there is no such provider.
        RunError: onnxruntime fails.
    """
    if is_checkpoint(a) or is_checkpoint(b):
        ways = (against_provider, against_optimization, against_threads, replace or None)
        given = inputs if inputs is not None else next((way for way in ways if way is not None), time or None)
        within = _tolerance(rtol, atol)
        return compare_checkpoint(a, b, given, tolerance=within, select=select, custom_ops=custom_ops, dims=dims)
    options = RunOptions(
        **feeding,
        batch_size=batch_size,
        limit=limit,
        memory_budget_bytes=memory_budget_bytes,
        threads=threads,
        replace=replace,
    )
    first, options = load_to_run(a, options, inputs, custom_ops=custom_ops, dims=dims)
    if time and inputs is None:
        raise InputError("nothing is run, so nothing takes time", hint="`-i` says what the models are fed")
    against = _against(first.running, against_provider, against_optimization, against_threads)
    if against is None and b is None:
        raise InputError("a model is compared with nothing", hint="name a second model, or another way of running it")
    if against is not None and inputs is None:
        raise InputError("nothing is run, so no two ways can be compared", hint="`-i` says what the models are fed")
    second = first if b is None else load_model(b, custom_ops=custom_ops)
    second = second.run_as(first.running if against is None else against)
    compared = run_diff(
        first, second, inputs, options, align=align, rtol=rtol, atol=atol, select=select, finds_step=True
    )
    compared = compared if against is None else compared_ways(compared, first, second)
    return with_times(compared, first, second, inputs, options, repeats) if time else compared


def with_times(
    comparison: Comparison, first: Model, second: Model, inputs: Any, options: RunOptions, repeats: int = REPEATS
) -> Comparison:
    """The comparison with what each layer takes in one run of both models as they are; see `time_model`.

    Raises:
        InputError: The inputs do not fit.
        RunError: onnxruntime fails.
    """
    notes = []
    with contextlib.closing(open_common_feed((first, second), inputs, options)) as feed:
        runs = feed.dataset.whole(apart=True).runs()
        feeds = next(runs)
        if next(runs, None) is not None:
            notes.append("what was given takes several runs: the first one is measured")
        fed = feeds, feed.of_second(feeds)
        timings = [
            time_feeds(model, arrays, threads=options.threads, repeats=repeats)
            for model, arrays in zip((first, second), fed, strict=True)
        ]
    pairs = ((row.a.layer, row.b.layer) for row in comparison.layers)
    times = compare_times(timings[0], timings[1], pairs)
    return dataclasses.replace(comparison, times=times, notes=(*comparison.notes, *notes))


def run_diff(
    first: Model,
    second: Model,
    inputs: Any,
    options: RunOptions,
    *,
    align: Align = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    select: str | Sequence[str] = (),
    finds_step: bool = False,
) -> Comparison:
    """Compare two models layer by layer; see `diff`.

    With `finds_step` a note says at which step values part first, where the models are stepped.

    Raises:
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit, or the models take different things.
        RunError: onnxruntime fails.
    """
    tolerance = _tolerance(rtol, atol)
    feed = None if inputs is None else open_common_feed((first, second), inputs, options)
    sides = (
        ModelLayers(standard_model(first, second), first),
        ModelLayers(standard_model(second, first), second),
    )
    if options.replace and feed is None:
        raise InputError("nothing is run, so nothing can be replaced", hint="`-i` says what the models are fed")
    with contextlib.nullcontext() if feed is None else contextlib.closing(feed):
        patched, effect = sides[1].model, None
        if feed is not None:
            patched, effect = with_replacements(patched, options, _runs_of_second(feed, options))
        compared = LayerComparison(
            sides, feed, options, align=align, tolerance=tolerance, select=select, patched=patched
        ).run()
    if finds_step and feed is not None and options.generate is None and not options.replace:

        def upto(dataset: Dataset) -> Comparison:
            return run_diff(first, second, dataset, options, align=align, rtol=rtol, atol=atol, select=select)

        return _with_first_step(compared.comparison, feed.dataset, upto)
    if effect is None:
        return compared.comparison
    return dataclasses.replace(compared.comparison, replaced=effect, notes=(*compared.comparison.notes, *effect.notes))


def _with_first_step(comparison: Comparison, dataset: Dataset, compare: Callable[[Dataset], Comparison]) -> Comparison:
    """The comparison with a remark on the first of several steps whose values part; halving finds it."""
    state = dataset.record.get("state") or {}
    if len(state.get("steps", ())) == 0 or dataset.count < 2 or comparison.first_divergence is None:
        return comparison
    part = compare(dataset.first(1))
    alike, parted = (0, 1) if part.first_divergence is not None else (1, dataset.count)
    row = part.first_divergence or comparison.first_divergence
    while parted - alike > 1:
        middle = (alike + parted) // 2
        found = compare(dataset.first(middle)).first_divergence
        alike, parted, row = (middle, parted, row) if found is None else (alike, middle, found)
    step = printable(dataset.name(parted - 1))
    note = f"values part first in {step}, at {printable(row.a.layer)}; the states of the first model are fed to both"
    return dataclasses.replace(comparison, notes=(*comparison.notes, note))


def _against(
    running: Running,
    provider: str | os.PathLike[str] | None,
    optimization: Optimization | None,
    threads: int | None,
) -> Running | None:
    """How the second side runs, None where nothing else is asked for than of the first.

    Raises:
        InputError: There is no such level, or no such number of threads.
    """
    if provider is None and optimization is None and threads is None:
        return None
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise InputError(f"{threads!r} threads are none", hint="give at least 1")
    return dataclasses.replace(
        running,
        provider=running.provider if provider is None else read_provider(provider),
        optimization=running.optimization if optimization is None else read_optimization(optimization),
        threads=threads,
    )


def _runs_of_second(feed: CommonFeed, options: RunOptions) -> Runs:
    """What the second model is fed, as often as it is asked for."""
    first = runs_of_dataset(feed.dataset, options)
    return lambda: (Run(feed.of_second(run.feeds), run.fed, run.real) for run in first())


def _tolerance(rtol: float | None, atol: float | None) -> Tolerance | None:
    if rtol is None and atol is None:
        return None
    tolerance = Tolerance(rtol or 0.0, atol or 0.0)
    if not all(np.isfinite((tolerance.rtol, tolerance.atol))) or min(tolerance.rtol, tolerance.atol) < 0:
        raise InputError(f"not a tolerance: rtol {rtol}, atol {atol}", hint="give finite numbers from 0 up")
    return tolerance
