"""Compare a model with the framework that it came from: `compare_with_framework()`, for the converters' `verify()`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import counted
from onnxscope.comparison.floors import floor_of, own_noise, rounds_to_codes
from onnxscope.comparison.layer_difference import LayerDifference, Side, not_measured
from onnxscope.comparison.measure import Comparer, Held, held_by, near_values
from onnxscope.comparison.result import Comparison
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import describe_array
from onnxscope.model.activation_functions import own_output
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.loading import Model, load_model
from onnxscope.pairing.match_values import Counterpart, FedInput, match_values
from onnxscope.runtime.pilot import Pilot
from onnxscope.selection.selectors import Tap

__all__ = ["FrameworkValue", "compare_with_framework", "name_inputs"]

Array = NDArray[Any]
_BUDGET_BYTES = 512 << 20
_FOLDED = re.compile(r"folded into (.+?)[./](?:weight|kernel)\b")


@dataclass(frozen=True, eq=False)
class FrameworkValue:
    """What one call of a framework's layer has returned.

    Attributes:
        layer: Its name, as the model's provenance has it.
        kind: Its class.
        array: Owned by us.
        source: The layer whose returned value it read, where that came to it as it was.
    """

    layer: str
    kind: str
    array: Array
    source: str | None = None

    @property
    def is_norm(self) -> bool:
        """Whether the layer is a BatchNorm, which exporters fold into the layer before it."""
        return self.kind.startswith("BatchNorm")


@dataclass(frozen=True, eq=False)
class _Row:
    """One comparison to be made.

    Attributes:
        name: Unique; it begins with `output` for an output of the model.
        layer: The framework's layer.
        kind: Its class, or `Output`.
        value: The value in the graph.
        reference: What the framework has computed.
    """

    name: str
    layer: str
    kind: str
    value: str
    reference: Array


def name_inputs(model: Model, arrays: Sequence[Array]) -> dict[str, Array]:
    """Return what a framework's model was called with by the names of the exported model's inputs.

    Raises:
        InputError: They are not as many as the model's.
    """
    names = [spec.name for spec in model.inputs]
    if len(arrays) != len(names):
        raise InputError(f"{counted(len(arrays), 'input')} for the {len(names)} of the model: {model.name}")
    return dict(zip(names, arrays, strict=True))


def compare_with_framework(
    model: Any,
    feeds: Mapping[str, Array],
    calls: Sequence[FrameworkValue],
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
        calls: What the layers that own parameters returned, in the order of their calls. They are the reference.
        outputs: What the framework returned, in the order of the model's outputs.
        framework: What the reference is called.
        channels_last: Whether the framework's channels are along the last axis.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        A row for each call of a layer whose value is in the graph, its own error being that of this layer alone. A
        layer that owns parameters and has no value in the graph is unaligned.
    """
    loaded = load_model(model)
    folded = _folded(loaded, calls)
    pairs = _pair_by_names(loaded, calls, folded)
    pairs = _pair_by_values(loaded, calls, pairs, feeds, channels_last=channels_last, threads=threads)
    rows = [
        _Row(
            name=f"{place}", layer=calls[place].layer, kind=calls[place].kind, value=value, reference=calls[place].array
        )
        for place, value in pairs
    ]
    rows += [
        _Row(name=f"output {place}", layer=value, kind="Output", value=value, reference=output)
        for place, (value, output) in enumerate(zip(loaded.main.outputs, outputs, strict=False))
    ]
    differences = _measure(loaded, rows, feeds, channels_last=channels_last, threads=threads)
    return Comparison(
        a={"name": framework},
        b=loaded.to_dict(),
        input={"kind": "arrays", "inputs": [describe_array(name, array, None) for name, array in feeds.items()]},
        samples=len(next(iter(feeds.values()), np.zeros(1))),
        layers=tuple(differences[: len(pairs)]),
        outputs=tuple(differences[len(pairs) :]),
        only_a=tuple((call.layer, call.kind) for call in _without_value(loaded, calls, pairs, folded)),
        only_b=(),
        weights=(),
        structure=(),
        notes=(),
    )


