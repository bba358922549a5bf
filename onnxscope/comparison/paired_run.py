"""Feed two models the same, and measure how far apart their paired layers are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import samples_text
from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.floors import element_types, floor_of, own_noise, rounds_to_codes
from onnxscope.comparison.layer_difference import LayerDifference, Side, not_measured
from onnxscope.comparison.measure import Comparer, Composite, Measured
from onnxscope.comparison.unstable_sides import WhenFed, noise_when_fed, random_values
from onnxscope.errors import RunError
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.encodings import decoded_codes
from onnxscope.model.layers import Layer
from onnxscope.numerics.distances import Discrepancy, Tolerance
from onnxscope.numerics.score_agreement import are_scores
from onnxscope.pairing.match_values import Counterpart, match_values, pair_outputs
from onnxscope.pairing.model_layers import ModelLayers, values_alike
from onnxscope.runtime.half_range import Unfit
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.unstable_nodes import unstable_values
from onnxscope.selection.selectors import Tap

__all__ = ["PairedRun"]

Array = NDArray[Any]


class PairedRun:
    """Feeds both models and collects what is measured.

    Attributes:
        record: The `input` record, None before anything was run.
        samples: How many samples were run.
        notes: Remarks for people.
        unfit: Of each model, values of half precision that held numbers beyond their type.
        side_by_side: For every batch that was asked for, by the place of the pair, what both models hold there, the
            second one's with the axes of the first.
    """

    def __init__(
        self,
        sides: tuple[ModelLayers, ModelLayers],
        pairs: Sequence[tuple[Layer, Layer]],
        shown: Sequence[int],
        options: RunOptions,
        *,
        others: Sequence[tuple[Tap, Tap | None]] = (),
        tolerance: Tolerance | None,
    ) -> None:
        """Prepare.

        Args:
            sides: Both models.
            pairs: Layers of the first and of the second model that belong together, in execution order.
            shown: Which of the pairs have rows. The others are observed all the same: what a layer adds of its own is
                seen where everything before it is fed with the first model's values.
            options: Threads, and what values may take that leave onnxruntime.
            others: Values that belong to no layer, and their counterparts where there are any.
            tolerance: Count the numbers beyond it.
        """
        self._sides = sides
        self._pairs = pairs
        self._shown = shown
        self._others = [(a, b) for a, b in others if b is not None]
        self._alone = [a for a, b in others if b is None]
        self._options = options
        self._tolerance = tolerance
        self._measured: dict[int, tuple[Counterpart, Measured, Discrepancy]] = {}
        self._composites: dict[int, Composite] = {}
        self._reasons: dict[int, tuple[str | None, str | None]] = {}
        self._outputs = pair_outputs(sides[0].model, sides[1].model)
        self._random = random_values(sides[0].model, sides[1].model)
        self._own_noise: dict[str, Discrepancy] = {}
        self._causes: Mapping[str, str] = {}
        self._taps = self._paired_taps()
        self._row_count = len(self._taps[0]) - len(self._random)
        self._in_codes = rounds_to_codes(sides[0].model, sides[1].model)
        self.record: dict[str, Any] | None = None
        self.samples = 0
        self.notes: list[str] = []
        self.unfit: tuple[tuple[Unfit, ...], tuple[Unfit, ...]] = (), ()
        self.side_by_side: list[dict[int, tuple[Array, Array]]] = []

    @property
    def taps(self) -> Sequence[Tap]:
        """Of the first model: what its pilot has to observe, first the values of the layers that have rows."""
        taps, shown = self._taps[0], set(self._shown)
        rest = [tap for place, tap in enumerate(taps) if place not in shown]
        return [*(taps[place] for place in self._shown), *rest]

    def measure(self, feed: CommonFeed, first: Pilot, shown: Sequence[Mapping[str, Array]] = ()) -> None:
        """Run both models over the inputs.

        Args:
            feed: What they are fed.
            first: The first model's pilot, which observes `taps` and may observe more; its first run is made.
            shown: Batches of the first model for `side_by_side`. The first of them is what the pilot was fed.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
        self.notes += feed.notes
        self.record = feed.record
        whole = feed.first()
        second = Pilot(self._sides[1].model, self._taps[1], self._options)
        try:
            second.run(feed.of_second(first.feeds))
        except RunError as error:  # it may run with the number of samples alone that it was exported with
            if first.feeds is whole:
                raise
            first.run(whole)
            second.run(feed.of_second(whole))
            self.notes += [f"feature maps are not shown side by side: {error}"] if shown else []
            shown = ()
        counterparts = self._counterparts(first, second)
        shown_places = {*self._shown, *range(len(self._pairs), self._row_count)}
        wanted = {place: pair for place, pair in counterparts.items() if place in shown_places}
        axes = {pair.a: pair.channel_axis for pair in wanted.values()}
        composites = [composite.pair for composite in self._composites.values()]
        axes |= {pair.a: None for pair in composites}
        noise = own_noise(first, axes)
        values = [*wanted.values(), *composites]
        shaken = [pair for pair in values if floor_of(noise[pair.a], ["float32"]).unstable is not None]
        behind_random = [pair for pair in composites if pair in shaken]
        when_fed = WhenFed(second, counterparts.values(), behind_random) if behind_random else None
        self._own_noise = noise_when_fed(first, counterparts.values(), shaken) if shaken else {}
        self._causes = unstable_values(first.model)
        of_layers = {row: counterparts[place] for row, place in enumerate(self._shown) if place in counterparts}
        self.side_by_side = [
            _side_by_side(first, second, of_layers, feeds, feed.of_second(feeds) if number else None)
            for number, feeds in enumerate(shown)
        ]
        comparer = Comparer(
            first,
            second,
            list(wanted.values()),
            feed.inputs,
            fed=[pair for place, pair in counterparts.items() if place not in wanted],
            tolerance=self._tolerance,
            samples=_times(whole, first.feeds),
            memory_budget_bytes=self._options.memory_budget_bytes,
            threads=self._options.threads,
        )
        del whole
        totals: list[Measured] = []
        with contextlib.closing(feed.batches()) as batches:
            for batch in batches:
                self.samples += len(batch.positions)
                more = comparer.run(batch.feeds)
                totals = [x + y for x, y in zip(totals, more, strict=True)] if totals else more
                self._compare_composites(first, second, batch.feeds, feed.of_second(batch.feeds), when_fed)
        self.unfit = first.unfit, second.unfit
        self.notes += [f"{samples_text(count)}: {remark}" for remark, count in feed.seen.remarks.items()]
        if comparer.fallback is not None:
            self.notes.append(f"compared in two sessions, not in one graph: {comparer.fallback}")
        for (place, pair), measured in zip(wanted.items(), totals, strict=True):
            self._measured[place] = pair, measured, noise[pair.a]
        for composite in self._composites.values():
            composite.noise = noise[composite.pair.a]

    def rows(self) -> tuple[list[LayerDifference], list[LayerDifference]]:
        """One for every pair of layers that has one and every other value, and one for every output."""
        types = element_types(
            [self._own_types(place) for place in range(self._row_count)],
            [
                [(layer, side.before(layer)) for side, layer in zip(self._sides, pair, strict=True)]
                for pair in self._pairs
            ],
        )
        pairs = [(place, *self._pairs[place]) for place in self._shown]
        layers = [
            self._row(place, *self._layer_sides(place, x, y), x.node.op_type, types[place]) for place, x, y in pairs
        ]
        start = len(self._pairs)
        first = start + len(self._outputs)
        layers += [
            self._row(place, Side(x.layer, x.value), Side(y.layer, y.value), x.op_type, types[place])
            for place, (x, y) in enumerate(self._others, first)
        ]
        missing = None if self.record is None else "the second model has no value that belongs to it"
        layers += [
            not_measured(Side(tap.layer, tap.value), Side("", ""), tap.op_type, missing, incomparable=False)
            for tap in self._alone
        ]
        outputs = [
            self._row(start + place, Side(x, x), Side(y, y), "Output", types[start + place])
            for place, (x, y) in enumerate(self._outputs)
        ]
        reason = "only one of the models has this output"
        outputs += [
            not_measured(Side(name, name), Side(name, name), "Output", reason, incomparable=True)
            for place, side in enumerate(self._sides)
            for name in side.model.main.outputs
            if name not in {pair[place] for pair in self._outputs}
        ]
        return layers, outputs

    def _layer_sides(self, place: int, x: Layer, y: Layer) -> tuple[Side, Side]:
        values = [taps[place].value for taps in self._taps]
        fused = [side.fused(layer, value) for side, layer, value in zip(self._sides, (x, y), values, strict=True)]
        before = [None if value == layer.value else value for layer, value in zip((x, y), values, strict=True)]
        return Side(x.name, x.value, fused[0], before[0]), Side(y.name, y.value, fused[1], before[1])

    def _compare_composites(
        self,
        first: Pilot,
        second: Pilot,
        feeds: Mapping[str, Array],
        feeds_of_second: Mapping[str, Array],
        when_fed: WhenFed | None,
    ) -> None:
        """Compare the outputs that are no tensors of numbers, element by element."""
        pairs = [composite.pair for composite in self._composites.values()]
        if not pairs:
            return
        read = when_fed.read if when_fed is not None else ()
        left = first.values(dict.fromkeys([*(pair.a for pair in pairs), *read]), feeds)
        right = second.values([pair.b for pair in pairs], feeds_of_second)
        own = when_fed.run(feeds_of_second, left) if when_fed is not None else {}
        for composite in self._composites.values():
            composite.add(left[composite.pair.a], right[composite.pair.b], self._tolerance)
            if composite.pair.b in own:
                composite.add_own(left[composite.pair.a], own[composite.pair.b], self._tolerance)

    def _own_types(self, place: int) -> frozenset[str]:
        if place not in self._measured:
            return frozenset()
        pair = self._measured[place][0]
        return frozenset((pair.dtype_a, pair.dtype_b))

    def _row(self, place: int, a: Side, b: Side, op_type: str, types: frozenset[str]) -> LayerDifference:
        if place in self._composites:
            return self._composite_row(self._composites[place], a, b, op_type)
        if place not in self._measured:
            left, right = self._reasons.get(place, (None, None))
            return not_measured(a, b, op_type, left or right, incomparable=left != right)
        pair, measured, noise = self._measured[place]
        is_output = op_type == "Output"
        is_reshaped = is_output and pair.is_merged  # who reads the output has to know its axes
        floor = floor_of(noise, types, in_codes=self._in_codes)
        return LayerDifference(
            a=replace(a, name=pair.a) if is_output else a,
            b=replace(b, name=pair.b) if is_output else b,
            op_type=op_type,
            entire=measured.entire,
            own=measured.own,
            noise=noise,
            floor=floor.relative,
            unstable=self._explained(floor.unstable_for(measured.entire), self._taps[0][place].value),
            reason=_shapes_text(pair.shape_a, pair.shape_b) if is_reshaped else None,
            incomparable=is_reshaped,
            own_floor=None if floor.unstable is None else self._own_floor(pair.a, types),
            scores=measured.scores,
        )

    def _composite_row(self, composite: Composite, a: Side, b: Side, op_type: str) -> LayerDifference:
        """The row of an output that is no tensor of numbers."""
        assert composite.noise is not None
        floor = floor_of(composite.noise, ["float32"])
        unstable = self._explained(floor.unstable_for(composite.total), a.name)
        return LayerDifference(
            a=a,
            b=b,
            op_type=op_type,
            entire=composite.total,
            own=composite.own,
            noise=composite.noise,
            floor=floor.relative,
            unstable=unstable,
            reason=composite.reason,
            incomparable=composite.reason is not None and floor.unstable is None,
            own_floor=None if unstable is None else self._own_floor(composite.pair.a, frozenset({"float32"})),
        )

    def _own_floor(self, value: str, types: frozenset[str]) -> float | None:
        """What a value's own error is judged by; None where that does not reproduce, or is not known."""
        if value not in self._own_noise:
            return None
        floor = floor_of(self._own_noise[value], types, in_codes=self._in_codes)
        return floor.relative if floor.unstable is None else None

    def _explained(self, unstable: str | None, value: str) -> str | None:
        """Why a value does not reproduce, with the node that it depends on."""
        known = unstable is not None and value in self._causes
        return f"{unstable}; it {self._causes[value]}" if known else unstable

    def _paired_taps(self) -> tuple[list[Tap], list[Tap]]:
        """Taps at the paired layers and outputs of both models, each named after its place."""
        taps: tuple[list[Tap], list[Tap]] = ([], [])
        for place, layers in enumerate(self._pairs):
            for side, value in enumerate(values_alike(self._sides, layers)):
                taps[side].append(self._sides[side].tap(layers[side], value, f"{place}"))
        for place, names in enumerate(self._outputs, len(self._pairs)):
            for side, name in enumerate(names):
                taps[side].append(self._sides[side].output_tap(name, f"{place}"))
        for values in self._others:
            for side, tap in enumerate(values):
                taps[side].append(replace(tap, name=f"{len(taps[side])}"))
        for names in self._random:
            for side, name in enumerate(names):
                taps[side].append(self._sides[side].output_tap(name, f"{len(taps[side])}"))
        return taps

    def _counterparts(self, first: Pilot, second: Pilot) -> dict[int, Counterpart]:
        """Match the values of the paired layers and outputs, as they are in the pilot run, by place."""
        counterparts = {}
        for place, (left, right) in enumerate(zip(*self._taps, strict=True)):
            reasons = first.reasons.get(left), second.reasons.get(right)
            is_output = len(self._pairs) <= place < len(self._pairs) + len(self._outputs)
            if is_output and (left in first.composites or right in second.composites):
                self._composites[place] = Composite(left.value, right.value)
                continue
            if left in first.kept_back or right in second.kept_back:  # it is computed, which is no difference
                reasons = (reasons[0] or reasons[1],) * 2
            if reasons != (None, None):
                self._reasons[place] = reasons
                continue
            shapes = first.shapes[left], second.shapes[right]
            pair = match_values(
                first.outputs[left],
                second.outputs[right],
                shapes,
                (first.kinds[left], second.kinds[right]),
                (default_axis(len(shapes[0]), left.channel_axis), default_axis(len(shapes[1]), right.channel_axis)),
                replaced=not is_output and not right.path and not left.path,
            )
            if pair is not None:
                graph = self._sides[1].model.graphs[right.path]
                shared = decoded_codes(graph, right.value) if pair.replaced else None
                pair = replace(pair, codes=shared if right.scale is None else (right.value, *right.scale))
            if pair is not None and is_output:
                is_scored = all(are_scores(shapes[side], (pair.dtype_a, pair.dtype_b)[side]) for side in (0, 1))
                pair = replace(pair, scores=is_scored)
            if pair is None:
                self._reasons[place] = _shapes_text(*shapes), None
            else:
                counterparts[place] = pair
        return counterparts


def _shapes_text(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    return f"shape {list(a)} against {list(b)}"


def _side_by_side(
    first: Pilot,
    second: Pilot,
    pairs: Mapping[int, Counterpart],
    feeds: Mapping[str, Array],
    feeds_of_second: Mapping[str, Array] | None,
) -> dict[int, tuple[Array, Array]]:
    """What both models hold; where `feeds_of_second` is None, in the second one's first run."""
    left = first.values((pair.a for pair in pairs.values()), feeds)
    right = second.values((pair.b for pair in pairs.values()), feeds_of_second)
    return {place: (left[pair.a], pair.to_a(np.asarray(right[pair.b]))) for place, pair in pairs.items()}


def _times(whole: Mapping[str, Array], few: Mapping[str, Array]) -> int:
    """How many times as much is in a whole batch, rounded up."""
    return max((-(-array.size // max(few[name].size, 1)) for name, array in whole.items()), default=1)
