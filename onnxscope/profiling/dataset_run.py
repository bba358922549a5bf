"""Statistics of activations over a whole dataset: `stats()`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import onnx

from onnxscope._version import __version__
from onnxscope.analyses.weight_statistics import WeightStatistics, weights
from onnxscope.base import option_types
from onnxscope.base.files import partial_path, record_file, refuse_foreign, writing_whole
from onnxscope.base.plugins import load_engine
from onnxscope.base.run_options import FeedingOptions, OnError, RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.datasets.batches import Fed, few_samples, read_batches
from onnxscope.datasets.dataset import Dataset, open_dataset
from onnxscope.datasets.read_files import refuse_read
from onnxscope.errors import InputError, MergeError, OutputError
from onnxscope.inputs.presets import recipe_file
from onnxscope.model.loading import CustomOps, Model
from onnxscope.patching.effects import with_replacements
from onnxscope.patching.replacements import Replacements, replacement_files
from onnxscope.patching.runs import runs_of_dataset
from onnxscope.profiling.dataset_statistics import DatasetStatistics
from onnxscope.profiling.engines import Engine, LocalEngine
from onnxscope.profiling.groups import find_grouping
from onnxscope.profiling.observer import Plan
from onnxscope.profiling.plan import make_plan, open_observer, with_groups
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.profile_file import PROFILE_FORMAT
from onnxscope.profiling.shards import Shard, ShardWorker, cut_shards, empty_profile
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.sample_axes import start_on_samples
from onnxscope.runtime.session import runtime_version
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.selectors import At, Tap, select_taps
from onnxscope.selection.working_layers import note_on_default

__all__ = ["run_stats", "start_pilot", "stats"]

_WRITING_SHARE = 0.05  # of the running time goes into writing what is known so far, at most


@option_types.checked
def stats(
    model: Any,
    inputs: Any,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    by: str | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    on_error: OnError = "fail",
    exact: bool = False,
    memory_budget_bytes: int = 512 << 20,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    replace: Replacements | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> DatasetStatistics:
    """Run a model over a dataset and keep statistics of the chosen taps, never the taps.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: Image paths, a folder or glob, a `.npy` or `.npz`, `random[:seed]`, an array, or a mapping of arrays.
        select: Selectors; none chooses the layers that do the work: see `working_layers`.
        at: After (`post`) or before (`pre`) the activation function that follows a layer.
        by: Also tell apart the groups of an axis of tokens or of time: `position`, each of the first 32 and then eight
            blocks for each doubling; `token`, the tokenizer's special tokens and the ordinary ones, or the eight ids
            that are met most often; `token:101,102` the tokens named. Where masks leave something out, positions are
            those that count.
        batch_size: Samples of a run, where the model does not fix it.
        limit: Only the first so many samples.
        on_error: `skip` leaves out samples that cannot be read, and counts them.
        exact: Count zeros and quantiles from every element, not from a sample of them; slower, and takes more memory.
        memory_budget_bytes: How much raw values one run may return.
        engine: Where shards run: `local`, `ray`, or another that is installed.
        workers: How many run at a time; the number changes no byte of the result.
        address: Of an existing cluster, for engines that have one.
        threads: onnxruntime's threads within an operator, for each worker; 0 shares the cores among the workers.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        replace: By layer what stands in place of its value: `zero`, `mean` (over the samples), an array, a model, or
            the path of one of these; see `patch_model`.
        output: Where the profile is written. What is known so far stands beside it while the analysis runs.
        resume: Go on from what an interrupted analysis left beside `output`.
        force: Also replace a file at `output` that is no profile; never an input.
        progress: Called with the number of samples done and of all samples.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Raises:
        ModelError: The model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit the model, or a sample cannot be read.
        RunError: onnxruntime fails.
        OutputError: The profile cannot be written, would replace the model or an input, or an unfinished one is in the
            way.
        MergeError: What is to be resumed belongs to another analysis.
    """
    options = RunOptions(
        **feeding,
        batch_size=batch_size,
        limit=limit,
        on_error=on_error,
        exact=exact,
        memory_budget_bytes=memory_budget_bytes,
        threads=threads,
        replace=replace,
    )
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    run = load_engine(engine)(workers, address)
    chosen = [select] if isinstance(select, str) else list(select)
    taps = select_taps(loaded, chosen, at=at)
    remarks = note_on_default(loaded, chosen, [tap.layer for tap in taps])
    dataset = open_dataset(inputs, loaded, options).noting(*remarks)
    kept = None
    if output is not None:
        read = (*dataset.files, recipe_file(options.preprocess), options.tokenizer, *replacement_files(replace))
        refuse_read((output, partial_path(output)), loaded, read=read, **feeding)
        refuse_foreign([(output, record_file(PROFILE_FORMAT.schema))], force=force)
        kept = _Kept(Path(output), resume=resume)
    run_on, effect = with_replacements(loaded, options, runs_of_dataset(dataset, options), at=at)
    options = dataclasses.replace(options, replace=None)  # it is done, and models need not travel
    pilot, dataset = start_pilot(run_on, taps, dataset, options)
    plan = make_plan(pilot, taps, dataset, options)
    if by is not None:
        plan = with_groups(plan, pilot, dataset, find_grouping(dataset, by, options.tokenizer))
    pilot.close()
    result = run_stats(
        run_on,
        dataset,
        options,
        plan,
        weights(loaded),
        selection={"select": chosen, "at": at, **({} if by is None else {"by": by})},
        engine=run,
        workers=workers,
        kept=kept,
        progress=progress,
    )
    return result if effect is None else result.with_effect(effect)


def run_stats(
    model: Model,
    dataset: Dataset,
    options: RunOptions,
    plan: Plan,
    stored: WeightStatistics,
    *,
    selection: Mapping[str, Any],
    engine: Engine | None = None,
    workers: int = 1,
    kept: _Kept | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetStatistics:
    """Run a model over a dataset and keep statistics of taps; see `stats`.

    Args:
        model: Who is run.
        dataset: Opened for this model.
        options: What is asked of the run.
        plan: How the taps are observed.
        stored: Statistics of all parameters.
        selection: How the taps were chosen, for provenance.
        engine: Runs the shards; None runs one after the other.
        workers: How many it runs at a time.
        kept: Where what is known so far is kept, None for nowhere.
        progress: Called with the number of samples done and of all samples.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
        OutputError: What is known cannot be written.
        MergeError: What is to be resumed belongs to another analysis.
    """
    run = engine or LocalEngine(1)
    options = dataclasses.replace(options, batch_size=plan.batch_size)
    plan, observer = open_observer(model, plan, options.threads)
    empty = empty_profile(model, plan, dataset, provenance=_provenance(model, selection, options))
    shares = options.threads or max((os.cpu_count() or 1) // workers, 1)
    worker = ShardWorker(model, plan, dataset, empty, dataclasses.replace(options, threads=shares))
    worker.observer = observer if workers == 1 else None
    done = dataclasses.replace(empty, weights=_weights(stored))
    shards = cut_shards(dataset.count, options.batch_size)
    if kept is not None:
        done = kept.resumed(done, shards)
    behind = done.shards[-1][1] if done.shards else 0
    counter = _Counter(behind, dataset.count, progress)
    if isinstance(run, LocalEngine):
        worker.progress = counter.add
    shards = [shard for shard in shards if shard.start >= behind]
    results = run.map(worker, shards)
    try:
        for shard, profile in zip(shards, results, strict=True):
            done = done.merge(profile)
            counter.reach(shard.stop)
            if kept is not None:
                kept.keep(done)
    except BaseException:
        if kept is not None:
            kept.keep(done, now=True)
        raise
    finally:
        results.close()
    if kept is not None:
        kept.finish(done)
    return DatasetStatistics(done, (*dataset.notes, *plan.notes))


def start_pilot(model: Model, taps: Sequence[Tap], dataset: Dataset, options: RunOptions) -> tuple[Pilot, Dataset]:
    """Open a model's pilot and make its first run, on the first samples of a dataset that can be read.

    Returns:
        The pilot, and the dataset as it has to be cut for this model.

    Raises:
        InputError: None can be read.
        RunError: onnxruntime fails.
    """
    fed = Fed()
    with contextlib.closing(read_batches(dataset, 0, dataset.count, fed, options)) as batches:
        batch = next(batches, None)
    if batch is None:
        raise InputError(
            f"none of the {counted(dataset.count, 'sample')} can be read; the first: {fed.skipped[0][2]}",
            hint="are they images? `--on-error fail` stops at the first",
        )
    pilot = Pilot(model, taps, options)
    return pilot, start_on_samples(pilot, dataset, batch.feeds, few_samples(dataset, batch.feeds))


class _DryRunError(Exception):
    """Nothing is wrong: a file could be written."""


class _Kept:
    """What is known so far, in a file beside the output."""

    def __init__(self, output: Path, *, resume: bool) -> None:
        self._output = output
        self._path = partial_path(output)
        self._resume = resume
        self._written_s = time.monotonic()
        self._cost_s = 0.0
        # Hours of work should not end with a folder that cannot be written.
        with contextlib.suppress(_DryRunError), writing_whole(output):
            raise _DryRunError
        if not resume and os.path.exists(self._path):
            raise OutputError(
                f"an unfinished analysis is in the way: {printable(str(self._path))}",
                hint="`--resume` goes on from it; remove the file to begin again",
            )

    def resumed(self, empty: Profile, shards: Sequence[Shard]) -> Profile:
        """The profile to go on from."""
        if not self._resume or not os.path.exists(self._path):
            return empty
        where = printable(str(self._path))
        try:
            done = empty.merge(Profile.load(self._path))
        except MergeError as error:
            raise MergeError(
                f"cannot resume, {error}: {where}", hint="give the same arguments as before, or remove the file"
            ) from error
        ends = {shard.stop for shard in shards}
        if len(done.shards) > 1 or any(start != 0 or stop not in ends for start, stop in done.shards):
            raise MergeError(f"cannot resume, samples are missing: {where}", hint="remove the file to begin again")
        return done

    def keep(self, done: Profile, *, now: bool = False) -> None:
        """Write what is known, if that was not done a moment ago."""
        start = time.monotonic()
        if not done.shards or (not now and (start - self._written_s) * _WRITING_SHARE < self._cost_s):
            return
        done.save(self._path)
        self._written_s = time.monotonic()
        self._cost_s = self._written_s - start

    def finish(self, done: Profile) -> None:
        """Write the result and remove what was kept."""
        done.save(self._output, force=True)  # what was there before the run is known
        self._path.unlink(missing_ok=True)


class _Counter:
    """Samples done; batches of several workers arrive in any order."""

    def __init__(self, done: int, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done = done
        self._total = total
        self._progress = progress

    def add(self, samples: int) -> None:
        """So many samples more."""
        self._done += samples
        self._say()

    def reach(self, position: int) -> None:
        """At least everything before a position, skipped samples included."""
        if position > self._done:
            self._done = position
            self._say()

    def _say(self) -> None:
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def _provenance(model: Model, selection: Mapping[str, Any], options: RunOptions) -> dict[str, Any]:
    return {
        "onnxscope": __version__,
        "onnxruntime": runtime_version(),
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "execution_provider": model.running.provider.name,
        "optimization": model.running.optimization,
        **selection,
        **options.to_dict(),
    }


def _weights(stored: WeightStatistics) -> tuple[dict[str, Any], ...]:
    rows = stored.to_dict()["weights"]
    return tuple({key: value for key, value in row.items() if key not in ("histogram", "channels")} for row in rows)
