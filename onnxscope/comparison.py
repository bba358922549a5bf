"""Compare two models layer by layer, `compare()`; and one with itself, `noise_floors()`."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.channels import activation_axes, default_axis
from onnxscope.counterparts import Counterpart, match_inputs, match_values, pair_outputs, with_batch_of
from onnxscope.datasets import open_dataset
from onnxscope.differences import Comparison, LayerDifference, Side, StructureChange, floor_of
from onnxscope.discrepancies import Discrepancy, Tolerance
from onnxscope.embeddings import index_bounds
from onnxscope.errors import InputError
from onnxscope.feeding import Batch, Fed, read_batches
from onnxscope.graph import TappedModel
from onnxscope.layer_graph import Layer, attributes_of, find_layers
from onnxscope.layer_weights import LayerWeights, WeightChange, compare_weights, one_sided
from onnxscope.model import Model, load_model
from onnxscope.names import Names
from onnxscope.pairing import Align, Alignment, align_layers, layer_keys, pair_by_values
from onnxscope.selectors import At, Tap, select_names
from onnxscope.tapping import reach
from onnxscope.value_pairs import Comparer, Measured, held_by, near_values

__all__ = ["compare", "noise_floors"]

Array = NDArray[Any]
_HARMLESS = frozenset({"permuted", "rounded"})  # unless a layer's own error says otherwise
_MOST_LEFT_OVER = 1_000  # of layers whose values are compared each with each


def compare(
    a: Any,
    b: Any,
    inputs: Any = None,
    *,
    align: Align = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    select: str | Sequence[str] = (),
    preprocess: str | None = None,
    layout: Literal["auto", "nchw", "nhwc"] = "auto",
    batch_size: int = 8,
    limit: int | None = None,
    memory_budget_bytes: int = 512 << 20,
    threads: int = 0,
) -> Comparison:
    """Compare two models layer by layer, each layer at the value that leaves it.

    Args:
        a: The reference: a path, a `ModelProto` or a loaded `Model`.
        b: The model to compare with it.
        inputs: What `a` is fed; `b` is fed the same, with its own names, layout and element types. None compares
            structure and weights alone.
        align: Which evidence pairs layers: names, weights, structure, or all of it. What weights leave over, or all
            of it, is paired by its values on the first batch, where they are nearly the same numbers.
        rtol: Relative tolerance of an element, as in `numpy.isclose`; a difference beyond the noise counts only where
            some element is beyond it. None together with `atol` judges by the noise alone.
        atol: Absolute tolerance of an element.
        select: Selectors over the first model's layers; none compares all of them. Outputs always are.
        preprocess: Preset for images, a recipe's path, or None for the one recorded in either model.
        layout: Of the first model's image input.
        batch_size: Samples of a run, where no model fixes it.
        limit: Only the first so many samples.
        memory_budget_bytes: What values may take that leave onnxruntime, where one graph is not enough.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        Sums in float32 inside onnxruntime, as accurate as one part in a million.

    Raises:
        ModelError: A model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit, or the models take different things.
        RunError: onnxruntime fails.
    """
    first, second = load_model(a), load_model(b)
    sides = _Layers(first), _Layers(second)
    keys = [layer_keys(side.layers, side.weights.content) for side in sides]
    alignment = align_layers(keys[0], keys[1], align)
    notes: list[str] = []
    feed = None
    if inputs is not None:
        feed = _Feed((first, second), inputs, preprocess, layout, batch_size, limit)
        if align in ("auto", "content") and alignment.only_a and alignment.only_b:
            left_over = max(len(alignment.only_a), len(alignment.only_b))
            if left_over > _MOST_LEFT_OVER:
                notes.append(f"layers left over, too many to pair them by their values: {left_over:,}")
            else:
                before = len(alignment.pairs)
                alignment = _by_values(sides, alignment, feed, memory_budget_bytes, threads)
                paired = len(alignment.pairs) - before
                notes += [f"layers paired by their values: {paired:,}"] if paired else []
    kept = _selected(sides[0], [select] if isinstance(select, str) else list(select))
    pairs = [
        (sides[0].layers[left], sides[1].layers[right])
        for left, right in alignment.pairs
        if kept is None or left in kept
    ]
    weights = _weight_changes(sides, alignment, kept)
    structure = [change for pair in pairs for change in _structure_changes(*pair)]
    only_a, only_b = _unaligned(sides, alignment, kept)
    run = _Run(sides, pairs, _tolerance(rtol, atol), memory_budget_bytes, threads)
    if feed is not None:
        run.measure(feed)
        notes += run.notes
    rows, outputs = run.rows()
    if run.record is not None:
        acquitted = {row.a.layer for row in rows if not row.is_guilty and row.entire is not None}
        weights = [
            replace(change, counts=False) if change.change in _HARMLESS and change.layer in acquitted else change
            for change in weights
        ]
    return Comparison(
        first.to_dict(),
        second.to_dict(),
        run.record,
        run.samples,
        tuple(rows),
        tuple(outputs),
        only_a,
        only_b,
        tuple(weights),
        tuple(structure),
        tuple(notes),
    )


def noise_floors(
    model: Any,
    inputs: Any,
    *,
    preprocess: str | None = None,
    layout: Literal["auto", "nchw", "nhwc"] = "auto",
    batch_size: int = 8,
    limit: int | None = None,
    memory_budget_bytes: int = 512 << 20,
    threads: int = 0,
) -> dict[str, float]:
    """Measure how far a model is from itself under other session options, on the first batch.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: As for `compare`.
        preprocess: As for `compare`.
        layout: As for `compare`.
        batch_size: Samples of the batch, where the model does not fix it.
        limit: Only the first so many samples.
        memory_budget_bytes: What values may take that leave onnxruntime.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        The floor of each layer, by the name of the value that leaves it, and of each output.

    Raises:
        ModelError: The model cannot be read.
        InputError: The inputs do not fit.
        RunError: onnxruntime fails.
    """
    side = _Layers(load_model(model))
    run = _Run((side, side), [(layer, layer) for layer in side.layers], None, memory_budget_bytes, threads)
    return run.floors(_Feed((side.model, side.model), inputs, preprocess, layout, batch_size, limit))


class _Layers:
    """The layers of one model, and what reads their weights."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.names = Names(model)
        self.layers = find_layers(self.names)
        self.weights = LayerWeights(self.names)
        self._axes: dict[Any, Any] = {}

    def tap(self, layer: Layer, value: str, name: str, at: At | None = None) -> Tap:
        """A tap at a layer's value."""
        return Tap(name, value, layer.path, layer.name, layer.node.op_type, at, self.axis(layer.path, value), (0,))

    def axis(self, path: Any, value: str) -> int | None:
        """The channel axis, as far as operators tell it."""
        if path not in self._axes:
            self._axes[path] = activation_axes(self.model.graphs[path])
        found: int | None = self._axes[path].get(value)
        return found


