"""Decide how each tap is observed, from the model and its pilot run on the first samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.analyses.counted_positions import ONE_BY_ONE, find_counted
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import Dataset
from onnxscope.errors import RunError
from onnxscope.inputs.samples import axis_of_samples
from onnxscope.model.encodings import LOWEST_CODES, rounding_of
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.model.value_axes import Growth, axes_of, batch_axis_of, grown_axis
from onnxscope.numerics.code_use import CodeGrid
from onnxscope.numerics.moments import Moments
from onnxscope.numerics.sample_moments import sample_steps
from onnxscope.profiling.groups import GroupAxis, Grouping, group_axis
from onnxscope.profiling.observer import Observer, Plan
from onnxscope.profiling.probes import MIN_OPSET, PlannedTap
from onnxscope.runtime.masks import find_masks
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.sample_growth import SampleShapes
from onnxscope.runtime.tap_outputs import Unreachable
from onnxscope.selection.padding_masks import PaddingMask, left_out, positions_of
from onnxscope.selection.selectors import Tap

__all__ = ["make_plan", "open_observer", "with_groups"]

_SHIFTED = 30.0  # where the mean's square is more than so many times the variance, squares are taken about a shift
# Three photographs and all convolutions of ResNet50. Whole commands against probes there: 0.84 the time for one sample,
# 0.90 for two, 1.07 for three, 1.24 for eight.
_LITTLE = 1 << 25
_WIDEST_BYTES = 8
_PROBED_TYPES = frozenset(
    {
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
    }
)

Array = NDArray[Any]
Shape = tuple[int, ...]


def make_plan(pilot: Pilot, taps: Sequence[Tap], dataset: Dataset, options: RunOptions) -> Plan:
    """Find out shapes and axes, and what float32 sums can tell.

    Args:
        pilot: Observes `taps`, and may observe more; its first run is made on samples of `dataset`.
        taps: In execution order.
        dataset: Tells which axes of the inputs count samples, and the model's own batch size.
        options: Its batch is a full run where the model does not fix one; to be exact takes all values out of
            onnxruntime. Where they are few in all, that is done anyway.

    Raises:
        RunError: onnxruntime cannot run the model on these samples.
    """
    model = pilot.model
    shapes, doubled = _shapes(pilot, dataset)
    finder = find_counted(
        pilot.shapes_of,
        pilot.feeds,
        dataset.masks,
        dataset.batch_axes,
        count=dataset.count,
        fixed_batch=dataset.fixed_batch,
        values_of=pilot.values_of,
    )
    masks = find_masks(model)
    masked = masks.constants | masks.values
    planned = []
    for tap in taps:
        if tap not in pilot.kinds:
            continue
        shape = shapes.get(tap)
        batch = _batch_axis(tap, shape, doubled.get(tap), dataset)
        channel = None if shape is None else tap.axis_of(len(shape))
        if channel == batch:
            channel = None
        plain = PlannedTap(
            tap=tap,
            dtype=pilot.kinds[tap],
            shape=shape,
            batch_axis=batch,
            channel_axis=channel,
            limits=_limits(model, tap),
            probed=False,
            masked=(tap.path, tap.value) in masked,
            heads=_heads(tap, shape, batch),
            codes=_codes(model, tap),
            positions=finder.axes(tap, shape, batch, channel),
        )
        planned.append(plain)
    exact = options.exact or _is_little(planned, dataset.count, options.memory_budget_bytes)
    leaves_out = bool(left_out(dataset.masks, pilot.feeds))  # others will too, and probes would run for nothing
    planned = [
        tap if tap.shape is None else _with_probe(tap, model, exact or (leaves_out and bool(tap.positions)))
        for tap in planned
    ]
    return Plan(
        taps=tuple(_with_shifts(pilot, planned)),
        unreachable=tuple(Unreachable(tap.name, pilot.reasons[tap]) for tap in taps if tap not in pilot.kinds),
        batch_size=dataset.fixed_batch or options.batch_size,
        memory_budget_bytes=options.memory_budget_bytes,
        exact=exact,
        unfit=pilot.unfit,
        masks=tuple(dataset.masks),
        notes=finder.notes({tap.tap: tap.positions for tap in planned}),
    )


def with_groups(plan: Plan, pilot: Pilot, dataset: Dataset, grouping: Grouping) -> Plan:
    """Return a plan that also tells groups of tokens or of positions apart, of the taps that have any.

    Args:
        plan: From `make_plan`.
        pilot: It was made with.
        dataset: It was made for.
        grouping: Which groups.

    Raises:
        RunError: onnxruntime fails.
    """
    specs = {spec.name: spec for spec in dataset.specs}
    sequences = [
        PaddingMask(name, "counted", positions_of(specs[name], dataset.specs), axis) for name, axis in grouping.inputs
    ]
    finder = find_counted(
        pilot.shapes_of,
        pilot.feeds,
        sequences,
        dataset.batch_axes,
        count=dataset.count,
        fixed_batch=dataset.fixed_batch,
        values_of=pilot.values_of,
    )
    taps = []
    for tap in plan.taps:
        found = finder.axes(tap.tap, tap.shape, tap.batch_axis, tap.channel_axis)
        where = group_axis(found, grouping.inputs, tap.batch_axis)
        if grouping.by == "position":
            where = group_axis(found or tap.positions, (), tap.batch_axis) or _named_axis(tap)
        taps.append(tap if where is None else replace(tap, groups=where, probed=False))
    return replace(plan, taps=tuple(taps), grouping=grouping)


def _named_axis(tap: PlannedTap) -> GroupAxis | None:
    """The axis that operators, or how many axes there are, say to be of tokens or of time."""
    if tap.shape is None:
        return None
    growth = None if tap.batch_axis is None else Growth(tap.batch_axis, 1)
    names = axes_of(len(tap.shape), tap.channel_axis, tap.tap.axes, growth)
    places = [axis for axis, name in enumerate(names) if name in ONE_BY_ONE]
    return GroupAxis(places[-1], tap.batch_axis, None, None) if places else None


def open_observer(model: Model, plan: Plan, threads: int) -> tuple[Plan, Observer]:
    """Open the session with the probes; without them where onnxruntime has no kernel for one.

    Args:
        model: It is not changed.
        plan: From `make_plan`, for this model.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        The plan that holds, and what observes by it.
    """
    observer = Observer(model, plan, threads=threads)
    try:
        observer.open()
    except RunError:  # a model that fails will say so itself
        plan = replace(plan, taps=tuple(replace(tap, probed=False) for tap in plan.taps))
        observer = Observer(model, plan, threads=threads)
    return plan, observer


def _is_little(planned: Sequence[PlannedTap], samples: int, budget_bytes: int) -> bool:
    """Whether all values of all samples are so few that counting every one costs no more than probes do."""
    numbers = sum(math.prod(tap.shape or ()) for tap in planned) * samples
    return numbers <= _LITTLE and numbers * _WIDEST_BYTES <= budget_bytes


def _shapes(pilot: Pilot, dataset: Dataset) -> SampleShapes:
    """The taps' shapes for one sample, and for two samples where the model takes them."""
    if dataset.fixed_batch is not None:
        return pilot.shapes_of(pilot.feeds), {}
    return pilot.sample_shapes(dataset.batch_axes)


