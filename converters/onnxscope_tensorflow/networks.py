"""The shipped networks: both AlexNets of the tutorial, ResNet34 and ResNet50, all with NHWC inputs.

The ResNets follow He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015, table 1, with the
stride of a bottleneck in its 3x3 convolution. Their layers are called as in PyTorch's: `layer1.0.conv1`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

__all__ = ["FACTORIES", "PRESETS", "alexnet", "alexnet_subclassed", "resnet34", "resnet50"]

_NORM_EPSILON = 1e-5
_NORM_MOMENTUM = 0.9


def alexnet(num_classes: int = 1000, input_shape: tuple[int, ...] = (224, 224, 3)) -> Any:
    """Return the functional AlexNet of the tutorial, with Keras's automatic names (`conv2d` to `conv2d_4`)."""
    image = keras.Input(input_shape, name="image")
    x = layers.ZeroPadding2D(((1, 2), (1, 2)))(image)
    x = layers.Conv2D(48, 11, strides=4, activation="relu")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(128, 5, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(192, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(192, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(0.2)(x)
        x = layers.Dense(2048, activation="relu")(x)
    x = layers.Dense(num_classes)(x)
    return keras.Model(image, layers.Softmax()(x), name="alexnet")


class _AlexNet(keras.Model):  # type: ignore[misc]  # keras has no type information
    def __init__(self, num_classes: int) -> None:
        super().__init__(name="alexnet")
        self.features = keras.Sequential(
            [
                layers.ZeroPadding2D(((1, 2), (1, 2))),
                layers.Conv2D(48, 11, strides=4, activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(128, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(192, 3, padding="same", activation="relu"),
                layers.Conv2D(192, 3, padding="same", activation="relu"),
                layers.Conv2D(128, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(3, 2),
            ],
            name="features",
        )
        self.flatten = layers.Flatten()
        self.classifier = keras.Sequential(
            [
                layers.Dropout(0.2),
                layers.Dense(1024, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(128, activation="relu"),
                layers.Dense(num_classes),
                layers.Softmax(),
            ],
            name="classifier",
        )

    def call(self, image: Any, training: bool | None = None) -> Any:
        x = self.flatten(self.features(image, training=training))
        return self.classifier(x, training=training)


def alexnet_subclassed(num_classes: int = 1000) -> Any:
    """Return the tutorial's AlexNet as a subclass of `keras.Model`; it has no parameters before its first call."""
    return _AlexNet(num_classes)


def resnet34(num_classes: int = 1000, input_shape: tuple[int, ...] = (224, 224, 3)) -> Any:
    """Return ResNet34: basic blocks, 3, 4, 6 and 3 of them. Its output is logits."""
    return _resnet("resnet34", (3, 4, 6, 3), False, num_classes, input_shape)


def resnet50(num_classes: int = 1000, input_shape: tuple[int, ...] = (224, 224, 3)) -> Any:
    """Return ResNet50: bottlenecks, 3, 4, 6 and 3 of them. Its output is logits."""
    return _resnet("resnet50", (3, 4, 6, 3), True, num_classes, input_shape)


def _resnet(name: str, depths: tuple[int, ...], bottleneck: bool, num_classes: int, shape: tuple[int, ...]) -> Any:
    image = keras.Input(shape, name="image")
    x = _convolve(image, 64, 7, 2, "conv1", "bn1")
    x = layers.ReLU(name="relu")(x)
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            x = _block(x, 64 << stage, stride, bottleneck, f"layer{stage + 1}.{index}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(image, layers.Dense(num_classes, name="fc")(x), name=name)


def _block(x: Any, filters: int, stride: int, bottleneck: bool, name: str) -> Any:
    plan = [(1, 1, 1), (3, stride, 1), (1, 1, 4)] if bottleneck else [(3, stride, 1), (3, 1, 1)]
    y = x
    for number, (size, step, widening) in enumerate(plan, start=1):
        y = _convolve(y, filters * widening, size, step, f"{name}.conv{number}", f"{name}.bn{number}")
        if number < len(plan):
            y = layers.ReLU(name=f"{name}.relu{number}")(y)
    if x.shape[1:] != y.shape[1:]:
        x = _convolve(x, y.shape[-1], 1, stride, f"{name}.downsample.0", f"{name}.downsample.1")
    return layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([x, y]))


def _convolve(x: Any, filters: int, size: int, stride: int, conv: str, norm: str) -> Any:
    if size > 1:  # "same" would pad an even input only on its far side when the stride is 2
        x = layers.ZeroPadding2D(size // 2, name=f"{conv}_pad")(x)
    x = layers.Conv2D(filters, size, strides=stride, use_bias=False, name=conv)(x)
    return layers.BatchNormalization(momentum=_NORM_MOMENTUM, epsilon=_NORM_EPSILON, name=norm)(x)


FACTORIES = {
    "alexnet": alexnet,
    "alexnet-subclassed": alexnet_subclassed,
    "resnet34": resnet34,
    "resnet50": resnet50,
}
"""Shipped name to factory."""

PRESETS = {"alexnet": "unit", "alexnet-subclassed": "unit", "resnet34": "caffe", "resnet50": "caffe"}
"""Shipped name to the preset of images that its tutorial uses."""
