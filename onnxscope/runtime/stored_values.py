"""The values of stored parameters and of constant operands, quantized ones as the real numbers that they stand for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxscope.model.graphs import Step
from onnxscope.model.layer_names import Operand
from onnxscope.model.loading import Model
from onnxscope.model.parameters import Parameter
from onnxscope.runtime.session import evaluate_constants

__all__ = ["read_operand", "read_parameter"]

Array = np.ndarray[Any, Any]
_KEPT_BYTES = 256 << 20


def read_parameter(model: Model, parameter: Parameter) -> Array:
    """Return a parameter's values in its own shape; quantized ones as the real numbers that they stand for.

    Stored bytes are read in place; only dequantization runs onnxruntime.
    """
    stored = _stored_values(model, parameter)
    if parameter.permutation:
        stored = stored.transpose(np.argsort(parameter.permutation))
    return stored


def read_operand(model: Model, operand: Operand) -> Array:
    """Return a constant operand as its node sees it, quantized ones as the real numbers that they stand for.

    Raises:
        RunError: It is computed from stored values, and onnxruntime cannot do that.
    """
    origin, path = operand.origin, operand.node.path
    if operand.node.operator.scaled_along is not None:
        return _dequantized(model, operand)
    if origin is None or origin.permutation is None:
        return _computed(model, path, operand.node.inputs[operand.position])
    if origin.dequantized is not None:
        values = _computed(model, path, origin.dequantized)
    else:
        tensor = model.graphs[path].stored(origin.value)
        assert tensor is not None  # an origin is stored
        values = model.array(tensor)
    return values.transpose(origin.permutation) if origin.permutation else values


def _stored_values(model: Model, parameter: Parameter) -> Array:
    operand = parameter.operand
    if operand is not None and operand.origin is not None:
        if operand.origin.dequantized is not None:
            return _computed(model, operand.node.path, operand.origin.dequantized)
        if operand.node.operator.scaled_along is not None:
            return _dequantized(model, operand)
    tensor = parameter.graph.stored(parameter.initializer)
    assert tensor is not None  # find_parameters lists stored tensors only
    return model.array(tensor)


def _dequantized(model: Model, operand: Operand) -> Array:
    """The real numbers behind an operand of QLinearConv or QLinearMatMul."""
    inputs, axis, path = operand.node.inputs, operand.node.operator.scaled_along, operand.node.path
    assert axis is not None  # the operand's scale follows it
    if operand.role != "bias":
        return _scaled(model, path, inputs[operand.position : operand.position + 3], axis)
    make = onnx.helper.make_node
    read = (inputs[8], inputs[1], inputs[4])  # int32 in units of the product of both scales
    extra = [
        make("Cast", [inputs[8]], ["onnxscope:bias"], to=TensorProto.FLOAT),
        make("Mul", [inputs[1], inputs[4]], ["onnxscope:scale"]),
        make("Mul", ["onnxscope:bias", "onnxscope:scale"], ["onnxscope:real"]),
    ]
    return _computed(model, path, "onnxscope:real", extra, read)


def _scaled(model: Model, path: tuple[Step, ...], read: Sequence[str], axis: int) -> Array:
    """Codes, scale and zero point as real numbers.

    DequantizeLinear does not serve: before operator set 13 it scales along no axis, and later it refuses a single scale
    for several channels. The difference of two codes is exact in float32, so only the product rounds, as there.
    """
    key = (path, "onnxscope:real", *read)
    values = model.computed.get(key)
    if values is None:
        constants = evaluate_constants(model, list(dict.fromkeys(read)), path=path)
        codes, scale, zero_point = (constants[name] for name in read)
        along = [1] * codes.ndim
        if scale.size > 1:
            along[axis] = scale.size
        zeros = zero_point.astype(np.float32).reshape(along if zero_point.size > 1 else [1] * codes.ndim)
        values = (codes.astype(np.float32) - zeros) * scale.astype(np.float32).reshape(along)
        _keep(model, key, values)
    return values


def _computed(
    model: Model, path: tuple[Step, ...], value: str, extra: Sequence[NodeProto] = (), read: Sequence[str] = ()
) -> Array:
    """A value that onnxruntime computes from stored ones, once: it is kept as far as there is room.

    Args:
        model: Whose values are read.
        path: The steps that lead to the graph that sees them.
        value: Which one, visible there or of `extra`.
        extra: Nodes that compute it.
        read: The stored values that tell it from others of the same name.
    """
    scope = model.graphs[path].scope_of(value) if not extra else model.graphs[path]
    key = (scope.path, value, *read)
    values = model.computed.get(key)
    if values is None:
        values = evaluate_constants(model, [value], extra, path)[value]
        _keep(model, key, values)
    return values


def _keep(model: Model, key: Hashable, values: Array) -> None:
    if values.nbytes + sum(kept.nbytes for kept in model.computed.values()) <= _KEPT_BYTES:
        values.flags.writeable = False
        model.computed[key] = values
