"""Small models for the tests of the TensorFlow converter, and the way there and back within this process.

Every function that takes no required argument and returns a model is a factory that the converter can be given.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

os.environ.update(
    {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    | {"TF_ENABLE_ONEDNN_OPTS": "0", "ORT_DISABLE_TELEMETRY": "1"}
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    import tensorflow as tf
    from keras import layers

    from onnxscope_tensorflow import child

from onnxscope.converting.contract import ConversionReport, ConversionRequest
from onnxscope.model.provenance import LAYER_KEY, ParameterRecord, Provenance, read_provenance

HERE = str(Path(__file__))


@dataclass
class Converted:
    """A conversion in this process, read back."""

    path: Path
    report: ConversionReport
    model: onnx.ModelProto
    provenance: Provenance

    @property
    def records(self) -> dict[str, ParameterRecord]:
        return {record.name: record for record in self.provenance.parameters}

    @property
    def initializers(self) -> dict[str, np.ndarray]:
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    @property
    def shapes(self) -> dict[str, list[str | int]]:
        values = (*self.model.graph.input, *self.model.graph.output)
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    def operators(self, layer: str) -> list[str]:
        return [node.op_type for node in self.model.graph.node if layer_of(node) == layer]

    def run(self, *arrays: np.ndarray, taps: tuple[str, ...] = ()) -> list[np.ndarray]:
        import onnxruntime

        tapped = onnx.ModelProto()
        tapped.CopyFrom(self.model)
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
        session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return session.run(None, dict(zip(names, arrays, strict=True)))


def layer_of(node: onnx.NodeProto) -> str | None:
    return next((entry.value for entry in node.metadata_props if entry.key == LAYER_KEY), None)


def convert(source: str, folder: Path, **options: Any) -> Converted:
    """Convert in this process; automatic names start afresh."""
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.utils.clear_session()
        report = child.export(ConversionRequest(source=source, output=str(path), **options))
    model = onnx.load(path)
    provenance = read_provenance({entry.key: entry.value for entry in model.metadata_props})
    assert provenance is not None
    return Converted(path, report, model, provenance)


def make(factory: Any, *arguments: Any, **options: Any) -> Any:
    """Call a factory as the converter does: same seed, same automatic names, so the same weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    return factory(*arguments, **options)


def quiet(function: Any, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).random(shape, dtype=np.float32)


def _train(model: Any) -> Any:
    """Give every variable but random states a value of its own, as training would; variances stay positive."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) * (0.2 if variable.ndim > 1 else 1))
    return model


def residual() -> Any:
    """A small ResNet with padding, BatchNorm, a shortcut and trained-looking numbers."""
    image = keras.Input((12, 12, 3), name="image")
    x = layers.ZeroPadding2D(1, name="pad")(image)
    x = layers.Conv2D(12, 3, strides=2, use_bias=False, name="conv1")(x)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv2")(x)
    y = layers.BatchNormalization(name="bn2")(y)
    y = layers.Conv2D(12, 1, activation="relu", name="conv3")(y)
    x = layers.Activation("relu", name="out")(layers.Add(name="add")([x, y]))
    x = layers.Dropout(0.5, name="drop")(layers.MaxPooling2D(2, name="pool")(x))
    x = layers.Dense(5, activation="softmax", name="fc")(layers.Flatten(name="flat")(x))
    return _train(keras.Model(image, x, name="net"))


def sequential() -> Any:
    """A Sequential with automatic names, depthwise and separable convolutions and zero biases."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.SeparableConv2D(5, 3, activation="tanh"),
            layers.Conv2DTranspose(4, 3, strides=2),
            layers.Conv2D(4, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.LayerNormalization(),
            layers.Dense(3),
        ]
    )


def shared() -> Any:
    """One convolution called twice, a nested Sequential, and a function of `keras.ops` between layers."""
    image = keras.Input((6, 6, 2), name="image")
    conv = layers.Conv2D(2, 3, padding="same", bias_initializer="random_normal", name="twice")
    features = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.ReLU()], name="features")
    x = conv(layers.ReLU(name="between")(conv(image)))
    x = keras.ops.multiply(features(x), 2.0)
    return keras.Model(image, layers.GlobalMaxPooling2D()(x), name="net")


class Block(layers.Layer):
    """A layer with layers inside and an operation of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.conv = layers.Conv2D(3, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return keras.ops.relu(self.norm(self.conv(x), training=training) + x)


class Subclassed(keras.Model):
    """Nested layers, a weight of the model's own, one that is never used, and two outputs."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.block = Block(name="block")
        self.head = keras.Sequential(
            [layers.Flatten(), layers.Dropout(0.5), layers.Dense(width, activation="relu")], name="head"
        )
        self.scale = self.add_weight(shape=(width,), initializer="random_normal", name="scale")
        self.idle = self.add_weight(shape=(2, 2), initializer="random_normal", name="idle")

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.block(x, training=training)
        return {"scores": self.head(x, training=training) * self.scale, "map": x}


class Pair(keras.Model):
    """Two arguments, no `training`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = layers.Embedding(10, 4, name="embedding")
        self.dense = layers.Dense(4, name="dense")

    def call(self, ids: Any, extra: Any) -> Any:
        return keras.ops.mean(self.embedding(ids), axis=1) + self.dense(extra)


def tokens() -> Any:
    """Integer input of any length, a dictionary of inputs, attention, and an LSTM that becomes a Loop."""
    inputs = {
        "ids": keras.Input((None,), dtype="int32", name="ids"),
        "bias": keras.Input((6,), name="bias"),
    }
    x = layers.Embedding(10, 6, name="embedding")(inputs["ids"])
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.LSTM(6, name="lstm")(x)
    return keras.Model(inputs, layers.Add(name="sum")([x, inputs["bias"]]), name="tokens")


def embedding() -> Any:
    """A few weights only: what the tests of files and errors use."""
    ids = keras.Input((3,), dtype="int32", name="ids")
    return keras.Model(ids, layers.Dense(2, name="fc")(layers.Embedding(7, 4, name="table")(ids)), name="net")


def chain(classes: int = 3) -> Any:
    """A convolution, BatchNorm, dropout and a dense layer, for checkpoints."""
    image = keras.Input((6, 6, 2), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(classes)(x), name="chain")


def unsupported() -> Any:
    """Ends in an operation that ONNX does not have."""
    image = keras.Input((4,), name="x")
    return keras.Model(image, _LogGamma(name="odd")(image))


class _LogGamma(layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.math.lgamma(x)


def called() -> Any:
    """A subclass that its factory has already called, so that its input's shape is known."""
    model = Subclassed()
    model(keras.Input((5, 5, 3)))
    return model


def deferred() -> Any:
    """A Sequential that does not know its input yet."""
    return keras.Sequential([layers.Conv2D(2, 3, name="conv"), layers.Flatten(), layers.Dense(2, name="fc")])


class Several(keras.Model):
    """One argument for several inputs: a list or a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2, name="dense")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        left, right = (inputs["left"], inputs["right"]) if isinstance(inputs, dict) else inputs
        return self.dense(left) - 2 * right


class _GraphOnly(layers.Layer):
    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: Any) -> Any:
        raise RuntimeError("not in a graph\nand more")


def untraceable() -> Any:
    """Is built, but cannot be run."""
    image = keras.Input((4,), name="x")
    return keras.Model(image, _GraphOnly()(image))


def failing() -> Any:
    raise ValueError("no such luck\nsecond line")


def number() -> int:
    return 7
