"""The page that `report()` writes: records in, one self-contained HTML text out.

Everything is inline, and the page's own policy forbids whatever is not: no network, no script or style but ours. Past a
size limit pictures are left out, the later layers first, and the page says so.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxscope.analyses.model_summary import CostRecord
from onnxscope.base.text import (
    MAX_NAME,
    bytes_text,
    count_text,
    label,
    number_text,
    samples_text,
    sentence,
    shape_text,
    tip,
)
from onnxscope.drawing.svg_charts import histogram_svg
from onnxscope.numerics.histograms import histogram_counts, histogram_edges
from onnxscope.reporting.content import Attention, Content, LayerView, layer_views
from onnxscope.reporting.pictures import add_pictures, fitting_sights, strip_of_channels

if TYPE_CHECKING:
    from onnxscope.analyses.tap_maps import FeatureMap
    from onnxscope.analyses.weight_statistics import WeightRecord
    from onnxscope.comparison.layer_difference import LayerDifference
    from onnxscope.profiling.dataset_statistics import DatasetStatistics
    from onnxscope.profiling.tap_profile import TapProfile

__all__ = ["Page", "render_page"]

_TEMPLATES = Path(__file__).with_name("templates")
_SEPARATOR = re.compile(r"[./]")
_MAX_MODULES = 60
_BINS = 50
_SHOWN_NOTES = 6


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


def render_page(content: Content, *, max_bytes: int) -> Page:
    """Render the page.

    Args:
        content: What it shows.
        max_bytes: Pictures are left out where the page would be larger; then, if its text alone is, the last layers.

    Returns:
        The same bytes for the same content.
    """
    layers = layer_views(content)
    total = len(layers)
    left_out: list[str] = []
    context = _page_context(content)
    messages: dict[str | None, list[Attention]] = {}
    for notice in content.attention:
        messages.setdefault(notice.layer, []).append(notice)
    cards = [_card(place, layer, content, messages.get(layer.name, [])) for place, layer in enumerate(layers, 1)]
    size = len(_rendered(context, cards, layers, content, left_out).encode())
    fixed = len(_rendered(context, [], [], content, left_out).encode()) if size > max_bytes else 0
    while size > max_bytes and len(layers) > 1:
        kept = int(len(layers) * (max_bytes - fixed) / (size - fixed) * 0.9)
        kept = max(1, min(kept, len(layers) - 1))
        layers, cards = layers[:kept], cards[:kept]
        left_out = [f"the page shows the first {kept:,} of {total:,} layers"]
        size = len(_rendered(context, cards, layers, content, left_out).encode())
    free = max_bytes - size
    context["sights"], sights_bytes = fitting_sights(content.sights, free // 2)
    if len(context["sights"]) < len(content.sights):
        missing = len(content.sights) - len(context["sights"])
        left_out.append(
            f"the pictures of {missing} of {len(content.sights)} inputs are left out: the page would be too large"
        )
    left_out += add_pictures(layers, cards, content, free - sights_bytes)
    return Page(_rendered(context, cards, layers, content, left_out), len(layers), tuple(left_out))


def _rendered(
    context: Mapping[str, Any],
    cards: Sequence[dict[str, Any]],
    layers: Sequence[LayerView],
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
    environment.filters |= {
        "number": number_text,
        "count": count_text,
        "label": label,
        "sentence": _sentence,
        "tip": tip,
    }
    return environment.get_template("report.html")


def _sentence(text: str) -> str:
    """A sentence as the page shows it: what stands between backticks as code."""
    import markupsafe

    shown = sentence(text)
    parts = shown.split("`")
    if len(parts) % 2 == 0:  # a name has one
        return shown
    code = markupsafe.Markup("<code>{}</code>")
    return markupsafe.Markup("").join(code.format(part) if place % 2 else part for place, part in enumerate(parts))


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
            (kind, spec.name, spec.dtype, shape_text(spec.shape))
            for kind, specs in (("input", content.summary.inputs), ("output", content.summary.outputs))
            for spec in specs
        ],
        "inputs": _inputs(content),
        "sights": [],
        "was_timed": content.summary.timing is not None,
        "was_run": content.maps is not None or content.statistics is not None,
        "comparison": content.comparison,
        "reasons": [(each.a.layer, each.text) for each in content.reasons],
        "carried": content.causes.text if content.causes is not None else None,
        "changes": content.comparison.changes_table() if content.comparison is not None else None,
        "quantized": content.weights.quantized_table(),
        "unreachable": content.unreachable,
        "absent": content.weights.absent,
        "notes": content.notes,
    }


def _listed(attention: Sequence[Attention], first: Mapping[str, int]) -> list[tuple[list[Any], bool]]:
    """What deserves attention with the place of its layer: what is shown, and the notes that are folded away."""
    linked = [(notice, first.get(notice.layer or "")) for notice in attention]
    notes = [place for place, notice in enumerate(attention) if notice.weight == "note"]
    cut = notes[_SHOWN_NOTES] if len(notes) > _SHOWN_NOTES + 2 else len(linked)
    return [(linked[:cut], False), (linked[cut:], True)]


def _facts(content: Content) -> list[tuple[str, str]]:
    summary, model = content.summary, content.summary.model
    cache = summary.costs.cache_bytes_per_token
    opsets = ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items())
    facts = [
        ("Parameters", f"{summary.parameters:,}"),
        ("Size", bytes_text(model["size_bytes"])),
        ("Multiply-adds", _costs_text(summary.costs)),
        ("Cache", f"{bytes_text(cache)} per token" if cache else ""),
        ("Time", "" if summary.timing is None else summary.timing.text()),
        ("Memory", "" if summary.timing is None else summary.timing.memory_text()),
        ("Nodes", f"{summary.nodes:,}"),
        ("Opset", opsets),
        ("Producer", model["producer"]),
    ]
    if "running" in model:
        provider = model["running"]["provider"]
        given = ", ".join(f"{name}={value}" for name, value in provider["options"].items())
        facts.append(("Run on", f"{provider['name']} with {given}" if given else provider["name"]))
    if model["framework"]:
        facts += [("Source", f"{model['source']}, {model['framework']}"), ("Export", model["mode"])]
        facts.append(("Pre-processing", model["preprocess"] or "none recorded"))
    if content.statistics is not None:
        facts.append(("Statistics", samples_text(content.statistics.profile.samples)))
    return [(name, label(text)) for name, text in facts if text]


def _costs_text(costs: CostRecord) -> str:
    """Multiply-adds of a sample, with the sizes that they are for and for how many layers they are known."""
    if not costs.nodes:
        return ""
    sizes = [f"{name} {size}" for name, size in costs.dims.items() if size > 1]
    parts = [f"{count_text(costs.multiply_accumulates)} per sample" + (f" ({', '.join(sizes)})" if sizes else "")]
    if costs.known < costs.nodes:
        parts = [*parts[: costs.known], f"known for {costs.known} of {costs.nodes} layers"]
    return ", ".join(parts)


def _inputs(content: Content) -> list[dict[str, Any]]:
    """Mean, spread and range of what was fed: per channel of an image, else of all numbers."""
    if content.maps is None:
        return []
    return [
        {
            "name": array["name"],
            "shape": shape_text(array["shape"]),
            "channels": [
                (str(channel) if array["channel_axis"] is not None else "all", *map(number_text, numbers))
                for channel, numbers in enumerate(
                    zip(*(array[key] for key in ("mean", "std", "min", "max")), strict=True)
                )
            ],
        }
        for array in content.maps.input["inputs"]
        if array.get("mean")
    ]


def _modules(layers: Sequence[LayerView]) -> list[tuple[int, str, str, int, int]]:
    """Modules in order: depth, scope, last part, how many layers, the first one; as deep as there is room for."""
    counts: dict[str, int] = {}
    first: dict[str, int] = {}
    for place, layer in enumerate(layers, 1):
        if len(layer.name) <= MAX_NAME:
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


def _card(place: int, layer: LayerView, content: Content, messages: Sequence[Attention]) -> dict[str, Any]:
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
        "shape": shape_text(shape),
        "parameters": record.parameters if record is not None else None,
        "cost": record.multiply_accumulates if record is not None else None,
        **_time(layer, content),
        "size": bytes_text(record.size_bytes) if record is not None else "",
        "activation": activation,
        "histogram": _activation_histogram(layer, tap, content.statistics) if tap is not None else "",
        "strip": strip_of_channels(layer.profile.channels, len(layer.profile.dead_channels)) if layer.profile else None,
        "quantiles": _quantiles(layer.profile) if layer.profile is not None else [],
        "outliers": _outliers(layer.profile) if layer.profile is not None else [],
        "heads": _heads(layer.profile) if layer.profile is not None else [],
        "weights": [_weight(row) for row in layer.weights],
        "difference": _difference(layer.difference),
        "messages": messages,
        "columns": [],
        "no_picture": None if tap is None else tap.view.reason,
        "sheet": None,
    }


def _time(layer: LayerView, content: Content) -> dict[str, Any]:
    """What the layer takes of a run, and how many times faster the other model's is; None where nobody knows."""
    record, difference = layer.record, layer.difference
    time = None if record is None else record.time
    times = None if content.comparison is None else content.comparison.times
    pair = None if times is None or difference is None else times.of(difference.a.layer, difference.b.layer)
    return {
        "ms": None if time is None else time.ms,
        "time_share": None if time is None else time.share,
        "timed_in": None if record is None else record.timed_in,
        "faster": None if pair is None else pair.ratio,
    }


