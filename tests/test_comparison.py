"""compare(): planted faults are found where they are, and nothing is found where there is none."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnx.utils
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.qdq_loss_debug import (
    collect_activations,
    compute_activation_error,
    create_activation_matching,
    modify_model_output_intermediate_tensors,
)
from planting import in_half

from onnxscope import compare
from onnxscope.comparison import noise_floors
from onnxscope.errors import InputError, RunError, SelectorError

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
DIGITS, DEPLOYED, QDQ, INPUT = (
    str(FIXTURES / name) for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx", "digits.npz")
)
RNG = np.random.default_rng(5)
LAYERS = ["stem.0", "block.0", "down.0", "classifier.2"]


def planted(name, change, source=DIGITS):
    """A copy of a model with one initializer changed."""
    model = onnx.load(source)
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


def one_weight(values):
    values.flat[values.size // 2] += values.std()
    return values


def swapped(values):
    values[[0, 2]] = values[[2, 0]]
    return values


def transposed(values):
    return values.swapaxes(-1, -2)


def parsed(text, **initializers):
    model = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


TWO = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 3, 6, 6] x) => (float[batch, 5] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w1)
        r = Relu(c)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w2, b2)
    }"""
WEIGHTS = {
    "w1": RNG.standard_normal((4, 3, 3, 3), np.float32),
    "w2": RNG.standard_normal((5, 4), np.float32),
    "b2": RNG.standard_normal(5, np.float32),
}
X = RNG.standard_normal((3, 3, 6, 6), np.float32)


def test_a_model_is_equal_to_itself():
    result = compare(DIGITS, DIGITS, INPUT)
    assert result.equal
    assert [row.a.layer for row in result] == LAYERS
    assert result.first_divergence is None
    assert result.guilty == ()
    assert result.weights == ()
    assert result.verdict() == "equal: 4 layers and 1 output"


def test_a_deployed_export_is_equal_and_its_folding_is_seen():
    result = compare(DIGITS, DEPLOYED, INPUT)
    assert result.equal
    assert [(change.layer, change.change, change.counts) for change in result.weights] == [
        ("block.0", "folded", False),
        ("down.0", "folded", False),
    ]
    formula = "block.0.weight x block.1.weight / sqrt(block.1.running_var + 1e-05)"
    assert result.weights[0].message == f"block.0.weight = {formula}"
    assert compare(DEPLOYED, DIGITS, INPUT).equal


@pytest.mark.parametrize("layer", LAYERS)
def test_one_changed_weight_names_its_layer(layer):
    result = compare(DIGITS, planted(f"{layer}.weight", one_weight), INPUT)
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
    result = compare(DIGITS, planted("block.0.weight", change), INPUT)
    assert result.first_divergence.a.layer == "block.0"
    assert [row.a.layer for row in result.guilty] == ["block.0"]
    assert (result.weights[0].change, result.weights[0].message) == ("permuted", message)
    assert not compare(DIGITS, planted("block.0.weight", change)).equal


