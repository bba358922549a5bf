"""Files that onnxruntime's own optimizer writes, in layouts of its own: read right, or named, and never as NCHW."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import onnxscope
from onnxscope.errors import OnnxscopeError
from onnxscope.model.loading import load_model

X = np.random.default_rng(1).standard_normal((1, 16, 12, 12)).astype(np.float32)


class Calibration(CalibrationDataReader):
    def __init__(self):
        self._batches = iter([{"x": X}])

    def get_next(self):
        return next(self._batches, None)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 16, 12, 12] x) => (float[1, 32] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)  b = Relu(a)
            c = Conv<pads = [1, 1, 1, 1]>(b, w2, b2)  d = Add(c, b)  e = Relu(d)
            p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)
            f = Conv(p, w3)  s = LeakyRelu(f)  q = GlobalAveragePool(s)  y = Flatten(q) }""")
    shapes = {"w1": (16, 16, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (32, 16, 1, 1)}
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    path = tmp_path_factory.mktemp("layouts") / "m.onnx"
    onnx.save(model, path)
    return path


def optimized(path, level):
    """The copy that onnxruntime saves."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path.with_suffix(f".{level}.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options)
    return path.with_suffix(f".{level}.onnx")


def channel_means(path, value):
    """By plain onnxruntime, of a value of the original."""
    model = onnx.load(path)
    model.graph.output.add().name = value
    answer = onnxruntime.InferenceSession(model.SerializeToString()).run([value], {"x": X})[0]
    return answer.astype(np.float64).mean(axis=(0, 2, 3))


def test_fused_convolutions_are_read_in_the_layout_that_they_keep(original):
    path = optimized(original, "ORT_ENABLE_EXTENDED")
    assert {node.op_type for node in load_model(path).main.nodes} >= {"FusedConv"}
    for value in ("b", "c", "e", "p", "s"):
        tap = onnxscope.features(path, X, select=f"value:{value}")[0]
        np.testing.assert_allclose(tap.data.mean(axis=(0, 2, 3)), channel_means(original, value), rtol=1e-4, atol=1e-4)
    assert len(onnxscope.weights(path)) == 5


def test_values_in_blocks_of_channels_are_declined_and_named(original):
    path = optimized(original, "ORT_ENABLE_ALL")
    model = load_model(path)
    if "com.microsoft.nchwc" not in {node.domain for node in model.main.nodes}:
        pytest.skip("onnxruntime knows no blocks of channels on this processor")
    maps = onnxscope.features(path, X, select="value:*")
    seen = {tap.tap.value: tap.data for tap in maps}
    assert seen.keys() == {"x", "q", "y"}
    np.testing.assert_allclose(seen["q"].mean(axis=(0, 2, 3)), channel_means(original, "q"), rtol=1e-4)
    blocked = {output for node in model.main.nodes for output in node.outputs} - {"q", "y"}
    assert {missed.name for missed in maps.unreachable} == blocked
    assert {missed.reason for missed in maps.unreachable} == {
        "its channels lie in blocks, a layout of onnxruntime's optimizer (NCHWc)"
    }
    assert [tap.name for tap in onnxscope.stats(path, X, select="value:*")] == ["x", "q", "y"]
    weights = onnxscope.weights(path)
    assert not list(weights)
    assert {missed["reason"] for missed in weights.to_dict()["absent"]} == {"packed for Conv, not unpacked"}
    with pytest.raises(OnnxscopeError, match=r"no map of .*lie in blocks"):
        onnxscope.class_activation(path, X, layer="b_nchwc")


def test_what_an_ordinary_operator_computes_between_blocks_stays_in_blocks():
    model = load_model(
        onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "com.microsoft.nchwc": 1]>
        g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) {
            a = com.microsoft.nchwc.ReorderInput(x)  b = Sigmoid(a)  c = Mul(a, b)  d = Neg(x)
            e = com.microsoft.nchwc.ReorderOutput<channels = 8>(c)  y = Add(d, e) }""")
    )
    assert model.main.blocked == {"a", "b", "c"}
    x = X[:, :8, :4, :4]
    maps = onnxscope.features(model, x, select="value:*")
    seen = {tap.tap.value: tap.data for tap in maps}
    np.testing.assert_allclose(seen["e"], x / (1 + np.exp(-x.astype(np.float64))), rtol=1e-5)
    assert seen.keys() == {"x", "d", "e", "y"}


def test_quantized_operators_with_channels_last_keep_them_last(original):
    quantized = original.with_name("q.onnx")
    quantize_static(original, quantized, Calibration(), quant_format=QuantFormat.QOperator)
    path = optimized(quantized, "ORT_ENABLE_ALL")
    model = load_model(path)
    axes = model.channel_axes(())
    last = [node for node in model.main.nodes if node.attribute("channels_last") == 1 or node.op_type == "NhwcMaxPool"]
    assert len(last) == 4
    assert {axes[node.outputs[0]] for node in last} == {-1}
    pooled = next(node.outputs[0] for node in last if node.op_type == "NhwcMaxPool")
    tap = next(tap for tap in onnxscope.stats(path, X, select=f"value:{pooled}"))
    means = tap.state.moments.mean  # of the real numbers that the codes stand for
    expected = channel_means(original, "p")
    assert means.shape == expected.shape
    np.testing.assert_allclose(means, expected, atol=0.03 * expected.max())
