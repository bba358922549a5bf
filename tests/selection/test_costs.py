"""Multiply-accumulates, counted by hand and by PyTorch's own counter."""

from __future__ import annotations

import warnings

import numpy as np
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxscope.analyses.inspection import inspect
from onnxscope.base.plugins import load_converter
from onnxscope.converting.contract import ConversionRequest
from onnxscope.errors import InputError


def costs(text):
    return {layer.layer: layer.multiply_accumulates for layer in inspect(onnx.parser.parse_model(text)).layers}


HEAD = '<ir_version: 9, opset_import: ["": 17]>'


def test_a_convolution_uses_each_weight_once_for_each_place():
    found = costs(f"""{HEAD} g (float[N, 4, 10, 8] x) => (float[N, 6, 8, 3] y)
        <float[6, 2, 3, 4] w = {{{", ".join(["1"] * 144)}}}>
        {{ [one] y = Conv <group = 2, strides = [1, 2], pads = [0, 0, 0, 1]> (x, w) }}""")
    assert found == {"one": 8 * 3 * 6 * (2 * 3 * 4)}


def test_a_matrix_product_counts_every_token():
    found = costs(f"""{HEAD} g (float[N, 5, 3] x) => (float[N, 5, 2] y)
        <float[3, 2] w = {{1, 2, 3, 4, 5, 6}}> {{ [one] y = MatMul (x, w) }}""")
    assert found == {"one": 5 * 3 * 2}


def test_a_normalization_and_an_unknown_size_have_no_cost():
    found = costs(f"""{HEAD} g (float[N, 1, H, W] x) => (float[N, 1, H, W] y)
        <float[1, 1, 1, 1] w = {{2}}, float[1] one = {{1}}>
        {{ [first] h = Conv (x, w)  [second] y = BatchNormalization (h, one, one, one, one) }}""")
    assert found == {"first": None, "second": None}


def test_pytorch_counts_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    source = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, groups=4, dilation=2),
        nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 17 * 17, 7),
    )
"""
    path = tmp_path / "net.py"
    path.write_text(source)
    made: dict = {}
    exec(source, made)
    with FlopCounterMode(display=False) as counter:
        made["make"]().eval()(torch.zeros(1, 3, 24, 24))
    request = ConversionRequest(
        source=f"{path}:make", output=str(tmp_path / "m.onnx"), input_shapes=(("", (1, 3, 24, 24)),)
    )
    load_converter("torch").convert(request)
    found = [layer.multiply_accumulates for layer in inspect(tmp_path / "m.onnx").layers]
    assert len(found) == 4
    assert 2 * sum(found) == counter.get_total_flops()  # it counts an addition and a multiplication apart


def attention(op_type, operands, *, domain="com.microsoft", weights=(), outputs=("y",), **attributes):
    """A model of one attention operator, with its operands by name and shape."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in operands.items() if name]
    node = helper.make_node(
        op_type, [*[name.strip("-") for name in operands]], list(outputs), domain=domain, name="attn", **attributes
    )
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", 8])
    graph = helper.make_graph([node], "g", inputs, [made])
    for name, shape in weights:
        graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
        graph.input.remove(next(value for value in graph.input if value.name == name))
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def total(model, **dims):
    return inspect(model, dims=dims).costs


TOKENS = ["batch", "seq", 8]


@pytest.mark.parametrize("length", [1, 5])
def test_attention_takes_each_query_with_each_key_and_each_score_with_each_value(length):
    q, other = {"q": TOKENS}, {"k": ["batch", "keys", 8], "v": ["batch", "keys", 8]}
    scores = length * 3 * (8 + 8)
    plain = attention("MultiHeadAttention", {**q, **other}, num_heads=2)
    assert total(plain, seq=length, keys=3).multiply_accumulates == scores
    standard = attention("Attention", {**q, **other}, domain="", q_num_heads=2, kv_num_heads=2)
    assert total(standard, seq=length, keys=3).multiply_accumulates == scores
    assert total(standard, seq=length, keys=3).between_values == scores


