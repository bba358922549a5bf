"""Compare a model with the framework that it came from: `compare_with_framework()`, for the converters' `verify()`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.comparison.match_values import Counterpart, FedInput, match_values
from onnxscope.comparison.measure import Comparer, Held, held_by, near_values
from onnxscope.comparison.result import Comparison, LayerDifference, Side, floor_of
from onnxscope.inputs.arrays import describe_array
from onnxscope.model.activation_functions import own_output
from onnxscope.model.channel_axes import activation_axes, default_axis
from onnxscope.model.layer_names import Names
from onnxscope.model.layers import find_layers
from onnxscope.model.loading import load_model
from onnxscope.model.selectors import Tap
from onnxscope.runtime.tapped_runs import reach

__all__ = ["Activation", "compare_with_framework"]

Array = NDArray[Any]
_BUDGET_BYTES = 512 << 20
_FOLDED = re.compile(r"folded into (.+?)[./](?:weight|kernel)\b")


@dataclass(frozen=True, eq=False)
class Activation:
    """What one call of a framework's layer has returned.

    Attributes:
        layer: Its name, as the model's provenance has it.
        kind: Its class.
        values: Owned by us.
        source: The layer whose returned value it read, where that came to it as it was.
    """

    layer: str
    kind: str
    values: Array
    source: str | None = None


def compare_with_framework(
    model: Any,
    feeds: Mapping[str, Array],
    activations: Sequence[Activation],
    outputs: Sequence[Array],
    *,
    framework: str,
    channels_last: bool,
    threads: int = 0,
) -> Comparison:
    """Compare a model with what its framework computes on the same inputs.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        feeds: For every input of the model.
        activations: Of the layers that own parameters, in the order of their calls. They are the reference.
        outputs: What the framework returned, in the order of the model's outputs.
        framework: What the reference is called.
        channels_last: Whether the framework's channels are along the last axis.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        A row for each call of a layer whose value is in the graph, its own error being that of this layer alone. A
        layer that owns parameters and has no value in the graph is unaligned.
    """
    loaded = load_model(model)
    names = Names(loaded)
    folded = _folded(names, activations)
    pairs = _pair_by_values(
        names, activations, _pairs(names, activations, folded), feeds, channels_last=channels_last, threads=threads
    )
    only = _without_value(names, activations, pairs, folded)
    values = {f"{place}": activations[place].values for place, _ in pairs}
    values |= {f"output {place}": output for place, output in enumerate(outputs)}
    declared = loaded.main.outputs[: len(outputs)]
    named = [(f"{place}", value) for place, value in pairs]
    named += [(f"output {place}", name) for place, name in enumerate(declared)]
    axes = activation_axes(loaded.main)
    taps = [Tap(name, value, (), value, "", None, axes.get(value), (0,)) for name, value in named]
    reached = reach(loaded, taps, feeds, threads)
    counterparts: list[Counterpart] = []
    found: dict[str, int] = {}
    reasons = dict(reached.reasons)
    for tap in taps:
        if tap.name in reasons:
            continue
        left, right = values[tap.name], reached.shapes[tap.name]
        last = left.ndim - 1 if channels_last else None
        each = match_values(
            tap.name,
            reached.tapped.outputs[tap.name],
            (left.shape, right),
            (left.dtype.name, reached.dtypes[tap.name]),
            (default_axis(left.ndim, last), default_axis(len(right), tap.channel_axis)),
            replaced=not tap.name.startswith("output"),
        )
        if each is None:
            reasons[tap.name] = f"shape {list(left.shape)} against {list(right)}"
        else:
            found[tap.name] = len(counterparts)
            counterparts.append(each)
    inputs = [FedInput(spec.name, spec.name, (), 0) for spec in loaded.inputs]
    comparer = Comparer(
        *(None, None, loaded, reached.tapped, counterparts, inputs),
        tolerance=None,
        memory_budget_bytes=_BUDGET_BYTES,
        threads=threads,
    )
    measured, noise = comparer.run(feeds, lambda wanted: values), comparer.noise(feeds)

    def row(name: str, side: str, value: str, kind: str) -> LayerDifference:
        if name not in found:
            return LayerDifference(
                Side(side, side), Side(side, value), kind, None, None, None, 0.0, reasons[name], True
            )
        place = found[name]
        floor = floor_of(noise[place], (counterparts[place].dtype_a, counterparts[place].dtype_b))
        here = Side(_layer_of(names, value), value)
        one = measured[place]
        return LayerDifference(Side(side, side), here, kind, one.entire, one.own, noise[place], floor, None, False)

    return Comparison(
        {"name": framework},
        loaded.to_dict(),
        {"kind": "arrays", "inputs": [describe_array(name, array, None) for name, array in feeds.items()]},
        len(next(iter(feeds.values()), np.zeros(1))),
        tuple(row(f"{place}", activations[place].layer, value, activations[place].kind) for place, value in pairs),
        tuple(row(f"output {place}", name, name, "Output") for place, name in enumerate(declared)),
        tuple((each.layer, each.kind) for each in only),
        (),
        (),
        (),
        (),
    )


def _pairs(names: Names, activations: Sequence[Activation], folded: Mapping[str, str]) -> list[tuple[int, str]]:
    """Each call's place with the value that holds the same, as far as names tell."""
    holding, main = set(folded.values()), names.model.main
    pairs: list[tuple[int, str]] = []
    for layer in dict.fromkeys(each.layer for each in activations):
        calls = [place for place, each in enumerate(activations) if each.layer == layer]
        if layer in holding:
            continue  # its value has the BatchNorm in it, and is compared with that
        values = _leaving(names, layer) or _leaving(names, folded.get(layer, ""))
        if len(values) != len(calls):  # a call's value may stay inside: the next call of the layer reads it
            values = [own_output(main, node) for node in names.modules.get(layer, ()) if names.owns_weights(node)]
        if len(values) == len(calls):
            pairs += zip(calls, values, strict=True)
    return sorted(pairs)


