"""Nodes that a fault does not need go, and those that it needs stay."""

from __future__ import annotations

import numpy as np
import onnxruntime
from shrink_cases import CRASH, case_of, searched

from onnxscope.shrinking.fewer_nodes import cut_nodes, open_bodies, simplify_nodes

X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def operators(search):
    return [node.op_type for node in search.case.proto.graph.node]


def answers(case):
    content = case.proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, dict(case.feeds))


def test_what_comes_before_and_behind_goes(bench):
    chain = (
        "(float[N, 3] x) => (float[N, 3] y) { a = Tanh(x) b = Sin(a) c = Neg(b) d = Abs(c) e = Sub(a, d) f = Sqrt(e)"
    )
    search = searched(bench, case_of(chain + " g = Tanh(f) h = Add(g, x) y = Relu(h) }", {"x": X}))
    cut_nodes(search)
    assert operators(search) == ["Sqrt"]
    (given,) = answers(search.case)
    before = np.tanh(X.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(given), before - np.abs(np.sin(before)) < 0)


def test_two_nodes_that_make_a_fault_together_stay(bench):
    """Neither gives NaN from finite numbers alone: infinity comes first."""
    text = "(float[N, 3] x) => (float[N, 3] y) <float z = {0}> { a = Abs(x) b = Div(a, z) c = Mul(b, z) y = Tanh(c) }"
    search = searched(bench, case_of(text, {"x": X}))
    cut_nodes(search)
    assert operators(search) == ["Div", "Mul"]
    assert np.isnan(answers(search.case)[0]).all()


def test_attributes_inputs_and_outputs_that_are_not_needed_go(bench):
    text = """(float[N, 3] x) => (float[N, 3] y) <float low = {-9}, float high = {9}> {
        c = Clip(x, low, high)
        l = Log(c)
        [soft] y = Softmax <axis = -1> (l)
    }"""
    case = case_of(text, {"x": X})
    search = searched(bench, case)
    simplify_nodes(search)
    clip, _, soft = search.case.proto.graph.node
    assert list(clip.input) == ["x"]
    assert not soft.attribute
    crash = searched(bench, case_of(CRASH, {"x": np.ones((2, 3, 4, 4), np.float32)}))
    simplify_nodes(crash)
    norm = crash.case.proto.graph.node[1]
    assert [attribute.name for attribute in norm.attribute] == ["training_mode"]
    assert norm.output[1] == ""


def test_nodes_of_a_body_take_the_place_of_the_node_around_it(bench):
    texts = {
        "branch": """(bool c, float[2, 3] x) => (float[2, 3] y) {
            y = If(c) <then_branch = t () => (float[2, 3] p) { p = Log(x) },
                       else_branch = e () => (float[2, 3] q) { q = Abs(x) }>
        }""",
        "round": """(int64 n, float[2, 3] x) => (float[2, 3] y) <bool go = {1}> {
            y = Loop(n, go, x) <body = b (int64 i, bool c, float[2, 3] s) => (bool more, float[2, 3] next) {
                more = Identity(c)  m = Log(s)  next = Tanh(m)
            }>
        }""",
        "step": """(float[3] z, float[2, 3] x) => (float[3] y, float[2, 3] all) {
            y, all = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] e) => (float[3] next, float[3] out) {
                m = Log(e)  next = Add(s, m)  out = Neg(m)
            }> (z, x)
        }""",
    }
    feeds = {"c": np.array(True), "n": np.array(2), "z": X[0], "x": X}
    for name, text in texts.items():
        given = {key: value for key, value in feeds.items() if f" {key}" in text.split(")")[0].replace("(", " ")}
        search = searched(bench, case_of(text, given))
        assert open_bodies(search), name
        cut_nodes(search)
        assert operators(search) == ["Log"], name
        assert np.isnan(answers(search.case)[0]).any()
