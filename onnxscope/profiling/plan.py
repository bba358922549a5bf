"""Decide how each tap is observed, from the model and a pilot run on the first samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import RunError
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.model.selectors import Tap
from onnxscope.numerics.sample_moments import sample_steps
from onnxscope.profiling.observer import Observer, Plan
from onnxscope.profiling.probes import MIN_OPSET, PlannedTap
from onnxscope.runtime.tap_outputs import expose
from onnxscope.runtime.tapped_runs import TapShapes, output_types

__all__ = ["make_plan"]

_SHIFTED = 30.0  # where the mean's square is more than so many times the variance, squares are taken about a shift
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


def make_plan(
    model: Model,
    taps: Sequence[Tap],
    feeds: Mapping[str, Array],
    options: RunOptions,
    *,
    batch_axes: Mapping[str, int | None],
    fixed_batch: int | None,
) -> tuple[Plan, Observer | None]:
    """Find out shapes and axes, and what float32 sums can tell, in three sessions at most.

    Args:
        model: It is not changed.
        taps: In execution order.
        feeds: The first run of the data, padded where the model's batch is fixed.
        options: Its batch is a full run; to be exact takes all values out of onnxruntime.
        batch_axes: For each input its axis of samples, None for one without.
        fixed_batch: The model's own batch size, None where any will do.

    Returns:
        The plan, and what observed the pilot run, where that goes by the same plan and can go on.

    Raises:
        RunError: onnxruntime cannot run the model on these samples.
    """
    exposed = expose(model, taps)
    reachable = [tap for tap in taps if tap.name in exposed.outputs]
    types = output_types(model, exposed.proto, [exposed.outputs[tap.name] for tap in reachable])
    shapes, doubled = _shapes(model, reachable, feeds, batch_axes, fixed_batch, options.threads)
    planned = []
    for tap in reachable:
        dtype = types.get(exposed.outputs[tap.name], "")
        shape = shapes.get(tap.name)
        batch = _batch_axis(shape, doubled.get(tap.name), fixed_batch)
        channel = None if shape is None else default_axis(len(shape), tap.channel_axis)
        if channel == batch:
            channel = None
        each = PlannedTap(tap, dtype, shape, batch, channel, _limits(model, tap), probed=False)
        planned.append(each if shape is None else _with_probe(each, model, options.exact))
    plan = Plan(tuple(planned), exposed.unreachable, options.batch_size, options.memory_budget_bytes, options.exact)
    if not any(each.probed for each in planned):
        return plan, None
    observer = Observer(model, plan, threads=options.threads)
    shifted = replace(plan, taps=tuple(_with_shifts(observer, plan, feeds)))
    return shifted, observer if shifted == plan else None


def _shapes(
    model: Model,
    taps: Sequence[Tap],
    feeds: Mapping[str, Array],
    batch_axes: Mapping[str, int | None],
    fixed_batch: int | None,
    threads: int,
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The taps' shapes for one sample, and for the same sample twice where the model takes it."""
    one, two = (
        {name: _repeated(array, batch_axes.get(name), times) for name, array in feeds.items()} for times in (1, 2)
    )
    session = TapShapes(model, taps, threads)
    if fixed_batch is not None:
        return session.of(feeds), {}
    shapes = session.of(one)
    if all(axis is None for axis in batch_axes.values()):
        return shapes, {}
    try:
        return shapes, session.of(two)
    except RunError:
        return shapes, {}


def _repeated(array: Array, axis: int | None, times: int) -> Array:
    return array if axis is None else np.repeat(array.take([0], axis), times, axis)


def _batch_axis(one: Shape | None, two: Shape | None, fixed_batch: int | None) -> int | None:
    """Where one sample more makes the value longer; the first axis where it is as long as a fixed batch."""
    if one is None:
        return None
    if two is None or len(two) != len(one):
        return 0 if one and one[0] == (fixed_batch or 1) else None
    grown = [axis for axis, (before, after) in enumerate(zip(one, two, strict=True)) if before != after]
    return grown[0] if len(grown) == 1 and one[grown[0]] == 1 and two[grown[0]] == 2 else None


def _limits(model: Model, tap: Tap) -> tuple[float, float] | None:
    graph = model.graphs[tap.path]
    node = graph.producers.get(tap.value)
    if node is None or not node.is_standard:
        return None
    if node.op_type == "Clip":
        return _clip_limits(model, node)
    return node.operator.limits


def _clip_limits(model: Model, node: Node) -> tuple[float, float] | None:
    graph = model.graphs[node.path]
    found = []
    for place, key in ((1, "min"), (2, "max")):
        stored = graph.stored(node.inputs[place]) if len(node.inputs) > place and node.inputs[place] else None
        if stored is not None and list(stored.dims) in ([], [1]):
            found.append(float(model.array(stored).reshape(-1)[0]))
        elif isinstance(node.attribute(key), float):
            found.append(node.attribute(key))
    return (found[0], found[1]) if len(found) == 2 and all(map(math.isfinite, found)) else None


def _with_probe(planned: PlannedTap, model: Model, exact: bool) -> PlannedTap:
    """Decide from where zeros and the histogram are counted, and whether a probe is worth while."""
    assert planned.shape is not None
    steps = sample_steps(planned.shape, planned.batch_axis, planned.channel_axis)
    possible = (
        not exact
        and not planned.tap.path
        and planned.dtype in _PROBED_TYPES
        and model.opsets.get("ai.onnx", 1) >= MIN_OPSET
        and math.prod(planned.shape[axis] for axis in planned.reduced) > 1
        and max(steps, default=1) > 1  # a tap that is examined whole leaves onnxruntime anyway
    )
    return replace(planned, steps=steps, probed=possible)


def _with_shifts(observer: Observer, plan: Plan, feeds: Mapping[str, Array]) -> list[PlannedTap]:
    """Observe the pilot run, and give a shift to the taps whose mean would cancel their variance."""
    try:
        found = observer.pilot(feeds, plan.batch_size)
    except RunError:  # a probe that this onnxruntime has no kernel for; a model that fails will say so itself
        found = {}
    taps = []
    for each in plan.taps:
        seen = found.get(each.name)
        if seen is None:  # numpy reduces it
            taps.append(replace(each, probed=False))
            continue
        moments = seen.moments.combined()
        mean, variance = moments.mean, moments.m2 / np.maximum(moments.count, 1)
        # Only where it is needed: a channel that is nearly dead has a mean that tells nothing of other samples.
        needed = (mean * mean > _SHIFTED * variance) & (variance > 0) & np.isfinite(mean)
        shift = tuple(np.where(needed, mean, 0).astype(np.float32).tolist())
        taps.append(replace(each, shift=shift) if needed.any() else each)
    return taps
