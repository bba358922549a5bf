"""form_of() and partner_of(): in which form of few bits a model is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.model.loading import load_model
from onnxscope.structure.compare_records import NodeChange
from onnxscope.structure.quantized_form import form_of, partner_of

HEAD = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> g (float[N, 4] x) => (float[N, 3] y)'
PLAIN = f"{HEAD} {{ h = MatMul(x, v)  y = MatMul(h, w) }}"
STATIC = f"""{HEAD} {{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  h = MatMul(d, v)
    r = DequantizeLinear(w, s)  y = MatMul(h, r) }}"""
DYNAMIC = f"""{HEAD} {{ h = MatMul(x, v)  q, qs, qz = DynamicQuantizeLinear(h)  i = MatMulInteger(q, w, qz)
    c = Cast<to=1>(i)  [helper] m = Mul(qs, s)  y = Mul(c, m) }}"""
WEIGHTS = f"{HEAD} {{ h = MatMul(x, v)  r = DequantizeLinear(w, s)  y = MatMul(h, r) }}"
PACKED = f"{HEAD} {{ h = MatMul(x, v)  y = com.microsoft.MatMulNBits<K=4, N=3, bits=4, block_size=16>(h, w, s) }}"
HALF = f"{HEAD} {{ h = MatMul(x, v)  r = Cast<to=1>(w)  y = MatMul(h, r) }}"


def model(text, kind="float32"):
    proto = onnx.parser.parse_model(text)
    stored = np.ones((3, 1, 8), np.uint8) if "MatMulNBits" in text else np.ones((4, 3)).astype(np.dtype(kind))
    scales = np.ones((3, 1), np.float32) if "MatMulNBits" in text else np.array(0.5, np.float32)
    for name, values in {
        "v": np.ones((4, 4), np.float32),
        "w": stored,
        "s": scales,
        "z": np.array(3, np.uint8),
    }.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load_model(proto)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (STATIC, "int8", "static int8 (QDQ)"),
        (DYNAMIC, "int8", "dynamic int8"),
        (WEIGHTS, "int8", "int8 weights"),
        (WEIGHTS, ml_dtypes.int4, "int4 weights"),
        (WEIGHTS, ml_dtypes.float8_e4m3fn, "float8_e4m3fn weights"),
        (PACKED, "uint8", "int4 weights"),
        (HALF, "float16", "float16"),
        (HALF, ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_a_form_is_told_by_weights_and_by_what_rounds_activations(text, kind, expected):
    form = form_of(model(text, kind))
    assert (form.text, form.layers, form.total) == (expected, 1, 2)
    assert form.is_quantized == ("float16" not in expected)


def test_a_model_in_full_precision_has_no_form_and_two_of_one_form_are_no_partners():
    plain, quantized = model(PLAIN), model(STATIC, "int8")
    assert form_of(plain) is None
    assert partner_of(plain, plain) is None
    assert partner_of(quantized, quantized) is None
    assert partner_of(plain, quantized).is_second
    assert not partner_of(quantized, plain).is_second


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("node", None, "QuantizeLinear", "QuantizeLinear q is only in the second model"), True),
        (("node", None, "Mul", "Mul helper is only in the second model"), True),
        (("node", None, "Mul", "Mul other is only in the second model"), False),
        (("node", None, "Neg", "Neg n is only in the second model"), False),
        (("node", "Relu", None, "Relu act is only in the first model"), True),
        (("node", "Sigmoid", None, "Sigmoid s is only in the first model"), False),
        (("op_type", "Relu", "QuantizeLinear", "Relu act became QuantizeLinear"), True),
        (("op_type", "Relu", "Sigmoid", "Relu act became Sigmoid"), False),
        (("x_scale", None, "float32 0.5", "Conv: x_scale nothing became float32 0.5"), True),
        (("mode", None, "reflect", "Pad p: mode by default became reflect"), False),
        (("X", "input x", "nowhere", "Conv: X came from input x, and comes from nowhere"), True),
        (("strides", [1, 1], [2, 2], "Conv: strides 1 1 became 2 2"), False),
    ],
)
def test_what_is_nothing_but_the_form_is_told_apart(change, expected):
    partner = partner_of(model(PLAIN), model(DYNAMIC, "int8"))
    assert partner.explains(NodeChange("", *change)) is expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("op_type", "Softmax", "QuantizeLinear", "Softmax act became QuantizeLinear"), True),
        (("op_type", "Sigmoid", "QuantizeLinear", "Sigmoid act became QuantizeLinear"), False),
        (("node", "MatMul", None, "MatMul mm is only in the first model"), True),
        (("node", "Neg", None, "Neg n is only in the first model"), False),
        (("QLinearAdd.1", None, "float32 0.5", "Linear: QLinearAdd.1 nothing became float32 0.5"), True),
        (("QLinearAdd.1", "float32 0.4", "float32 0.5", "Linear: QLinearAdd.1 float32 0.4 became float32 0.5"), False),
    ],
)
def test_what_is_done_on_codes_stands_for_the_same_on_numbers(change, expected):
    coded = f"""{HEAD} {{ q = QuantizeLinear(x, s, z)  h = QLinearMatMul(q, s, z, w, s, k, s, z)
        a = com.microsoft.QLinearAdd(h, s, z, h, s, z, s, z)
        b = com.microsoft.QLinearSoftmax<opset=13>(a, s, z, s, z)  y = DequantizeLinear(b, s, z) }}"""
    proto = onnx.parser.parse_model(coded)
    for name, values in {
        "w": np.ones((4, 3), np.int8),
        "k": np.int8(0),
        "s": np.float32(0.5),
        "z": np.uint8(3),
    }.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    plain = f"{HEAD} {{ h = MatMul(x, f)  a = Add(h, h)  y = Softmax(a) }}"
    reference = onnx.parser.parse_model(plain)
    reference.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3), np.float32), "f"))
    partner = partner_of(load_model(reference), load_model(proto))
    assert partner.explains(NodeChange("", *change)) is expected