def _activation(layer: LayerView) -> dict[str, Any] | None:
    if layer.profile is not None:
        statistics: Mapping[str, Any] = layer.profile.overall.to_dict()
    elif layer.tap is not None:
        statistics = layer.tap.statistics
    else:
        return None
    return {key: statistics[key] for key in ("mean", "std", "min", "max", "zero_fraction", "nan_count", "inf_count")}


def _outliers(profile: TapProfile) -> list[tuple[str, float]]:
    """What quantizers fail on, as far as it is known; shares of one have no outliers."""
    if profile.heads is not None:
        return []
    token = None if profile.token is None else profile.token.ratio
    numbers = (
        ("kurtosis", profile.histogram.kurtosis),
        ("max / median", profile.massive),
        ("channel / median", profile.channel_outlier),
        ("token / median", token),
    )
    return [(name, number) for name, number in numbers if number is not None]


def _heads(profile: TapProfile) -> list[tuple[Any, ...]]:
    """A row for each head: its number, and what its record says of it."""
    return [] if profile.heads is None else list(zip(count(), *profile.heads.to_dict().values(), strict=False))


def _quantiles(profile: TapProfile) -> list[tuple[str, float]]:
    names = {"0.01": "1 %", "0.5": "median", "0.99": "99 %"}
    return [(names[key], value) for key, value in profile.quantiles.items() if key in names and value is not None]


