"""inspect(): what a model says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from nested_models import function, with_functions
from onnx import numpy_helper
from unstable_models import noisy, written

from onnxscope.analyses.inspection import inspect
from onnxscope.base.json_files import dump_json
from onnxscope.errors import SelectorError

DIGITS = Path(__file__).resolve().parents[2] / "fixtures" / "digits.onnx"


@pytest.fixture
def model():
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17], producer_name: "pytorch", producer_version: "2.13.0">
        net (float[batch, 3, 8, 8] image, float[batch, 1] scale) => (float[batch, 4, 6, 6] y) {
            h = Conv(image, w, b)
            r = Relu(h)
            y = Mul(r, scale4)
            scale4 = Unsqueeze(scale, axes)
        }""")
    proto.graph.node[0].input[1:] = ["conv1.weight", "conv1.bias"]  # the text format knows no dots
    for name, array in (
        ("conv1.weight", np.ones((4, 3, 3, 3), np.float32)),
        ("conv1.bias", np.ones(4, np.float32)),
        ("axes", np.array([2, 3], np.int64)),
    ):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def test_inputs_outputs_and_counts(model):
    summary = inspect(model)
    assert [(spec.name, spec.dtype, spec.shape) for spec in summary.inputs] == [
        ("image", "float32", ("batch", 3, 8, 8)),
        ("scale", "float32", ("batch", 1)),
    ]
    assert [spec.name for spec in summary.outputs] == ["y"]
    assert summary.operators == {"Conv": 1, "Mul": 1, "Relu": 1, "Unsqueeze": 1}
    assert summary.nodes == 4
    assert summary.parameters == 4 * 27 + 4 + 2
    assert summary.parameter_bytes == 4 * (4 * 27 + 4) + 2 * 8


def test_a_layer_owns_its_weights(model):
    (layer,) = inspect(model).layers
    assert (layer.layer, layer.op_type, layer.value) == ("conv1", "Conv", "h")
    assert layer.parameters == 4 * 27 + 4
    assert layer.size_bytes == 4 * (4 * 27 + 4)


def test_selected_layers_need_no_weights(model):
    layers = inspect(model, select="op:Relu").layers
    assert [(layer.op_type, layer.value, layer.parameters) for layer in layers] == [("Relu", "r", 0)]


def test_the_header_reads_well(model):
    lines = inspect(model).header().splitlines()
    assert lines[0] == f"net: {model.ByteSize():,} bytes, 4 nodes, 114 numbers stored in 464 bytes"
    assert lines[1] == "producer  pytorch 2.13.0; IR version 9; opset ai.onnx 17"
    assert lines[2] == "input     image  float32 batch × 3 × 8 × 8"


def test_the_record_is_json(model):
    record = json.loads(dump_json(inspect(model).to_dict()))
    assert record["schema"] == "onnxscope.inspect/1"
    assert record["inputs"][0] == {"name": "image", "dtype": "float32", "shape": ["batch", 3, 8, 8]}


def test_an_unknown_selector_is_an_error(model):
    with pytest.raises(SelectorError, match="nothing matches the selector 'conv9'"):
        inspect(model, select="conv9")


def test_a_module_that_ends_with_a_convolution_shows_that_one():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] z) <float[5, 3, 1, 1] v, float[2, 5, 1, 1] w> {
            y = Conv(x, v)  z = Conv(y, w) }""")
    for node, name in zip(model.graph.node, ("/body/first/Conv", "/body/last/Conv"), strict=True):
        node.name = name
    for name, dims in (("v", (5, 3, 1, 1)), ("w", (2, 5, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(dims, np.float32), name))
    (layer,) = inspect(model, select="body").layers
    assert (layer.value, layer.parameters, layer.multiply_accumulates) == ("z", 10, 160)


def test_rank_selects_values_whose_shape_is_inferred_alone():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 3] y) { h = Unsqueeze(x, axes)  y = Squeeze(h, axes) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axes"))
    assert [layer.value for layer in inspect(model, select="rank:3").layers] == ["h"]


def test_a_layer_is_shown_before_its_activation_function_on_demand():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] z) <float[2, 3, 1, 1] w = {1, 1, 1, 1, 1, 1}> {
            y = Conv(x, w)  z = Relu(y) }""")
    found = [inspect(model, select="op:Conv", at=at).layers[0] for at in ("pre", "post")]
    assert [layer.value for layer in found] == ["y", "z"]
    assert [layer.parameters for layer in found] == [6, 6]


