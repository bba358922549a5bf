"""What a difference is judged by: how far a model is from itself, and which element types have rounded its values."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.model_layers import ModelLayers
from onnxscope.comparison.pilot import Pilot, run_pilots
from onnxscope.comparison.result import INTEGERS, floor_of
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.layers import Layer

__all__ = ["element_types", "own_floors"]


def own_floors(side: ModelLayers, feed: CommonFeed, options: RunOptions) -> dict[str, float]:
    """Measure how far a model is from itself, on the first samples: the floor by the value's name.

    Args:
        side: The model.
        feed: What it is fed.
        options: Threads, and what values may take that leave onnxruntime.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
    """
    outputs = side.model.main.outputs
    taps = [side.tap(layer, layer.value, f"{place}") for place, layer in enumerate(side.layers)]
    taps += [side.output_tap(name, f"{place}") for place, name in enumerate(outputs, len(taps))]
    pilot = Pilot(side.model, taps, memory_budget_bytes=options.memory_budget_bytes, threads=options.threads)
    run_pilots([pilot], feed)
    dtypes = [frozenset({pilot.dtypes[tap.name]} if tap.name in pilot.shapes else ()) for tap in taps]
    before = [[(layer, side.before(layer))] for layer in side.layers]
    types = element_types(dtypes, before)
    reached = {place: tap for place, tap in enumerate(taps) if tap.name in pilot.shapes}
    axes = {
        pilot.tapped.outputs[tap.name]: default_axis(len(pilot.shapes[tap.name]), tap.channel_axis)
        for tap in reached.values()
    }
    noise = pilot.noise(axes)
    return {tap.value: floor_of(noise[pilot.tapped.outputs[tap.name]], types[place]) for place, tap in reached.items()}


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
