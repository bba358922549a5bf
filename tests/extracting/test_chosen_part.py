"""Which nodes belong to a part."""

from __future__ import annotations

import onnx.parser
import pytest

from onnxscope.errors import SelectorError
from onnxscope.extracting.chosen_part import choose_part
from onnxscope.model.loading import load_model

BRANCHES = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y, float[N, 2, 4, 4] z)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {5, 6}> {
        [first] a = Conv(x, w, b)
        [first_relu] r = Relu(a)
        [left] l = Conv(r, w)
        [right] t = Tanh(r)
        [sum] s = Add(l, t)
        [last] y = Conv(s, w)
        [aside] z = Neg(t)
    }"""
SIZES = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 2, 3] x, int64[1] n) => (float[N, 6] y, float[N, 6] z)
    <int64 at = {0}, int64[1] axes = {0}, int64[1] rest = {-1}> {
        h = Relu(x)
        s = Shape(h)  g = Gather(s, at)  u = Unsqueeze(g, axes)  c = Concat <axis = 0> (u, rest)
        [flat] y = Reshape(h, c)
        d = Concat <axis = 0> (n, rest)
        [fed] z = Reshape(h, d)
    }"""
QUANTIZED = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
    <int8[2, 2, 1, 1] w = {1, 2, 3, 4}, float scale = {0.5}, int8 zero = {0}> {
        q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
        [dw] k = DequantizeLinear(w, scale, zero)
        [conv] a = Conv(d, k)  r = Relu(a)
        p = QuantizeLinear(r, scale, zero)  e = DequantizeLinear(p, scale, zero)
        y = Neg(e)
    }"""
LOOP = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2, 2] x, int64 n) => (float[2, 2] y) <bool go = {1}, float[2, 2] w = {1, 2, 3, 4}> {
        h = Tanh(x)
        [loop] y = Loop(n, go, x) <body = b (int64 i, bool c, float[2, 2] s) => (bool more, float[2, 2] next) {
            more = Identity(c)
            [inner] m = MatMul(s, w)
            [bent] next = Add(m, h)
        }>
    }"""


def chosen(text, *selectors, start=(), end=()):
    part = choose_part(load_model(onnx.parser.parse_model(text)), selectors, start, end)
    return [node.label for node in part.nodes], list(part.inputs), list(part.outputs)


@pytest.mark.parametrize(
    ("selectors", "nodes", "inputs", "outputs"),
    [
        (["first"], ["first", "first_relu"], ["x"], ["r"]),
        (["node:first_relu"], ["first_relu"], ["a"], ["r"]),
        (["value:a"], ["first"], ["x"], ["a"]),
        (["right"], ["right"], ["r"], ["t"]),
        (["left", "right"], ["left", "right"], ["r"], ["l", "t"]),
        (["left", "sum"], ["left", "sum"], ["r", "t"], ["s"]),
        (["first", "sum"], ["first", "first_relu", "left", "right", "sum"], ["x"], ["t", "s"]),
        (["op:Conv", "!last"], ["first", "first_relu", "left"], ["x"], ["r", "l"]),
    ],
)
def test_selectors_choose_nodes_and_all_between_them(selectors, nodes, inputs, outputs):
    assert chosen(BRANCHES, *selectors) == (nodes, inputs, outputs)


@pytest.mark.parametrize(
    ("start", "end", "nodes", "inputs", "outputs"),
    [
        (["r"], ["s"], ["left", "right", "sum"], ["r"], ["s"]),
        (["l"], ["y"], ["sum", "last"], ["l", "t"], ["y"]),
        (["l", "t"], ["y"], ["sum", "last"], ["l", "t"], ["y"]),
        (["first"], ["left"], ["left"], ["r"], ["l"]),  # a layer stands for what leaves it
        ([], ["l"], ["first", "first_relu", "left"], ["x"], ["l"]),
        (["s"], [], ["last"], ["s"], ["y"]),
        (["x"], ["l", "z"], ["first", "first_relu", "left", "right", "aside"], ["x"], ["l", "z"]),
    ],
)
def test_a_span_holds_what_lies_between_its_values(start, end, nodes, inputs, outputs):
    assert chosen(BRANCHES, start=start, end=end) == (nodes, inputs, outputs)


def test_a_selection_begins_and_ends_elsewhere_where_that_is_said():
    assert chosen(BRANCHES, "left", end=["y"]) == (["left", "sum", "last"], ["r", "t"], ["y"])
    assert chosen(BRANCHES, "last", start=["l"]) == (["sum", "last"], ["l", "t"], ["y"])


def test_sizes_that_are_computed_from_what_reaches_the_part_belong_to_it():
    nodes, inputs, outputs = chosen(SIZES, "flat")
    assert (len(nodes), inputs, outputs) == (5, ["h"], ["y"])
    assert chosen(SIZES, "fed")[1:] == (["h", "d"], ["z"])  # these are data
    assert chosen(SIZES, start=["h", "c"], end=["y"]) == (["flat"], ["h", "c"], ["y"])


def test_a_quantized_layer_is_fed_codes_and_holds_its_quantization():
    nodes, inputs, outputs = chosen(QUANTIZED, "conv")
    assert (inputs, outputs) == (["q"], ["e"])
    assert nodes == ["DequantizeLinear(d)", "conv", "Relu(r)", "QuantizeLinear(p)", "DequantizeLinear(e)"]
    assert chosen(QUANTIZED, start=["d"], end=["r"]) == (["conv", "Relu(r)"], ["d"], ["r"])


def test_a_part_lies_in_a_body_or_holds_it_whole():
    assert chosen(LOOP, "inner") == (["inner"], ["s"], ["m"])
    assert chosen(LOOP, "inner", "bent") == (["inner", "bent"], ["s", "h"], ["next"])
    assert chosen(LOOP, "loop") == (["loop"], ["n", "x", "h"], ["y"])
    assert chosen(LOOP, "op:Tanh", "bent") == (["Tanh(h)", "loop"], ["x", "n"], ["y"])


def test_a_weight_is_chosen_as_the_layers_that_use_it():
    assert chosen(QUANTIZED, "w")[1:] == (["q"], ["e"])


@pytest.mark.parametrize(
    ("text", "selectors", "start", "end", "fault"),
    [
        (BRANCHES, [], [], [], "nothing is selected to be extracted: net"),
        (BRANCHES, ["!first"], [], [], "exclusions alone select no part: net"),
        (BRANCHES, ["first", "!first"], [], [], "nothing that is computed from an input is selected: net"),
        (QUANTIZED, ["node:dw"], [], [], "nothing that is computed from an input is selected: net"),
        (BRANCHES, ["x"], [], [], "nothing that is computed from an input is selected: net"),
        (BRANCHES, [], ["l"], ["r"], "no way leads from l to first_relu: net"),
        (BRANCHES, [], ["l", "z"], ["y"], "no way leads from z to y: net"),
        (BRANCHES, [], ["y"], [], "no way leads from y to what the part ends with: net"),
        (BRANCHES, [], [], ["x"], "'x' is not computed from any input, so no part ends with it: net"),
        (BRANCHES, [], [], ["nowhere"], "nothing matches the selector 'nowhere': net"),
        (LOOP, ["op:Tanh"], [], ["m"], "'m' lies in a body of loop, and the part does not: net"),
    ],
)
def test_what_is_no_part_is_refused(text, selectors, start, end, fault):
    with pytest.raises(SelectorError) as caught:
        chosen(text, *selectors, start=start, end=end)
    assert str(caught.value) == fault
    assert caught.value.hint
