"""Layers as comparisons see them: what belongs to one, what leaves it, what lies before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
from onnx import numpy_helper

from onnxscope.model.layers import signatures
from onnxscope.model.loading import load_model

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def layers_of(source):
    return load_model(source).layers


def parsed(text, *names):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    for name in names:
        shape = {"w": (4, 4, 1, 1), "v": (4, 4), "s": (4,), "c": (4, 1, 1)}[name[0]]
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return model


def test_batchnorm_bias_scale_and_activation_belong_to_the_layer():
    model = parsed(
        """g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) {
            a = Conv(x, w1)  b = BatchNormalization(a, s1, s2, s3, s4)  d = Mul(b, c1)  e = Relu(d)
            f = Conv(e, w2)  h = Add(f, x)  y = Relu(h) }""",
        *("w1", "w2", "s1", "s2", "s3", "s4", "c1"),
    )
    first, second = layers_of(model)
    assert [node.op_type for node in first.parts] == ["Conv", "BatchNormalization", "Mul"]
    assert (first.inner, first.value, first.activated, first.norm.op_type) == ("d", "e", True, "BatchNormalization")
    assert (second.inner, second.value, second.activated, second.norm) == ("f", "f", False, None)
    assert (first.before, second.before) == ((), (0,))
    assert first.shape == (4, 4)


def test_a_batchnorm_of_its_own_and_a_prelu_behind_a_layer():
    model = parsed(
        """g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) {
            n = BatchNormalization(x, s1, s2, s3, s4)  r = Relu(n)  a = Conv(r, w1)  y = PRelu(a, c1) }""",
        *("w1", "s1", "s2", "s3", "s4", "c1"),
    )
    norm, conv = layers_of(model)
    assert (norm.kind, norm.value, norm.norm) == ("BatchNormalization", "r", None)
    assert [node.op_type for node in conv.parts] == ["Conv", "PRelu"]
    assert conv.value == "y"


def test_quantization_belongs_to_the_layer_before_it():
    layers = layers_of(FIXTURES / "digits_qdq.onnx")
    assert [layer.name for layer in layers] == ["stem.0", "block.0", "down.0", "classifier.2"]
    assert all(layer.quantized and layer.activated for layer in layers)


def test_a_layer_called_twice_is_there_twice_and_matrices_have_their_outputs_first():
    model = parsed(
        "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, v1)  b = Relu(a)  y = Gemm<transB = 1>(b, v1) }", "v1"
    )
    model.graph.node[0].name = model.graph.node[2].name = "twin"
    first, second = layers_of(model)
    assert [(layer.name, layer.call, layer.kind) for layer in (first, second)] == [
        ("twin", 0, "Linear"),
        ("twin", 1, "Linear"),
    ]


def test_a_transpose_without_an_order_turns_a_weight_round():
    texts = [
        f"g (float[N, 5] x) => (float[N, 3] y) {{ t = Transpose{order}(w)  y = MatMul(x, t) }}"
        for order in ("", "<perm = [1, 0]>")
    ]
    for text in texts:
        model = parsed(text)
        model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 5), np.float32), "w"))
        (layer,) = layers_of(model)
        (parameter,) = load_model(model).parameters
        assert (layer.shape, parameter.shape, parameter.channel_axis) == ((3, 5), (3, 5), 0)


def test_signatures_tell_layers_by_what_surrounds_them():
    text = "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, v1)  b = MatMul(a, v2)  y = MatMul(b, v3) }"
    shorter = "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, v1)  y = MatMul(a, v2) }"
    three, two = (
        signatures(layers_of(parsed(text, "v1", "v2", "v3"))),
        signatures(layers_of(parsed(shorter, "v1", "v2"))),
    )
    assert len(set(three)) == 3
    assert [before for before, _ in two] == [before for before, _ in three][:2]
    assert [behind for _, behind in two] == [behind for _, behind in three][1:]


def test_a_lookup_of_stored_sides_is_no_layer_and_one_of_other_numbers_is():
    text = """g (float[N, 4] x, int64[N] ids) => (float[N, 4] y, int64[N] m, float[N, 4] t) {
        sides = Constant <value = int64[3] {2, 4, 8}> ()  at = Constant <value = int64 {1}> ()
        n = Gather(sides, at)  k = Unsqueeze(n, axis)  y = Reshape(x, k)
        m = Gather(sides, ids)
        t = Gather(v1, places) }"""
    model = parsed(text, "v1")
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([0]), "axis"), numpy_helper.from_array(np.arange(4), "places")]
    )
    assert [layer.value for layer in layers_of(model)] == ["m", "t"]
