"""What depends on a node, in and out of bodies, held to the values that move in plain onnxruntime."""

from __future__ import annotations

import pytest
from unstable_models import moving, written

from onnxscope.model.loading import load_model
from onnxscope.runtime.dependents import Dependents
from onnxscope.runtime.unstable_nodes import find_unstable

IF = """c = Constant<value = bool {1}>()
    k = If(c) <then_branch = then () => (float[6, 4] a) { r = RandomUniformLike(x) a = Add(x, r) },
               else_branch = other () => (float[6, 4] n) { n = Neg(x) }>
    y = Neg(k) z = Neg(x)"""
LOOP = """t = Constant<value = int64 {2}>() c = Constant<value = bool {1}>()
    last, other, all = Loop(t, c, x, x) <body = body (int64 i, bool go, float[6, 4] h, float[6, 4] g) =>
        (bool on, float[6, 4] h2, float[6, 4] g2, float[6, 4] each) {
        on = Identity(go) each = RandomNormalLike(h) h2 = Add(h, each) g2 = Neg(g) }>
    y = Neg(last) z = Neg(other)"""
SCAN = """first, rows = Scan<num_scan_inputs = 1>(w, x) <body = body (float[4] h, float[4] row) =>
        (float[4] h2, float[4] out) {
        r = RandomNormalLike(row) h2 = Identity(h) out = Add(r, row) }>
    y = Neg(rows) z = Neg(first)"""
SCAN = SCAN.replace("Scan<num_scan_inputs = 1>(w, x) <", "Scan(w, x) <num_scan_inputs = 1, ")
BODIES = {
    "If": (IF, {"k", "y"}, {"r", "a"}),
    "Loop": (LOOP, {"last", "all", "y"}, {"each", "h2", "h"}),
    "Scan": (SCAN, {"rows", "y"}, {"r", "out"}),
}


@pytest.mark.parametrize("owner", BODIES)
def test_a_node_in_a_body_reaches_what_its_owner_hands_out(owner):
    text, outside, inside = BODIES[owner]
    proto = written(text, outputs="float[?, ?] y, float[?] z", stored="<float[4] w = {1, 2, 3, 4}>")
    proto.graph.output[1].type.tensor_type.ClearField("shape")
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.touched == {(): frozenset(outside), unstable.path: frozenset(inside)}
    assert unstable.outputs == ("y",)
    assert len(unstable.owners) == len(unstable.path) == 1
    assert unstable.owners[0].startswith(f"{owner}(")
    assert f"in a body of {unstable.owners[0]} draws" in unstable.message
    assert moving(proto) == outside


def test_what_steers_a_body_reaches_all_that_it_makes():
    proto = written(
        """r = RandomUniform<shape = [1], seed = 1.0>() h = Constant<value = float {0.5}>() o = Greater(r, h)
        e = Constant<value = int64[0] {}>() c = Reshape(o, e)
        y = If(c) <then_branch = then () => (float[6, 4] a) { a = Neg(x) },
                   else_branch = other () => (float[6, 4] n) { n = Identity(x) }>
        z = Neg(x)""",
        outputs="float[6, 4] y, float[6, 4] z",
    )
    (unstable,) = find_unstable(load_model(proto))
    assert set().union(*unstable.touched.values()) == {"r", "o", "c", "y", "a", "n"}
    assert moving(proto, runs=12) == {"r", "o", "c", "y"}


def test_what_reads_a_shape_alone_does_not_move():
    proto = written(
        """r = RandomNormalLike(x) s = Shape(r) u = RandomUniformLike<seed = 1.0>(r)
        f = Cast<to = 1>(s) e = Greater(r, x) i = NonZero(e) t = Shape(i) y = Cast<to = 1>(i)""",
        outputs="float[?, ?] y, float[2] f, int64[2] t",
    )
    first, _second = find_unstable(load_model(proto))
    assert first.operator == "RandomNormalLike"
    assert first.touched == {(): frozenset({"r", "e", "i", "t", "y"})}
    assert moving(proto) == {"r", "u", "e", "i", "t", "y"}


def test_nothing_depends_on_no_source():
    model = load_model(written("y = Neg(x)"))
    assert not Dependents(model.graphs, []).reaches(0, (), "y")
    dependents = Dependents(model.graphs, [model.main.producers["y"]])
    assert dependents.of(0) == {(): frozenset({"y"})}


def test_of_an_unknown_operator_the_shape_is_taken_to_move_too():
    proto = written(
        "r = RandomNormalLike(x) u = own.Unknown(r) s = Shape(u) y = Cast<to = 1>(s) k = Shape(r)",
        outputs="float[2] y, int64[2] k",
        domains=', "own": 1',
    )
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.touched == {(): frozenset({"r", "u", "s", "y"})}


def test_values_are_followed_in_execution_order_so_that_many_sources_take_one_pass():
    text = "v0 = Dropout(x, , t) "
    text += "".join(f"v{i + 1} = {f'Dropout(v{i}, , t)' if i % 10 == 0 else f'Neg(v{i})'} " for i in range(600))
    model = load_model(written(f"{text} y = Neg(v600)", stored="<bool t = {1}>"))
    sources = [node for node in model.main.nodes if node.op_type == "Dropout"]
    dependents = Dependents(model.graphs, sources)
    assert dependents._pushed < 2 * len(model.main.nodes)
    assert all(dependents.reaches(place, (), "y") for place in range(len(sources)))
    assert len(dict(dependents.first([7, 3]))) == len(dependents.of(3)[()])
    assert set(dict(dependents.first([7, 3])).values()) == {3}
