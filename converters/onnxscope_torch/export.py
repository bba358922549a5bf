"""The two exporters of torch.onnx: a module and an example become a ModelProto."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from onnxscope.converting.contract import ConversionRequest
from onnxscope.converting.factories import one_line
from onnxscope.errors import ConversionError
from onnxscope.runtime.nodes import opset_of
from onnxscope_torch.examples import Example

__all__ = ["EXPORTERS", "export_model"]

EXPORTERS = ("dynamo", "legacy")
_CHECK_SIZES = "other sizes or data may fail, which `--exporter dynamo` avoids"


def export_model(
    module: nn.Module, example: Example, output_names: tuple[str, ...], request: ConversionRequest
) -> tuple[onnx.ModelProto, list[str]]:
    """Export `module`, which is in inference mode.

    In `faithful` mode nothing is folded and no initializer renamed or merged; in `deployed` mode the exporter
    optimizes as it does by default.

    Returns:
        The model as the exporter wrote it, and remarks for the user.

    Raises:
        ConversionError: An unknown exporter, a module that it cannot export, or an opset that it cannot write.
    """
    exporter = request.exporter or EXPORTERS[0]
    if exporter not in EXPORTERS:
        raise ConversionError(f"no exporter named {exporter!r}: PyTorch", hint=f"one of {', '.join(EXPORTERS)}")
    run = _export_dynamo if exporter == "dynamo" else _export_legacy
    try:
        with _quiet() as remarks:
            model = run(module, example, output_names, request)
    except Exception as error:
        raise ConversionError(
            f"the {exporter} exporter failed ({_root_cause(error)}): {request.source}", hint=_hint(exporter, request)
        ) from error
    written = opset_of(model)
    if request.opset not in (None, written):
        raise ConversionError(
            f"the {exporter} exporter cannot write opset {request.opset} (it wrote {written}): {request.source}",
            hint="leave out `--opset`" if exporter == "legacy" else "`--exporter legacy` writes older opsets",
        )
    fixed = sum(remark.category.__name__ == "TracerWarning" for remark in remarks)
    if not fixed:
        return model, []
    return model, [f"the exporter fixed {fixed} decisions made in Python as they fell for the example: {_CHECK_SIZES}"]


def _export_dynamo(
    module: nn.Module, example: Example, output_names: tuple[str, ...], request: ConversionRequest
) -> onnx.ModelProto:
    axes = tuple(example.dynamic_axes[name] for name in example.names)
    program = torch.onnx.export(
        module,
        example.positional,
        kwargs=example.keywords,
        dynamo=True,
        input_names=list(example.names),
        output_names=list(output_names) or None,
        opset_version=request.opset,
        dynamic_shapes=_dynamic_shapes(module, example, axes) if any(axes) else None,
        optimize=request.mode == "deployed",
        verbose=False,
    )
    if program is None:
        raise ConversionError(f"the exporter returned nothing: {request.source}")
    return program.model_proto


def _dynamic_shapes(
    module: nn.Module, example: Example, axes: tuple[dict[int, str], ...]
) -> tuple[object, ...] | dict[str, object]:
    # A dictionary names arguments, which those that *args takes in do not have.
    if example.keywords:
        return dict(zip(example.names, axes, strict=True))
    code = getattr(type(module).forward, "__code__", None)
    variadic = code is not None and bool(code.co_flags & 0x04)
    fixed = code.co_argcount - 1 if code is not None else 0
    return (*axes[:fixed], tuple(axes[fixed:])) if variadic else axes


def _export_legacy(
    module: nn.Module, example: Example, output_names: tuple[str, ...], request: ConversionRequest
) -> onnx.ModelProto:
    faithful = request.mode == "faithful"
    # Through a file: above 2 GB this exporter can only write its weights beside one.
    with tempfile.TemporaryDirectory(prefix="onnxscope-") as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            module,
            example.positional,
            str(path),  # not a Path: with one it refuses to write external data
            kwargs=example.keywords,
            dynamo=False,
            input_names=list(example.names),
            output_names=list(output_names) or None,
            opset_version=request.opset,
            dynamic_axes={name: axes for name, axes in example.dynamic_axes.items() if axes},
            training=torch.onnx.TrainingMode.PRESERVE if faithful else torch.onnx.TrainingMode.EVAL,
            do_constant_folding=not faithful,
            # The only switch that stops it from merging parameters whose values are equal, such as zero biases.
            keep_initializers_as_inputs=faithful,
            verbose=False,
        )
        model = onnx.load(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep the exporters' remarks out of the log, which may end up in an error message; yield their warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(record=True) as remarks, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("always")
            yield remarks
    finally:
        logging.disable(before)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _hint(exporter: str, request: ConversionRequest) -> str:
    other = f"`--exporter {EXPORTERS[1 - EXPORTERS.index(exporter)]}` may do better"
    return other if request.static else f"{other}; so may `--static`, where the batch cannot vary"