def test_attention_with_a_projection_counts_both():
    model = attention(
        "Attention", {"x": TOKENS, "w": [8, 24], "b": [24]}, weights=[("w", (8, 24)), ("b", (24,))], num_heads=2
    )
    (layer,) = inspect(model, dims={"seq": 5}).layers
    assert layer.multiply_accumulates == 5 * 8 * 24 + 5 * 5 * (8 + 8)


@pytest.mark.parametrize("sizes", [None, [8, 8, 12]])
def test_what_reads_attention_is_known_though_onnx_knows_no_shape_of_it(sizes):
    width = sum(sizes or (8, 8, 8))
    model = attention("Attention", {"x": TOKENS, "w": [8, width]}, weights=[("w", (8, width))], num_heads=2)
    if sizes:
        model.graph.node[0].attribute.append(helper.make_attribute("qkv_hidden_sizes", sizes))
    made = (sizes or [8])[-1]
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("MatMul", ["h", "u"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((made, 8), np.float32), "u"))
    first, last = inspect(model, dims={"seq": 5}).layers
    assert first.multiply_accumulates == 5 * 8 * width + 5 * 5 * (8 + made)
    assert last.multiply_accumulates == 5 * made * 8


def test_what_reads_attention_of_groups_is_known():
    operands = {"q": TOKENS, "k": ["batch", "seq", 4], "v": ["batch", "seq", 4]}
    model = attention("GroupQueryAttention", operands, num_heads=4, kv_num_heads=2)
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("MatMul", ["h", "u"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((8, 8), np.float32), "u"))
    (last,) = inspect(model, dims={"seq": 5}).layers
    assert last.multiply_accumulates == 5 * 8 * 8


def test_groups_of_queries_share_keys_and_the_cache_is_attended_to():
    past = ["batch", 2, "past", 2]
    operands = {"q": TOKENS, "k": ["batch", "seq", 4], "v": ["batch", "seq", 4], "pk": past, "pv": past}
    outputs = ("y", "present_k", "present_v")
    model = attention("GroupQueryAttention", operands, outputs=outputs, num_heads=4, kv_num_heads=2)
    costs = total(model, seq=1, past=9)
    assert costs.multiply_accumulates == 1 * (9 + 1) * (8 + 8)
    assert costs.cache_bytes_per_token == 2 * (2 * 2) * 4


def test_a_cache_that_a_concat_extends_is_counted_per_token():
    model = onnx.parser.parse_model(f"""{HEAD} g (float[N, 3, P, 5] past, float16[N, 3, P, 5] half, float[N, 3, T, 5] x,
        float16[N, 3, T, 5] z) => (float[N, 3, A, 5] present, float16[N, 3, A, 5] other) {{
        present = Concat <axis = 2> (past, x)  other = Concat <axis = -2> (half, z) }}""")
    assert inspect(model).costs.cache_bytes_per_token == 3 * 5 * 4 + 3 * 5 * 2
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    model.graph.node.append(helper.make_node("Neg", ["present"], ["y"]))
    assert inspect(model).costs.cache_bytes_per_token is None


