"""Convert Keras models and SavedModels to ONNX: the light half, which never imports tensorflow.

onnxscope.convert("tensorflow", "net.py:make", "net.onnx")
    convert()             here: are tensorflow and tf2onnx installed? then a child process
      child.export()      build or load the model, load its checkpoint, export, describe, save
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxscope.converting.contract import ConversionReport, ConversionRequest, require_packages, run_child

if TYPE_CHECKING:
    from onnxscope.comparison.result import Comparison
    from onnxscope.model.loading import CustomOps

__all__ = ["SHIPPED", "convert", "verify"]

SHIPPED = ("alexnet", "alexnet-subclassed", "resnet34", "resnet50")
"""Networks that need no source of the user's; the factories of these names are in `networks`."""

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",  # the same model on every machine, and no time lost on starting a GPU
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def convert(request: ConversionRequest) -> ConversionReport:
    """Export a Keras model or a SavedModel in a child process.

    `request.source` is a name of `SHIPPED`, `path/to/file.py:factory`, `package.module:factory`, a `.keras` or `.h5`
    file, or the folder of a SavedModel. A name in `request.input_shapes` may carry an element type (`ids:int32`, or
    `:int32` by position); without it the model's own counts, else float32.

    Raises:
        ConversionError: The source, the checkpoint, the shapes or the export failed; nothing was written.
        MissingDependencyError: tensorflow or tf2onnx is not installed.
    """
    require_packages(("tensorflow", "tf2onnx"), converter="TensorFlow", extra="tensorflow")
    return run_child("onnxscope_tensorflow.child", request, environment=_ENVIRONMENT)


def verify(model: Any, exported: Any, inputs: Any, *, custom_ops: CustomOps = ()) -> Comparison:
    """Compare an exported model with the Keras model it came from, layer by layer, in this process.

    Args:
        model: What was exported, a live Keras model. It is called once, with `training=False`.
        exported: The exported model: a path, a `ModelProto` or a loaded `Model`.
        inputs: What the Keras model is called with: an array, several in order, or a mapping.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.

    Returns:
        As `onnxscope.diff` does; the reference is what the framework's own layers return, under their names.

    Raises:
        InputError: The inputs are not as many as the model's, or there is no such library.
        RunError: onnxruntime fails.
    """
    from onnxscope_tensorflow.verification import verify as run

    return run(model, exported, inputs, custom_ops=custom_ops)