def test_of_two_faults_the_larger_is_named_first_and_the_others_are_innocent():
    model = planted("stem.0.weight", one_weight)
    (tensor,) = (each for each in model.graph.initializer if each.name == "down.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    result = compare(DIGITS, model, INPUT)
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
    result = compare(DIGITS, deployed, INPUT)
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
    result = compare(DIGITS, model, INPUT)
    assert [row.a.layer for row in result.guilty] == ["down.0"]
    messages = [change.message for change in result.weights if change.counts]
    assert messages == ["the BatchNorm down.1 is missing in the second model"]


def test_moved_padding_is_the_layers_own_and_shows_in_the_structure():
    other = parsed(TWO.replace("[1, 1, 1, 1]", "[2, 2, 0, 0]"), **WEIGHTS)
    result = compare(parsed(TWO, **WEIGHTS), other, X)
    assert [row.a.layer for row in result.guilty] == [result[0].a.layer]
    assert "pads [1, 1, 1, 1] became [2, 2, 0, 0]" in result.structure[0].message
    assert not compare(parsed(TWO, **WEIGHTS), other).equal


def submodel(model, reads, gives):
    return onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(reads, gives)


def test_the_numbers_are_those_of_the_reference_evaluator():
    a, b = parsed(TWO, **WEIGHTS), parsed(TWO, **WEIGHTS | {"w1": WEIGHTS["w1"] * np.float32(1.01)})
    b.graph.initializer[2].CopyFrom(numpy_helper.from_array(WEIGHTS["b2"] + np.float32(0.1), "b2"))
    result = compare(a, b, X, rtol=1e-3, atol=1e-3)
    (left, first), (right, second) = (
        ReferenceEvaluator(model).run(["r", "y"], {"x": X})
        for model in (submodel(m, ["x"], ["r", "y"]) for m in (a, b))
    )
    (alone,) = ReferenceEvaluator(submodel(b, ["r"], ["y"])).run(["y"], {"r": left})
    for row, reference, other, own in ((result[0], left, right, right), (result[1], first, second, alone)):
        x, y, z = (each.astype(np.float64) for each in (reference, other, own))
        assert row.entire.relative_l2 == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-4)
        assert row.own.relative_l2 == pytest.approx(np.linalg.norm(z - x) / np.linalg.norm(x), rel=1e-4)
        assert row.entire.max_abs == pytest.approx(np.abs(y - x).max(), rel=1e-4)
        cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
        assert row.entire.cosine == pytest.approx(cosine, rel=1e-6)
        assert row.entire.sqnr_db == pytest.approx(20 * np.log10(np.linalg.norm(x) / np.linalg.norm(y - x)), abs=0.01)
        beyond = np.abs(y - x) > 1e-3 + 1e-3 * np.abs(x)
        assert row.entire.beyond_fraction == pytest.approx(beyond.mean(), abs=2 / x.size)


def test_two_sessions_give_the_same_numbers_as_one_graph():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO, **WEIGHTS | {"w1": WEIGHTS["w1"] * np.float32(1.01)})
    older = parsed(TWO.replace("18]", "17]"), **WEIGHTS | {"w1": WEIGHTS["w1"] * np.float32(1.01)})
    merged, apart = compare(a, b, X), compare(a, older, X, memory_budget_bytes=1)
    assert merged.notes == ()
    assert apart.notes == ("compared in two sessions, not in one graph: two operator sets ai.onnx: 18 and 17",)
    for one, two in zip((*merged, *merged.outputs), (*apart, *apart.outputs), strict=True):
        for key, number in one.to_dict().items():
            if isinstance(number, float) and key not in ("own_relative_l2", "own_max_abs"):
                assert two.to_dict()[key] == pytest.approx(number, rel=1e-4, abs=1e-6), key
        assert two.own.relative_l2 == pytest.approx(one.own.relative_l2, rel=1e-4, abs=1e-6)


def test_batches_add_up():
    a, b = parsed(TWO, **WEIGHTS), parsed(TWO, **WEIGHTS | {"b2": WEIGHTS["b2"] * 2})
    whole, single = compare(a, b, X, batch_size=3), compare(a, b, X, batch_size=1)
    assert whole.samples == single.samples == 3
    assert single[1].entire.relative_l2 == pytest.approx(whole[1].entire.relative_l2, rel=1e-5)
    assert compare(a, b, X, limit=2).samples == 2


def test_the_noise_is_the_first_models_own_and_a_tolerance_can_only_forgive():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO, **WEIGHTS | {"b2": WEIGHTS["b2"] + np.float32(1e-3)})
    assert not compare(a, b, X).layers[0].differs
    assert compare(a, b, X)[1].differs
    assert not compare(a, b, X, atol=1e-2)[1].differs
    assert compare(a, b, X, atol=1e-5)[1].differs
    tiny = parsed(TWO, **WEIGHTS | {"b2": WEIGHTS["b2"] * np.float32(1 + 2e-7)})
    assert not compare(a, tiny, X, atol=0)[1].differs
    with pytest.raises(InputError, match="not a tolerance: rtol nan, atol None"):
        compare(a, b, X, rtol=math.nan)


def test_the_noise_alone_is_that_of_a_comparison_with_itself():
    result = compare(DIGITS, DIGITS, INPUT, limit=20)
    floors = noise_floors(DIGITS, INPUT, limit=20)
    assert floors == {row.a.name: row.floor for row in (*result.layers, *result.outputs)}
    assert noise_floors(DIGITS, INPUT, batch_size=1) != floors


