"""The layer that is to blame for a difference, cut out of both models: `diff --extract`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import printable
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.result import Comparison
from onnxscope.errors import InputError
from onnxscope.extracting.chosen_part import part_before
from onnxscope.extracting.extract_part import Extraction, describe_part
from onnxscope.extracting.recorded_values import Recorded, record_values
from onnxscope.extracting.shrunk_pair import shrink_pair
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.loading import Model
from onnxscope.pairing.match_values import Counterpart, match_values

__all__ = ["as_second", "extract_guilty"]


def extract_guilty(
    comparison: Comparison, a: Model, b: Model, inputs: Any, options: RunOptions, *, shrink: bool = False
) -> tuple[Extraction, Extraction] | None:
    """Cut the first guilty layer out of both models.

    Either part begins with what its model shares with the other one: values of layers that were compared, or inputs.
    The second one is fed with the first one's values, as it would hold them, and should give what the first one gave.

    Args:
        comparison: Of the two.
        a: The first model.
        b: The second.
        inputs: What they were fed; of it the first batch is recorded.
        options: How.
        shrink: Make both smaller together, while they differ.

    Returns:
        The parts of both, None where no layer adds a difference of its own.

    Raises:
        InputError: The layer cannot be cut out.
        RunError: onnxruntime fails.
    """
    row = next((row for row in comparison.guilty if row.own is not None), None)
    if row is None:
        return None
    for side, model in ((row.a, a), (row.b, b)):
        if side.compared not in model.main.producers:
            raise InputError(
                f"{printable(side.layer)} lies in a body, or is no node of the file: {model.name}",
                hint="`onnxscope extract` takes layers of bodies",
            )
    shared = {
        other.b.compared: other.a.compared
        for other in comparison.layers
        if other is not row and other.a.compared in a.main.producers and other.b.compared in b.main.producers
    }
    parts = part_before(a, row.a.compared, shared.values()), part_before(b, row.b.compared, shared)
    feed = open_common_feed((a, b), inputs, options)
    with contextlib.closing(feed):
        feeds = feed.first()
        fed_to_b = feed.of_second(feeds)
    partners = [shared[name] for name in parts[1].inputs if name in shared]
    more = dict.fromkeys((*parts[0].inputs, *partners))
    first = record_values(a, replace(parts[0], inputs=tuple(more)), feeds, threads=options.threads)
    second = record_values(b, parts[1], fed_to_b, threads=options.threads)
    values, notes = as_second((a, b), row, shared, first, second, fed_to_b)
    reference = describe_part(a, parts[0], first, feed.record, fed="model", threads=options.threads)
    changed = describe_part(b, parts[1], values, feed.record, fed="other", notes=notes, threads=options.threads)
    return shrink_pair(reference, changed) if shrink else (reference, changed)


def as_second(
    models: tuple[Model, Model],
    row: LayerDifference,
    shared: Mapping[str, str],
    first: Mapping[str, Recorded],
    second: Mapping[str, Recorded],
    fed: Mapping[str, Any],
) -> tuple[dict[str, Recorded], list[str]]:
    """The first model's values as the second would hold them; its own where there are none, with a remark."""
    values: dict[str, Recorded] = {}
    notes = []
    partners = {**shared, row.b.compared: row.a.compared}
    for name, own in second.items():
        pair = None
        if name in partners and name not in fed:
            pair = _counterpart(models, partners[name], name, first[partners[name]], own)
        values[name] = own if pair is None else pair.to_b(np.asarray(first[pair.a]))
        if pair is None and name not in fed:
            notes.append(f"{printable(name)!r} is the second model's own: no value of the first belongs to it")
    return values, notes


def _counterpart(models: tuple[Model, Model], a: str, b: str, value_a: Any, value_b: Any) -> Counterpart | None:
    arrays = np.asarray(value_a), np.asarray(value_b)
    axes = [
        default_axis(array.ndim, model.channel_axes(()).get(name))
        for model, name, array in zip(models, (a, b), arrays, strict=True)
    ]
    shapes, kinds = [array.shape for array in arrays], [array.dtype.name for array in arrays]
    return match_values(a, b, (shapes[0], shapes[1]), (kinds[0], kinds[1]), (axes[0], axes[1]), replaced=True)
