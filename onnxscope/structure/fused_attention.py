"""Attention with weights that onnxruntime's optimizer packs into one: a layer each for query, key and value.

What is left in the place of the fused operator is one that multiplies them, and owns no weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.graphs import Node, attribute_value
from onnxscope.structure.rewriting import FUSED_DOMAIN, NodeWriter

__all__ = ["attention", "biased_attention", "packed_attention", "quantized_attention"]

Array = NDArray[Any]
_PARTS = ("query", "key", "value")
_KEPT = ("num_heads", "scale", "mask_filter_value", "unidirectional")


def attention(write: NodeWriter) -> None:
    """Take an Attention apart."""
    if _is_plain(write, mask=write.input(3)) and not write.input(6):
        parts = _projections(write, write.input(0), [write.input(1)], bias=write.input(2))
        _multiply(write, parts, mask=write.input(3), past=write.input(4), added=write.input(5))


def quantized_attention(write: NodeWriter) -> None:
    """Take a QAttention apart: what it reads are codes with their scales."""
    if _is_plain(write, mask=write.input(5)):
        fed = write.add("DequantizeLinear", filter(None, map(write.input, (0, 3, 6))))
        parts = _projections(write, fed, list(filter(None, map(write.input, (1, 4, 7)))), bias=write.input(2))
        _multiply(write, parts, mask=write.input(5), past=write.input(8), added="")


def packed_attention(write: NodeWriter) -> None:
    """Take a PackedAttention apart, which leaves out the places that a mask would."""
    parts = _projections(write, write.input(0), [write.input(1)], bias=write.input(2))
    if parts:
        more = [write.input(place) for place in (3, 4, 5)]
        options = {name: value for name, value in write.attributes().items() if name in _KEPT}
        domain = FUSED_DOMAIN
        write.add("PackedMultiHeadAttention", [*parts, "", *more], write.output(0), domain=domain, **options)


def biased_attention(write: NodeWriter) -> None:
    """Take the biases out of a MultiHeadAttention, which belong to the layers that it reads."""
    shapes = [write.site.shape(write.input(place)) for place in range(3)]
    packed = write.site.numbers(write.input(3))
    if packed is None or packed.ndim != 1 or any(shape is None or len(shape) != 3 for shape in shapes):
        return  # several packed into one, or a cache of a decoder's keys
    sides = [shape[-1] for shape in shapes if shape is not None]
    sizes = [packed.size // 3 if not isinstance(side, int) else side for side in sides]
    if sum(sizes) != packed.size:
        return
    biases = np.split(packed, np.cumsum(sizes)[:-1])
    layer = write.site.layer()
    parts = [
        write.add("Add", [write.input(place), write.store(f"{layer}.{name}.bias", bias)])
        for place, (name, bias) in enumerate(zip(_PARTS, biases, strict=True))
    ]
    others = [write.input(place) for place in range(4, len(write.fused.input))]
    outputs = [write.output(place) for place in range(len(write.fused.output))]
    domain = FUSED_DOMAIN
    write.add("MultiHeadAttention", [*parts, "", *others], *outputs, domain=domain, **write.attributes())


def grouped_attention(write: NodeWriter) -> None:
    """Give a GroupQueryAttention its query, key and value apart, where one product in front of it makes all of them."""
    attributes = write.attributes()
    queries, keys = int(attributes.get("num_heads") or 0), int(attributes.get("kv_num_heads") or 0)
    made = write.site.made_by(write.input(0))
    if write.input(1) or write.input(2) or made is None or not queries or not keys:
        return
    before, bias = [made], ""
    if made.op_type == "Add" and made.is_standard:
        held = [name for name in made.inputs if write.site.numbers(name) is not None]
        product = next((write.site.made_by(name) for name in made.inputs if name not in held), None)
        if len(held) != 1 or product is None:
            return
        made, bias = product, held[0]
        before.append(made)
    by_blocks = made.op_type == "MatMulNBits"
    weight = (
        write.site.numbers(made.inputs[1]) if by_blocks or (made.op_type == "MatMul" and made.is_standard) else None
    )
    if weight is None or (not by_blocks and weight.ndim != 2):
        return
    shape = (int(made.attribute("K")), int(made.attribute("N"))) if by_blocks else weight.shape
    if shape[1] % (queries + 2 * keys) or write.site.is_one_layer(shape, 1):
        return
    size = shape[1] // (queries + 2 * keys)
    sizes = [queries * size, keys * size, keys * size]
    if by_blocks:
        parts = _products_by_blocks(write, made, bias, sizes)
    else:
        parts = _projections(write, made.inputs[0], [made.inputs[1]], bias, sizes)
    if parts:
        write.replaced += before
        others = [write.input(place) for place in range(3, len(write.fused.input))]
        outputs = [write.output(place) for place in range(len(write.fused.output))]
        write.add("GroupQueryAttention", [*parts, *others], *outputs, domain=FUSED_DOMAIN, **attributes)


def _products_by_blocks(write: NodeWriter, made: Node, bias: str, sizes: Sequence[int]) -> list[str]:
    """Cut a MatMulNBits by rows of codes, scales and zero points; nothing where one of them is computed."""
    held = {place: write.site.numbers(name) for place, name in enumerate(made.inputs) if place and name and place != 4}
    shift = write.site.numbers(bias) if bias else None
    total = sum(sizes)
    if any(array is None or array.size % total for array in held.values()) or (bias and shift is None):
        return []
    layer = write.site.layer()
    words = {1: "weight", 2: "weight_scale", 3: "weight_zero_point", 5: "bias"}
    options = {stored.name: attribute_value(stored) for stored in made.proto.attribute}
    parts = []
    for name, end, size in zip(_PARTS, np.cumsum(sizes).tolist(), sizes, strict=True):
        start = len(write.nodes)
        inputs = list(made.inputs)
        for place, array in held.items():
            assert array is not None
            rows = array.reshape(total, -1)[end - size : end]
            shape = rows.reshape(-1) if array.ndim == 1 else rows.reshape(size, *array.shape[1:])
            inputs[place] = write.store(f"{layer}.{name}.{words[place]}", shape)
        value = write.add("MatMulNBits", inputs, domain=FUSED_DOMAIN, **(options | {"N": size}))
        if shift is not None:
            value = write.add("Add", [value, write.store(f"{layer}.{name}.bias", shift[end - size : end])])
        write.call(f"{layer}.{name}", start)
        parts.append(value)
    return parts


def _is_plain(write: NodeWriter, mask: str) -> bool:
    """Whether MultiHeadAttention takes what an attention is told."""
    attributes = write.attributes()
    if attributes.get("do_rotary") or attributes.get("past_present_share_buffer") or not attributes.get("num_heads"):
        return False
    told, fed = write.site.shape(mask) if mask else (), write.site.shape(write.input(0))
    if told is None or len(told) > 3:
        return False
    # Where each row starts and ends, and not how long it is.
    is_pair = len(told) == 1 and fed is not None and isinstance(told[0], int) and told[0] != fed[0]
    return not is_pair


def _projections(write: NodeWriter, fed: str, weight: Sequence[str], bias: str, sizes: Sequence[int] = ()) -> list[str]:
    """Write the layers that give query, key and value; none where their weight is not stored.

    Args:
        write: Writes them.
        fed: What they read.
        weight: Numbers, or codes with their scale and zero point.
        bias: Empty where there is none.
        sizes: How many columns each has; where none are given, as the fused node says.
    """
    held, shift = [write.site.numbers(name) for name in weight], write.site.numbers(bias) if bias else None
    packed = held[0]
    if packed is None or packed.ndim != 2 or any(array is None for array in held) or (bias and shift is None):
        del write.nodes[:]
        return []
    total = packed.shape[1]
    sizes = [int(size) for size in sizes or write.attributes().get("qkv_hidden_sizes") or [total // 3] * 3]
    if len(sizes) != 3 or sum(sizes) != total:
        del write.nodes[:]
        return []
    layer = write.site.layer()
    if write.site.is_one_layer(packed.shape, 0):
        start = len(write.nodes)
        value = _product(write, fed, weight, bias)
        write.call(layer, start)
        return _split(write, value, sizes)
    parts = []
    for name, end, size in zip(_PARTS, np.cumsum(sizes).tolist(), sizes, strict=True):
        columns = slice(end - size, end)
        start = len(write.nodes)
        own = [
            write.store(f"{layer}.{name}.{word}", array if math.prod(array.shape) == 1 else array[..., columns])
            for word, array in zip(("weight", "weight_scale", "weight_zero_point"), held, strict=False)
            if array is not None
        ]
        own_bias = "" if shift is None else write.store(f"{layer}.{name}.bias", shift[columns])
        parts.append(_product(write, fed, own, own_bias))
        write.call(f"{layer}.{name}", start)
    return parts


def _product(write: NodeWriter, fed: str, weight: Sequence[str], bias: str) -> str:
    name = weight[0]
    if len(weight) > 1:
        options: dict[str, Any] = {"axis": 1} if write.site.opset >= 13 else {}
        name = write.add("DequantizeLinear", weight, **options)
    value = write.add("MatMul", [fed, name])
    return write.add("Add", [value, bias]) if bias else value


def _split(write: NodeWriter, value: str, sizes: Sequence[int]) -> list[str]:
    outputs = [f"{value}/{name}" for name in _PARTS]
    if write.site.opset < 13:
        write.add("Split", [value], *outputs, axis=-1, split=list(sizes))
    else:
        write.add("Split", [value, write.integers(*sizes)], *outputs, axis=-1)
    return outputs


def _multiply(write: NodeWriter, parts: Sequence[str], mask: str, past: str, added: str) -> None:
    """Write what multiplies query, key and value.

    Args:
        write: Writes it.
        parts: Their names; nothing is written where there are none.
        mask: Which places count, empty for all.
        past: Keys and values of earlier places, in one, empty for none.
        added: What is added to the scores, empty for nothing.
    """
    if not parts:
        return
    options = {name: value for name, value in write.attributes().items() if name in _KEPT}
    cache = [write.add("Gather", [past, write.scalar(place)]) for place in range(2)] if past else []
    present = write.output(1)
    made = [f"{present}/key", f"{present}/value"] if present else []
    inputs = [*parts, "", mask, added, *cache]
    while not inputs[-1]:
        inputs.pop()
    write.add("MultiHeadAttention", inputs, write.output(0), *made, domain=FUSED_DOMAIN, **options)
    if present:
        write.add("Concat", [write.with_axis("Unsqueeze", name, 0) for name in made], present, axis=0)
