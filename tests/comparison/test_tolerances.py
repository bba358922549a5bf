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
