"""One tap: what it held, its statistics, and its picture, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnxscope.analyses.counted_positions import CutValue
from onnxscope.analyses.map_views import MapView, ranked_channels
from onnxscope.base.results import Record, picture, within
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import not_finite_text, printable, ranges_text, shortened
from onnxscope.errors import InputError
from onnxscope.numerics.moments import Moments
from onnxscope.selection.selectors import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["FeatureMap", "Rank", "describe_tap", "taps_table"]

Array = np.ndarray[Any, Any]
_CELL_PX = 40  # of maps in a notebook's table
_MAX_THUMBNAILS = 12
_LONGEST_TEXT = 160  # characters of a caption's tokens
_OF_TOKENS = frozenset({"token", "time", "query", "key"})
_COLUMNS = ("layer", "operator", "at", "shape", "mean", "std", "min", "max", "zeros", "zero channels", "value")
_LEAST = ("value", "at", "operator", "zero channels")
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
        view: How it is drawn, or why it is not.
        numbers: Of what has a map of its own (channels, heads, directions) those that are shown, in this order.
        tokens: What the tokens of each sample are called, nothing where that is not known.
        sequences: Of steps over tokens, what those that a cache holds are called, of each sample.
        extents: Of steps that grow, the shape that each had before NaN was put behind it; nothing where all are alike.
        statistics: Over the whole batch, with `zero_channels` (channels that are all zeros on these inputs).
    """

    tap: Tap
    data: Array
    channel_axis: int | None
    channels: tuple[int, ...]
    sample: int
    view: MapView
    numbers: tuple[int, ...]
    statistics: Mapping[str, Any]
    tokens: tuple[tuple[str, ...], ...] = ()
    sequences: tuple[tuple[str, ...], ...] = ()
    extents: tuple[tuple[int, ...], ...] = ()

    def maps(self) -> Array | None:
        """What is drawn of the shown sample, (maps, down, right); None where there is no picture."""
        return None if self.view.sides is None else self.view.maps(self._drawn(), self.sample, self.numbers)

    def _drawn(self) -> Array:
        """The values without what was put behind those of the shown step."""
        if self.sample >= len(self.extents):
            return self.data
        kept = (self.view.batch, self.view.each)
        sizes = enumerate(self.extents[self.sample])
        return self.data[tuple(slice(None) if axis in kept else slice(size) for axis, size in sizes)]

    def showing(self, numbers: Sequence[int]) -> FeatureMap:
        """The same with other maps: channels, heads or whatever has a map of its own."""
        return replace(self, numbers=tuple(numbers))

    def image(self, *, cmap: str = "viridis") -> Image | None:
        """The maps as one picture, each scaled to its own range, with what runs where; None where there is none."""
        from onnxscope.drawing.mosaics import labelled, mosaic

        maps = self.maps()
        if maps is None:
            return None
        if self.view.is_image:
            return mosaic(maps, cmap=cmap)
        grid = self.view.grid(maps.shape)
        rows = -(-len(maps) // grid["columns"])
        return labelled(mosaic(maps, cmap=cmap, **grid), *self._labels(), self._names(0), rows)

    def plot(self) -> Figure:
        """Draw the maps as a matplotlib Figure; it belongs to the caller and to no pyplot state.

        Raises:
            InputError: There is no picture for the value.
        """
        from onnxscope.drawing.figures import feature_figure

        maps = self.maps()
        if maps is None:
            shape = list(self.data.shape)
            raise InputError(
                f"no picture for a value of shape {shape}: {printable(self.tap.name)}", hint=self.view.reason
            )
        if self.view.is_image:
            return feature_figure(maps, self.numbers, self.tap.layer)
        down, right, _ = self._labels()
        return feature_figure(
            maps,
            self.numbers,
            self.tap.layer,
            each=self.view.each_word or "",
            sides=(down, right),
            square=self.view.square,
            numbered=self.view.through is None,
            names=(self._names(0), self._names(1)),
        )

    def caption(self) -> str:
        """What has a map of its own, by number, and what runs where in it, where that is no image."""
        word = self.view.each_word
        plural = "" if word is None else f"{word}s {ranges_text(self.numbers)}"
        if self.view.is_image:
            return plural
        down, right, _ = self._labels()
        words = ", ".join(filter(None, (plural, f"{down} down", f"{right} to the right")))
        names = self._names(0) or self._names(1)
        return f"{words}: {shortened(' '.join(map(printable, filter(None, names))), _LONGEST_TEXT)}" if names else words

    def _names(self, side: int) -> tuple[str, ...]:
        """The shown sample's tokens, where they run down (0) or to the right (1)."""
        sides = self.view.sides
        if sides is None or self.sample >= len(self.tokens) or self.view.axes[sides[side]] not in _OF_TOKENS:
            return ()
        names, length = self.tokens[self.sample], self._drawn().shape[sides[side]]
        if self.sample < len(self.sequences) and self.view.axes[sides[side]] == "key":
            names = self.sequences[self.sample][-length:] if length else ()  # the last that a cache has seen
        return names if len(names) == length else ()

    def _labels(self) -> tuple[str, str, str]:
        """What runs down, what runs to the right, and what the maps are of."""
        assert self.view.words is not None
        down, right = self.view.words
        slices = self.view.slices(self._drawn().shape)
        if slices:
            right += f", {self.view.axes[self.view.through or 0]} {', '.join(map(str, slices))}"
        word = self.view.each_word
        return down, right, "" if word is None else f"{word} {ranges_text(self.numbers)}"

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
            "axes": list(self.view.axes),
            "map": self.view.to_dict(self.numbers),
            "no_picture": self.view.reason,
            **self.statistics,
        }

    def table(self) -> Table:
        """One row."""
        return taps_table("", [self])

    def _cells(self) -> tuple[Cell, ...]:
        numbers = [self.statistics[key] for key in ("mean", "std", "min", "max", "zero_fraction")]
        zero_channels = None if self.channel_axis is None else len(self.statistics["zero_channels"])
        tap = self.tap
        return (tap.layer, tap.op_type, tap.at or "", self.data.shape, *numbers, zero_channels, tap.name)

    def _mark(self) -> str:
        return not_finite_text(self.statistics["nan_count"], self.statistics["inf_count"])

    def _thumbnail(self) -> str:
        from onnxscope.drawing.mosaics import encode_png, mosaic, reduced

        tap = self.showing(self.numbers[:_MAX_THUMBNAILS])
        maps = tap.maps()
        if maps is None:
            return ""
        image = self.view.is_image
        side = _CELL_PX if image else _CELL_PX * 4 // min(len(maps), 4)
        small = reduced(maps, side, square=self.view.square)
        described = f"{len(maps)} channels" if image else tap.caption()
        return picture(
            encode_png(mosaic(small, cell_px=side, square=self.view.square)), f"{described} of {self.tap.layer}"
        )

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> list[str]:
        """The picture and the row."""
        return [*within([self._thumbnail()]), self.table().html()]


