"""Which axes of a value hold the positions of a mask, so that what the mask leaves out does not count."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.model.value_axes import Growth, axes_of
from onnxscope.numerics.sample_moments import counted_parts
from onnxscope.runtime.sample_growth import Fold, Positions, find_folds, find_positions, sample_shapes
from onnxscope.selection.padding_masks import PaddingMask
from onnxscope.selection.selectors import Tap

__all__ = ["ALL_COUNT", "ONE_BY_ONE", "CountedAxes", "CutValue", "PositionFinder", "find_counted"]

Array = NDArray[Any]
Rows = NDArray[np.bool_]

ONE_BY_ONE = frozenset({"token", "time", "query", "key"})
"""Axes with one place for each position."""

_NAMED = 3  # values of a note


@dataclass(frozen=True)
class CountedAxes:
    """Where the positions of masks lie in one value.

    Attributes:
        axes: Axes of the value, unfolded where it has to be, and the number of the mask that says what of them counts.
        fold: How its samples come by an axis of their own, None where they have one.
    """

    axes: tuple[tuple[int, int], ...] = ()
    fold: Fold | None = None

    def __bool__(self) -> bool:
        return bool(self.axes)

    def counted(self, rows: Mapping[int, Rows]) -> dict[int, Rows]:
        """By axis, which of its places count, of those masks that leave some out."""
        return {axis: rows[mask] for axis, mask in self.axes if mask in rows}

    def cut(
        self, value: Array, batch_axis: int | None, channel_axis: int | None, rows: Mapping[int, Rows], samples: int
    ) -> CutValue | None:
        """Cut what does not count out of a value of one run; None where all of it counts, or the run has other axes.

        Args:
            value: Neither changed nor kept.
            batch_axis: Its axis of samples, None where it has none.
            channel_axis: Its axis of channels, None where there is none.
            rows: By the number of a mask, which positions count, of shape (samples, positions).
            samples: How many samples are real.
        """
        counted = self.counted(rows)
        if not counted:
            return None
        if self.fold is not None:
            count = len(next(iter(counted.values())))
            if value.shape[self.fold.axis] % count:
                return None
            value = self.fold.unfolded(value, count)
            batch_axis = self.fold.batch_axis
            channel_axis = None if channel_axis is None else self.fold.moved(channel_axis)
        if any(value.shape[axis] != places.shape[1] for axis, places in counted.items()):
            return None
        return CutValue(tuple(counted_parts(value, batch_axis, counted, samples)), batch_axis, channel_axis)


ALL_COUNT = CountedAxes()
"""Of a value without positions, or of which nobody knows where they are."""


@dataclass(frozen=True, eq=False)
class CutValue:
    """What counts of a value.

    Attributes:
        parts: Of samples of which as much counts: their places among the run's samples, and their values.
        batch_axis: The axis of samples of each part, None where it has none.
        channel_axis: Its axis of channels, None where there is none.
    """

    parts: tuple[tuple[tuple[int, ...], Array], ...]
    batch_axis: int | None
    channel_axis: int | None


@dataclass(frozen=True)
class PositionFinder:
    """What is known of the masks of one model and the samples that it is fed.

    Attributes:
        masks: Inputs that say which positions count.
        positions: Where theirs lie in values, as runs of one position more have told.
        alone: Numbers of the masks that are of one sample in each run.
        folds: How samples lie in axes that hold more.
    """

    masks: Sequence[PaddingMask]
    positions: Positions
    alone: frozenset[int]
    folds: Mapping[Tap, Fold] = field(default_factory=dict)

    def axes(
        self, tap: Tap, shape: Sequence[int] | None, batch_axis: int | None, channel_axis: int | None
    ) -> CountedAxes:
        """Return the axes of a value with the positions of masks; none where it is not known whose they are.

        Where the model takes no other length, the axes that operators or a value's rank say to be of tokens, and that
        are as long as the mask, are these.

        Args:
            tap: Which value.
            shape: Of a run.
            batch_axis: Its axis of samples, None where it has none.
            channel_axis: Its axis of channels, None where there is none.
        """
        if shape is None or not self.masks:
            return ALL_COUNT
        fold = self.folds.get(tap)
        if fold is not None and batch_axis is None:
            found = self.positions.axes.get(tap) or self.positions.folded.get(tap, {})
            return CountedAxes(tuple(sorted((fold.moved(axis), number) for axis, number in found.items())), fold)
        places: dict[int, int] = dict(self.positions.axes.get(tap, {}))
        growth = None if batch_axis is None else Growth(batch_axis, 1)
        for number, length in self.positions.fixed.items():
            names = axes_of(len(shape), channel_axis, tap.axes, growth)
            fitting = [axis for axis, name in enumerate(names) if name in ONE_BY_ONE and shape[axis] == length]
            places |= {axis: number for axis in fitting if axis not in places}
        return CountedAxes(
            tuple(
                (axis, number)
                for axis, number in sorted(places.items())
                if axis != batch_axis and (batch_axis is not None or number in self.alone)
            )
        )

    def notes(self, found: Mapping[Tap, CountedAxes]) -> tuple[str, ...]:
        """Say which values count all of their positions, though they have some.

        Args:
            found: The axes of all values that are looked at.
        """
        grown = {*self.positions.axes, *self.positions.folded, *self.positions.others}
        whole = [tap.name for tap, axes in found.items() if tap in grown and not axes]
        if not whole:
            return ()
        shown = ", ".join(map(printable, whole[:_NAMED])) + (", …" if len(whole) > _NAMED else "")
        which = " and ".join(printable(mask.name) for mask in self.masks)
        several = (
            f"{len(whole)} values, whose positions are others: " if len(whole) > 1 else "a value of other positions: "
        )
        return (f"what {which} leaves out counts in {several}{shown}",)


def find_counted(
    shapes_of: Callable[[Mapping[str, Array]], Mapping[Tap, tuple[int, ...]]],
    feeds: Mapping[str, Array],
    masks: Sequence[PaddingMask],
    batch_axes: Mapping[str, int | None],
    *,
    count: int,
    fixed_batch: int | None,
    values_of: Callable[[Sequence[Tap], Mapping[str, Array]], Mapping[Tap, Array]],
) -> PositionFinder:
    """Find the positions of masks in values.

    Args:
        shapes_of: Runs the model.
        feeds: Of one run.
        masks: Of the samples.
        batch_axes: By input, the axis of samples, None where there is none.
        count: How many samples there are.
        fixed_batch: How many a run must have, None for any number.
        values_of: Runs the model for the values of some taps.
    """
    positions, folds = Positions({}), {}
    if masks:
        positions = find_positions(shapes_of, feeds, batch_axes, masks, fixed=fixed_batch is not None)
    held = {*positions.axes, *positions.folded}
    if held and fixed_batch is None and count > 1:
        with contextlib.suppress(RunError):  # it takes no other number of samples
            of_one, of_two = sample_shapes(shapes_of, feeds, batch_axes)
            shapes = {tap: shape for tap, shape in of_one.items() if tap in held}
            folds = find_folds(values_of, feeds, batch_axes, (shapes, of_two))
    one_by_one = fixed_batch == 1 or count == 1
    told = {number for number, mask in enumerate(masks) if mask.counted(feeds) is not None}
    alone = frozenset(number for number in told if one_by_one or masks[number].batch_axis is None)
    return PositionFinder(masks, positions, alone, folds)