QUANTIZED = "int8[2, 3, 1, 1] k = {1, 2, 3, 4, 5, 6}, float s = {0.5}, int8 z = {0}"  # 8 numbers in 6 + 4 + 1 bytes
READS = "r{0} = DequantizeLinear(k, s, z)  {0} = Conv(x, r{0})"  # 6 numbers, each used at 16 places
SHAPE = "float[1, 2, 4, 4]"


def quantized(inputs, body, *, stored=QUANTIZED, functions=""):
    return with_functions(f"g ({inputs}float[1, 3, 4, 4] x) => ({SHAPE} y) <{stored}> {{ {body} }}", functions)


def branches(inside, stored=""):
    """An If whose branches both do what `inside` says of their output."""
    then_branch = f"t () => ({SHAPE} p) {stored} {{ {inside.format('p')} }}"
    else_branch = f"e () => ({SHAPE} q) {stored} {{ {inside.format('q')} }}"
    return f"y = If (c) <then_branch = {then_branch}, else_branch = {else_branch}>"


@pytest.mark.parametrize(
    ("model", "bodies"),
    [
        (quantized("", f"{READS.format('a')}  {READS.format('b')}  y = Add(a, b)"), 0),
        (quantized("bool c, ", branches(READS)), 2),
        (quantized("bool c, ", "r = DequantizeLinear(k, s, z) " + branches("{0} = Conv(x, r)")), 2),
        (
            quantized(
                "",
                "a = l.f(x, k, s, z)  b = l.f(x, k, s, z)  y = Add(a, b)",
                functions=function("f (x, k, s, z) => (y)", READS.format("y")),
            ),
            0,
        ),
    ],
    ids=["dequantized twice", "in either branch", "outside two branches", "in a function called twice"],
)
def test_a_quantized_weight_that_two_layers_use_is_stored_once(model, bodies):
    summary = inspect(model)
    assert (summary.parameters, summary.parameter_bytes, summary.bodies) == (8, 11, bodies)
    rows = [(layer.op_type, layer.parameters, layer.size_bytes, layer.multiply_accumulates) for layer in summary.layers]
    assert rows == [("Conv", 6, 6, 96)] * 2


def test_integer_convolutions_of_two_branches_have_a_row_each():
    stored = f"{QUANTIZED}, uint8 zx = {{0}}, int32[2] b = {{1, 2}}"
    inside = "i{0} = QLinearConv(xq, s, zx, k, s, z, s, zx, b)  {0} = DequantizeLinear(i{0}, s, zx)"
    summary = inspect(quantized("bool c, ", "xq = QuantizeLinear(x, s, zx) " + branches(inside), stored=stored))
    assert (summary.parameters, summary.parameter_bytes) == (8 + 1 + 2, 11 + 1 + 8)
    assert [(layer.parameters, layer.size_bytes, layer.multiply_accumulates) for layer in summary.layers] == [
        (6 + 2, 6 + 8, 96),
        (6 + 2, 6 + 8, 96),
    ]


def test_weights_of_two_branches_are_stored_twice_whatever_they_are_called():
    summary = inspect(quantized("bool c, ", branches(READS, f"<{QUANTIZED}>"), stored=""))
    assert (summary.parameters, summary.parameter_bytes) == (16, 22)


def test_a_weight_in_a_loop_is_stored_once():
    body = "b (int64 i, bool go) => (bool gone, float[1, 2, 4, 4] a) { gone = Identity(go)  " + READS.format("a") + " }"
    summary = inspect(
        quantized(
            "int64 n, bool c, ",
            f"all = Loop(n, c) <body = {body}>  y = ReduceSum<keepdims = 0>(all, s0)",
            stored=f"{QUANTIZED}, int64[1] s0 = {{0}}",
        )
    )
    assert (summary.parameters, summary.parameter_bytes) == (8 + 1, 11 + 8)
    assert [layer.parameters for layer in summary.layers] == [6]


CONSTANTS = """
    k = Constant<value = int8[2, 3, 1, 1] {1, 2, 3, 4, 5, 6}>()
    s = Constant<value = float {0.5}>()
    z = Constant<value = int8 {0}>()"""


