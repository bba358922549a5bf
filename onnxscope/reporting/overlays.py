"""Overlays for Model Explorer: what was measured, on the nodes of the graph that it shows.

One JSON file for each quantity, in the form of `model_explorer.node_data_builder.ModelNodeData`: by graph and by node.
Model Explorer would also match nodes by the names of their values, but its ONNX adapter, `model-explorer-onnx`, hands
none over where it looks for them. So the keys are the ids that the adapter gives to nodes: a node's own name, and
`[value] NAME` for graph inputs and initializers. `tests/reporting/test_overlays.py` holds both packages to it.

    model-explorer model.onnx --extensions=model_explorer_onnx --node_data_paths=DIR/onnxscope_activation_std.json
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxscope.analyses.feature_maps import FeatureMaps
from onnxscope.analyses.weight_statistics import WeightRecord, WeightStatistics
from onnxscope.base import option_types
from onnxscope.base.files import OVERLAY, WholeFolder, refuse_foreign, refuse_inputs, writing_folder
from onnxscope.base.json_files import dump_json
from onnxscope.comparison.result import Comparison
from onnxscope.model.loading import Model, load_model
from onnxscope.profiling.dataset_statistics import DatasetStatistics

__all__ = ["Overlay", "overlay_files", "write_node_data"]

_Colours = Mapping[str, list[dict[str, Any]]]
_UNNAMED_GRAPH = "<main>"  # what the adapter calls it
_LARGEST = 1.7976931348623157e308  # the last threshold: what is beyond it would have no colour
_STEPS = ("#e3f3ea", "#c9e4b4", "#f4e6a5", "#f0b429", "#d9632c", "#b42318")  # from good to bad


def _thresholds(limits: tuple[float, ...], colours: tuple[str, ...]) -> _Colours:
    return {"thresholds": [{"value": n, "bgColor": c} for n, c in zip(limits, colours, strict=True)]}


# A gradient goes from the least to the largest number of the graph; errors differ by powers of ten and need steps.
_GRADIENT: _Colours = {"gradient": [{"stop": 0, "bgColor": "#f6f8fa"}, {"stop": 1, "bgColor": "#2563ab"}]}
_ERROR = _thresholds((1e-6, 1e-4, 1e-3, 1e-2, 1e-1, _LARGEST), _STEPS)
_STATISTICS: Mapping[str, _Colours] = {
    **dict.fromkeys(("mean", "std", "min", "max"), _GRADIENT),
    "zero_fraction": _thresholds((0.5, 0.9, 0.99, 1.0), (_STEPS[0], *_STEPS[2:4], _STEPS[5])),
}
_QUANTITIES: Mapping[str, Mapping[str, _Colours]] = {
    "activation": _STATISTICS,
    "weight": _STATISTICS,
    "error": {
        "own_relative_l2": _ERROR,
        "relative_l2": _ERROR,
        "sqnr_db": _thresholds((10, 20, 40, 60, 80, _LARGEST), _STEPS[::-1]),
    },
}


@dataclass(frozen=True)
class Overlay:
    """One quantity on the nodes of the graph.

    Attributes:
        name: What the quantity is called.
        file: The file's name in the folder, None where there is nothing to show and no file.
        shown: On how many nodes it is shown.
        left_out: Name and reason of every value or parameter that is not shown.
    """

    name: str
    file: str | None
    shown: int
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Row:
    """The numbers of one value or parameter; `node` is the id of what makes `value`, unless there is a fault."""

    name: str
    value: str
    node: str
    fault: str | None
    numbers: Mapping[str, Any]


@option_types.checked
def write_node_data(
    folder: str | os.PathLike[str],
    model: Any,
    *,
    activations: FeatureMaps | DatasetStatistics | None = None,
    weights: WeightStatistics | None = None,
    comparison: Comparison | None = None,
    force: bool = False,
) -> tuple[Overlay, ...]:
    """Write the overlays of one model; files of ours that stood in the folder and are not written again are removed.

    Numbers that are not finite cannot be shown, nor can values inside the bodies of If, Loop and Scan, or of nodes that
    have no name of their own. Local functions are inlined here and graphs of their own there, so that the nodes inside
    them are not found.

    Args:
        folder: Made where it is missing.
        model: What the results are about: a path, a `ModelProto` or a loaded `Model`.
        activations: Gives mean, standard deviation, extremes and zeros of layers.
        weights: The same of parameters.
        force: Also replace files with the names of overlays that are none.
        comparison: Gives the errors of its layers and outputs; `model` is its first model.

    Returns:
        One for each quantity of what was given, written or not.

    Raises:
        ModelError: The model cannot be read.
        OutputError: The folder cannot be made or written to, or the model has the name of an overlay.
    """
    loaded = load_model(model)
    refuse_inputs(overlay_files(folder), loaded.files)
    refuse_foreign([(path, OVERLAY) for path in overlay_files(folder)], force=force)
    nodes = _Nodes(loaded)
    rows: dict[str, list[_Row]] = {}
    if activations is not None:
        rows["activation"] = [nodes.value(tap["name"], tap) for tap in activations.to_dict()["taps"]]
    if weights is not None:
        rows["weight"] = [nodes.parameter(row) for row in weights]
    if comparison is not None:
        rows["error"] = [nodes.value(row.a.name, row.to_dict()) for row in (*comparison.layers, *comparison.outputs)]
    overlays = []
    stale = []
    with writing_folder(folder) as target:
        for kind, quantities in _QUANTITIES.items():
            for quantity, colours in quantities.items():
                if kind in rows:
                    overlays.append(_overlay(target, nodes.graph, kind, quantity, rows[kind], colours))
                if kind not in rows or overlays[-1].file is None:
                    stale.append(_file_name(kind, quantity))
        target.remove(lambda: stale)
    return tuple(overlays)


def overlay_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return what `write_node_data` may write or remove: the folder, and every overlay in it."""
    names = [_file_name(kind, quantity) for kind, quantities in _QUANTITIES.items() for quantity in quantities]
    return [Path(folder), *(Path(folder, name) for name in names)]


