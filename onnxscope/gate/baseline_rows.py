"""The rows of a baseline: what a layer, an output and a weight are, in numbers that noise does not change."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxscope.analyses.weight_statistics import WeightStatistics
from onnxscope.comparison.floors import Floor
from onnxscope.comparison.whole_weights import sketch, whole_of
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.model.parameters import Parameter
from onnxscope.numerics.blocks import exceeds_float64
from onnxscope.numerics.composites import contents_of
from onnxscope.numerics.moments import Moments, Statistics
from onnxscope.pairing.align_layers import LayerKey, layer_keys
from onnxscope.pairing.layer_weights import LayerWeights
from onnxscope.profiling.tap_profile import TapProfile
from onnxscope.runtime.pilot import Pilot
from onnxscope.structure.attributes import attributes_of
from onnxscope.structure.node_records import NodeRecord

__all__ = [
    "EXACT",
    "NUMBERS",
    "composite_outputs",
    "layer_rows",
    "long_outputs",
    "numbers_of",
    "output_row",
    "outputs_in_order",
    "row_names",
    "sha256_of",
    "weight_rows",
]

Array = np.ndarray[Any, Any]
NUMBERS = ("mean", "std", "min", "max")


def layer_rows(model: Model, reader: LayerWeights, records: Sequence[NodeRecord]) -> list[dict[str, Any]]:
    """A row for every layer, in execution order, without numbers; `sort` is where it stands in the file.

    That is the order of the nodes' lines; layers that no output depends on come last.
    """
    lines = {record.node: place for place, record in enumerate(records) if record.node is not None}
    keys = layer_keys(model.layers, reader.content)
    depths: list[int] = []
    rows: list[dict[str, Any]] = []
    for layer, key in zip(model.layers, keys, strict=True):
        depths.append(1 + max((depths[index] for index in layer.before), default=0))
        graph = model.graphs[layer.path]
        bent = layer.value != layer.inner and not layer.quantized
        attributes = attributes_of(layer.node, model.storage)
        if layer.norm is not None:
            of_norm = attributes_of(layer.norm, model.storage)
            attributes |= {f"{layer.norm.op_type}.{name}": value for name, value in of_norm.items()}
        name = _row_name(layer, key)
        row = {
            "layer": name,
            "call": 0,
            "op_type": layer.kind,
            "norm": None if layer.norm is None else layer.norm.op_type,
            "activation": graph.producers[layer.value].op_type if bent else None,
            "attributes": dict(sorted(attributes.items())),
            "weight_shape": list(layer.shape),
            "before": key.before[:16],
            "behind": key.behind[:16],
            "content": key.content(),
            **_whole(layer, reader),
            **({} if layer.is_needed_in(graph) else {"unread": True}),
            **_NOT_RUN,
        }
        line = lines.get(layer.node, _NO_LINE)
        rows.append({**row, "sort": (line, depths[-1], row["before"], row["behind"], name, row["content"] or "")})
    return rows


def _whole(layer: Layer, reader: LayerWeights) -> dict[str, Any]:
    """What tells whether a layer does the same with its numbers folded; nothing where that cannot be told."""
    whole = whole_of(layer, reader)
    numbers = [] if whole is None else sketch(whole)
    if whole is None or not all(map(math.isfinite, numbers)):
        return {}
    half = (len(numbers) - 2) // 2
    units = [*([numbers[-2]] * half), *([numbers[-1]] * half), *numbers[-2:]]
    # A hundredth of the millionths that count.
    rounded = [_rounded(number, unit / 100) for number, unit in zip(numbers, units, strict=True)]
    return {"whole": {"weights": dict(whole.names), "sketch": rounded}}


def row_names(model: Model) -> list[str]:
    """What the rows of a model's layers are called, in execution order."""
    return list(map(_row_name, model.layers, layer_keys(model.layers, lambda layer: None)))


def _row_name(layer: Layer, key: LayerKey) -> str:
    return layer.name if key.name is not None else f"{layer.kind}#{key.before[:8]}"


_NOT_RUN: dict[str, Any] = {
    "shape": None,
    **dict.fromkeys((*NUMBERS, "zero_fraction", "dead_channels", "nan_count", "inf_count", "noise")),
    "reproduces": True,
}
EXACT = Floor(0.0, None)
_NO_LINE = 1 << 30


def outputs_in_order(pilot: Pilot) -> dict[str, dict[str, Any]]:
    """Return what tells the numbers of each output from the same numbers in another order, as entries of its row.

    They are of the first samples alone. The weights lie between -1 and 1, so that what moves every number by at most
    some amount moves their mean by no more.
    """
    places = {}
    names = {pilot.outputs[tap]: tap.value for tap in pilot.shapes if not tap.path}
    names = {output: name for output, name in names.items() if name in pilot.model.main.outputs}
    for group in pilot.groups([*names, *pilot.composites.values()]):
        for output, value in pilot.values(group).items():
            is_tensor = isinstance(value, np.ndarray) and value.dtype.kind not in "OUSc"
            numbers = (value if is_tensor else contents_of(value).numbers).astype(np.float64).ravel()
            total = float(np.dot(np.where(np.isfinite(numbers), numbers, 0.0), _weights_of_places(numbers.size)))
            mean = total / max(numbers.size, 1)
            places[names.get(output, output)] = {"place_mean": mean, "place_count": numbers.size}
    return places


