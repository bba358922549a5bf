"""Quantized copies of small models, and their values by plain onnxruntime."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static


def model(nodes, inputs, outputs, tensors):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class Reader(CalibrationDataReader):
    def __init__(self, x):
        self._batches = iter([{"x": x}])

    def get_next(self):
        return next(self._batches, None)


def quantized(proto, x, folder, form, *, per_channel):
    """A float model and its int8 copy, with weights of 7 bits: without VNNI, sums of products of 8 bits saturate."""
    source, target = folder / "float.onnx", folder / f"{form}.onnx"
    onnx.save(proto, source)
    logging.disable(logging.WARNING)
    try:
        if form == "dynamic":
            quantize_dynamic(source, target, per_channel=per_channel, reduce_range=True)
        else:
            quantize_static(
                str(source),
                str(target),
                Reader(x),
                quant_format=QuantFormat[form],
                per_channel=per_channel,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logging.disable(logging.NOTSET)
    return source, target


def values(path, names, x):
    """Values by plain onnxruntime, without optimization, so that none is fused away."""
    proto = onnx.load(path)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), {"x": x}), strict=True))


def decibels(reference, other):
    gap = reference.astype(np.float64) - other
    return -10 * np.log10(np.square(gap).sum() / np.square(reference.astype(np.float64)).sum())
