"""Whether a provider rounds what it multiplies: a layer's node, run by it on numbers made up, against the same rounded.

Own errors of the size of a type's rounding are a suspicion. Here it is tried: where the operands, rounded to the type
and multiplied on the processor, give what the provider gives, that type is what it computes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnxscope.errors import OnnxscopeError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.providers.provider import DEFAULT_RUNNING, Running
from onnxscope.runtime.session import Session

__all__ = ["rounds_as"]

Array = NDArray[Any]
_MULTIPLYING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_EXPLAINED = 0.25  # of the difference may be left
_LARGEST = 1 << 22  # numbers of the input: a moment
_OPEN = 2  # the size of a dimension that the model leaves open


def rounds_as(model: Model, values: Iterable[str], bits: int) -> bool | None:
    """Run one layer's node as its model is run, and tell whether its operands are rounded.

    Args:
        model: Of which the node is; its weights are read.
        values: What leaves the layers, the one to be tried first at the front.
        bits: Of the significand that operands are rounded to: 8 for bfloat16, 11 for float16 and TF32.

    Returns:
        None where no layer multiplies stored weights in float32 by something of a known shape.
    """
    layers = {name: layer for layer in model.layers if not layer.path for name in (layer.value, layer.inner)}
    for value in values:
        node = layers[value].node if value in layers else None
        if node is None or not node.is_standard or node.op_type not in _MULTIPLYING:
            continue
        try:
            operands = _operands(model, node)
            return None if operands is None else _tried(model, node, operands, bits)
        except OnnxscopeError:  # then it is not known
            return None
    return None


def _operands(model: Model, node: Node) -> dict[str, Array] | None:
    """Seeded numbers for what is computed, and the stored weights; None where one of them is unknown."""
    operands: dict[str, Array] = {}
    for name in filter(None, node.inputs):
        tensor = model.main.stored(name)
        if tensor is not None:
            operands[name] = model.array(tensor)
            continue
        shape = model.shape_of(model.main, name)
        sides = [side if isinstance(side, int) else _OPEN for side in shape or ()]
        if shape is None or np.prod(sides, dtype=np.float64) > _LARGEST:
            return None
        operands[name] = np.random.default_rng(0).standard_normal(sides).astype(np.float32)
    return operands if all(array.dtype == np.float32 for array in operands.values()) else None


def _tried(model: Model, node: Node, operands: Mapping[str, Array], bits: int) -> bool:
    given = _run(model, model.running, node, operands)
    plain = _run(model, DEFAULT_RUNNING, node, operands)
    off = float(np.linalg.norm(given - plain))
    for names in (node.inputs[:2], node.inputs):  # the bias is added, and may be rounded or not; so may the result
        rounded = {name: _rounded(array, bits) if name in names else array for name, array in operands.items()}
        expected = _run(model, DEFAULT_RUNNING, node, rounded)
        left = min(float(np.linalg.norm(given - one)) for one in (expected, _rounded(expected, bits)))
        if left < _EXPLAINED * off:
            return True
    return False


def _run(model: Model, running: Running, node: Node, operands: Mapping[str, Array]) -> Array:
    """The node's output in float64; what it reads is fed first, and stored otherwise."""
    proto = ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "trial"
    proto.graph.node.append(node.proto)
    del proto.graph.node[0].output[1:]
    fed = node.inputs[0]
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in operands.items() if name != fed
    )
    elem_type = onnx.TensorProto.FLOAT
    proto.graph.input.append(onnx.helper.make_tensor_value_info(fed, elem_type, operands[fed].shape))
    proto.graph.output.add().name = node.outputs[0]
    session = Session(proto, folder=None, where=model.name, provider=running.provider)
    return np.asarray(session.run({fed: operands[fed]})[node.outputs[0]], np.float64)


def _rounded(array: Array, bits: int) -> Array:
    if bits == 8:
        return np.asarray(array.astype(ml_dtypes.bfloat16), np.float32)
    fraction, exponent = np.frexp(array.astype(np.float32))
    unit = np.float32(1 << bits)
    return np.asarray(np.ldexp(np.round(fraction * unit) / unit, exponent), np.float32)
