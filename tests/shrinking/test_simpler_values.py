"""Numbers that may be private are replaced, and those that a fault needs stay, and are counted."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import numpy_helper
from shrink_cases import case_of, searched

from onnxscope.shrinking.simpler_values import count_original, replace_values, simplify_values

X = np.array([[0.7123, -1.3217, 2.2713]], np.float32)
W = np.array([0.5171, 0.3119, -0.9173], np.float32)


def weights(search):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in search.case.proto.graph.initializer}


def test_weights_and_inputs_become_seeded_ones(bench):
    text = "(float[N, 3] x) => (float[N, 3] y) <float[3] w = {0.5171, 0.3119, -0.9173}> { a = Mul(x, w)  y = Sqrt(a) }"
    search = searched(bench, case_of(text, {"x": X}))
    assert replace_values(search)
    assert not search.case.original
    assert np.intersect1d(weights(search)["w"], W).size == 0
    assert np.intersect1d(search.case.feeds["x"], X).size == 0
    again = searched(bench, case_of(text, {"x": X}))
    replace_values(again)
    np.testing.assert_array_equal(weights(again)["w"], weights(search)["w"])
    simplify_values(search)
    session = onnxruntime.InferenceSession(search.case.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isnan(session.run(None, dict(search.case.feeds))[0]).any()


def test_what_the_fault_needs_stays_and_is_counted(bench):
    """One number alone makes it: 0.7123 / (0.7123 - x)."""
    text = "(float[N, 3] x) => (float[N, 3] y) <float[1] k = {0.7123}> { a = Sub(x, k)  y = Div(x, a) }"
    search = searched(bench, case_of(text, {"x": X}))
    replace_values(search)
    simplify_values(search)
    kept = sum(search.case.original.values())
    held = np.isin(search.case.feeds["x"], X).sum() + np.isin(weights(search)["k"], [np.float32(0.7123)]).sum()
    assert kept == held or not kept
    session = onnxruntime.InferenceSession(search.case.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isinf(session.run(None, dict(search.case.feeds))[0]).any()


def test_sizes_and_axes_are_no_weights():
    text = "(float[N, 3] x) => (float[M] y) <int64[1] s = {-1}, int8[2] q = {3, 4}> { y = Reshape(x, s) }"
    case = case_of(text, {"x": X})
    arrays = {"x": X, "s": np.array([-1]), "q": np.array([3, 4], np.int8), "ids": np.arange(40)}
    assert count_original(case, arrays) == {"x": 3, "q": 2, "ids": 40}
