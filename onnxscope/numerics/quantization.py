"""What a tensor's codes tell of its quantization: bits, scheme, granularity, scales, and how the codes are used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.tables import Cell
from onnxscope.base.text import format_number
from onnxscope.numerics.dequantization import LEVELS

__all__ = ["QUANTIZED", "Quantization", "describe_codes", "quantized_cells"]

Array = NDArray[Any]
QUANTIZED = ("quantized", "scale", "zero point", "saturated", "unused codes")
"""Columns of a table that says how each of its rows is quantized."""
_BLOCK = 1 << 20  # codes that are counted at a time: `bincount` makes 64 bits of each
_COUNTED_BITS = 8  # codes of more bits are not counted one by one: a bias, which uses few of them


@dataclass(frozen=True)
class Quantization:
    """How a tensor is quantized, and what it uses of its codes.

    Attributes:
        bits: Of a code.
        scheme: `symmetric` where zero is in the middle of the codes, else `asymmetric`.
        granularity: Whether the whole tensor, each channel or each block of a channel has a scale of its own.
        axis: Along which axis scales differ, None for a tensor.
        block_size: Numbers of a block, None where there are no blocks.
        scale_min: The smallest scale; this and the next three are None where one is not finite.
        scale_max: The largest.
        zero_point_min: The smallest code that stands for zero.
        zero_point_max: The largest.
        saturated_fraction: Share of the codes at either end of what they reach; None of a tensor without numbers.
        unused_codes: How many codes no number has; None for codes of more than eight bits.
    """

    bits: int
    scheme: Literal["symmetric", "asymmetric"]
    granularity: Literal["tensor", "channel", "block"]
    axis: int | None
    block_size: int | None
    scale_min: float | None
    scale_max: float | None
    zero_point_min: float | None
    zero_point_max: float | None
    saturated_fraction: float | None
    unused_codes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "bits": self.bits,
            "scheme": self.scheme,
            "granularity": self.granularity,
            "axis": self.axis,
            "block_size": self.block_size,
            "scale_min": self.scale_min,
            "scale_max": self.scale_max,
            "zero_point_min": self.zero_point_min,
            "zero_point_max": self.zero_point_max,
            "saturated_fraction": self.saturated_fraction,
            "unused_codes": self.unused_codes,
        }

    @property
    def text(self) -> str:
        """Bits, scheme and granularity in words."""
        per = f"block of {self.block_size:,}" if self.granularity == "block" else self.granularity
        return f"{self.bits} bits, {self.scheme}, per {per}"

    @property
    def scale_text(self) -> str:
        """The range of the scales."""
        return _range(self.scale_min, self.scale_max)

    @property
    def zero_point_text(self) -> str:
        """The range of the zero points."""
        return _range(self.zero_point_min, self.zero_point_max)


def quantized_cells(told: Quantization | None) -> tuple[Cell, ...]:
    """Return a row of the columns `QUANTIZED`, empty for what is not quantized."""
    if told is None:
        return ("",) * len(QUANTIZED)
    return (told.text, told.scale_text, told.zero_point_text, told.saturated_fraction, told.unused_codes)


def describe_codes(
    codes: Array,
    bits: int,
    scale: Array,
    zero_point: Array | None,
    *,
    axis: int,
    block: int,
    levels: Literal["", "fp4", "nf4"] = "",
) -> Quantization | None:
    """Say how codes stand for real numbers, and how many of them are used.

    Args:
        codes: Taken out of their bytes; integers, or floating-point numbers of few bits.
        bits: Of a code.
        scale: One, or one for each channel or block.
        zero_point: Likewise; None for zero.
        axis: Of the codes, along which scales differ.
        block: How many codes along the axis share a scale; 0 for all of a slice.
        levels: The table that the codes are places in, where they are that.

    Returns:
        None where there is no scale.
    """
    if not scale.size:
        return None
    zeros = np.zeros(1) if zero_point is None or not zero_point.size else zero_point.astype(np.float64)
    counts, numbers = _counts(codes, bits), _numbers(codes.dtype, bits, levels)
    is_integer = codes.dtype.kind in "iu" or "int" in codes.dtype.name
    middle = float(1 << bits - 1) if is_integer and not levels and numbers.min() == 0 else 0.0
    is_symmetric = bool((zeros == middle).all())
    saturated = unused = None
    if counts is not None:
        unused = int(np.count_nonzero(counts == 0))
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        if is_symmetric and low == -high - 1 and not counts[numbers == low].any():
            low = -high  # many quantizers leave the lowest code out, so that both ends are as far from zero
        if codes.size:
            saturated = float(counts[(numbers == low) | (numbers == high)].sum() / codes.size)
    elif codes.size:
        ends = np.iinfo(codes.dtype)
        saturated = float(np.count_nonzero((codes == ends.min) | (codes == ends.max)) / codes.size)
    has_axis = -codes.ndim <= axis < codes.ndim and scale.size == codes.shape[axis]
    if codes.ndim and not block and not has_axis and scale.size == len(codes) > 1:
        axis = 0  # by direction of a recurrent layer, or of a bias, whose quantizer names an axis that it has not
    granularity: Literal["tensor", "channel", "block"] = "tensor" if scale.size == 1 else "channel"
    if block:
        granularity = "block"
    ends_of = [float(end) for array in (scale, zeros) for end in (array.min(), array.max())]
    scale_min, scale_max, zero_point_min, zero_point_max = (end if math.isfinite(end) else None for end in ends_of)
    return Quantization(
        bits=bits,
        scheme="symmetric" if is_symmetric else "asymmetric",
        granularity=granularity,
        axis=axis % codes.ndim if granularity != "tensor" and codes.ndim else None,
        block_size=block or None,
        scale_min=scale_min,
        scale_max=scale_max,
        zero_point_min=zero_point_min,
        zero_point_max=zero_point_max,
        saturated_fraction=saturated,
        unused_codes=unused,
    )


def _counts(codes: Array, bits: int) -> NDArray[np.int64] | None:
    """How often each pattern of bits occurs, None for codes of too many."""
    if bits > _COUNTED_BITS:
        return None
    flat = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
    mask = (1 << bits) - 1
    counts = np.zeros(1 << bits, np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK] & mask, minlength=1 << bits)
    return counts


def _numbers(dtype: np.dtype[Any], bits: int, levels: str) -> NDArray[np.float64]:
    """The number that each pattern of bits is; NaN where it is none, or not finite."""
    if bits > _COUNTED_BITS:
        return np.array([float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)])
    if levels:
        return np.array(LEVELS[levels], np.float64)
    patterns = np.arange(1 << bits, dtype=np.uint8)
    if dtype.kind == "u" or "uint" in dtype.name:
        return patterns.astype(np.float64)
    if dtype.kind == "i" or "int" in dtype.name:
        half = 1 << bits - 1
        return (patterns.astype(np.float64) + half) % (1 << bits) - half
    values = patterns.view(dtype).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "not finite"
    return format_number(low) if low == high else f"{format_number(low)} to {format_number(high)}"
