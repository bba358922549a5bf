"""Weights of quantized and packed operators as real numbers, against what plain onnxruntime makes of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxscope
from onnxscope.runtime.stored_values import read_parameter

RNG = np.random.default_rng(3)
MS = "com.microsoft"


def model(nodes, inputs, outputs, tensors, opset=21):
    """A model of nodes, declared inputs and outputs (name, type, shape), and arrays by name."""
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [
            tensor if isinstance(tensor, TensorProto) else numpy_helper.from_array(tensor, name)
            for name, tensor in tensors.items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(proto, **feeds):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def weights(proto):
    """By role: the parameter and its real values."""
    loaded = onnxscope.load_model(proto)
    return {one.role: (one, read_parameter(loaded, one)) for one in loaded.parameters}


def packed(codes, bits):
    """Codes of few bits in bytes along the last axis, the lowest bits first, one bit at a time."""
    length = codes.shape[-1] * bits
    single = np.zeros((*codes.shape[:-1], -(-length // 8) * 8), np.uint8)
    for place in range(codes.shape[-1]):
        for bit in range(bits):
            single[..., place * bits + bit] = (codes[..., place] >> bit) & 1
    return np.packbits(single, axis=-1, bitorder="little")


def integer_product(zero_point, *, per_column, dynamic, apart=False):
    codes = RNG.integers(-64, 64, (6, 5)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.1, 5 if per_column else 1).astype(np.float32)
    scale = scale if per_column else scale.reshape(())
    tensors = {"W_quantized": codes, "W_scale": scale, "W_zero_point": np.array(zero_point, np.int8)}
    nodes = [helper.make_node("MatMulInteger", ["xq", "W_quantized", "xz", "W_zero_point"], ["p"], "fc")]
    if dynamic:
        nodes.insert(0, helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]))
    else:
        tensors |= {"xs": np.array(0.02, np.float32), "xz": np.array(128, np.uint8)}
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]))
    nodes.append(helper.make_node("Cast", ["p"], ["wide"], to=1))
    if apart:
        nodes += [
            helper.make_node("Mul", ["wide", "xs"], ["half"]),
            helper.make_node("Mul", ["half", "W_scale"], ["y"]),
        ]
    elif dynamic:
        nodes += [helper.make_node("Mul", ["xs", "W_scale"], ["s"]), helper.make_node("Mul", ["wide", "s"], ["y"])]
    else:
        tensors["s"] = (tensors["xs"] * scale).astype(np.float32)
        tensors.pop("W_scale")
        nodes.append(helper.make_node("Mul", ["s", "wide"], ["y"]))
    proto = model(nodes, [("x", 1, ["N", 6])], [("y", 1, ["N", 5])], tensors)
    return proto, (codes.astype(np.float64) - zero_point) * scale


@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize(("dynamic", "apart"), [(True, False), (True, True), (False, False), (False, True)])
def test_a_product_of_integers_has_its_scale_behind_it(zero_point, per_column, dynamic, apart):
    proto, expected = integer_product(zero_point, per_column=per_column, dynamic=dynamic, apart=apart)
    (parameter,) = onnxscope.load_model(proto).parameters
    assert parameter.role == "weight"
    values = weights(proto)["weight"][1]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    eye = np.eye(6, dtype=np.float32)
    np.testing.assert_allclose(run(proto, x=eye), expected, atol=0.02 * np.abs(expected).max())


def test_the_scale_behind_is_no_parameter_and_the_name_is_the_frameworks():
    proto, _ = integer_product(0, per_column=True, dynamic=True)
    assert [row.parameter.name for row in onnxscope.weights(proto)] == ["W"]


def test_a_convolution_of_integers_has_one_scale_for_each_output():
    codes = RNG.integers(0, 256, (4, 4, 3, 3)).astype(np.uint8)
    scale = RNG.uniform(0.01, 0.1, (1, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("ConvInteger", ["xq", "w", "xz", "wz"], ["p"], "conv"),
        helper.make_node("Cast", ["p"], ["wide"], to=1),
        helper.make_node("Mul", ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["wide", "s"], ["y"]),
    ]
    tensors = {"w": codes, "ws": scale, "wz": np.array(120, np.uint8)}
    proto = model(nodes, [("x", 1, [1, 4, 8, 8])], [("y", 1, [1, 4, 6, 6])], tensors)
    values = weights(proto)["weight"][1]
    np.testing.assert_allclose(values, (codes.astype(np.float64) - 120) * scale.reshape(4, 1, 1, 1), rtol=1e-6)


@pytest.mark.parametrize("form", ["dequantized", "multiplied", "multiplied by row", "multiplied by column"])
def test_a_table_of_codes_has_its_scale_behind_it(form):
    codes = RNG.integers(-128, 128, (7, 7)).astype(np.int8)
    nodes = [helper.make_node("Gather", ["table_quantized", "ids"], ["rows"], "embed")]
    tensors: dict = {"table_quantized": codes}
    if form == "dequantized":
        tensors |= {"s": np.array(0.03, np.float32), "z": np.array(5, np.int8)}
        nodes.append(helper.make_node("DequantizeLinear", ["rows", "s", "z"], ["y"]))
        expected = (codes.astype(np.float64) - 5) * np.float64(np.float32(0.03))
    else:
        shape = {"multiplied": (), "multiplied by row": (7, 1), "multiplied by column": (7,)}[form]
        tensors["s"] = np.asarray(RNG.uniform(0.01, 0.1, shape), np.float32)
        nodes.append(helper.make_node("Cast", ["rows"], ["wide"], to=1))
        scale = "s"
        if form.endswith("row"):
            nodes.append(helper.make_node("Gather", ["s", "ids"], ["row_scale"]))
            scale = "row_scale"
        nodes.append(helper.make_node("Mul", ["wide", scale], ["y"]))
        expected = codes * tensors["s"].astype(np.float64)
    proto = model(nodes, [("ids", 7, ["N"])], [("y", 1, ["N", 7])], tensors)
    loaded = onnxscope.load_model(proto)
    assert [one.name for one in loaded.parameters] == ["table"]
    np.testing.assert_allclose(read_parameter(loaded, loaded.parameters[0]), expected, rtol=1e-6)
    np.testing.assert_allclose(run(proto, ids=np.arange(7)), expected, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("zero_points", ["none", "packed", "floats"])
@pytest.mark.parametrize("inner", [64, 80])
def test_packed_rows_of_a_product_are_unpacked(bits, zero_points, inner):
    outer, block = 6, 32
    blocks = -(-inner // block)
    codes = RNG.integers(0, 2**bits, (outer, blocks * block)).astype(np.uint8)
    codes[:, inner:] = 0
    scales = RNG.uniform(0.01, 0.1, (outer, blocks)).astype(np.float32)
    zeros = RNG.integers(0, 2**bits, (outer, blocks)).astype(np.uint8)
    tensors: dict = {"W_Q4": packed(codes, bits).reshape(outer, blocks, -1), "scales": scales.reshape(-1)}
    inputs = ["x", "W_Q4", "scales"]
    real_zeros = np.full((outer, blocks), 2 ** (bits - 1), np.float64)
    if zero_points == "packed":
        tensors["zeros"] = packed(zeros, bits).reshape(-1)
        inputs.append("zeros")
        real_zeros = zeros.astype(np.float64)
    elif zero_points == "floats":
        tensors["zeros"] = zeros.astype(np.float32) + np.float32(0.25)
        inputs.append("zeros")
        real_zeros = zeros + 0.25
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], "fc", domain=MS, K=inner, N=outer, bits=bits, block_size=block
    )
    proto = model([node], [("x", 1, ["M", inner])], [("y", 1, ["M", outer])], tensors)
    spread = np.repeat(scales.astype(np.float64), block, 1), np.repeat(real_zeros, block, 1)
    expected = ((codes - spread[1]) * spread[0])[:, :inner]
    parameter, values = weights(proto)["weight"]
    assert (parameter.shape, parameter.channel_axis, parameter.encoding.bits) == ((outer, inner), 0, bits)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)
    if bits in (4, 8) and zero_points != "floats":
        np.testing.assert_allclose(run(proto, x=np.eye(inner, dtype=np.float32)).T, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", ["int4", "uint4", "uint8"])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_a_packed_table_is_unpacked(kind, with_zeros):
    rows, width, block = 5, 64, 16
    low, high = (-8, 8) if kind == "int4" else (0, 16)
    codes = RNG.integers(low, high, (rows, width))
    scales = RNG.uniform(0.01, 0.1, (rows, width // block)).astype(np.float32)
    zeros = RNG.integers(low, high, scales.shape)
    if kind == "uint8":
        tensors: dict = {"t": packed(codes.astype(np.uint8), 4), "s": scales, "z": packed(zeros.astype(np.uint8), 4)}
    else:
        dtype = getattr(ml_dtypes, kind)
        tensors = {"t": codes.astype(dtype), "s": scales, "z": zeros.astype(dtype)}
    inputs = ["t", "ids", "s", *(["z"] if with_zeros else [])]
    if not with_zeros:
        tensors.pop("z")
    node = helper.make_node(
        "GatherBlockQuantized", inputs, ["y"], "embed", domain=MS, block_size=block, quantize_axis=1, gather_axis=0
    )
    proto = model([node], [("ids", 7, ["N"])], [("y", 1, ["N", width])], tensors)
    expected = run(proto, ids=np.arange(rows))
    parameter, values = weights(proto)["weight"]
    assert parameter.shape == (rows, width)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("normal", [0, 1])
def test_levels_of_four_bits_are_looked_up(normal):
    outer, inner, block = 8, 32, 32
    stored = RNG.integers(0, 256, outer * inner // 2).astype(np.uint8)
    scales = RNG.uniform(0.5, 2, outer * inner // block).astype(np.float32)
    node = helper.make_node(
        "MatMulBnb4",
        ["x", "B", "absmax"],
        ["y"],
        "fc",
        domain=MS,
        K=inner,
        N=outer,
        block_size=block,
        quant_type=normal,
    )
    proto = model([node], [("x", 1, ["M", inner])], [("y", 1, ["M", outer])], {"B": stored, "absmax": scales})
    expected = run(proto, x=np.eye(inner, dtype=np.float32)).T
    parameter, values = weights(proto)["weight"]
    assert parameter.shape == (outer, inner)
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_operators_with_their_scales_among_the_operands_agree_with_onnxruntime():
    codes = RNG.integers(-128, 128, (6, 5)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.1, 5).astype(np.float32)
    zeros = RNG.integers(-9, 9, 5).astype(np.int8)
    bias = RNG.standard_normal(5).astype(np.float32)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "b"], ["y"], "fc", domain=MS)
    tensors = {"w": codes, "s": scale, "z": zeros, "b": bias}
    proto = model([node], [("x", 1, ["M", 6])], [("y", 1, ["M", 5])], tensors)
    expected = (codes.astype(np.float64) - zeros) * scale
    found = weights(proto)
    np.testing.assert_allclose(found["weight"][1], expected, rtol=1e-6)
    np.testing.assert_allclose(found["bias"][1], bias)
    np.testing.assert_allclose(run(proto, x=np.eye(6, dtype=np.float32)) - bias, expected, atol=0.1)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_quantized_gemm_is_a_layer_with_weight_and_bias(transposed):
    shape = (5, 6) if transposed else (6, 5)
    codes = RNG.integers(-128, 128, shape).astype(np.int8)
    scale = RNG.uniform(0.01, 0.1, 5).astype(np.float32)
    bias = RNG.integers(-900, 900, 5).astype(np.int32)
    tensors = {
        "as": np.array(0.01, np.float32),
        "az": np.array(100, np.uint8),
        "w": codes,
        "ws": scale,
        "wz": np.zeros(5, np.int8),
        "b": bias,
        "ys": np.array(0.05, np.float32),
        "yz": np.array(128, np.uint8),
    }
    inputs = ["xq", "as", "az", "w", "ws", "wz", "b", "ys", "yz"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "as", "az"], ["xq"]),
        helper.make_node("QGemm", inputs, ["yq"], "fc", domain=MS, transB=transposed, alpha=1.0),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    proto = model(nodes, [("x", 1, ["M", 6])], [("y", 1, ["M", 5])], tensors)
    found = weights(proto)
    along = scale.reshape(-1, 1) if transposed else scale
    np.testing.assert_allclose(found["weight"][1], codes * along.astype(np.float64), rtol=1e-6)
    np.testing.assert_allclose(found["bias"][1], bias * 0.01 * scale.astype(np.float64), rtol=1e-6)
    assert found["weight"][0].channel_axis == 1 - transposed
    assert len(found) == 2
    assert [layer.op_type for layer in onnxscope.inspect(proto).layers] == ["QGemm"]
    x = (RNG.integers(-90, 90, (4, 6)) * 0.01).astype(np.float32)  # which codes hold as they are
    weight = found["weight"][1].T if transposed else found["weight"][1]
    expected = np.clip(x @ weight + found["bias"][1], -128 * 0.05, 127 * 0.05)  # as far as codes go
    np.testing.assert_allclose(run(proto, x=x), expected, atol=0.026)  # half a step of the result


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("per_column", [False, True])
def test_a_quantized_lstm_has_its_weights(directions, per_column):
    size, hidden = 3, 4
    shapes = {"W": (directions, size, 4 * hidden), "R": (directions, hidden, 4 * hidden)}
    codes = {name: RNG.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}
    along = (directions, 4 * hidden) if per_column else (directions,)
    scales = {name: RNG.uniform(0.001, 0.01, along).astype(np.float32) for name in codes}
    tensors = {**codes, **{f"{name}s": scale for name, scale in scales.items()}}
    tensors |= {f"{name}z": np.zeros(along, np.int8) for name in codes}
    inputs = ["x", "W", "R", "", "", "", "", "", "Ws", "Wz", "Rs", "Rz"]
    direction = "bidirectional" if directions == 2 else "forward"
    node = helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y"], "lstm", domain=MS, hidden_size=hidden, direction=direction
    )
    proto = model([node], [("x", 1, [2, 1, size])], [("y", 1, [2, directions, 1, hidden])], tensors)
    found = weights(proto)
    real = {}
    for name, role in (("W", "weight_ih"), ("R", "weight_hh")):
        scale = scales[name].reshape(directions, 1, -1) if per_column else scales[name].reshape(directions, 1, 1)
        real[name] = codes[name] * scale.astype(np.float64)
        np.testing.assert_allclose(found[role][1], real[name], rtol=1e-6)
        assert found[role][0].channel_axis == 2
    plain = helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=hidden, direction=direction)
    unpacked = {name: values.transpose(0, 2, 1).astype(np.float32) for name, values in real.items()}
    same = model([plain], [("x", 1, [2, 1, size])], [("y", 1, [2, directions, 1, hidden])], unpacked, opset=17)
    x = RNG.standard_normal((2, 1, size)).astype(np.float32)
    np.testing.assert_allclose(run(proto, x=x), run(same, x=x), atol=0.02)


@pytest.mark.parametrize(
    "kind",
    ["int4", "uint4", "int2", "uint2", "float4_e2m1fn", "float8_e4m3fn", "float8_e5m2", "int8", "int16", "uint16"],
)
@pytest.mark.parametrize("granularity", ["tensor", "axis", "block"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_dequantized_weight_is_read_in_every_type_and_granularity(kind, granularity, transposed):
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int2": (-2, 2), "uint2": (0, 4), "uint16": (0, 999)}.get(
        kind, (-100, 100)
    )
    codes = RNG.integers(low, high, (8, 6)).astype(np.float32).astype(dtype)
    shape = {"tensor": (), "axis": (6,), "block": (2, 6)}[granularity]
    scale = np.asarray(RNG.uniform(0.01, 0.1, shape), np.float32)
    zeros = np.asarray(RNG.integers(0, 1 if kind.startswith("float") else 2, shape)).astype(np.float32).astype(dtype)
    attributes = {"tensor": {}, "axis": {"axis": 1}, "block": {"axis": 0, "block_size": 4}}[granularity]
    spread = np.repeat(scale, 4, 0) if granularity == "block" else scale
    spread_zeros = np.repeat(zeros.astype(np.float64), 4, 0) if granularity == "block" else zeros.astype(np.float64)
    nodes = [helper.make_node("DequantizeLinear", ["W_quantized", "s", "z"], ["w"], **attributes)]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]))
    nodes.append(helper.make_node("Gemm", ["x", "wt" if transposed else "w"], ["y"], "fc", transB=int(transposed)))
    proto = model(
        nodes, [("x", 1, ["M", 8])], [("y", 1, ["M", 6])], {"W_quantized": codes, "s": scale, "z": zeros}, opset=25
    )
    expected = (codes.astype(np.float64) - spread_zeros) * spread
    ((parameter, values),) = weights(proto).values()
    assert (parameter.name, parameter.channel_axis) == ("W", 1)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
