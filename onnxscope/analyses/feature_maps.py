"""Feature maps: run a tapped model on inputs and describe what each tap holds: `features()`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Unpack, overload

import numpy as np

from onnxscope.analyses.counted_positions import ALL_COUNT, CountedAxes, CutValue, PositionFinder, find_counted
from onnxscope.analyses.map_views import view_of
from onnxscope.analyses.tap_maps import FeatureMap, Rank, describe_tap, taps_table
from onnxscope.base import option_types
from onnxscope.base.results import Record, paragraph, remarks, within
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, printable
from onnxscope.datasets.dataset import open_dataset
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.errors import InputError, OutputError, RunError
from onnxscope.model.loading import CustomOps, Model
from onnxscope.model.value_axes import Growth, batch_axis_of, grown_axis
from onnxscope.patching.effects import PatchEffect, with_replacements
from onnxscope.patching.replacements import Replacements
from onnxscope.patching.runs import runs_of_prepared
from onnxscope.readers.npy import write_npz
from onnxscope.runtime.sample_growth import sample_shapes
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import Unreachable
from onnxscope.runtime.tapped_runs import TapShapes, reason_without_statistics, run_tapped
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.padding_masks import left_out
from onnxscope.selection.selectors import At, Tap, select_taps
from onnxscope.selection.working_layers import note_on_default

__all__ = ["FeatureMap", "FeatureMaps", "Rank", "describe_features", "features", "run_features"]

Array = np.ndarray[Any, Any]
_MAX_MEMBER_BYTES = 65_000


@dataclass(frozen=True, eq=False)
class FeatureMaps(Record, Sequence[FeatureMap]):
    """The feature maps of one run; a sequence of taps in execution order.

    Attributes:
        model: The `model` record.
        input: The `input` record: files, preset, and the prepared tensor's statistics.
        taps: One per tap that was reached.
        unreachable: The other taps, with the reason.
        tapping: Largest absolute and relative difference of the declared outputs between the tapped and the untapped
            model, where that was asked for.
        notes: Remarks on the inputs, for people.
        replaced: What stood in place of values, and how far that moved the outputs; None where nothing did.
    """

    model: dict[str, Any]
    input: dict[str, Any]
    taps: tuple[FeatureMap, ...]
    unreachable: tuple[Unreachable, ...]
    tapping: dict[str, float] | None
    notes: tuple[str, ...]
    replaced: PatchEffect | None = None

    frame_keys = ("taps",)

    def __len__(self) -> int:
        return len(self.taps)

    @overload
    def __getitem__(self, index: int) -> FeatureMap: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FeatureMap, ...]: ...
    def __getitem__(self, index: int | slice) -> FeatureMap | tuple[FeatureMap, ...]:
        return self.taps[index]

    def layer(self, name: str) -> FeatureMap:
        """Return the first tap of a layer.

        Raises:
            KeyError: No tap has that layer.
        """
        for tap in self.taps:
            if name in (tap.tap.layer, tap.tap.name):
                return tap
        raise KeyError(name)

    def to_dict(self, pictures: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`onnxscope.features/1`, ready for JSON; `pictures` maps tap names to the files drawn for them."""
        drawn = pictures or {}
        return {
            "schema": "onnxscope.features/1",
            "model": self.model,
            "input": self.input,
            "taps": [tap.to_dict(picture=drawn.get(tap.tap.name)) for tap in self.taps],
            "unreachable": [missed.to_dict() for missed in self.unreachable],
            "tapping": self.tapping,
            **({} if self.replaced is None else {"replaced": self.replaced.to_dict()}),
        }

    def check_names(self) -> None:
        """Refuse names that a zip archive would cut: those with a NUL, or longer than its 65,535 bytes.

        Raises:
            OutputError: There is one.
        """
        for tap in self.taps:
            name = tap.tap.name
            if "\0" in name or len(name.encode("utf-8", errors="backslashreplace")) > _MAX_MEMBER_BYTES:
                raise OutputError(
                    f"an archive cannot hold the name '{printable(name[:80])}': {self.model['name']}",
                    hint="leave that value out with --select, or do without --arrays",
                )

    def save_arrays(self, stream: IO[bytes]) -> None:
        """Write every tap's array as an `.npz` keyed by tap name; np.load reads it.

        Raises:
            OutputError: A name does not fit into an archive; nothing was written.
        """
        self.check_names()
        write_npz(stream, ((tap.tap.name, tap.data) for tap in self.taps))

    def table(self) -> Table:
        """One row per tap."""
        given = {"random": "random numbers", "text": "text"}.get(self.input["kind"], "arrays")
        shown = ", ".join(self.input["files"]) or given
        title = f"{self.model['name']} on {shown}: {counted(len(self.taps), 'tap')}"
        return taps_table(title, self.taps)

    def tables(self) -> list[Table]:
        """The taps, and how far the outputs moved where something was replaced."""
        return [self.table(), *([] if self.replaced is None else [self.replaced.table()])]

    def flat_table(self) -> Table:
        """The taps."""
        return self.table()

    def __repr__(self) -> str:
        return "\n".join(table.text() for table in self.tables())

    def html_parts(self) -> list[str]:
        """The table, with pictures in the rows of the first taps, and what was not reached."""
        parts = [self.table().html(pictures=within(tap._thumbnail() for tap in self.taps))]
        if self.replaced is not None:
            parts.append(self.replaced.table().html())
        if self.unreachable:
            first = self.unreachable[0]
            count = f"{len(self.unreachable):,} of the taps could not be reached"
            parts.append(paragraph(f"{count}, the first: {first.name} ({first.reason})", "muted"))
        return parts + remarks(self.notes)


