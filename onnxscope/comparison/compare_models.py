"""Compare two models layer by layer, `diff()`; and one with itself, `noise_floors()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.comparison.align_layers import Align, Alignment, align_layers, layer_keys, pair_by_values
from onnxscope.comparison.measure import held_by, near_values
from onnxscope.comparison.paired_run import CommonFeed, ModelLayers, PairedRun
from onnxscope.comparison.result import Comparison, StructureChange
from onnxscope.comparison.weight_changes import WeightChange, compare_weights, one_sided
from onnxscope.errors import InputError
from onnxscope.model.attributes import attributes_of
from onnxscope.model.layers import Layer
from onnxscope.model.loading import load_model
from onnxscope.model.selectors import Tap, select_names
from onnxscope.numerics.distances import Tolerance

__all__ = ["diff", "noise_floors"]

Array = NDArray[Any]
_HARMLESS = frozenset({"permuted", "rounded"})  # unless a layer's own error says otherwise
_MOST_LEFT_OVER = 1_000  # of layers whose values are compared each with each


def diff(
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
    sides = ModelLayers(first), ModelLayers(second)
    keys = [layer_keys(side.layers, side.weights.content) for side in sides]
    alignment = align_layers(keys[0], keys[1], align)
    notes: list[str] = []
    feed = None
    if inputs is not None:
        feed = CommonFeed((first, second), inputs, preprocess, layout, batch_size, limit)
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
    structure = [change for pair in pairs for change in _structure_changes(sides, *pair)]
    only_a, only_b = _unaligned(sides, alignment, kept)
    run = PairedRun(sides, pairs, _tolerance(rtol, atol), memory_budget_bytes, threads)
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
        inputs: As for `diff`.
        preprocess: As for `diff`.
        layout: As for `diff`.
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
    side = ModelLayers(load_model(model))
    run = PairedRun((side, side), [(layer, layer) for layer in side.layers], None, memory_budget_bytes, threads)
    return run.floors(CommonFeed((side.model, side.model), inputs, preprocess, layout, batch_size, limit))


def _by_values(
    sides: tuple[ModelLayers, ModelLayers],
    alignment: Alignment,
    feed: CommonFeed,
    memory_budget_bytes: int,
    threads: int,
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


def _selected(side: ModelLayers, selectors: list[str]) -> set[int] | None:
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


def _weight_changes(
    sides: tuple[ModelLayers, ModelLayers], alignment: Alignment, kept: set[int] | None
) -> list[WeightChange]:
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
    sides: tuple[ModelLayers, ModelLayers], alignment: Alignment, kept: set[int] | None
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    def shown(side: ModelLayers, only: Sequence[int]) -> tuple[tuple[str, str], ...]:
        return tuple((side.layers[index].name, side.layers[index].node.op_type) for index in only)

    only_a = [index for index in alignment.only_a if kept is None or index in kept]
    return shown(sides[0], only_a), shown(sides[1], alignment.only_b if kept is None else ())


def _structure_changes(sides: tuple[ModelLayers, ModelLayers], x: Layer, y: Layer) -> list[StructureChange]:
    """Attributes of two aligned layers that are not the same."""
    changes = []
    for left, right in ((x.node, y.node), (x.norm, y.norm)):
        if left is None or right is None or left.op_type != right.op_type:
            continue
        before, after = (
            attributes_of(node, side.model.storage) for node, side in zip((left, right), sides, strict=True)
        )
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
    return "by default" if value is None else f"{value}"
