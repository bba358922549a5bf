"""What a page shows, and which of the records belong to which layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

    from onnxscope.analyses.feature_maps import FeatureMap, FeatureMaps
    from onnxscope.analyses.model_summary import LayerRecord, ModelSummary
    from onnxscope.analyses.weight_statistics import WeightRecord, WeightStatistics
    from onnxscope.comparison.layer_difference import LayerDifference
    from onnxscope.comparison.result import Comparison
    from onnxscope.explaining.causes import Causes
    from onnxscope.explaining.explained import Explanation
    from onnxscope.profiling.dataset_statistics import DatasetStatistics
    from onnxscope.profiling.tap_profile import TapProfile

__all__ = ["Attention", "Content", "LayerView", "Row", "Sight", "layer_views"]

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Attention:
    """One thing that deserves attention, in plain words.

    Attributes:
        kind: Which kind of finding.
        weight: `bad`, `warn` or `note`.
        layer: The layer it is about; None for the model or its input.
        message: A sentence.
    """

    kind: str
    weight: str
    layer: str | None
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The record that a report carries."""
        return {"kind": self.kind, "weight": self.weight, "layer": self.layer, "message": self.message}


@dataclass(frozen=True, eq=False)
class Sight:
    """One input picture.

    Attributes:
        name: Its file's name.
        photograph: As the model sees it, None where the input is no picture.
        overlay: With a class activation map over it, None where there is none.
        caption: What the overlay shows.
    """

    name: str
    photograph: Image | None
    overlay: Image | None
    caption: str


@dataclass(frozen=True)
class Row:
    """What belongs to a layer of the summary.

    Attributes:
        values: Names under which its value may have been observed.
        initializers: Stored tensors that its node uses.
    """

    values: tuple[str, ...]
    initializers: frozenset[str]


@dataclass(frozen=True, eq=False)
class Content:
    """What a page shows.

    Attributes:
        summary: The model, with the layers that were chosen.
        rows: What belongs to each of these layers.
        weights: Its parameters.
        maps: Feature maps, None where nothing was run.
        statistics: Statistics of activations: of the inputs, or of a dataset.
        sights: The inputs as pictures.
        attention: The gravest first.
        comparison: With another model.
        others: By the name of this model's value, what both models hold at an aligned layer, with this one's axes.
        unreachable: Name and reason of taps that could not be observed.
        notes: Remarks on how the page came about.
        reasons: Why layers of the other model differ, and what makes them equal; none where nobody asked.
        causes: Which layers carry the difference of the outputs; None where there is none, or nobody asked.
    """

    summary: ModelSummary
    rows: tuple[Row, ...]
    weights: WeightStatistics
    maps: FeatureMaps | None
    statistics: DatasetStatistics | None
    sights: tuple[Sight, ...]
    attention: tuple[Attention, ...]
    comparison: Comparison | None
    others: Mapping[str, tuple[FeatureMap, FeatureMap]]
    unreachable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    reasons: tuple[Explanation, ...] = ()
    causes: Causes | None = None


@dataclass(eq=False)
class LayerView:
    """Everything known of one row.

    Attributes:
        name: The layer's.
        op_type: Its operator.
        value: What it produces.
        record: What `inspect` says of it; None for a value that is no layer.
        tap: What it held on the inputs shown.
        profile: Its statistics.
        difference: Its comparison with the other model.
        weights: Its parameters.
        pair: What both models held.
    """

    name: str
    op_type: str
    value: str
    record: LayerRecord | None = None
    tap: FeatureMap | None = None
    profile: TapProfile | None = None
    difference: LayerDifference | None = None
    weights: list[WeightRecord] = field(default_factory=list)
    pair: tuple[FeatureMap, FeatureMap] | None = None


def layer_views(content: Content) -> list[LayerView]:
    """Return a row for every layer that owns weights, or that was chosen; then one for whatever else was observed."""
    layers = [
        LayerView(name=record.layer, op_type=record.op_type, value=record.value, record=record)
        for record in content.summary.layers
    ]
    taps = {tap.tap.name: tap for tap in content.maps or ()}
    profiles = {profile.name: profile for profile in content.statistics or ()}
    compared = content.comparison.layers if content.comparison is not None else ()
    differences = {row.a.name: row for row in compared}
    assigned = (
        _assigned(content.rows, layers, taps, lambda tap: (tap.tap.layer, tap.tap.op_type)),
        _assigned(content.rows, layers, profiles, lambda profile: (profile.layer, profile.op_type)),
        _assigned(content.rows, layers, differences, lambda row: (row.a.layer, row.op_type)),
    )
    for layer, tap, profile, difference in zip(layers, *assigned, strict=True):
        layer.tap, layer.profile, layer.difference = tap, profile, difference
    _distribute(content, layers)
    by_name = {}
    for name, tap in taps.items():
        by_name[name] = LayerView(name=tap.tap.layer, op_type=tap.tap.op_type, value=name, tap=tap)
    for name, profile in profiles.items():
        layer = LayerView(name=profile.layer, op_type=profile.op_type, value=name)
        by_name.setdefault(name, layer).profile = profile
    ends = {part.compared_at[0] for part in content.comparison.fused if part.compared_at} if content.comparison else ()
    for name, row in differences.items():
        if name not in ends:
            continue  # but for what one operator of a model stands for in the other
        layer = LayerView(name=row.a.layer, op_type=row.op_type, value=name)
        by_name.setdefault(name, layer).difference = row
    layers += by_name.values()
    for layer in layers:
        if layer.difference is not None:
            layer.pair = content.others.get(layer.difference.a.name)
    return layers


def _assigned(
    rows: Sequence[Row],
    layers: Sequence[LayerView],
    records: dict[str, _Record],
    key_of: Callable[[_Record], tuple[str, str]],
) -> list[_Record | None]:
    """Take for each layer the record of its value; then, by name and operator, where as many of both are left.

    The second is for values that a comparison takes further on, such as behind what quantizes them.
    """
    assigned = [next((records.pop(name) for name in row.values if name in records), None) for row in rows]
    unfilled: dict[tuple[str, str], list[int]] = {}
    for place, layer in enumerate(layers):
        if assigned[place] is None:
            unfilled.setdefault((layer.name, layer.op_type), []).append(place)
    remaining: dict[tuple[str, str], list[str]] = {}
    for name, record in records.items():
        remaining.setdefault(key_of(record), []).append(name)
    for key, names in remaining.items():
        places = unfilled.get(key, [])
        if len(places) == len(names):
            for place, name in zip(places, names, strict=True):
                assigned[place] = records.pop(name)
    return assigned


def _distribute(content: Content, layers: Sequence[LayerView]) -> None:
    """Give each layer the parameters that its node uses; the first of a name gets what no node of that name does."""
    by_layer: dict[str, list[tuple[LayerView, Row]]] = {}
    for layer, row in zip(layers, content.rows, strict=True):
        by_layer.setdefault(layer.name, []).append((layer, row))
    for weight in content.weights:
        name = weight.parameter.layer
        rows = by_layer.get(name, [] if weight.parameter.cut is None else by_layer.get(name.rpartition(".")[0], []))
        users = [layer for layer, row in rows if weight.parameter.initializer in row.initializers]
        for layer in users or [layer for layer, _ in rows[:1]]:
            layer.weights.append(weight)
