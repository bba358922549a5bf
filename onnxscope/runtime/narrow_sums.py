"""Sums of codes that onnxruntime makes otherwise than the file says.

Products of 8-bit codes are added up in 16 bits on some processors.

Where an x86 processor has AVX2 or AVX-512 without VNNI, two products of an unsigned and a signed code are added in 16
bits, which end at 32,767: 255 * 127 + 255 * 127 is twice as much. The layer is then wrong there, and right elsewhere.
Weights of 7 bits are too small for that.

The optimizer adds the codes of a Gemm's bias to the sums as they are: it takes the product of the scales of input and
weight for theirs, whatever scale is stored (1.32). Of a Conv it looks at the scale first.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxscope.base.text import counted, printable
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["remarks_on_bias_scales", "remarks_on_narrow_sums", "sums_saturate"]

_SIDE = 64  # enough for the kernels that work on whole blocks
_NAMED = 3
_SCALE_RTOL = 1e-3  # quantizers take the product in float32
_SMALL = 64  # two products of 255 and so much are within 16 bits


@cache
def sums_saturate() -> bool:
    """Whether onnxruntime's sums of products of 8-bit codes end at 16 bits on this processor: it is asked for one."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["codes", "weight"], ["sums"])],
        "sums",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [_SIDE, _SIDE])],
        [helper.make_tensor("weight", TensorProto.INT8, [_SIDE, _SIDE], [127] * _SIDE**2)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = np.asarray(session.run(None, {"codes": np.full((_SIDE, _SIDE), 255, np.uint8)})[0])
    return bool(np.any(sums != 255 * 127 * _SIDE))


def remarks_on_narrow_sums(model: Model) -> tuple[str, ...]:
    """Return a remark on the layers whose sums may end at 16 bits on this processor; nothing where none may."""
    if not any(_makes_unsigned(graph, node) for graph in model.graphs.values() for node in graph.nodes):
        return ()
    codes = [
        parameter
        for parameter in model.parameters
        if parameter.encoding is not None and parameter.role == "weight" and parameter.dtype == "int8"
        if parameter.encoding.bits == 8
    ]
    if not codes or not sums_saturate():
        return ()
    layers = {one.layer for one in codes if _are_large(model, one.graph, one.initializer)}
    if not layers:
        return ()
    return (
        "this processor has no VNNI: onnxruntime adds products of 8-bit codes in 16 bits here, so that "
        f"{counted(len(layers), 'layer')} may overflow and give other numbers than elsewhere; weights of 7 bits "
        "(`reduce_range`) are safe",
    )


def remarks_on_bias_scales(model: Model) -> tuple[str, ...]:
    """Return a remark on the layers whose bias has another scale than onnxruntime's optimizer takes it to have."""
    wrong = [
        model.names.layers[node]
        for graph in model.graphs.values()
        for node in graph.nodes
        if node.op_type == "Gemm" and node.is_standard and _has_other_scale(model, graph, node)
    ]
    if not wrong:
        return ()
    layers = ", ".join(map(printable, wrong[:_NAMED])) + (f" and {len(wrong) - _NAMED} more" * (len(wrong) > _NAMED))
    return (
        f"a bias is stored with another scale than the product of those of input and weight, in {layers}: "
        "onnxruntime's optimizer takes that product, so that the layer gives other numbers without it, and elsewhere",
    )


def _has_other_scale(model: Model, graph: Graph, node: Node) -> bool:
    """Whether all three operands of a layer are dequantized, and the bias by more or less than the other two."""
    makers = [graph.producers.get(name) for name in node.inputs[:3]]
    scales: list[NDArray[np.float64]] = []
    for maker in makers:
        if maker is None or maker.operator.passes_on != "dequantized":
            return False
        tensor = graph.stored(maker.inputs[1])
        if tensor is None:
            return False
        scales.append(model.array(tensor).astype(np.float64).reshape(-1))
    codes = graph.stored(makers[2].inputs[0]) if len(makers) == 3 and makers[2] is not None else None
    if codes is None or codes.data_type != TensorProto.INT32:
        return False
    if scales[0].size != 1 or scales[2].size not in (1, scales[1].size):
        return False
    expected = scales[0] * scales[1]
    return bool(np.any(np.abs(scales[2] - expected) > _SCALE_RTOL * np.abs(expected)))


def _makes_unsigned(graph: Graph, node: Node) -> bool:
    """Whether a node makes unsigned codes of 8 bits, or reads their zero point."""
    if node.op_type.startswith("DynamicQuantize"):
        return True
    if node.op_type == "QuantizeLinear" and len(node.inputs) < 3:
        return node.attribute("output_dtype") in (None, 0, TensorProto.UINT8)
    stored = (graph.stored(name) for name in node.inputs[1:] if name)
    return any(
        tensor is not None and tensor.data_type == TensorProto.UINT8 and len(tensor.dims) < 2 for tensor in stored
    )


def _are_large(model: Model, graph: Graph, name: str) -> bool:
    tensor = graph.stored(name)
    codes = None if tensor is None else model.array(tensor)
    return codes is not None and bool(codes.size) and max(-int(codes.min()), int(codes.max())) > _SMALL
