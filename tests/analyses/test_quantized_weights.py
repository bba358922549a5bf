"""What `weights`, `inspect` and the page say of quantized weights, against numpy."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxscope
from onnxscope.cli.main import run

RNG = np.random.default_rng(4)
MS = "com.microsoft"


def model(nodes, inputs, outputs, tensors):
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


CODES = RNG.integers(0, 13, (6, 64)).astype(np.uint8)  # 13, 14 and 15 are left over


def packed_product():
    """A MatMulNBits of 6 x 64 numbers in 4 bits, a Relu and a float product behind it."""
    attributes = {"K": 64, "N": 6, "bits": 4, "block_size": 32}
    nodes = [
        helper.make_node("MatMulNBits", ["x", "W_Q4", "s"], ["h"], "fc", domain=MS, **attributes),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"], "head"),
    ]
    packed = (CODES[:, ::2] | CODES[:, 1::2] << 4).reshape(6, 2, 16)
    scales = np.linspace(0.01, 0.12, 12).astype(np.float32)
    tensors = {"W_Q4": packed, "s": scales, "V": np.ones((6, 3), np.float32)}
    return model(nodes, {"x": ["N", 7, 64]}, {"y": ["N", 7, 3]}, tensors)


def dequantized_product(zero_point, axis):
    codes = RNG.integers(-128, 128, (5, 4)).astype(np.int8)
    scales = np.array(RNG.uniform(0.1, 0.2, codes.shape[axis]), np.float32)
    zeros = np.full(scales.shape, zero_point, np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["W_quantized", "s", "z"], ["w"], axis=axis),
        helper.make_node("Gemm", ["x", "w"], ["y"], "fc"),
    ]
    tensors = {"W_quantized": codes, "s": scales, "z": zeros}
    return model(nodes, {"x": ["N", 5]}, {"y": ["N", 4]}, tensors), codes, scales


def test_a_packed_weight_is_told_with_its_codes():
    told = onnxscope.weights(packed_product())[0].to_dict()["quantization"]
    assert told == {
        "bits": 4,
        "scheme": "symmetric",
        "granularity": "block",
        "axis": 1,
        "block_size": 32,
        "scale_min": float(np.float32(0.01)),
        "scale_max": float(np.float32(0.12)),
        "zero_point_min": 8.0,
        "zero_point_max": 8.0,
        "saturated_fraction": np.isin(CODES, (0, 15)).mean(),
        "unused_codes": 16 - len(np.unique(CODES)),
    }


@pytest.mark.parametrize("zero_point", [0, -7])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_by_channel_is_told_with_its_axis(axis, zero_point):
    proto, codes, scales = dequantized_product(zero_point, axis)
    told = onnxscope.weights(proto)[0].quantization
    assert (told.bits, told.granularity, told.axis, told.block_size) == (8, "channel", axis, None)
    assert told.scheme == ("asymmetric" if zero_point else "symmetric")
    assert (told.scale_min, told.scale_max) == (scales.min(), scales.max())
    assert told.unused_codes == 256 - len(np.unique(codes))


def test_codes_are_told_once_the_values_were_read_before():
    loaded = onnxscope.load_model(packed_product())
    first, second = (onnxscope.weights(loaded)[0] for _ in range(2))
    assert first.quantization == second.quantization
    assert first.summary.overall == second.summary.overall


def test_the_table_has_the_columns_where_something_is_quantized_alone(tmp_path, capsys):
    path, plain = tmp_path / "quantized.onnx", tmp_path / "plain.onnx"
    onnx.save(packed_product(), path)
    tensors = {"V": np.ones((6, 3), np.float32)}
    onnx.save(model([helper.make_node("MatMul", ["x", "V"], ["y"])], {"x": [1, 6]}, {"y": [1, 3]}, tensors), plain)
    assert run(["weights", str(path)]) == 0
    table = capsys.readouterr().out
    assert "4 bits, symmetric, per block of 32" in table
    assert "0.01 to 0.12" in table
    for form in ("table", "csv", "md"):
        assert run(["weights", str(plain), "--format", form]) == 0
        assert "saturated" not in capsys.readouterr().out
    assert run(["weights", str(plain), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"][0]["quantization"] is None


def test_inspect_counts_real_numbers_and_their_cost(capsys):
    layers = {layer.layer: layer for layer in onnxscope.inspect(packed_product()).layers}
    fc, head = layers["fc"], layers["head"]
    assert (fc.parameters, fc.size_bytes, fc.bits) == (6 * 64, 6 * 64 // 2, 4)
    assert fc.multiply_accumulates == 7 * 64 * 6
    assert (head.parameters, head.bits, head.multiply_accumulates) == (18, None, 7 * 6 * 3)


def test_a_shape_is_known_through_operators_that_quantizers_write():
    codes = RNG.integers(-128, 128, (8, 6)).astype(np.int8)
    square = RNG.integers(-128, 128, (6, 6)).astype(np.int8)
    tensors = {"W": codes, "U": square, "V": square, "s": np.array(0.1, np.float32)}
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["x", "W", "s"], ["a"], "first", domain=MS),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"]),
        helper.make_node("QGemm", ["aq", "s", "z", "U", "s", "zi", "", "s", "z"], ["b"], "second", domain=MS),
        helper.make_node("QGemm", ["b", "s", "z", "V", "s", "zi", "", "s", "z"], ["c"], "third", domain=MS),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    tensors |= {"z": np.array(128, np.uint8), "zi": np.array(0, np.int8)}
    layers = onnxscope.inspect(model(nodes, {"x": ["N", 8]}, {"y": ["N", 6]}, tensors)).layers
    assert [layer.shape for layer in layers] == [("N", 6)] * 3
    assert [layer.multiply_accumulates for layer in layers] == [8 * 6, 6 * 6, 6 * 6]
    assert [layer.parameters for layer in layers] == [48, 36, 36]


def test_the_page_has_a_section_about_quantization(tmp_path):
    path, page = tmp_path / "quantized.onnx", tmp_path / "page.html"
    onnx.save(packed_product(), path)
    assert run(["report", str(path), "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "1 of 2 parameters are quantized, 384 of 402 numbers" in text
    assert text.count("4 bits, symmetric, per block of 32") == 2


@pytest.mark.parametrize(
    ("attributes", "per_channel"),
    [({}, False), ({"axis": 0}, False), ({"axis": -1}, False), ({"axis": 1}, False), ({"axis": 0}, True)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_bias_with_codes_needs_no_axis(attributes, count, per_channel):
    codes = RNG.integers(-(10**6), 10**6, count).astype(np.int32)
    scales = RNG.uniform(1e-6, 1e-5, count if per_channel else ()).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["B_quantized", "s"], ["b"], **attributes),
        helper.make_node("Gemm", ["x", "W", "b"], ["y"], "fc"),
    ]
    tensors = {"B_quantized": codes, "s": scales, "W": np.ones((5, count), np.float32)}
    made = model(nodes, {"x": ["N", 5]}, {"y": ["N", count]}, tensors)
    bias = next(row.to_dict() for row in onnxscope.weights(made) if row.parameter.role == "bias")
    np.testing.assert_allclose(bias["mean"], (codes * scales.astype(np.float64)).mean(), rtol=1e-6)
    assert bias["quantization"]["granularity"] == ("channel" if per_channel and count > 1 else "tensor")
    assert bias["quantization"]["axis"] == (0 if per_channel and count > 1 else None)


def parsed(text, tensors):
    """A model as text; `a__b` stands for a name with a dot."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items())
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", ".") for name in names]
    return proto


