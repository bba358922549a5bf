"""How stored integers stand for real numbers: where scale and zero point lie, and how several codes share a byte.

What is stored may be codes whose scale is beside them (DequantizeLinear), follows them among the operands of a
quantized operator, or lies behind the node: an operator that multiplies integers gives integers, and a table of codes
gives codes, which a Mul or a DequantizeLinear turns into real numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from onnxscope.model.channel_axes import weight_axis
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.layer_names import Operand

__all__ = ["FEW_BITS", "LOWEST_CODES", "Encoding", "codes_scale", "decoded_codes", "encoding_of", "rounding_of"]

FEW_BITS: Mapping[int, int] = {
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
"""Element types of less than a byte, with their bits."""
LOWEST_CODES: Mapping[int, tuple[int, int]] = {
    TensorProto.INT2: (2, -2),
    TensorProto.UINT2: (2, 0),
    TensorProto.INT4: (4, -8),
    TensorProto.UINT4: (4, 0),
    TensorProto.INT8: (8, -128),
    TensorProto.UINT8: (8, 0),
    TensorProto.INT16: (16, -32768),
    TensorProto.UINT16: (16, 0),
}
"""Types of the codes that activations are rounded to, with their bits and the lowest code."""
_WORD = 8  # bits of a packed tensor's elements
_BLOCK = 128  # what GatherBlockQuantized takes without an attribute


@dataclass(frozen=True)
class Encoding:
    """How the codes of one stored tensor stand for real numbers: `(code - zero_point) * scale`.

    Attributes:
        scales: Values whose product is the scale; all are constants.
        divisors: Values that the product holds too much: the scale of an activation, folded into it.
        zero_point: The value of the zero point, None where there is none.
        axis: Along which axis of the codes several scales lie, where they do not have as many axes as the codes.
        block: How many numbers along the axis share a scale; 0 for all.
        packing: As `Codes` has it.
        bits: Of a code.
        shape: Of the real numbers.
        levels: Which table of levels the codes are indices of: 0 for FP4, 1 for NF4.
        codes: The value of the codes where a QuantizeLinear makes them of what is stored, None where they are stored.
        order: `codes = stored.transpose(order)`, as far as the places of numbers go; empty where they are the same.
    """

    scales: tuple[str, ...]
    divisors: tuple[str, ...]
    zero_point: str | None
    axis: int
    block: int
    packing: str
    bits: int
    shape: tuple[int, ...]
    levels: int = 0
    codes: str | None = None
    order: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that it reads beside the codes."""
        return (*self.scales, *self.divisors, *([self.zero_point] if self.zero_point else []))


