"""What a difference is judged by: how far a model is from itself, and what rounding can explain of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxscope.model.channel_axes import default_axis
from onnxscope.model.graphs import Step
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.numerics.composites import contents_of
from onnxscope.numerics.distances import Discrepancy, Tolerance, measure
from onnxscope.runtime.nodes import INTEGER_TYPES
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import open_session
from onnxscope.selection.selectors import Tap

__all__ = [
    "Floor",
    "discrepancy_of",
    "element_types",
    "floor_of",
    "larger_noise",
    "own_floors",
    "own_noise",
    "rounds_to_codes",
]

_RESOLUTIONS: Mapping[str, float] = {
    "float64": 2.0**-52,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    **dict.fromkeys(INTEGER_TYPES, 0.0),
}
_SINGLE = 2.0**-23
# What rounding may add up to in a deep network, relative to the value; in eight bits a step is 1/127 of the largest.
_LIMITS: Mapping[str, float] = {"float16": 0.05, "bfloat16": 0.2, **dict.fromkeys(INTEGER_TYPES, 0.05)}
_LIMIT = 1e-3
_MOVED = "does not reproduce: other numbers are finite without onnxruntime's optimizations"


@dataclass(frozen=True)
class Floor:
    """What a difference from a value is judged by.

    Attributes:
        relative: How far rounding alone may move the value, relative to its norm.
        unstable: Why the value does not reproduce, so that nothing can be judged by it; None where it does.
        moved_fraction: Share of its numbers that are finite with onnxruntime's optimizations or without them, not both.
    """

    relative: float
    unstable: str | None
    moved_fraction: float = 0.0

    def unstable_for(self, discrepancy: Discrepancy | None) -> str | None:
        """Why a difference cannot be judged: some numbers finite in one model alone may be onnxruntime's doing."""
        if self.unstable is not None or discrepancy is None or not discrepancy.mismatched:
            return self.unstable
        explained = 2 * self.moved_fraction * discrepancy.count
        return _MOVED if discrepancy.mismatched <= explained else None


def floor_of(noise: Discrepancy, dtypes: Iterable[str], *, in_codes: bool = False) -> Floor:
    """Return what a relative difference is judged by: the noise, or what rounding alone may do if that is more.

    Noise that rounding cannot explain is none that a difference may hide in: the value does not reproduce.

    Args:
        noise: The first model against itself.
        dtypes: Element types of both values, and of those that they are computed from: rounding is never undone.
            Integers alone have no resolution, so that any difference beyond the noise counts.
        in_codes: Whether the model rounds to integers of few bits on the way.
    """
    kinds = list(dtypes)
    size = _size(noise)
    limit = max((_LIMITS.get(kind, _LIMIT) for kind in [*kinds, *(["int8"] if in_codes else [])]), default=_LIMIT)
    lowest = max((_RESOLUTIONS.get(kind, _SINGLE) for kind in kinds), default=0.0)
    if size <= limit:
        return Floor(max(size, lowest), None, noise.moved / max(noise.count, 1))
    amount = f"relative {size:.3g}" if math.isfinite(size) else "finite in one run only"
    return Floor(lowest, f"does not reproduce: {amount} between two runs on the same data")


def rounds_to_codes(*models: Model) -> bool:
    """Whether a model rounds values to integers of few bits: a step up or down is then no matter of rounding alone.

    onnxruntime does so by itself where a stored weight is dequantized: what the file multiplies in floating point, it
    multiplies in integers (MatMulNBits with an accuracy level of 4).
    """
    return any(
        node.operator.quantizes
        or node.operator.integers
        or (node.operator.passes_on == "dequantized" and node.inputs[0] in graph.constants)
        for model in models
        for graph in model.graphs.values()
        for node in graph.nodes
    )


def discrepancy_of(first: Any, other: Any, axis: int | None, tolerance: Tolerance | None) -> Discrepancy:
    """Compare two values of any kind; where not only numbers differ, something is mismatched.

    Args:
        first: The reference: an array, or whatever else onnxruntime gives.
        other: Of the same shape, where both are arrays of numbers.
        axis: Their channel axis.
        tolerance: As for `measure`.
    """
    if all(isinstance(value, np.ndarray) and value.dtype.kind not in "OUSc" for value in (first, other)):
        return measure(first, other, axis, tolerance)
    left, right = contents_of(first), contents_of(other)
    if left.difference_in_kind(right) is None:
        return measure(left.numbers, right.numbers, None, tolerance)
    nothing = measure(np.zeros(0), np.zeros(0), None, tolerance)
    return replace(nothing, mismatched=1, beyond=None if tolerance is None else 1)


