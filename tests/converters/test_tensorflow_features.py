"""Feature maps and weights of exported networks against Keras itself: layer outputs and `layer.weights`."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from converters.tensorflow_helpers import keras, quiet
from PIL import Image

import onnxscope
import onnxscope_tensorflow
from onnxscope.converting.contract import ConversionRequest
from onnxscope.errors import SelectorError

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
RELATIVE = 1e-4  # of the layer's largest value


def photograph(network):
    """The photograph as Keras's own utilities prepare it, (1, 224, 224, 3)."""
    with Image.open(PHOTOGRAPH) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((224, 224)), np.float32)[None]
    if network.startswith("resnet"):
        return keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="caffe")
    return pixels / 255


def before_activation(layer, entering):
    """What a convolution computes without its activation function, by Keras's own operations."""
    found = keras.ops.conv(entering, layer.kernel, strides=layer.strides, padding=layer.padding)
    return found + layer.bias if layer.use_bias else found


def flat_layers(model):
    """Layers in the order of calls, with their paths, those of nested Sequentials included."""
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            for inner in layer.layers:
                yield f"{layer.name}/{inner.name}", inner
        else:
            yield layer.name, layer


def entering_and_leaving(model, image):
    """For each layer what enters and what leaves it, on one image."""
    if not isinstance(model, keras.Sequential) and hasattr(model, "features"):
        x, kept = image, {}
        for name, layer in flat_layers(model):
            y = layer(x)
            kept[name] = (np.asarray(x), np.asarray(y))
            x = y
        return kept
    names = [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    values = {}
    inner = [model.get_layer(name) for name in names]
    flat = keras.Model(model.inputs, [tensor for layer in inner for tensor in (_only(layer.input), layer.output)])
    answers = flat.predict_on_batch(image)
    for index, name in enumerate(names):
        values[name] = (answers[2 * index], answers[2 * index + 1])
    return values


def _only(tensors):
    return tensors[0] if isinstance(tensors, list) else tensors


def following_activation(network, name, kept):
    """The layer whose output is what leaves the activation after a convolution, as the networks are written."""
    if network.startswith("alexnet"):
        return name
    if name == "conv1":
        return "relu"
    block, _, last = name.rpartition(".")
    rectifier = f"{block}.relu{last.removeprefix('conv')}"
    return rectifier if last.startswith("conv") and rectifier in kept else None


def assert_close(tap, expected):
    expected = np.asarray(expected)
    found = np.moveaxis(tap.data, tap.channel_axis, -1)  # the graph computes in N,C,H,W, Keras in N,H,W,C
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected)) < RELATIVE * np.max(np.abs(expected))


def rebuilt(network):
    """The same network with the same seed as Keras has it, and what its layers compute."""
    from onnxscope_tensorflow.networks import FACTORIES

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = FACTORIES[network]()
    image = photograph(network)
    model(image)
    return model, entering_and_leaving(model, image)


@pytest.fixture(
    scope="module",
    params=[
        "alexnet",
        "alexnet-subclassed",
        pytest.param("resnet34", marks=pytest.mark.acceptance),
        pytest.param("resnet50", marks=pytest.mark.acceptance),
    ],
)
def case(request, tmp_path_factory):
    network = request.param
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    onnxscope_tensorflow.convert(ConversionRequest(source=network, output=str(path)))
    model, kept = quiet(lambda: rebuilt(network))
    return network, onnxscope.load_model(path), model, kept


def convolutions(model):
    return {name: layer for name, layer in flat_layers(model) if isinstance(layer, keras.layers.Conv2D)}


def test_convolutions_before_the_activation(case):
    _, model, original, kept = case
    layers = convolutions(original)
    maps = onnxscope.features(model, PHOTOGRAPH, at="pre")
    assert [tap.tap.layer for tap in maps] == sorted(layers, key=[tap.tap.layer for tap in maps].index)
    for tap in maps:
        assert_close(tap, before_activation(layers[tap.tap.layer], kept[tap.tap.layer][0]))


def test_convolutions_after_the_activation(case):
    network, model, original, kept = case
    layers = convolutions(original)
    for tap in onnxscope.features(model, PHOTOGRAPH):
        name = following_activation(network, tap.tap.layer, kept)
        if name is None:
            assert_close(tap, before_activation(layers[tap.tap.layer], kept[tap.tap.layer][0]))
        else:
            assert_close(tap, kept[name][1])


def test_modules_are_what_leaves_them(case):
    network, model, _, kept = case
    modules = {"alexnet": [], "alexnet-subclassed": ["features", "classifier"]}.get(
        network, [f"layer{number}" for number in range(1, 5)]
    )
    if not modules:
        with pytest.raises(SelectorError):  # a functional model has none
            onnxscope.features(model, PHOTOGRAPH, select="features")
        return
    for at in ("pre", "post"):
        maps = onnxscope.features(model, PHOTOGRAPH, select=modules, at=at)
        assert [tap.tap.layer for tap in maps] == modules
        for tap in maps:
            last = [name for name in kept if name.startswith((tap.tap.layer + "/", tap.tap.layer + "."))][-1]
            assert_close(tap, kept[last][1])


def test_every_parameter_agrees_with_layer_weights(case):
    _, model, original, _ = case
    statistics = onnxscope.weights(model)
    variables = {variable.path: variable.numpy() for variable in original.weights}
    random_states = {name for name, reason in statistics.absent if reason == "random state"}
    assert {row.parameter.name for row in statistics} == set(variables) - random_states
    for row in statistics:
        values = variables[row.parameter.name].astype(np.float64)
        overall = row.summary.overall
        assert row.parameter.shape == values.shape
        assert overall.mean == pytest.approx(values.mean(), rel=1e-6, abs=1e-15)
        assert overall.std == pytest.approx(values.std(ddof=1), rel=1e-6)
        assert (overall.min, overall.max) == (values.min(), values.max())
        counts, edges = np.histogram(values, 50)
        assert row.summary.histogram.counts == tuple(counts)
        assert row.summary.histogram.edges == tuple(edges)
        if values.ndim > 1:
            assert row.parameter.channel_axis == values.ndim - 1
