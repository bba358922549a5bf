"""Where the scale of computed codes is found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.model.encodings import codes_scale, decoded_codes

HEAD = """
    <ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
    g (float[N, 4, 6, 6] x, float s2) => (float[N, ?, ?, ?] y)"""


def graph_of(body, **tensors):
    stored = {"s": np.float32(0.1), "z": np.uint8(100), "t": np.float32(0.2), "u": np.uint8(0), **tensors}
    proto = onnx.parser.parse_model(f"{HEAD} {{ {body} }}")
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items())
    return onnxscope.load_model(proto).main


@pytest.mark.parametrize(
    "between",
    [
        "c = MaxPool <kernel_shape = [2, 2]> (q)",
        "c, d = Split <axis = 1, num_outputs = 2> (q)",
        "d, c = Split <axis = 1, num_outputs = 2> (q)",
        "i = Constant <value = int64[2] {0, 2}> ()  c = Gather <axis = 1> (q, i)",
        "a = Transpose <perm = [0, 2, 3, 1]> (q)  c = Identity (a)",
        "i = Constant <value = int64[2] {0, -1}> ()  c = Reshape (q, i)",
    ],
)
def test_what_hands_codes_on_keeps_their_scale(between):
    graph = graph_of(f"q = QuantizeLinear (x, s, z) {between} y = Cast <to = 1> (c)")
    assert codes_scale(graph, "q") == codes_scale(graph, "c") == ("s", "z")
    graph = graph_of(f"q = com.example.Unknown (x) {between} y = DequantizeLinear (c, t, u)")
    assert codes_scale(graph, "q") == codes_scale(graph, "c") == ("t", "u")


def test_where_readers_do_not_agree_most_of_them_tell_the_scale():
    made, one, other = (
        "q = QuantizeLinear (x, s, z)",
        "a = DequantizeLinear (q, t, u)",
        "b = DequantizeLinear (q, s2, u)",
    )
    again = "b = DequantizeLinear (q, s3, z)  y = Add (a, b)"  # numbers count, not names
    same = {"s3": np.float32(0.1)}
    assert codes_scale(graph_of(f"{made} {one} y = Relu (a)"), "q") == ("t", "u")
    assert codes_scale(graph_of(f"{made} {one} {other} y = Add (a, b)"), "q") == ("t", "u")
    assert codes_scale(graph_of(f"{made} {one} {again}", **same), "q") == ("s3", "z")


def test_what_reads_codes_tells_the_scale_that_nothing_before_tells():
    graph = graph_of(
        """i = Constant <value = int64[2] {0, 2}> ()
           a = Gather (table, i)
           b = Transpose <perm = [1, 0]> (a)
           c = com.microsoft.QLinearAdd (b, s, z, b, s, z, t, u)
           d = com.microsoft.QLinearMul (other, t, u, c, t, u, s, z)
           y = DequantizeLinear (d, s, z)""",
        table=np.zeros((4, 2), np.uint8),
        other=np.zeros((2, 2), np.uint8),
    )
    assert [codes_scale(graph, name) for name in "abcd"] == [("s", "z"), ("s", "z"), ("t", "u"), ("s", "z")]
    assert codes_scale(graph, "other") == ("t", "u")


@pytest.mark.parametrize(
    "body",
    [
        "c = QuantizeLinear (x, s2, z)  y = DequantizeLinear (c, s2, z)",
        "c = QuantizeLinear <axis = 1> (x, several, zeros)  y = DequantizeLinear <axis = 1> (c, several, zeros)",
        "q = QuantizeLinear (x, s, z)  p, c = MaxPool <kernel_shape = [2, 2]> (q)  y = DequantizeLinear (p, s, z)",
        "c = Relu (x)  q = QuantizeLinear (c, s, z)  y = DequantizeLinear (q, s, z)",
        "c = Shape (x)  y = Cast <to = 1> (c)",
    ],
    ids=["computed scale", "several scales", "places", "real numbers", "a shape"],
)
def test_what_has_no_one_scale_is_left_as_it_is(body):
    graph = graph_of(body, several=np.full(4, 0.1, np.float32), zeros=np.zeros(4, np.uint8))
    assert codes_scale(graph, "c") is None


def test_codes_that_others_read_too_are_found_behind_their_real_numbers():
    body = "q = QuantizeLinear (x, s, z)  r = DequantizeLinear (q, s, z)"
    assert decoded_codes(graph_of(f"{body}  y = Relu (r)"), "r") is None
    graph = graph_of(f"{body}  p = MaxPool <kernel_shape = [1, 1]> (q)  a = DequantizeLinear (p, s, z)  y = Add (a, r)")
    assert decoded_codes(graph, "r") == ("q", "s", "z")
    assert decoded_codes(graph, "x") is decoded_codes(graph, "y") is None
