"""Weights that a Loop or a Scan hands on from round to round belong to the layers of its body."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed
from plain_runs import outputs_of

from onnxscope import check, diff, inspect, snapshot, stats, weights
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(29)
STORED = {"n": np.int64(3), "k": RNG.standard_normal((4, 4)).astype(np.float32)}
FED = RNG.standard_normal((2, 4)).astype(np.float32)
ROWS = RNG.standard_normal((3, 2, 4)).astype(np.float32)
HANDED = {"as it is": "w", "by Identity": "w2", "by two": "w3"}
PASSING = {"w": "", "w2": "w2 = Identity(w)", "w3": "v = Identity(w) w3 = Identity(v)"}


def loop(handed="w", multiplied="w", weight="k"):
    return f"""<ir_version: 9, opset_import: ["": 18]> net (float[b, 4] x) => (float[b, 4] y) {{
        y, last = Loop <body = round (int64 i, bool c, float[b, 4] s, float[4, 4] w)
            => (bool c2, float[b, 4] s2, float[4, 4] {handed}) {{
                c2 = Identity(c) {PASSING[handed]} m = MatMul(s, {multiplied}) s2 = Tanh(m) }}> (n, , x, {weight}) }}"""


def scan(handed="w", weight="k"):
    return f"""<ir_version: 9, opset_import: ["": 18]> net (float[3, b, 4] x) => (float[3, b, 4] y) {{
        zero = ConstantOfShape(sides)
        last, out, y = Scan <num_scan_inputs = 1, body = round (float[b, 4] s, float[4, 4] w, float[b, 4] r)
            => (float[b, 4] s2, float[4, 4] {handed}, float[b, 4] t) {{
                {PASSING[handed]} m = MatMul(r, w) a = Add(m, s) s2 = Tanh(a) t = Identity(s2) }}>
            (zero, {weight}, x) }}"""


def loops(**changed):
    return parsed(loop(), **{**STORED, **changed})


@pytest.mark.parametrize("handed", HANDED.values(), ids=HANDED)
def test_a_weight_handed_on_by_a_loop_makes_its_reader_a_layer(handed, tmp_path):
    model = parsed(loop(handed), **STORED)
    (layer,) = load_model(model).layers
    assert layer.kind == "Linear"
    (row,) = weights(model)
    stored = row.to_dict()
    assert stored["shape"] == [4, 4]
    assert abs(stored["mean"] - STORED["k"].astype(np.float64).mean()) < 1e-9
    assert inspect(model).to_dict()["layers"][0]["parameters"] == 16
    products, state = [], FED.astype(np.float64)
    for _ in range(3):
        products.append(state @ STORED["k"])
        state = np.tanh(products[-1])
    assert np.allclose(outputs_of(model, {"x": FED})[0], state, atol=1e-5)
    (tap,) = stats(model, FED).to_dict()["taps"]
    assert abs(tap["mean"] - np.tanh(products).mean()) < 1e-5


@pytest.mark.parametrize("handed", HANDED.values(), ids=HANDED)
def test_a_weight_handed_on_by_a_scan_makes_its_reader_a_layer(handed):
    model = parsed(scan(handed), k=STORED["k"], sides=np.array([2, 4]))
    (layer,) = load_model(model).layers
    assert layer.kind == "Linear"
    assert diff(model, model, ROWS).equal


@pytest.mark.parametrize("given", [None, FED])
def test_one_changed_number_of_it_is_found_and_named(given):
    changed = STORED["k"].copy()
    changed[1, 2] += 0.5
    result = diff(loops(), loops(k=changed), given)
    assert not result.equal
    assert [change.a for change in result.weights if change.counts] == ["k"]
    assert not check(loops(k=changed), snapshot(loops(), given), given).ok


def test_what_changes_from_round_to_round_is_no_weight():
    text = loop("w2").replace("w2 = Identity(w)", "w2 = Neg(w)")
    assert load_model(parsed(text, **STORED)).layers == ()


def test_an_inner_value_of_the_outer_name_stays_what_it_is():
    text = loop().replace("m = MatMul(s, w)", "k = Neg(w) m = MatMul(s, k)")
    body = load_model(parsed(text, **STORED)).proto.graph.node[0].attribute[0].g
    assert [list(node.input) for node in body.node if node.op_type in ("Neg", "MatMul")] == [["w"], ["s", "k"]]


def test_a_weight_handed_through_two_loops_and_into_a_branch_is_one():
    inner = """y2, z = Loop <body = inner (int64 j, bool d, float[b, 4] t, float[4, 4] v)
        => (bool d2, float[b, 4] t2, float[4, 4] v) { d2 = Identity(d)
            t2 = If <then_branch = then () => (float[b, 4] p) { p = MatMul(t, v) },
                     else_branch = other () => (float[b, 4] q) { q = Neg(t) }> (d) }> (n, , s, w)"""
    text = loop().replace("m = MatMul(s, w) s2 = Tanh(m)", f"{inner} s2 = Tanh(y2)")
    model = parsed(text, **STORED)
    (layer,) = load_model(model).layers
    assert layer.kind == "Linear"
    state = FED.astype(np.float64)
    for _ in range(3):
        for _ in range(3):
            state = state @ STORED["k"]
        state = np.tanh(state)
    assert np.allclose(outputs_of(load_model(model).proto, {"x": FED})[0], state, atol=1e-4)
