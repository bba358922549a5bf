"""The child process: build the module, load its checkpoint, export it, describe its parameters, save the model."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import torch

from onnxscope.converting.child import serve_child, write_conversion
from onnxscope.converting.contract import ConversionReport, ConversionRequest
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import Mode, ParameterRecord, Provenance
from onnxscope_torch.checkpoints import load_checkpoint
from onnxscope_torch.cleaning import clean_model
from onnxscope_torch.examples import make_example
from onnxscope_torch.export import export_model
from onnxscope_torch.layers import node_layers, record_layers
from onnxscope_torch.observation import Observation, observe
from onnxscope_torch.sources import build_module, find_source
from onnxscope_torch.table import make_table
from onnxscope_torch.verification import verify_calls

__all__ = ["export"]

_SHIPPED_SHAPES = (("", (1, 3, 224, 224)),)
_SHIPPED_PRESET = "imagenet"


def export(request: ConversionRequest) -> ConversionReport:
    """Convert one module in this process.

    Raises:
        ConversionError: The source, the checkpoint, the shapes or the export failed; nothing was written.
        OutputError: The model could not be written.
    """
    _seed(request.seed)
    source = find_source(request.source)
    module = build_module(source, request.arguments, request.source)
    shapes = request.input_shapes or (_SHIPPED_SHAPES if source.shipped else ())
    example = make_example(module, shapes, static=request.static, seed=request.seed, source=request.source)
    observation = observe(module, example, request.source)  # before the weights: lazy modules get their shapes here
    notes = load_checkpoint(module, request.weights) if request.weights else []
    if source.shipped and not request.weights:
        notes.append(f"the weights are random, with seed {request.seed}; `--weights` loads a checkpoint")

    model, remarks = export_model(module, example, observation.output_names, request)
    notes += remarks
    clean_model(model)
    layers = node_layers(model, module)
    parameters = make_table(model, module, layers, observation)
    record_layers(model, layers, (tensor.name for tensor in model.graph.initializer))
    version = str(torch.__version__).partition("+")[0]
    provenance = Provenance(
        framework="torch",
        version=version,
        mode=request.mode,
        source=source.label,
        preprocess=request.preprocess or (_SHIPPED_PRESET if source.shipped else None),
        parameters=parameters,
    )
    report = write_conversion(
        request,
        model,
        provenance,
        framework=f"torch {version}",
        notes=[*notes, *_notes(parameters, observation, request.mode)],
    )
    if not request.verify:
        return report
    exported = load_model(request.output, custom_ops=request.custom_ops)
    comparison = verify_calls(module, exported, example.positional, example.keywords)
    return replace(report, verification=comparison.summary(), verified=comparison.equal)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def _notes(parameters: tuple[ParameterRecord, ...], observation: Observation, mode: Mode) -> list[str]:
    notes = []
    absent = {record.layer for record in parameters if record.initializer is None}
    folded = [norm for norm in observation.batch_norms if norm in absent and _is_folded(norm, parameters)]
    if folded:
        notes.append(f"BatchNorm was folded into the layer before it: {len(folded)} layers, first {folded[0]!r}")
    lost = [r.name for r in parameters if r.initializer is None and r.name in observation.used]
    if mode == "faithful" and lost:
        notes.append(f"{len(lost)} parameters are not in the graph as they are in the module, first {lost[0]!r}")
    return notes


def _is_folded(norm: str, parameters: tuple[ParameterRecord, ...]) -> bool:
    return any(r.layer == norm and (r.reason or "").startswith("folded") for r in parameters)


if __name__ == "__main__":
    sys.exit(serve_child(export, sys.argv[1:]))
