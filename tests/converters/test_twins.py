"""The same network in both frameworks, with the same weights: aligned by content, and nothing is found."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
pytest.importorskip("torch")

from converters.tensorflow_helpers import convert, keras
from safetensors.numpy import save_file

from onnxscope import diff
from onnxscope.base.plugins import load_converter
from onnxscope.converting.contract import ConversionRequest

HERE = str(Path(__file__))
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def alexnet_in_keras():
    """The shipped PyTorch AlexNet, layer for layer, for images with their channels last."""
    layers = keras.layers
    values = image = keras.Input((224, 224, 3))
    for place, (filters, size, stride, pad) in enumerate(
        [(96, 11, 4, 2), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1)]
    ):
        values = layers.ZeroPadding2D(pad)(values)
        values = layers.Conv2D(filters, size, stride, activation="relu", bias_initializer="glorot_normal")(values)
        if place in (0, 1, 4):
            values = layers.MaxPooling2D(3, 2)(values)
    values = layers.Flatten()(values)
    values = layers.Dense(2048, activation="relu")(values)
    values = layers.Dense(2048, activation="relu")(values)
    return keras.Model(image, layers.Dense(10)(values))


def state_of(initializers):
    """The same weights under PyTorch's names and in its layout."""
    kernels = sorted(
        (name for name in initializers if name.endswith("kernel")), key=lambda name: ("dense" in name, name)
    )
    places = [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6))]
    state = {}
    for name, place in zip(kernels, places, strict=True):
        kernel, bias = initializers[name], initializers[name.replace("kernel", "bias")]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        elif len(kernel) == 6 * 6 * 256:  # PyTorch flattens channels first
            kernel = kernel.reshape(6, 6, 256, -1).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)
        else:
            kernel = kernel.T
        state[f"{place}.weight"], state[f"{place}.bias"] = np.ascontiguousarray(kernel), bias
    return state


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    converted = convert(f"{HERE}:alexnet_in_keras", folder)
    converted.path.rename(folder / "keras.onnx")
    save_file(state_of(converted.initializers), folder / "weights.safetensors")
    request = ConversionRequest(
        source="alexnet",
        output=str(folder / "torch.onnx"),
        weights=str(folder / "weights.safetensors"),
        arguments={"num_classes": 10},
    )
    load_converter("torch").convert(request)
    return folder / "torch.onnx", folder / "keras.onnx"


def test_alexnet_in_keras_is_that_of_pytorch_layer_for_layer(twins):
    result = diff(*twins, PHOTO, preprocess="unit")
    expected = [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6))]
    assert [row.a.layer for row in result] == expected
    assert [row.b.layer for row in result][0:2] == ["conv2d", "conv2d_1"]
    assert result.equal, repr(result)
    assert not result.only_a
    assert not result.only_b
    assert not any(change.counts for change in result.weights)
    permuted = [change.layer for change in result.weights if change.change == "permuted"]
    assert permuted == ["classifier.1"]
    assert [pair.b.layer for pair in diff(*twins, align="content")] == [row.b.layer for row in result]


def test_two_channels_exchanged_in_one_of_them_are_found(twins):
    model = onnx.load(twins[1])
    tensor = next(each for each in model.graph.initializer if each.name.endswith("conv2d_2/kernel"))
    kernel = onnx.numpy_helper.to_array(tensor).copy()
    kernel[..., [4, 9]] = kernel[..., [9, 4]]
    tensor.CopyFrom(onnx.numpy_helper.from_array(kernel, tensor.name))
    result = diff(twins[0], model, PHOTO, preprocess="unit")
    assert [row.a.layer for row in result.guilty] == ["features.6"]
    assert result.first_divergence.b.layer == "conv2d_2"
