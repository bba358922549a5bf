"""What a difference is judged by: how far a model is from itself, and which element types have rounded its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxscope.comparison.result import INTEGERS, floor_of
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.graphs import Step
from onnxscope.model.layers import Layer
from onnxscope.model.selectors import Tap
from onnxscope.numerics.distances import Discrepancy, measure
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import open_session

__all__ = ["element_types", "own_floors", "own_noise"]


def own_noise(pilot: Pilot, axes: Mapping[str, int | None]) -> dict[str, Discrepancy]:
    """Measure how far a model is from itself without onnxruntime's optimizations, on one thread.

    It is measured on what the first run was fed. As a ratio of norms it hardly depends on how many samples that are
    where a value holds many numbers. Where it holds few, they may happen to round alike: that is why a floor is never
    below the element types' resolution (`floor_of`), and a difference counts from ten times the floor on.

    Args:
        pilot: Whose first run is made.
        axes: The channel axis of each value, by output of the tapped copy.

    Raises:
        RunError: onnxruntime fails.
    """
    plain = open_session(pilot.model, pilot.tapped.proto, threads=1, optimize=False)
    noise: dict[str, Discrepancy] = {}
    for group in pilot.groups(axes):
        left, right = pilot.values(group), plain.run(pilot.feeds, group)
        noise |= {output: measure(left[output], right[output], axes[output], None) for output in group}
    return noise


def own_floors(pilot: Pilot, taps: Mapping[tuple[tuple[Step, ...], str], Tap]) -> dict[str, float]:
    """Measure how far a model is from itself, on what the pilot's first run was fed.

    Args:
        pilot: Of that model.
        taps: Those of the pilot at the values of the model's layers and at its outputs, by graph and value.

    Returns:
        The floor by the value's name.

    Raises:
        RunError: onnxruntime fails.
    """
    layers = pilot.model.layers
    places = [*((layer.path, layer.value) for layer in layers), *(((), name) for name in pilot.model.main.outputs)]
    observed = [taps[place] for place in places]
    dtypes = [frozenset({pilot.kinds[tap]} if tap in pilot.shapes else ()) for tap in observed]
    types = element_types(dtypes, [[(layer, [layers[index] for index in layer.before])] for layer in layers])
    reached = {place: tap for place, tap in enumerate(observed) if tap in pilot.shapes}
    axes = {pilot.outputs[tap]: default_axis(len(pilot.shapes[tap]), tap.channel_axis) for tap in reached.values()}
    noise = own_noise(pilot, axes)
    return {tap.value: floor_of(noise[pilot.outputs[tap]], types[place]) for place, tap in reached.items()}


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
    return [kinds if kinds and kinds <= INTEGERS else widened for kinds, widened in zip(own, types, strict=True)]
