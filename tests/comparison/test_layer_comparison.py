"""LayerComparison: how much is opened and run for a comparison, and what it hands out beside the result."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx.utils
import pytest
from compared_models import CHANNELS_LAST, DEPLOYED, DIGITS, INPUT, TWO, WEIGHTS, X, floors_of, parsed
from onnx.reference import ReferenceEvaluator
from opened_sessions import watch_sessions
from placed_models import STEP_INPUT, branch_input, branch_weights, branching, other_order, unrolled

from onnxscope import diff
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.comparison.layer_comparison import LayerComparison
from onnxscope.model.loading import load_model
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.runtime.pilot import Pilot


@pytest.fixture
def sessions(monkeypatch):
    return watch_sessions(monkeypatch)


def runs(sessions):
    """Of what each session is, and how many runs it made."""
    return [(session.where, session.runs) for session in sessions]


# A pilot on two samples runs them, each alone, and again for the noise; on a whole batch also three samples together.
@pytest.mark.parametrize(("small_bytes", "pilot_runs"), [(1, 1 + 2 + 1), (1 << 30, 1 + 1 + 3 + 1)])
def test_a_comparison_opens_four_sessions_and_runs_its_graph_once_a_batch(
    sessions, monkeypatch, small_bytes, pilot_runs
):
    monkeypatch.setattr("onnxscope.runtime.pilot._SMALL_BYTES", small_bytes)
    assert diff(DIGITS, DEPLOYED, INPUT, batch_size=8, limit=20).equal
    pilots = [("digits.onnx", pilot_runs), ("digits_deployed.onnx", 1), ("digits.onnx", 1)]
    assert runs(sessions) == [*pilots, ("digits.onnx and digits_deployed.onnx", 3)]


def test_the_noise_of_a_model_takes_two_sessions_and_no_weight(sessions, monkeypatch):
    monkeypatch.setattr("onnxscope.pairing.layer_weights.LayerWeights.read", None)
    assert floors_of(load_model(DIGITS), INPUT, RunOptions(limit=20))
    assert runs(sessions) == [("digits.onnx", 6), ("digits.onnx", 1)]


def test_structure_and_weights_alone_open_nothing(sessions):
    assert diff(DIGITS, DEPLOYED).equal
    assert sessions == []


def opened(*models):
    return tuple(ModelLayers(load_model(model)) for model in models)


def feed_of(sides, inputs, batch_size=8):
    models = tuple(side.model for side in sides)
    return open_common_feed(models, inputs, RunOptions(batch_size=batch_size))


def test_floors_are_those_of_the_rows():
    sides = opened(DIGITS, DEPLOYED)
    compared = LayerComparison(sides, feed_of(sides, INPUT), RunOptions()).run()
    rows = (*compared.comparison.layers, *compared.comparison.outputs)
    assert floors_of(load_model(DIGITS), INPUT, RunOptions()) == {row.a.name: row.floor for row in rows}
    assert compared.side_by_side == ()


def test_both_models_values_are_handed_out_with_the_axes_of_the_first(sessions):
    a = parsed(TWO, **WEIGHTS)
    b = parsed(
        CHANNELS_LAST,
        kernel=np.ascontiguousarray(WEIGHTS["w1"].transpose(2, 3, 1, 0)),
        dense=np.ascontiguousarray(WEIGHTS["w2"].T),
        bias=WEIGHTS["b2"],
        axes=np.array([1, 2]),
    )
    sides = opened(a, b)
    comparison = LayerComparison(sides, feed_of(sides, X), RunOptions())
    shown = [{"x": X}, {"x": 2 * X[:1]}]
    pilot = Pilot(sides[0].model, comparison.taps, RunOptions())
    pilot.run(shown[0])
    compared = comparison.run(pilot, shown)
    assert compared.comparison.equal
    assert len(sessions) == 4  # no more than without
    whole = ReferenceEvaluator(onnx.utils.Extractor(onnx.shape_inference.infer_shapes(a)).extract_model(["x"], ["r"]))
    for fed, values in zip((X, 2 * X[:1]), compared.side_by_side, strict=True):
        (expected,) = whole.run(["r"], {"x": fed})
        for value in values[0]:
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


_ORDERS = [(5, 4, 3, 2, 1, 0), (3, 1, 5, 0, 2, 4)]


@pytest.mark.parametrize("inputs", [None, STEP_INPUT], ids=["without data", "with data"])
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("order", _ORDERS)
def test_a_layer_shared_by_time_steps_is_paired_with_that_of_its_own_step(order, names, inputs):
    compared = diff(unrolled(names=names), unrolled(order, names=names), inputs)
    assert compared.equal, compared.summary()
    assert [(row.a.name, row.b.name) for row in compared.layers] == [(f"r{step}", f"r{step}") for step in range(6)]


@pytest.mark.parametrize("changed", [2, 5])
@pytest.mark.parametrize("order", _ORDERS)
def test_the_one_step_that_is_not_as_it_was_is_named(order, changed):
    compared = diff(unrolled(), unrolled(order, changed=changed), STEP_INPUT)
    assert [row.a.name for row in compared.guilty] == [row.b.name for row in compared.guilty] == [f"r{changed}"]
    assert f"dense at r{changed}" in compared.summary()
    without_data = diff(unrolled(), unrolled(order, changed=changed))
    assert [row.a.name for row in without_data.guilty] == [f"r{changed}"]
    moved = diff(unrolled(), unrolled(order, reads=(3, -1)), STEP_INPUT)
    assert [row.a.name for row in moved.guilty] == ["r3"]
    assert not diff(unrolled(), unrolled(order, reads=(3, -1))).equal
    for inputs in (None, STEP_INPUT):  # step 4, computed again, is no step of its own
        assert not diff(unrolled(), unrolled(order, reads=(3, 4)), inputs).equal


@pytest.mark.parametrize("way", [None, (True, True), (False, True), (False, False)])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_branches_are_paired_by_name_whatever_their_order(inside, named, way):
    a, b = branching(named=named, inside=inside), other_order(branching(named=named, inside=inside))
    compared = diff(a, b, None if way is None else branch_input(*way))
    assert compared.equal, compared.summary()
    assert [(row.a, row.b) for row in compared.layers] == [(row.a, row.a) for row in compared.layers]
    assert not compared.weights


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("exchanged", [{"wd": "we", "we": "wd"}, {"wa": "wc", "wc": "wa"}, {"wb": "wd"}])
def test_weights_exchanged_between_branches_are_a_change(exchanged, named):
    other = branching(named=named, **branch_weights(**exchanged))
    for second in (other, other_order(other)):
        compared = diff(branching(named=named), second)
        assert sum(change.counts for change in compared.weights) == len(exchanged)
        assert not compared.equal


def test_weights_exchanged_between_parallel_layers_are_a_change():
    text = """<ir_version: 9, opset_import: ["": 18]>
        net (float[n, 4] x) => (float[n, 3] y) { a = MatMul(x, %s) b = MatMul(x, %s) r = Relu(a) t = Tanh(b)
            y = Add(r, t) }"""
    stored = {name: np.random.default_rng(seed).standard_normal((4, 3), np.float32) for seed, name in enumerate("vw")}
    assert diff(parsed(text % ("v", "w"), **stored), parsed(text % ("v", "w"), **stored)).equal
    assert not diff(parsed(text % ("v", "w"), **stored), parsed(text % ("w", "v"), **stored)).equal


@pytest.mark.parametrize("inputs", [None, np.ones((2, 4), np.float32)], ids=["without data", "with data"])
def test_parallel_layers_that_are_added_may_stand_in_any_order(inputs):
    text = """<ir_version: 9, opset_import: ["": 18]>
        net (float[n, 4] x) => (float[n, 3] y) { a = MatMul(x, %s) b = MatMul(x, %s) r = Relu(a) t = Relu(b)
            y = Add(r, t) }"""
    stored = {name: np.random.default_rng(seed).standard_normal((4, 3), np.float32) for seed, name in enumerate("vw")}
    compared = diff(parsed(text % ("v", "w"), **stored), parsed(text % ("w", "v"), **stored), inputs)
    assert compared.equal, compared.summary()


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "blamed"),
    [
        ("alpha = 0.1", "alpha = 0.3", "LeakyRelu"),
        ("c = LeakyRelu<alpha = 0.1>(b)", "k = Neg(b) c = LeakyRelu<alpha = 0.1>(k)", "Neg"),
        ("y = Tanh(f)", "y = Sigmoid(f)", "Tanh"),
    ],
)
def test_the_node_where_values_part_is_named_before_others_that_change_nothing(old, new, blamed, swapped):
    nodes = """n = Neg(x) m = Neg(n) a = MatMul(m, v) b = Relu(a) c = LeakyRelu<alpha = 0.1>(b)
        d = Transpose<perm = [1, 0]>(c) e = Transpose<perm = [1, 0]>(d) f = MatMul(e, w) y = Tanh(f)"""
    text = '<ir_version: 9, opset_import: ["": 18]> net (float[n, 4] x) => (float[n, 4] y) {{ {} }}'
    stored = {name: np.random.default_rng(seed).standard_normal((4, 4), np.float32) for seed, name in enumerate("vw")}
    assert old in nodes
    other = nodes.replace(old, new).replace("n = Neg(x) m = Neg(n)", "m = Abs(x)")
    if blamed == "LeakyRelu":  # it bends below zero alone
        nodes, other = (chain.replace("b = Relu(a)", "b = Identity(a)") for chain in (nodes, other))
    models = [parsed(text.format(chain), **stored) for chain in (nodes, other)]
    result = diff(*reversed(models) if swapped else models, np.abs(np.random.default_rng(3).standard_normal((4, 4))))
    assert {"Neg", "Abs"} & {word for change in result.structure for word in change.message.split()}
    assert blamed in result.structure[0].message
    assert blamed in result.summary().partition(";")[0]
