"""GELU written out in nodes is told by what it gives, and exchanged for the form that the first model has."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.explaining.written_forms import form_of
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 5, 8)).astype(np.float32) * 2
W = RNG.standard_normal((8, 8)).astype(np.float32) / 2
C = "Constant <value = float {{{}}}> ()"
ERF = f"""r = {C.format(math.sqrt(2))} one = {C.format(1)} half = {C.format(0.5)}
    p = Div(a, r) q = Erf(p) s = Add(q, one) t = Mul(a, s) b = Mul(t, half)"""
HALVED = f"""r = {C.format(math.sqrt(0.5))} one = {C.format(1)} half = {C.format(0.5)}
    g = Mul(half, a) p = Mul(a, r) q = Erf(p) s = Add(one, q) b = Mul(g, s)"""
TANH = f"""three = {C.format(3)} k = {C.format(0.044715)} r = {C.format(math.sqrt(2 / math.pi))} one = {C.format(1)}
    half = {C.format(0.5)} c = Pow(a, three) d = Mul(k, c) e = Add(a, d) f = Mul(e, r) g = Tanh(f) h = Add(g, one)
    i = Mul(a, h) b = Mul(i, half)"""
SIGMOID = f"k = {C.format(1.702)} p = Mul(a, k) q = Sigmoid(p) b = Mul(a, q)"
SILU = "q = Sigmoid(a) b = Mul(a, q)"
OTHER = f"k = {C.format(1.5)} p = Mul(a, k) q = Sigmoid(p) b = Mul(a, q)"
FORMS = {"gelu": ERF, "gelu by tanh": TANH, "gelu by sigmoid": SIGMOID, "silu": SILU}


def network(body, w=W, opset=17):
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": {opset}]>
        net (float[N, 5, 8] x) => (float[N, 5, 8] y) {{ a = MatMul(x, w) {body} y = MatMul(b, v) }}""")
    for name, values in (("w", w), ("v", W)):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (ERF, TANH, "B's function approximates GELU by tanh; with the exact one (erf) it is equal"),
        (HALVED, SIGMOID, "B's function approximates GELU by a sigmoid; with the exact one (erf) it is equal"),
        (TANH, ERF, "B's function computes GELU exactly; with the approximation by tanh it is equal"),
        (SILU, SIGMOID, "B's function approximates GELU by a sigmoid; with SiLU it is equal"),
        ("b = Gelu(a)", TANH, "B's function approximates GELU by tanh; with the exact one (erf) it is equal"),
    ],
    ids=["erf-tanh", "erf-sigmoid", "tanh-erf", "silu-sigmoid", "operator-tanh"],
)
def test_another_form_of_gelu_is_named_and_written_out(right, wrong, said, tmp_path):
    a, b = network(right, opset=20 if "Gelu" in right else 17), network(wrong)
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    assert [each.text for each in result.explanations] == [said]
    assert result.mended.equal
    mended = onnx.load(tmp_path / "mended.onnx")
    assert len(mended.graph.node) - len(b.graph.node) <= 9
    first, other = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0] for model in (a, mended)
    )
    np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-5)


def test_two_spellings_of_one_form_are_no_fault():
    assert onnxscope.explain(network(ERF), network(HALVED), X).explanations == ()


@pytest.mark.parametrize(("b", "w"), [(OTHER, W), (TANH, W + 0.01 * W.T), (ERF, W * 1.003 + 0.003 * W.T)])
def test_another_function_or_another_weight_is_explained_by_nothing(b, w):
    result = onnxscope.explain(network(ERF), network(b, w.astype(np.float32)), X)
    assert result.explanations
    assert not result.edits


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_told_by_what_it_gives(form):
    model = load_model(network(FORMS[form]))
    nodes = [node for node in model.main.nodes if node.op_type not in ("MatMul", "Constant")]
    assert form_of(model, nodes) == form
    assert form_of(model, nodes[:1]) is None


def test_a_sigmoid_of_another_slope_is_none_of_them():
    model = load_model(network(OTHER))
    assert form_of(model, [node for node in model.main.nodes if node.op_type not in ("MatMul", "Constant")]) is None
