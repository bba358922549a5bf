"""A text is a model again, with the same numbers, or there is none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper
from shrink_cases import CRASH

from onnxscope.extracting.model_text import model_text


def model(weights, name="w"):
    nodes = [helper.make_node("Add", ["/x:0", name], ["a/y"], "block/add"), helper.make_node("Relu", ["a/y"], ["y"])]
    fed, given = (helper.make_tensor_value_info(each, TensorProto.FLOAT, [4]) for each in ("/x:0", "y"))
    graph = helper.make_graph(nodes, "part", [fed], [given], [numpy_helper.from_array(weights, name)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_names_of_any_kind_and_numbers_come_back():
    weights = np.array([0.1, 1e-30, np.nan, -np.inf], np.float32)
    text = model_text(model(weights, "onnx::W 3"))
    read = onnx.parser.parse_model(text)
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), weights)
    assert [list(node.input) for node in read.graph.node] == [["/x:0", "onnx::W 3"], ["a/y"]]
    assert text.endswith("}\n")


def test_what_is_large_or_lies_in_a_file_has_none():
    assert model_text(model(np.ones(1000, np.float32))) is not None
    assert model_text(model(np.ones(1001, np.float32))) is None
    outside = model(np.ones(4, np.float32))
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert model_text(outside) is None


def test_numbers_that_a_text_would_round_have_none():
    value = np.nextafter(np.float32(0.1), np.float32(1))
    text = model_text(model(np.full(4, value)))
    assert text is None or numpy_helper.to_array(onnx.parser.parse_model(text).graph.initializer[0])[0] == value


def test_bodies_come_back():
    loop = """<ir_version: 9, opset_import: ["": 17]> net (float[2] x, int64 n) => (float[2] y) <bool go = {1}> {
        y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool more, float[2] next) {
            more = Identity(c)  k = Constant <value = float[2] {1, 2}> ()  next = Mul(s, k)
        }> }"""
    for text in (loop, CRASH):
        assert model_text(onnx.parser.parse_model(text)) is not None
