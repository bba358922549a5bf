"""What axes stand for, by operator, by use and by growth."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator
from sequence_models import attention, random, recurrent, stored

import onnxscope
from onnxscope.model.loading import load_model
from onnxscope.model.value_axes import Growth, axes_of, grown_axis
from onnxscope.selection.selectors import select_taps

SCORES = ("batch", "head", "query", "key")


def known(model):
    return load_model(model).value_axes(())


def test_attention_is_told_by_a_softmax_over_a_product_of_two_computed_values():
    axes = known(attention())
    assert {name for name, found in axes.items() if found.names == SCORES} == {*"mdsp"}
    assert [name for name, found in axes.items() if found.are_shares] == ["p"]
    assert axes["q"].names == axes["v"].names == axes["c"].names == ("batch", "head", "token", "channel")
    assert axes["k"].names == ("batch", "head", "channel", "token")
    assert axes["c1"].names == ("batch", "token", "head", "channel")
    assert "x" not in axes
    assert "y" not in axes


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("m = MatMul(x, w)  y = Softmax<axis = -1>(m)", {"w": random(4, 4)}),  # a classifier
        ("t = Transpose<perm = [0, 2, 1]>(w)  m = MatMul(x, t)  y = Softmax(m)", {"w": random(2, 4, 4)}),
        ("t = Transpose<perm = [0, 2, 1]>(x)  m = MatMul(x, t)  y = Softmax<axis = 1>(m)", {}),  # not along the keys
        ("t = Transpose<perm = [0, 2, 1]>(x)  m = MatMul(x, t)  y = Sigmoid(m)", {}),
    ],
)
def test_no_other_softmax_or_product_is_attention(body, weights):
    text = f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[n, 3, 4] x) => (float[n, 3, r] y) {{ {body} }}"""
    assert not any(found.names == SCORES for found in known(stored(text, weights)).values())


