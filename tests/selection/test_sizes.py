"""Sizes of values where symbolic dimensions have sizes: held against what a run gives."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator

from onnxscope.model.loading import load_model
from onnxscope.selection.sizes import infer_sizes

TEXTS = {
    "a quotient": """
        s = Shape (x)  width = Gather <axis = 0> (s, two)  part = Div (width, four)  side = Unsqueeze (part, axes)
        first = Slice (s, zero, twos)  full = Concat <axis = 0> (first, fours, side)  h = Reshape (x, full)""",
    "one product behind another": """
        s = Shape (x)  a = Slice (s, zero, ones)  b = Slice (s, ones, twos)  ab = Mul (a, b)
        full = Concat <axis = 0> (ab, minus)  flat = Reshape (x, full)
        t = Shape (flat)  rows = Gather <axis = 0> (t, nil)  whole = Unsqueeze (rows, axes)
        again = Concat <axis = 0> (whole, minus, twos)  h = Reshape (flat, again)""",
    "a remainder": """
        s = Shape (x)  length = Gather <axis = 0> (s, one)  odd = Mod (length, four)  side = Unsqueeze (odd, axes)
        h = Slice (x, zero, side, ones)""",
    "a float on the way": """
        s = Shape (x)  length = Gather <axis = 0> (s, one)  float = Cast <to = 1> (length)  half = Mul (float, ratio)
        down = Floor (half)  back = Cast <to = 7> (down)  side = Unsqueeze (back, axes)
        h = Slice (x, zero, side, ones)""",
}
STORED = """int64 nil = {0}, int64 one = {1}, int64 two = {2}, int64 four = {4}, int64[1] zero = {0},
    int64[1] ones = {1},
    int64[1] twos = {2}, int64[1] fours = {4}, int64[1] axes = {0}, int64[1] minus = {-1}, float ratio = {0.5}"""


@pytest.mark.parametrize("body", TEXTS.values(), ids=TEXTS)
def test_shapes_that_nodes_compute_are_those_of_a_run(body):
    proto = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 17]>
        g (float[batch, seq, 8] x) => (float[a, b, c] y) <{STORED}> {{ {body} y = Neg (h) }}""")
    types = infer_sizes(load_model(proto), {"batch": 3, "seq": 7}.get)
    x = np.zeros((3, 7, 8), np.float32)
    (made,) = ReferenceEvaluator(proto).run(["h"], {"x": x})
    assert types[()]["h"].shape == made.shape


def test_the_model_stays_as_it_is_and_other_sizes_stay_open():
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[batch, seq, 8] x) => (float[batch, seq, 8] y) { h = Neg (x)  y = Neg (h) }""")
    model = load_model(proto)
    before = model.proto.SerializeToString(deterministic=True)
    assert infer_sizes(model, {"seq": 5}.get)[()]["h"].shape == ("batch", 5, 8)
    assert model.proto.SerializeToString(deterministic=True) == before


def test_a_node_that_nobody_can_compute_is_no_fault():
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[n, 8] x) => (float[a] y) <int64[1] far = {9}, int64[2] two = {2, 3}> {
            s = Shape (x)  t = Gather (s, far)  u = Concat <axis = 5> (s, t)  h = Neg (x)  y = Reshape (h, u) }""")
    types = infer_sizes(load_model(proto), {"n": 2}.get)
    assert types == {} or types[()]["h"].shape == (2, 8)
