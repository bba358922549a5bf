"""Real numbers behind integers: codes taken out of bytes, and `(code - zero_point) * scale` in all granularities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVELS", "dequantized", "of_levels", "unpacked"]

Array = NDArray[Any]

# Of the 4-bit types of bitsandbytes, by code; 1 is the largest magnitude of a block.
_NORMAL = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FLOATS = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
LEVELS = {"fp4": (*_FLOATS, *(-level for level in _FLOATS)), "nf4": _NORMAL}
"""The numbers behind the 4-bit types of bitsandbytes, by code."""


def unpacked(stored: Array, bits: int, length: int) -> Array:
    """Take codes of few bits out of bytes, the lowest bits first.

    Args:
        stored: Bytes, `uint8`; codes run along the last axis, which they may cross a byte in.
        bits: Of a code: 1 to 8.
        length: How many codes there are along the last axis; what is left over is padding.

    Returns:
        The codes, `uint8`, with `length` along the last axis.
    """
    if bits == 8:
        return stored[..., :length]
    if 8 % bits == 0:
        parts = [(stored >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        return np.stack(parts, axis=-1).reshape(*stored.shape[:-1], -1)[..., :length]
    single = np.unpackbits(stored, axis=-1, bitorder="little")[..., : length * bits]
    weights = (1 << np.arange(bits)).astype(np.uint8)
    codes: Array = (single.reshape(*single.shape[:-1], length, bits) * weights).sum(axis=-1, dtype=np.uint8)
    return codes


def dequantized(codes: Array, scale: Array, zero_point: Array | None, axis: int, block: int) -> NDArray[np.float32]:
    """Return the real numbers that codes stand for: `(code - zero_point) * scale`.

    Args:
        codes: Of any type of integers, or floating-point numbers of few bits.
        scale: One, one for each index along `axis`, one for each block along it, or of a shape that numpy broadcasts.
        zero_point: Of the same shape as the scale, or one; None for zero.
        axis: Of the codes.
        block: How many codes along the axis share a scale; 0 for all of a slice.

    Returns:
        float32, in the shape of the codes.

    Raises:
        ValueError: The shapes do not fit.
    """
    wide = np.float64 if codes.dtype.itemsize > 2 else np.float32  # 32 bits are more than float32 holds
    values: Array = codes.astype(wide)
    if zero_point is not None:
        values = values - _spread(zero_point.astype(wide), codes.shape, axis, block)
    return (values * _spread(scale.astype(wide), codes.shape, axis, block)).astype(np.float32, copy=False)


def of_levels(codes: Array, scale: Array, block: int, *, normal: bool) -> NDArray[np.float32]:
    """Return the real numbers behind the 4-bit types of bitsandbytes: a level of a table, times its block's magnitude.

    Args:
        codes: In one row.
        scale: The largest magnitude of each block.
        block: How many codes are one.
        normal: Whether the levels are those of NF4, else of FP4.
    """
    table = np.array(LEVELS["nf4" if normal else "fp4"], np.float32)
    scales = np.repeat(scale.reshape(-1).astype(np.float32), block)[: codes.size]
    return table[codes] * scales


def _spread(numbers: Array, shape: Sequence[int], axis: int, block: int) -> Array:
    """Scales or zero points in a shape that broadcasts over the codes."""
    if numbers.size == 1:
        return numbers.reshape(())
    if not shape:
        raise ValueError(f"{numbers.size} scales for one number")
    axis %= len(shape)
    if block:
        blocks = -(-shape[axis] // block)
        grid = (*shape[:axis], blocks, *shape[axis + 1 :])
        if numbers.size != math.prod(grid):
            raise ValueError(f"scales {list(numbers.shape)} for blocks of {block} in {list(shape)}")
        return np.repeat(numbers.reshape(grid), block, axis=axis).take(range(shape[axis]), axis)
    if numbers.size == shape[axis]:
        return numbers.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    if numbers.ndim < len(shape) and numbers.size == shape[0]:
        return numbers.reshape(-1, *[1] * (len(shape) - 1))
    if numbers.ndim == 2 and numbers.shape == (shape[0], shape[axis]):  # by direction and output
        return numbers.reshape([length if place in (0, axis) else 1 for place, length in enumerate(shape)])
    if np.broadcast_shapes(numbers.shape, tuple(shape)) != tuple(shape):
        raise ValueError(f"scales {list(numbers.shape)} for {list(shape)}")
    return numbers
