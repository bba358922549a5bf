"""What one run showed of one tap: the records that observers make and profiles take in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.moments import Accumulator, widened

__all__ = ["Observation", "observe_array", "sample_rows", "sample_steps"]

_EXAMINED = 8192  # elements of a value and a sample that zeros and the histogram are counted from


@dataclass(frozen=True, eq=False)
class Observation:
    """Statistics of one tap for every sample of a run and every channel, with some or all of its elements.

    The first axis of every array is the samples (1 for a value without a batch axis), the second the channels (1 for a
    value without a channel axis). Samples that only fill a fixed batch are left out.

    Attributes:
        count: int64, finite elements.
        mean: float64, 0 where no element is finite.
        m2: float64, sum of squared deviations from `mean`, likewise.
        min: float64, smallest finite element, `inf` where there is none.
        max: float64, largest finite element, `-inf` where there is none.
        nan: int64, elements that are NaN.
        inf: int64, infinite elements of either sign.
        values: float32 or float64 of shape (samples, channels, elements): the elements that zeros and the histogram are
            counted from, chosen by their place alone; finite or not.
        shape: The value's shape for one sample: without the batch axis where it has one.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]
    values: NDArray[Any]
    shape: tuple[int, ...]


def sample_steps(shape: Sequence[int], batch_axis: int | None, channel_axis: int | None) -> tuple[int, ...]:
    """Choose which elements are examined: for each axis, every n-th.

    Every channel is examined; the longest of the other axes are thinned out until at most 8,192 elements are left, or
    one a channel.
    """
    sizes = {axis: size for axis, size in enumerate(shape) if axis not in (batch_axis, channel_axis)}
    channels = 1 if channel_axis is None else shape[channel_axis]
    steps = [1] * len(shape)

    def left(axis: int) -> int:
        return -(-sizes[axis] // steps[axis])

    while sizes and channels * math.prod(map(left, sizes)) > _EXAMINED:
        axis = max(sizes, key=left)
        if left(axis) == 1:
            break
        steps[axis] += 1
    return tuple(steps)


def observe_array(
    array: NDArray[Any],
    batch_axis: int | None,
    channel_axis: int | None,
    *,
    samples: int = 1,
    steps: Sequence[int] | None = None,
) -> Observation:
    """Reduce a value in numpy.

    Args:
        array: Of real numbers, neither changed nor kept.
        batch_axis: The axis of samples, None where there is none.
        channel_axis: The axis of channels, None where there is none.
        samples: How many samples are observed, the first ones.
        steps: Which elements are examined, None for all.
    """
    rows = sample_rows(array, batch_axis, channel_axis, samples)
    accumulator = Accumulator(rows.shape[0] * rows.shape[1])
    accumulator.update(rows.reshape(accumulator.mean.size, rows.shape[2]), 0)
    state = {key: values.reshape(rows.shape[:2]) for key, values in vars(accumulator).items()}
    if steps is not None and max(steps, default=1) > 1:
        places = tuple(slice(None, None, step) for step in steps)
        rows = sample_rows(array[places], batch_axis, channel_axis, samples)
    return Observation(
        count=state["finite"],
        mean=state["mean"],
        m2=state["m2"],
        min=state["min"],
        max=state["max"],
        nan=state["nan"],
        inf=state["inf"],
        values=widened(rows),
        shape=tuple(size for axis, size in enumerate(array.shape) if axis != batch_axis),
    )


def sample_rows(array: NDArray[Any], batch_axis: int | None, channel_axis: int | None, samples: int) -> NDArray[Any]:
    """The first samples of an array as (samples, channels, elements); one of each where there is no such axis."""
    order = [axis for axis in (batch_axis, channel_axis) if axis is not None]
    rest = [axis for axis in range(array.ndim) if axis not in order]
    sides = [1 if axis is None else array.shape[axis] for axis in (batch_axis, channel_axis)]
    rows = array.transpose(order + rest).reshape(*sides, math.prod(array.shape[axis] for axis in rest))
    return rows if batch_axis is None else rows[:samples]
