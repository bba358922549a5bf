"""The page that `report()` writes: records in, one self-contained HTML text out.

Everything is inline, and the page's own policy forbids whatever is not: no network, no script or style but ours. Past a
size limit pictures are left out, the later layers first, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxscope.figures import coarsened, encode_png, histogram_svg, mosaic, reduced, strips
from onnxscope.histograms import histogram_counts, histogram_edges
from onnxscope.outputs import printable
from onnxscope.tables import format_number, shortened

if TYPE_CHECKING:
    from PIL.Image import Image

    from onnxscope.dataset_statistics import DatasetStatistics
    from onnxscope.differences import Comparison, LayerDifference
    from onnxscope.feature_maps import FeatureMap, FeatureMaps
    from onnxscope.inspection import LayerRecord, ModelSummary
    from onnxscope.tap_profile import TapProfile
    from onnxscope.weight_statistics import WeightRecord, WeightStatistics

__all__ = ["Attention", "Content", "Page", "Row", "Sight", "render_page"]

_TEMPLATES = Path(__file__).with_name("templates")
_SEPARATOR = re.compile(r"[./]")
_MAX_NAME = 96  # characters of a name that are shown; the tool tip has more of it
_MAX_TIP = 1000
_MAX_MODULES = 60
_CELL_PX = 56  # small maps are enlarged by a whole number, up to this
_MAP_PX = 112  # larger maps are averaged down to this
_SHEET_PX = (56, 40, 28, 20, 14, 10, 7)  # sides of the maps on a sheet of all channels; the first that fits is taken
_SHEETS_BYTES = 2_000_000
_SHEET_BYTES_A_PIXEL = 0.42  # half a byte, compressed by a fifth or more, in base64
_MAX_SHEET_CHANNELS = 4096
_BINS = 50
_REMARK_BYTES = 150  # of a remark on what is left out
_SMOOTH_PX = 64  # smaller photographs show their pixels
_SHOWN_NOTES = 6

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
        cost: Multiply-accumulates of all layers of the model, chosen or not.
        weights: Its parameters.
        maps: Feature maps, None where nothing was run.
        statistics: Statistics of activations: of the inputs, or of a dataset.
        sights: The inputs as pictures.
        attention: The gravest first.
        comparison: With another model.
        others: By the name of this model's value, what both models hold at an aligned layer, with this one's axes.
        unreachable: Name and reason of taps that could not be observed.
        notes: Remarks on how the page came about.
    """

    summary: ModelSummary
    rows: tuple[Row, ...]
    cost: int
    weights: WeightStatistics
    maps: FeatureMaps | None
    statistics: DatasetStatistics | None
    sights: tuple[Sight, ...]
    attention: tuple[Attention, ...]
    comparison: Comparison | None
    others: Mapping[str, tuple[FeatureMap, FeatureMap]]
    unreachable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page, and what it leaves out.

    Attributes:
        html: The whole page.
        layers: How many layers it shows.
        left_out: Sentences, for people.
    """

    html: str
    layers: int
    left_out: tuple[str, ...]


@dataclass(eq=False)
class _Layer:
    """Everything known of one row."""

    name: str
    op_type: str
    value: str
    record: LayerRecord | None = None
    tap: FeatureMap | None = None
    profile: TapProfile | None = None
    difference: LayerDifference | None = None
    weights: list[WeightRecord] = field(default_factory=list)
    pair: tuple[FeatureMap, FeatureMap] | None = None


def render_page(content: Content, *, max_bytes: int) -> Page:
    """Render the page.

    Args:
        content: What it shows.
        max_bytes: Pictures are left out where the page would be larger; then, if its text alone is, the last layers.

    Returns:
        The same bytes for the same content.
    """
    layers = _layers(content)
    total = len(layers)
    left_out: list[str] = []
    context = _page_context(content)
    messages: dict[str | None, list[Attention]] = {}
    for each in content.attention:
        messages.setdefault(each.layer, []).append(each)
    cards = [_card(place, layer, content, messages.get(layer.name, [])) for place, layer in enumerate(layers, 1)]
    fixed = len(_rendered(context, [], [], content, left_out).encode())
    size = len(_rendered(context, cards, layers, content, left_out).encode())
    while size > max_bytes and len(layers) > 1:
        kept = int(len(layers) * (max_bytes - fixed) / (size - fixed) * 0.9)
        kept = max(1, min(kept, len(layers) - 1))
        layers, cards = layers[:kept], cards[:kept]
        left_out = [f"the page shows the first {kept:,} of {total:,} layers"]
        size = len(_rendered(context, cards, layers, content, left_out).encode())
    free = max_bytes - size
    context["sights"], taken = _fitting_sights(content.sights, free // 2)
    if len(context["sights"]) < len(content.sights):
        missing = len(content.sights) - len(context["sights"])
        left_out.append(
            f"the pictures of {missing} of {len(content.sights)} inputs are left out: the page would be too large"
        )
    left_out += _add_pictures(layers, cards, content, free - taken)
    return Page(_rendered(context, cards, layers, content, left_out), len(layers), tuple(left_out))


def _rendered(
    context: Mapping[str, Any],
    cards: Sequence[dict[str, Any]],
    layers: Sequence[_Layer],
    content: Content,
    left_out: Sequence[str],
) -> str:
    first: dict[str, int] = {}
    for place, layer in enumerate(layers, 1):
        first.setdefault(layer.name, place)
    page: str = _template().render(
        **context,
        attention=_listed(content.attention, first),
        cards=cards,
        modules=_modules(layers),
        operators=sorted({layer.op_type for layer in layers}),
        left_out=left_out,
    )
    return page


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "count": _count, "label": _label, "sentence": _sentence, "tip": _tip}
    return environment.get_template("report.html")


def _layers(content: Content) -> list[_Layer]:
    """A row for every layer that owns weights, or that was chosen; then one for whatever else was observed."""
    layers = [_Layer(record.layer, record.op_type, record.value, record) for record in content.summary.layers]
    taps = {each.tap.name: each for each in content.maps or ()}
    profiles = {each.name: each for each in content.statistics or ()}
    compared = content.comparison.layers if content.comparison is not None else ()
    found = (
        _assigned(content.rows, layers, taps, lambda each: (each.tap.layer, each.tap.op_type)),
        _assigned(content.rows, layers, profiles, lambda each: (each.layer, each.op_type)),
        _assigned(
            content.rows, layers, {each.a.name: each for each in compared}, lambda each: (each.a.layer, each.op_type)
        ),
    )
    for layer, tap, profile, difference in zip(layers, *found, strict=True):
        layer.tap, layer.profile, layer.difference = tap, profile, difference
    _distribute(content, layers)
    by_name = {}
    for name, tap in taps.items():
        by_name[name] = _Layer(tap.tap.layer, tap.tap.op_type, name, tap=tap)
    for name, profile in profiles.items():
        by_name.setdefault(name, _Layer(profile.layer, profile.op_type, name)).profile = profile
    layers += by_name.values()
    for layer in layers:
        if layer.difference is not None:
            layer.pair = content.others.get(layer.difference.a.name)
    return layers


def _assigned(
    rows: Sequence[Row],
    layers: Sequence[_Layer],
    held: dict[str, _Record],
    key_of: Callable[[_Record], tuple[str, str]],
) -> list[_Record | None]:
    """Take for each layer the record of its value; then, by name and operator, where as many of both are left.

    The second is for values that a comparison takes further on, such as behind what quantizes them.
    """
    found = [next((held.pop(name) for name in row.values if name in held), None) for row in rows]
    without: dict[tuple[str, str], list[int]] = {}
    for place, layer in enumerate(layers):
        if found[place] is None:
            without.setdefault((layer.name, layer.op_type), []).append(place)
    left: dict[tuple[str, str], list[str]] = {}
    for name, record in held.items():
        left.setdefault(key_of(record), []).append(name)
    for key, names in left.items():
        places = without.get(key, [])
        if len(places) == len(names):
            for place, name in zip(places, names, strict=True):
                found[place] = held.pop(name)
    return found


def _distribute(content: Content, layers: Sequence[_Layer]) -> None:
    """Give each layer the parameters that its node uses; the first of a name gets what no node of that name does."""
    by_layer: dict[str, list[tuple[_Layer, Row]]] = {}
    for layer, row in zip(layers, content.rows, strict=True):
        by_layer.setdefault(layer.name, []).append((layer, row))
    for weight in content.weights:
        rows = by_layer.get(weight.parameter.layer, [])
        users = [layer for layer, row in rows if weight.parameter.initializer in row.initializers]
        for layer in users or [layer for layer, _ in rows[:1]]:
            layer.weights.append(weight)


def _page_context(content: Content) -> dict[str, Any]:
    css, script = (_TEMPLATES.joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return {
        "css": css,
        "script": script,
        "css_hash": _hash(css),
        "script_hash": _hash(script),
        "summary": content.summary,
        "model": content.summary.model,
        "facts": _facts(content),
        "specs": [
            (kind, spec.name, spec.dtype, _shape(spec.shape))
            for kind, specs in (("input", content.summary.inputs), ("output", content.summary.outputs))
            for spec in specs
        ],
        "inputs": _inputs(content),
        "sights": [],
        "was_run": content.maps is not None or content.statistics is not None,
        "comparison": content.comparison,
        "changes": content.comparison.changes_table() if content.comparison is not None else None,
        "unreachable": content.unreachable,
        "absent": content.weights.absent,
        "notes": content.notes,
    }


def _listed(attention: Sequence[Attention], first: Mapping[str, int]) -> list[tuple[list[Any], bool]]:
    """What deserves attention with the place of its layer: what is shown, and the notes that are folded away."""
    linked = [(each, first.get(each.layer or "")) for each in attention]
    notes = [place for place, each in enumerate(attention) if each.weight == "note"]
    cut = notes[_SHOWN_NOTES] if len(notes) > _SHOWN_NOTES + 2 else len(linked)
    return [(linked[:cut], False), (linked[cut:], True)]


def _facts(content: Content) -> list[tuple[str, str]]:
    summary, model = content.summary, content.summary.model
    opsets = ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items())
    facts = [
        ("Parameters", f"{summary.parameters:,}"),
        ("Size", _bytes(model["size_bytes"])),
        ("Multiply-adds", f"{_count(content.cost)} per sample" if content.cost else ""),
        ("Nodes", f"{summary.nodes:,}"),
        ("Opset", opsets),
        ("Producer", model["producer"]),
    ]
    if model["framework"]:
        facts += [("Source", f"{model['source']}, {model['framework']}"), ("Export", model["mode"])]
        facts.append(("Pre-processing", model["preprocess"] or "none recorded"))
    if content.statistics is not None:
        facts.append(("Statistics", _samples(content.statistics.profile.samples)))
    return [(name, _label(text)) for name, text in facts if text]


def _inputs(content: Content) -> list[dict[str, Any]]:
    """Mean, spread and range of what was fed: per channel of an image, else of all numbers."""
    if content.maps is None:
        return []
    return [
        {
            "name": each["name"],
            "shape": _shape(each["shape"]),
            "channels": [
                (str(channel) if each["channel_axis"] is not None else "all", *map(_number, numbers))
                for channel, numbers in enumerate(
                    zip(*(each[key] for key in ("mean", "std", "min", "max")), strict=True)
                )
            ],
        }
        for each in content.maps.input["inputs"]
        if each.get("mean")
    ]


def _fitting_sights(sights: Sequence[Sight], free: int) -> tuple[list[dict[str, Any]], int]:
    """The first inputs, as many as there is room for, and what their pictures take."""
    fitting, taken = [], 0
    for sight in sights:
        drawn = _sight(sight)
        size = sum(len(picture["src"]) + 300 for picture in drawn["pictures"])
        if taken + size > free:
            break
        taken += size
        fitting.append(drawn)
    return fitting, taken


def _sight(sight: Sight) -> dict[str, Any]:
    pictures = []
    for image, caption in ((sight.photograph, "as the model sees it"), (sight.overlay, _label(sight.caption))):
        if image is not None:
            shown = image.convert("RGB")
            smooth = min(image.size) >= _SMOOTH_PX
            pictures.append(
                {**_picture(shown, f"{_label(sight.name)}, {caption}"), "caption": caption, "smooth": smooth}
            )
    return {"name": sight.name, "pictures": pictures}


def _modules(layers: Sequence[_Layer]) -> list[tuple[int, str, str, int, int]]:
    """Modules in order: depth, scope, last part, how many layers, the first one; as deep as there is room for."""
    counts: dict[str, int] = {}
    first: dict[str, int] = {}
    for place, layer in enumerate(layers, 1):
        if len(layer.name) <= _MAX_NAME:
            for end in _SEPARATOR.finditer(layer.name):
                scope = layer.name[: end.start()]
                if scope:
                    counts[scope] = counts.get(scope, 0) + 1
                    first.setdefault(scope, place)
    depths = {scope: len(_SEPARATOR.findall(scope)) for scope in counts}
    deepest = max(depths.values(), default=0)
    while deepest and sum(depth <= deepest for depth in depths.values()) > _MAX_MODULES:
        deepest -= 1
    shown = [scope for scope in counts if depths[scope] <= deepest and (counts[scope] > 1 or depths[scope] == 0)]
    shown.sort(key=lambda scope: (first[scope], depths[scope]))
    return [
        (depths[scope], scope, _SEPARATOR.split(scope)[-1] or scope, counts[scope], first[scope])
        for scope in shown[: 4 * _MAX_MODULES]
    ]


def _card(place: int, layer: _Layer, content: Content, messages: Sequence[Attention]) -> dict[str, Any]:
    record, tap = layer.record, layer.tap
    shape = None
    if tap is not None:
        shape = tap.data.shape
    elif record is not None:
        shape = record.shape
    activation = _activation(layer)
    return {
        "place": place,
        "name": layer.name,
        "op_type": layer.op_type,
        "value": layer.value if tap is None else tap.tap.name,
        "shape": _shape(shape),
        "parameters": record.parameters if record is not None else None,
        "cost": record.multiply_accumulates if record is not None else None,
        "size": _bytes(record.size_bytes) if record is not None else "",
        "activation": activation,
        "histogram": _activation_histogram(layer, tap, content.statistics) if tap is not None else "",
        "strip": _strip(layer.profile.channels, len(layer.profile.dead_channels)) if layer.profile else None,
        "quantiles": _quantiles(layer.profile) if layer.profile is not None else [],
        "weights": [_weight(row) for row in layer.weights],
        "difference": _difference(layer.difference),
        "messages": messages,
        "columns": [],
        "sheet": None,
    }


def _activation(layer: _Layer) -> dict[str, Any] | None:
    if layer.profile is not None:
        found: Mapping[str, Any] = layer.profile.overall.to_dict()
    elif layer.tap is not None:
        found = layer.tap.statistics
    else:
        return None
    return {key: found[key] for key in ("mean", "std", "min", "max", "zero_fraction", "nan_count", "inf_count")}


def _quantiles(profile: TapProfile) -> list[tuple[str, float]]:
    names = {"0.01": "1 %", "0.5": "median", "0.99": "99 %"}
    return [(names[key], value) for key, value in profile.quantiles.items() if key in names and value is not None]


def _activation_histogram(layer: _Layer, tap: FeatureMap, statistics: DatasetStatistics | None) -> str:
    """Of what is shown; where the numbers beside it are of other samples, it says so."""
    low, high = tap.statistics["min"], tap.statistics["max"]
    edges = None if low is None or high is None else histogram_edges(low, high, _BINS)
    if edges is None:
        return ""
    caption = None
    if layer.profile is not None and statistics is not None and layer.profile.overall.count != tap.data.size:
        caption = f"of the input shown; the numbers are of {_samples(statistics.profile.samples)}"
    counts = histogram_counts(tap.data, edges).tolist()
    return histogram_svg("Histogram of the activation", edges.tolist(), counts, caption=caption, standalone=False)


def _weight(row: WeightRecord) -> dict[str, Any]:
    parameter, summary = row.parameter, row.summary
    overall = summary.overall
    histogram = summary.histogram
    title = _label(parameter.name.removeprefix(parameter.layer).lstrip("./") or parameter.name)
    drawn = ""
    if histogram is not None and overall.count > 1:
        drawn = histogram_svg(f"Histogram of {title}", histogram.edges, histogram.counts, standalone=False)
    return {
        "name": parameter.name,
        "shape": _shape(parameter.shape),
        "dtype": parameter.dtype,
        "folded": parameter.folded,
        "numbers": {key: getattr(overall, key) for key in ("mean", "std", "min", "max")},
        "zero_fraction": overall.zero_fraction,
        "nan_count": overall.nan_count,
        "inf_count": overall.inf_count,
        "histogram": drawn,
        "strip": _strip(summary.channels, len(summary.zero_channels)),
    }


def _strip(channels: Any, zeros: int) -> dict[str, Any] | None:
    """Mean, standard deviation and share of zeros of each channel, as three strips of colour."""
    if channels is None or len(channels.mean) < 2:
        return None
    rows, ranges = [], []
    for key, word in (("mean", "mean"), ("std", "spread"), ("zero_fraction", "zeros")):
        numbers = np.array([np.nan if each is None else each for each in getattr(channels, key)], np.float64)
        known = numbers[np.isfinite(numbers)]
        if not known.size:
            return None
        if key == "zero_fraction" and not known.any():
            continue
        low, high = (0.0, 1.0) if key == "zero_fraction" else (float(known.min()), float(known.max()))
        rows.append((np.where(np.isfinite(numbers), numbers, np.nan), low, high))
        ranges.append((word, _number(float(known.min())), _number(float(known.max()))))
    told = "; ".join(f"{word} from {low} to {high}" for word, low, high in ranges)
    count = len(channels.mean)
    image = strips(rows)
    return {**_picture(image, f"{count:,} channels: {told}"), "ranges": ranges, "count": count, "zeros": zeros}


def _difference(row: LayerDifference | None) -> dict[str, Any] | None:
    if row is None:
        return None
    record = row.to_dict()
    if row.differs:
        verdict = "own error" if row.is_guilty else "inherited"
    else:
        verdict = "equal" if row.entire is not None else "not measured"
    return {
        "verdict": verdict,
        "other": row.b.layer if row.b.layer != row.a.layer else "",
        "own": record["own_relative_l2"],
        "entire": record["relative_l2"],
        "noise": record["noise_relative_l2"],
        "max_abs": record["max_abs"],
        "sqnr_db": record["sqnr_db"],
        "reason": row.reason or "",
    }


def _add_pictures(
    layers: Sequence[_Layer], cards: Sequence[dict[str, Any]], content: Content, free: int
) -> Iterable[str]:
    """Add mosaics in order while there is room, then sheets of all channels; say what found none."""
    drawn = [
        (layer, card) for layer, card in zip(layers, cards, strict=True) if layer.tap and layer.tap.maps() is not None
    ]
    free -= _REMARK_BYTES * (len(drawn) + 3)
    shown = 0
    with ThreadPoolExecutor() as pool:
        for (_, card), columns in zip(drawn, pool.map(lambda each: _columns(each[0], content), drawn), strict=True):
            size = sum(len(picture["src"]) + 300 for column in columns for picture in column["pictures"])
            if size > free:
                pool.shutdown(cancel_futures=True)
                break
            free -= size
            card["columns"] = columns
            shown += 1
    missing = drawn[shown:]
    for _, card in missing:
        card["left_out"] = True
    if missing:
        yield (
            f"the feature maps of {len(missing):,} of {len(drawn):,} layers are left out, from "
            f"{_label(missing[0][0].name)} on: the page would be too large; `--select` chooses layers, `--max-size` "
            "allows more"
        )
    else:
        yield from _add_sheets(drawn, min(free, _SHEETS_BYTES))


def _add_sheets(drawn: Sequence[tuple[_Layer, dict[str, Any]]], free: int) -> Iterable[str]:
    """Add a sheet of all channels to each layer that has more than its mosaic shows.

    Each gets an equal share of the room, and what those with few channels do not need goes to the others.
    """
    wanting = [(count, layer, card) for layer, card in drawn if (count := _channels(layer)) is not None]
    wanting.sort(key=lambda each: each[0])
    too_many = sum(count > _MAX_SHEET_CHANNELS for count, _, _ in wanting)
    wanting = wanting[: len(wanting) - too_many]
    missing = 0
    for place, (count, layer, card) in enumerate(wanting):
        share = free // (len(wanting) - place)
        sheet = _fitting_sheet(layer, count, share, free)
        if sheet is None:
            missing += 1
        else:
            card["sheet"] = sheet
            free -= len(sheet["src"]) + 300
    for count, why in ((missing, "the page would be too large"), (too_many, f"more than {_MAX_SHEET_CHANNELS:,} each")):
        if count:
            yield f"sheets of all channels of {count:,} layer{'' if count == 1 else 's'} are left out: {why}"


def _fitting_sheet(layer: _Layer, count: int, share: int, free: int) -> dict[str, Any] | None:
    """The sheet with the largest maps whose size is within the share, or at least the smallest, where there is room."""
    assert layer.tap is not None
    longest = max(side for axis, side in enumerate(layer.tap.data.shape) if axis not in (0, layer.tap.channel_axis))
    for side in dict.fromkeys(min(side, longest) for side in _SHEET_PX):
        is_last = side <= _SHEET_PX[-1]
        if count * (side + 1) ** 2 * _SHEET_BYTES_A_PIXEL > share and not is_last:
            continue
        sheet = _sheet(layer, count, side)
        if len(sheet["src"]) <= (free if is_last else share):
            return sheet
    return None


def _channels(layer: _Layer) -> int | None:
    """How many channels a sheet would show, None where the mosaic shows all."""
    tap = layer.tap
    assert tap is not None
    assert tap.channel_axis is not None
    count = tap.data.shape[tap.channel_axis]
    return count if len(tap.channels) < count else None


def _columns(layer: _Layer, content: Content) -> list[dict[str, Any]]:
    """A column for each sample; where both models have the layer, a picture of each and of their difference."""
    tap, pair = layer.tap, layer.pair
    assert tap is not None
    names = [sight.name for sight in content.sights] or [""]
    columns = []
    for sample, name in enumerate(names[: len(tap.data)]):
        on = f", on {printable(name)}" if name else ""
        compared = None if pair is None else _compared(layer, pair, sample, on)
        if compared is None:
            maps = replace(tap, sample=sample).maps()
            assert maps is not None
            told = f"channels {_ranges(tap.channels)}"
            compared = [{**_mosaic(maps, f"{_label(layer.name)}, {told}{on}"), "caption": told}]
        columns.append({"name": name, "pictures": compared})
    return columns


def _compared(layer: _Layer, pair: tuple[FeatureMap, FeatureMap], sample: int, on: str) -> list[dict[str, Any]] | None:
    """Both models' maps and their difference, for the channels that differ most; None where they have no maps."""
    count = pair[0].data.shape[pair[0].channel_axis or 0]
    whole = [replace(each, sample=sample, channels=tuple(range(count))).maps() for each in pair]
    if whole[0] is None or whole[1] is None or whole[0].shape != whole[1].shape:
        return None
    with np.errstate(invalid="ignore"):
        gap = np.abs(whole[1].astype(np.float64) - whole[0].astype(np.float64))
    largest = np.max(gap, axis=(1, 2), where=np.isfinite(gap), initial=0.0)
    channels = layer.tap.channels if layer.tap is not None else ()
    if layer.difference is not None and layer.difference.differs:
        channels = tuple(np.argsort(-largest, kind="stable")[: len(channels)].tolist())
    chosen = list(channels)
    told = f"channels {_ranges(channels)}"
    what = f"{_label(layer.name)}, {told}{on}"
    same = "" if largest.any() else ": no difference"
    pictures = [
        {**_mosaic(whole[0][chosen], what), "caption": f"this model, {told}"},
        {**_mosaic(whole[1][chosen], f"{what}, in the second model"), "caption": f"the second model{same}"},
    ]
    if largest.any():
        told = f"difference, at most {_number(float(largest.max()))}"
        pictures.append({**_mosaic(gap[chosen], f"{what}, {told}"), "caption": told})
    return pictures