def rounded(values, scale, axis=None):
    """What codes of eight bits stand for, with their zero at 0."""
    by = np.asarray(scale, np.float32)
    if axis is not None:
        by = by.reshape([-1 if place == axis else 1 for place in range(values.ndim)])
    return (np.clip(np.round(values / by), -128, 127) * by).astype(np.float32)


FLOATS = RNG.normal(size=(4, 6)).astype(np.float32)
WEIGHT_CODES = RNG.integers(-100, 100, (6, 4)).astype(np.int8)
BY_COLUMN = np.linspace(0.02, 0.05, 6, dtype=np.float32)
LAID_OUT = {
    "rounded in the file": (
        "q = QuantizeLinear<axis = 1>(fc__weight, s, z) w = DequantizeLinear<axis = 1>(q, s, z)",
        FLOATS,
        BY_COLUMN,
        rounded(FLOATS, BY_COLUMN, 1),
    ),
    "turned, then rounded": (
        "t = Transpose(fc__weight) q = QuantizeLinear<axis = 1>(t, s, z) w = DequantizeLinear<axis = 1>(q, s, z)",
        FLOATS.T.copy(),
        BY_COLUMN,
        rounded(FLOATS, BY_COLUMN, 1).T,
    ),
    "codes that are turned": (
        "t = Transpose(fc__weight) w = DequantizeLinear<axis = 1>(t, s, z)",
        WEIGHT_CODES,
        BY_COLUMN,
        WEIGHT_CODES.astype(np.float32) * BY_COLUMN[:, None],
    ),
    "codes in another shape": (
        "t = Reshape(fc__weight, sides) w = DequantizeLinear(t, s, z)",
        WEIGHT_CODES,
        np.float32(0.03),
        WEIGHT_CODES.astype(np.float32) * np.float32(0.03),
    ),
}