def encoding_of(graph: Graph, operand: Operand) -> Encoding | None:
    """Return how a constant operand's stored integers stand for real numbers, None where they are no codes.

    Args:
        graph: That of the operand's node.
        operand: Whose tensor.
    """
    origin, node = operand.origin, operand.node
    tensor = None if origin is None else graph.stored(origin.value)
    if origin is None or tensor is None or tensor.data_type == TensorProto.STRING:
        return None
    if origin.dequantized is not None:
        producer = graph.scope_of(origin.dequantized).producers[origin.dequantized]
        return _of_dequantize(graph, producer, origin.value, tensor)
    codes = node.operator.codes.get(operand.position)
    if codes is None or not _holds_codes(tensor):
        return None
    axis, _ = weight_axis(operand, len(tensor.dims))
    if not codes.scales:
        return _behind(graph, node, tensor, _given(node, codes.zero_point), -1 if axis is None else axis)
    scales = tuple(_given(node, position) or "" for position in codes.scales)
    if not all(scale in graph.constants for scale in scales):
        return None
    zero_point = _given(node, codes.zero_point)
    if zero_point is not None and zero_point not in graph.constants:
        return None
    block, bits, shape, along = 0, _bits(tensor), tuple(tensor.dims), -1 if axis is None else axis
    packing = codes.packing
    if packing == "rows":
        bits, block = int(node.attribute("bits") or 4), int(node.attribute("block_size") or 0)
        shape, along = (int(node.attribute("N") or 0), int(node.attribute("K") or 0)), 1
    elif packing == "levels":
        bits, block = 4, int(node.attribute("block_size") or 0)
        shape, along = (int(node.attribute("N") or 0), int(node.attribute("K") or 0)), 1
    elif packing == "last_axis":
        block = int(node.attribute("block_size") or _BLOCK)
        stated = node.attribute("quantize_axis")
        along = 1 if stated is None else int(stated)
        if tensor.data_type == TensorProto.UINT8:
            bits = int(node.attribute("bits") or 4)
            shape = (*shape[:-1], shape[-1] * (_WORD // bits)) if shape and _WORD % bits == 0 else shape
        else:
            packing = ""
    return Encoding(
        scales=scales,
        divisors=(),
        zero_point=zero_point,
        axis=along,
        block=block,
        packing=packing,
        bits=bits,
        shape=shape,
        levels=int(node.attribute("quant_type") or 0),
    )


def codes_scale(graph: Graph, value: str) -> tuple[str, str] | None:
    """Return the values of scale and zero point of codes, None for other values and where several scales lie in them.

    What reads the codes tells them, and what gives them, through what hands numbers on. Where they do not agree, it is
    what most of them say, and of as many what is said first by a reader: so others see the numbers.
    """
    told = [*_told_behind(graph, value), *_told_before(graph, value)]
    numbers = [tuple(graph.small_constant(_source(graph, name)) or name for name in names) for names in told]
    counts = Counter(numbers)
    return next((names for names, key in zip(told, numbers, strict=True) if counts[key] == max(counts.values())), None)


def _told_before(graph: Graph, value: str) -> list[tuple[str, str]]:
    """Scale and zero point as what gives the codes has them."""
    while (node := graph.producers.get(value)) is not None:
        gives = (1, 2) if node.op_type == "QuantizeLinear" else node.operator.gives_codes
        if gives is not None or node.outputs.index(value) in node.operator.index_outputs:
            told = _one_scale(graph, node, *gives) if gives and value == node.outputs[0] else None
            return [] if told is None else [told]
        if not _keeps_codes(node):
            break
        value = node.inputs[0]
    return []


def _told_behind(graph: Graph, value: str) -> list[tuple[str, str]]:
    """Scale and zero point as each reader of the codes has them."""
    told = []
    waiting = [value]
    for behind in waiting:
        for reader in graph.readers_of(behind):
            read = graph.inputs_of(reader).index(behind) if behind in graph.inputs_of(reader) else -1
            codes = reader.operator.codes.get(read)
            if reader.operator.passes_on == "dequantized" and read == 0:
                told.append(_one_scale(graph, reader, 1, 2))
            elif codes is not None and len(codes.scales) == 1 and codes.zero_point is not None and not codes.packing:
                told.append(_one_scale(graph, reader, codes.scales[0], codes.zero_point))
            elif read == 0 and _keeps_codes(reader):
                waiting += [name for name in reader.outputs if name]
    return [names for names in told if names is not None]


def decoded_codes(graph: Graph, value: str) -> tuple[str, str, str] | None:
    """Return the computed codes that a value is the real numbers of, where others read them too; None elsewhere.

    Returns:
        The value of the codes, of their scale and of their zero point.
    """
    node = graph.producers.get(value)
    if node is None or node.operator.passes_on != "dequantized" or node.inputs[0] in graph.constants:
        return None
    codes = graph.inputs_of(node)[0]
    scale = _one_scale(graph, node, 1, 2)
    return (codes, *scale) if scale is not None and len(graph.readers_of(codes)) > 1 else None


def rounding_of(graph: Graph, value: str) -> tuple[TensorProto, TensorProto] | None:
    """Return the stored scale and zero point of the codes that a value is, is made of or is rounded to; None elsewhere.

    Of a value that is rounded in several ways, those of the first.
    """
    node = graph.producers.get(value)
    names = None
    if node is not None and node.operator.passes_on == "dequantized" and node.inputs[0] not in graph.constants:
        names = _one_scale(graph, node, 1, 2)
    rounding = (reader for reader in graph.readers_of(value) if reader.op_type == "QuantizeLinear")
    reader = next((reader for reader in rounding if graph.inputs_of(reader)[0] == value), None)
    if names is None:
        names = codes_scale(graph, value) if reader is None else _one_scale(graph, reader, 1, 2)
    stored = [graph.stored(_source(graph, name)) for name in names or ()]
    return (stored[0], stored[1]) if len(stored) == 2 and stored[0] is not None and stored[1] is not None else None


def _keeps_codes(node: Node) -> bool:
    return node.operator.keeps_codes or node.operator.passes_on in ("same", "permuted", "reshaped")


def _one_scale(graph: Graph, node: Node, scale: int, zero_point: int) -> tuple[str, str] | None:
    """The operands of a node that are scale and zero point, where both are constants of one number."""
    names = _given(node, scale), _given(node, zero_point)
    if names[0] is None or names[1] is None or not all(name in graph.constants for name in names):
        return None
    stored = [graph.stored(_source(graph, name)) for name in names if name]
    are_single = all(tensor is None or list(tensor.dims) in ([], [1]) for tensor in stored)
    return (names[0], names[1]) if are_single else None


def _of_dequantize(graph: Graph, node: Node, value: str, tensor: TensorProto) -> Encoding | None:
    """What a DequantizeLinear makes of codes that are stored, or of what is stored and rounded to codes.

    Axes are those of the stored tensor. None where several scales belong to numbers in another shape.
    """
    rank, block = len(tensor.dims), int(node.attribute("block_size") or 0)
    order = turned = list(range(rank))
    read, codes, is_reshaped = node.inputs[0], None, False
    while read != value:
        producer = graph.scope_of(read).producers.get(read)
        if producer is None or not (producer.operator.passes_on or producer.op_type == "QuantizeLinear"):
            return None
        if producer.op_type == "QuantizeLinear" and codes is None:
            codes, turned = read, list(range(rank))
        elif producer.operator.passes_on == "permuted":
            axes = producer.axis_order(rank)
            if axes is None:
                return None
            order, turned = ([axes[axis] for axis in before] for before in (order, turned))
        elif producer.operator.passes_on == "reshaped":
            is_reshaped = True
        elif producer.operator.passes_on != "same" and codes is None:
            return None
        read = producer.inputs[0]
    zero_point = _given(node, 2)
    stated = node.attribute("axis")
    axis = 1 if stated is None else int(stated)
    is_turned = order != sorted(order)
    if is_reshaped or is_turned:
        scale = graph.stored(_source(graph, node.inputs[1]))
        is_single = scale is not None and list(scale.dims) in ([], [1])
        if not is_single and (is_reshaped or block or not -rank <= axis < rank):
            return None
        axis = axis if is_single else order[axis]
    if codes is not None and is_reshaped:
        return None
    return Encoding(
        scales=(node.inputs[1],),
        divisors=(),
        zero_point=zero_point,
        axis=axis,
        block=block,
        packing="",
        bits=_bits(tensor) if codes is None else _bits_made(graph, codes),
        shape=tuple(tensor.dims),
        codes=codes,
        order=tuple(turned) if codes is not None and turned != sorted(turned) else (),
    )


def _bits_made(graph: Graph, codes: str) -> int:
    """How many bits the codes have that a QuantizeLinear makes."""
    node = graph.scope_of(codes).producers[codes]
    zero_point = graph.stored(_source(graph, _given(node, 2) or ""))
    kind = int(node.attribute("output_dtype") or TensorProto.UINT8) if zero_point is None else zero_point.data_type
    return _bits(TensorProto(data_type=kind))


def _behind(graph: Graph, node: Node, tensor: TensorProto, zero_point: str | None, axis: int) -> Encoding | None:
    """The scale behind a node that gives codes, or sums of their products; None where none is found.

    It is followed through what hands numbers on. The scale of what the codes are multiplied with is left out.
    """
    fed = () if node.operator.looks_up else _activation_scale(graph, node)
    scales: list[str] = []
    value = node.outputs[0]
    while not set(scales) - set(fed):
        readers = graph.readers.get(value, ())
        told = _told_by(graph, readers, value)
        if told is not None:
            scale, zero_point = told
            scales.append(_source(graph, scale))
            break
        reader = readers[0] if len(readers) == 1 else graph.decoder_of(value)
        if reader is None or not reader.outputs or value not in reader.inputs:
            return None
        if reader.operator.passes_on == "dequantized" and reader.inputs[0] == value:
            scales.append(_source(graph, reader.inputs[1]))
            zero_point = _given(reader, 2)
        elif reader.op_type == "Mul" and reader.is_standard:
            factors, by_row = _factors(graph, node, next((name for name in reader.inputs if name != value), value))
            scales += factors
            axis = 0 if by_row else axis
        elif reader.op_type == "Sub" and reader.is_standard and reader.inputs[0] == value:
            zero_point = next(iter(_factors(graph, node, reader.inputs[1])[0]), None)
        elif reader.operator.passes_on is None:
            return None
        value = reader.outputs[0]
    if zero_point is not None and zero_point not in graph.constants:
        return None
    kept = tuple(scale for scale in scales if scale not in fed)
    return Encoding(
        scales=kept,
        divisors=fed if len(kept) == len(scales) else (),
        zero_point=zero_point,
        axis=axis,
        block=0,
        packing="",
        bits=_bits(tensor),
        shape=tuple(tensor.dims),
    )


def _told_by(graph: Graph, readers: Sequence[Node], value: str) -> tuple[str, str | None] | None:
    """The scale and the zero point that an operator of codes has for a value among its operands."""
    for reader in readers:
        codes = reader.operator.codes.get(reader.inputs.index(value)) if value in reader.inputs else None
        if codes is not None and len(codes.scales) == 1 and not codes.packing:
            scale = _given(reader, codes.scales[0])
            return (scale, _given(reader, codes.zero_point)) if scale in graph.constants and scale else None
    return None


def _factors(graph: Graph, node: Node, value: str) -> tuple[list[str], bool]:
    """The constants whose product a value is, but for what is not constant; and whether rows of them are looked up."""
    if value in graph.constants:
        return [_source(graph, value)], False
    producer = graph.producers.get(value)
    if producer is None or not producer.is_standard:
        return [], False
    if producer.op_type == "Mul":
        parts = [_factors(graph, node, name) for name in producer.inputs]
        return [name for names, _ in parts for name in names], any(by_row for _, by_row in parts)
    by_same_rows = producer.operator.looks_up and node.operator.looks_up and producer.inputs[1:2] == node.inputs[1:2]
    if by_same_rows and producer.inputs[0] in graph.constants:
        return [_source(graph, producer.inputs[0])], True
    if producer.operator.passes_on in ("same", "cast", "reshaped"):
        return _factors(graph, node, producer.inputs[0])
    return [], False


def _activation_scale(graph: Graph, node: Node) -> tuple[str, ...]:
    """The constant scale of what a node multiplies codes with, where QuantizeLinear or a table of codes gives it."""
    for value in node.inputs[:2]:
        producer = graph.producers.get(value)
        while producer is not None and producer.operator.passes_on in ("same", "permuted", "reshaped"):
            value = producer.inputs[0]
            producer = graph.producers.get(value)
        decoder = graph.decoder_of(value)
        if producer is not None and decoder is not None and decoder.inputs[1] in graph.constants:
            return (_source(graph, decoder.inputs[1]),)
        if producer is not None and producer.op_type == "QuantizeLinear" and producer.inputs[1] in graph.constants:
            return (_source(graph, producer.inputs[1]),)
    return ()


def _source(graph: Graph, value: str) -> str:
    """Where a constant comes from that is handed on as it is, or in another shape or type."""
    while graph.stored(value) is None:
        producer = graph.scope_of(value).producers.get(value)
        if producer is None or producer.operator.passes_on not in ("same", "cast", "reshaped"):
            return value
        value = producer.inputs[0]
    return value


def _given(node: Node, position: int | None) -> str | None:
    """The name of an operand, None where it is left out."""
    return None if position is None else next(iter(node.inputs[position : position + 1]), "") or None


def _holds_codes(tensor: TensorProto) -> bool:
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return kind.kind in "iu" or _bits(tensor) < _WORD or "float8" in kind.name


def _bits(tensor: TensorProto) -> int:
    stated = FEW_BITS.get(int(tensor.data_type))
    return stated or 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
