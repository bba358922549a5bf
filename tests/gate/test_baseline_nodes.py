"""The nodes of a baseline: what is not the same is found without inputs, and the file holds what a check needs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from compared_models import DEPLOYED, DIGITS, QDQ, parsed
from onnx import TensorProto, helper

from onnxscope import BaselineError, check, diff, snapshot
from onnxscope.gate.baseline import Baseline

W = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) / 36
TEXT = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 1, 8, 8] x) => (float[batch, 4] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, block.1.weight)
        act = LeakyRelu<alpha = 0.1>(c)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(act)
        g = Mul(p, gain)
        m = GlobalAveragePool(g)
        f = Flatten(m)
        y = Softmax<axis = 1>(f)
    }""".replace("block.1.weight", "w")


def model(text=TEXT, gain=2.0):
    changed = parsed(text, gain=np.array(gain, np.float32))
    changed.graph.initializer.append(onnx.numpy_helper.from_array(W, "block.1.weight"))
    changed.graph.node[0].input[1] = "block.1.weight"
    return changed


def loaded(taken, folder):
    taken.save(folder / "b.json")
    return Baseline.load(folder / "b.json")


@pytest.mark.parametrize(
    ("old", "new", "statistic", "message"),
    [
        ("alpha = 0.1", "alpha = 0.3", "node alpha", "LeakyRelu: alpha 0.1 became 0.3"),
        ("strides = [2, 2]", "strides = [1, 1]", "node strides", "MaxPool: strides [2, 2] became by default"),
        ("axis = 1", "axis = 0", "node axis", "Softmax: axis by default became 0"),
        ("m = GlobalAveragePool(g)", "n = Neg(g) m = GlobalAveragePool(n)", "node", "Neg is only in the second model"),
        ("LeakyRelu<alpha = 0.1>", "Elu<alpha = 0.1>", "activation", "activation LeakyRelu became Elu"),
    ],
)
def test_a_changed_node_is_found_without_inputs(old, new, statistic, message, tmp_path):
    baseline = loaded(snapshot(model()), tmp_path)
    assert check(model(), baseline).ok
    found = check(model(TEXT.replace(old, new)), baseline)
    assert not found.ok
    finding = found.findings[0]
    assert (finding.layer, finding.statistic, finding.message) == ("block.1", statistic, message)
    assert found.merged().nodes == snapshot(model(TEXT.replace(old, new))).nodes


BETWEEN = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[n, 3, 8, 8] x) => (float[n, 5] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w1)
        a = LeakyRelu<alpha = 0.1>(c)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
        r = Resize<mode = "linear">(p, , scales)
        g = Mul(r, gain)
        k = Clip(g, low, high)
        s = Softmax<axis = 1>(k)
        q = Sub(s, shift)
        d = Conv(q, w2)
        v = AveragePool<kernel_shape = [2, 2]>(d)
        t = Transpose<perm = [0, 1, 3, 2]>(v)
        e = Pad<mode = "reflect">(t, pads)
        m = ReduceMean(e, axes)
        f = Flatten(m)
        h = Gemm<transB = 1>(f, w3)
        y = Softmax<axis = 1>(h)
    }"""
CHANCE = np.random.default_rng(0)
HELD = {
    "w1": CHANCE.normal(size=(4, 3, 3, 3)),
    "w2": CHANCE.normal(size=(6, 4, 3, 3)),
    "w3": CHANCE.normal(size=(5, 6)),
    "scales": [1, 1, 2, 2],
    "gain": 2,
    "low": -3,
    "high": 3,
    "shift": 0.25,
}
PLACES = {"pads": np.array([0, 0, 1, 0, 0, 0, 1, 0]), "axes": np.array([2, 3])}
PLANTED = [
    ("alpha = 0.1", "alpha = 0.3", {}, "LeakyRelu"),
    ("LeakyRelu<alpha = 0.1>", "Relu", {}, "LeakyRelu"),
    ("kernel_shape = [2, 2], strides", "kernel_shape = [1, 1], strides", {}, "MaxPool"),
    ("p = MaxPool", "p = AveragePool", {}, "MaxPool"),
    ('mode = "linear"', 'mode = "nearest"', {}, "Resize"),
    ("gain)", "gain)", {"gain": 2.5}, "Mul"),
    ("high)", "high)", {"high": 2}, "Clip"),
    ("axis = 1>(k)", "axis = 2>(k)", {}, "Softmax"),
    ("shift)", "shift)", {"shift": 0.5}, "Sub"),
    ("q = Sub", "q = Add", {}, "Sub"),
    ("kernel_shape = [2, 2]>", "kernel_shape = [2, 2], pads = [1, 1, 0, 0]>", {}, "AveragePool"),
    ("perm = [0, 1, 3, 2]", "perm = [0, 1, 2, 3]", {}, "Transpose"),
    ('mode = "reflect"', 'mode = "edge"', {}, "Pad"),
    ("m = ReduceMean", "m = ReduceMax", {}, "ReduceMean"),
    ("f = Flatten(m)", "o = Neg(m) f = Flatten(o)", {}, "Neg"),
    ("axis = 1>(h)", "axis = 0>(h)", {}, "Softmax"),
]


@pytest.mark.parametrize(("old", "new", "numbers", "op_type"), PLANTED)
def test_with_data_the_node_itself_is_blamed(old, new, numbers, op_type):
    assert BETWEEN.count(old) == 1

    def network(text, held):
        return parsed(text, **{name: np.array(value, np.float32) for name, value in held.items()}, **PLACES)

    fed = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    first, second = network(BETWEEN, HELD), network(BETWEEN.replace(old, new), HELD | numbers)
    baseline = snapshot(first, fed)
    assert check(first, baseline, fed).ok
    finding, *others = check(second, baseline, fed).findings
    assert finding.statistic.startswith("node")
    assert finding.message.startswith(op_type)
    assert any(finding.message in other.message for other in others)
    result = diff(first, second, fed)
    assert result.summary().startswith(f"differs: {op_type} ")
    assert result.structure[0].message.startswith(op_type)


def test_with_data_a_changed_weight_is_blamed_before_another_spelling():
    """A node that moves nothing is no finding, and what it says does not hide the weight that does."""
    fed = {"x": np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)}
    baseline = snapshot(model(), fed)
    spelled = model(TEXT.replace("m = GlobalAveragePool(g)", "o = Neg(g) u = Neg(o) m = GlobalAveragePool(u)"))
    assert check(spelled, baseline, fed).findings == ()
    weight = onnx.numpy_helper.from_array(W * 2, "block.1.weight")
    spelled.graph.initializer[-1].CopyFrom(weight)
    assert {finding.layer for finding in check(spelled, baseline, fed).findings} == {"block.1", "y"}


@pytest.mark.parametrize("inputs", [None, "random"])
def test_a_constant_is_guarded_with_and_without_inputs(inputs, tmp_path):
    fed = None if inputs is None else {"x": np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)}
    baseline = loaded(snapshot(model(), fed), tmp_path)
    assert check(model(), baseline, fed).ok
    findings = check(model(gain=2.5), baseline, fed).findings
    assert "Mul: constant 0 float32 2.0 became float32 2.5" in [finding.message for finding in findings]


def test_a_branch_that_is_not_taken_is_guarded():
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        g (bool c, float[4] x) => (float[4] y) {
            y = If(c) <then_branch = t () => (float[4] a) { a = Neg(x) },
                       else_branch = e () => (float[4] b) {
                           k = Constant<value = float[4] {1, 2, 3, %s}>()
                           b = Add(x, k)
                       }>
        }"""
    fed = {"c": np.array(True), "x": np.ones(4, np.float32)}
    first, second = (onnx.parser.parse_model(text % last) for last in (4, 7))
    for given in (None, fed):
        baseline = snapshot(first, given)
        assert check(first, baseline, given).ok
        (finding,) = check(second, baseline, given).findings
        assert finding.message == "Add: constant 0 float32[4] 1.0 2.0 3.0 4.0 became float32[4] 1.0 2.0 3.0 7.0"


