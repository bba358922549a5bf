"""Feed two models the same, and measure how far apart their paired layers are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.floors import element_types
from onnxscope.comparison.match_values import Counterpart, match_values, pair_outputs
from onnxscope.comparison.measure import Comparer, Measured
from onnxscope.comparison.model_layers import ModelLayers
from onnxscope.comparison.pilot import Pilot, run_pilots
from onnxscope.comparison.result import LayerDifference, Side, floor_of, not_measured
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.layers import Layer
from onnxscope.model.selectors import Tap
from onnxscope.numerics.distances import Discrepancy, Tolerance

__all__ = ["PairedRun"]

Array = NDArray[Any]


class PairedRun:
    """Feeds both models and collects what is measured.

    Attributes:
        record: The `input` record, None before anything was run.
        samples: How many samples were run.
        notes: Remarks for people.
        side_by_side: For every batch that was asked for, by the name of the first model's value, what both models hold
            there, the second one's with the axes of the first.
    """

    def __init__(
        self,
        sides: tuple[ModelLayers, ModelLayers],
        pairs: Sequence[tuple[Layer, Layer]],
        *,
        tolerance: Tolerance | None,
        memory_budget_bytes: int,
        threads: int,
    ) -> None:
        """Prepare.

        Args:
            sides: Both models.
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
        self._measured: dict[int, tuple[Counterpart, Measured, Discrepancy]] = {}
        self._reasons: dict[int, tuple[str | None, str | None]] = {}
        self._outputs = pair_outputs(*self._models)
        self.record: dict[str, Any] | None = None
        self.samples = 0
        self.notes: list[str] = []
        self.side_by_side: list[dict[str, tuple[Array, Array]]] = []

    def measure(self, feed: CommonFeed, shown: Sequence[Mapping[str, Array]] = ()) -> None:
        """Run both models over the inputs.

        Args:
            feed: What they are fed.
            shown: Batches of the first model for `side_by_side`. The first stands for the pilot run's.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
        self.notes += feed.notes
        self.record = feed.record
        whole = feed.first()
        pilots = self._pilots()
        fed = run_pilots(pilots, feed, shown[0] if shown else None)
        counterparts = self._counterparts(pilots)
        noise = pilots[0].noise({pair.a: pair.channel_axis for pair in counterparts.values()})
        self.side_by_side = [_side_by_side(pilots, counterparts.values(), feed, feeds) for feeds in shown]
        comparer = Comparer(
            pilots[0],
            pilots[1],
            list(counterparts.values()),
            feed.inputs,
            tolerance=self._tolerance,
            samples=_times(whole, fed),
            memory_budget_bytes=self._budget,
            threads=self._threads,
        )
        del whole, fed
        totals: list[Measured] = []
        with contextlib.closing(feed.batches()) as batches:
            for batch in batches:
                self.samples += len(batch.positions)
                more = comparer.run(batch.feeds)
                totals = [x + y for x, y in zip(totals, more, strict=True)] if totals else more
        self.notes += [f"{count} samples: {remark}" for remark, count in feed.seen.remarks.items()]
        if comparer.fallback is not None:
            self.notes.append(f"compared in two sessions, not in one graph: {comparer.fallback}")
        for (place, pair), measured in zip(counterparts.items(), totals, strict=True):
            self._measured[place] = pair, measured, noise[pair.a]

    def rows(self) -> tuple[list[LayerDifference], list[LayerDifference]]:
        """One for every pair of layers, and one for every output."""
        types = element_types(
            [self._own_types(place) for place in range(len(self._pairs) + len(self._outputs))],
            [
                [(layer, side.before(layer)) for side, layer in zip(self._sides, pair, strict=True)]
                for pair in self._pairs
            ],
        )
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

    def _own_types(self, place: int) -> frozenset[str]:
        if place not in self._measured:
            return frozenset()
        pair = self._measured[place][0]
        return frozenset((pair.dtype_a, pair.dtype_b))

    def _row(self, place: int, a: Side, b: Side, op_type: str, types: frozenset[str]) -> LayerDifference:
        if place not in self._measured:
            left, right = self._reasons.get(place, (None, None))
            return not_measured(a, b, op_type, left or right, incomparable=left != right)
        pair, measured, noise = self._measured[place]
        is_output = op_type == "Output"
        return LayerDifference(
            a=Side(a.layer, pair.a if is_output else a.name),
            b=Side(b.layer, pair.b if is_output else b.name),
            op_type=op_type,
            entire=measured.entire,
            own=measured.own,
            noise=noise,
            floor=floor_of(noise, types),
            reason=None,
            incomparable=False,
        )

    def _pilots(self) -> tuple[Pilot, Pilot]:
        """Both models with their paired layers and outputs as taps, each named after its place."""
        taps: tuple[list[Tap], list[Tap]] = ([], [])
        for place, layers in enumerate(self._pairs):
            activated = layers[0].activated == layers[1].activated
            for side, layer in enumerate(layers):
                value = layer.value if activated else layer.inner
                taps[side].append(self._sides[side].tap(layer, value, f"{place}"))
        for place, names in enumerate(self._outputs, len(self._pairs)):
            for side, name in enumerate(names):
                taps[side].append(self._sides[side].output_tap(name, f"{place}"))
        options = {"memory_budget_bytes": self._budget, "threads": self._threads}
        return Pilot(self._models[0], taps[0], **options), Pilot(self._models[1], taps[1], **options)

    def _counterparts(self, pilots: tuple[Pilot, Pilot]) -> dict[int, Counterpart]:
        """Match the values of the paired layers and outputs, as they are in the pilot run, by place."""
        first, second = pilots
        counterparts = {}
        for place, (left, right) in enumerate(zip(first.taps, second.taps, strict=True)):
            key = f"{place}"
            reasons = first.reasons.get(key), second.reasons.get(key)
            if reasons != (None, None):
                self._reasons[place] = reasons
                continue
            shapes = first.shapes[key], second.shapes[key]
            pair = match_values(
                first.tapped.outputs[key],
                second.tapped.outputs[key],
                shapes,
                (first.dtypes[key], second.dtypes[key]),
                (default_axis(len(shapes[0]), left.channel_axis), default_axis(len(shapes[1]), right.channel_axis)),
                replaced=place < len(self._pairs) and not right.path and not left.path,
            )
            if pair is None:
                self._reasons[place] = f"shape {list(shapes[0])} against {list(shapes[1])}", None
            else:
                counterparts[place] = pair
        return counterparts


def _side_by_side(
    pilots: tuple[Pilot, Pilot], pairs: Iterable[Counterpart], feed: CommonFeed, feeds: Mapping[str, Array]
) -> dict[str, tuple[Array, Array]]:
    wanted = [pair for pair in pairs if pair.replaced]
    first = pilots[0].values([pair.a for pair in wanted], feeds)
    second = pilots[1].values([pair.b for pair in wanted], feed.of_second(feeds))
    return {pair.a: (first[pair.a], pair.to_a(second[pair.b])) for pair in wanted}


def _times(whole: Mapping[str, Array], few: Mapping[str, Array]) -> int:
    """How many times as much is in a whole batch, rounded up."""
    return max((-(-array.size // max(few[name].size, 1)) for name, array in whole.items()), default=1)
