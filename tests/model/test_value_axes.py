"""What axes stand for, by operator, by use and by growth."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from sequence_models import attention, random, recurrent, stored

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
