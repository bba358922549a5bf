"""Weights of channels for a class: loops over channels, on activations of onnx's own evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from class_models import CLASSES, KERNELS, X, channels_first, evaluated, refusal, residual, scaled, with_weights
from onnx.reference import ReferenceEvaluator
from opened_sessions import watch_sessions
from PIL import Image

from onnxscope.analyses.activation_maps import class_activation, run_class_activations
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.model.loading import load_model


@pytest.mark.parametrize("batch", ["batch", "1", "2"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_ablation_is_a_loop_over_channels(batch, batch_size):
    x = X[:2]
    activation = evaluated(channels_first(), "h", x)
    for sample, target in ((0, None), (1, 2)):
        found = class_activation(
            channels_first(batch), x, method="ablation", sample=sample, target=target, batch_size=batch_size
        )
        scores = activation[sample].astype(np.float64).mean(axis=(1, 2)) @ CLASSES
        of = int(scores.argmax()) if target is None else target
        weights = np.zeros(5)
        for channel in range(5):
            without = activation[sample].astype(np.float64)
            without[channel] = 0
            weights[channel] = (scores[of] - without.mean(axis=(1, 2)) @ CLASSES[:, of]) / abs(scores[of])
        expected = scaled(np.maximum(np.einsum("c,chw->hw", weights, activation[sample]), 0))
        np.testing.assert_allclose(found.map, expected, atol=1e-5)
        assert (found.output, found.target) == ("y", of)
        assert found.score == pytest.approx(scores[of], rel=1e-5)


@pytest.mark.parametrize("tail", ["y = MatMul(f, classes)", "l = MatMul(f, classes) y = Softmax(l)"])
@pytest.mark.parametrize("batch", ["batch", "1", "2"])
def test_score_masks_the_input_with_each_channel(tail, batch):
    model = channels_first(batch, tail)
    x = X[:2]
    found = class_activation(model, x, method="score", sample=1, target=3, batch_size=4)
    activation = evaluated(channels_first(), "h", x)[1]

    def probability(image):
        logits = evaluated(channels_first(), "y", image[None])[0].astype(np.float64)
        return (np.exp(logits) / np.exp(logits).sum())[3]

    weights = []
    for channel in activation:
        enlarged = np.asarray(Image.fromarray(channel).resize((10, 8), Image.Resampling.BILINEAR), np.float64)
        weights.append(probability((x[1] * scaled(enlarged)).astype(np.float32)) - probability(0 * x[1]))
    expected = scaled(np.maximum(np.einsum("c,chw->hw", weights, activation), 0))
    np.testing.assert_allclose(found.map, expected, atol=2e-4)


def test_a_channel_is_left_out_behind_the_layer_only():
    """The block's sum reads x by itself, which an ablated convolution leaves alone."""
    x = X[:1, :, :6, :6]
    found = class_activation(residual(), x, layer="Conv_0", method="ablation", target=1)
    activation = evaluated(residual(), "a", x)[0]
    weights = []
    for channel in range(3):
        cut = residual()
        del cut.graph.node[0]
        cut.graph.input.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 3, 6, 6]))
        without = activation[None].copy()
        without[:, channel] = 0
        (scores,) = ReferenceEvaluator(cut).run(["y"], {"x": x, "a": without})
        weights.append((evaluated(residual(), "y", x) - scores)[0, 1])
    expected = scaled(np.maximum(np.einsum("c,chw->hw", weights, activation), 0))
    np.testing.assert_allclose(found.map, expected, atol=1e-4)


def test_score_cam_masks_one_image_only():
    model = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[b, 3, 8, 10] x, float[b, 4] bias) => (float[b, 4] y) {
            h = Conv(x, kernels)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            l = MatMul(f, classes)
            y = Add(l, bias)
        }""",
        kernels=KERNELS,
        classes=CLASSES,
    )
    inputs = {"x": X, "bias": np.zeros((3, 4), np.float32)}
    assert refusal(model, inputs, method="score") == (
        "Score-CAM masks one image, and the model takes x (b, 3, 8, 10), bias (b, 4): net",
        "the methods `eigen` and `ablation` mask no input",
    )
    plain = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[b, 3, 8, 10] x) => (float[b, 4] y) {
            h = Conv(x, kernels)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            y = MatMul(f, classes)
        }""",
        kernels=KERNELS,
        classes=CLASSES,
    )
    found = class_activation(model, inputs, method="ablation", target=0, sample=1)
    np.testing.assert_allclose(
        found.map, class_activation(plain, X, method="ablation", target=0, sample=1).map, atol=1e-5
    )


@pytest.mark.parametrize("method", ["ablation", "score"])
def test_sessions_do_not_grow_with_the_samples(monkeypatch, method):
    model = load_model(channels_first())
    prepared = open_dataset(X, model, RunOptions()).whole()
    sessions = watch_sessions(monkeypatch)
    counts = []
    for samples in ([0], range(len(X))):
        sessions.clear()
        maps = run_class_activations(model, prepared, RunOptions(), list(samples), method=method, target=1)
        assert len(maps) == len(samples)
        counts.append(len(sessions))
    assert len(X) > 1
    assert counts[0] == counts[1]
    for sample, found in enumerate(maps):
        alone = class_activation(channels_first(), X, method=method, target=1, sample=sample)
        np.testing.assert_allclose(found.map, alone.map, atol=1e-6)
