"""Feature maps: run a tapped model on inputs and describe what each tap holds: `features()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Literal, overload

import numpy as np

from onnxscope.analyses.default_layers import remarks_on_default
from onnxscope.base.results import Record, paragraph, picture, remarks, within
from onnxscope.base.run_options import BatchAxis, Layout, RunOptions
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import not_finite_text, printable
from onnxscope.errors import InputError, OutputError
from onnxscope.inputs.dataset import PreparedInput, open_dataset
from onnxscope.inputs.npy import write_npz
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.model.selectors import At, Tap, select_taps
from onnxscope.numerics.moments import Moments
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import Unreachable
from onnxscope.runtime.tapped_runs import reason_without_statistics, run_tapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["FeatureMap", "FeatureMaps", "Rank", "describe_features", "features", "run_features"]

Array = np.ndarray[Any, Any]
_MAX_MEMBER_BYTES = 65_000
_CELL_PX = 40  # of maps in a notebook's table
_MAX_THUMBNAILS = 12
_COLUMNS = ("layer", "operator", "at", "shape", "mean", "std", "min", "max", "zeros", "zero channels", "value")
Rank = Literal["index", "std", "max", "mean"]


@dataclass(frozen=True, eq=False)
class FeatureMap(Record):
    """What one tap held.

    Attributes:
        tap: What was observed.
        data: The values for the whole batch, in the model's own layout; the caller's to keep.
        channel_axis: The axis of `data` with the channels, None below two axes.
        channels: Numbers of the channels that a picture shows, in its order.
        sample: Which sample of the batch a picture shows.
        statistics: Over the whole batch, with `zero_channels` (channels that are all zeros on these inputs).
    """

    tap: Tap
    data: Array
    channel_axis: int | None
    channels: tuple[int, ...]
    sample: int
    statistics: Mapping[str, Any]

    def maps(self) -> Array | None:
        """The shown channels of the shown sample, (channels, height, width); None without two spatial axes."""
        if self.data.ndim != 4 or not self.channel_axis or not self.data.size:
            return None
        sample = np.moveaxis(self.data[self.sample], self.channel_axis - 1, 0)
        shown: Array = sample[list(self.channels)]
        return shown

    def image(self, *, cmap: str = "viridis") -> Image | None:
        """The shown channels as one picture, each scaled to its own range; None without two spatial axes."""
        from onnxscope.drawing.mosaics import mosaic

        maps = self.maps()
        return None if maps is None else mosaic(maps, cmap=cmap)

    def plot(self) -> Figure:
        """Draw the shown channels as a matplotlib Figure; it belongs to the caller and to no pyplot state.

        Raises:
            InputError: The value has no two spatial axes.
        """
        from onnxscope.drawing.figures import feature_figure

        maps = self.maps()
        if maps is None:
            raise InputError(f"no picture for a value of shape {list(self.data.shape)}: {printable(self.tap.name)}")
        return feature_figure(maps, self.channels, self.tap.layer)

    def to_dict(self, *, picture: str | None = None) -> dict[str, Any]:
        """The tap's record in `onnxscope.features/1`, with the name of its picture file."""
        return {
            "name": self.tap.name,
            "layer": self.tap.layer,
            "op_type": self.tap.op_type,
            "at": self.tap.at,
            "shape": list(self.data.shape),
            "dtype": self.data.dtype.name,
            "channel_axis": self.channel_axis,
            "channels": list(self.channels),
            "picture": picture,
            **self.statistics,
        }

    def table(self) -> Table:
        """One row."""
        return Table("", _COLUMNS, (self._cells(),)).with_marks("not finite", [self._mark()])

    def _cells(self) -> tuple[Cell, ...]:
        numbers = [self.statistics[key] for key in ("mean", "std", "min", "max", "zero_fraction")]
        zero_channels = None if self.channel_axis is None else len(self.statistics["zero_channels"])
        tap = self.tap
        return (tap.layer, tap.op_type, tap.at or "", self.data.shape, *numbers, zero_channels, tap.name)

    def _mark(self) -> str:
        return not_finite_text(self.statistics["nan_count"], self.statistics["inf_count"])

    def _thumbnail(self) -> str:
        from onnxscope.drawing.mosaics import encode_png, mosaic, reduced

        maps = self.maps()
        if maps is None:
            return ""
        shown = maps[:_MAX_THUMBNAILS]
        return picture(
            encode_png(mosaic(reduced(shown, _CELL_PX), cell_px=_CELL_PX)), f"{len(shown)} channels of {self.tap.layer}"
        )

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> list[str]:
        """The picture and the row."""
        return [*within([self._thumbnail()]), self.table().html()]


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
    """

    model: dict[str, Any]
    input: dict[str, Any]
    taps: tuple[FeatureMap, ...]
    unreachable: tuple[Unreachable, ...]
    tapping: dict[str, float] | None
    notes: tuple[str, ...]

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
                    f"an archive cannot hold the name {printable(name[:80])!r}: {self.model['name']}",
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
        shown = "random numbers" if self.input["kind"] == "random" else ", ".join(self.input["files"]) or "arrays"
        title = f"{self.model['name']} on {shown}: {len(self.taps)} taps"
        table = Table(title, _COLUMNS, tuple(tap._cells() for tap in self.taps))
        return table.with_marks("not finite", [tap._mark() for tap in self.taps])

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> list[str]:
        """The table, with pictures in the rows of the first taps, and what was not reached."""
        parts = [self.table().html(pictures=within(tap._thumbnail() for tap in self.taps))]
        if self.unreachable:
            first = self.unreachable[0]
            count = f"{len(self.unreachable):,} of the taps could not be reached"
            parts.append(paragraph(f"{count}, the first: {first.name} ({first.reason})", "muted"))
        return parts + remarks(self.notes)


def features(
    model: Any,
    inputs: Any,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    preprocess: str | None = None,
    layout: Layout = "auto",
    batch_axis: BatchAxis = None,
    channels: int = 12,
    rank: Rank = "index",
    sample: int = 0,
    verify: bool = False,
    threads: int = 0,
    custom_ops: CustomOps = (),
) -> FeatureMaps:
    """Run a model once and return the values of the chosen taps.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: Image paths, a `.npy` or `.npz`, `random[:seed]`, an array, or a mapping of arrays by input name.
        select: Selectors; none chooses every convolution, or every layer that has weights where there is none.
        at: After (`post`) or before (`pre`) the activation function that follows a layer.
        preprocess: Preset for images, a recipe's path, or None for the one recorded in the model.
        layout: Of the model's image input.
        batch_axis: Which axis of arrays counts samples, as for `stats`.
        channels: How many channels a picture shows.
        rank: Which ones: the first, or those with the largest standard deviation, maximum or mean.
        sample: Which sample of the batch pictures show.
        verify: Also run the untapped model and compare the declared outputs.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.

    Raises:
        ModelError: The model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit the model.
        RunError: onnxruntime fails.
    """
    options = RunOptions(preprocess=preprocess, layout=layout, batch_axis=batch_axis, threads=threads)
    loaded = load_model(model, custom_ops=custom_ops)
    chosen = [select] if isinstance(select, str) else list(select)
    taps = select_taps(loaded, chosen, at=at)
    prepared = open_dataset(inputs, loaded, options).noting(*remarks_on_default(loaded, chosen)).whole()
    return run_features(
        loaded, taps, prepared, channels=channels, rank=rank, sample=sample, verify=verify, threads=options.threads
    )


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
    values = {name: answers[output] for name, output in tapped.outputs.items()}
    maps = describe_features(
        model, taps, prepared, values, tapped.unreachable, channels=channels, rank=rank, sample=sample
    )
    return replace(maps, tapping=_tapping(model, prepared, answers, threads)) if verify else maps


def describe_features(
    model: Model,
    taps: Sequence[Tap],
    prepared: PreparedInput,
    values: Mapping[str, Any],
    unreachable: Sequence[Unreachable],
    *,
    channels: int = 12,
    rank: Rank = "index",
    sample: int = 0,
) -> FeatureMaps:
    """Describe what taps held in a run that is made already; see `features`.

    Args:
        model: Who was run.
        taps: In execution order.
        prepared: What it was fed.
        values: By the names of the taps that were reached; they are kept.
        unreachable: The other taps.
        channels: How many channels a picture shows.
        rank: Which ones.
        sample: Which sample of the batch pictures show.
    """
    reached: list[FeatureMap] = []
    missed = list(unreachable)
    for tap in taps:
        if tap.name not in values:
            continue
        data = values[tap.name]
        reason = reason_without_statistics(tap, data)
        if reason is None:
            reached.append(_describe(tap, data, channels, rank, sample))
        else:
            missed.append(Unreachable(tap.name, reason))
    return FeatureMaps(
        model=model.to_dict(),
        input=prepared.record,
        taps=tuple(reached),
        unreachable=tuple(missed),
        tapping=None,
        notes=prepared.notes,
    )


def _run_cut(session: Session, prepared: PreparedInput) -> dict[str, Any]:
    return prepared.joined([session.run(run) for run in prepared.runs()])


def _tapping(model: Model, prepared: PreparedInput, answers: Mapping[str, Any], threads: int) -> dict[str, float]:
    """How far tapping moved the declared outputs: it keeps onnxruntime from fusing some operators."""
    session = open_session(model, threads=threads)
    largest = relative = 0.0
    for name, plain in _run_cut(session, prepared).items():
        if isinstance(plain, np.ndarray) and plain.dtype.kind in "fiub" and plain.size:
            wide = plain.astype(np.float64)
            with np.errstate(invalid="ignore"):
                difference = np.abs(answers[name].astype(np.float64) - wide)
            moved = float(np.max(difference, where=np.isfinite(difference), initial=0.0))
            scale = float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0.0))
            largest = max(largest, moved)
            relative = max(relative, moved / scale if scale else 0.0)
    return {"max_abs": largest, "relative": relative}


def _describe(tap: Tap, data: Array, channels: int, rank: Rank, sample: int) -> FeatureMap:
    axis = tap.axis_of(data.ndim)
    moments = Moments.empty(1 if axis is None else data.shape[axis])
    moments.update(data, axis)
    statistics = moments.overall.to_dict()
    statistics.pop("count")
    record = {
        **{key: statistics[key] for key in ("mean", "std", "min", "max", "zero_fraction")},
        "zero_channels": list(moments.zero_channels) if axis is not None else [],
        **{key: statistics[key] for key in ("nan_count", "inf_count")},
    }
    shown = _ranked(data, axis, channels, rank, sample) if axis is not None else ()
    return FeatureMap(tap, data, axis, shown, min(sample, max(len(data) - 1, 0)) if data.ndim else 0, record)


def _ranked(data: Array, axis: int, channels: int, rank: Rank, sample: int) -> tuple[int, ...]:
    count = data.shape[axis]
    if rank == "index" or axis == 0 or not data.size or sample >= len(data):
        return tuple(range(min(channels, count)))
    maps = np.moveaxis(data[sample].astype(np.float64), axis - 1, 0).reshape(count, -1)
    maps = np.where(np.isfinite(maps), maps, 0.0)
    score: Array = getattr(maps, rank)(axis=1)
    # A stable sort on the negated score: equal channels keep their order.
    return tuple(int(index) for index in np.argsort(-score, kind="stable")[:channels])
