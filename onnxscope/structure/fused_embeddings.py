"""Embeddings of words, places and segments with their LayerNormalization, which onnxruntime computes in one node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxscope.structure.node_writer import NodeWriter

__all__ = ["embeddings", "quantized_embeddings"]


def embeddings(write: NodeWriter) -> None:
    """Take an EmbedLayerNormalization apart."""
    _embeddings(write, [write.input(place) for place in range(2, 7)], mask=write.input(7), places=write.input(8))


def quantized_embeddings(write: NodeWriter) -> None:
    """Take a QEmbedLayerNormalization apart, whose tables and weights are codes."""
    operands = [
        write.add("DequantizeLinear", filter(None, map(write.input, (place, place + 6, place + 11))))
        if write.input(place)
        else ""
        for place in range(2, 7)
    ]
    _embeddings(write, operands, mask=write.input(7), places="")


def _embeddings(write: NodeWriter, operands: Sequence[str], mask: str, places: str) -> None:
    words, positions, segments, *weights = operands
    total = write.add("Gather", [words, write.input(0)])
    has_segments = bool(segments and write.input(1))
    parts = [write.add("Gather", [segments, write.input(1)])] if has_segments else []
    parts.append(write.add("Gather", [positions, places or _places(write)]))
    for number, part in enumerate(parts, 1):
        total = write.add("Add", [total, part], write.output(2) if number == len(parts) else "")
    if write.output(1):
        _mask_index(write, mask)
    epsilon = write.attributes().get("epsilon", 1e-12)  # what it takes where it is left out
    write.add("LayerNormalization", [total, *weights], write.output(0), axis=-1, epsilon=epsilon)


def _places(write: NodeWriter) -> str:
    """The places of a row of words, counted from 0."""
    length = write.add("Gather", [write.add("Shape", [write.input(0)]), write.scalar(1)])
    return write.with_axis("Unsqueeze", write.add("Range", [write.scalar(0), length, write.scalar(1)]), 0)


def _mask_index(write: NodeWriter, mask: str) -> None:
    """How many words of each row are ones of the mask; none where there is no mask."""
    counted = mask or write.input(0)
    one = write.add("Constant", [], value=numpy_helper.from_array(np.array(1 if mask else -1, np.int32)))
    ones = write.add("Cast", [write.add("Equal", [counted, one])], to=TensorProto.INT32)
    if write.site.opset < 13:
        write.add("ReduceSum", [ones], write.output(1), axes=[1], keepdims=0)
    else:
        write.add("ReduceSum", [ones, write.integers(1)], write.output(1), keepdims=0)