def test_a_recurrent_layer_uses_its_weights_in_every_step_and_direction():
    model = onnx.parser.parse_model(f"""{HEAD} g (float[7, N, 3] x) => (float[7, 2, N, 2] y)
        {{ [rnn] y = GRU <direction = "bidirectional", hidden_size = 2> (x, w, r) }}""")
    for name, shape in (("w", (2, 6, 3)), ("r", (2, 6, 2))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    assert total(model, N=1).multiply_accumulates == 7 * 2 * (6 * 3 + 6 * 2)


def test_sizes_are_bound_and_what_is_not_known_is_said():
    model = onnx.parser.parse_model(f"""{HEAD} g (float[batch, seq, 4] x) => (float[batch, seq, seq] y)
        <float[4, 4] w = {{{", ".join(["1"] * 16)}}}> {{
        [up] h = MatMul (x, w)  t = Transpose <perm = [0, 2, 1]> (x)  [scores] y = MatMul (h, t) }}""")
    unknown = inspect(model)
    assert (unknown.costs.known, unknown.costs.nodes, unknown.costs.open_dims) == (0, 2, ("seq",))
    assert "known for 0 of 2 layers, --dim seq=SIZE says more" in unknown.header()
    bound = inspect(model, dims={"seq": 6})
    assert bound.costs.multiply_accumulates == 6 * 16 + 6 * 6 * 4
    assert bound.costs.between_values == 6 * 6 * 4
    assert (bound.layers[0].shape, bound.layers[0].output_bytes) == ((1, 6, 4), 6 * 4 * 4)
    assert (
        inspect(model, dims={"seq": 6, "batch": 3}).costs.multiply_accumulates == 3 * bound.costs.multiply_accumulates
    )


def test_a_fixed_batch_is_divided_by():
    found = costs(f"""{HEAD} g (float[4, 5, 3] x) => (float[4, 5, 2] y)
        <float[3, 2] w = {{1, 2, 3, 4, 5, 6}}> {{ [one] y = MatMul (x, w) }}""")
    assert found == {"one": 5 * 3 * 2}


def test_dimensions_that_exporters_write_as_expressions_follow():
    found = inspect(_with_expression("b*s"), dims={"s": 7})
    assert found.layers[0].multiply_accumulates == 7 * 6


def _with_expression(text):
    """A product behind an operator that nobody knows, whose output has a size in the exporter's words."""
    rows = helper.make_tensor_value_info("h", TensorProto.FLOAT, [text, 3])
    graph = helper.make_graph(
        [helper.make_node("Flat", ["x"], ["h"], domain="own"), helper.make_node("MatMul", ["h", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "s", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [text, 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
        value_info=[rows],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])


@pytest.mark.parametrize("text", ["__import__('os')", "b**99**99", "s//0", "(" * 199])
def test_other_expressions_are_not_known(text):
    assert inspect(_with_expression(text), dims={"s": 7}).layers[0].multiply_accumulates is None


@pytest.mark.parametrize(("dims", "message"), [({"z": 3}, "no dimension is called 'z'"), ({"s": 0}, "whole number")])
def test_a_size_that_cannot_be_is_an_error(dims, message):
    with pytest.raises(InputError, match=message):
        inspect(_with_expression("b*s"), dims=dims)


ENCODER = """
from torch import nn

def make():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
"""


@pytest.mark.parametrize("dynamo", [True, False])
def test_an_encoder_costs_what_the_formula_says(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    made: dict = {}
    exec(ENCODER, made)
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq")
    dynamic = {"dynamic_shapes": ({0: batch, 1: seq},)} if dynamo else {"dynamic_axes": {"x": {0: "batch", 1: "seq"}}}
    path = tmp_path / "encoder.onnx"
    length = 6 if dynamo else 10  # the exporter that traces writes the length that it saw into attention
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            made["make"](),
            (torch.zeros(2, length, 32),),
            path,
            dynamo=dynamo,
            input_names=["x"],
            verbose=False,
            **dynamic,
        )
    costs = total(path, batch=1, seq=10)
    assert costs.multiply_accumulates == 2 * (10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 10 * 10 * 32)
    assert costs.known == costs.nodes


def test_the_work_behind_normalizations_that_an_optimizer_fuses_is_known():
    """What multiplies by hand: 5 tokens by 8 x 4 and 4 x 6, and the first token's 6 x 3."""
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[N, 5, 8] x, float[N, 5, 4] s) => (float[N, 3] y) <int64 first = {0}> {
            a = MatMul(x, w1) n = com.microsoft.SkipLayerNormalization(a, s, scale) b = MatMul(n, w2)
            c = Gather<axis = 1>(b, first) y = Gemm(c, w3) }"""
    )
    for name, shape in {"w1": (8, 4), "scale": (4,), "w2": (4, 6), "w3": (6, 3)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    rows = [row for row in inspect(proto).layers if row.op_type in ("MatMul", "Gemm")]
    assert [row.multiply_accumulates for row in rows] == [5 * 8 * 4, 5 * 4 * 6, 6 * 3]