def _measure(
    model: Model, rows: Sequence[_Row], feeds: Mapping[str, Array], *, channels_last: bool, threads: int
) -> list[LayerDifference]:
    """Run the model once with the values of all rows tapped, once for each layer's own error, once for the noise."""
    axes = model.channel_axes(())
    taps = [_tap(row.name, row.value, axes.get(row.value)) for row in rows]
    pilot = Pilot(model, taps, RunOptions(memory_budget_bytes=_BUDGET_BYTES, threads=threads))
    pilot.run(feeds)
    counterparts, reasons = _counterparts(rows, pilot, channels_last=channels_last)
    comparer = Comparer(
        None,
        pilot,
        list(counterparts.values()),
        [FedInput(a=spec.name, b=spec.name, permutation=(), elem_type=0) for spec in model.inputs],
        tolerance=None,
        samples=1,
        memory_budget_bytes=_BUDGET_BYTES,
        threads=threads,
    )
    references = {row.name: row.reference for row in rows}
    measured = dict(zip(counterparts, comparer.run(feeds, lambda wanted: references), strict=True))
    # The framework's own noise is not known: the model's stands for it.
    noise = own_noise(pilot, {pair.b: None for pair in counterparts.values()})
    differences = []
    for row in rows:
        pair, side = counterparts.get(row.name), Side(row.layer, row.layer)
        if pair is None:
            reason, incomparable = reasons[row.name]
            other = Side(row.layer, row.value)
            difference = not_measured(side, other, row.kind, reason, incomparable=incomparable)
        else:
            floor = floor_of(noise[pair.b], (pair.dtype_a, pair.dtype_b), in_codes=rounds_to_codes(model))
            difference = LayerDifference(
                a=side,
                b=Side(_layer_of(model, row.value), row.value),
                op_type=row.kind,
                entire=measured[row.name].entire,
                own=measured[row.name].own,
                noise=noise[pair.b],
                floor=floor.relative,
                unstable=floor.unstable_for(measured[row.name].entire),
                reason=None,
                incomparable=False,
            )
        differences.append(difference)
    return differences


def _counterparts(
    rows: Sequence[_Row], pilot: Pilot, *, channels_last: bool
) -> tuple[dict[str, Counterpart], dict[str, tuple[str, bool]]]:
    """What belongs together, by the rows' names; why a row has no numbers, and whether that is a difference itself."""
    counterparts: dict[str, Counterpart] = {}
    reasons = {tap.name: (reason, False) for tap, reason in pilot.reasons.items()}
    for row, tap in zip(rows, pilot.taps, strict=True):
        if row.name in reasons:
            continue
        rank, shape = row.reference.ndim, pilot.shapes[tap]
        counterpart = match_values(
            row.name,
            pilot.outputs[tap],
            (row.reference.shape, shape),
            (row.reference.dtype.name, pilot.kinds[tap]),
            (default_axis(rank, rank - 1 if channels_last else None), default_axis(len(shape), tap.channel_axis)),
            replaced=not row.name.startswith("output"),
        )
        if counterpart is None:
            reasons[row.name] = (f"shape {list(row.reference.shape)} against {list(shape)}", True)
        else:
            counterparts[row.name] = counterpart
    return counterparts, reasons


def _tap(name: str, value: str, channel_axis: int | None) -> Tap:
    """A value of the main graph, whose layer does not matter here."""
    return Tap(name=name, value=value, path=(), layer=value, op_type="", at=None, channel_axis=channel_axis, order=(0,))


def _pair_by_names(model: Model, calls: Sequence[FrameworkValue], folded: Mapping[str, str]) -> list[tuple[int, str]]:
    """Each call's place with the value that holds the same, as far as names tell."""
    holding, names = set(folded.values()), model.names
    pairs: list[tuple[int, str]] = []
    for layer in dict.fromkeys(call.layer for call in calls):
        places = [place for place, call in enumerate(calls) if call.layer == layer]
        if layer in holding:
            continue  # its value has the BatchNorm in it, and is compared with that
        values = _leaving(model, layer) or _leaving(model, folded.get(layer, ""))
        if len(values) != len(places):  # a call's value may stay inside: the next call of the layer reads it
            values = [own_output(model.main, node) for node in names.modules.get(layer, ()) if names.owns_weights(node)]
        if len(values) == len(places):
            pairs += zip(places, values, strict=True)
    return sorted(pairs)


