"""Which axes of a value a picture shows: query by key for each head, channel by time, slices of a volume, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.value_axes import Growth, axes_of
from onnxscope.selection.selectors import Tap

__all__ = ["MapView", "ranked_channels", "view_of"]

Array = NDArray[Any]
_SLICES = 4  # of a volume
_WIDE_PX = 640  # of all maps of a row
# What runs down and what runs to the right; the first that a value has.
_MAPS = (("query", "key"), ("height", "width"), ("channel", "time"), ("token", "channel"))
_EACH = ("head", "direction", "channel", "part")


@dataclass(frozen=True)
class MapView:
    """How a value is drawn.

    Attributes:
        axes: What every axis of the value stands for.
        sides: The axes that run down and to the right, None where there is no picture.
        each: The axis of which every index has a map of its own, None for one map.
        through: The axis of the slices that lie side by side in each map, None where there is none.
        batch: The axis of samples, None where there is none.
        per_sample: How many indices of the axis `each` belong to a sample, where samples are counted along it too.
        reason: Why there is no picture.
    """

    axes: tuple[str, ...]
    sides: tuple[int, int] | None = None
    each: int | None = None
    through: int | None = None
    batch: int | None = None
    per_sample: int | None = None
    reason: str | None = None

    @property
    def words(self) -> tuple[str, str] | None:
        """What runs down and what runs to the right, None without a picture."""
        return None if self.sides is None else (self.axes[self.sides[0]], self.axes[self.sides[1]])

    @property
    def is_image(self) -> bool:
        """Whether it shows places of a plane, whose two sides are of one kind."""
        return self.words == ("height", "width") and self.through is None

    @property
    def square(self) -> bool:
        """Whether a pixel is as long to either side: of planes and of queries by keys."""
        return self.words in (("height", "width"), ("query", "key"))

    def grid(self, shape: Sequence[int]) -> dict[str, Any]:
        """How maps of shape (maps, down, right) that are no images are laid out, for `mosaic`."""
        columns = 1 if self.through is not None else min(shape[0], 4)
        return {"columns": columns, "cell_px": _WIDE_PX // columns, "square": self.square}

    def to_dict(self, numbers: Sequence[int]) -> dict[str, Any] | None:
        """What a tap's record says of its maps; `numbers` are those of `each` that are shown."""
        if self.words is None:
            return None
        shown = [] if self.each is None else list(numbers)
        return {"each": self.each_word, "numbers": shown, "down": self.words[0], "right": self.words[1]}

    @property
    def each_word(self) -> str | None:
        """What has a map of its own."""
        return None if self.each is None else self.axes[self.each]

    def slices(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Numbers of the slices of a volume that are shown, evenly from the first to the last."""
        if self.through is None:
            return ()
        count = shape[self.through]
        places = np.linspace(0, count - 1, min(count, _SLICES)).round().astype(int)
        return tuple(int(place) for place in places)

    def count(self, shape: Sequence[int]) -> int:
        """How many maps a sample has."""
        return 1 if self.each is None else self.per_sample or shape[self.each]

    def samples(self, shape: Sequence[int]) -> int:
        """How many samples can be shown."""
        if self.per_sample is not None and self.each is not None:
            return shape[self.each] // self.per_sample
        return 1 if self.batch is None else shape[self.batch]

    def maps(self, data: Array, sample: int, numbers: Sequence[int]) -> Array:
        """Return maps of shape (maps, down, right) for one sample; slices of a volume with NaN between them.

        Args:
            data: The value.
            sample: Which one of the batch.
            numbers: Which of `each` are shown, in this order.
        """
        assert self.sides is not None
        order = [axis for axis in (self.batch, self.each, self.through) if axis is not None]
        rest = [axis for axis in range(data.ndim) if axis not in (*order, *self.sides)]  # all of length 1
        values = data.transpose([*order, *self.sides, *rest]).reshape(
            [data.shape[axis] for axis in (*order, *self.sides)]
        )
        if self.batch is not None:
            values = values[sample]
        if self.each is None:
            return values[None]
        values = values[[number + sample * (self.per_sample or 0) for number in numbers]]
        if self.through is None:
            return values
        wide = values.astype(np.float64)
        gap = np.full((*wide.shape[:1], wide.shape[2], 1), np.nan)
        pieces = [piece for place in self.slices(data.shape) for piece in (wide[:, place], gap)]
        return np.concatenate(pieces[:-1], axis=2)


def view_of(tap: Tap, shape: Sequence[int], samples: int | None, growth: Growth | None, assumed: int | None) -> MapView:
    """Decide how a value is drawn, or why it is not.

    Args:
        tap: Whose value it is.
        shape: Of the value.
        samples: How many the run had, None where that is not known.
        growth: Where one sample more makes it longer, None where that is not known.
        assumed: The axis of samples where neither that nor an operator tells.
    """
    channel_axis = tap.axis_of(len(shape))
    axes = axes_of(len(shape), channel_axis, tap.axes, growth, assumed if shape else None)
    sides = next((pair for pair in _MAPS if set(pair) <= set(axes)), None)
    if tap.holds_indices or not all(shape) or sides is None:
        return MapView(axes, reason=_reason(tap, shape, axes))
    each = next((axes.index(word) for word in _EACH if word in axes and word not in sides), None)
    through = axes.index("depth") if "depth" in axes else None
    shown = {*map(axes.index, (*sides, "batch" if "batch" in axes else sides[0])), each, through}
    if any(size > 1 and axis not in shown for axis, size in enumerate(shape)):
        return MapView(axes, reason=f"more axes than a map has: {', '.join(axes)}")
    merged = growth is not None and growth.size > 1
    if merged and growth is not None and growth.axis != each and (samples or 1) > 1:
        return MapView(axes, reason="samples share an axis with something else, in an unknown order: feed one alone")
    return MapView(
        axes,
        sides=(axes.index(sides[0]), axes.index(sides[1])),
        each=each,
        through=through,
        batch=axes.index("batch") if "batch" in axes else None,
        per_sample=growth.size if merged and growth is not None and growth.axis == each else None,
    )


def _reason(tap: Tap, shape: Sequence[int], axes: Sequence[str]) -> str:
    if not all(shape):
        return "it is empty"
    if tap.holds_indices:
        return "its numbers say places"
    if len(shape) < 2:
        return "below two axes"
    if set(axes) <= {"batch", "channel", "direction", "head"}:
        return "one number a channel"
    return f"not known what its axes stand for: {', '.join(axes)}"


def ranked_channels(data: Array, axis: int, view: MapView, count: int, rank: str, sample: int) -> tuple[int, ...]:
    """Return the numbers of the channels that are shown first.

    Args:
        data: The value.
        axis: Of its channels.
        view: Tells the axis of samples.
        count: How many at most.
        rank: `index`, or the statistic that is largest: `std`, `max` or `mean`.
        sample: Of which sample.
    """
    if rank == "index" or not data.size or sample >= view.samples(data.shape):
        return tuple(range(min(count, view.per_sample or data.shape[axis])))
    values = np.moveaxis(data, axis, 0)
    if view.batch is not None:
        values = values.take(sample, view.batch + (view.batch < axis))
    elif view.per_sample is not None:
        values = values[sample * view.per_sample : (sample + 1) * view.per_sample]
    maps = values.astype(np.float64).reshape(len(values), -1)
    maps = np.where(np.isfinite(maps), maps, 0.0)
    score: Array = getattr(maps, rank)(axis=1)
    # A stable sort on the negated score: equal channels keep their order.
    return tuple(int(index) for index in np.argsort(-score, kind="stable")[:count])