def _by_values(
    sides: tuple[_Layers, _Layers], alignment: Alignment, feed: _Feed, memory_budget_bytes: int, threads: int
) -> Alignment:
    """Pair layers left over that give nearly the same numbers on the first batch.

    Where only one of them has an activation function, what is before it is compared, as it will be later.
    """
    taps: tuple[dict[Tap, int], dict[Tap, int]] = ({}, {})
    for side, only, found in zip(sides, (alignment.only_a, alignment.only_b), taps, strict=True):
        for index in only:
            layer = side.layers[index]
            if not layer.path:
                found[side.tap(layer, layer.value, f"{index} post", "post")] = index
                found[side.tap(layer, layer.inner, f"{index} pre", "pre")] = index
    for samples in (None, 1):  # a whole batch, or one sample where that would take too much memory
        fed = feed.first(samples)
        held = [
            held_by(side.model, list(found), feeds, threads)
            for side, found, feeds in zip(sides, taps, fed, strict=True)
        ]
        if sum(each.size_bytes for each in held) <= memory_budget_bytes:
            break
    pairs = []
    for x, y in near_values(held[0], held[1], memory_budget_bytes):
        left, right = taps[0][x], taps[1][y]
        alike = sides[0].layers[left].activated == sides[1].layers[right].activated
        if (x.at == "post") == alike:
            pairs.append((left, right))
    return pair_by_values(alignment, pairs)