def _activation_histogram(layer: LayerView, tap: FeatureMap, statistics: DatasetStatistics | None) -> str:
    """Of what is shown; where the numbers beside it are of other samples, it says so."""
    low, high = tap.statistics["min"], tap.statistics["max"]
    edges = None if low is None or high is None else histogram_edges(low, high, _BINS)
    if edges is None:
        return ""
    caption = None
    if layer.profile is not None and statistics is not None and layer.profile.overall.count != tap.data.size:
        caption = f"of the input shown; the numbers are of {samples_text(statistics.profile.samples)}"
    counts = histogram_counts(tap.data, edges).tolist()
    return histogram_svg("Histogram of the activation", edges.tolist(), counts, caption=caption, standalone=False)


def _weight(row: WeightRecord) -> dict[str, Any]:
    parameter, summary = row.parameter, row.summary
    overall = summary.overall
    histogram = summary.histogram
    title = label(parameter.name.removeprefix(parameter.layer).lstrip("./") or parameter.name)
    drawn = ""
    if histogram is not None and overall.count > 1:
        drawn = histogram_svg(f"Histogram of {title}", histogram.edges, histogram.counts, standalone=False)
    return {
        "name": parameter.name,
        "shape": shape_text(parameter.shape),
        "dtype": parameter.dtype,
        "quantized": row.quantization.text if row.quantization is not None else "",
        "folded": parameter.folded,
        "numbers": {key: getattr(overall, key) for key in ("mean", "std", "min", "max")},
        "zero_fraction": overall.zero_fraction,
        "nan_count": overall.nan_count,
        "inf_count": overall.inf_count,
        "histogram": drawn,
        "strip": strip_of_channels(summary.channels, len(summary.zero_channels)),
    }


def _difference(row: LayerDifference | None) -> dict[str, Any] | None:
    if row is None:
        return None
    record = row.to_dict()
    if row.differs:
        verdict = "own error" if row.is_guilty else "inherited"
    elif row.undecided is not None:
        verdict = "undecided"
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
        "own_sqnr_db": record["own_sqnr_db"],
        "reason": record["reason"] or row.fused_text,
    }


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
