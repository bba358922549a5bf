"""From a built Keras model to a graph whose inputs are the model's inputs and, in faithful mode, its variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import onnx
import tensorflow as tf
import tf2onnx
from tf2onnx import constants

from onnxscope.base.text import printable
from onnxscope.converting.factories import one_line
from onnxscope.errors import ConversionError
from onnxscope.model.provenance import Mode
from onnxscope.runtime.nodes import opset_of
from onnxscope_tensorflow.inputs import Binding, InputSpec, takes_training
from onnxscope_tensorflow.layers import CallRecorder, layer_of_path
from onnxscope_tensorflow.steadiness import steady_tf2onnx

__all__ = ["DEFAULT_OPSET", "Exported", "Parameter", "check_opset", "export_keras", "layer_feeds", "run_tf2onnx"]

DEFAULT_OPSET = 18
"""The newest that tf2onnx 1.17 writes."""

_OLDEST_OPSET = 13
_SCOPE = "model"  # a layer called `_private` is not allowed outside every scope


@dataclass(frozen=True)
class Parameter:
    """One variable of the framework's model.

    Attributes:
        name: `variable.path`, verbatim.
        layer: `name` without the variable and the model's own scope.
        shape: Of the variable.
        dtype: numpy's name.
        value: Returns a copy of the values.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    dtype: str
    value: Callable[[], Any]


@dataclass
class Exported:
    """What tf2onnx made of a model.

    Attributes:
        model: Its graph inputs are those of `inputs`, then one for each of `parameters` in faithful mode.
        inputs: The model's own.
        outputs: Names for the graph's outputs, in order.
        parameters: In the framework's order.
        handles: The graph inputs that stand for `parameters`; empty in deployed mode.
        operations: TensorFlow operation to layer.
        feeds: Layer to the layers whose values it reads.
    """

    model: onnx.ModelProto
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    handles: tuple[str, ...]
    operations: dict[str, str]
    feeds: dict[str, tuple[str, ...]]


def check_opset(opset: int | None, source: str) -> int:
    """Return the opset to write.

    Raises:
        ConversionError: tf2onnx cannot write it.
    """
    newest = max(constants.OPSET_TO_IR_VERSION)
    if opset is not None and not _OLDEST_OPSET <= opset <= newest:
        raise ConversionError(
            f"opset {opset} cannot be written by tf2onnx {tf2onnx.__version__}: {source}",
            hint=f"`--opset` takes {_OLDEST_OPSET} to {newest}",
        )
    return opset or DEFAULT_OPSET


def export_keras(binding: Binding, mode: Mode, opset: int, source: str) -> Exported:
    """Trace a Keras model in inference mode and convert the trace.

    In faithful mode every variable is an argument of the traced function, so that nothing can fold, drop or rename it.

    Raises:
        ConversionError: The model cannot be traced, or ONNX has no counterpart for one of its operations.
    """
    model = binding.model
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    order = {id(variable): index for index, variable in enumerate(model.variables)}
    recorder = CallRecorder(model, lambda variable: layer_of_path(variable.path, model.name))
    run = _faithful(binding, recorder) if mode == "faithful" else _deployed(binding, recorder)
    handles = [f"onnxscope_parameter_{i}" for i in range(len(variables))] if mode == "faithful" else []
    signature = [tf.TensorSpec(spec.shape, spec.dtype, f"onnxscope_input_{i}") for i, spec in enumerate(binding.inputs)]
    signature += [tf.TensorSpec(v.shape, v.dtype, name) for v, name in zip(variables, handles, strict=False)]
    function = tf.function(run, autograph=False)
    try:
        concrete = function.get_concrete_function(*signature)
    except Exception as error:
        _fail("the model cannot be traced", error, source)
    proto = run_tf2onnx(
        lambda: tf2onnx.convert.from_function(function, input_signature=signature, opset=opset)[0],
        keep_pads=mode == "faithful",
        source=source,
    )
    pairs = sorted(zip(variables, handles or [""] * len(variables), strict=True), key=lambda pair: order[id(pair[0])])
    return Exported(
        model=proto,
        inputs=binding.inputs,
        outputs=_output_names(model, len(concrete.outputs)),
        parameters=tuple(_parameter(variable, model.name) for variable, _ in pairs),
        handles=tuple(handle for _, handle in pairs) if handles else (),
        operations=recorder.layers,
        feeds=layer_feeds(concrete.graph, recorder.layers),
    )


