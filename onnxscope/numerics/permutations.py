"""Weights that hold the same numbers in another order: rows that changed places, kernels that were turned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.distances import difference
from onnxscope.numerics.hashes import row_hashes

__all__ = ["describe_permutation", "flattened_otherwise", "same_numbers"]

Array = NDArray[Any]
_SHOWN = 4  # channels that a message names


def same_numbers(x: Array, y: Array) -> bool:
    """Whether two weights hold the same numbers, in whatever order."""
    return bool(row_hashes(x.reshape(1, -1))[0] == row_hashes(y.reshape(1, -1))[0])


def describe_permutation(x: Array, y: Array) -> str | None:
    """How the same numbers are ordered otherwise, or None where they are not the same."""
    left, right = row_hashes(x), row_hashes(y)
    if np.array_equal(left, right):
        if x.ndim > 3 and x.shape[-1] == x.shape[-2] and difference(x, y.swapaxes(-1, -2)).equal:
            return "the kernels are transposed: height and width are exchanged"
        if x.ndim > 3 and difference(x, y[..., ::-1, ::-1]).equal:
            return "the kernels are turned by 180 degrees"
        return "the same numbers in every channel, in another order"
    if np.array_equal(np.sort(left), np.sort(right)):
        moved = np.flatnonzero(left != right)
        first = ", ".join(map(str, moved[:_SHOWN].tolist()))
        more = ", …" if len(moved) > _SHOWN else ""
        return f"{len(moved)} output channels have changed places: {first}{more}"
    if x.ndim == 2 and x.shape[0] == x.shape[1] and difference(x, y.T).equal:
        return "the matrix is transposed"
    return "the same numbers in another order" if left.sum() == right.sum() else None


def flattened_otherwise(x: Array, y: Array, channels: int) -> bool:
    """Whether `y` reads (height, width, channels) where `x` reads (channels, height, width), or the other way."""
    inner = x.shape[1] // channels
    if inner == 1:
        return False
    return any(
        difference(x, y.reshape(len(y), *order).swapaxes(1, 2).reshape(x.shape)).equal
        for order in ((inner, channels), (channels, inner))
    )
