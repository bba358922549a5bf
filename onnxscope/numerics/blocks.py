"""Arrays cut into blocks that are widened one at a time, so that memory stays bounded however large an array is.

The cut follows from the shape alone: whoever combines the blocks' results in their order gets the same bits on any
number of threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxscope.errors import InputError

__all__ = ["Index", "checked_array", "difference_of", "exceeds_float64", "row_blocks", "spans", "widened"]

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = tuple[slice, ...]

_BLOCK = 1 << 16  # elements: as float64 half of a 1 MB second-level cache; larger blocks measured no faster
_SPAN_BLOCKS = 16  # blocks in one task of a thread pool: about 3 ms of work against 30 us of hand-over
_EXACT = 1 << 53  # float64 holds no odd number beyond it
_ROWS = 1 << 20  # numbers of each side in a block of rows
_NARROW = frozenset(np.dtype(name) for name in ("bool", "int8", "uint8", "int16", "uint16", "float16", "float32"))


def checked_array(array: Array, channel_axis: int | None) -> tuple[Array, int | None]:
    """Return the array with at least one axis, as a plain ndarray, and its channel axis counted from the left.

    Raises:
        InputError: The elements are not real numbers, or the axis does not fit.
    """
    array = np.asarray(array)
    kind = array.dtype.kind
    if kind not in "biuf" and not (kind == "V" and array.dtype.type is not np.void):  # V: the types of ml_dtypes
        raise InputError(f"no statistics for elements of type {array.dtype}: an array of shape {array.shape}")
    if channel_axis is None:
        return np.atleast_1d(array), None
    if not -array.ndim <= channel_axis < array.ndim:
        raise InputError(f"no axis {channel_axis} for channels: an array of shape {array.shape}")
    return array, channel_axis % array.ndim


def spans(shape: tuple[int, ...]) -> Iterator[list[Index]]:
    """Cut an array of this shape into runs of blocks, in C order; nothing for an array without elements."""
    blocks = _blocks(shape)
    while span := list(itertools.islice(blocks, _SPAN_BLOCKS)):
        yield span


def _blocks(shape: tuple[int, ...]) -> Iterator[Index]:
    size = math.prod(shape)
    if 0 < size <= _BLOCK:
        yield tuple(slice(0, length) for length in shape)
    elif size:
        axis = next(i for i, length in enumerate(shape) if length > 1)
        length = shape[axis]
        pieces = -(-length // max(1, _BLOCK * length // size))
        for piece in range(pieces):  # of even length
            start, stop = piece * length // pieces, (piece + 1) * length // pieces
            for rest in _blocks((stop - start, *shape[axis + 1 :])):
                yield (
                    *(slice(0, 1) for _ in shape[:axis]),
                    slice(start + rest[0].start, start + rest[0].stop),
                    *rest[1:],
                )


def widened(block: Array) -> Array:
    """Return the block as float32 where that holds the element type exactly, else as float64; perhaps a view."""
    narrow = block.dtype in _NARROW or block.dtype.kind == "V"
    with np.errstate(invalid="ignore"):  # of a signalling NaN, which one bit makes of an infinity
        return block.astype(np.float32 if narrow else np.float64, copy=False)


def exceeds_float64(array: Array) -> bool:
    """Whether integers are among the elements that float64 would round."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or not array.size:
        return False
    return max(int(array.max()), -int(array.min())) > _EXACT


def difference_of(left: Array, right: Array) -> npt.NDArray[np.float64]:
    """Return `right - left` in float64: integers are subtracted before they are rounded."""
    rough = right.astype(np.float64)
    rough -= left
    if not (exceeds_float64(left) or exceeds_float64(right)) or not {left.dtype.kind, right.dtype.kind} <= set("iub"):
        return rough
    # Modulo 2**64, which is the difference itself where that is small.
    exact = (right.astype(np.uint64) - left.astype(np.uint64)).view(np.int64)
    return np.where(np.abs(rough) > _EXACT, rough, exact)


def row_blocks(x: Array, y: Array) -> Iterator[tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Cut two arrays of one shape into blocks of rows, each row what belongs to one place of the first axis.

    Returns:
        For each block the number of its first row, and both sides as new float64 arrays of shape (rows, elements).
    """
    if not x.ndim:
        x, y = x.reshape(1), y.reshape(1)
    rows = max(1, _ROWS // max(1, x.size // max(1, len(x))))
    for start in range(0, len(x), rows):
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            pieces = [side[start : start + rows].astype(np.float64) for side in (x, y)]
        left, right = (piece.reshape(len(piece), -1) for piece in pieces)
        yield start, left, right
