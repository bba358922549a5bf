"""diff(): planted faults are found where they are, and nothing is found where there is none."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import pytest
from compared_models import (
    CHANNELS_LAST,
    DEPLOYED,
    DIGITS,
    INPUT,
    LAYERS,
    QDQ,
    TWO,
    WEIGHTS,
    X,
    floors_of,
    one_weight,
    parsed,
    planted,
    swapped,
)
from onnx import numpy_helper

from onnxscope import diff
from onnxscope.base.run_options import RunOptions
from onnxscope.errors import InputError, SelectorError
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(6)


def transposed(values):
    return values.swapaxes(-1, -2)


def test_a_model_is_equal_to_itself():
    result = diff(DIGITS, DIGITS, INPUT)
    assert result.equal
    assert [row.a.layer for row in result] == LAYERS
    assert result.first_divergence is None
    assert result.guilty == ()
    assert result.weights == ()
    assert result.summary() == "equal: 4 layers and 1 output"


def test_a_deployed_export_is_equal_and_its_folding_is_seen():
    result = diff(DIGITS, DEPLOYED, INPUT)
    assert result.equal
    assert [(change.layer, change.change, change.counts) for change in result.weights] == [
        ("block.0", "folded", False),
        ("down.0", "folded", False),
    ]
    formula = "block.0.weight x block.1.weight / sqrt(block.1.running_var + 1e-05)"
    assert result.weights[0].message == f"block.0.weight = {formula}"
    assert diff(DEPLOYED, DIGITS, INPUT).equal


@pytest.mark.parametrize("layer", LAYERS)
def test_one_changed_weight_names_its_layer(layer):
    result = diff(DIGITS, planted(f"{layer}.weight", one_weight), INPUT)
    assert not result.equal
    assert result.guilty[0].a.layer == layer
    assert len(result.guilty) == 1
    (change,) = result.weights
    assert (change.a, change.change, change.counts) == (f"{layer}.weight", "changed", True)
    assert "1 of " in change.message
    others = [row for row in result if row.a.layer != layer]
    assert all(row.own.relative_l2 <= 10 * row.floor for row in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "2 output channels have changed places: 0, 2"),
        (transposed, "the kernels are transposed: height and width are exchanged"),
        (lambda values: values[..., ::-1, ::-1], "the kernels are turned by 180 degrees"),
    ],
)
def test_the_same_numbers_in_another_order_are_recognized_and_count(change, message):
    result = diff(DIGITS, planted("block.0.weight", change), INPUT)
    assert result.first_divergence.a.layer == "block.0"
    assert [row.a.layer for row in result.guilty] == ["block.0"]
    assert (result.weights[0].change, result.weights[0].message) == ("permuted", message)
    assert not diff(DIGITS, planted("block.0.weight", change)).equal


def test_of_two_faults_the_larger_is_named_first_and_the_others_are_innocent():
    model = planted("stem.0.weight", one_weight)
    (tensor,) = (each for each in model.graph.initializer if each.name == "down.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    result = diff(DIGITS, model, INPUT)
    assert result.first_divergence.a.layer == "stem.0"
    assert [row.a.layer for row in result.guilty] == ["down.0", "stem.0"]
    assert [row.a.layer for row in result if row.differs] == LAYERS
    assert not result[1].is_guilty


def test_a_batchnorm_folded_with_another_epsilon_is_told():
    model = onnx.load(DIGITS)
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    deployed = onnx.load(DEPLOYED)
    for tensor in deployed.graph.initializer:
        if tensor.name == "block.0.weight":
            scale = arrays["block.1.weight"] / np.sqrt(arrays["block.1.running_var"] + 1e-2)
            wrong = (arrays["block.0.weight"] * scale[:, None, None, None]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
    result = diff(DIGITS, deployed, INPUT)
    assert [row.a.layer for row in result.guilty] == ["block.0"]
    assert "but with an epsilon of 0.01: " in result.weights[0].message


def test_a_batchnorm_left_out_is_named():
    model = onnx.load(DIGITS)
    (norm,) = (
        node for node in model.graph.node if node.op_type == "BatchNormalization" and "down.1.weight" in node.input
    )
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == norm.output[0]:
                node.input[place] = norm.input[0]
    model.graph.node.remove(norm)
    result = diff(DIGITS, model, INPUT)
    assert [row.a.layer for row in result.guilty] == ["down.0"]
    messages = [change.message for change in result.weights if change.counts]
    assert messages == ["the BatchNorm down.1 is missing in the second model"]


def test_moved_padding_is_the_layers_own_and_shows_in_the_structure():
    other = parsed(TWO.replace("[1, 1, 1, 1]", "[2, 2, 0, 0]"), **WEIGHTS)
    result = diff(parsed(TWO, **WEIGHTS), other, X)
    assert [row.a.layer for row in result.guilty] == [result[0].a.layer]
    assert "pads [1, 1, 1, 1] became [2, 2, 0, 0]" in result.structure[0].message
    assert not diff(parsed(TWO, **WEIGHTS), other).equal


def test_the_noise_is_the_first_models_own_and_a_tolerance_can_only_forgive():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO, **WEIGHTS | {"b2": WEIGHTS["b2"] + np.float32(1e-3)})
    assert not diff(a, b, X).layers[0].differs
    assert diff(a, b, X)[1].differs
    assert not diff(a, b, X, atol=1e-2)[1].differs
    assert diff(a, b, X, atol=1e-5)[1].differs
    tiny = parsed(TWO, **WEIGHTS | {"b2": WEIGHTS["b2"] * np.float32(1 + 2e-7)})
    assert not diff(a, tiny, X, atol=0)[1].differs
    with pytest.raises(InputError, match="not a tolerance: rtol nan, atol None"):
        diff(a, b, X, rtol=math.nan)


def test_the_noise_alone_is_that_of_a_comparison_with_itself():
    result = diff(DIGITS, DIGITS, INPUT, limit=20)
    model = load_model(DIGITS)
    floors = floors_of(model, INPUT, RunOptions(limit=20))
    assert floors == {row.a.name: row.floor for row in (*result.layers, *result.outputs)}
    assert floors_of(model, INPUT, RunOptions(batch_size=1)) != floors


def test_what_is_not_finite_differs_even_where_sums_could_not_tell():
    a = parsed(TWO, **WEIGHTS)
    bias = WEIGHTS["b2"].copy()
    bias[1] = np.inf
    result = diff(a, parsed(TWO, **WEIGHTS | {"b2": bias}), X)
    row = result[1]
    assert row.differs
    assert row.to_dict()["mismatched_count"] == 3
    assert row.to_dict()["relative_l2"] is None
    assert "(not finite)" in result.summary()
    both = parsed(TWO, **WEIGHTS | {"b2": bias})
    assert diff(both, both, X).equal


def test_the_order_behind_a_flatten_is_explained_by_the_other_layout():
    flat = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 3, 6, 6] x) => (float[batch, 5] y) {
            c = Conv(x, w1)
            %s
            f = Flatten(r)
            y = Gemm<transB = 1>(f, w2)
        }"""
    w2 = RNG.standard_normal((5, 64), np.float32)
    other = np.ascontiguousarray(w2.reshape(5, 4, 16).swapaxes(1, 2).reshape(5, 64))
    a = parsed(flat % "r = Relu(c)", w1=WEIGHTS["w1"], w2=w2)
    b = parsed(flat % "s = Relu(c) r = Transpose<perm = [0, 2, 3, 1]>(s)", w1=WEIGHTS["w1"], w2=other)
    for inputs in (X, None):
        result = diff(a, b, inputs)
        assert result.equal
        (change,) = result.weights
        assert (change.change, change.counts) == ("permuted", False)
        assert "in the order of the other layout (4 channels)" in change.message