@pytest.mark.parametrize(
    ("inputs", "inside", "copies"),
    [("x", f"{CONSTANTS} {READS.format('y')}", 1), ("c, x", branches(READS, f"<{QUANTIZED}>"), 2)],
    ids=["constants", "initializers of its two branches"],
)
def test_what_a_function_stores_counts_once_however_often_it_is_called(inputs, inside, copies):
    called = f"a = l.f({inputs})  b = l.f({inputs})  y = Add(a, b)"
    summary = inspect(quantized("bool c, ", called, stored="", functions=function(f"f ({inputs}) => (y)", inside)))
    assert (summary.parameters, summary.parameter_bytes) == (8 * copies, 11 * copies)
    assert [layer.parameters for layer in summary.layers] == [6] * (2 * copies)
    assert summary.inlined_functions == 1


def test_a_weight_in_a_constant_node_counts():
    constants = "k = Constant<value = float[2, 3, 1, 1] {1, 2, 3, 4, 5, 6}>()  y = Conv(x, k)"
    summary = inspect(quantized("", constants, stored=""))
    assert (summary.parameters, summary.parameter_bytes) == (6, 24)
    assert [(layer.parameters, layer.size_bytes) for layer in summary.layers] == [(6, 24)]


def test_a_quantized_layer_of_two_branches_has_a_row_in_each_when_it_is_selected():
    model = quantized("bool c, ", branches(READS))
    for attribute in model.graph.node[0].attribute:
        for node in attribute.g.node:
            node.name = f"/conv1/{node.op_type}"
    rows = [(layer.layer, layer.op_type, layer.parameters) for layer in inspect(model, select="conv1").layers]
    assert rows == [("conv1", "Conv", 6)] * 2


def test_random_and_stateful_nodes_are_named_above_the_table_and_in_the_record():
    summary = inspect(noisy())
    lines = [line for line in summary.header().splitlines() if line.startswith(("random", "stateful"))]
    assert lines == [
        "stateful  BatchNormalization norm is in training mode, normalizing by the batch at hand: stateful; "
        "it reaches 2 of 2 layers and the output y",
        "random    RandomNormalLike noise draws other numbers in every run: random; "
        "it reaches 1 of 2 layers and the output y",
        "random    RandomUniformLike(e) in a body of choice draws other numbers in every run: random; "
        "it reaches none of 2 layers and no output",
    ]
    record = summary.to_dict()["unstable"]
    assert [row["kind"] for row in record] == ["stateful", "random", "random"]
    assert [row["inside"] for row in record] == [[], [], ["choice"]]
    assert record[0]["outputs"] == ["y"]
    dump_json(summary.to_dict())


def test_many_random_nodes_are_counted_and_a_model_without_any_says_nothing(model):
    text = "".join(f"r{i} = RandomNormalLike(x) " for i in range(8))
    lines = inspect(written(f"{text} y = Add(r3, x)")).header().splitlines()
    assert lines[-1].split(maxsplit=1) == ["3", "more nodes like these; --format json lists them"]
    assert inspect(model).to_dict()["unstable"] == []
    assert "random" not in inspect(model).header()


def test_a_side_that_is_a_long_formula_does_not_widen_the_table(model):
    sides = model.graph.output[0].type.tensor_type.shape.dim
    sides[2].dim_param, sides[3].dim_param = "floor(floor(height/2 - 1/2)/2) + 1", "past_sequence_length"
    summary = inspect(model)
    assert "float32 batch × 4 × … × past_sequence_length\n" in summary.header()
    assert summary.to_dict()["outputs"][0]["shape"][2] == "floor(floor(height/2 - 1/2)/2) + 1"


def test_a_dimension_without_a_name_that_can_be_given_is_called_by_its_place(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "?"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = ""
    model.graph.output[0].type.tensor_type.shape.ClearField("dim")
    summary = inspect(model)
    assert summary.costs.open_dims[0] == "image:2"
    assert "--dim image:2=SIZE says more" in summary.header()
    assert "says more" not in inspect(model, dims={"image:2": 8, "batch": 1}).header()


def test_the_last_row_says_what_all_layers_have_together(model):
    numbers = 16 * 9 + 16 + 16 * 16 * 9 + 4 * 16 + 32 * 16 * 9 + 4 * 32 + 10 * 512 + 10
    products = 64 * 16 * 9 + 64 * 16 * 16 * 9 + 16 * 32 * 16 * 9 + 10 * 512
    values = 3 * 64 * 16 + 2 * 16 * 32 + 10
    total = inspect(DIGITS).table().total
    assert total == ("total", None, None, numbers, 4 * numbers, products, 4 * values, None)
    assert inspect(model).table().total == ()  # of one layer