@option_types.checked
def features(
    model: Any,
    inputs: Any,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    channels: int = 12,
    rank: Rank = "index",
    sample: int = 0,
    verify: bool = False,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    replace: Replacements | None = None,
    **feeding: Unpack[FeedingOptions],
) -> FeatureMaps:
    """Run a model once and return the values of the chosen taps.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: Image paths, a `.npy` or `.npz`, `random[:seed]`, an array, or a mapping of arrays by input name.
        select: Selectors; none chooses the layers that do the work: see `working_layers`.
        at: After (`post`) or before (`pre`) the activation function that follows a layer.
        channels: How many channels a picture shows.
        rank: Which ones: the first, or those with the largest standard deviation, maximum or mean.
        sample: Which sample of the batch pictures show.
        verify: Also run the untapped model and compare the declared outputs.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        replace: By layer what stands in place of its value: `zero`, `mean` (over the samples), an array, a model, or
            the path of one of these; see `patch_model`.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Raises:
        ModelError: The model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit the model.
        RunError: onnxruntime fails.
    """
    options = RunOptions(**feeding, threads=threads, replace=replace)
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    chosen = [select] if isinstance(select, str) else list(select)
    taps = select_taps(loaded, chosen, at=at)
    remarks = note_on_default(loaded, chosen, [tap.layer for tap in taps])
    prepared = open_dataset(inputs, loaded, options).noting(*remarks).whole(apart=True)
    loaded, effect = with_replacements(loaded, options, runs_of_prepared(prepared), at=at)
    maps = run_features(
        loaded, taps, prepared, channels=channels, rank=rank, sample=sample, verify=verify, threads=options.threads
    )
    if effect is None:
        return maps
    return dataclasses.replace(maps, notes=(*maps.notes, *effect.notes), replaced=effect)


def run_features(
    model: Model,
    taps: Sequence[Tap],
    prepared: PreparedInput,
    *,
    channels: int = 12,
    rank: Rank = "index",
    sample: int = 0,
    verify: bool = False,
    threads: int = 0,
) -> FeatureMaps:
    """Run a model once and return the values of taps; see `features`.

    Raises:
        InputError: There is no such sample.
        RunError: onnxruntime fails.
    """
    if prepared.samples is not None and not 0 <= sample < prepared.samples:
        raise InputError(f"no sample {sample} among {prepared.samples}: {model.name}", hint="samples count from 0")
    answers, tapped = run_tapped(model, taps, lambda session: _run_cut(session, prepared), threads=threads)
    parts = {name: answers[output] for name, output in tapped.outputs.items()}
    maps = describe_features(
        model,
        taps,
        prepared,
        parts,
        tapped.unreachable,
        channels=channels,
        rank=rank,
        sample=sample,
        growth=_growth(model, taps, prepared, parts),
        finder=_finder(model, taps, prepared),
    )
    return dataclasses.replace(maps, tapping=_tapping(model, prepared, answers, threads)) if verify else maps


def describe_features(
    model: Model,
    taps: Sequence[Tap],
    prepared: PreparedInput,
    parts: Mapping[str, Sequence[Any]],
    unreachable: Sequence[Unreachable],
    *,
    channels: int = 12,
    rank: Rank = "index",
    sample: int = 0,
    growth: Mapping[Tap, Growth] | None = None,
    finder: PositionFinder | None = None,
) -> FeatureMaps:
    """Describe what taps held in a run that is made already; see `features`.

    Args:
        model: Who was run.
        taps: In execution order.
        prepared: What it was fed.
        parts: By the names of the taps that were reached, what each of the runs gave; they are kept.
        unreachable: The other taps.
        channels: How many channels a picture shows.
        rank: Which ones.
        sample: Which sample of the batch pictures show.
        growth: Where one sample more makes a value longer, as far as that is known.
        finder: Finds the positions that masks leave out, None where all count.
    """
    masked = {} if finder is None else left_out(prepared.masks, prepared.arrays)
    found: dict[Tap, CountedAxes] = {}
    reached: list[FeatureMap] = []
    missed = list(unreachable)
    for tap in taps:
        if tap.name not in parts:
            continue
        first = parts[tap.name][0]
        known = batch_axis_of(first.ndim, tap.axes) if isinstance(first, np.ndarray) else None
        data = prepared.joined(parts[tap.name], known)
        reason = reason_without_statistics(tap, data)
        if reason is None:
            assumed = 0 if prepared.samples is None else prepared.axis_of_samples(first.shape)
            view = view_of(tap, data.shape, prepared.samples, (growth or {}).get(tap), assumed)
            if finder is not None:
                found[tap] = finder.axes(tap, data.shape, view.batch, tap.axis_of(data.ndim))
            channel = tap.axis_of(data.ndim)
            cut = found.get(tap, ALL_COUNT).cut(data, view.batch, channel, masked, prepared.samples or 1)
            steps = prepared.parts_of(parts[tap.name], known)
            if steps is not None:
                cut = CutValue(tuple(((place,), step) for place, step in enumerate(steps)), view.batch, channel)
            described = describe_tap(tap, data, view, channels, rank, sample, cut)
            extents = tuple(step.shape for step in steps or ())
            reached.append(
                dataclasses.replace(described, tokens=prepared.tokens, sequences=prepared.sequences, extents=extents)
            )
        else:
            missed.append(Unreachable(tap.name, reason))
    return FeatureMaps(
        model=model.to_dict(),
        input=prepared.record if not prepared.tokens else {**prepared.record, "tokens": list(prepared.tokens[sample])},
        taps=tuple(reached),
        unreachable=tuple(missed),
        tapping=None,
        notes=prepared.notes if finder is None else (*prepared.notes, *finder.notes(found)),
    )