def test_a_leaf_of_a_tree_is_guarded():
    def trees(leaf):
        node = helper.make_node(
            "TreeEnsembleRegressor",
            ["x"],
            ["y"],
            domain="ai.onnx.ml",
            n_targets=1,
            nodes_treeids=[0, 0, 0],
            nodes_nodeids=[0, 1, 2],
            nodes_featureids=[0, 0, 0],
            nodes_values=[0.5, 0.0, 0.0],
            nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
            nodes_truenodeids=[1, 0, 0],
            nodes_falsenodeids=[2, 0, 0],
            target_treeids=[0, 0],
            target_nodeids=[1, 2],
            target_ids=[0, 0],
            target_weights=[1.0, leaf],
        )
        values = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1])] for name in "xy"]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(helper.make_graph([node], "g", *values), opset_imports=opsets, ir_version=9)

    (finding,) = check(trees(2.5), snapshot(trees(2.0))).findings
    assert finding.statistic == "node target_weights"


@pytest.mark.parametrize("path", [DIGITS, DEPLOYED, QDQ])
def test_a_model_is_what_its_own_baseline_says_and_the_file_stays_small(path, tmp_path):
    baseline = loaded(snapshot(path), tmp_path)
    assert check(path, baseline).ok
    lines = (tmp_path / "b.json").read_text().splitlines()
    assert max(map(len, lines)) < 1000
    assert len(baseline.nodes) < len(onnx.load(path).graph.node) + 2


def test_a_baseline_without_nodes_still_holds(tmp_path):
    snapshot(model()).save(tmp_path / "b.json")
    record = json.loads((tmp_path / "b.json").read_text())
    del record["nodes"]
    (tmp_path / "b.json").write_text(json.dumps(record))
    result = check(model(gain=3.0), tmp_path / "b.json")
    assert result.ok
    assert result.notes == ("the baseline lists no nodes: only layers and weights are compared; `--update` lists them",)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("reads", {"X": "-9"}, "a node before the first: -9 in nodes[0]"),
        ("reads", {"X": 1}, "reads that are no texts in nodes[0]"),
        ("constants", [], "no constants"),
        ("weighted", "yes", "no weighted in nodes[0]"),
    ],
)
def test_a_damaged_line_is_refused(key, value, fault, tmp_path):
    snapshot(model()).save(tmp_path / "b.json")
    record = json.loads((tmp_path / "b.json").read_text())
    record["nodes"][0][key] = value
    (tmp_path / "b.json").write_text(json.dumps(record))
    with pytest.raises(BaselineError) as caught:
        Baseline.load(tmp_path / "b.json")
    assert fault in str(caught.value)


@pytest.mark.parametrize("name", ["s", "t"])
def test_either_scale_of_codes_that_two_layers_share_is_guarded(name):
    text = """<ir_version: 9, opset_import: ["": 19]>
        net (float[n, 4] x) => (float[n, 4] y) {
            v = DequantizeLinear(q, s) w = DequantizeLinear(q, t) h = MatMul(x, v) y = MatMul(h, w) }"""
    stored = {"q": np.arange(16, dtype=np.int8).reshape(4, 4), "s": np.float32(0.5), "t": np.float32(0.25)}
    baseline = snapshot(parsed(text, **stored))
    assert check(parsed(text, **stored), baseline).ok
    assert not check(parsed(text, **stored | {name: stored[name] * 2}), baseline).ok