def _weights_of_places(count: int) -> Array:
    """A number between -1 and 1 for every place, the same everywhere.

    References:
        Vigna's SplitMix64, `https://prng.di.unimi.it/splitmix64.c`: its output function of the place.
    """
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def composite_outputs(pilot: Pilot) -> dict[str, tuple[Statistics, str]]:
    """Of outputs that are no tensors of numbers: statistics of their numbers in the pilot run, a digest of the rest.

    Strings, sequences and maps are small, and what they hold for the first samples is compared element by element.
    """
    composites = {}
    for name, value in pilot.values(pilot.composites.values()).items():
        contents = contents_of(value)
        moments = Moments.empty(1)
        moments.update(contents.numbers)
        rest = hashlib.sha256(repr((contents.form, contents.texts)).encode(errors="backslashreplace"))
        composites[name] = moments.overall, rest.hexdigest()[:16]
    return composites


def long_outputs(pilot: Pilot) -> dict[str, str]:
    """Of outputs that hold integers which the statistics round: a digest of them in the pilot run."""
    wide = [output for tap, output in pilot.outputs.items() if not tap.path and pilot.kinds[tap] in ("int64", "uint64")]
    outputs = [output for output in dict.fromkeys(wide) if output in pilot.model.main.outputs]
    return {name: sha256_of(values)[:16] for name, values in pilot.values(outputs).items() if exceeds_float64(values)}


def output_row(name: str, content: str | None, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an output that no layer gives.

    Args:
        name: Its name.
        content: A digest of what is no number in it, or an integer that statistics round; None where there is neither.
        numbers: Of `numbers_of`.
    """
    row = {
        "layer": name,
        "call": 0,
        "op_type": "Output",
        "norm": None,
        "activation": None,
        "attributes": {},
        "weight_shape": [],
        "before": name,
        "behind": "",
        "content": content,
    }
    return {**row, **numbers, "sort": (2 * _NO_LINE, 0, name, "", name, "")}


def numbers_of(
    overall: Statistics,
    tap: TapProfile | None,
    floor: Floor,
    *,
    cause: str | None = None,
    places: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The numbers of a row, rounded to a millionth of the deviation.

    Args:
        overall: Statistics of the value.
        tap: Its profile, None for a value that is no tensor.
        floor: What a difference from it is judged by.
        cause: The random or stateful node that it depends on, in words.
        places: Of an output, what `outputs_in_order` tells.
    """
    unit = overall.std or abs(overall.mean or 0.0)
    numbers = {key: _rounded(getattr(overall, key), unit) for key in NUMBERS}
    return {
        "shape": [None] if tap is None else None if tap.shape is None else list(tap.shape),
        **numbers,
        "zero_fraction": _rounded(overall.zero_fraction, 1.0),
        "dead_channels": 0 if tap is None else len(tap.dead_channels),
        "nan_count": overall.nan_count,
        "inf_count": overall.inf_count,
        "noise": 10.0 ** math.ceil(math.log10(floor.relative)) if floor.relative else 0.0,
        "reproduces": floor.unstable is None,
        **({} if floor.unstable is None or cause is None else {"cause": cause}),
        **({**places, "place_mean": _rounded(places["place_mean"], unit)} if places else {}),
        **({"moved_fraction": floor.moved_fraction} if floor.moved_fraction else {}),
    }


def _rounded(number: float | None, unit: float) -> float | None:
    """To a millionth of the unit's order of magnitude."""
    if number is None or not unit or not math.isfinite(unit):
        return number
    return round(number, 6 - math.floor(math.log10(unit))) + 0.0


def weight_rows(
    model: Model, stored: WeightStatistics, digests: Mapping[str, tuple[str, str | None]]
) -> list[dict[str, Any]]:
    """A row for every parameter, by name; `digests` holds its SHA-256 first."""
    rows = []
    for weight in stored:
        parameter, overall = weight.parameter, weight.summary.overall
        rows.append(
            {
                "name": parameter.name,
                "layer": parameter.layer,
                "shape": list(parameter.shape),
                "dtype": parameter.dtype,
                "sha256": digests[parameter.name][0],
                **({} if parameter.initializer in parameter.graph.needed else {"unread": True}),
                **({"folds": True} if _folds(model, parameter) else {}),
                **{key: _significant(getattr(overall, key)) for key in (*NUMBERS, "zero_fraction")},
            }
        )
    return sorted(rows, key=lambda row: str(row["name"]))


def _folds(model: Model, parameter: Parameter) -> bool:
    """Whether constants are computed from a parameter, and nothing else is: nodes hold what comes out."""
    name = parameter.initializer
    seen_by = [graph for graph in model.graphs.values() if graph.scope_of(name) is parameter.graph]
    readers = [(graph, node) for graph in seen_by for node in graph.readers.get(name, ()) if name in node.inputs]
    is_output = any(name in graph.outputs for graph in seen_by)
    folded = all(output in graph.constants for graph, node in readers for output in node.outputs if output)
    return bool(readers) and folded and not is_output


def sha256_of(values: np.ndarray[Any, Any]) -> str:
    """Of the numbers in the parameter's own order, block by block: a copy of all of them may be too large."""
    digest = hashlib.sha256()
    for block in np.array_split(values, max(1, values.nbytes >> 24)) if values.ndim else [values]:
        digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()[:32]


def _significant(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.7g}")