def _finder(model: Model, taps: Sequence[Tap], prepared: PreparedInput) -> PositionFinder | None:
    """Where masks have their positions in values; None where they leave out none."""
    if not left_out(prepared.masks, prepared.arrays):
        return None
    try:
        shapes = TapShapes(model, taps)
    except RunError:
        return None
    return find_counted(
        shapes.of,
        next(iter(prepared.runs())),
        prepared.masks,
        prepared.batch_axes,
        count=prepared.samples or 1,
        fixed_batch=prepared.fixed_batch,
        values_of=lambda taps, feeds: _values_of(model, taps, feeds),
    )


def _values_of(model: Model, taps: Sequence[Tap], feeds: Mapping[str, Array]) -> dict[Tap, Array]:
    """What taps hold where the model is fed something else."""
    answers, tapped = run_tapped(model, taps, lambda session: session.run(feeds))
    by_name = {tap.name: tap for tap in taps}
    return {by_name[name]: answers[output] for name, output in tapped.outputs.items()}


def _run_cut(session: Session, prepared: PreparedInput) -> dict[str, Any]:
    """What every output was in each of the runs."""
    answers = [session.run(run) for run in prepared.runs()]
    return {name: [answer[name] for answer in answers] for name in answers[0]}


def _tapping(model: Model, prepared: PreparedInput, answers: Mapping[str, Any], threads: int) -> dict[str, float]:
    """How far tapping moved the declared outputs: it keeps onnxruntime from fusing some operators."""
    session = open_session(model, threads=threads)
    largest = relative = 0.0
    for name, parts in _run_cut(session, prepared).items():
        plain, tapped = prepared.joined(parts), prepared.joined(answers[name])
        if isinstance(plain, np.ndarray) and plain.dtype.kind in "fiub" and plain.size:
            wide = plain.astype(np.float64)
            with np.errstate(invalid="ignore"):
                difference = np.abs(tapped.astype(np.float64) - wide)
            moved = float(np.max(difference, where=np.isfinite(difference), initial=0.0))
            scale = float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0.0))
            largest = max(largest, moved)
            relative = max(relative, moved / scale if scale else 0.0)
    return {"max_abs": largest, "relative": relative}


def _growth(model: Model, taps: Sequence[Tap], prepared: PreparedInput, parts: Mapping[str, Any]) -> dict[Tap, Growth]:
    """Where samples lie in the values of which operators do not tell; the model is run on one and on two of them."""
    firsts = {name: of_runs[0] for name, of_runs in parts.items() if len(of_runs) == 1}
    doubtful = [tap for tap in taps if not tap.path and _is_doubtful(tap, firsts.get(tap.name), prepared)]
    if not doubtful:
        return {}
    try:
        shapes = TapShapes(model, doubtful)
        one, two = sample_shapes(shapes.of, next(iter(prepared.runs())), prepared.batch_axes)
    except RunError:
        return {}  # it takes no other number of samples
    found = {tap: grown_axis(one.get(tap), two.get(tap)) for tap in doubtful}
    return {tap: growth for tap, growth in found.items() if growth is not None}


def _is_doubtful(tap: Tap, value: Any, prepared: PreparedInput) -> bool:
    if not isinstance(value, np.ndarray) or value.ndim < 2 or tap.holds_indices:
        return False
    if tap.axes is not None:
        return "batch" not in tap.axes.names[-value.ndim :]
    if any(prepared.batch_axes.values()) or prepared.samples not in (None, len(value)):
        return True
    if value.ndim == 2:
        return prepared.samples is None
    return tap.channel_axis != 1 and (value.ndim == 3 or tap.channel_axis is None)