def _selected(side: _Layers, selectors: list[str]) -> set[int] | None:
    """Indices of the chosen layers, None for all of them."""
    if not selectors:
        return None
    candidates = [(layer.name, layer.value, layer.node.name) for layer in side.layers]
    facets = [{"op": layer.node.op_type, "node": layer.node.name} for layer in side.layers]
    return set(select_names(candidates, selectors, where=side.model.name, facets=facets))


def _tolerance(rtol: float | None, atol: float | None) -> Tolerance | None:
    if rtol is None and atol is None:
        return None
    tolerance = Tolerance(rtol or 0.0, atol or 0.0)
    if not all(np.isfinite((tolerance.rtol, tolerance.atol))) or min(tolerance.rtol, tolerance.atol) < 0:
        raise InputError(f"not a tolerance: rtol {rtol}, atol {atol}", hint="give finite numbers from 0 up")
    return tolerance


def _weight_changes(sides: tuple[_Layers, _Layers], alignment: Alignment, kept: set[int] | None) -> list[WeightChange]:
    changes: list[WeightChange] = []
    for left, right in alignment.pairs:
        if kept is not None and left not in kept:
            continue
        x, y = sides[0].layers[left], sides[1].layers[right]
        read = [sides[0].layers[index].shape[:1] for index in x.before]
        before = read[0][0] if len(read) == 1 and read[0] else None
        changes += compare_weights(x, y, sides[0].weights.read(x), sides[1].weights.read(y), before)
    if kept is None:
        for side, only, removed in ((sides[0], alignment.only_a, True), (sides[1], alignment.only_b, False)):
            for index in only:
                layer = side.layers[index]
                changes += one_sided(layer, side.weights.read(layer), removed=removed)
    return changes