def _folded(names: Names, activations: Sequence[Activation]) -> dict[str, str]:
    """BatchNorms that were folded away, with the layer whose value holds what each returned."""
    provenance = names.model.provenance
    folded: dict[str, str] = {}
    for record in provenance.parameters if provenance else ():
        target = _FOLDED.match(record.reason or "")
        if target is not None:
            folded[record.layer] = target[1]
    for each in activations:  # an export that recorded nothing: its BatchNorm is gone, and the layer before it is not
        is_norm = each.kind.startswith("BatchNorm") and each.layer not in folded
        if is_norm and each.source and _leaving(names, each.source) and not _leaving(names, each.layer):
            folded[each.layer] = each.source
    return folded


def _without_value(
    names: Names, activations: Sequence[Activation], pairs: Sequence[tuple[int, str]], folded: Mapping[str, str]
) -> list[Activation]:
    """Calls that are in the graph nowhere, neither themselves nor with a BatchNorm that was folded into them."""
    inside: set[str | None] = set(folded.values())
    for place, value in pairs:
        node = names.model.main.producers.get(value)
        if activations[place].kind.startswith("BatchNorm") and (node is None or node.op_type != "BatchNormalization"):
            inside.add(activations[place].source)
    paired = {place for place, _ in pairs}
    return [each for place, each in enumerate(activations) if place not in paired and each.layer not in inside]


def _pair_by_values(
    names: Names,
    activations: Sequence[Activation],
    pairs: list[tuple[int, str]],
    feeds: Mapping[str, Array],
    *,
    channels_last: bool,
    threads: int,
) -> list[tuple[int, str]]:
    """Pair the calls that names leave over with values of layers that hold nearly the same numbers.

    Where several are alike, as a convolution and a BatchNorm that was never trained, they are paired in order; a
    convolution whose BatchNorm was folded into it stays out, for the value has the BatchNorm in it.
    """
    main, taken = names.model.main, {value for _, value in pairs}
    done = {place for place, _ in pairs}
    left = {}
    for place, each in enumerate(activations):
        if place not in done:
            axis = default_axis(each.values.ndim, each.values.ndim - 1 if channels_last else None)
            left[Tap(f"{place}", each.layer, (), each.layer, each.kind, None, axis, (place,))] = place
    axes = activation_axes(main)
    values = dict.fromkeys(
        value
        for layer in find_layers(names)
        if not layer.path
        for value in (own_output(main, layer.node), layer.inner, layer.value)
        if value not in taken
    )
    right = [Tap(value, value, (), value, "", None, axes.get(value), (0,)) for value in values]
    if not left or not right:
        return pairs
    shapes = {tap.name: activations[place].values.shape for tap, place in left.items()}
    reference = Held(list(left), shapes, lambda wanted: {name: activations[int(name)].values for name in wanted})
    near = near_values(reference, held_by(names.model, right, feeds, threads), _BUDGET_BYTES)
    found = list(pairs)
    order = {value: place for place, value in enumerate(values)}
    for places, alike in _groups([(left[x], y.name) for x, y in near]):
        inside = {activations[place].source for place in places if activations[place].kind.startswith("BatchNorm")}
        if len(places) > len(alike):
            places = [place for place in places if activations[place].layer not in inside]
        if len(places) == len(alike):
            found += zip(sorted(places), sorted(alike, key=order.__getitem__), strict=True)
    return sorted(found)


def _groups(near: Sequence[tuple[int, str]]) -> list[tuple[list[int], list[str]]]:
    """Calls and values that are near each other, directly or by way of others, together."""
    groups: list[tuple[set[int], set[str]]] = []
    for place, value in near:
        joined = [each for each in groups if place in each[0] or value in each[1]]
        groups = [each for each in groups if each not in joined]
        groups.append(({place}.union(*(each[0] for each in joined)), {value}.union(*(each[1] for each in joined))))
    return [(list(places), list(values)) for places, values in groups]


def _leaving(names: Names, layer: str) -> list[str]:
    return [value for value in names.leaving(layer) if value not in names.model.main.constants] if layer else []


def _layer_of(names: Names, value: str) -> str:
    node = names.model.main.producers.get(value)
    return value if node is None else names.layers[node]
