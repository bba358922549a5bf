"""Layers that hold their numbers folded: the same layer to a check, unless a number is another."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from compared_models import DEPLOYED, DIGITS, INPUT, one_weight, parsed, planted

from onnxscope import BaselineError, check, diff, snapshot
from onnxscope.gate.baseline import Baseline

RNG = np.random.default_rng(4)
W, B, K = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (4,), (4,)))


@pytest.mark.parametrize("inputs", [None, INPUT])
def test_a_folded_batchnorm_is_a_note(inputs):
    baseline = snapshot(DIGITS, inputs)
    result = check(DEPLOYED, baseline, inputs)
    assert result.findings == ()
    assert "layers whose BatchNorm, scale or shift is folded otherwise: 2, the first block.0" in result.notes
    assert check(DIGITS, snapshot(DEPLOYED, inputs), inputs).findings == ()


@pytest.mark.parametrize("name", ["block.0.weight", "block.0.weight_bias", "down.0.weight", "stem.0.weight"])
def test_another_number_in_a_folded_layer_is_found(name):
    changed = planted(name, one_weight, DEPLOYED)
    found = check(changed, snapshot(DIGITS)).findings
    assert {finding.layer for finding in found} >= {name.rpartition(".")[0]}
    assert not check(DIGITS, snapshot(changed)).ok


@pytest.mark.parametrize("name", ["block.1.weight", "block.1.bias", "block.1.running_mean", "block.1.running_var"])
def test_another_number_of_the_batchnorm_is_found(name):
    assert not check(DEPLOYED, snapshot(planted(name, one_weight))).ok


def test_every_number_of_a_layer_is_in_its_sketch():
    digits = onnx.load(DIGITS)
    (tensor,) = (each for each in digits.graph.initializer if each.name == "block.0.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    baseline = snapshot(DEPLOYED)
    for place in RNG.choice(values.size, 12, replace=False):
        changed = values.copy()
        changed.flat[place] += 0.01 * values.std()
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
        assert not check(digits, baseline).ok


@pytest.mark.parametrize(
    ("nodes", "weight", "bias"),
    [
        ("a = MatMul(x, w) c = Add(a, b) y = Mul(c, k)", W * K, B * K),
        ("a = Gemm(x, w, b) y = Add(a, k)", W, B + K),
        ("a = Gemm(x, w, b) y = Sub(a, k)", W, B - K),
        ("a = Gemm(x, w, b) y = Div(a, k)", W / K, B / K),
    ],
)
def test_arithmetic_behind_a_layer_may_be_folded(nodes, weight, bias):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 3] x) => (float[n, 4] y) {{ {} }}'
    model = parsed(text.format(nodes), w=W, b=B, k=K)
    folded = parsed(text.format("y = Gemm(x, v, d)"), v=weight, d=bias)
    other = parsed(text.format("y = Gemm(x, v, d)"), v=weight, d=bias + np.float32(1e-3))
    for first, second in ((model, folded), (folded, model)):
        assert diff(first, second).equal
        assert check(second, snapshot(first)).findings == ()
    assert diff(model, other).verdict == "differs"
    assert not check(other, snapshot(model)).ok


def test_every_constant_behind_a_layer_is_compared():
    """A second shift and a second scale have no name of their own."""
    text = """
        <ir_version: 9, opset_import: ["": 18]> g (float[n, 1, 8, 8] x) => (float[n, 4, 6, 6] y) {
            c = Conv(x, w, b) d = Add(c, k1) e = Add(d, k2) f = Mul(e, m1) g = Mul(f, m2) y = Relu(g) }"""
    stored = {"w": RNG.standard_normal((4, 1, 3, 3)).astype(np.float32), "b": B}
    stored |= {name: RNG.standard_normal((4, 1, 1)).astype(np.float32) for name in ("k1", "k2", "m1", "m2")}
    model = parsed(text, **stored)
    for name, values in stored.items():
        changed = parsed(text, **stored | {name: values + np.float32(1e-3)})
        assert diff(model, changed).verdict == "differs", name
        assert not check(changed, snapshot(model)).ok, name


@pytest.mark.parametrize(
    ("whole", "fault"),
    [
        ({"weights": {"bias": "b"}, "sketch": [0.0] * 18}, "a whole without its weights"),
        ({"weights": {"weight": "w"}, "sketch": [0.0] * 17}, "a whole without its sketch"),
        ({"weights": {"weight": "w"}, "sketch": ["x"] * 18}, "a whole without its sketch"),
        (3, "a whole without its weights"),
    ],
)
def test_a_damaged_sketch_is_refused(whole, fault, tmp_path):
    snapshot(DIGITS).save(tmp_path / "b.json")
    record = json.loads((tmp_path / "b.json").read_text())
    record["layers"][0]["whole"] = whole
    (tmp_path / "b.json").write_text(json.dumps(record))
    with pytest.raises(BaselineError, match=fault):
        Baseline.load(tmp_path / "b.json")


def test_a_baseline_without_sketches_still_holds(tmp_path):
    snapshot(DIGITS).save(tmp_path / "b.json")
    record = json.loads((tmp_path / "b.json").read_text())
    for row in record["layers"]:
        row.pop("whole", None)
    (tmp_path / "b.json").write_text(json.dumps(record))
    assert check(DIGITS, tmp_path / "b.json").ok
    assert not check(DEPLOYED, tmp_path / "b.json").ok


@pytest.mark.parametrize(("declared", "ok"), [("[n, k]", True), ("[n, 4]", True), ("[n, 5]", False)])
def test_the_shape_of_an_output_may_be_told_in_part(declared, ok):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 3] x) => (float{} y) {{ y = Gemm(x, w, b) }}'
    baseline = snapshot(parsed(text.format("[n, 4]"), w=W, b=B))
    assert check(parsed(text.format(declared), w=W, b=B), baseline).ok is ok


RECURRENT = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n, 2, 3] x) => (float[n, 1, 2, 4] y) {
        a = Slice(w, zero, gate, zero)  b = Slice(w, gate, twelve, zero)  c = Concat<axis = 0>(b, a)
        i = Unsqueeze(c, zero)  j = Unsqueeze(r, zero)  y, h = GRU<hidden_size = 4>(x, i, j)
    }"""
