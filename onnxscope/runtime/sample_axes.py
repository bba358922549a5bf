"""What is a sample: whether a model treats what lies along an axis one by one, found out by running it.

A batch is what may be cut: one run of n samples gives what n runs of one give. Where it does not, time steps, points
or nodes were taken for samples, and statistics of the pieces would be wrong.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.runtime.batch_mixing import mixed_first_axis, quantizes_batches, random_values, shape_values
from onnxscope.runtime.pilot import Pilot

__all__ = ["Samples", "start_on_samples"]

Array = NDArray[Any]

_COMPARED = 3  # samples that are run together and alone
_ROUNDING = {"float64": 1e-3, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of a value's norm
_SHARED_SCALES = 0.1  # of a value's norm, where samples share the scale that they are quantized by
_TINY = 1e-20  # a sum of squares below it has lost digits in float32
_ODD_ONES = 0.01  # of whole numbers, which rounding may tip over


class Samples(Protocol):
    """As much of a dataset as it takes to tell what a sample is; `onnxscope.datasets.dataset.Dataset` says more."""

    @property
    def kind(self) -> str:
        """`images`, `arrays` or `random`."""

    @property
    def count(self) -> int:
        """How many samples there are."""

    @property
    def batch_axes(self) -> Mapping[str, int | None]:
        """By input name, the axis of samples, None for an input that has none."""

    @property
    def fixed_batch(self) -> int | None:
        """How many samples a run must have, None for any number."""

    @property
    def may_be_one_sample(self) -> bool:
        """Whether all of it may be one sample."""

    def as_one_sample(self, note: str) -> Self:
        """All of it as one sample, with a remark that says why."""

    def noting(self, note: str) -> Self:
        """The same with one more remark."""

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Prepare one sample."""


_Dataset = TypeVar("_Dataset", bound=Samples)


def start_on_samples(
    pilot: Pilot, dataset: _Dataset, whole: Mapping[str, Array], few: Mapping[str, Array] | None = None
) -> _Dataset:
    """Make a pilot's first run, and decide whether the samples of a dataset are samples to the model.

    Args:
        pilot: Nothing was run yet.
        dataset: What is fed.
        whole: Its first batch.
        few: Some samples of it, for a pilot that may do with these; None where it may not.

    Returns:
        The dataset, or all of its arrays as one sample, which was the first run then; a note says why.

    Raises:
        RunError: onnxruntime fails.
    """
    try:
        if few is None:
            pilot.run(whole)
        else:
            pilot.start(whole, few)
    except RunError as error:
        together = _run_as_one(pilot, dataset, "the model does not run on a part of it")
        if together is None:
            raise error from None
        return together
    reason = _dependence(pilot, dataset)
    if reason is None:
        return dataset
    feeds = pilot.feeds
    with contextlib.suppress(RunError):
        together = _run_as_one(pilot, dataset, reason)
        if together is not None:
            return together
    if pilot.feeds is not feeds:
        pilot.run(feeds)
    return dataset.noting(f"the results depend on which samples make a batch: {reason}")


def _run_as_one(pilot: Pilot, dataset: _Dataset, reason: str) -> _Dataset | None:
    """Run everything at once, where that may be one sample; None where it may not, or does not run."""
    if not dataset.may_be_one_sample:
        return None
    note = f"axis 0 counts no samples, all of it is one: {reason}; `--batch-axis 0` cuts it all the same"
    one = dataset.as_one_sample(note)
    try:
        pilot.run(one.load(0)[0])
    except RunError:
        return None
    return one


def _dependence(pilot: Pilot, dataset: Samples) -> str | None:
    """Why samples are not independent of each other, None where they are, as far as a few of them tell."""
    if dataset.fixed_batch is not None or dataset.count < 2:
        return None
    together, samples = _samples(pilot, dataset)
    if len(samples) < 2:
        return None
    along = mixed_first_axis(pilot.model)
    if _are_the_same(samples, dataset):  # they could not show that they were mixed
        return along
    try:
        mixed = _first_mixed(pilot, together, samples)
    except RunError:  # some models run with the number of samples alone that they were exported with
        return along
    if mixed is None:
        return None
    seen = f"{len(samples)} together give other numbers than one at a time, first in '{printable(mixed)}'"
    return seen if along is None else f"{along}, and {seen}"


