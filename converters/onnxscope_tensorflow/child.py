"""The child process: build or load the model, load its checkpoint, export it, describe its parameters, save it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from onnxscope.converting.child import serve_child, write_conversion
from onnxscope.converting.contract import ConversionReport, ConversionRequest
from onnxscope.errors import ConversionError
from onnxscope.inputs.random_inputs import random_feeds
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import Mode, ParameterRecord, Provenance
from onnxscope_tensorflow import networks
from onnxscope_tensorflow.checkpoints import load_checkpoint
from onnxscope_tensorflow.cleaning import attach_parameters, clean_model
from onnxscope_tensorflow.export import Exported, check_opset, export_keras
from onnxscope_tensorflow.inputs import bind_inputs
from onnxscope_tensorflow.layers import LayerIndex, node_layers, record_layers
from onnxscope_tensorflow.saved_models import export_saved_model
from onnxscope_tensorflow.sources import Source, build_model, find_source
from onnxscope_tensorflow.table import make_table
from onnxscope_tensorflow.verification import verify

__all__ = ["export"]

_SHIPPED_SHAPE = (None, 224, 224, 3)


def export(request: ConversionRequest) -> ConversionReport:
    """Convert one model in this process.

    Raises:
        ConversionError: The source, the checkpoint, the shapes or the export failed; nothing was written.
        OutputError: The model could not be written.
    """
    keras.utils.set_random_seed(request.seed % (1 << 32))
    opset = check_opset(request.opset, request.source)
    if request.exporter is not None:
        raise ConversionError(
            f"no exporter {request.exporter!r} for TensorFlow: {request.source}", hint="`--exporter` is for PyTorch"
        )
    source = find_source(request.source)
    notes: list[str] = []
    model = None
    if source.is_saved_model:
        exported = _convert_saved_model(source, request, opset)
    else:
        model, exported = _convert_keras(source, request, opset, notes)
    initializers = attach_parameters(exported)
    clean_model(exported)
    weights = {name: parameter.layer for name, parameter in zip(initializers, exported.parameters, strict=True) if name}
    layers = node_layers(exported.model.graph, LayerIndex(exported.operations), weights)
    parameters = make_table(exported, initializers, layers)
    record_layers(exported.model.graph, layers)
    provenance = Provenance(
        framework="tensorflow",
        version=str(tf.__version__),
        mode=request.mode,
        source=source.label,
        preprocess=request.preprocess or (networks.PRESETS[source.label] if source.shipped else None),
        parameters=parameters,
    )
    report = write_conversion(
        request,
        exported.model,
        provenance,
        framework=f"tensorflow {tf.__version__} (keras {keras.__version__})",
        notes=[*notes, *_notes(parameters, request.mode)],
    )
    if not request.verify:
        return report
    feeds = random_feeds(load_model(request.output).inputs, request.seed)
    comparison = verify(model, request.output, list(feeds.values()), custom_ops=request.custom_ops)
    return replace(report, verification=comparison.summary(), verified=comparison.equal)


def _convert_keras(source: Source, request: ConversionRequest, opset: int, notes: list[str]) -> tuple[Any, Exported]:
    arguments = dict(request.arguments)
    shapes = request.input_shapes
    if source.shipped:
        shapes = shapes or (("", _SHIPPED_SHAPE),)
        if source.label != "alexnet-subclassed" and "input_shape" not in arguments:
            arguments["input_shape"] = shapes[0][1][1:]
    model = build_model(source, arguments, request.source)
    binding = bind_inputs(model, shapes, static=request.static, source=request.source)
    if request.weights:
        notes += load_checkpoint(model, request.weights)
    elif source.shipped:
        notes.append(f"the weights are Keras's initial ones, random with seed {request.seed}; `--weights` loads others")
    return model, export_keras(binding, request.mode, opset, request.source)


def _convert_saved_model(source: Source, request: ConversionRequest, opset: int) -> Exported:
    if request.verify:
        raise ConversionError(
            f"a SavedModel has no layers to compare with: {request.source}",
            hint="`--verify` needs a Keras model: a factory, a .keras or a .h5",
        )
    if request.weights or request.arguments:
        what = "weights" if request.weights else "arguments"
        raise ConversionError(f"a SavedModel has its own {what}: {request.source}")
    assert source.saved is not None
    return export_saved_model(source.saved, request, opset)


def _notes(parameters: tuple[ParameterRecord, ...], mode: Mode) -> list[str]:
    notes = []
    folded = [r for r in parameters if (r.reason or "").startswith("folded")]
    if folded:
        notes.append(f"{len(folded)} parameters were folded into others, first {folded[0].name!r}: {folded[0].reason}")
    unused = [r for r in parameters if r.reason == "not used by call()"]
    if mode == "faithful" and unused:
        notes.append(f"{len(unused)} parameters are not used by the model's call, first {unused[0].name!r}")
    return notes


if __name__ == "__main__":
    sys.exit(serve_child(export, sys.argv[1:]))
