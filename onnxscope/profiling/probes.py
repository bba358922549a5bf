"""Probes: nodes at the end of the graph that reduce a tap to statistics, so that only numbers leave onnxruntime.

    h -> (Reshape)                                      half precision alone, see `GraphWriter.rounded`
      -> Shape                                          the elements of each sample and channel
      -> ReduceMin, ReduceMax                           over all axes but those of samples and channels
      -> (Sub shift) -> ReduceSum, ReduceSumSquare      about a shift, where a large mean would cancel
      -> Slice                                          some elements, always from the same places

The nodes of the last tap come first: onnxruntime works backwards from the last leaf, and in this order every tap dies
right after its probe. A sum of squares over a large plane is taken in two steps, rows first, which in float32 is both
faster and an order of magnitude more accurate than in one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxscope.analyses.counted_positions import ALL_COUNT, CountedAxes
from onnxscope.numerics.blocks import widened
from onnxscope.numerics.code_use import CodeGrid
from onnxscope.numerics.moments import Moments
from onnxscope.numerics.sample_moments import Observation, count_zeros, sample_rows
from onnxscope.profiling.groups import GroupAxis
from onnxscope.runtime.nodes import HALF_TYPES, MIN_ROW, GraphWriter
from onnxscope.selection.selectors import Tap

__all__ = ["MIN_OPSET", "PlannedTap", "Probes", "append_probes"]

MIN_OPSET = 10
"""Below it Slice has no steps."""

_LONG_ROW = 4096  # float32 sums of squares over longer ones are off by more than 4e-6
_LARGE = 1 << 14  # float32 sums over more elements are off by more than 1e-6
# Within a run: where the mean's square is more than so many times the variance, float32 sums of squares cancel.
_CANCELLED = 60.0
_WIDE = frozenset({"int32", "uint32", "int64", "float64"})

Array = NDArray[Any]


@dataclass(frozen=True)
class PlannedTap:
    """How one tap is observed; decided before the first batch.

    Attributes:
        tap: What is observed.
        dtype: numpy's name of the element type.
        shape: As in the pilot run of one sample; None where the tap was not reached by it.
        batch_axis: The axis of samples, None where there is none.
        channel_axis: The axis of channels, None where there is none.
        limits: Between which the activation function that makes the value holds it, None for an unbounded one.
        probed: Whether nodes in the graph reduce it; otherwise numpy reduces the tap itself.
        steps: For each axis, which elements zeros and the histogram are counted from: every n-th.
        shift: A number per channel near its mean, where squares about zero would cancel.
        masked: Whether infinities are there by design.
        heads: How many heads an attention has, where its shares are observed; numpy reduces them then.
        codes: What a quantized value is rounded to, None for any other.
        positions: Where the positions of the plan's masks lie in it.
        groups: Where the places lie that are told apart, None where none are, or it has none.
    """

    tap: Tap
    dtype: str
    shape: tuple[int, ...] | None
    batch_axis: int | None
    channel_axis: int | None
    limits: tuple[float, float] | None
    probed: bool
    steps: tuple[int, ...] | None = None
    shift: tuple[float, ...] | None = None
    masked: bool = False
    heads: int | None = None
    codes: CodeGrid | None = None
    positions: CountedAxes = ALL_COUNT
    groups: GroupAxis | None = None

    @property
    def name(self) -> str:
        """The tap's unique name."""
        return self.tap.name

    @property
    def token_step(self) -> int | None:
        """Every how manyth token is examined, None for values that are not samples of tokens by channels."""
        if self.shape is None or len(self.shape) != 3 or (self.batch_axis, self.channel_axis) != (0, 2):
            return None
        return 1 if self.steps is None else self.steps[1]

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes over which statistics are taken."""
        return tuple(axis for axis in range(len(self.shape or ())) if axis not in (self.batch_axis, self.channel_axis))


class Probes:
    """The outputs of the probes of one model.

    Attributes:
        outputs: Names of all of them.
    """

    def __init__(self, names: Mapping[str, dict[str, str]]) -> None:
        self._names = names
        self.outputs = tuple(output for names in self._names.values() for output in names.values())

    def observe(self, planned: PlannedTap, answers: Mapping[str, Any], samples: int) -> Observation | None:
        """Turn a probe's answers into an observation of the first `samples` samples.

        Args:
            planned: Whose probe it is.
            answers: Of the session, by output.
            samples: How many samples of the run are real.

        Returns:
            None where float32 does not tell: something is not finite, or the mean cancels the variance.
        """
        arrays = {key: answers[output] for key, output in self._names[planned.name].items()}
        dims = [int(size) for size in arrays["shape"]]
        elements = math.prod(dims[axis] for axis in planned.reduced)
        axes = planned.batch_axis, planned.channel_axis
        rows = {key: sample_rows(array, *axes, samples) for key, array in arrays.items() if key != "shape"}
        low, high, total, squares = (rows[key][:, :, 0].astype(np.float64) for key in ("min", "max", "sum", "squares"))
        if not elements or not all(np.isfinite(statistic).all() for statistic in (low, high, total, squares)):
            return None
        m2 = np.maximum(squares - total * total / elements, 0)
        constant = low == high
        m2[constant] = 0
        runs = len(low) * elements
        channel_total = total.sum(axis=0)
        spread = squares.sum(axis=0) - channel_total * channel_total / runs
        with np.errstate(invalid="ignore"):
            cancelled = squares.sum(axis=0) > _CANCELLED * spread
        if (cancelled & ~constant.all(axis=0) & (runs > 1)).any():
            return None
        shift = 0.0 if planned.shift is None else np.asarray(planned.shift, np.float32).astype(np.float64)
        mean = np.clip(total / elements + shift, low, high)
        moments = replace(
            Moments.empty(*low.shape), count=np.full(low.shape, elements, np.int64), mean=mean, m2=m2, min=low, max=high
        )
        values = widened(rows["values"])
        shape = tuple(size for axis, size in enumerate(dims) if axis != planned.batch_axis)
        return Observation(count_zeros(moments, values), values, shape)


def append_probes(proto: ModelProto, planned: Sequence[PlannedTap], prefix: str) -> Probes:
    """Append probes for the main graph's taps to a model, which is changed.

    Args:
        proto: A copy that the caller owns.
        planned: In execution order.
        prefix: That no name of the model starts with.
    """
    writer = GraphWriter(proto, f"{prefix}probe_")
    return Probes({tap.name: _probe(writer, tap) for tap in reversed(planned)})


def _probe(writer: GraphWriter, planned: PlannedTap) -> dict[str, str]:
    """Append the nodes of one tap and return the names of their outputs."""
    tap, axes, sizes = planned.tap, planned.reduced, planned.shape or ()
    value = tap.value if tap.scale is None else writer.node("DequantizeLinear", [tap.value, *tap.scale])
    if planned.dtype in HALF_TYPES:
        value = writer.rounded(value)
    places = tuple(axis for axis, step in enumerate(planned.steps or ()) if step > 1)
    outputs = {"shape": writer.node("Shape", [value])}
    sliced = value
    if places:
        ends = tuple(np.iinfo(np.int64).max for _ in places)
        steps = tuple((planned.steps or ())[axis] for axis in places)
        sliced = writer.node("Slice", [value, *map(writer.integers, (tuple(0 for _ in places), ends, places, steps))])
    outputs["values"] = _as_float(writer, sliced, planned.dtype)
    plain = _as_float(writer, value, planned.dtype)
    outputs["min"] = writer.reduce("ReduceMin", plain, axes)
    outputs["max"] = writer.reduce("ReduceMax", plain, axes)
    if planned.shift is not None:
        plain = writer.node("Sub", [plain, writer.array(_shift(planned))])
    row, elements = sizes[axes[-1]], math.prod(sizes[axis] for axis in axes)
    in_rows = len(axes) > 1 and row >= MIN_ROW
    sum_in_rows = in_rows and elements > _LARGE
    outputs["sum"] = (writer.reduce_rows if sum_in_rows else writer.reduce)("ReduceSum", plain, axes)
    if planned.dtype not in _WIDE and (row if in_rows else elements) > _LONG_ROW:
        plain = writer.cast(plain, TensorProto.DOUBLE)
    outputs["squares"] = (writer.reduce_rows if in_rows else writer.reduce)("ReduceSumSquare", plain, axes)
    for output in outputs.values():
        writer.output(output)
    return outputs


def _as_float(writer: GraphWriter, value: str, dtype: str) -> str:
    if dtype in ("float32", "float64"):
        return value
    return writer.cast(value, TensorProto.DOUBLE if dtype in _WIDE else TensorProto.FLOAT)


def _shift(planned: PlannedTap) -> Array:
    """The shift, shaped to be subtracted from the value."""
    assert planned.shift is not None
    assert planned.shape is not None
    sides = [1] * len(planned.shape)
    if planned.channel_axis is not None:
        sides[planned.channel_axis] = len(planned.shift)
    dtype = np.float64 if planned.dtype in _WIDE else np.float32
    return np.asarray(planned.shift, np.float32).astype(dtype).reshape(sides)