def _unaligned(
    sides: tuple[_Layers, _Layers], alignment: Alignment, kept: set[int] | None
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    def shown(side: _Layers, only: Sequence[int]) -> tuple[tuple[str, str], ...]:
        return tuple((side.layers[index].name, side.layers[index].node.op_type) for index in only)

    only_a = [index for index in alignment.only_a if kept is None or index in kept]
    return shown(sides[0], only_a), shown(sides[1], alignment.only_b if kept is None else ())


def _structure_changes(x: Layer, y: Layer) -> list[StructureChange]:
    """Attributes of two aligned layers that are not the same."""
    changes = []
    for left, right in ((x.node, y.node), (x.norm, y.norm)):
        if left is None or right is None or left.op_type != right.op_type:
            continue
        before, after = attributes_of(left), attributes_of(right)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                message = f"{left.op_type}: {name} {_text(before.get(name))} became {_text(after.get(name))}"
                changes.append(StructureChange(x.name, message))
    if x.activated != y.activated and not (x.quantized or y.quantized):
        where = ("first", "second") if x.activated else ("second", "first")
        message = f"an activation function follows in the {where[0]} model, none in the {where[1]}"
        changes.append(StructureChange(x.name, message))
    return changes


def _text(value: Any) -> str:
    if value is None:
        return "by default"
    return value.decode(errors="replace") if isinstance(value, bytes) else f"{value}"


class _Feed:
    """What both models are fed.

    Attributes:
        inputs: What each input of the second model is made of.
        record: The `input` record.
        notes: Remarks for people.
    """

    def __init__(
        self,
        models: tuple[Model, Model],
        inputs: Any,
        preprocess: str | None,
        layout: Literal["auto", "nchw", "nhwc"],
        batch_size: int,
        limit: int | None,
    ) -> None:
        a, b = models
        self.inputs, self.notes = match_inputs(a.inputs, b.inputs)
        recorded = [model.provenance.preprocess if model.provenance else None for model in models]
        if None not in recorded and recorded[0] != recorded[1]:
            self.notes.append(f"the models record two presets, {recorded[0]} and {recorded[1]}: the first is used")
        self._dataset = open_dataset(
            inputs,
            tuple(with_batch_of(x, y) for x, y in zip(a.inputs, b.inputs, strict=True)),
            preset=preprocess,
            recorded_preset=recorded[0] or recorded[1],
            layout=layout,
            bounds=index_bounds(a),
            limit=limit,
        )
        self._batch_size = batch_size
        self.notes += self._dataset.notes
        self.record = self._dataset.record

    def batches(self, seen: Fed, samples: int | None = None) -> Generator[Batch]:
        """Yield all batches, as the first model takes them; `samples` is another size where no model fixes it."""
        size = samples or self._batch_size
        return read_batches(self._dataset, 0, self._dataset.count, seen, batch_size=size)

    def first(self, samples: int | None = None) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return what both models are fed in the first batch."""
        with contextlib.closing(self.batches(Fed(), samples)) as batches:
            feeds = next(batches).feeds
        return feeds, self.of_second(feeds)

    def of_second(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What the second model is fed where the first is fed `feeds`."""
        return {each.b: each.apply(feeds[each.a]) for each in self.inputs}


class _Run:
    """Feeds both models and collects what is measured."""

    def __init__(
        self,
        sides: tuple[_Layers, _Layers],
        pairs: Sequence[tuple[Layer, Layer]],
        tolerance: Tolerance | None,
        memory_budget_bytes: int,
        threads: int,
    ) -> None:
        self._sides = sides
        self._models = sides[0].model, sides[1].model
        self._pairs = pairs
        self._tolerance = tolerance
        self._budget = memory_budget_bytes
        self._threads = threads
        self._found: dict[int, tuple[Counterpart, Measured, Discrepancy]] = {}
        self._reasons: dict[int, tuple[str | None, str | None]] = {}
        self._outputs = pair_outputs(*self._models)
        self.record: dict[str, Any] | None = None
        self.samples = 0
        self.notes: list[str] = []

    def measure(self, feed: _Feed) -> None:
        """Run both models over the inputs."""
        self.notes += feed.notes
        self.record = feed.record
        comparer: Comparer | None = None
        noise: list[Discrepancy] = []
        totals: list[Measured] = []
        places: list[int] = []
        counterparts: list[Counterpart] = []
        seen = Fed()
        with contextlib.closing(feed.batches(seen)) as batches:
            for batch in batches:
                self.samples += len(batch.positions)
                if comparer is None:
                    comparer, counterparts, places = self._prepared(feed, batch.feeds)
                    noise = comparer.noise(batch.feeds)
                found = comparer.run(batch.feeds)
                totals = [x + y for x, y in zip(totals, found, strict=True)] if totals else found
        self.notes += [f"{count} samples: {remark}" for remark, count in seen.remarks.items()]
        if comparer is not None and comparer.fallback is not None:
            self.notes.append(f"compared in two sessions, not in one graph: {comparer.fallback}")
        for place, each, measured, floor in zip(places, counterparts, totals, noise, strict=True):
            self._found[place] = each, measured, floor

    def floors(self, feed: _Feed) -> dict[str, float]:
        """Measure the first model's noise alone, on the first batch: the floor by the value's name."""
        feeds, _ = feed.first()
        comparer, counterparts, places = self._prepared(feed, feeds)
        values = [layer.value for layer, _ in self._pairs] + [name for name, _ in self._outputs]
        noise = comparer.noise(feeds)
        types = self._types(dict(zip(places, counterparts, strict=True)))
        return {values[place]: floor_of(found, types[place]) for place, found in zip(places, noise, strict=True)}

    def rows(self) -> tuple[list[LayerDifference], list[LayerDifference]]:
        """One for every pair of layers, and one for every output."""
        types = self._types({place: each for place, (each, _, _) in self._found.items()})
        layers = [
            self._row(place, Side(x.name, x.value), Side(y.name, y.value), x.node.op_type, types[place])
            for place, (x, y) in enumerate(self._pairs)
        ]
        start = len(self._pairs)
        outputs = [
            self._row(start + place, Side(x, x), Side(y, y), "Output", types[start + place])
            for place, (x, y) in enumerate(self._outputs)
        ]
        return layers, outputs

    def _types(self, counterparts: Mapping[int, Counterpart]) -> list[frozenset[str]]:
        """For every row the element types of its values, and of those of the layers that reach it."""
        held = [
            frozenset((counterparts[place].dtype_a, counterparts[place].dtype_b))
            if place in counterparts
            else frozenset()
            for place in range(len(self._pairs) + len(self._outputs))
        ]
        reaching: dict[Layer, frozenset[str]] = {}
        for place, pair in enumerate(self._pairs):
            before = [
                side.layers[index] for side, layer in zip(self._sides, pair, strict=True) for index in layer.before
            ]
            held[place] = held[place].union(*(reaching.get(layer, ()) for layer in before))
            reaching |= dict.fromkeys(pair, held[place])
        start = len(self._pairs)
        everything = frozenset().union(*held[:start])
        return [*held[:start], *(types | everything for types in held[start:])]

    def _row(self, place: int, a: Side, b: Side, op_type: str, types: frozenset[str]) -> LayerDifference:
        if place not in self._found:
            left, right = self._reasons.get(place, (None, None))
            return LayerDifference(a, b, op_type, None, None, None, 0.0, left or right, left != right)
        each, measured, noise = self._found[place]
        name_a, name_b = (each.a if op_type == "Output" else a.name), (each.b if op_type == "Output" else b.name)
        floor = floor_of(noise, types)
        return LayerDifference(
            Side(a.layer, name_a),
            Side(b.layer, name_b),
            op_type,
            measured.entire,
            measured.own,
            noise,
            floor,
            None,
            False,
        )

    def _prepared(self, feed: _Feed, feeds: dict[str, Array]) -> tuple[Comparer, list[Counterpart], list[int]]:
        """What compares the batches, made from the first one."""
        tapped, counterparts, places = self._counterparts(feeds, feed.of_second(feeds))
        (a, b), (tapped_a, tapped_b) = self._models, tapped
        comparer = Comparer(
            *(a, tapped_a, b, tapped_b, counterparts, feed.inputs),
            tolerance=self._tolerance,
            memory_budget_bytes=self._budget,
            threads=self._threads,
        )
        return comparer, counterparts, places

    def _counterparts(
        self, feeds_a: dict[str, Array], feeds_b: dict[str, Array]
    ) -> tuple[tuple[TappedModel, TappedModel], list[Counterpart], list[int]]:
        """Match the values of the paired layers and outputs, in the first run."""
        taps: tuple[list[Tap], list[Tap]] = ([], [])
        for place, layers in enumerate(self._pairs):
            activated = layers[0].activated == layers[1].activated
            for side, layer in enumerate(layers):
                value = layer.value if activated else layer.inner
                taps[side].append(self._sides[side].tap(layer, value, f"{place}"))
        for place, names in enumerate(self._outputs, len(self._pairs)):
            for side, name in enumerate(names):
                axis = self._sides[side].axis((), name)
                taps[side].append(Tap(f"{place}", name, (), name, "Output", None, axis, (0,)))
        first = reach(self._models[0], taps[0], feeds_a, self._threads)
        same = self._sides[0] is self._sides[1]
        second = first if same else reach(self._models[1], taps[1], feeds_b, self._threads)
        counterparts, places = [], []
        for place, (left, right) in enumerate(zip(*taps, strict=True)):
            key = f"{place}"
            reasons = first.reasons.get(key), second.reasons.get(key)
            if reasons != (None, None):
                self._reasons[place] = reasons
                continue
            both = first.shapes[key], second.shapes[key]
            each = match_values(
                *(first.tapped.outputs[key], second.tapped.outputs[key]),
                both,
                (first.dtypes[key], second.dtypes[key]),
                (default_axis(len(both[0]), left.channel_axis), default_axis(len(both[1]), right.channel_axis)),
                replaced=place < len(self._pairs) and not right.path and not left.path,
            )
            if each is None:
                self._reasons[place] = f"shape {list(both[0])} against {list(both[1])}", None
                continue
            counterparts.append(each)
            places.append(place)
        return (first.tapped, second.tapped), counterparts, places