PLACES = {"zero": [0], "gate": [4], "twelve": [12]}
W_IH, W_HH = (RNG.standard_normal((12, side)).astype(np.float32) for side in (3, 4))


def recurrent(w=W_IH, r=W_HH):
    return parsed(RECURRENT, w=w, r=r, **{name: np.array(places) for name, places in PLACES.items()})


def in_a_branch(model):
    """The same, with what it computes in both branches of an If, and its weights outside of them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inner = [onnx.helper.make_graph(model.graph.node, name, [], model.graph.output) for name in ("p", "q")]
    del copy.graph.node[:]
    size = onnx.helper.make_node("Size", ["x"], ["size"])
    given = onnx.helper.make_node("Cast", ["size"], ["yes"], to=onnx.TensorProto.BOOL)
    branches = {"then_branch": inner[0], "else_branch": inner[1]}
    copy.graph.node.extend([size, given, onnx.helper.make_node("If", ["yes"], ["y"], **branches)])
    return copy


@pytest.mark.parametrize("place", [lambda model: model, in_a_branch])
@pytest.mark.parametrize("inputs", [None, np.ones((5, 2, 3), np.float32)])
def test_weights_that_are_put_together_before_they_are_read_are_those_that_an_optimizer_stores(place, inputs, tmp_path):
    model = place(recurrent())
    path = tmp_path / "basic.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    assert not {"w", "r"} & {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert check(path, snapshot(model, inputs), inputs).findings == ()
    assert check(model, snapshot(path, inputs), inputs).findings == ()
    for name, weight in (("w", W_IH), ("r", W_HH)):
        changed = weight.copy()
        changed[5, 1] += 0.5
        other = place(recurrent(**{name: changed}))
        assert not check(path, snapshot(other)).ok
        assert not check(other, snapshot(path)).ok
        assert not check(other, snapshot(model)).ok


def test_a_product_with_a_weight_that_is_put_together_is_one_with_it_stored():
    halves = RNG.standard_normal((2, 2, 4)).astype(np.float32)
    texts = "w = Concat<axis = 0>(a, b)  y = MatMul(x, w)", "y = MatMul(x, w)"
    header = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 4] x) => (float[n, 4] y)'
    apart = parsed(f"{header} {{ {texts[0]} }}", a=halves[0], b=halves[1])
    whole = parsed(f"{header} {{ {texts[1]} }}", w=halves.reshape(4, 4))
    other = parsed(f"{header} {{ {texts[0]} }}", a=halves[0], b=-halves[1])
    x = np.ones((2, 4), np.float32)
    for fed in (None, x):
        assert check(whole, snapshot(apart, fed), fed).findings == ()
        assert check(apart, snapshot(whole, fed), fed).findings == ()
        assert not check(whole, snapshot(other, fed), fed).ok
        assert not check(other, snapshot(whole, fed), fed).ok
