"""The values of stored parameters and of constant operands, quantized ones as the real numbers that they stand for."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.model.encodings import Encoding, codes_scale, encoding_of
from onnxscope.model.graphs import Graph
from onnxscope.model.layer_names import Operand
from onnxscope.model.loading import Model
from onnxscope.model.parameters import Parameter
from onnxscope.numerics.dequantization import dequantized, of_levels, unpacked
from onnxscope.numerics.quantization import Quantization, describe_codes
from onnxscope.runtime.session import evaluate_constants

__all__ = ["Levels", "read_levels", "read_operand", "read_parameter", "read_quantized"]

Array = np.ndarray[Any, Any]
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class _Codes:
    """Codes taken out of their bytes, with what makes real numbers of them.

    Attributes:
        values: In the shape of the real numbers.
        scale: As `dequantized` takes it.
        zero_point: Likewise.
        encoding: Where they come from.
    """

    values: Array
    scale: Array
    zero_point: Array | None
    encoding: Encoding

    def real(self) -> Array:
        """The real numbers that they stand for."""
        encoding = self.encoding
        if encoding.packing == "levels":
            flat = of_levels(self.values.reshape(-1), self.scale, encoding.block, normal=encoding.levels == 1)
            return flat.reshape(encoding.shape)
        return dequantized(self.values, self.scale, self.zero_point, encoding.axis, encoding.block)

    def describe(self) -> Quantization | None:
        """What they tell of the quantization."""
        encoding = self.encoding
        return describe_codes(
            self.values,
            encoding.bits,
            self.scale,
            self.zero_point,
            axis=encoding.axis,
            block=encoding.block,
            levels=("nf4" if encoding.levels == 1 else "fp4") if encoding.packing == "levels" else "",
        )


@dataclass(frozen=True, eq=False)
class Levels:
    """What the codes of a quantized parameter say, in the parameter's own shape.

    Attributes:
        codes: The codes less their zero point, in float64.
        step: By how much the real number grows from one code to the next.
        lowest: Where the code is the lowest that there is: the number may have been lower.
        highest: Where it is the highest.
    """

    codes: Array
    step: Array
    lowest: Array
    highest: Array


def read_levels(model: Model, parameter: Parameter) -> Levels | None:
    """Return how the codes of a quantized parameter stand to its numbers; None where they are no even levels.

    Raises:
        RunError: As `read_parameter`.
    """
    operand, encoding = parameter.operand, parameter.encoding
    if encoding is None or operand is None or encoding.packing == "levels":
        return None
    tensor = parameter.graph.stored(parameter.initializer)
    assert tensor is not None
    seen: list[_Codes] = []
    real = _real(model, model.graphs[operand.node.path], tensor, operand, encoding, seen)
    codes = seen[0]
    if codes.values.dtype.kind not in "iu":
        return None
    step = dequantized(np.ones_like(codes.values), codes.scale, None, encoding.axis, encoding.block)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.rint(real.astype(np.float64) / step)
    is_signed = codes.values.dtype.kind == "i" and not encoding.packing
    bits = encoding.bits
    ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    found = (levels, step, codes.values == ends[0], codes.values == ends[1])
    return Levels(*(_in_own_shape(parameter, values) for values in found))


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
    return _in_own_shape(parameter, stored)


def read_quantized(model: Model, parameter: Parameter) -> tuple[Array, Quantization | None]:
    """Return what `read_parameter` does, and how it is quantized: None where it is stored as it is.

    The codes are taken out of their bytes once for both.

    Raises:
        RunError: As `read_parameter`.
    """
    operand, encoding = parameter.operand, parameter.encoding
    if encoding is None or operand is None:
        return read_parameter(model, parameter), None
    tensor = parameter.graph.stored(parameter.initializer)
    assert tensor is not None
    seen: list[_Codes] = []
    values = _real(model, model.graphs[operand.node.path], tensor, operand, encoding, seen)
    quantization = seen[0].describe()
    if quantization is not None and quantization.axis is not None and parameter.cut is not None:
        quantization = replace(quantization, axis=parameter.channel_axis)
    elif quantization is not None and quantization.axis is not None and parameter.permutation:
        quantization = replace(quantization, axis=parameter.permutation[quantization.axis])
    return _in_own_shape(parameter, values), quantization


def _in_own_shape(parameter: Parameter, stored: Array) -> Array:
    cut = parameter.cut
    if cut is not None:
        stored = stored if cut.direction is None else stored[cut.direction]
        whole = np.moveaxis(stored, cut.axis, 0)
        pieces = [whole[start:end] for start, end in cut.places]
        stored = np.moveaxis(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), 0, cut.axis)
    return stored.transpose(np.argsort(parameter.permutation)) if parameter.permutation else stored


def read_operand(model: Model, operand: Operand) -> Array:
    """Return a constant operand as its node sees it, quantized ones as the real numbers that they stand for.

    Raises:
        RunError: It is computed from stored values, and onnxruntime cannot do that.
    """
    origin, graph = operand.origin, model.graphs[operand.node.path]
    tensor = None if origin is None else graph.stored(origin.value)
    if origin is None or tensor is None or origin.permutation is None:
        return _computed(model, graph, operand.node.inputs[operand.position])
    encoding = encoding_of(graph, operand)
    if encoding is not None:
        values = _real(model, graph, tensor, operand, encoding)
    elif origin.dequantized is not None:  # of codes that are laid out anew first
        return _constant(model, graph, operand.node.inputs[operand.position])
    else:
        values = model.array(tensor)
    return values.transpose(origin.permutation) if origin.permutation else values


def _computed(model: Model, graph: Graph, name: str) -> Array:
    """A constant that nodes compute, as the real numbers behind it where it is codes."""
    values, scale = _constant(model, graph, name), codes_scale(graph, name)
    if scale is None or values.dtype.kind not in "iu":
        return values
    return dequantized(values, _constant(model, graph, scale[0]), _constant(model, graph, scale[1]), axis=0, block=0)


def _real(
    model: Model,
    graph: Graph,
    tensor: TensorProto,
    operand: Operand,
    encoding: Encoding,
    seen: list[_Codes] | None = None,
) -> Array:
    """The real numbers behind a stored tensor, computed once: they are kept as far as there is room.

    Args:
        model: Whose tensor.
        graph: That of the operand's node, from which scale and zero point are seen.
        tensor: The codes.
        operand: How they are used.
        encoding: How they stand for real numbers.
        seen: Takes the codes too, where it is given.
    """
    assert operand.origin is not None
    key = (graph.path, operand.origin.value, encoding.codes, *encoding.values)
    values = model.computed.get(key)
    if values is not None and seen is None:
        return values
    try:
        codes = _codes(model, graph, model.array(tensor), encoding)
        if values is None:
            values = codes.real()
            _keep(model, key, values)
    except ValueError as error:
        name = printable(operand.origin.value)
        raise RunError(f"{name!r} cannot be dequantized ({error}): {model.name}") from error
    if seen is not None:
        seen.append(codes)
    return values


def _codes(model: Model, graph: Graph, stored: Array, encoding: Encoding) -> _Codes:
    """The codes behind stored bytes, with their scale and zero point."""
    parts = [_constant(model, graph, name) for name in encoding.scales]
    scale = math.prod(parts[1:], start=parts[0].astype(np.float32))
    for name in encoding.divisors:
        scale = scale / _constant(model, graph, name).astype(np.float32)
    zero_point = None if encoding.zero_point is None else _constant(model, graph, encoding.zero_point)
    axis, block, bits, shape = encoding.axis, encoding.block, encoding.bits, encoding.shape
    codes = stored if encoding.codes is None else _constant(model, graph, encoding.codes)
    if encoding.order:
        codes = codes.transpose(np.argsort(encoding.order))
    if encoding.packing == "levels":
        high_first = unpacked(stored.reshape(-1), bits, 2 * stored.size).reshape(-1, 2)[:, ::-1].reshape(-1)
        return _Codes(high_first[: math.prod(shape)].reshape(shape), scale, None, encoding)
    if encoding.packing == "rows":
        blocks = -(-shape[1] // block) if block else 0
        codes = unpacked(stored.reshape(shape[0], -1), bits, shape[1])
        if zero_point is not None and zero_point.dtype == np.uint8:
            zero_point = unpacked(zero_point.reshape(shape[0], -1), bits, blocks)
    elif encoding.packing == "last_axis":
        codes = unpacked(stored, bits, shape[-1])
        if zero_point is not None:
            zero_point = unpacked(
                zero_point, bits, -(-shape[-1] // block) if axis % len(shape) == len(shape) - 1 else shape[-1]
            )
    if zero_point is None and encoding.packing:
        zero_point = np.array(1 << bits - 1)
    return _Codes(codes, scale, zero_point, encoding)


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