def test_what_is_not_finite_differs_even_where_sums_could_not_tell():
    a = parsed(TWO, **WEIGHTS)
    bias = WEIGHTS["b2"].copy()
    bias[1] = np.inf
    result = compare(a, parsed(TWO, **WEIGHTS | {"b2": bias}), X)
    row = result[1]
    assert row.differs
    assert row.to_dict()["mismatched_count"] == 3
    assert row.to_dict()["relative_l2"] is None
    assert "(not finite)" in result.verdict()
    both = parsed(TWO, **WEIGHTS | {"b2": bias})
    assert compare(both, both, X).equal


HALF = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 3] x) => (float[batch, 2] y) {
        h = Cast<to = 10>(x)
        g = MatMul(h, w1)
        k = MatMul(g, w2)
        y = Cast<to = 1>(k)
    }"""
SINGLE = HALF.replace("<to = 10>", "<to = 1>")


def test_an_overflow_in_half_precision_is_named():
    w1, w2 = np.full((3, 4), 300.0, np.float32), np.full((4, 2), 300.0, np.float32)
    feeds = np.ones((2, 3), np.float32)
    a, b = parsed(SINGLE, w1=w1, w2=w2), parsed(HALF, w1=w1.astype(np.float16), w2=w2.astype(np.float16))
    result = compare(a, b, feeds)
    assert [row.b.name for row in result.guilty] == ["k"]
    assert result[1].entire.mismatched == 4
    assert not result[0].differs
    assert {change.change for change in result.weights} <= {"rounded"}


def test_half_precision_alone_is_no_difference():
    half = in_half(DIGITS)
    for pair in ((DIGITS, half), (half, DIGITS), (half, half)):
        result = compare(*pair, INPUT)
        assert result.equal, repr(result)
        assert result.guilty == ()
        assert all(row.floor == 2**-10 for row in (*result, *result.outputs))
        assert result.notes == ("compared in two sessions, not in one graph: values in half precision",)
    result = compare(DIGITS, half, INPUT)
    assert {change.change for change in result.weights} == {"rounded"}
    assert all(1e-5 < row.own.relative_l2 < 2**-10 for row in result)
    assert not compare(DIGITS, half).equal  # nothing has acquitted the weights


def test_a_layer_in_single_precision_behind_others_in_half_is_innocent():
    mixed = in_half(DIGITS, single={onnx.load(DIGITS).graph.node[-1].output[0]})
    result = compare(DIGITS, mixed, INPUT)
    assert result.equal, repr(result)
    assert [row.floor for row in result] == [2**-10] * 4


@pytest.mark.parametrize("layer", LAYERS)
def test_a_fault_in_half_precision_is_named(layer, tmp_path):
    half = in_half(DIGITS)
    onnx.save(half, tmp_path / "half.onnx")
    result = compare(DIGITS, planted(f"{layer}.weight", one_weight, tmp_path / "half.onnx"), INPUT)
    assert not result.equal
    assert [row.a.layer for row in result.guilty] == [layer]
    assert {change.layer for change in result.weights if change.counts} == {layer}
    assert [change.a for change in result.weights if change.change == "changed"] == [f"{layer}.weight"]


def test_weights_rounded_to_half_precision_count_where_values_are_not():
    a = parsed(SINGLE, w1=WEIGHTS["w1"][:, :, 0, 0].T.copy(), w2=WEIGHTS["w2"][:2].T.copy())
    text = SINGLE.replace("MatMul(h, w1)", "MatMul(h, s)").replace("h = Cast", "s = Cast<to = 1>(w1) h = Cast")
    b = parsed(text, w1=WEIGHTS["w1"][:, :, 0, 0].T.astype(np.float16), w2=WEIGHTS["w2"][:2].T.copy())
    result = compare(a, b, X[:, :, 0, 0].copy())
    assert [row.a.name for row in result.guilty] == ["g"]
    assert [(change.change, change.counts) for change in result.weights] == [("rounded", True)]


CHANNELS_LAST = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 6, 6, 3] image) => (float[batch, 5] scores) {
        t = Transpose<perm = [0, 3, 1, 2]>(image)
        k = Transpose<perm = [3, 2, 0, 1]>(kernel)
        c = Conv<pads = [1, 1, 1, 1]>(t, k)
        u = Transpose<perm = [0, 2, 3, 1]>(c)
        r = Relu(u)
        p = ReduceMean<keepdims = 0>(r, axes)
        m = MatMul(p, dense)
        scores = Add(m, bias)
    }"""


