from __future__ import annotations

import onnx.parser

from onnxscope.model.loading import load_model
from onnxscope.preparing.running_statistics import first_running_statistics, running_statistics

TWO = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 2, 4, 4] x, float[N, 2, 4, 4] other) => (float[N, 2, 4, 4] y)
    <float[2] one = {1, 1}, float[2] zero = {0, 0}, float[2] three = {3, 3}, float[2] dead = {1, 1e-12}>
    {
      a = Relu(x)
      [first] b = BatchNormalization(a, one, zero, three, dead)
      [second] c = BatchNormalization(b, one, zero, three, one)
      [beside] d = BatchNormalization(other, one, zero, three, one)
      [initial] e = BatchNormalization(x, one, zero, zero, one)
      f = Add(c, d)
      [learning] h, m, v = BatchNormalization<training_mode = 1>(x, one, zero, three, one)
      y = Add(f, e)
    }"""


def test_the_first_are_those_that_an_input_reaches_unnormalized():
    model = load_model(onnx.parser.parse_model(TWO))
    assert [entry.node.name for entry in running_statistics(model)] == ["first", "second", "beside", "initial"]
    assert [entry.node.name for entry in first_running_statistics(model, "x")] == ["first"]
    assert [entry.node.name for entry in first_running_statistics(model, "other")] == ["beside"]


def test_a_channel_that_never_moved_says_nothing():
    (first,) = first_running_statistics(load_model(onnx.parser.parse_model(TWO)), "x")
    assert first.counted.tolist() == [True, False]
