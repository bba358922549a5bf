"""What a layer does with its input altogether: one weight and one bias for all that it absorbs.

A convolution with a BatchNorm, a scale or a shift behind it is the same layer as one that has them folded into its own
numbers, which folding rounds a few times over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.graphs import Node
from onnxscope.model.layers import Layer
from onnxscope.numerics.blocks import row_blocks
from onnxscope.numerics.distances import difference
from onnxscope.pairing.layer_weights import NORM, LayerWeights, StoredWeight

__all__ = ["FOLDING_RTOL", "SKETCH_SIZE", "Whole", "are_one", "epsilon_of", "sketch", "whole_of"]

Array = NDArray[Any]
FOLDING_RTOL = 1e-5
"""Folding rounds to float32 a few times over."""

_FOLDED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PROJECTIONS = 8
SKETCH_SIZE = 2 * _PROJECTIONS + 2
"""How many numbers a sketch has."""


@dataclass(frozen=True, eq=False)
class Whole:
    """A layer's one weight and bias: the weight is `weight` with each row multiplied by its `scale`.

    Attributes:
        weight: As stored, with the output channels along axis 0.
        scale: One for each channel.
        bias: One for each channel.
        parts: How large what the bias is the sum of was altogether.
        names: What it was made of, by role.
    """

    weight: Array
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    parts: NDArray[np.float64]
    names: dict[str, str]


def whole_of(layer: Layer, reader: LayerWeights) -> Whole | None:
    """Return what a layer does altogether; None where that is no weight and bias, or cannot be told."""
    entries = reader.entries(layer)
    own = {role: weight for role, node, weight in entries if node is layer.node}
    full = own.get("weight")
    if full is None or layer.node.op_type not in _FOLDED or not layer.node.is_standard or layer.path:
        return None
    if full.quantized or full.values.ndim < 2 or full.values.dtype.kind != "f" or set(own) - {"weight", "bias"}:
        return None
    if layer.node.op_type in ("Gemm", "MatMul") and full.position != 1:
        return None
    channels = len(full.values)
    alpha, beta = (layer.node.attribute(name) for name in ("alpha", "beta"))
    scale = np.full(channels, 1.0 if alpha is None else float(alpha))
    bias = np.zeros(channels)
    if "bias" in own:
        if own["bias"].values.size != channels:
            return None
        bias = own["bias"].values.astype(np.float64).reshape(-1) * (1.0 if beta is None else float(beta))
    parts = np.abs(bias)
    rank = full.values.ndim if layer.node.operator.is_convolution else 1
    for part in layer.parts[1:]:
        if part.op_type in ("Identity", "PRelu"):
            continue
        step = _step(part, [(role, weight) for role, node, weight in entries if node is part], channels, rank)
        if step is None:
            return None
        factor, shift = step
        scale, bias = scale * factor, bias * factor + shift
        parts = parts * np.abs(factor) + np.abs(shift)
    names = {role: weight.name for role, node, weight in entries if node.op_type != "PRelu"}
    return Whole(weight=full.values, scale=scale, bias=bias, parts=parts, names=names)


def are_one(a: Whole, b: Whole) -> bool:
    """Whether two layers do the same but for the rounding of folding."""
    if a.weight.shape != b.weight.shape or not _is_finite(a) or not _is_finite(b):
        return False
    rtol = FOLDING_RTOL
    if np.dtype("float16") in (a.weight.dtype, b.weight.dtype):
        rtol = 4 * float(np.finfo(np.float16).eps)
    parts = np.maximum(a.parts, b.parts)
    allowed = rtol * (parts + 0.1 * parts.max(initial=0.0))
    if not bool(np.all(np.abs(a.bias - b.bias) <= allowed)):
        return False
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = a.scale / b.scale
    if not np.isfinite(ratio).all():
        return False
    return difference(a.weight, b.weight, ratio, rtol).equal


def sketch(whole: Whole) -> list[float]:
    """Return a few numbers that any change of a weight or a bias moves, and rounding hardly does.

    Each of them adds all numbers up with other signs, once for the weight and once for the bias. The last two are what
    a change is measured by: the norms of both.

    References:
        Achlioptas, "Database-friendly random projections", 2003: signs serve as well as normal numbers.
    """
    rng = np.random.default_rng(2003)
    size = whole.weight.size // max(1, len(whole.weight))
    signs = rng.choice([-1.0, 1.0], (_PROJECTIONS, size))
    rows = rng.choice([-1.0, 1.0], (_PROJECTIONS, len(whole.weight)))
    weights = np.zeros(_PROJECTIONS)
    squares = 0.0
    for start, block, _ in row_blocks(whole.weight, whole.weight):
        block = block * whole.scale[start : start + len(block), None]
        weights += np.einsum("pr,rk,pk->p", rows[:, start : start + len(block)], block, signs, optimize=True)
        squares += float(np.sum(np.square(block)))
    biases = rows @ whole.bias
    norms = [squares**0.5, float(np.linalg.norm(whole.parts))]
    return [*(float(number) for number in (*weights, *biases)), *norms]


def _is_finite(whole: Whole) -> bool:
    return bool(np.isfinite(whole.scale).all() and np.isfinite(whole.bias).all() and np.all(whole.scale))


def _step(
    part: Node, weights: Sequence[tuple[str, StoredWeight]], channels: int, rank: int
) -> tuple[Array, Array] | None:
    """By what a node multiplies each channel, and what it adds; None where it does something else."""
    ones, zeros = np.ones(channels), np.zeros(channels)
    if part.op_type == "BatchNormalization":
        held = {role.removeprefix(NORM): weight.values.astype(np.float64) for role, weight in weights}
        if held.keys() != {"weight", "bias", "running_mean", "running_var"} or part.attribute("training_mode"):
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = held["weight"] / np.sqrt(held["running_var"] + epsilon_of(part))
        return (factor, held["bias"] - held["running_mean"] * factor) if factor.shape == ones.shape else None
    if part.op_type not in ("Add", "Sub", "Mul", "Div") or len(weights) != 1:
        return None
    constant = _by_channel(weights[0][1], channels, rank)
    if constant is None or (weights[0][1].position == 0 and part.op_type in ("Sub", "Div")):
        return None
    if part.op_type in ("Add", "Sub"):
        return ones, constant if part.op_type == "Add" else -constant
    with np.errstate(divide="ignore"):
        return (constant if part.op_type == "Mul" else 1 / constant), zeros


def epsilon_of(norm: Node) -> float:
    """Return what a normalization adds to the variance."""
    stored = norm.attribute("epsilon")
    return 1e-5 if stored is None else float(stored)


def _by_channel(weight: StoredWeight, channels: int, rank: int) -> Array | None:
    """A constant as one number for each channel, which stand `rank - 1` from the last axis, or along it for 1."""
    values, shape = weight.values, weight.seen
    if values.size == 1 and len(shape) <= max(rank, 1):
        return np.full(channels, float(values.reshape(())))
    place = len(shape) - 1 - max(0, rank - 2)
    if values.size != channels or place < 0 or shape[place] != channels or len(shape) > max(rank, 1):
        return None
    return values.astype(np.float64).reshape(-1)