def _folded(model: Model, calls: Sequence[FrameworkValue]) -> dict[str, str]:
    """BatchNorms that were folded away, with the layer whose value holds what each returned."""
    provenance = model.provenance
    folded: dict[str, str] = {}
    for record in provenance.parameters if provenance else ():
        target = _FOLDED.match(record.reason or "")
        if target is not None:
            folded[record.layer] = target[1]
    for call in calls:  # an export that recorded nothing: its BatchNorm is gone, and the layer before it is not
        is_apart = call.layer in folded or _leaving(model, call.layer)
        if call.is_norm and call.source and not is_apart and _leaving(model, call.source):
            folded[call.layer] = call.source
    return folded


def _without_value(
    model: Model, calls: Sequence[FrameworkValue], pairs: Sequence[tuple[int, str]], folded: Mapping[str, str]
) -> list[FrameworkValue]:
    """Calls that are in the graph nowhere, neither themselves nor with a BatchNorm that was folded into them."""
    inside: set[str | None] = set(folded.values())
    for place, value in pairs:
        node = model.main.producers.get(value)
        if calls[place].is_norm and (node is None or node.op_type != "BatchNormalization"):
            inside.add(calls[place].source)
    paired = {place for place, _ in pairs}
    return [call for place, call in enumerate(calls) if place not in paired and call.layer not in inside]


def _pair_by_values(
    model: Model,
    calls: Sequence[FrameworkValue],
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
    paired = {place for place, _ in pairs}
    left = {
        _call_tap(place, call, channels_last=channels_last): place
        for place, call in enumerate(calls)
        if place not in paired
    }
    values = _values_of_layers(model, {value for _, value in pairs})
    if not left or not values:
        return pairs
    axes = model.channel_axes(())
    right = [_tap(value, value, axes.get(value)) for value in values]
    shapes = {tap.name: calls[place].array.shape for tap, place in left.items()}
    reference = Held(list(left), shapes, lambda wanted: {name: calls[int(name)].array for name in wanted})
    pilot = Pilot(model, right, RunOptions(memory_budget_bytes=_BUDGET_BYTES, threads=threads))
    pilot.run(feeds)
    near = near_values(reference, held_by(pilot), _BUDGET_BYTES)
    more = list(pairs)
    order = {value: place for place, value in enumerate(values)}
    for places, alike in _groups([(left[tap], partner.name) for tap, partner in near]):
        inside = {calls[place].source for place in places if calls[place].is_norm}
        if len(places) > len(alike):
            places = [place for place in places if calls[place].layer not in inside]
        if len(places) == len(alike):
            more += zip(sorted(places), sorted(alike, key=order.__getitem__), strict=True)
    return sorted(more)


def _call_tap(place: int, call: FrameworkValue, *, channels_last: bool) -> Tap:
    rank = call.array.ndim
    return Tap(
        name=f"{place}",
        value=call.layer,
        path=(),
        layer=call.layer,
        op_type=call.kind,
        at=None,
        channel_axis=default_axis(rank, rank - 1 if channels_last else None),
        order=(place,),
    )


def _values_of_layers(model: Model, taken: Set[str]) -> list[str]:
    """What layers of the main graph compute, before and after what follows them, but for what is `taken`."""
    main = model.main
    values = dict.fromkeys(
        value
        for layer in model.layers
        if not layer.path
        for value in (own_output(main, layer.node), layer.inner, layer.value)
    )
    return [value for value in values if value not in taken]


def _groups(near: Sequence[tuple[int, str]]) -> list[tuple[list[int], list[str]]]:
    """Calls and values that are near each other, directly or by way of others, together."""
    groups: list[tuple[set[int], set[str]]] = []
    for place, value in near:
        places, values = {place}, {value}
        apart = []
        for group in groups:
            if place in group[0] or value in group[1]:
                places |= group[0]
                values |= group[1]
            else:
                apart.append(group)
        groups = [*apart, (places, values)]
    return [(list(places), list(values)) for places, values in groups]


def _leaving(model: Model, layer: str) -> list[str]:
    return [value for value in model.names.leaving(layer) if value not in model.main.constants] if layer else []


def _layer_of(model: Model, value: str) -> str:
    node = model.main.producers.get(value)
    return value if node is None else model.names.layers[node]