def _file_name(kind: str, quantity: str) -> str:
    return f"onnxscope_{kind}_{quantity}.json"


class _Nodes:
    """Finds nodes by the ids that they have in Model Explorer's graph."""

    def __init__(self, model: Model) -> None:
        self._main = model.main
        graph = model.proto.graph
        self.graph = graph.name if graph.HasField("name") else _UNNAMED_GRAPH

    def value(self, name: str, numbers: Mapping[str, Any]) -> _Row:
        """The row of a value of the main graph."""
        if name in self._main.inputs or name in self._main.initializers:
            return _Row(name=name, value=name, node=f"[value] {name}", fault=None, numbers=numbers)
        producer = self._main.producers.get(name)
        if producer is None:
            return _Row(name=name, value=name, node="", fault="inside a body", numbers=numbers)
        fault = None if producer.name else "its node has no name"
        return _Row(name=name, value=name, node=producer.name, fault=fault, numbers=numbers)

    def parameter(self, record: WeightRecord) -> _Row:
        """The row of a parameter, on the node that stores it."""
        parameter = record.parameter
        row = self.value(parameter.initializer, record.summary.overall.to_dict())
        return replace(row, name=parameter.name, fault="inside a body" if parameter.graph.path else row.fault)


def _overlay(
    folder: WholeFolder, graph: str, kind: str, quantity: str, rows: Iterable[_Row], colours: _Colours
) -> Overlay:
    name = f"{kind} {quantity}".replace("_", " ")
    results: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    holders: dict[str, str] = {}
    for row in rows:
        number = row.numbers[quantity]
        fault = row.fault or (_reason(quantity, row.numbers) if number is None else None)
        if fault is None and holders.setdefault(row.node, row.value) != row.value:
            fault = "another value of its node is shown"
        if fault is None:
            results[row.node] = {"value": number}
        else:
            left_out[row.name] = fault
    if results:
        folder.write(_file_name(kind, quantity), dump_json({graph: {"results": results, "name": name, **colours}}))
    return Overlay(
        name=name,
        file=_file_name(kind, quantity) if results else None,
        shown=len(results),
        left_out=tuple(left_out.items()),
    )


def _reason(quantity: str, numbers: Mapping[str, Any]) -> str:
    if numbers.get("reason"):
        return str(numbers["reason"])
    if quantity == "sqnr_db" and numbers["relative_l2"] == 0:
        return "infinite: the same in both models"
    return "not known" if quantity == "own_relative_l2" else "no finite number"
