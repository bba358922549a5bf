"""Weights of layers: by role, with the output channels first, and a digest that no order of the numbers changes."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import DEPLOYED, DIGITS, WEIGHTS, parsed

from onnxscope.comparison.compare_models import diff
from onnxscope.model.loading import load_model
from onnxscope.pairing.layer_weights import LayerWeights
from onnxscope.pairing.model_layers import ModelLayers

RNG = np.random.default_rng(9)


def read(model):
    side = ModelLayers(load_model(model))
    return [side.weights.read(layer) for layer in side.layers]


def one_node(node, **weights):
    text = '<ir_version: 9, opset_import: ["": 18]> net (float[batch, %s] x) => (float[N] y) { y = %s }'
    return parsed(text % node, **weights)


@pytest.mark.parametrize(
    ("node", "weight", "rows"),
    [
        (("4", "Gemm<transB = 1>(x, w)"), (5, 4), lambda w: w),
        (("4", "Gemm(x, w)"), (4, 5), lambda w: w.T),
        (("4", "MatMul(x, w)"), (4, 5), lambda w: w.T),
        (("4, 6, 6", "Conv(x, w)"), (5, 4, 3, 3), lambda w: w),
        (("4, 6, 6", "ConvTranspose(x, w)"), (4, 5, 3, 3), lambda w: w.swapaxes(0, 1)),
        (
            ("4, 6, 6", "ConvTranspose<group = 2>(x, w)"),
            (4, 5, 3, 3),  # outputs 0 to 4 read inputs 0 and 1, outputs 5 to 9 the others
            lambda w: np.concatenate([w[:2].swapaxes(0, 1), w[2:].swapaxes(0, 1)]),
        ),
    ],
)
def test_output_channels_come_first(node, weight, rows):
    w = RNG.standard_normal(weight, np.float32)
    (weights,) = read(one_node(node, w=w))
    np.testing.assert_array_equal(weights["weight"].values, rows(w))


def test_a_batchnorm_has_roles_of_its_own():
    norms = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert set().union(*read(DIGITS)) == {"weight", "bias", *norms}
    assert set().union(*read(DEPLOYED)) == {"weight", "bias"}


def test_the_digest_is_that_of_the_numbers_in_any_order():
    w = WEIGHTS["w1"]
    digests = []
    for values in (w, w[::-1], w.swapaxes(-1, -2), w + np.float32(1e-6)):
        side = ModelLayers(load_model(one_node(("3, 6, 6", "Conv(x, w)"), w=np.ascontiguousarray(values))))
        digests.append(side.weights.content(side.layers[0]))
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_weights_of_two_branches_that_have_one_name_are_told_apart():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 18]>
        net (bool c, float[N, 2] x) => (float[N, 2] y) { y = If (c) <
            then_branch = t () => (float[N, 2] p) <float[2, 2] w = {1, 2, 3, 4}> { p = MatMul(x, w) },
            else_branch = e () => (float[N, 2] q) <float[2, 2] w = {5, 6, 7, 8}> { q = MatMul(x, w) }> }""")
    side = ModelLayers(load_model(model))
    assert [side.weights.read(layer)["weight"].name for layer in side.layers] == ["w", "w_2"]
    known = LayerWeights(side.model, {"w": "first", "w_2": "second"})
    assert [known.content(layer) for layer in side.layers] == ["first", "second"]


def test_every_one_of_two_biases_and_two_factors_is_read():
    arrays = {"w": (4, 3), "b": (3,), "k": (3,), "c": (3,), "f": (3,)}
    text = """<ir_version: 9, opset_import: ["": 18]>
        net (float[n, 4] x) => (float[n, 3] y) { m = MatMul(x, w) a = Add(m, b) s = Mul(a, k) t = Add(s, c)
            y = Mul(t, f) }"""
    weights = {name: RNG.standard_normal(shape, np.float32) for name, shape in arrays.items()}
    (found,) = read(parsed(text, **weights))
    assert sorted(weight.name for weight in found.values()) == sorted(weights)
    for name, values in weights.items():
        changed = diff(parsed(text, **weights), parsed(text, **weights | {name: values * 2})).weights
        assert [change.a for change in changed if change.counts] == [name]


def test_a_weight_that_nobody_can_compute_is_not_taken_for_compared():
    text = """<ir_version: 9, opset_import: ["": 18, "private": 1]>
        net (float[n, 4] x) => (float[n, 3] y) { w = private.Decode(codes) y = MatMul(x, w) }"""
    codes = np.arange(12, dtype=np.float32).reshape(4, 3)
    side = ModelLayers(load_model(parsed(text, codes=codes)))
    assert side.weights.read(side.layers[0]) == {}
    assert diff(parsed(text, codes=codes), parsed(text, codes=codes)).equal
    assert not diff(parsed(text, codes=codes), parsed(text, codes=codes * 2)).equal