def _mosaic(maps: NDArray[Any], alt: str) -> dict[str, Any]:
    return _picture(mosaic(reduced(maps, _MAP_PX), cell_px=_CELL_PX), alt)


def _sheet(layer: _Layer, count: int, side: int) -> dict[str, Any]:
    assert layer.tap is not None
    maps = replace(layer.tap, channels=tuple(range(count)), sample=0).maps()
    assert maps is not None
    small = reduced(maps, side)
    across = min(count, math.ceil(math.sqrt(count * 1.5)))
    image = coarsened(mosaic(small, columns=across, cell_px=side, gap_px=1))
    alt = f"{_label(layer.name)}, all {count:,} channels"
    return {**_picture(image, alt), "count": count, "across": across, "reduced": small.shape != maps.shape}


def _picture(image: Image, alt: str) -> dict[str, Any]:
    encoded = base64.b64encode(encode_png(image)).decode()
    width, height = image.size
    return {"src": f"data:image/png;base64,{encoded}", "width": width, "height": height, "alt": alt}


def _ranges(numbers: Sequence[int]) -> str:
    """Channel numbers as people write them: `0 to 11`, or one by one."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:.4g}".replace("-", "−") if number else "0"


def _count(number: float) -> str:
    for power, suffix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {suffix}"
    return format_number(number)


def _bytes(count: int) -> str:
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} B"


def _shape(shape: Sequence[int | str | None] | None) -> str:
    if shape is None:
        return ""
    return " × ".join("?" if side is None else printable(str(side))[:20] for side in shape) or "scalar"


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count:,} samples"


def _label(name: str) -> str:
    """A name as it is shown: printable, and with its middle cut out where it is long."""
    text = printable(name[: 2 * _MAX_TIP])
    if len(text) <= _MAX_NAME and len(name) <= 2 * _MAX_TIP:
        return text
    half = _MAX_NAME // 2
    return f"{text[: half - 1]}…{printable(name[-half:])[-half:]}"


def _sentence(text: str) -> str:
    """Some lines of text: printable, and with the middle cut out where names in it are long."""
    return shortened(printable(text), _MAX_TIP)


def _tip(name: str) -> str:
    return printable(name[:_MAX_TIP])
