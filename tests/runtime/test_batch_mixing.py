"""What a graph says of its first axis, and which of its values are random."""

from __future__ import annotations

import onnx.parser
import pytest

from onnxscope.model.loading import load_model
from onnxscope.runtime.batch_mixing import mixed_first_axis, quantizes_batches, random_values

HEADER = '<ir_version: 9, opset_import: ["": 18]>'


def loaded(text):
    return load_model(onnx.parser.parse_model(HEADER + text))


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("g (float[N, 3] x) => (float[N, 3] y) { y = Softmax<axis = -2>(x) }", "Softmax"),
        ("g (float[N, 3] x) => (float[1, 3] y) <int64[1] a = {0}> { y = ReduceMax(x, a) }", "ReduceMax"),
        ("g (float[N, 3] x) => (float[1, 1] y) { y = ReduceMean(x) }", "ReduceMean"),
        ("g (float[N, 3] x) => (float[3, N] y) { t = Transpose<perm = [1, 0]>(x)  y = Softmax(t) }", "Softmax"),
        ("g (float[N, 3] x) => (float[3, N] y) { t = Transpose(x)  y = Softmax(t) }", "Softmax"),
        ("g (float[N, 3] x) => (float[3, N] y) { t = Transpose(x)  y = Softmax<axis = 0>(t) }", None),
        ("g (float[N, 3] x, float[N, N] e) => (float[N, 3] y) { y = MatMul(e, x) }", "MatMul"),
        ("g (float[N, 3] x) => (float[N, N] y) { y = Gemm<transB = 1>(x, x) }", None),
        ("g (float[N, 3] x, float[N, N] e) => (float[N, 3] y) { y = Gemm(e, x) }", "Gemm"),
        ("g (float[N, 3] x) => (float[N, 3] y) <int64 a = {0}> { y = CumSum(x, a) }", "CumSum"),
        ("g (float[T, 2, 3] x, float[1, 4, 3] w, float[1, 4, 4] r) => (float[T, 1, 2, 4] y) "
         "{ y = RNN<hidden_size = 4>(x, w, r) }", "RNN"),
        ("g (float[N, 7, 3] x, float[1, 4, 3] w, float[1, 4, 4] r) => (float[N, 7, 1, 4] y) "
         "{ y = RNN<hidden_size = 4, layout = 1>(x, w, r) }", None),
        ("g (float[N, 3] x) => (float[N, 3] y) { y = Softmax<axis = 1>(x) }", None),
        ("g (float[N, 3] x) => (float[N, 1] y) <int64[1] a = {1}> { y = ReduceMax(x, a) }", None),
        ("g (float[4, 3] x) => (float[4, 3] y) { y = Softmax<axis = 0>(x) }", None),
    ],
)  # fmt: skip
def test_the_operator_that_works_along_the_first_axis_is_named(text, operator):
    reason = mixed_first_axis(loaded(text))
    assert reason is None if operator is None else reason.startswith(f"{operator} ")


def test_outputs_without_the_symbol_of_the_first_axis():
    text = "g (float[P, 3] x) => (float[3] y) <int64[1] s = {-1}> { r = Reshape(x, s)  y, i = TopK(r, s) }"
    assert mixed_first_axis(loaded(text)) == "no output has 'P'"


def test_random_numbers_are_followed_also_out_of_bodies():
    text = """g (float[N] x, bool c) => (float[N] y, float[N] z) {
        r = RandomNormalLike(x)  y = Add(x, r)  z = Neg(x)
        b = If(c) <then_branch = t () => (float[N] o) { o = RandomUniformLike(x) },
                   else_branch = e () => (float[N] p) { p = Identity(x) }> }"""
    assert random_values(loaded(text).main) == {"r", "y", "b"}


def test_scales_that_samples_share():
    assert quantizes_batches(loaded("g (float[N] x) => (uint8[N] y) { y, s, p = DynamicQuantizeLinear(x) }"))
    assert not quantizes_batches(loaded("g (float[N] x) => (float[N] y) { y = Neg(x) }"))