def test_scores_are_told_through_masks_a_softcap_types_and_dropout():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[n, 3, 4] x, bool[n, 1, 3] keep) => (float[n, 3, 4] y) {
            t = Transpose<perm = [0, 2, 1]>(x)  m = MatMul(x, t)
            cap = Constant<value = float {30.0}>()  a = Div(m, cap)  b = Tanh(a)  c = Mul(b, cap)
            low = Constant<value = float {-1e9}>()  w = Where(keep, c, low)
            h = Cast<to = 11>(w)  p = Softmax<axis = 2>(h)  f = Cast<to = 1>(p)  d = Dropout(f)
            y = MatMul(d, x)
        }""")
    axes = known(model)
    assert {name for name, found in axes.items() if found.names == SCORES} == {*"mabcwhpfd"}
    assert {name for name, found in axes.items() if found.are_shares} == {*"pfd"}


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_fix_the_axes_of_their_outputs(operator):
    assert known(recurrent(operator))["a"].names == ("time", "direction", "batch", "channel")
    assert known(recurrent(operator, layout=1))["a"].names == ("batch", "time", "direction", "channel")
    assert known(recurrent(operator))["h"].names == ("direction", "batch", "channel")


def test_onnx_attention_gives_its_scores_in_a_fourth_output():
    model = onnx.parser.parse_model("""
        <ir_version: 11, opset_import: ["": 23]>
        net (float[n, 2, 3, 4] x) => (float[n, 2, 3, 4] y) {
            y, pk, pv, qk = Attention<qk_matmul_output_mode = 3>(x, x, x)
        }""")
    axes = known(model)
    assert axes["qk"].names == SCORES
    assert axes["qk"].are_shares
    assert axes["pk"].names == ("batch", "head", "token", "channel")


def test_the_statistics_of_scores_are_kept_apart_by_heads():
    model = load_model(attention())
    taps = {tap.name: tap for tap in select_taps(model, ["value:p", "value:k", "value:y"])}
    assert (taps["p"].axis_of(4), taps["p"].axis_of(3), taps["p"].axis_of(2)) == (1, 0, None)
    assert taps["k"].axis_of(4) == 2
    assert taps["y"].axis_of(3) == 2


@pytest.mark.parametrize(
    ("one", "two", "growth"),
    [
        ((1, 5), (2, 5), Growth(0, 1)),
        ((7, 1, 5), (7, 2, 5), Growth(1, 1)),
        ((8, 5), (16, 5), Growth(0, 8)),
        ((1, 5), (1, 5), None),
        ((1, 1), (2, 2), None),
        ((1, 5), (3, 5), None),
        ((1, 5), (2, 5, 1), None),
        ((1, 5), None, None),
    ],
)
def test_the_axis_of_samples_is_the_one_that_a_sample_more_makes_longer(one, two, growth):
    assert grown_axis(one, two) == growth


@pytest.mark.parametrize(
    ("rank", "channel", "growth", "names"),
    [
        (2, 1, Growth(0, 1), "batch channel"),
        (2, 1, Growth(0, 9), "token channel"),
        (3, 1, Growth(0, 1), "batch channel time"),
        (3, 2, Growth(0, 1), "batch token channel"),
        (3, 2, Growth(1, 1), "time batch channel"),
        (3, 2, Growth(0, 4), "part token channel"),
        (4, 1, Growth(0, 1), "batch channel height width"),
        (4, 3, Growth(0, 1), "batch height width channel"),
        (5, 1, Growth(0, 1), "batch channel depth height width"),
        (6, 1, Growth(0, 1), "batch channel part part part part"),
    ],
)
def test_other_values_are_named_by_rank_channels_and_growth(rank, channel, growth, names):
    assert axes_of(rank, channel, None, growth) == tuple(names.split())


def test_tokens_lie_before_heads_until_a_transpose_puts_them_behind():
    axes = known(attention())
    for value in ("q1", "k1", "v1"):
        assert axes[value].names == ("batch", "token", "head", "channel")
    assert not axes.keys() & {"q0", "k0", "v0", "x"}  # heads are not told apart yet


def test_axes_are_told_through_a_bias_codes_and_rotary_positions():
    text = """<ir_version: 9, opset_import: ["": 17]>
        net (float[n, t, 8] x, float[t, 4] cos, float[t, 4] sin) => (float[n, t, 8] y) {
            h = Reshape(x, split)  b = Add(h, bias)  c = QuantizeLinear(b, scale, zero)
            r = DequantizeLinear(c, scale, zero)  q = Transpose<perm = [0, 2, 1, 3]>(r)
            one, two = Split<axis = -1>(q)  n = Neg(two)  turned = Concat<axis = -1>(n, one)
            left = Mul(q, cos)  right = Mul(turned, sin)  rotated = Add(left, right)
            k = Transpose<perm = [0, 1, 3, 2]>(rotated)  m = MatMul(rotated, k)  p = Softmax(m)
            o = MatMul(p, q)  t1 = Transpose<perm = [0, 2, 1, 3]>(o)  y = Reshape(t1, join)
        }"""
    weights = {"split": np.array([0, 0, 2, 4]), "join": np.array([0, 0, 8]), "bias": random(2, 4)}
    axes = known(stored(text, {**weights, "scale": np.float32(0.1), "zero": np.uint8(128)}))
    for value in ("h", "b", "c", "r"):
        assert axes[value].names == ("batch", "token", "head", "channel")
    for value in ("q", "turned", "n", "two", "left", "right", "rotated", "o"):
        assert axes[value].names == ("batch", "head", "token", "channel")
    assert axes["t1"].names == ("batch", "token", "head", "channel")
    assert "x" not in axes


def test_heads_merged_with_samples_keep_tokens_before_them():
    """As torch's MultiheadAttention has it: (tokens, samples x heads, width) until the Transpose."""
    text = """<ir_version: 9, opset_import: ["": 17]>
        net (float[t, n, 8] x) => (float[m, t, 4] y) {
            h = Reshape(x, rows)  q = Transpose<perm = [1, 0, 2]>(h)  k = Transpose<perm = [0, 2, 1]>(q)
            m = MatMul(q, k)  p = Softmax(m)  y = MatMul(p, q)
        }"""
    model = load_model(stored(text, {"rows": np.array([5, -1, 4])}))
    (tap,) = select_taps(model, ["value:h"])
    assert axes_of(3, tap.axis_of(3), tap.axes, Growth(1, 2)) == ("token", "head", "channel")


def test_a_value_before_the_transpose_of_an_attention_is_shown_by_its_heads():
    x = random(3, 5, 8)
    model = attention()
    (split,) = ReferenceEvaluator(model).run(["q1"], {"x": x})
    tap = onnxscope.features(model, x, select="value:q1", sample=1)[0].to_dict()
    assert tap["axes"] == ["batch", "token", "head", "channel"]
    assert (tap["channel_axis"], tap["map"]["each"], tap["map"]["down"]) == (3, "head", "token")
    assert tap["max"] == pytest.approx(split.max(), rel=1e-5)
    maps = onnxscope.features(model, x, select="value:q1", sample=1)[0].maps()
    np.testing.assert_allclose(maps, split[1].transpose(1, 0, 2), atol=1e-5)
    (row,) = onnxscope.stats(model, x, select="value:q1").to_dict()["taps"]
    np.testing.assert_allclose(row["channels"]["max"], split.max((0, 1, 2)), rtol=1e-5)