def own_noise(pilot: Pilot, axes: Mapping[str, int | None]) -> dict[str, Discrepancy]:
    """Measure how far a model is from itself: without onnxruntime's optimizations on one thread, and run once more.

    It is measured on what the first run was fed. As a ratio of norms it hardly depends on how many samples that are
    where a value holds many numbers. Where it holds few, they may happen to round alike: that is why a floor is never
    below the element types' resolution (`floor_of`), and a difference counts from ten times the floor on.

    Args:
        pilot: Whose first run is made.
        axes: The channel axis of each value, by output of the tapped copy.

    Returns:
        The larger of the two, for every value. A model that is random, or carries state from run to run, is far from
        itself in the same session too.

    Raises:
        RunError: onnxruntime fails.
    """
    plain = open_session(pilot.model, pilot.tapped.proto, threads=1, optimize=False)
    noise: dict[str, Discrepancy] = {}
    for group in pilot.groups(axes):
        first = pilot.values(group)
        for session in (pilot.session, plain):  # one after the other: the values may be large
            again = session.run(pilot.feeds, group)
            for output in group:
                found = discrepancy_of(first[output], again.pop(output), axes[output], None)
                if session is plain:  # a padded convolution multiplies a NaN by the zeros around, or leaves them out
                    found = replace(found, mismatched=0, moved=found.mismatched)
                noise[output] = replace(larger_noise(found, noise.get(output, found)), moved=found.moved)
    return noise


def larger_noise(one: Discrepancy, other: Discrepancy) -> Discrepancy:
    """Return the one that is further apart."""
    return max(one, other, key=_size)


def own_floors(pilot: Pilot, taps: Mapping[tuple[tuple[Step, ...], str], Tap]) -> dict[str, Floor]:
    """Measure how far a model is from itself, on what the pilot's first run was fed.

    Args:
        pilot: Of that model.
        taps: Those of the pilot at the values of the model's layers and at its outputs, by graph and value.

    Returns:
        The floor by the value's name, of outputs of any kind too.

    Raises:
        RunError: onnxruntime fails.
    """
    layers = pilot.model.layers
    places = [*((layer.path, layer.value) for layer in layers), *(((), name) for name in pilot.model.main.outputs)]
    observed = [taps[place] for place in places]
    reached = {place: tap for place, tap in enumerate(observed) if tap in pilot.shapes}
    dtypes = [frozenset({pilot.kinds[tap]} if tap in pilot.shapes else ()) for tap in observed]
    types = element_types(dtypes, [[(layer, [layers[index] for index in layer.before])] for layer in layers])
    axes: dict[str, int | None] = dict.fromkeys(pilot.composites.values())
    axes |= {pilot.outputs[tap]: default_axis(len(pilot.shapes[tap]), tap.channel_axis) for tap in reached.values()}
    noise = own_noise(pilot, axes)
    in_codes = rounds_to_codes(pilot.model)
    floors = {name: floor_of(noise[name], ["float32"]) for name in pilot.composites.values()}
    return floors | {
        tap.value: floor_of(noise[pilot.outputs[tap]], types[place], in_codes=in_codes)
        for place, tap in reached.items()
    }


def element_types(
    own: Sequence[frozenset[str]], rows: Sequence[Sequence[tuple[Layer, Sequence[Layer]]]]
) -> list[frozenset[str]]:
    """For every value its element types, and those of the layers that reach it.

    Of integers only their own: rounding before them moves them by one or not at all, and the noise shows where.

    Args:
        own: Of the layers' values in execution order, then of the outputs.
        rows: For every one of the former its layers, each with the layers that it reads.
    """
    types = list(own)
    reaching: dict[Layer, frozenset[str]] = {}
    for place, layers in enumerate(rows):
        before = [reaching.get(source, frozenset()) for _, sources in layers for source in sources]
        types[place] = types[place].union(*before)
        reaching |= {layer: types[place] for layer, _ in layers}
    everything = frozenset().union(*types[: len(rows)])
    types[len(rows) :] = [kinds | everything for kinds in types[len(rows) :]]
    return [kinds if kinds and kinds <= INTEGER_TYPES else widened for kinds, widened in zip(own, types, strict=True)]


def _size(noise: Discrepancy) -> float:
    return math.inf if noise.relative_l2 is None else noise.relative_l2
