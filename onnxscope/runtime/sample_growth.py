"""Where samples and positions lie in values: which axis one more makes longer, by two runs that tell shapes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import RunError
from onnxscope.model.value_axes import grown_axis
from onnxscope.selection.padding_masks import PaddingMask
from onnxscope.selection.selectors import Tap

__all__ = ["Fold", "Positions", "SampleShapes", "find_folds", "find_positions", "sample_shapes"]

Array = NDArray[Any]
_ROUNDING = 1e-3
Shape = tuple[int, ...]
SampleShapes = tuple[Mapping[Tap, Shape], Mapping[Tap, Shape]]


@dataclass(frozen=True)
class Positions:
    """Where the positions of masks lie in values.

    Attributes:
        axes: By tap, its axes with as many places as a mask has, and the mask's number.
        folded: The same of taps with an axis of which samples have as many places each.
        others: Taps that one position more makes longer in another way: they hold positions, but not one by one.
        fixed: How many positions a mask has that the model takes with no other number of them, by the mask's number.
    """

    axes: Mapping[Tap, Mapping[int, int]]
    folded: Mapping[Tap, Mapping[int, int]] = field(default_factory=dict)
    others: frozenset[Tap] = frozenset()
    fixed: Mapping[int, int] = field(default_factory=dict)


def find_positions(
    shapes_of: Callable[[Mapping[str, Array]], Mapping[Tap, Shape]],
    feeds: Mapping[str, Array],
    batch_axes: Mapping[str, int | None],
    masks: Sequence[PaddingMask],
    *,
    fixed: bool,
) -> Positions:
    """Find the axes that one position more makes one longer, in runs of two samples where the model takes these.

    With two samples an axis that holds samples and positions in one grows by two.

    Args:
        shapes_of: Runs the model.
        feeds: What it can be fed.
        batch_axes: Which axis of each input counts samples, None where none does.
        masks: Whose positions are looked for.
        fixed: Whether the number of samples is the model's own.
    """
    times = () if fixed else (2, 1)
    tried = [{name: _repeated(array, batch_axes.get(name), more) for name, array in feeds.items()} for more in times]
    for base in (*tried, feeds):
        with contextlib.suppress(RunError):
            before = shapes_of(base)
            break
    else:
        return Positions({}, fixed={number: _grown(feeds, mask)[0] for number, mask in enumerate(masks)})
    axes: dict[Tap, dict[int, int]] = {}
    folded: dict[Tap, dict[int, int]] = {}
    others: set[Tap] = set()
    fixed_lengths: dict[int, int] = {}
    for number, mask in enumerate(masks):
        length, grown = _grown(base, mask)
        after = None
        for step in (1, -1):
            try:
                after = shapes_of(grown(step)) if length + step > 0 else None
            except RunError:
                continue
            if after is not None:
                break
        if after is None:
            fixed_lengths[number] = length
            continue
        count = next((base[name].shape[axis] for name, axis in batch_axes.items() if axis is not None), 1)
        for tap, shape in before.items():
            longer = after.get(tap, ())
            changed = [axis for axis, (x, y) in enumerate(zip(shape, longer, strict=False)) if x != y]
            sizes = {axis: (shape[axis], longer[axis]) for axis in changed}
            single = [axis for axis in changed if sizes[axis] == (length, length + step)]
            merged = [axis for axis in changed if sizes[axis] == (count * length, count * (length + step))]
            if len(shape) != len(longer) or sorted({*single, *merged}) != changed:
                others.add(tap)
            elif changed:
                found = (folded if set(merged) - set(single) else axes).setdefault(tap, {})
                found.update({axis: found.get(axis, number) for axis in changed})
    known = {tap: {**axes.get(tap, {}), **more} for tap, more in folded.items()}
    return Positions(
        axes={tap: found for tap, found in axes.items() if tap not in others and tap not in known},
        folded={tap: found for tap, found in known.items() if tap not in others},
        others=frozenset(others),
        fixed=fixed_lengths,
    )


@dataclass(frozen=True)
class Fold:
    """An axis of a value along which samples lie together with something else.

    Attributes:
        axis: Which one.
        by_samples: Whether all of one sample comes before the next one; otherwise the samples take turns.
    """

    axis: int
    by_samples: bool

    def unfolded(self, array: Array, samples: int) -> Array:
        """Return a view of a value with an axis of samples of its own."""
        rest = array.shape[self.axis] // samples
        sizes = (samples, rest) if self.by_samples else (rest, samples)
        return array.reshape(*array.shape[: self.axis], *sizes, *array.shape[self.axis + 1 :])

    @property
    def batch_axis(self) -> int:
        """Where the samples are then."""
        return self.axis if self.by_samples else self.axis + 1

    def moved(self, axis: int) -> int:
        """Where an axis of the value is then; of this one, what lies together with the samples."""
        return axis + (axis > self.axis or (axis == self.axis and self.by_samples))


def find_folds(
    values_of: Callable[[Sequence[Tap], Mapping[str, Array]], Mapping[Tap, Array]],
    feeds: Mapping[str, Array],
    batch_axes: Mapping[str, int | None],
    shapes: SampleShapes,
) -> dict[Tap, Fold]:
    """Find how samples lie in axes that hold more: the values of two samples have to hold those of the first alone.

    Args:
        values_of: Runs the model for the values of some taps.
        feeds: What it can be fed.
        batch_axes: Which axis of each input counts samples, None where none does.
        shapes: Of all taps that are asked about, for one and for two samples.

    Raises:
        RunError: onnxruntime fails.
    """
    growths = {tap: grown_axis(shapes[0].get(tap), shapes[1].get(tap)) for tap in shapes[0]}
    merged = {tap: growth for tap, growth in growths.items() if growth is not None and growth.size > 1}
    if not merged:
        return {}
    alone = {name: _repeated(array, batch_axes.get(name), 1) for name, array in feeds.items()}
    other = {name: array if batch_axes.get(name) is None else np.flip(array) for name, array in alone.items()}
    pair = {
        name: array if (axis := batch_axes.get(name)) is None else np.concatenate([array, other[name]], axis)
        for name, array in alone.items()
    }
    together, single = values_of(list(merged), pair), values_of(list(merged), alone)
    folds = {}
    for tap, growth in merged.items():
        ways = [Fold(growth.axis, by_samples) for by_samples in (True, False)]
        firsts = [fold.unfolded(together[tap], 2).take(0, fold.batch_axis) for fold in ways]
        same = [fold for fold, first in zip(ways, firsts, strict=True) if _near(first, single[tap])]
        if len(same) == 1:  # of samples that are alike nobody can tell
            folds[tap] = same[0]
    return folds


def _near(left: Array, right: Array) -> bool:
    if left.shape != right.shape or left.dtype.kind not in "biuf":
        return False
    largest = float(np.max(np.abs(right), where=np.isfinite(right), initial=0))
    return np.allclose(left, right, rtol=_ROUNDING, atol=_ROUNDING * largest, equal_nan=True)


def _grown(feeds: Mapping[str, Array], mask: PaddingMask) -> tuple[int, Callable[[int], dict[str, Array]]]:
    """How many positions there are, and what gives feeds of one more, a copy of the last, or of one less."""
    name, axis = next(iter(mask.axes.items()))

    def grown(step: int) -> dict[str, Array]:
        made = dict(feeds)
        for name, axis in mask.axes.items():
            places = np.arange(feeds[name].shape[axis])
            made[name] = feeds[name].take(np.append(places, places[-1]) if step > 0 else places[:-1], axis)
        return made

    return feeds[name].shape[axis], grown


def sample_shapes(
    shapes_of: Callable[[Mapping[str, Array]], Mapping[Tap, Shape]],
    feeds: Mapping[str, Array],
    axes: Mapping[str, int | None],
    seen: Mapping[Tap, Shape] | None = None,
) -> SampleShapes:
    """Return the taps' shapes for one sample, and for two samples where the model takes them.

    Args:
        shapes_of: Runs the model.
        feeds: What it can be fed; its first sample is repeated.
        axes: Which axis of each input counts samples, None where none does.
        seen: The shapes for `feeds` where they are known already.

    Raises:
        RunError: onnxruntime fails on one sample.
    """
    one, two = ({name: _repeated(array, axes.get(name), times) for name, array in feeds.items()} for times in (1, 2))
    shapes = shapes_of(one)
    batched = [(feeds[name], axis) for name, axis in axes.items() if axis is not None]
    if not batched:
        return shapes, {}
    if seen is not None and all(array.shape[axis] == 2 for array, axis in batched):
        return shapes, seen
    try:
        return shapes, shapes_of(two)
    except RunError:
        return shapes, {}


def _repeated(array: Array, axis: int | None, times: int) -> Array:
    return array if axis is None else np.repeat(array.take([0], axis), times, axis)
