"""Feed two models the same, and measure how far apart their paired layers are."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from onnxscope.comparison.match_values import Counterpart, match_inputs, match_values, pair_outputs, with_batch_of
from onnxscope.comparison.measure import Comparer, Measured
from onnxscope.comparison.result import INTEGERS, LayerDifference, Side, floor_of
from onnxscope.comparison.weight_changes import LayerWeights
from onnxscope.inputs.batches import Batch, Fed, read_batches
from onnxscope.inputs.datasets import open_dataset
from onnxscope.model.channel_axes import activation_axes, default_axis
from onnxscope.model.index_inputs import index_bounds
from onnxscope.model.layer_names import Names
from onnxscope.model.layers import Layer, find_layers
from onnxscope.model.loading import Model
from onnxscope.model.selectors import At, Tap
from onnxscope.numerics.distances import Discrepancy, Tolerance
from onnxscope.runtime.tap_outputs import TappedModel
from onnxscope.runtime.tapped_runs import reach

__all__ = ["CommonFeed", "ModelLayers", "PairedRun"]

Array = NDArray[Any]


class ModelLayers:
    """The layers of one model, and what reads their weights.

    Attributes:
        model: Whose layers they are.
        names: What its source framework called them.
        layers: In execution order.
        weights: Reads the weights of a layer.
    """

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


class CommonFeed:
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
        """Match the inputs of both models, and open the dataset.

        Args:
            models: The first takes the dataset as it is, the second what is made of that.
            inputs: As for `diff`.
            preprocess: As for `diff`.
            layout: Of the first model's image input.
            batch_size: Samples of a batch, where no model fixes it.
            limit: Only the first so many samples.

        Raises:
            InputError: The inputs do not fit, or the models take different things.
        """
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


class PairedRun:
    """Feeds both models and collects what is measured.

    Attributes:
        record: The `input` record, None before anything was run.
        samples: How many samples were run.
        notes: Remarks for people.
    """

    def __init__(
        self,
        sides: tuple[ModelLayers, ModelLayers],
        pairs: Sequence[tuple[Layer, Layer]],
        tolerance: Tolerance | None,
        memory_budget_bytes: int,
        threads: int,
    ) -> None:
        """Prepare.

        Args:
            sides: Both models; the same one twice for the noise alone.
            pairs: Layers of the first and of the second model that belong together, in execution order.
            tolerance: Count the numbers beyond it.
            memory_budget_bytes: What values may take that leave onnxruntime.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        """
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

    def measure(self, feed: CommonFeed) -> None:
        """Run both models over the inputs.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
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

    def floors(self, feed: CommonFeed) -> dict[str, float]:
        """Measure the first model's noise alone, on the first batch: the floor by the value's name.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
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
        """For every row the element types of its values, and of those of the layers that reach it.

        Of integers only their own: rounding before them moves them by one or not at all, and the noise shows where.
        """
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
        types = [*held[:start], *(each | everything for each in held[start:])]
        for place, each in counterparts.items():
            own = frozenset((each.dtype_a, each.dtype_b))
            if own <= INTEGERS:
                types[place] = own
        return types

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

    def _prepared(self, feed: CommonFeed, feeds: dict[str, Array]) -> tuple[Comparer, list[Counterpart], list[int]]:
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