def test_another_layout_is_matched_and_said():
    b = parsed(
        CHANNELS_LAST,
        kernel=np.ascontiguousarray(WEIGHTS["w1"].transpose(2, 3, 1, 0)),
        dense=np.ascontiguousarray(WEIGHTS["w2"].T),
        bias=WEIGHTS["b2"],
        axes=np.array([1, 2]),
    )
    a = parsed(TWO, **WEIGHTS)
    result = compare(a, b, X)
    assert result.equal
    assert len(result) == 2
    assert result.notes == ("input x: called image in the second model, its axes in the order [0, 2, 3, 1]",)
    assert {change.change for change in result.weights} == {"renamed"}
    assert compare(b, a, X.transpose(0, 2, 3, 1)).equal
    b.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(swapped(WEIGHTS["w1"].copy()).transpose(2, 3, 1, 0)), "kernel")
    )
    assert [row.a.name for row in compare(a, b, X).guilty] == ["r"]


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
        result = compare(a, b, inputs)
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
        assert len(compare(a, b, align="content")) == 0
        result = compare(a, b, X, align="content")
        assert [(row.a.name, row.b.name) for row in result] == [("r", "r"), ("y", b.graph.output[0].name)]
        assert (result.only_a, result.only_b) == ((), ())
        assert "layers paired by their values: 2" in result.notes
        assert all(0 < row.entire.relative_l2 < 3 * scale for row in result)
        # One sample of the last layer is five numbers, and no evidence.
        short = compare(a, b, X, align="content", memory_budget_bytes=1)
        assert [row.a for row in short] == [result[0].a]


def test_a_quantized_network_is_paired_with_the_original_by_its_values():
    assert len(compare(DIGITS, QDQ, align="content")) == 0
    result = compare(DIGITS, QDQ, INPUT, align="content")
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
    assert len(compare(a, b)) == 0
    result = compare(a, b, X)
    assert [(row.a.name, row.b.name) for row in result] == [("r", "q"), ("y", "z")]
    assert [row.own.relative_l2 for row in result] == pytest.approx([1e-3, 1e-3], rel=1)
    for align in ("name", "structure"):
        assert len(compare(a, b, X, align=align)) == 0


