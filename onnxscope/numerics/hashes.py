"""Hashes of numbers: arrays that hold the same ones are found without comparing every pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.blocks import row_blocks

__all__ = ["content_hash", "mix_bits", "row_hashes"]


def mix_bits(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all 64: the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def row_hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    """For each row of the first axis a hash of its numbers that does not depend on their order.

    Args:
        values: Of real numbers; one with fewer than two axes is a single row.

    References:
        Clarke et al., "Incremental Multiset Hash Functions", 2003: the sum of the hashes of the members.
    """
    if values.ndim < 2:
        values = values.reshape(1, -1)
    hashes = [np.zeros(0, np.uint64)]
    for _, block, _ in row_blocks(values, values):
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            bits = (block + 0.0).view(np.uint64)  # -0 becomes 0
        hashes.append(mix_bits(bits).sum(axis=1, dtype=np.uint64))
    return np.concatenate(hashes)


def content_hash(values: NDArray[Any]) -> str | None:
    """A digest of the numbers in an array that does not depend on their order; None for fewer than two."""
    if values.size < 2 or values.dtype.kind in "OUSc":
        return None
    return f"{int(row_hashes(values).sum(dtype=np.uint64)):016x}"
