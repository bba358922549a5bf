"""Where samples lie in values: which axis one sample more makes longer, by two runs that tell shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import RunError
from onnxscope.selection.selectors import Tap

__all__ = ["SampleShapes", "sample_shapes"]

Array = NDArray[Any]
Shape = tuple[int, ...]
SampleShapes = tuple[Mapping[Tap, Shape], Mapping[Tap, Shape]]


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
