"""Convert PyTorch models to ONNX: the light half, which never imports torch.

onnxscope.convert("torch", "net.py:make", "net.onnx")
    convert()             here: are torch and onnxscript installed? then a child process
      child.export()      build the module, load its checkpoint, export, describe, save
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxscope.converting.contract import ConversionReport, ConversionRequest, require_packages, run_child

if TYPE_CHECKING:
    from onnxscope.comparison.result import Comparison
    from onnxscope.model.loading import CustomOps

__all__ = ["SHIPPED", "convert", "verify"]

SHIPPED = ("alexnet", "resnet34", "resnet50")
"""Networks that need no source of the user's; the factories of these names are in `networks`."""

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # the same model on every machine, and no time lost on starting a GPU
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
    require_packages(("torch", "onnxscript"), converter="PyTorch", extra="torch")
    return run_child("onnxscope_torch.child", request, environment=_ENVIRONMENT)


def verify(module: Any, model: Any, inputs: Any, *, custom_ops: CustomOps = ()) -> Comparison:
    """Compare an exported model with the PyTorch module it came from, layer by layer, in this process.

    Args:
        module: What was exported. It is run once in inference mode, and left as it was.
        model: The exported model: a path, a `ModelProto` or a loaded `Model`.
        inputs: What the module is called with: a tensor, several in order, or a mapping by argument.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.

    Returns:
        As `onnxscope.diff` does; the reference is what the framework's own layers return, under their names.

    Raises:
        InputError: The inputs are not as many as the model's, or there is no such library.
        RunError: onnxruntime fails.
    """
    from onnxscope_torch.verification import verify as run

    return run(module, model, inputs, custom_ops=custom_ops)