def describe_tap(
    tap: Tap,
    data: Array,
    view: MapView,
    channels: int,
    rank: Rank,
    sample: int,
    cut: CutValue | None = None,
) -> FeatureMap:
    """Describe what a tap held.

    Args:
        tap: Which one.
        data: For the whole batch; it is kept.
        view: How it is drawn.
        channels: How many channels a picture shows.
        rank: Which ones.
        sample: Which sample of the batch a picture shows.
        cut: What of it counts, None for all of it.
    """
    axis = tap.axis_of(data.ndim)
    if axis is not None and view.axes[axis] == "batch":
        axis = None
    parts = [data] if cut is None else [part for _, part in cut.parts]
    apart = axis if cut is None or axis is None else cut.channel_axis
    if len({part.shape[apart] for part in parts if apart is not None}) > 1:
        apart = None  # samples have different numbers of such channels
    moments = Moments.empty(1 if apart is None or not parts else parts[0].shape[apart])
    for part in parts:
        moments.update(part, apart)
    statistics = moments.overall.to_dict()
    statistics.pop("count")
    record = {
        **{key: statistics[key] for key in ("mean", "std", "min", "max", "zero_fraction")},
        "zero_channels": list(moments.zero_channels) if apart is not None else [],
        **{key: statistics[key] for key in ("nan_count", "inf_count")},
    }
    shown = ranked_channels(data, axis, view, channels, rank, sample) if axis is not None else ()
    numbers = shown if view.each == axis else tuple(range(min(channels, view.count(data.shape))))
    if view.sides is not None and axis in view.sides:
        shown = tuple(range(data.shape[axis]))
    sample = min(sample, max(view.samples(data.shape) - 1, 0)) if data.ndim else 0
    return FeatureMap(tap, data, axis, shown, sample, view, numbers if view.each is not None else (0,), record)


def taps_table(title: str, taps: Sequence[FeatureMap]) -> Table:
    """A row for each tap, with columns for what only some of them have to say."""
    table = Table(title, _COLUMNS, tuple(tap._cells() for tap in taps), _LEAST)
    table = table.with_marks("not finite", [tap._mark() for tap in taps])
    return table.with_marks("no picture", [tap.view.reason or "" for tap in taps])
