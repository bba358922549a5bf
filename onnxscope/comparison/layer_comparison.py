"""Compare two models that are open already: `LayerComparison`, which `diff` and the report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import printable
from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.measure import held_by, near_values
from onnxscope.comparison.paired_run import PairedRun
from onnxscope.comparison.result import Comparison
from onnxscope.comparison.structure_changes import (
    attribute_changes,
    fused_taps,
    layers_inside,
    likeliest_first,
    node_changes,
    unread_changes,
)
from onnxscope.comparison.unstable_sides import mode_changes, notes_on_narrow_sums, notes_on_unstable
from onnxscope.comparison.weight_changes import WeightChange, compare_weights, folded_change, one_sided
from onnxscope.comparison.whole_weights import whole_of
from onnxscope.errors import RunError
from onnxscope.model.graphs import Node
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.numerics.distances import Tolerance
from onnxscope.pairing.align_layers import Align, Alignment, align_layers, layer_keys, pair_by_values
from onnxscope.pairing.match_values import paired_values
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.runtime.pilot import Pilot
from onnxscope.selection.chosen_parts import Selection
from onnxscope.selection.selectors import Tap
from onnxscope.structure.quantized_form import partner_of

__all__ = ["ComparedLayers", "LayerComparison"]

Array = NDArray[Any]
_THE_SAME = frozenset({"renamed", "reshaped"})
_HARMLESS = frozenset({"permuted", "rounded"})  # unless a layer's own error says otherwise
_OF_RANDOM = "the inputs are random numbers: which layers cost most by them is not which do by real data"
_MOST_LEFT_OVER = 1_000  # of layers whose values are compared each with each


@dataclass(frozen=True, eq=False)
class ComparedLayers:
    """Two models compared, and what else the runs have told.

    Attributes:
        comparison: The result of `diff`.
        side_by_side: For each batch that was asked for, by the place in `comparison.layers`, what both models hold
            there, the second one's with the axes of the first. The arrays belong to the caller.
    """

    comparison: Comparison
    side_by_side: Sequence[Mapping[int, tuple[Array, Array]]]


class LayerComparison:
    """Two models that are open already, to be compared layer by layer; see `diff`.

    Making it pairs the layers and compares weights and structure; `run` adds the values. In between the caller may open
    the first model's pilot, for values that it wants to see itself beside `taps`.
    """

    def __init__(
        self,
        sides: tuple[ModelLayers, ModelLayers],
        feed: CommonFeed | None,
        options: RunOptions,
        *,
        align: Align = "auto",
        tolerance: Tolerance | None = None,
        select: str | Sequence[str] = (),
        patched: Model | None = None,
    ) -> None:
        """Pair the layers.

        Args:
            sides: Both models with their layers.
            feed: What both are fed, the caller's to close; None compares structure and weights alone.
            options: Threads, and what values may take that leave onnxruntime.
            align: Which evidence pairs layers.
            tolerance: Count the numbers beyond it.
            select: Selectors over the first model's layers.
            patched: The second model with something else in place of values, which is run in its place.

        Raises:
            SelectorError: A selector matches nothing.
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
        self._sides = sides
        self._feed = feed
        self._options = options
        self._notes: list[str] = [*notes_on_unstable(sides[0].model, sides[1].model)]
        if feed is not None:
            self._notes += notes_on_narrow_sums(sides[0].model, sides[1].model)
        self._alignment = _aligned(sides, feed, align, self._notes, options)
        selectors = [select] if isinstance(select, str) else list(select)
        chosen = Selection(sides[0].model, selectors) if selectors else None
        self._kept = None if chosen is None else chosen.layers
        if chosen is not None and chosen.fed:
            fed = ", ".join(map(printable, chosen.fed))
            self._notes.append(f"inputs are fed to both models, and not compared: {fed}")
        pairs = [(sides[0].layers[left], sides[1].layers[right]) for left, right in self._alignment.pairs]
        shown = [
            place for place, (left, _) in enumerate(self._alignment.pairs) if self._kept is None or left in self._kept
        ]
        self._weights = _weight_changes(sides, self._alignment, chosen, tolerance)
        self._partner = partner_of(sides[0].model, sides[1].model)
        modes = mode_changes(sides[0].model, sides[1].model)
        self._structure = (
            *(change for place in shown for change in attribute_changes(sides, *pairs[place], tolerance)),
            *node_changes(sides, pairs, self._weights, chosen, self._partner, tolerance, modes),
        )
        for side in sides:
            side.model.storage.release()
        self._count = len(shown)
        regions = [change.region for change in self._structure if change.region is not None]
        self._inside = layers_inside(regions)
        names = [{layer.name for layer in side.layers if layer.node in self._inside} for side in sides]
        self._weights = [
            replace(change, counts=False)
            if change.place is None and change.layer in names[0 if change.b is None else 1]
            else change
            for change in self._weights
        ]
        self._has_fused = chosen is None and bool(regions)
        others = fused_taps(sides, regions) if chosen is None else paired_values(sides[1].model, chosen.values)
        self._patched = patched or sides[1].model
        run_on = sides[0], sides[1].run_as(self._patched)
        self._run = PairedRun(run_on, pairs, shown, options, others=others, tolerance=tolerance)

    @property
    def model(self) -> Model:
        """The first model, in the form in which it is compared."""
        return self._sides[0].model

    @property
    def taps(self) -> Sequence[Tap]:
        """Of the first model: what its pilot has to observe."""
        return self._run.taps

    def run(self, pilot: Pilot | None = None, shown: Sequence[Mapping[str, Array]] = ()) -> ComparedLayers:
        """Compare the values too, where there is anything to run on; the feed is read to its end.

        Args:
            pilot: Of the first model, which observes `taps` and may observe more; its first run is made. None opens
                one.
            shown: Batches of the first model, for `side_by_side`. The first of them is what the pilot was fed.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
        weights, run = self._weights, self._run
        if self._feed is not None:
            run.measure(self._feed, pilot or self._started(self._feed), shown)
        layers, outputs = run.rows()
        if self._feed is not None:
            weights = _acquitted(weights, layers)
            changed = {change.layer for change in weights if change.change not in _THE_SAME} | {
                change.layer for change in self._structure
            }
            alike = self._sides[0].model.running == self._patched.running  # else equal weights settle nothing
            layers = [
                replace(
                    row, settled=alike and row.entire is None and place < self._count and row.a.layer not in changed
                )
                for place, row in enumerate(layers)
            ]
        order = self._in_order(layers)
        layers = [layers[place] for place in order]
        moved = {place: row for row, place in enumerate(order)}
        weights = [change if change.place is None else replace(change, place=moved[change.place]) for change in weights]
        only_a, only_b = _unaligned(self._sides, self._alignment, self._kept, self._inside)
        is_random = run.record is not None and run.record.get("kind") == "random"
        notes = [_OF_RANDOM] if self._partner is not None and is_random else []
        comparison = Comparison(
            a=self._sides[0].model.to_dict(),
            b=self._patched.to_dict(),
            input=run.record,
            samples=run.samples,
            layers=tuple(layers),
            outputs=tuple(outputs),
            only_a=only_a,
            only_b=only_b,
            weights=tuple(weights),
            structure=likeliest_first(self._structure, self._sides, [*layers, *outputs]),
            notes=(*self._notes, *run.notes, *notes),
            unfit=run.unfit,
            partner=self._partner.text if self._partner is not None else None,
        )
        side_by_side = tuple({moved[place]: arrays for place, arrays in batch.items()} for batch in run.side_by_side)
        return ComparedLayers(comparison, side_by_side)

    def _in_order(self, rows: Sequence[LayerDifference]) -> list[int]:
        """Places of rows, those of fused operators in front of the first layer that the first model computes later."""
        order = list(range(len(rows)))
        if not self._has_fused:
            return order
        graph = self._sides[0].model.main
        ends = [graph.producers.get(row.a.name) for row in rows]
        steps = [None if node is None else graph.position(node) for node in ends]
        for place in range(self._count, len(rows)):
            step = steps[place]
            later = (at for at, other in enumerate(order) if step is not None and (steps[other] or -1) > step)
            order.remove(place)
            order.insert(next(later, len(order)), place)
        return order

    def _started(self, feed: CommonFeed) -> Pilot:
        pilot = Pilot(self._sides[0].model, self.taps, self._options)
        feed.start(pilot)
        return pilot


def _aligned(
    sides: tuple[ModelLayers, ModelLayers],
    feed: CommonFeed | None,
    align: Align,
    notes: list[str],
    options: RunOptions,
) -> Alignment:
    """Pair the layers by all evidence that was asked for; by their values where there is anything to run on."""
    keys = [layer_keys(side.layers, side.weights.content, side.surroundings, side.weights.sketch) for side in sides]
    alignment = align_layers(keys[0], keys[1], align)
    left_over = max(len(alignment.only_a), len(alignment.only_b))
    if feed is None or align not in ("auto", "content") or not (alignment.only_a and alignment.only_b):
        return alignment
    if left_over > _MOST_LEFT_OVER:
        notes.append(f"layers left over, too many to pair them by their values: {left_over:,}")
        return alignment
    more = _by_values(sides, alignment, feed, options)
    paired = len(more.pairs) - len(alignment.pairs)
    notes += [f"layers paired by their values: {paired:,}"] if paired else []
    return more


def _acquitted(weights: Sequence[WeightChange], layers: Sequence[LayerDifference]) -> list[WeightChange]:
    """Changes of weights that do not count where a run has shown that they change nothing."""
    innocent = {place for place, row in enumerate(layers) if not row.is_guilty and row.entire is not None}
    return [
        replace(change, counts=False) if change.change in _HARMLESS and change.place in innocent else change
        for change in weights
    ]


def _by_values(
    sides: tuple[ModelLayers, ModelLayers],
    alignment: Alignment,
    feed: CommonFeed,
    options: RunOptions,
) -> Alignment:
    """Pair layers left over that give nearly the same numbers on the first batch.

    Where only one of them has an activation function, what is before it is compared, as it will be later.
    """
    taps: tuple[dict[Tap, int], dict[Tap, int]] = ({}, {})
    for side, only, places in zip(sides, (alignment.only_a, alignment.only_b), taps, strict=True):
        for index in only:
            layer = side.layers[index]
            if not layer.path:
                places[side.tap(layer, layer.value, f"{index} post", "post")] = index
                places[side.tap(layer, layer.inner, f"{index} pre", "pre")] = index
    pilots = [Pilot(side.model, list(places), options) for side, places in zip(sides, taps, strict=True)]
    whole = feed.first()
    for feeds in (whole, feed.few(1)):  # one sample where a whole batch would take too much memory
        for pilot, fed in zip(pilots, (feeds, feed.of_second(feeds)), strict=True):
            try:
                pilot.run(fed)
            except RunError:
                if feed.dataset.may_be_one_sample:  # it does not run on a part of the data: that is found out later
                    return alignment
                raise
        values = [held_by(pilot) for pilot in pilots]
        if sum(side.size_bytes for side in values) <= options.memory_budget_bytes:
            break
    pairs = []
    for x, y in near_values(values[0], values[1], options.memory_budget_bytes):
        left, right = taps[0][x], taps[1][y]
        alike = sides[0].layers[left].activated == sides[1].layers[right].activated
        if (x.at == "post") == alike:
            pairs.append((left, right))
    return pair_by_values(alignment, pairs)


def _weight_changes(
    sides: tuple[ModelLayers, ModelLayers],
    alignment: Alignment,
    chosen: Selection | None,
    tolerance: Tolerance | None,
) -> list[WeightChange]:
    kept = None if chosen is None else chosen.layers
    left_out = frozenset() if chosen is None else chosen.left_out
    changes: list[WeightChange] = []
    pairs = [(left, right) for left, right in alignment.pairs if kept is None or left in kept]
    for place, (left, right) in enumerate(pairs):
        x, y = sides[0].layers[left], sides[1].layers[right]
        read = [sides[0].layers[index].shape[:1] for index in x.before]
        before = read[0][0] if len(read) == 1 and read[0] else None
        weights = [side.weights.read(layer) for side, layer in zip(sides, (x, y), strict=True)]
        if left_out:
            roles = {role for role, weight in weights[0].items() if weight.name in left_out}
            weights = [{role: weight for role, weight in of.items() if role not in roles} for of in weights]
        found = compare_weights(x, y, weights[0], weights[1], before, tolerance)
        if any(change.counts for change in found):
            folded = folded_change(x.name, whole_of(x, sides[0].weights), whole_of(y, sides[1].weights))
            found = found if folded is None else [folded]
        changes += [replace(change, place=place) for change in found]
    if kept is None:
        changes += unread_changes(sides[0].model, sides[1].model, tolerance)
        for side, only, removed in ((sides[0], alignment.only_a, True), (sides[1], alignment.only_b, False)):
            for index in only:
                layer = side.layers[index]
                found = one_sided(layer, side.weights.read(layer), removed=removed)
                changes += [replace(change, counts=_is_needed(side, layer)) for change in found]
    return changes


def _unaligned(
    sides: tuple[ModelLayers, ModelLayers],
    alignment: Alignment,
    kept: frozenset[int] | None,
    inside: frozenset[Node],
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """The layers without a counterpart, but for what one operator of the other model stands for."""

    def shown(side: ModelLayers, only: Sequence[int]) -> tuple[tuple[str, str], ...]:
        layers = [side.layers[index] for index in only if side.layers[index].node not in inside]
        return tuple((layer.name, layer.node.op_type) for layer in layers if _is_needed(side, layer))

    only_a = [index for index in alignment.only_a if kept is None or index in kept]
    return shown(sides[0], only_a), shown(sides[1], alignment.only_b if kept is None else ())


def _is_needed(side: ModelLayers, layer: Layer) -> bool:
    return layer.is_needed_in(side.model.graphs[layer.path])
