"""A tolerance forgives weights by the real numbers that they stand for, however they are stored."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed

from onnxscope.comparison.compare_models import diff
from onnxscope.numerics.distances import Tolerance

HEAD = '<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 6] y)'
STORED = {
    "one scale": "{ d = DequantizeLinear(w, s, z) [fc] y = Gemm<transB = 1>(x, d) }",
    "a scale a channel": "{ d = DequantizeLinear<axis = 0>(w, ss, zs) [fc] y = Gemm<transB = 1>(x, d) }",
    "integers multiplied": """{
        q, qs, qz = DynamicQuantizeLinear(x)
        t = Transpose<perm = [1, 0]>(w)
        [fc] i = MatMulInteger(q, t, qz, z)
        f = Cast<to = 1>(i)
        k = Mul(qs, s)
        y = Mul(f, k)
    }""",
    "computed": "{ f = Cast<to = 1>(w) m = Mul(f, s) t = Transpose<perm = [1, 0]>(m) [fc] y = MatMul(x, t) }",
    "float": "{ [fc] y = Gemm<transB = 1>(x, r) }",
}
RANDOM = np.random.default_rng(3)
CODES = RANDOM.integers(10, 100, (6, 4)).astype(np.int8)
X = RANDOM.standard_normal((3, 4), np.float32)
SCALE = np.float32(0.5)


def network(form, codes=CODES, zero=0):
    codes = codes.astype(np.int8)
    known = {
        "w": codes,
        "s": np.asarray(SCALE),
        "z": np.asarray(np.int8(zero)),
        "ss": np.full(6, SCALE, np.float32),
        "zs": np.full(6, zero, np.int8),
        "r": (codes.astype(np.float32) - zero) * SCALE,
    }
    read = {name for node in parsed(HEAD + STORED[form]).graph.node for name in node.input}
    return parsed(HEAD + STORED[form], **{name: array for name, array in known.items() if name in read})


def one_step(place=0):
    codes = CODES.copy()
    codes.flat[place] += 1
    return codes


@pytest.mark.parametrize("inputs", [None, X])
@pytest.mark.parametrize("form", STORED)
def test_a_step_of_one_code_is_as_large_as_the_scale(form, inputs):
    model, other = network(form), network(form, one_step())
    assert not diff(model, other, inputs).equal
    loose = {"atol": 10 * float(SCALE) * float(np.abs(X).max())}
    assert diff(model, other, inputs, **loose).equal
    (change,) = diff(model, other, inputs, **loose).weights
    assert not change.counts
    assert change.message.endswith("within the tolerance")
    assert ("int8 codes" in change.message) == (form not in ("float", "computed"))
    # Just above and just below one step of the scale, where the weights alone decide.
    assert diff(model, other, None, atol=float(SCALE) * 1.001).equal
    assert not diff(model, other, None, atol=float(SCALE) * 0.999).equal


@pytest.mark.parametrize("zero", [0, 9])
@pytest.mark.parametrize("form", [form for form in STORED if form != "computed"])
def test_a_relative_tolerance_is_of_the_real_number(form, zero):
    step = 1 / (float(CODES.flat[0]) - zero)
    sides = network(form, zero=zero), network(form, one_step(), zero=zero)
    assert diff(*sides, rtol=step * 1.001).equal
    assert not diff(*sides, rtol=step * 0.999).equal


def test_numbers_in_another_order_are_not_forgiven_by_a_small_tolerance():
    swapped = CODES[[1, 0, 2, 3, 4, 5]]
    assert not diff(network("float"), network("float", swapped), atol=0.1).equal


def test_nan_and_infinity_are_not_forgiven():
    for number in (np.nan, np.inf):
        weights = np.ones((6, 4), np.float32)
        odd = weights.copy()
        odd[2, 2] = number
        text = HEAD + STORED["float"]
        assert not diff(parsed(text, r=weights), parsed(text, r=odd), atol=1e9, rtol=1e9).equal
        assert diff(parsed(text, r=odd), parsed(text, r=odd), atol=1e-9).equal


def test_long_integers_are_held_to_the_tolerance_before_they_are_rounded():
    reference, other = np.array([2**62, 5]), np.array([2**62 + 1, 5])
    assert Tolerance(0.0, 1.0).forgives(reference, other)
    assert not Tolerance(0.0, 0.5).forgives(reference, other)


NET = '<ir_version: 9, opset_import: ["": 17, "ai.onnx.ml": 3]> g (float[N, 4] x) => (float[N, 4] y) '
LONG = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"  # more than a text of a constant shows
BRANCHES = """{ s = ReduceSum<keepdims = 0>(x) z = Constant<value_float = 0.0>() b = Greater(s, z)
    y = If(b) <then_branch = t () => (float[N, 4] u) { k = Constant<value_float = NUMBER>() u = Mul(x, k) },
               else_branch = e () => (float[N, 4] v) { v = Neg(x) }> }"""
WHOEVER_READS = {
    "an attribute": "{ y = LeakyRelu<alpha = NUMBER>(x) }",
    "a layer's attribute": "<float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> { y = Gemm<alpha = NUMBER>(x, w) }",
    "a list": "{ y = ai.onnx.ml.Scaler<offset = [0.0, 0.0, 0.0, NUMBER], scale = [1.0, 1.0, 1.0, 1.0]>(x) }",
    "a vector": "<float[4] c = {1, 1, 1, NUMBER}> { y = Mul(c, x) }",
    "a long constant": f"<float[12] c = {{{LONG}, NUMBER}}> {{ l = Concat<axis = 1>(x, x, x) m = Mul(l, c) "
    "i = Constant<value_ints = [0, 1, 2, 11]>() y = Gather<axis = 1>(m, i) }",
    "a Constant": "{ c = Constant<value_float = NUMBER>() y = Mul(x, c) }",
    "a tensor in an attribute": "{ k = Constant<value_ints = [4]>() "
    "c = ConstantOfShape<value: tensor = float[1] {NUMBER}>(k) y = Mul(x, c) }",
    "an operand that was an attribute": "{ l = Constant<value_float = NUMBER>() y = Clip(x, l) }",
    "a norm": "<float[4] c = {1, 1, 1, NUMBER}> { y = LayerNormalization(x, c) }",
    "a BatchNorm by itself": "<float[4] c = {1, 1, 1, NUMBER}> { r = Relu(x) y = BatchNormalization(r, c, c, c, c) }",
    "one of three": "<float[4] c = {1, 1, 1, NUMBER}> { n = IsNaN(x) y = Where(n, c, x) }",
    "a branch": BRANCHES,
}


@pytest.mark.parametrize("inputs", [None, X])
@pytest.mark.parametrize("place", WHOEVER_READS)
def test_a_stored_number_within_the_tolerance_is_no_difference_whoever_reads_it(place, inputs):
    model, near, far = (parsed(NET + WHOEVER_READS[place].replace("NUMBER", text)) for text in ("0.4", "0.4001", "0.6"))
    assert not diff(model, near, inputs).equal
    loose = {"rtol": 1e-3, "atol": 1e-3}
    result = diff(model, near, inputs, **loose)
    assert result.equal, repr(result)
    told = {change.message.rpartition("; ")[2] for change in (*result.weights, *result.structure)}
    assert told == {"within the tolerance"}
    assert "within the tolerance" in result.changes_table().text()
    assert not diff(model, far, inputs, **loose).equal
    # Without data the numbers alone decide: 0.0001 apart, which is 1 of 4,000.
    assert diff(model, near, rtol=1.001 / 4_000).equal
    assert not diff(model, near, rtol=0.999 / 4_000).equal


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("{ y = Softmax<axis = NUMBER>(x) }", "0", "1"),
        ("<int64[1] a = {NUMBER}> { y = CumSum(x, a) }", "0", "1"),
        ("<int64[4] i = {NUMBER}> { y = Gather<axis = 1>(x, i) }", "0, 1, 2, 3", "1, 0, 2, 3"),
    ],
)
def test_an_integer_that_says_where_is_in_no_tolerance(text, before, after):
    sides = [parsed(NET + text.replace("NUMBER", number)) for number in (before, after)]
    result = diff(*sides, atol=10.0)
    assert result.verdict == "differs"
    assert [change.forgiven for change in result.structure] == [False]


def test_a_batch_norm_that_is_folded_within_the_tolerance_does_not_count():
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((3, 2, 1, 1), np.float32), rng.standard_normal(3, np.float32)
    scale, shift = np.float32([1.5, 0.5, 2.0]), np.float32([0.1, 0.2, 0.3])
    head = '<ir_version: 9, opset_import: ["": 17]> g (float[N, 2, 3, 3] x) => (float[N, 3, 3, 3] y) '
    norm = "{ c = Conv(x, w, b) y = BatchNormalization<epsilon = 0.0>(c, s, t, m, v) }"
    known = {"w": w, "b": b, "s": scale, "t": shift, "m": np.zeros(3, np.float32), "v": np.ones(3, np.float32)}
    model = parsed(head + norm, **known)

    def folded(weight_off, bias_off):
        weight, bias = w * scale.reshape(-1, 1, 1, 1), b * scale + shift
        return parsed(head + "{ y = Conv(x, w, b) }", w=weight * np.float32(weight_off), b=bias + np.float32(bias_off))

    assert diff(model, folded(1, 0)).equal
    for other in (folded(1.001, 0), folded(1, 0.001), folded(1.001, 0.001)):
        assert not diff(model, other).equal
        assert diff(model, other, rtol=2e-3, atol=2e-3).equal
        assert diff(other, model, rtol=2e-3, atol=2e-3).equal
        assert not diff(model, other, rtol=1e-4, atol=1e-4).equal


def test_an_initializer_that_nothing_reads_is_held_to_the_tolerance():
    text = "<float[2] unread = {1, NUMBER}> { y = Relu(x) }"
    model, other = (parsed(NET + text.replace("NUMBER", number)) for number in ("1", "1.001"))
    assert not diff(model, other).equal
    assert diff(model, other, atol=2e-3).equal
    assert not diff(model, other, atol=5e-4).equal