def _batch_axis(tap: Tap, one: Shape | None, two: Shape | None, dataset: Dataset) -> int | None:
    """Where one sample more makes the value longer; where that is not known, what operators or a fixed batch tell."""
    if one is None:
        return None
    if two is None or len(two) != len(one):
        known = batch_axis_of(len(one), tap.axes)
        count = dataset.fixed_batch or 1
        if known is not None and one[known] == count:
            return known
        return axis_of_samples(one, count, dataset.batch_axes)
    growth = grown_axis(one, two)
    return growth.axis if growth is not None and growth.size == 1 else None


def _heads(tap: Tap, shape: Shape | None, batch: int | None) -> int | None:
    """How many heads the shares of an attention have, for one sample where they lie along one axis with samples."""
    if tap.axes is None or not tap.axes.are_shares or shape is None or len(shape) not in (3, 4) or 0 in shape:
        return None
    return 1 if len(shape) == 3 and batch == 0 else shape[-3]


def _codes(model: Model, tap: Tap) -> CodeGrid | None:
    """The codes of a value that is quantized with one stored scale, None for any other."""
    stored = None if tap.holds_indices else rounding_of(model.graphs[tap.path], tap.value)
    if stored is None:
        return None
    (scale,), (zero_point,) = (model.array(tensor).reshape(-1).tolist() for tensor in stored)
    lowest = LOWEST_CODES.get(int(stored[1].data_type))
    if lowest is None or not scale > 0 or not math.isfinite(scale):
        return None
    return CodeGrid(*lowest, scale=float(scale), zero_point=int(zero_point))


