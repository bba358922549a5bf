"""Models that hold given weights, and what is found in them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxscope.analyses.weight_statistics import weights
from onnxscope.findings.of_weights import find_in_weights
from onnxscope.model.loading import load_model

FLOAT = onnx.TensorProto.FLOAT


def rng():
    return np.random.default_rng(77)


def store(**arrays):
    """A model with a Conv or a MatMul for each array `name`, with a bias where there is `name_bias`."""
    inputs = [helper.make_tensor_value_info("x", FLOAT, None)]
    nodes, tensors = [], []
    for name, values in arrays.items():
        if name.endswith("_bias"):
            continue
        kind = "Conv" if values.ndim > 2 else "Gemm"
        operands = ["x", f"{name}.weight"]
        tensors.append(numpy_helper.from_array(values, f"{name}.weight"))
        if f"{name}_bias" in arrays:
            operands.append(f"{name}.bias")
            tensors.append(numpy_helper.from_array(arrays[f"{name}_bias"], f"{name}.bias"))
        options = {"transB": 1} if kind == "Gemm" else {}
        nodes.append(helper.make_node(kind, operands, [f"{name}_y"], name=name, **options))
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def found(model):
    loaded = load_model(model)
    findings = find_in_weights(weights(loaded), loaded)
    return [(each.kind, each.layer, each.channel, each.message) for each in findings]


def kinds(model):
    return [each[0] for each in found(model)]


def normal(*shape, std=0.3):
    return rng().normal(0, std, shape).astype(np.float32)


def uniform(*shape, bound):
    return rng().uniform(-bound, bound, shape).astype(np.float32)


def fresh(*shape):
    """As PyTorch makes a kernel: uniform within 1 / sqrt(fan_in)."""
    return uniform(*shape, bound=1 / np.sqrt(np.prod(shape[1:])))
