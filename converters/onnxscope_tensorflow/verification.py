"""Record what a Keras model's layers return, as the reference for the model that was exported from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from onnxscope.comparison.result import Comparison
from onnxscope.comparison.with_framework import FrameworkValue, compare_with_framework, name_inputs
from onnxscope.model.loading import CustomOps, load_model
from onnxscope_tensorflow.layers import layer_of_path, own_layers

__all__ = ["verify"]


def verify(model: Any, exported: Any, inputs: Any, *, custom_ops: CustomOps) -> Comparison:
    """Compare an exported model with the Keras model; see `onnxscope_tensorflow.verify`."""
    loaded = load_model(exported, custom_ops=custom_ops)
    given = list(inputs.values()) if isinstance(inputs, Mapping) else _listed(inputs)
    feeds = name_inputs(loaded, [np.asarray(value) for value in given])
    calls: list[FrameworkValue] = []
    with _recording(model, calls):
        tensors = [tf.convert_to_tensor(array) for array in feeds.values()]
        fed = dict(zip(inputs, tensors, strict=True)) if isinstance(inputs, Mapping) else tensors
        result = model(fed if isinstance(fed, dict) or len(tensors) > 1 else tensors[0], training=False)
    return compare_with_framework(
        loaded,
        feeds,
        calls,
        [np.asarray(output) for output in tf.nest.flatten(result)],
        framework=f"{type(model).__name__} {model.name} in keras {keras.__version__}",
        channels_last=keras.config.image_data_format() == "channels_last",
    )


def _listed(inputs: Any) -> list[Any]:
    is_several = isinstance(inputs, Sequence) and not isinstance(inputs, np.ndarray)
    return list(inputs) if is_several else [inputs]


@contextlib.contextmanager
def _recording(model: Any, calls: list[FrameworkValue]) -> Iterator[None]:
    """While it is entered, every call of a layer that owns variables is noted."""
    owners = own_layers(model, lambda variable: layer_of_path(variable.path, model.name))
    layers = {id(layer): layer for layer in model._flatten_layers() if id(layer) in owners}
    plain = {key: layer.call for key, layer in layers.items()}
    returned: dict[int, tuple[str, Any]] = {}  # with the tensor, so that no other gets its id

    def wrap(layer: Any, call: Any, name: str) -> Any:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if tf.is_tensor(output):
                source, _ = returned.get(id(args[0]), (None, None)) if args else (None, None)
                kind = type(layer).__name__
                calls.append(FrameworkValue(layer=name, kind=kind, array=np.array(output), source=source))
                returned[id(output)] = name, output
            return output

        return recorded

    try:
        for key, layer in layers.items():
            object.__setattr__(layer, "call", wrap(layer, plain[key], owners[key]))
        yield
    finally:
        for layer in layers.values():
            object.__delattr__(layer, "call")
