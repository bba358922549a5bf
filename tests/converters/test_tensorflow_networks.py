"""The shipped networks: their published shapes, and their exports against Keras."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

from converters.tensorflow_helpers import convert, keras, layer_of, make, quiet, random

from onnxscope_tensorflow import SHIPPED, networks

CONVOLUTIONS = [(11, 11, 3, 48), (5, 5, 48, 128), (3, 3, 128, 192), (3, 3, 192, 192), (3, 3, 192, 128)]


def _kernels(model, kind):
    return [tuple(layer.kernel.shape) for layer in model._flatten_layers() if isinstance(layer, kind)]


def _convolutions(model):
    return sorted(_kernels(model, keras.layers.Conv2D), key=CONVOLUTIONS.index)


def _check(converted, model, image, tolerance=1e-5):
    found, expected = converted.run(image)[0], quiet(model, image).numpy()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    assert converted.report.absent == sum("seed_generator" in v.path for v in model.variables)
    for variable in model.weights:
        record = converted.records[variable.path]
        assert converted.initializers[record.initializer].tobytes() == variable.numpy().tobytes()


def test_every_shipped_name_has_a_factory_and_a_preset():
    assert set(SHIPPED) == set(networks.FACTORIES) == set(networks.PRESETS)


def test_alexnet_is_that_of_the_tutorial(tmp_path):
    converted = convert("alexnet", tmp_path, arguments={"num_classes": 7}, input_shapes=(("", (1, 96, 96, 3)),))
    model = make(networks.alexnet, 7, (96, 96, 3))
    assert _convolutions(model) == CONVOLUTIONS
    assert _kernels(model, keras.layers.Dense) == [(2 * 2 * 128, 2048), (2048, 2048), (2048, 7)]
    _check(converted, model, random(2, 96, 96, 3))
    assert converted.shapes == {"image": ["batch", 96, 96, 3], "softmax": ["batch", 7]}
    assert (converted.provenance.source, converted.provenance.preprocess) == ("alexnet", "unit")
    assert converted.operators("zero_padding2d") == ["Pad"]
    activated = {layer_of(node) for node in converted.model.graph.node if node.op_type == "Relu"}
    assert activated == {"conv2d", *(f"conv2d_{i}" for i in range(1, 5)), "dense", "dense_1"}
    assert converted.report.notes == (
        "the weights are Keras's initial ones, random with seed 0; `--weights` loads others",
    )


def test_the_subclassed_alexnet_has_features_and_a_classifier(tmp_path):
    shapes = (("", (1, 96, 96, 3)),)
    converted = convert("alexnet-subclassed", tmp_path, arguments={"num_classes": 7}, input_shapes=shapes)
    model = make(networks.alexnet_subclassed, 7)
    quiet(model, keras.Input((96, 96, 3)))
    assert _convolutions(model) == CONVOLUTIONS
    assert sorted(_kernels(model, keras.layers.Dense)) == [(128, 7), (512, 1024), (1024, 128)]
    _check(converted, model, random(2, 96, 96, 3))
    assert "alexnet/features/conv2d_4/kernel" in converted.initializers
    activated = {layer_of(node) for node in converted.model.graph.node if node.op_type == "Relu"}
    dense = {"classifier/dense", "classifier/dense_1"}
    assert activated == dense | {"features/conv2d", *(f"features/conv2d_{i}" for i in range(1, 5))}
    assert converted.provenance.preprocess == "unit"


def test_the_seed_decides_the_weights(tmp_path):
    shapes = (("", (1, 64, 64, 3)),)
    first, again, other = (
        convert("alexnet-subclassed", tmp_path, arguments={"num_classes": 2}, input_shapes=shapes, seed=seed)
        for seed in (5, 5, 6)
    )
    name = "alexnet/features/conv2d/kernel"
    assert np.array_equal(first.initializers[name], again.initializers[name])
    assert not np.array_equal(first.initializers[name], other.initializers[name])


@pytest.mark.parametrize(
    ("factory", "blocks", "parameters"),
    # What torchvision states for its networks.
    [(networks.resnet34, [3, 4, 6, 3], 21_797_672), (networks.resnet50, [3, 4, 6, 3], 25_557_032)],
)
def test_resnets_have_the_published_number_of_parameters(factory, blocks, parameters):
    model = make(factory)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_weights) == parameters
    names = {layer.name for layer in model.layers}
    assert [sum(f"layer{s}.{b}.conv1" in names for b in range(9)) for s in range(1, 5)] == blocks
    sides = [model.get_layer(f"layer{stage}.0.relu").output.shape[1] for stage in range(1, 5)]
    assert sides == [56, 28, 14, 7]


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
@pytest.mark.parametrize("mode", ["faithful", "deployed"])
def test_resnets_at_full_size(tmp_path, name, mode):
    converted = convert(name, tmp_path, mode=mode)
    model, image = make(networks.FACTORIES[name]), random(2, 224, 224, 3)
    assert converted.provenance.preprocess == "caffe"
    if mode == "faithful":
        _check(converted, model, image)
        convolutions = [layer_of(node) for node in converted.model.graph.node if node.op_type == "Conv"]
        assert sorted(convolutions) == sorted(x.name for x in model.layers if isinstance(x, keras.layers.Conv2D))
    else:
        found, expected = converted.run(image)[0], quiet(model, image).numpy()
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        assert converted.records["layer1.0.bn1/gamma"].reason == "folded into layer1.0.conv1/kernel"