@pytest.mark.parametrize("case", LAID_OUT)
def test_a_weight_is_what_its_layer_sees_wherever_codes_are_made_of_it(case):
    nodes, stored, scale, real = LAID_OUT[case]
    tensors = {"fc.weight": stored, "s": scale, "z": np.zeros(scale.shape, np.int8), "sides": np.array([4, 6])}
    proto = parsed(f"g (float[N, 4] x) => (float[N, 6] y) {{ {nodes} y = MatMul(x, w) }}", tensors)
    result = onnxscope.weights(proto)
    (row,) = result.rows
    assert (row.parameter.name, row.parameter.shape, result.absent) == ("fc.weight", stored.shape, ())
    np.testing.assert_allclose(row.summary.overall.mean, real.astype(np.float64).mean(), rtol=1e-6)
    np.testing.assert_allclose(row.summary.overall.std, real.astype(np.float64).std(ddof=1), rtol=1e-6)
    if row.parameter.channel_axis is not None:
        outputs = np.moveaxis(real, row.parameter.channel_axis, 0).reshape(6, -1).astype(np.float64)
        np.testing.assert_allclose(row.summary.channels.mean, outputs.mean(axis=1), rtol=1e-6)
    assert (row.parameter.channel_axis is None) == ("shape" in case)
    assert row.quantization.bits == 8


def test_codes_with_scales_of_another_layout_are_no_numbers():
    nodes = "t = Reshape(fc__weight, sides) w = DequantizeLinear<axis = 1>(t, s, z)"
    tensors = {"fc.weight": WEIGHT_CODES, "s": BY_COLUMN, "z": np.zeros(6, np.int8), "sides": np.array([4, 6])}
    result = onnxscope.weights(parsed(f"g (float[N, 4] x) => (float[N, 6] y) {{ {nodes} y = MatMul(x, w) }}", tensors))
    assert result.rows == ()
    ((name, reason),) = result.absent
    assert (name, "laid out in another way" in reason) == ("fc.weight", True)


def test_norms_that_share_what_is_quantized_again_have_names_of_their_own():
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        a__weight = DequantizeLinear(a__weight_quantized, s, z) a__bias = DequantizeLinear(a__bias_quantized, t)
        b__weight = Identity(a__weight) b__bias = Identity(a__bias)
        q = QuantizeLinear(b__weight, u, v) d = DequantizeLinear(q, u, v)
        h = LayerNormalization(x, a__weight, a__bias) y = LayerNormalization(h, d, b__bias) }"""
    codes, shifts = np.array([64, 60, -90, 3], np.int8), np.array([7, -1, 0, 12], np.int32)
    tensors = {"a.weight_quantized": codes, "a.bias_quantized": shifts, "s": np.float32(1 / 64), "z": np.int8(0)}
    tensors |= {"t": np.float32(0.01), "u": np.float32(0.05), "v": np.int8(-3)}
    result = onnxscope.weights(parsed(text, tensors))
    rows = {row.parameter.name: row for row in result.rows}
    assert set(rows) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert result.absent == ()
    first = codes.astype(np.float32) / 64
    again = rounded(first, 0.05)
    for name, real in (("a.weight", first), ("b.weight", again), ("b.bias", shifts * np.float32(0.01))):
        np.testing.assert_allclose(rows[name].summary.overall.mean, real.mean(dtype=np.float64), rtol=1e-6)
    assert {rows[name].parameter.initializer for name in ("b.weight", "a.weight")} == {"a.weight_quantized"}
    assert rows["b.weight"].parameter.layer == "b"
