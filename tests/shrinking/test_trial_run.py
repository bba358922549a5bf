"""How outputs are: judged against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from shrink_cases import case_of

from onnxscope.errors import RunError
from onnxscope.extracting.recorded_values import TOLERANCES
from onnxscope.shrinking.trial_run import Question, answer

FEEDS = {"x": np.array([1, -1, 0], np.float32)}


def asked(text, compared="nothing", wants="verdict", feeds=FEEDS):
    proto = case_of(text, feeds).proto.SerializeToString()
    return answer(Question(proto, feeds, None, (), compared, wants, TOLERANCES))


def test_nan_and_infinite_numbers_are_told_apart():
    text = "(float[N] x) => (float[N] r, float[N] l, float[N] t) { r = Sqrt(x)  l = Reciprocal(x)  t = Tanh(x) }"
    states = asked(text)
    assert [(states[name].has_nan, states[name].has_infinity) for name in "rlt"] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    np.testing.assert_allclose(asked(text, wants="values")["t"], np.tanh(FEEDS["x"]), rtol=1e-6)
    np.testing.assert_allclose(asked(text, wants="given")["t"], np.tanh(FEEDS["x"]), rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_how_far_the_second_half_is_from_the_first(factor):
    text = f"(float[N] x) => (float[N] a, float[N] b) <float k = {{{factor}}}> {{ a = Identity(x)  b = Mul(x, k) }}"
    states = asked(text, "halves")
    assert states["a"].excess == 0
    np.testing.assert_allclose(states["b"].excess, (factor - 1) / TOLERANCES["float32"], rtol=1e-3, atol=1e-9)


def test_the_reference_is_onnx_s_and_says_where_it_cannot():
    text = "(float[N] x) => (float[N] y) { y = Softmax(x) }"
    powers = np.exp(FEEDS["x"].astype(np.float64))
    np.testing.assert_allclose(asked(text, "reference", "expected")["y"], powers / powers.sum(), rtol=1e-6)
    assert asked(text, "reference")["y"].excess < 1
    assert asked(text, "optimizations")["y"].excess < 1
    custom = '<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]> net (float[N] x) => (float[N] y) {'
    with pytest.raises(RunError, match="onnx's ReferenceEvaluator cannot run it"):
        asked(custom + " y = com.microsoft.QuickGelu(x) }", "reference")


def test_types_are_inferred_without_a_run():
    import onnx

    types = asked("(float[3] x) => (y) { y = Unsqueeze(x, a) }".replace("(y)", "(float[A, B] y)").replace(
        "{ y", "<int64[1] a = {0}> { y"), wants="types")  # fmt: skip
    inferred = onnx.TypeProto.FromString(types["y"]).tensor_type
    assert [side.dim_value for side in inferred.shape.dim] == [1, 3]


def test_a_failure_is_an_error():
    with pytest.raises(RunError, match="cannot be reshaped"):
        asked("(float[N] x) => (float[M] y) <int64[1] s = {7}> { y = Reshape(x, s) }")
