"""Operators that onnxruntime's optimizer fuses, and the operators that each stands for: one function a fused operator.

A layout of onnxruntime's own (`NhwcFusedConv`, the domain `com.microsoft.nchwc`: `blocked_layout`) is none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.structure.fused_attention import (
    attention,
    biased_attention,
    grouped_attention,
    packed_attention,
    quantized_attention,
)
from onnxscope.structure.rewriting import FUSED_DOMAIN, NodeWriter

__all__ = ["expansion_of", "factor_behind", "without_factor"]

_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
"""What `activation_params` of a FusedConv holds, in order."""


def expansion_of(write: NodeWriter) -> Callable[[NodeWriter], None] | None:
    """Return what writes the operators that a fused one stands for; None where it stands for itself."""
    node = write.fused
    expand = _EXPANSIONS.get((node.domain, node.op_type))
    if expand is None or not write.output(0) or (node.op_type == "FastGelu" and not write.input(1)):
        return None
    if expand is _product:
        attributes = write.attributes()
        turned = [name for name, side in zip(node.input, "AB", strict=False) if attributes.get(f"trans{side}")]
        by_batch = attributes.get("transBatchA") or attributes.get("transBatchB")
        return None if by_batch or any(write.rank(name) is None for name in turned) else expand
    return expand


def factor_behind(graph: Graph, value: str) -> tuple[Node, float] | None:
    """Return the FusedMatMul that alone reads a value, and the constant that it multiplies its product with."""
    readers = graph.readers_of(value)
    if len(readers) != 1 or readers[0].op_type != "FusedMatMul" or readers[0].proto.domain != FUSED_DOMAIN:
        return None
    alpha = readers[0].attribute("alpha")
    is_first = readers[0].inputs[0] == value and readers[0].inputs[1] != value
    return (readers[0], float(alpha)) if alpha is not None and is_first else None


def without_factor(product: Node, fed: str) -> NodeProto:
    """Return a FusedMatMul that reads another value, in which its constant factor is."""
    node = NodeProto()
    node.CopyFrom(product.proto)
    node.input[0] = fed
    kept = [attribute for attribute in product.proto.attribute if attribute.name != "alpha"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return node


def _convolution(write: NodeWriter) -> None:
    function = _text(write.attributes().get("activation"))
    parameters = write.attributes().get("activation_params") or []
    attributes = write.attributes("activation", "activation_params")
    added, last = write.input(3), write.output(0)
    value = write.add("Conv", filter(None, map(write.input, range(3))), "" if added or function else last, **attributes)
    if added:
        value = write.add("Add", [value, added], "" if function else last)
    if function:
        write.function(function, value, dict(zip(_PARAMETERS.get(function, ()), parameters, strict=False)))


def _gemm(write: NodeWriter) -> None:
    attributes = write.attributes()
    function = _text(attributes.get("activation"))
    own = {name: attributes[name] for name in ("alpha", "beta", "transA", "transB") if name in attributes}
    operands = filter(None, map(write.input, range(3)))
    value = write.add("Gemm", operands, "" if function else write.output(0), **own)
    if function:
        names = [name for name in ("alpha", "beta", "gamma") if f"activation_{name}" in attributes]
        write.function(function, value, {name: attributes[f"activation_{name}"] for name in names})


def _product(write: NodeWriter) -> None:
    attributes = write.attributes()
    operands = []
    for place, side in enumerate("AB"):
        value, rank = write.input(place), write.rank(write.input(place))
        if attributes.get(f"trans{side}") and rank is not None:
            value = write.add("Transpose", [value], perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(value)
    alpha = attributes.get("alpha", 1.0)
    value = write.add("MatMul", operands, write.output(0) if alpha == 1 else "")
    if alpha != 1:
        write.add("Mul", [value, write.number(alpha)], write.output(0))


def _gelu(write: NodeWriter) -> None:
    """By the error function, or by a hyperbolic tangent, with a bias or without."""
    value = write.input(0)
    if write.input(1):
        value = write.add("Add", [value, write.input(1)])
    is_fast = write.fused.op_type == "FastGelu" or _text(write.attributes().get("approximate")) == "tanh"
    write.add("FastGelu" if is_fast else "Gelu", [value], write.output(0), domain=FUSED_DOMAIN)


def _hard_swish(write: NodeWriter) -> None:
    gate = write.add("HardSigmoid", [write.input(0)], alpha=1 / 6, beta=0.5)
    write.add("Mul", [write.input(0), gate], write.output(0))


def _mish(write: NodeWriter) -> None:
    gate = write.add("Tanh", [write.add("Softplus", [write.input(0)])])
    write.add("Mul", [write.input(0), gate], write.output(0))


def _gated(write: NodeWriter) -> None:
    """`x * sigmoid(alpha * x)`."""
    alpha = write.attributes().get("alpha", 1.702 if write.fused.op_type == "QuickGelu" else 1.0)
    value = write.input(0)
    scaled = value if alpha == 1 else write.add("Mul", [value, write.number(alpha)])
    write.add("Mul", [value, write.add("Sigmoid", [scaled])], write.output(0))


def _skipping_norm(write: NodeWriter) -> None:
    has_shift = write.fused.op_type == "SkipLayerNormalization"
    weights = [write.input(2), write.input(3)] if has_shift else [write.input(2)]
    value, bias = write.input(0), write.input(4 if has_shift else 3)
    if bias:
        value = write.add("Add", [value, bias])
    value = write.add("Add", [value, write.input(1)], write.output(3))
    op_type = "LayerNormalization" if has_shift else "SimplifiedLayerNormalization"
    stash: dict[str, Any] = {} if has_shift else {"stash_type": 1}
    epsilon = write.attributes().get("epsilon", 1e-12)  # what these two take where it is left out
    write.add(op_type, [value, *filter(None, weights)], *map(write.output, range(3)), axis=-1, epsilon=epsilon, **stash)


def _rms_norm(write: NodeWriter) -> None:
    """Under the name that onnxruntime has for it, which it knows in every operator set."""
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1} | write.attributes()
    rank = write.rank(write.input(0))
    if attributes["axis"] >= 0 and rank is not None:
        attributes["axis"] -= rank
    write.add("SimplifiedLayerNormalization", write.fused.input, write.output(0), **attributes)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _embed(write: NodeWriter) -> None:
    """Take an EmbedLayerNormalization apart."""
    _embeddings(write, [write.input(place) for place in range(2, 7)], mask=write.input(7), places=write.input(8))


def _embed_codes(write: NodeWriter) -> None:
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
    parts.append(write.add("Gather", [positions, places or _places_of_words(write)]))
    for number, part in enumerate(parts, 1):
        total = write.add("Add", [total, part], write.output(2) if number == len(parts) else "")
    if write.output(1):
        _mask_index(write, mask)
    epsilon = write.attributes().get("epsilon", 1e-12)  # what it takes where it is left out
    write.add("LayerNormalization", [total, *weights], write.output(0), axis=-1, epsilon=epsilon)


def _places_of_words(write: NodeWriter) -> str:
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


_EXPANSIONS: Mapping[tuple[str, str], Callable[[NodeWriter], None]] = {
    (FUSED_DOMAIN, "FusedConv"): _convolution,
    (FUSED_DOMAIN, "FusedGemm"): _gemm,
    (FUSED_DOMAIN, "FusedMatMul"): _product,
    (FUSED_DOMAIN, "BiasGelu"): _gelu,
    (FUSED_DOMAIN, "FastGelu"): _gelu,
    ("", "Gelu"): _gelu,
    ("", "HardSwish"): _hard_swish,
    ("", "Mish"): _mish,
    (FUSED_DOMAIN, "QuickGelu"): _gated,
    ("", "Swish"): _gated,
    ("", "RMSNormalization"): _rms_norm,
    (FUSED_DOMAIN, "Attention"): attention,
    (FUSED_DOMAIN, "QAttention"): quantized_attention,
    (FUSED_DOMAIN, "PackedAttention"): packed_attention,
    (FUSED_DOMAIN, "MultiHeadAttention"): biased_attention,
    (FUSED_DOMAIN, "GroupQueryAttention"): grouped_attention,
    (FUSED_DOMAIN, "EmbedLayerNormalization"): _embed,
    (FUSED_DOMAIN, "QEmbedLayerNormalization"): _embed_codes,
    (FUSED_DOMAIN, "SkipLayerNormalization"): _skipping_norm,
    (FUSED_DOMAIN, "SkipSimplifiedLayerNormalization"): _skipping_norm,
}
