"""A framework's model becomes a file: `convert()`, for the command and the library."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

from onnxscope.base import option_types
from onnxscope.base.files import refuse_inputs
from onnxscope.base.plugins import load_converter
from onnxscope.converting.contract import ConversionReport, ConversionRequest, Converter
from onnxscope.converting.input_shapes import GivenShapes, named_shapes
from onnxscope.errors import ConversionError
from onnxscope.inputs.presets import Preset, recipe_file
from onnxscope.inputs.sounds import load_recipe
from onnxscope.model.loading import CustomOps, library_files
from onnxscope.model.provenance import Mode

__all__ = ["convert"]

_HOW_TO_NAME = "`path/to/file.py:factory`, `package.module:factory`, a saved model's path, or a shipped network's name"


Source = str | os.PathLike[str]
"""What a framework's model is made from: a file, or `FILE.py:FACTORY`; never the model itself, which is told apart."""


@option_types.checked
def convert(
    framework: str,
    source: Source,
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    input_shapes: GivenShapes = (),
    mode: Mode = "faithful",
    preprocess: str | os.PathLike[str] | Preset | None = None,
    opset: int | None = None,
    exporter: Literal["dynamo", "legacy"] | None = None,
    static: bool = False,
    seed: int = 0,
    verify: bool = False,
    custom_ops: CustomOps = (),
    force: bool = False,
) -> ConversionReport:
    """Export a framework's model to ONNX, in a process of its own: this one never loads the framework.

    Args:
        framework: `torch` or `tensorflow`.
        source: `file.py:factory`, `package.module:factory`, a saved model's path, or a shipped network's name.
        path: Where the model goes, whole or not at all.
        weights: A checkpoint to load into the built model.
        arguments: Keyword arguments of the factory: what JSON can hold.
        input_shapes: `(1, 3, 224, 224)`, several such by position, or a mapping by the inputs' names; None stands for a
            dynamic dimension, and a name may end with an element type, `ids:int64`.
        mode: `faithful` (nothing is folded, each parameter keeps its name and its numbers) or `deployed`.
        preprocess: A preset, or a recipe, to record for images or sounds.
        opset: Of ONNX; None leaves it to the converter.
        exporter: Which of PyTorch's exporters; None leaves it to the converter.
        static: Keep axis 0 of the inputs as given instead of making it the symbolic `batch`.
        seed: Of the initial weights.
        verify: Compare the result with the framework's own layers.
        custom_ops: Libraries of custom operators that onnxruntime loads to verify; their code runs.
        force: Also replace a file at `path` that is no ONNX model; never one that is read.

    Returns:
        What was written, and with `verify` whether both are equal; where they are not, the file is there all the same.

    Raises:
        ConversionError: The source, the checkpoint, the shapes or the export failed; nothing was written.
        InputError: There is no such preset or library.
        MissingDependencyError: There is no such converter, or its framework is not installed.
        OutputError: The file cannot be written, or would replace one that is read.
    """
    request = ConversionRequest(
        source=_text(source),
        output=os.fspath(path),
        weights=None if weights is None else os.fspath(weights),
        arguments=dict(arguments or {}),
        input_shapes=named_shapes(input_shapes),
        mode=_checked(mode),
        preprocess=None if preprocess is None else _recorded(preprocess),
        opset=opset,
        exporter=exporter,
        static=static,
        seed=seed,
        verify=verify,
        custom_ops=tuple(map(str, library_files(custom_ops))),
        force=force,
    )
    refuse_inputs(request.outputs, [recipe_file(preprocess)])
    converter: Converter = load_converter(framework)
    return converter.convert(request)


def _text(source: Any) -> str:
    if not isinstance(source, (str, os.PathLike)):
        fault = f"a model is converted from its source, not from a {type(source).__name__}"
        raise ConversionError(fault, hint=_HOW_TO_NAME)
    text: str = os.fspath(source)
    return text


def _checked(mode: Mode) -> Mode:
    if mode not in get_args(Mode):
        raise ConversionError(f"unknown mode {mode!r}", hint=f"one of {', '.join(get_args(Mode))}")
    return mode


def _recorded(preprocess: str | os.PathLike[str] | Preset) -> str:
    """What a model can record of a preset: its name, or the whole recipe, since the recipe's file stays behind."""
    record = (preprocess if isinstance(preprocess, Preset) else load_recipe(preprocess)).record
    return record if isinstance(record, str) else json.dumps(record)
