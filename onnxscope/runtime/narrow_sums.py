"""Products of 8-bit codes that onnxruntime adds up in 16 bits, as it does on some processors.

Where an x86 processor has AVX2 or AVX-512 without VNNI, two products of an unsigned and a signed code are added in 16
bits, which end at 32,767: 255 * 127 + 255 * 127 is twice as much. The layer is then wrong there, and right elsewhere.
Weights of 7 bits are too small for that.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from onnxscope.base.text import counted
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["remarks_on_narrow_sums", "sums_saturate"]

_SIDE = 64  # enough for the kernels that work on whole blocks
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
