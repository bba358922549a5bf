"""The values of stored parameters and of constant operands, quantized ones as the real numbers that they stand for."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.model.encodings import Encoding, encoding_of
from onnxscope.model.graphs import Graph
from onnxscope.model.layer_names import Operand
from onnxscope.model.loading import Model
from onnxscope.model.parameters import Parameter
from onnxscope.numerics.dequantization import dequantized, of_levels, unpacked
from onnxscope.runtime.session import evaluate_constants

__all__ = ["read_operand", "read_parameter"]

Array = np.ndarray[Any, Any]
_KEPT_BYTES = 256 << 20


def read_parameter(model: Model, parameter: Parameter) -> Array:
    """Return a parameter's values in its own shape; quantized ones as the real numbers that they stand for.

    Stored bytes are read in place.

    Raises:
        RunError: Scales or zero points do not fit the codes, or are computed and onnxruntime cannot do that.
    """
    tensor = parameter.graph.stored(parameter.initializer)
    assert tensor is not None  # find_parameters lists stored tensors only
    operand, encoding = parameter.operand, parameter.encoding
    if encoding is None or operand is None:
        stored = model.array(tensor)
    else:
        stored = _real(model, model.graphs[operand.node.path], tensor, operand, encoding)
    if parameter.permutation:
        stored = stored.transpose(np.argsort(parameter.permutation))
    return stored


def read_operand(model: Model, operand: Operand) -> Array:
    """Return a constant operand as its node sees it, quantized ones as the real numbers that they stand for.

    Raises:
        RunError: It is computed from stored values, and onnxruntime cannot do that.
    """
    origin, graph = operand.origin, model.graphs[operand.node.path]
    tensor = None if origin is None else graph.stored(origin.value)
    if origin is None or tensor is None or origin.permutation is None:
        return _constant(model, graph, operand.node.inputs[operand.position])
    encoding = encoding_of(graph, operand)
    if encoding is not None:
        values = _real(model, graph, tensor, operand, encoding)
    elif origin.dequantized is not None:  # of codes that are laid out anew first
        return _constant(model, graph, operand.node.inputs[operand.position])
    else:
        values = model.array(tensor)
    return values.transpose(origin.permutation) if origin.permutation else values


def _real(model: Model, graph: Graph, tensor: TensorProto, operand: Operand, encoding: Encoding) -> Array:
    """The real numbers behind a stored tensor, computed once: they are kept as far as there is room.

    Args:
        model: Whose tensor.
        graph: That of the operand's node, from which scale and zero point are seen.
        tensor: The codes.
        operand: How they are used.
        encoding: How they stand for real numbers.
    """
    assert operand.origin is not None
    key = (graph.path, operand.origin.value, *encoding.values)
    values = model.computed.get(key)
    if values is None:
        try:
            values = _decoded(model, graph, model.array(tensor), encoding)
        except ValueError as error:
            name = printable(operand.origin.value)
            raise RunError(f"{name!r} cannot be dequantized ({error}): {model.name}") from error
        _keep(model, key, values)
    return values


def _decoded(model: Model, graph: Graph, codes: Array, encoding: Encoding) -> Array:
    parts = [_constant(model, graph, name) for name in encoding.scales]
    scale = math.prod(parts[1:], start=parts[0].astype(np.float32))
    for name in encoding.divisors:
        scale = scale / _constant(model, graph, name).astype(np.float32)
    zero_point = None if encoding.zero_point is None else _constant(model, graph, encoding.zero_point)
    axis, block, bits, shape = encoding.axis, encoding.block, encoding.bits, encoding.shape
    if encoding.packing == "levels":
        high_first = unpacked(codes.reshape(-1), bits, 2 * codes.size).reshape(-1, 2)[:, ::-1].reshape(-1)
        return of_levels(high_first[: math.prod(shape)], scale, block, normal=encoding.levels == 1).reshape(shape)
    if encoding.packing == "rows":
        blocks = -(-shape[1] // block) if block else 0
        codes = unpacked(codes.reshape(shape[0], -1), bits, shape[1])
        if zero_point is not None and zero_point.dtype == np.uint8:
            zero_point = unpacked(zero_point.reshape(shape[0], -1), bits, blocks)
    elif encoding.packing == "last_axis":
        codes = unpacked(codes, bits, shape[-1])
        if zero_point is not None:
            zero_point = unpacked(
                zero_point, bits, -(-shape[-1] // block) if axis % len(shape) == len(shape) - 1 else shape[-1]
            )
    if zero_point is None and encoding.packing:
        zero_point = np.array(1 << bits - 1)
    return dequantized(codes, scale, zero_point, axis, block)


def _constant(model: Model, graph: Graph, name: str) -> Array:
    """A constant that a graph sees, read where it is stored or computed from what is.

    Raises:
        RunError: onnxruntime cannot compute it.
    """
    tensor = graph.stored(name)
    if tensor is not None:
        return model.array(tensor)
    key = (graph.scope_of(name).path, name)
    values = model.computed.get(key)
    if values is None:
        values = evaluate_constants(model, [name], path=graph.path)[name]
        _keep(model, key, values)
    return values


def _keep(model: Model, key: Hashable, values: Array) -> None:
    """Keep computed values as far as there is room."""
    if values.nbytes + sum(kept.nbytes for kept in model.computed.values()) <= _KEPT_BYTES:
        values.flags.writeable = False
        model.computed[key] = values