def _samples(pilot: Pilot, dataset: Samples) -> tuple[Mapping[str, Array], list[dict[str, Array]]]:
    """Some samples in one batch, and each of them alone.

    Those of the pilot where it was run on so few, since its values are known then, and those of images, which are dear
    to read; otherwise arrays from the beginning, the middle and the end.
    """
    axes = dataset.batch_axes
    lengths = [pilot.feeds[name].shape[axis] for name, axis in axes.items() if axis is not None]
    if not lengths:
        return {}, []
    count = min(lengths)
    first = [_one(pilot.feeds, axes, place) for place in range(min(count, 2))]
    if count == 2 and not _are_the_same(first, dataset):
        return pilot.feeds, first
    samples = first
    if dataset.kind != "images":
        places = sorted({0, dataset.count // 2, dataset.count - 1})[:_COMPARED]
        samples = [
            {
                name: array if (axis := axes[name]) is None else np.expand_dims(array, axis)
                for name, array in dataset.load(place)[0].items()
            }
            for place in places
        ]
        samples = _alike(samples, axes)
    together = {
        name: samples[0][name] if axis is None else np.concatenate([sample[name] for sample in samples], axis)
        for name, axis in axes.items()
    }
    return together, samples


def _alike(samples: Sequence[dict[str, Array]], axes: Mapping[str, int | None]) -> list[dict[str, Array]]:
    """Those of the first one's shapes; where there is no other, that one itself backwards, whose numbers are valid."""
    first = samples[0]
    alike = [sample for sample in samples if all(sample[name].shape == array.shape for name, array in first.items())]
    if len(alike) > 1 or len(samples) < 2:
        return alike
    return [first, {name: array if axes[name] is None else np.flip(array) for name, array in first.items()}]


def _one(feeds: Mapping[str, Array], axes: Mapping[str, int | None], place: int) -> dict[str, Array]:
    return {name: array if (axis := axes[name]) is None else array.take([place], axis) for name, array in feeds.items()}


def _are_the_same(samples: Sequence[Mapping[str, Array]], dataset: Samples) -> bool:
    return all(
        np.array_equal(samples[0][name], sample[name])
        for sample in samples[1:]
        for name, axis in dataset.batch_axes.items()
        if axis is not None
    )


def _first_mixed(pilot: Pilot, together: Mapping[str, Array], samples: Sequence[Mapping[str, Array]]) -> str | None:
    """The first value that depends on what else is in the batch.

    Raises:
        RunError: The model does not run on so many samples.
    """
    allowed = _SHARED_SCALES if quantizes_batches(pilot.model) else 0.0
    for group, names in _groups(pilot):
        whole = pilot.values(group, together)
        mixed: set[str] = set()
        shapes: dict[str, set[tuple[int, ...]]] = {output: set() for output in group}
        for place, sample in enumerate(samples):  # one at a time: their values may be large
            alone = pilot.values(group, sample)
            for output in group:
                shapes[output].add(np.shape(alone[output]) if isinstance(alone[output], np.ndarray) else ())
                if not _agree(whole[output], alone[output], (place, len(samples)), allowed):
                    mixed.add(output)
        for output in group:
            if output in mixed and len(shapes[output]) == 1:  # of as many as were detected, whose is whose is not known
                return names[output]
    return None


def _groups(pilot: Pilot) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Outputs of the pilot that can be compared, some at a time, with what they are called: taps, then outputs."""
    main = pilot.model.main
    telling_nothing = random_values(main) | shape_values(main)
    taps = {
        output: tap.name
        for tap, output in pilot.outputs.items()
        if tap in pilot.shapes and not tap.path and tap.value not in telling_nothing
    }
    for group in pilot.groups(taps):
        yield group, taps
    declared = {name: name for name in pilot.model.main.outputs if name not in taps and name not in telling_nothing}
    if declared:
        yield list(declared), declared


def _agree(whole: Any, alone: Any, place: tuple[int, int], allowed: float) -> bool:
    """Whether a value of some samples holds what one of them has alone, along any axis or none.

    Args:
        whole: The value of all samples.
        alone: The value of one of them.
        place: Which one it is, and of how many.
        allowed: How far they may be apart, if that is more than rounding.
    """
    if not all(isinstance(value, np.ndarray) for value in (whole, alone)) or whole.dtype.kind in "UOS":
        return True
    if whole.shape == alone.shape:
        return _near(whole, alone, allowed)
    if whole.ndim != alone.ndim:
        return False
    position, count = place
    grown = [axis for axis, (many, one) in enumerate(zip(whole.shape, alone.shape, strict=True)) if many != one]
    if len(grown) == 1 and whole.shape[grown[0]] == count * alone.shape[grown[0]]:
        axis = grown[0]
        before, length, behind = alone.shape[:axis], alone.shape[axis], alone.shape[axis + 1 :]
        # Samples outermost, or innermost where an axis was folded into that of samples.
        outer = whole.reshape(*before, count, length, *behind).take(position, axis)
        inner = whole.reshape(*before, length, count, *behind)
        return _near(outer, alone, allowed) or _near(inner.take(position, axis + 1), alone, allowed)
    return False


def _near(one: Array, other: Array, allowed: float) -> bool:
    if one.size == 0:
        return True
    if one.dtype.kind in "biu":
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64)) > (one.dtype.itemsize == 1)
        return float(apart.mean()) <= max(_ODD_ONES, allowed)
    tolerance = max(_ROUNDING.get(one.dtype.name, 1e-3), allowed)
    if one.dtype == np.float32:  # in one pass, where no square overflows or vanishes
        with np.errstate(invalid="ignore", over="ignore"):
            gap, size = (float(np.vdot(array, array)) for array in (one - other, other))
        if _TINY < size < math.inf and gap < math.inf:
            return gap <= tolerance**2 * size
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    left, right = left[finite], right[finite]
    return bool(np.linalg.norm(left - right) <= tolerance * max(np.linalg.norm(left), np.linalg.norm(right)))
