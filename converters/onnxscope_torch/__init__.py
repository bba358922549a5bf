"""Convert PyTorch models to ONNX: the light half, which never imports torch.

onnxscope.convert("torch", "net.py:make", "net.onnx")
    convert()             here: are torch and onnxscript installed? then a child process
      child.export()      build the module, load its checkpoint, export, describe, save
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from onnxscope.converting.contract import ConversionReport, ConversionRequest, run_child
from onnxscope.errors import MissingDependencyError

if TYPE_CHECKING:
    from onnxscope.comparison.result import Comparison

__all__ = ["SHIPPED", "convert", "verify"]

SHIPPED = ("alexnet", "resnet34", "resnet50")
"""Networks that need no source of the user's; the factories of these names are in `networks`."""

_NEEDED = ("torch", "onnxscript")
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # the same model on every machine, and no time lost on starting a GPU
    "PYTHONHASHSEED": "0",  # same input, same bytes: no order may depend on the hashes of strings
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def convert(request: ConversionRequest) -> ConversionReport:
    """Export a PyTorch module in a child process.

    `request.source` is a name of `SHIPPED`, `path/to/file.py:factory` or `package.module:factory`. A name in
    `request.input_shapes` may carry an element type (`ids:int64`, or `:int64` by position); the default is float32.

    Raises:
        ConversionError: The source, the checkpoint, the shapes or the export failed; nothing was written.
        MissingDependencyError: torch or onnxscript is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"the PyTorch converter needs {' and '.join(missing)}: not installed",
            hint="pip install 'onnxscope[torch]'",
        )
    return run_child("onnxscope_torch.child", request, environment=_ENVIRONMENT)


def verify(module: Any, model: Any, inputs: Any) -> Comparison:
    """Compare an exported model with the PyTorch module it came from, layer by layer, in this process.

    Args:
        module: What was exported. It is run once in inference mode, and left as it was.
        model: The exported model: a path, a `ModelProto` or a loaded `Model`.
        inputs: What the module is called with: a tensor, several in order, or a mapping by argument.

    Returns:
        As `onnxscope.diff` does; the reference is what the framework's own layers return, under their names.

    Raises:
        InputError: The inputs are not as many as the model's.
        RunError: onnxruntime fails.
    """
    from onnxscope_torch.verification import verify as run

    return run(module, model, inputs)