def test_values_that_say_nothing_pair_nothing(monkeypatch):
    twins = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 12] x) => (float[batch, 4] y) { h = MatMul(x, w)  k = MatMul(x, v)  y = Add(h, k) }"""
    w = RNG.standard_normal((12, 4), np.float32)
    x = RNG.standard_normal((5, 12), np.float32)
    same = parsed(twins, w=w, v=noisy(w, 1e-6)), parsed(twins, w=noisy(w), v=noisy(w, 1e-4))
    assert len(compare(*same, x, align="content")) == 0  # each is near two
    tiny = np.full_like(w, 1e-30)
    zero = parsed(twins, w=tiny, v=w), parsed(twins, w=np.zeros_like(w), v=noisy(w))
    assert [row.a.name for row in compare(*zero, x, align="content")] == ["k"]
    assert len(compare(*zero, 0 * x, align="content")) == 0  # all values are zeros
    assert len(compare(*zero, x[:1], align="content")) == 0  # four numbers
    monkeypatch.setattr("onnxscope.comparison._MOST_LEFT_OVER", 1)
    assert "layers left over, too many to pair them by their values: 2" in compare(*same, x, align="content").notes


def test_nothing_aligned_is_a_failure_and_every_unaligned_layer_is_listed():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(
        """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 3, 6, 6] x) => (float[batch, 7] z) { s = Flatten(x) z = MatMul(s, v) }""",
        v=np.ones((108, 7), np.float32),
    )
    result = compare(a, b)
    assert not result.equal
    assert [op_type for _, op_type in result.only_a] == ["Conv", "Gemm"]
    assert [op_type for _, op_type in result.only_b] == ["MatMul"]
    assert sorted(change.change for change in result.weights) == ["added", "removed", "removed", "removed"]
    assert "3 layers without a counterpart" in result.verdict()
    run = compare(a, b, X)
    assert run.outputs[0].reason == "shape [3, 5] against [3, 7]"
    assert not run.equal
    nothing = parsed('<ir_version: 9, opset_import: ["": 18]> g (float[2] x) => () { }')
    assert compare(nothing, nothing).verdict() == "differ: nothing of one model was found in the other"


def test_models_that_take_different_things_cannot_be_run():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO.replace("[batch, 3, 6, 6] x", "[batch, 3, 8, 8] x"), **WEIGHTS)
    with pytest.raises(
        InputError, match=r"input 'x' float32 \(batch, 3, 6, 6\) cannot become 'x' float32 \(batch, 3, 8"
    ):
        compare(a, b, X)
    two = parsed('<ir_version: 9, opset_import: ["": 18]> g (float[2] x, float[2] y) => (float[2] z) { z = Add(x, y) }')
    with pytest.raises(InputError, match="1 inputs against 2: "):
        compare(a, two, X)


def test_layers_inside_a_body_are_compared_too():
    text = """
        <ir_version: 10, opset_import: ["": 21]>
        net (float[batch, 3] x, bool c) => (float[batch, 3] y) {
            y = If(c) <then_branch = t () => (float[batch, 3] u) { d = MatMul(x, w) u = Neg(d) },
                       else_branch = e () => (float[batch, 3] v) { v = Abs(x) }>
        }"""
    w = RNG.standard_normal((3, 3), np.float32)
    a, b = parsed(text, w=w), parsed(text, w=one_weight(w.copy()))
    feeds = {"x": X[:, :, 0, 0].copy(), "c": np.array(True)}
    assert compare(a, a, feeds).equal
    assert compare(a, b, feeds).first_divergence.a.name == "d"
    idle = compare(a, a, feeds | {"c": np.array(False)})
    assert "not executed" in idle[0].reason


def test_a_selector_narrows_the_rows():
    result = compare(DIGITS, planted("stem.0.weight", one_weight), INPUT, select="down.*")
    assert [row.a.layer for row in result] == ["down.0"]
    assert result.weights == ()
    with pytest.raises(SelectorError, match="nothing matches the selector 'nope'"):
        compare(DIGITS, DIGITS, INPUT, select="nope")


def test_signal_to_noise_of_a_quantized_model_is_what_onnxruntime_reports(tmp_path):
    images = np.load(INPUT)["image"] if "image" in np.load(INPUT) else next(iter(np.load(INPUT).values()))
    feeds = {onnx.load(DIGITS).graph.input[0].name: images}
    collected = []
    for path in (DIGITS, QDQ):
        changed = str(tmp_path / f"debug_{Path(path).name}")
        modify_model_output_intermediate_tensors(path, changed)
        collected.append(collect_activations(changed, iter_reader(feeds)))
    errors = compute_activation_error(create_activation_matching(collected[1], collected[0]))
    result = compare(DIGITS, QDQ, images, batch_size=len(images))
    checked = 0
    for row in (*result.layers, *result.outputs):
        reported = errors.get(row.a.name, {}).get("xmodel_err")
        if reported is not None:
            checked += 1
            assert row.entire.sqnr_db == pytest.approx(float(reported), abs=0.1), row.a.name
    assert checked >= 3


def iter_reader(*feeds):
    class Reader:
        def __init__(self):
            self._left = list(feeds)

        def get_next(self):
            return self._left.pop(0) if self._left else None

        def __iter__(self):
            return self

        def __next__(self):
            found = self.get_next()
            if found is None:
                raise StopIteration
            return found

    return Reader()


def test_json_is_strict_and_complete():
    record = compare(DIGITS, QDQ, INPUT).to_dict()
    assert record["schema"] == "onnxscope.diff/1"
    assert record["equal"] is False
    assert record["first_divergence"]["a"] == record["layers"][0]["a"]
    assert list(record["layers"][0])[:7] == ["a", "b", "op_type", "max_abs", "relative_l2", "cosine", "sqnr_db"]
    assert {change["change"] for change in record["weights"]} == {"quantized"}


def test_a_model_that_onnxruntime_refuses_is_an_error():
    a = parsed(TWO, **WEIGHTS)
    b = copy.deepcopy(a)
    b.graph.node.insert(1, helper.make_node("Relu6", ["c"], ["q"]))
    b.graph.node[2].input[0] = "q"
    with pytest.raises(RunError, match="onnxruntime cannot load the model"):
        compare(a, b, X)
