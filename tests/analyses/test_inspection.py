"""inspect(): what a model says about itself."""

from __future__ import annotations

import json

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.analyses.inspection import inspect
from onnxscope.base.json_files import dump_json
from onnxscope.errors import SelectorError


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
    assert lines[2] == "input     image  float32 batchx3x8x8"


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