def run_tf2onnx(convert: Callable[[], onnx.ModelProto], *, keep_pads: bool, source: str) -> onnx.ModelProto:
    """Run one conversion so that it gives the same bytes each time.

    Args:
        convert: Calls tf2onnx.
        keep_pads: Leave a padding layer its own node instead of making it an attribute of the convolution after it.
        source: For messages.

    Raises:
        ConversionError: tf2onnx failed, or left an operation that ONNX does not have.
    """
    model = None
    # Without a copy of the graph before each optimizer tf2onnx is faster, but then one that fails ends it all.
    for careful in (False, True):
        with steady_tf2onnx(keep_pads=keep_pads):
            os.environ.pop(constants.ENV_TF2ONNX_CATCH_ERRORS, None)
            if not careful:
                os.environ[constants.ENV_TF2ONNX_CATCH_ERRORS] = "FALSE"
            try:
                model = convert()
                break
            except Exception as error:
                if careful:
                    _fail("tf2onnx cannot convert the model", error, source)
    assert model is not None
    _check_operators(model, source)
    return model


def _faithful(binding: Binding, recorder: CallRecorder) -> Callable[..., list[Any]]:
    model = binding.model
    count, trainable = len(binding.inputs), len(model.trainable_variables)
    training = {"training": False} if takes_training(model) else {}

    def run(*tensors: Any) -> list[Any]:
        values = list(tensors[count:])
        positional, keywords = binding.arrange(tensors[:count])
        with recorder, tf.name_scope(_SCOPE):
            outputs, _ = model.stateless_call(
                values[:trainable], values[trainable:], *positional, **keywords, **training
            )
        return [tf.identity(tensor) for tensor in keras.tree.flatten(outputs)]

    return run


def _deployed(binding: Binding, recorder: CallRecorder) -> Callable[..., list[Any]]:
    training = {"training": False} if takes_training(binding.model) else {}

    def run(*tensors: Any) -> list[Any]:
        positional, keywords = binding.arrange(tensors)
        with recorder, tf.name_scope(_SCOPE):
            outputs = binding.model(*positional, **keywords, **training)
        return [tf.identity(tensor) for tensor in keras.tree.flatten(outputs)]

    return run


def _parameter(variable: Any, model_name: str) -> Parameter:
    return Parameter(
        name=variable.path,
        layer=layer_of_path(variable.path, model_name),
        shape=tuple(variable.shape),
        dtype=keras.backend.standardize_dtype(variable.dtype),
        value=lambda: keras.ops.convert_to_numpy(variable.value).copy(),
    )


def _output_names(model: Any, count: int) -> tuple[str, ...]:
    names: Sequence[str] = getattr(getattr(model, "_functional", None) or model, "output_names", None) or ()
    if len(names) == count and len(set(names)) == count:
        return tuple(names)
    return tuple(f"output_{index}" for index in range(count))


def layer_feeds(traced: Any, layers: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return for each layer those it reads from, in order: what a BatchNorm may have been folded into."""
    feeds: dict[str, dict[str, None]] = {}
    for operation in traced.get_operations():
        layer = layers.get(operation.name)
        for tensor in operation.inputs if layer else ():
            source = layers.get(tensor.op.name)
            if layer and source and source != layer:
                feeds.setdefault(layer, {})[source] = None
    return {layer: tuple(sources) for layer, sources in feeds.items()}


def _check_operators(model: onnx.ModelProto, source: str) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        version = opset_of(model)
        unknown = [n for n in model.graph.node if not n.domain and not onnx.defs.has(n.op_type, version, "")]
        if unknown:
            raise ConversionError(
                f"ONNX opset {version} has nothing for TensorFlow's {unknown[0].op_type} "
                f"({printable(unknown[0].name)}): {source}",
                hint="rewrite that layer with other operations, or leave it out of the exported model",
            ) from error
        _fail("tf2onnx made an invalid model", error, source)


def _fail(what: str, error: BaseException, source: str) -> NoReturn:
    raise ConversionError(f"{what} ({one_line(error)}): {source}") from error