def noisy(array, scale=1e-3):
    """The same weight as after another training, or another rounding: no number is the same."""
    return array * (1 + scale * np.random.default_rng(3).standard_normal(array.shape)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e-2])
def test_layers_whose_weights_have_changed_are_paired_by_their_values(scale):
    a = parsed(TWO, **WEIGHTS)
    plain = parsed(TWO, **{name: noisy(array, scale) for name, array in WEIGHTS.items()})
    last = parsed(
        CHANNELS_LAST,
        kernel=noisy(np.ascontiguousarray(WEIGHTS["w1"].transpose(2, 3, 1, 0)), scale),
        dense=noisy(np.ascontiguousarray(WEIGHTS["w2"].T), scale),
        bias=WEIGHTS["b2"],
        axes=np.array([1, 2]),
    )
    for b in (plain, last):
        assert len(diff(a, b, align="content")) == 0
        result = diff(a, b, X, align="content")
        assert [(row.a.name, row.b.name) for row in result] == [("r", "r"), ("y", b.graph.output[0].name)]
        assert (result.only_a, result.only_b) == ((), ())
        assert "layers paired by their values: 2" in result.notes
        assert all(0 < row.entire.relative_l2 < 3 * scale for row in result)
        # One sample of the last layer is five numbers, and no evidence.
        short = diff(a, b, X, align="content", memory_budget_bytes=1)
        assert [row.a for row in short] == [result[0].a]


