"""A layer with a function written out behind it, against copies with rounding in between: one place is compared."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from compared_models import parsed
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from onnxscope import diff

RNG = np.random.default_rng(23)
FED = {"x": RNG.standard_normal((4, 6)).astype(np.float32)}
NUMBERS = {"root": 2**0.5, "one": 1, "half": 0.5, "three": 3, "six": 6, "zero": 0, "small": 0.044715, "wide": 0.7978846}
STORED = {name: np.float32(value) for name, value in NUMBERS.items()}
FUNCTIONS = {
    "Gelu": "v = Div(u, root) e = Erf(v) f = Add(one, e) g = Mul(f, u) h = Mul(half, g)",
    "Gelu by a tangent": "q = Pow(u, three) d = Mul(small, q) s = Add(d, u) k = Mul(s, wide) t = Tanh(k) "
    "f = Add(t, one) g = Mul(u, f) h = Mul(g, half)",
    "SiLU": "s = Sigmoid(u) h = Mul(s, u)",
    "Mish": "s = Softplus(u) t = Tanh(s) h = Mul(t, u)",
    "HardSwish": "a = Add(u, three) c = Clip(a, zero, six) k = Mul(u, c) h = Div(k, six)",
}


class Reader(CalibrationDataReader):
    def __init__(self):
        self._data = iter([FED])

    def get_next(self):
        return next(self._data, None)


def plain(name):
    nodes = f"m = MatMul(x, W) u = Add(m, b) {FUNCTIONS[name]} y = MatMul(h, V)"
    weights = {"W": RNG.standard_normal((6, 8)), "b": RNG.standard_normal(8), "V": RNG.standard_normal((8, 3))}
    stored = {key: value for key, value in STORED.items() if f"{key}," in nodes or f"{key})" in nodes}
    return parsed(
        f'<ir_version: 9, opset_import: ["": 17]> g (float[n, 6] x) => (float[n, 3] y) {{ {nodes} }}',
        **stored,
        **{key: value.astype(np.float32) for key, value in weights.items()},
    )


def quantized(model, folder):
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    onnx.save(model, folder / "plain.onnx")
    # Of 7 bits: without VNNI, sums of products of 8 bits saturate.
    quantize_static(
        folder / "plain.onnx", folder / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ, reduce_range=True
    )
    logging.getLogger().setLevel(level)
    return onnx.load(folder / "qdq.onnx")


def halved(model):
    """Every product in half precision, with a Cast in front of it and one behind it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        if node.op_type == "Mul" and not set(node.input) & STORED.keys():
            names = [f"{name}_half_of_{node.output[0]}" for name in node.input]
            nodes += [
                helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16)
                for name, half in zip(node.input, names, strict=True)
            ]
            nodes.append(helper.make_node("Mul", names, [f"{node.output[0]}_half"]))
            nodes.append(helper.make_node("Cast", [f"{node.output[0]}_half"], [node.output[0]], to=TensorProto.FLOAT))
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def value_of(model, name):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(copy.SerializeToString(), options).run([name], FED)[0]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_with_codes_in_between_is_compared_behind_it(name, is_first, tmp_path):
    model = plain(name)
    copy = quantized(model, tmp_path)
    a, b = value_of(model, "h"), value_of(copy, "h_DequantizeLinear_Output")
    row = diff(*((model, copy) if is_first else (copy, model)), FED).layers[0]
    ratio = 20 * np.log10(np.linalg.norm(a if is_first else b) / np.linalg.norm(a - b))
    assert abs(row.to_dict()["sqnr_db"] - ratio) < 0.5
    assert not [change.message for change in diff(model, copy, FED).structure if not change.folded]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_with_casts_in_between_is_compared_behind_it(name):
    model = plain(name)
    copy = halved(model)
    for first, second in ((model, copy), (copy, model)):
        result = diff(first, second, FED)
        row = result.layers[0]
        assert not [change for change in result.structure if "activation function" in change.message]
        assert row.entire.relative_l2 < 2 * np.finfo(np.float16).eps  # the products are rounded, or are not
        assert result.guilty == ()
