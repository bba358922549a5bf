"""Nodes within bodies and functions are explained and mended, too: fed with what reaches the node around them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.explaining.fed_parts import find_parts
from onnxscope.model.loading import load_model

X = np.random.default_rng(2).standard_normal((4, 8)).astype(np.float32)
W, V = ((np.random.default_rng(seed).standard_normal((8, 8)) / 3).astype(np.float32) for seed in (3, 4))
BODIES = {
    "Loop": """
        n = Constant <value = int64 {3}> () c = Constant <value = bool {1}> ()
        h = Loop (n, c, a) <body = step (int64 i, bool go, float[N, 8] s) => (bool on, float[N, 8] t) {
            on = Identity(go) u = MatMul(s, v) t = LeakyRelu <alpha = ALPHA> (u) }>""",
    "Scan": """
        z = Constant <value = float[8] {0, 0, 0, 0, 0, 0, 0, 0}> ()
        last, h = Scan <num_scan_inputs = 1, body = step (float[8] s, float[8] r) => (float[8] t, float[8] o) {
            u = MatMul(r, v) p = Add(u, s) t = LeakyRelu <alpha = ALPHA> (p) o = Identity(t) }> (z, a)""",
    "If": """
        k = ReduceSum <keepdims = 0> (a) zero = Sub(k, k) one = Constant <value = float {1}> () q = Less(zero, one)
        h = If (q) <then_branch = yes () => (float[N, 8] t) { u = MatMul(a, v) t = LeakyRelu <alpha = ALPHA> (u) },
            else_branch = no () => (float[N, 8] t) { u = MatMul(a, v) t = LeakyRelu <alpha = 0.7> (u) }>""",
}


def network(body, v=V):
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 18]>
        net (float[N, 8] x) => (float[N, 8] y) {{ a = MatMul(x, w) {body} y = MatMul(h, w) }}""")
    for name, values in (("w", W), ("v", v)):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def answer(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]


@pytest.mark.parametrize("kind", BODIES)
def test_an_attribute_within_a_body_is_named_and_mended_there(kind, tmp_path):
    a, b = (network(BODIES[kind].replace("ALPHA", alpha)) for alpha in ("0.2", "0.01"))
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    (edit,) = result.edits
    assert (edit.node.op_type, edit.what, edit.wanted) == ("LeakyRelu", "alpha", pytest.approx(0.2))
    assert edit.node.path
    assert result.mended.equal
    np.testing.assert_allclose(answer(onnx.load(tmp_path / "mended.onnx")), answer(a), rtol=1e-5, atol=1e-6)


def test_a_transposed_weight_that_a_body_reads_is_named():
    text = BODIES["Loop"].replace("ALPHA", "0.2")
    result = onnxscope.explain(network(text), network(text, np.ascontiguousarray(V.T)), X)
    assert {each.text for each in result.explanations} == {"B's MatMul has its `B` transposed; with A's it is equal"}


@pytest.mark.parametrize("kind", BODIES)
def test_another_weight_within_a_body_is_explained_by_nothing(kind):
    text = BODIES[kind].replace("ALPHA", "0.2")
    result = onnxscope.explain(network(text), network(text, (V * 1.01 + 0.01 * V.T).astype(np.float32)), X)
    assert {each.text for each in result.explanations} == {"nothing in the table explains it"}


def functional(alpha, twice):
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 18, "own": 1]>
        net (float[N, 8] x) => (float[N, 8] y) {{
            a = MatMul(x, w) h = own.bent(a) {"g = own.bent(h)" if twice else "g = Relu(h)"} y = MatMul(g, w) }}
        <domain: "own", opset_import: ["": 18]>
        bent (r) => (t) {{ p = LeakyRelu <alpha = {alpha}> (r) t = Neg(p) }}""")
    model.graph.initializer.append(numpy_helper.from_array(W, "w"))
    return model


@pytest.mark.parametrize("twice", [False, True])
def test_a_node_of_a_function_is_mended_where_it_is_called(twice, tmp_path):
    a, b = functional("0.2", twice), functional("0.01", twice)
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    assert {(edit.node.op_type, edit.what) for edit in result.edits} == {("LeakyRelu", "alpha")}
    assert result.mended.equal
    np.testing.assert_allclose(answer(onnx.load(tmp_path / "mended.onnx")), answer(a), rtol=1e-5, atol=1e-6)


def test_a_function_that_is_not_edited_stays_one(tmp_path):
    a, b = functional("0.2", False), functional("0.2", False)
    b.graph.node[2].op_type = "Abs"
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    assert result.mended.equal
    mended = onnx.load(tmp_path / "mended.onnx")
    assert [node.op_type for node in mended.graph.node] == ["MatMul", "bent", "Relu", "MatMul"]
    assert [function.name for function in mended.functions] == ["bent"]


def test_what_is_fed_is_the_value_that_was_compared():
    """Where one model alone has a function behind a layer, both are compared before it, and fed with what is there."""
    text = '<ir_version: 9, opset_import: ["": 18]> net (float[N, 8] x) => (float[N, 8] y) {{ a = MatMul(x, w) {} }}'
    a, b = (
        onnx.parser.parse_model(text.format(body))
        for body in ("b = Neg(a) c = Abs(b) y = MatMul(c, v)", "b = Neg(a) y = MatMul(b, v)")
    )
    for model in (a, b):
        model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in (("w", W), ("v", V)))
    comparison = onnxscope.diff(a, b, X)
    (row,) = comparison.guilty[:1]
    part = find_parts(comparison, row, load_model(a), load_model(b))
    assert set(part.shared.items()) & {("b", "c"), ("a", "c")} == set()
    (explanation, *_) = onnxscope.explain(a, b, X).explanations
    assert "gives what A's gives" not in explanation.text
