"""Feed two models the same, and measure how far apart their paired layers are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.floors import element_types, own_noise
from onnxscope.comparison.match_values import Counterpart, match_values, pair_outputs
from onnxscope.comparison.measure import Comparer, Measured
from onnxscope.comparison.model_layers import ModelLayers
from onnxscope.comparison.result import LayerDifference, Side, floor_of, not_measured
from onnxscope.errors import RunError
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.layers import Layer
from onnxscope.model.selectors import Tap
from onnxscope.numerics.distances import Discrepancy, Tolerance
from onnxscope.runtime.pilot import Pilot

__all__ = ["PairedRun"]

Array = NDArray[Any]


class PairedRun:
    """Feeds both models and collects what is measured.

    Attributes:
        record: The `input` record, None before anything was run.
        samples: How many samples were run.
        notes: Remarks for people.
        side_by_side: For every batch that was asked for, by the place of the pair, what both models hold there, the
            second one's with the axes of the first.
    """

    def __init__(
        self,
        sides: tuple[ModelLayers, ModelLayers],
        pairs: Sequence[tuple[Layer, Layer]],
        options: RunOptions,
        *,
        tolerance: Tolerance | None,
    ) -> None:
        """Prepare.

        Args:
            sides: Both models.
            pairs: Layers of the first and of the second model that belong together, in execution order.
            options: Threads, and what values may take that leave onnxruntime.
            tolerance: Count the numbers beyond it.
        """
        self._sides = sides
        self._pairs = pairs
        self._options = options
        self._tolerance = tolerance
        self._measured: dict[int, tuple[Counterpart, Measured, Discrepancy]] = {}
        self._reasons: dict[int, tuple[str | None, str | None]] = {}
        self._outputs = pair_outputs(sides[0].model, sides[1].model)
        self._taps = self._paired_taps()
        self.record: dict[str, Any] | None = None
        self.samples = 0
        self.notes: list[str] = []
        self.side_by_side: list[dict[int, tuple[Array, Array]]] = []

    @property
    def taps(self) -> Sequence[Tap]:
        """Of the first model, at its paired layers and outputs: what its pilot has to observe."""
        return self._taps[0]

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
        noise = own_noise(first, {pair.a: pair.channel_axis for pair in counterparts.values()})
        of_layers = {place: pair for place, pair in counterparts.items() if place < len(self._pairs)}
        self.side_by_side = [
            _side_by_side(first, second, of_layers, feeds, feed.of_second(feeds) if number else None)
            for number, feeds in enumerate(shown)
        ]
        comparer = Comparer(
            first,
            second,
            list(counterparts.values()),
            feed.inputs,
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

    def _paired_taps(self) -> tuple[list[Tap], list[Tap]]:
        """Taps at the paired layers and outputs of both models, each named after its place."""
        taps: tuple[list[Tap], list[Tap]] = ([], [])
        for place, layers in enumerate(self._pairs):
            activated = layers[0].activated == layers[1].activated
            for side, layer in enumerate(layers):
                value = layer.value if activated else layer.inner
                taps[side].append(self._sides[side].tap(layer, value, f"{place}"))
        for place, names in enumerate(self._outputs, len(self._pairs)):
            for side, name in enumerate(names):
                taps[side].append(self._sides[side].output_tap(name, f"{place}"))
        return taps

    def _counterparts(self, first: Pilot, second: Pilot) -> dict[int, Counterpart]:
        """Match the values of the paired layers and outputs, as they are in the pilot run, by place."""
        counterparts = {}
        for place, (left, right) in enumerate(zip(*self._taps, strict=True)):
            reasons = first.reasons.get(left), second.reasons.get(right)
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
                replaced=place < len(self._pairs) and not right.path and not left.path,
            )
            if pair is None:
                self._reasons[place] = f"shape {list(shapes[0])} against {list(shapes[1])}", None
            else:
                counterparts[place] = pair
        return counterparts


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
