"""A baseline: what a model is and does on named inputs, in a file that a person can review; `snapshot()`.

One line per layer, weight and node. Numbers are rounded to a millionth of the layer's own deviation, so that noise does
not change them, and nothing depends on the order of nodes or on names that an exporter made up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Unpack

import numpy as np
import onnx

from onnxscope._version import __version__
from onnxscope.analyses.weight_statistics import run_weights
from onnxscope.base import option_types
from onnxscope.base.files import record_file, refuse_foreign, write_whole
from onnxscope.base.json_files import Fields, JsonFormat, dump_json
from onnxscope.base.results import Record
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, samples_text
from onnxscope.comparison.whole_weights import SKETCH_SIZE
from onnxscope.errors import BaselineError
from onnxscope.gate.baseline_nodes import check_node, line_of_layer, node_rows, records_of, records_with_lines
from onnxscope.gate.baseline_rows import (
    NUMBERS,
    layer_rows,
    sha256_of,
    weight_rows,
)
from onnxscope.gate.observed_rows import Observed, observe
from onnxscope.gate.unstable_records import read_unstable, unstable_records
from onnxscope.model.loading import CustomOps, Model
from onnxscope.model.parameters import Parameter
from onnxscope.model.stored_model import InputSpec
from onnxscope.numerics.hashes import content_hash
from onnxscope.pairing.align_layers import LayerKey
from onnxscope.pairing.layer_weights import LayerWeights
from onnxscope.profiling.profile_file import unfit_values
from onnxscope.runtime.half_range import Unfit, unfit_sentence
from onnxscope.runtime.narrow_sums import remarks_on_narrow_sums
from onnxscope.runtime.session import runtime_version
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.structure.standard_model import standard_model
from onnxscope.structure.surroundings import surroundings

__all__ = ["SCHEMA", "Baseline", "keys_of", "run_snapshot", "snapshot"]

SCHEMA = "onnxscope.baseline/1"
_FORMAT = JsonFormat(
    noun="baseline",
    schema=SCHEMA,
    limit_bytes=64 << 20,
    error=BaselineError,
    made_by="`onnxscope snapshot MODEL -i INPUT -o FILE` writes one",
    other_schema="it comes from another version; take it again with `onnxscope snapshot`, and review what changed",
    damaged="the file is damaged; take it again",
)
_NUMBER = (int, float, type(None))
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "model": (dict,),
    "input": (dict, type(None)),
    "layers": (list,),
    "weights": (list,),
    "versions": (dict,),
}
_LAYER_FIELDS: Mapping[str, tuple[type, ...]] = {
    "layer": (str,),
    "call": (int,),
    "op_type": (str,),
    "norm": (str, type(None)),
    "activation": (str, type(None)),
    "attributes": (dict,),
    "weight_shape": (list,),
    "before": (str,),
    "behind": (str,),
    "content": (str, type(None)),
    "shape": (list, type(None)),
    **dict.fromkeys((*NUMBERS, "zero_fraction", "noise"), _NUMBER),
    **dict.fromkeys(("dead_channels", "nan_count", "inf_count"), (int, type(None))),
    "reproduces": (bool,),
}
_OPTIONAL_FIELDS: Mapping[str, tuple[type, ...]] = {
    "moved_fraction": (int, float),
    "place_mean": (int, float),
    "place_count": (int,),
}
_DECLARED_FIELDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "dtype": (str,),
    "shape": (list, type(None)),
}
_WEIGHT_FIELDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "layer": (str,),
    "shape": (list,),
    "dtype": (str,),
    "sha256": (str,),
    **dict.fromkeys((*NUMBERS, "zero_fraction"), _NUMBER),
}


@dataclass(frozen=True)
class Baseline(Record):
    """What a model was when the baseline was taken.

    Attributes:
        model: Names, element types and shapes of inputs and outputs.
        input: What it was fed, with the digest of the prepared tensors; None where nothing was run.
        layers: One record per layer and, where it was run, per output, in an order that does not depend on the stored
            one.
        weights: One record per parameter, by name.
        versions: What made it; for people.
        unfit: Values of half precision that held numbers beyond their type.
        unstable: One record per node that is random or carries state.
        nodes: One record per node, each behind those that it reads; None in a file of before there were any.
        notes: Remarks on what was taken for a sample; the file does not hold them.
    """

    model: dict[str, Any]
    input: dict[str, Any] | None
    layers: tuple[dict[str, Any], ...]
    weights: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    unfit: tuple[Unfit, ...] = ()
    unstable: tuple[dict[str, str], ...] = ()
    nodes: tuple[dict[str, Any], ...] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    frame_keys = ("layers",)

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "input": self.input,
            "layers": list(self.layers),
            "weights": list(self.weights),
            **({} if self.nodes is None else {"nodes": list(self.nodes)}),
            "versions": self.versions,
            **({"unfit": [value.to_dict() for value in self.unfit]} if self.unfit else {}),
            **({"unstable": list(self.unstable)} if self.unstable else {}),
        }

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the file, whole or not at all.

        Args:
            path: Where; a baseline that is there is replaced.
            force: Whether any other file is replaced too.

        Raises:
            OutputError: It cannot be written, or another file is there.
        """
        refuse_foreign([(path, record_file(SCHEMA))], force=force)
        write_whole(path, dump_json(self.to_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Baseline:
        """Read a file.

        Raises:
            BaselineError: It is missing, no baseline, damaged, or of another version.
        """
        fields = _FORMAT.read(path)
        with fields.checking():
            return _checked(fields)

    def table(self) -> Table:
        """One row per layer."""
        columns = ("layer", "operator", "shape", *NUMBERS, "zeros", "dead", "noise")
        rows = tuple(
            (
                row["layer"],
                row["op_type"],
                row["shape"] or row["weight_shape"] or "",
                *(row[key] for key in (*NUMBERS, "zero_fraction", "dead_channels", "noise")),
            )
            for row in self.layers
        )
        what = "structure and weights" if self.input is None else samples_text(self.input["samples"])
        beyond = f"; {unfit_sentence(self.unfit)}" if self.unfit else ""
        return Table(
            f"{counted(len(self.layers), 'layer')}, {counted(len(self.weights), 'weight')}: {what}{beyond}",
            columns,
            rows,
            ("noise", "operator", "shape"),
        )

    def __repr__(self) -> str:
        return self.table().text()


@option_types.checked
def snapshot(
    model: Any,
    inputs: Any = None,
    *,
    batch_size: int = 8,
    limit: int | None = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> Baseline:
    """Take a baseline of a model.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: What it is fed, as for `stats`; None takes structure and weights alone.
        batch_size: Samples of a run, where the model does not fix it.
        limit: Only the first so many samples.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Raises:
        ModelError: The model cannot be read.
        InputError: The inputs do not fit.
        RunError: onnxruntime fails.
    """
    options = RunOptions(
        **feeding,
        batch_size=batch_size,
        limit=limit,
        threads=threads,
    )
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    return run_snapshot(standard_model(loaded), inputs, options)


def run_snapshot(model: Model, inputs: Any, options: RunOptions) -> Baseline:
    """Take a baseline of a model in its one form, that of `standard_model`; see `snapshot`.

    Raises:
        InputError: The inputs do not fit.
        RunError: onnxruntime fails.
    """
    digests: dict[str, tuple[str, str | None]] = {}

    def digest(parameter: Parameter, values: np.ndarray[Any, Any]) -> None:
        digests[parameter.name] = sha256_of(values), content_hash(values)

    stored = run_weights(model, seen=digest)
    records = records_with_lines(model, {name: digest for name, (digest, _) in digests.items()})
    reader = LayerWeights(model, {name: content for name, (_, content) in digests.items()})
    rows = layer_rows(model, reader, records)
    observed = Observed() if inputs is None else observe(model, inputs, options, stored, rows)
    order = sorted(range(len(rows)), key=lambda place: rows[place].pop("sort"))
    calls: dict[str, int] = {}
    for place in order:
        name = rows[place]["layer"]
        rows[place]["call"] = calls[name] = calls.get(name, -1) + 1
    versions = {"onnxscope": __version__, "onnxruntime": runtime_version(), "onnx": onnx.__version__}
    libraries = model.to_dict().get("custom_ops", ())
    versions |= {} if model.running.is_default else {"execution provider": model.running.text}
    versions |= {f"custom operators {library['name']}": library["sha256"] for library in libraries}
    return Baseline(
        model={
            "inputs": [_spec(spec) for spec in model.declared_inputs],
            "outputs": [_spec(spec) for spec in model.outputs],
        },
        input=observed.record,
        layers=tuple(rows[place] for place in order),
        weights=tuple(weight_rows(model, stored, digests)),
        versions={**versions, "producer": model.producer},
        unfit=observed.unfit,
        unstable=unstable_records(model),
        nodes=node_rows(records),
        notes=(*observed.notes, *(() if inputs is None else remarks_on_narrow_sums(model))),
    )


def keys_of(baseline: Baseline) -> list[LayerKey]:
    """Return what the layers of a baseline are recognized by."""

    records = records_of(baseline.nodes)
    lines = line_of_layer(baseline.layers, records)
    around = surroundings(records)
    return [
        LayerKey(
            None if "#" in row["layer"] else row["layer"].replace("/", "."),
            row["op_type"],
            tuple(row["weight_shape"]),
            row["before"],
            row["behind"],
            partial(_content, row),
            tuple(filter(None, records[lines[place]].body.split("/"))) if place in lines else (),
            partial(_stands, around[lines[place]] if place in lines else None),
        )
        for place, row in enumerate(baseline.layers)
    ]


def _content(row: Mapping[str, Any]) -> str | None:
    digest: str | None = row["content"]
    return digest


def _stands(around: tuple[str, str] | None) -> tuple[str, str] | None:
    return around


def _spec(spec: InputSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def _check_whole(row: Fields) -> None:
    """Check what says what a layer does altogether, which not every layer has."""
    whole = row.values.get("whole")
    if whole is None:
        return
    names = whole.get("weights") if isinstance(whole, dict) else None
    numbers = whole.get("sketch") if isinstance(whole, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in (*names.values(), names.get("weight"))):
        row.fault("a whole without its weights")
    if not isinstance(numbers, list) or len(numbers) != SKETCH_SIZE or not all(map(_is_number, numbers)):
        row.fault("a whole without its sketch")


def _check_shape(row: Fields, key: str, sides: tuple[type, ...]) -> None:
    """Check what may be left out, and may have sides that are not known."""
    if not all(side is None or isinstance(side, sides) for side in row.values.get(key) or ()):
        row.fault(f"a {key} that is no shape")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked(fields: Fields) -> Baseline:
    """Return what a file of the right schema holds; faults are reported by `Fields.checking`."""
    fields.expect(_FIELDS)
    layers, parameters = fields.rows("layers"), fields.rows("weights")
    for row in layers:
        optional = {key: kinds for key, kinds in _OPTIONAL_FIELDS.items() if key in row.values}
        row.expect({**_LAYER_FIELDS, **optional})
        _check_whole(row)
    for row in parameters:
        row.expect(_WEIGHT_FIELDS)
    for row in (*layers, *parameters):
        for key in ("unread", "folds"):
            if row.values.get(key, True) is not True:
                row.fault(f"an {key} that is not true")
        for key in ("weight_shape", "shape"):
            _check_shape(row, key, (int,))
    nodes = fields.rows("nodes") if "nodes" in fields.values else None
    for place, row in enumerate(nodes or ()):
        check_node(row, place)
    values = fields.values
    given = values["input"]
    if given is not None and not (isinstance(given.get("samples"), int) and isinstance(given.get("content"), str)):
        fields.fault("an input without its digest")
    declared = fields.part("model")
    for row in (*declared.rows("inputs"), *declared.rows("outputs")):
        row.expect(_DECLARED_FIELDS)
        _check_shape(row, "shape", (int, str))
    return Baseline(
        model=values["model"],
        input=given,
        layers=tuple(row.values for row in layers),
        weights=tuple(row.values for row in parameters),
        versions=values["versions"],
        unfit=unfit_values(fields),
        unstable=read_unstable(fields),
        nodes=None if nodes is None else tuple(row.values for row in nodes),
    )