def test_a_quantized_network_is_paired_with_the_original_by_its_values():
    assert len(diff(DIGITS, QDQ, align="content")) == 0
    result = diff(DIGITS, QDQ, INPUT, align="content")
    assert [(row.a.layer, row.b.layer) for row in result] == [(layer, layer) for layer in LAYERS]


ONE_BY_ONE = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 3, 6, 6] x) => (float[batch, 4, 6, 6] y) {
        c = Conv<kernel_shape = [1, 1]>(x, v1)
        r = Relu(c)
        y = Conv<kernel_shape = [1, 1]>(r, v2)
    }"""
AS_MATRICES = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 3, 6, 6] x) => (float[batch, 6, 6, 4] z) {
        t = Transpose<perm = [0, 2, 3, 1]>(x)
        m = MatMul(t, d1)
        q = Relu(m)
        z = MatMul(q, d2)
    }"""


def test_convolutions_are_found_in_matrix_products_by_their_values():
    v1, v2 = RNG.standard_normal((5, 3, 1, 1), np.float32), RNG.standard_normal((4, 5, 1, 1), np.float32)
    b = parsed(AS_MATRICES, d1=noisy(v1[:, :, 0, 0].T), d2=noisy(v2[:, :, 0, 0].T))
    a = parsed(ONE_BY_ONE, v1=v1, v2=v2)
    assert len(diff(a, b)) == 0
    result = diff(a, b, X)
    assert [(row.a.name, row.b.name) for row in result] == [("r", "q"), ("y", "z")]
    assert [row.own.relative_l2 for row in result] == pytest.approx([1e-3, 1e-3], rel=1)
    for align in ("name", "structure"):
        assert len(diff(a, b, X, align=align)) == 0


def test_values_that_say_nothing_pair_nothing(monkeypatch):
    twins = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 12] x) => (float[batch, 4] y) { h = MatMul(x, w)  k = MatMul(x, v)  y = Add(h, k) }"""
    w = RNG.standard_normal((12, 4), np.float32)
    x = RNG.standard_normal((5, 12), np.float32)
    same = parsed(twins, w=w, v=noisy(w, 1e-6)), parsed(twins, w=noisy(w), v=noisy(w, 1e-4))
    assert len(diff(*same, x, align="content")) == 0  # each is near two
    tiny = np.full_like(w, 1e-30)
    zero = parsed(twins, w=tiny, v=w), parsed(twins, w=np.zeros_like(w), v=noisy(w))
    assert [row.a.name for row in diff(*zero, x, align="content")] == ["k"]
    assert len(diff(*zero, 0 * x, align="content")) == 0  # all values are zeros
    assert len(diff(*zero, x[:1], align="content")) == 0  # four numbers
    monkeypatch.setattr("onnxscope.comparison.layer_comparison._MOST_LEFT_OVER", 1)
    assert "layers left over, too many to pair them by their values: 2" in diff(*same, x, align="content").notes


def test_nothing_aligned_is_a_failure_and_every_unaligned_layer_is_listed():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(
        """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 3, 6, 6] x) => (float[batch, 7] z) { s = Flatten(x) z = MatMul(s, v) }""",
        v=np.ones((108, 7), np.float32),
    )
    result = diff(a, b)
    assert not result.equal
    assert [op_type for _, op_type in result.only_a] == ["Conv", "Gemm"]
    assert [op_type for _, op_type in result.only_b] == ["MatMul"]
    assert sorted(change.change for change in result.weights) == ["added", "removed", "removed", "removed"]
    assert "3 layers without a counterpart" in result.summary()
    run = diff(a, b, X)
    assert run.outputs[0].reason == "shape [3, 5] against [3, 7]"
    assert not run.equal
    nothing = parsed('<ir_version: 9, opset_import: ["": 18]> g (float[2] x) => () { }')
    assert diff(nothing, nothing).summary() == "differs: nothing of one model was found in the other"


def test_a_selector_narrows_the_rows():
    result = diff(DIGITS, planted("stem.0.weight", one_weight), INPUT, select="down.*")
    assert [row.a.layer for row in result] == ["down.0"]
    assert result.weights == ()
    with pytest.raises(SelectorError, match="nothing matches the selector 'nope'"):
        diff(DIGITS, DIGITS, INPUT, select="nope")


def test_json_is_strict_and_complete():
    record = diff(DIGITS, QDQ, INPUT).to_dict()
    assert record["schema"] == "onnxscope.diff/1"
    assert record["equal"] is False
    assert record["first_divergence"]["a"] == record["layers"][0]["a"]
    assert list(record["layers"][0])[:7] == ["a", "b", "op_type", "max_abs", "relative_l2", "cosine", "sqnr_db"]
    assert {change["change"] for change in record["weights"]} == {"quantized"}