def _limits(model: Model, tap: Tap) -> tuple[float, float] | None:
    graph = model.graphs[tap.path]
    node = graph.producers.get(tap.value)
    if node is None or not node.is_standard or tap.holds_indices:
        return None
    if node.op_type == "Clip":
        return _clip_limits(model, node)
    return node.operator.limits


def _clip_limits(model: Model, node: Node) -> tuple[float, float] | None:
    graph = model.graphs[node.path]
    limits = []
    for place, key in ((1, "min"), (2, "max")):
        stored = graph.stored(node.inputs[place]) if len(node.inputs) > place and node.inputs[place] else None
        if stored is not None and list(stored.dims) in ([], [1]):
            limits.append(float(model.array(stored).reshape(-1)[0]))
        elif isinstance(node.attribute(key), float):
            limits.append(node.attribute(key))
    return (limits[0], limits[1]) if len(limits) == 2 and all(map(math.isfinite, limits)) else None


def _with_probe(planned: PlannedTap, model: Model, exact: bool) -> PlannedTap:
    """Decide from where zeros and the histogram are counted, and whether a probe is worth while."""
    assert planned.shape is not None
    steps = sample_steps(planned.shape, planned.batch_axis, planned.channel_axis)
    possible = (
        not exact
        and model.running.provider.is_cpu  # another would reduce in a precision of its own, too
        and planned.heads is None
        and not planned.tap.path
        and planned.dtype in _PROBED_TYPES
        and model.opsets.get("ai.onnx", 1) >= MIN_OPSET
        and math.prod(planned.shape[axis] for axis in planned.reduced) > 1
        and max(steps, default=1) > 1  # a tap that is examined whole leaves onnxruntime anyway
    )
    return replace(planned, steps=steps, probed=possible)


def _with_shifts(pilot: Pilot, planned: Sequence[PlannedTap]) -> list[PlannedTap]:
    """Give a shift to the taps whose mean would cancel their variance in the pilot run.

    Where a value is not finite there, or its squares have no sum in float32, numpy reduces it.
    """
    shifted = {tap.name: tap for tap in planned}
    by_output = {pilot.outputs[tap.tap]: tap for tap in planned if tap.probed}
    for group in pilot.groups(output for output, tap in by_output.items() if tap.tap in pilot.shapes):
        values = pilot.values(group)
        for output in group:
            tap = by_output[output]
            shifted[tap.name] = _with_shift(tap, values[output])
    return list(shifted.values())


def _with_shift(planned: PlannedTap, value: Array) -> PlannedTap:
    if value.ndim != len(planned.shape or ()) or not value.size:
        return replace(planned, probed=False)
    moments = Moments.empty(1 if planned.channel_axis is None else value.shape[planned.channel_axis])
    moments.update(value, planned.channel_axis)
    mean, variance = moments.mean, moments.m2 / np.maximum(moments.count, 1)
    squares = moments.count * (mean * mean + variance)
    if (moments.nan | moments.inf).any() or (squares > np.finfo(np.float32).max).any():
        return replace(planned, probed=False)
    # Only where it is needed: a channel that is nearly dead has a mean that tells nothing of other samples.
    needed = (mean * mean > _SHIFTED * variance) & (variance > 0) & np.isfinite(mean)
    shift = tuple(np.where(needed, mean, 0).astype(np.float32).tolist())
    return replace(planned, shift=shift) if needed.any() else planned
