"""The child's side of the contract: a request arrives, a framework exports, the model is written, an answer returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from onnxscope.converting.contract import ConversionReport, ConversionRequest
from onnxscope.converting.saving import save_model
from onnxscope.errors import OnnxscopeError
from onnxscope.model.provenance import Provenance, write_provenance
from onnxscope.runtime.nodes import opset_of

__all__ = ["serve_child", "write_conversion"]


def serve_child(export: Callable[[ConversionRequest], ConversionReport], arguments: Sequence[str]) -> int:
    """Answer one request inside the child process: the body of a converter's `__main__` block.

    Args:
        export: Does the conversion; raises an `OnnxscopeError` with a line that a user can act on.
        arguments: Paths of the request and of the answer, as `run_child` passes them.

    Returns:
        The exit code: 0, or 1 where the answer is an error.
    """
    question, answer = map(Path, arguments)
    fields = json.loads(question.read_text(encoding="utf-8"))
    shapes = tuple((name, tuple(dims)) for name, dims in fields.pop("input_shapes"))
    libraries = tuple(fields.pop("custom_ops"))
    request = ConversionRequest(**fields, input_shapes=shapes, custom_ops=libraries)
    record: dict[str, Any]
    try:
        record = asdict(export(request))
    except OnnxscopeError as error:
        record = {"error": str(error), "hint": error.hint, "kind": type(error).__name__}
    except (Exception, SystemExit) as error:  # the user's factory may raise anything
        text = " ".join(str(error).split()) or "no message"
        record = {"error": f"{type(error).__name__}: {text[:500]}: {request.source}"}
    answer.write_text(json.dumps(record), encoding="utf-8")
    return 1 if "error" in record else 0


def write_conversion(
    request: ConversionRequest, model: onnx.ModelProto, provenance: Provenance, *, framework: str, notes: Sequence[str]
) -> ConversionReport:
    """Write an exported model with its provenance to the request's output.

    Args:
        request: What was asked for.
        model: As exported and cleaned; it gets the provenance as metadata, and is not used afterwards.
        provenance: With every parameter.
        framework: Name and version, as in `ConversionReport.framework`.
        notes: Remarks for the user so far.

    Returns:
        The report, without a verification.

    Raises:
        OutputError: Nothing was written.
    """
    for key, value in write_provenance(provenance).items():
        model.metadata_props.add(key=key, value=value)
    opset = opset_of(model)
    if save_model(model, request.output):
        notes = [*notes, f"the weights are in {Path(request.output).name}.data, which belongs beside the model"]
    return ConversionReport(
        output=request.output,
        framework=framework,
        opset=opset,
        parameters=len(provenance.parameters),
        absent=sum(parameter.initializer is None for parameter in provenance.parameters),
        notes=tuple(notes),
    )
