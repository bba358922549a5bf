"""Infinities by design: masks, fills, limits and what is added before a Softmax; and those that are not."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.findings.of_weights import find_in_weights
from onnxscope.model.loading import load_model
from onnxscope.reporting.attention import attention_of
from onnxscope.runtime.masks import find_masks

INF = np.inf
X = np.random.default_rng(5).normal(size=(2, 4, 4)).astype(np.float32)
TRIANGLE = np.triu(np.full((4, 4), -INF), 1)
BIASED = np.where(TRIANGLE == 0, np.arange(16.0).reshape(4, 4), -INF)

DESIGNED = {
    "a mask of 0 and -inf": ("s = Add(x, c)  y = Softmax<axis = -1>(s)", TRIANGLE, {"s"}),
    "the same without a Softmax": ("s = Add(x, c)  y = Relu(s)", TRIANGLE, {"s"}),
    "moved and scaled": (
        "d = Unsqueeze(c, zero)  s = Add(x, d)  t = Mul(s, two)  y = Softmax(t)",
        TRIANGLE,
        set("dst"),
    ),
    "a bias with holes before Softmax": ("s = Add(x, c)  y = Softmax<axis = -1>(s)", BIASED, {"s"}),
    "taken away before LogSoftmax": ("s = Sub(x, c)  y = LogSoftmax<axis = -1>(s)", -BIASED, {"s", "y"}),
    "a fill": ("k = Less(x, half)  s = Where(k, x, c)  y = Relu(s)", np.array(-INF), {"s"}),
    "a fill of Pad": ("s = Pad(x, pads, c)  t = Identity(s)  y = Relu(t)", np.array(-INF), {"s", "t"}),
    "a limit": ("s = Clip(x, c)  y = Relu(s)", np.array(-INF), set()),
    "a limit of Max": ("s = Max(x, c)  y = Relu(s)", np.array(-INF), set()),
}
NOT_DESIGNED = {
    "a bias with one overflow": ("s = Add(x, c)  y = Relu(s)", np.array([1.0, -2, INF, 0])),
    "infinities of both signs": ("s = Add(x, c)  y = Relu(s)", np.array([INF, 0, -INF, 0])),
    "a mask with a NaN": ("s = Add(x, c)  y = Softmax(s)", np.array([0, np.nan, -INF, 0])),
    "weights of a product": ("s = MatMul(x, c)  y = Softmax(s)", TRIANGLE),
    "a scale before Softmax": ("s = Mul(x, c)  y = Softmax(s)", np.array([1.0, 2, INF, 3])),
}


def model_of(text, constant):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> net (float[N, 4, 4] x) => (float[N, A, B] y) {{ {text} }}'
    )
    stored = {
        "two": np.float32(2),
        "half": np.float32(0.5),
        "zero": np.array([0]),
        "pads": np.array([0, 1, 0, 0, 0, 1]),
    }
    for name, array in {**stored, "c": np.asarray(constant, np.float32)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def findings_of(model):
    """Of its weights and of its values, by kind."""
    weights = find_in_weights(onnxscope.weights(model), load_model(model))
    statistics = onnxscope.stats(model, X, select=["value:*"])
    return {finding.kind for finding in weights}, {finding.kind for finding in statistics.findings}, statistics


@pytest.mark.parametrize("case", DESIGNED)
def test_an_infinity_by_design_is_a_note(case):
    text, constant, infinite = DESIGNED[case]
    model = model_of(text, constant)
    masks = find_masks(load_model(model))
    assert masks.constants == {((), "c")}
    assert masks.values == {((), name) for name in infinite}
    of_weights, of_values, statistics = findings_of(model)
    assert not {"non_finite_weight", "non_finite", "non_finite_spread"} & (of_weights | of_values)
    if infinite:
        assert "infinite_by_design" in of_values
    attention = attention_of(load_model(model), onnxscope.weights(model), None, statistics, None, ())
    assert all(notice.weight == "note" for notice in attention if "infin" in notice.kind + notice.message)


@pytest.mark.parametrize("case", NOT_DESIGNED)
def test_any_other_infinity_is_an_alarm(case):
    text, constant = NOT_DESIGNED[case]
    model = model_of(text, constant)
    assert find_masks(load_model(model)) == find_masks(load_model(model_of("y = Relu(x)", 0)))
    _, of_values, _ = findings_of(model)
    assert "non_finite" in of_values
    assert "infinite_by_design" not in of_values
    if "c" in {row.parameter.initializer for row in onnxscope.weights(model)}:
        assert "non_finite_weight" in findings_of(model)[0]


def test_a_row_that_is_masked_whole_is_an_alarm_where_the_nan_is_made():
    model = model_of("s = Add(x, c)  y = Softmax<axis = -1>(s)", np.full((4, 4), -INF))
    statistics = onnxscope.stats(model, X, select=["value:s", "value:y"])
    first, second = statistics
    assert {finding.kind for finding in statistics.findings if finding.layer == second.layer} >= {"non_finite"}
    assert "infinite_by_design" in {finding.kind for finding in statistics.findings if finding.layer == first.layer}


def test_the_mark_travels_with_a_profile(tmp_path):
    statistics = onnxscope.stats(model_of(*DESIGNED["a mask of 0 and -inf"][:2]), X, select=["value:s", "value:y"])
    statistics.profile.save(tmp_path / "profile.json")
    loaded = type(statistics).load(tmp_path / "profile.json")
    assert [tap.masked for tap in loaded] == [True, False]
    assert loaded.findings == statistics.findings
    assert (tmp_path / "profile.json").read_text().count('"masked"') == 1


def test_constants_made_in_the_graph_and_read_in_a_body():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[N, 4, 4] x, bool flag) => (float[N, A, B] y) {
            side = Constant<value = int64[2] {4, 4}>()
            filled = ConstantOfShape<value = float[1] {-inf}>(side)
            upper = Trilu<upper = 1>(filled)
            y = If(flag) <
                then_branch = g1 () => (float[N, A, B] t) { s = Add(x, upper)  t = Softmax<axis = -1>(s) },
                else_branch = g2 () => (float[N, A, B] e) { e = Identity(x) }>
        }""")
    names = {name for _, name in find_masks(load_model(model)).values}
    assert names == {"filled", "upper", "s"}
