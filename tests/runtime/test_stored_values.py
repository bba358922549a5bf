"""Quantized weights as the real numbers that they stand for, against numpy."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.model.loading import load_model
from onnxscope.runtime.stored_values import read_operand, read_parameter

_CODES = np.random.default_rng(5).integers(-128, 128, (2, 3, 1, 1)).astype(np.int8)


def quantized(opset, scale="ws", zero="wz"):
    """A QLinearConv with a weight of 2 x 3 codes, scaled as a whole or by output channel."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float xs = {{0.02}}, uint8 xz = {{128}}, float ws = {{0.01}}, int8 wz = {{3}}, float[1] ws1 = {{0.01}},
         float[2] ws2 = {{0.01, 0.5}}, int8[2] wz2 = {{3, -7}}, float ys = {{0.05}}, uint8 yz = {{100}},
         int32[2] b = {{40, -80}}> {{
            xq = QuantizeLinear(x, xs, xz)
            yq = QLinearConv(xq, xs, xz, w, {scale}, {zero}, ys, yz, b)
            y = DequantizeLinear(yq, ys, yz)
        }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(_CODES, "w"))
    return model


@pytest.mark.parametrize("opset", [10, 11, 12, 13, 17])
@pytest.mark.parametrize(
    ("scale", "zero"), [("ws", "wz"), ("ws2", "wz2"), ("ws1", "wz")], ids=["whole", "channels", "length 1"]
)
def test_a_quantized_weight_is_read_in_every_operator_set(opset, scale, zero):
    scales = {"ws": [0.01], "ws1": [0.01], "ws2": [0.01, 0.5]}[scale]
    zeros = {"wz": [3], "wz2": [3, -7]}[zero]
    model = load_model(quantized(opset, scale, zero))
    arrays = {parameter.name: read_parameter(model, parameter) for parameter in model.parameters}
    codes = _CODES.astype(np.float64)
    expected = (codes - np.reshape(zeros, (-1, 1, 1, 1))) * np.reshape(scales, (-1, 1, 1, 1))
    np.testing.assert_allclose(arrays["w"], expected, rtol=1e-6)
    np.testing.assert_allclose(arrays["b"], np.array([40, -80]) * 0.02 * np.array(scales), rtol=1e-6)


@pytest.mark.parametrize("opset", [10, 13])
def test_a_quantized_product_is_scaled_along_its_columns(opset):
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (uint8[N, 2] x) => (uint8[N, 3] y)
        <float xs = {{0.5}}, uint8 xz = {{128}}, int8[2, 3] w = {{1, 2, 3, -4, -5, 6}}, float[3] ws = {{1, 10, 100}},
         int8[3] wz = {{0, 0, 0}}, float ys = {{0.25}}, uint8 yz = {{0}}> {{
            y = QLinearMatMul(x, xs, xz, w, ws, wz, ys, yz) }}""")
    loaded = load_model(model)
    arrays = {parameter.initializer: read_parameter(loaded, parameter) for parameter in loaded.parameters}
    assert arrays["w"].tolist() == [[1, 20, 300], [-4, -50, 600]]


@pytest.mark.parametrize("command", ["weights", "features", "report", "snapshot", "stats"])
def test_every_command_takes_a_quantized_model_of_operator_set_10(tmp_path, command):
    path, data = tmp_path / "old.onnx", tmp_path / "x.npy"
    onnx.save(quantized(10), path)
    np.save(data, np.linspace(-2, 2, 48, dtype=np.float32).reshape(1, 3, 4, 4))
    inputs = [] if command == "weights" else ["-i", str(data)]
    assert run([command, str(path), *inputs, "-o", str(tmp_path / "out")]) == 0


def test_a_quantized_model_of_operator_set_10_is_compared(tmp_path, capsys):
    path, other = tmp_path / "old.onnx", tmp_path / "other.onnx"
    onnx.save(quantized(10), path)
    changed = quantized(10)
    next(tensor for tensor in changed.graph.initializer if tensor.name == "ws").float_data[0] = 0.02
    onnx.save(changed, other)
    assert run(["diff", str(path), str(path)]) == 0
    capsys.readouterr()
    assert run(["diff", str(path), str(other), "--format", "json"]) == 1
    assert "w" in {weight["a"] for weight in json.loads(capsys.readouterr().out)["weights"]}
    assert onnxscope.weights(path)[0].summary.overall.max == pytest.approx((_CODES.max() - 3) * 0.01, rel=1e-6)


_BODIES = """
    <ir_version: 9, opset_import: ["": 19]>
    net (float[n, 3, 5] x, bool c) => (float[n, 2, 5] y) {
        y = If (c) <
            then_branch = t () => (float[n, 2, 5] p) { v = DequantizeLinear(q, s, z) p = Conv(x, v) },
            else_branch = e () => (float[n, 2, 5] r) <float[2, 1, 1] half = {0.5, 0.25}> {
                u = Mul(w, half) k = Concat<axis = 0>(u, u) one = Constant<value_ints = [0]>()
                two = Constant<value_ints = [2]>() o = Slice(k, one, two) r = Conv(x, o) }>
    }"""


def in_bodies(code=5, factor=1.0):
    """A quantized weight and a computed one, both of the main graph and read in the branches of an If."""
    model = onnx.parser.parse_model(_BODIES)
    codes = _CODES[:, :, :, 0].copy()
    codes[1, 2, 0] = code
    weight = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    weight[1, 1, 0] *= factor
    stored = {"q": codes, "s": np.float32(0.5), "z": np.int8(3), "w": weight}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(each), name) for name, each in stored.items())
    return model


def test_constants_are_read_as_a_body_sees_them():
    model = load_model(in_bodies())
    operands = [operand for node in model.names.weighted for operand in model.names.operands(node)]
    by_value = {operand.node.inputs[operand.position]: read_operand(model, operand) for operand in operands}
    codes = _CODES[:, :, :, 0].astype(np.float32)
    codes[1, 2, 0] = 5
    np.testing.assert_array_equal(by_value["v"], (codes - 3) * 0.5)
    halves = np.array([0.5, 0.25], np.float32).reshape(2, 1, 1)
    np.testing.assert_array_equal(by_value["o"], np.arange(6, dtype=np.float32).reshape(2, 3, 1) * halves)
    (listed,) = [row for row in onnxscope.weights(model) if row.parameter.name == "q"]
    assert listed.summary.overall.max == (max(_CODES.max(), 5) - 3) * 0.5


@pytest.mark.parametrize("taken", [None, True, False])
@pytest.mark.parametrize(("changed", "layer"), [({"code": 6}, "Conv_0"), ({"factor": 1.5}, "Conv_1"), ({}, "")])
def test_a_changed_number_behind_a_constant_of_a_body_is_found(changed, layer, taken):
    feeds = None if taken is None else {"x": np.ones((2, 3, 5), np.float32), "c": np.array(taken)}
    compared = onnxscope.diff(in_bodies(), in_bodies(**changed), feeds)
    assert [change.layer for change in compared.weights if change.counts] == ([layer] if layer else [])
    assert compared.verdict == ("differs" if layer else "equal")
    checked = onnxscope.check(in_bodies(**changed), onnxscope.snapshot(in_bodies(), feeds), feeds)
    assert checked.ok is not bool(layer)
