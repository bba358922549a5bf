"""Two weights of one shape, number by number: how they differ, and whether they hold the same numbers in another order.

Everything works in blocks of rows that are widened to float64, so that memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Difference",
    "describe_permutation",
    "difference",
    "flattened_otherwise",
    "row_blocks",
    "row_hashes",
    "same_numbers",
]

Array = NDArray[Any]
_BLOCK = 1 << 20  # numbers widened at a time
_SHOWN = 4  # channels that a message names


@dataclass
class Difference:
    """How two weights of one shape differ."""

    equal: bool = True
    largest: float | None = None
    relative: float | None = None
    channels: tuple[int, ...] = ()
    count: int = 0
    size: int = 0
    rows: int = 0

    def text(self) -> str:
        """In words: how much, how many numbers, in which channels."""
        if self.largest is None:
            much = "numbers that are not finite"
        else:
            much = f"largest difference {self.largest:.3g}"
        if self.relative is not None:
            much += f", relative {self.relative:.3g}"
        where = ""
        if 0 < len(self.channels) < self.rows:
            first = ", ".join(map(str, self.channels[:_SHOWN]))
            more = ", …" if len(self.channels) > _SHOWN else ""
            where = f", in {'channel' if len(self.channels) == 1 else 'channels'} {first}{more}"
        return f"{much}, {self.count:,} of {self.size:,} numbers{where}"


def difference(x: Array, y: Array, scale: Array | None = None, tolerance: float = 0.0) -> Difference:
    """Compare two weights of one shape.

    Args:
        x: The reference.
        y: Of the same shape.
        scale: What each row of `x` is multiplied by first.
        tolerance: What counts as equal, relative to the number, and to a tenth of the largest one of its row.
    """
    found = Difference(size=x.size, rows=len(x) if x.ndim else 1)
    if scale is None and _are_equal(x, y):
        return found
    largest = squares = 0.0
    channels: list[int] = []
    for start, left, right in row_blocks(x, y):
        if scale is not None:
            left = left * scale[start : start + len(left), None]
        with np.errstate(invalid="ignore", over="ignore"):
            gap = left - right
        np.abs(gap, out=gap)
        if np.isnan(gap.max(initial=0.0)):
            gap[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
        if tolerance:
            # In place: memory for each step would take longer than the step.
            allowed = np.maximum(np.abs(left, out=left), np.abs(right, out=right), out=left)
            allowed += 0.1 * allowed.max(axis=1, keepdims=True, initial=0.0)
            allowed *= tolerance
            gap[gap <= allowed] = 0.0
        gap[np.isnan(gap)] = np.inf
        changed = gap > 0
        if not changed.any():
            continue
        found.count += int(np.count_nonzero(changed))
        channels += [start + int(row) for row in np.flatnonzero(changed.any(axis=1))]
        largest = max(largest, float(gap.max(initial=0.0)))
        squares += float(np.sum(np.square(gap)))
    found.equal = found.count == 0
    found.channels = tuple(channels)
    if not found.equal and math.isfinite(largest):
        reference = _squares(x, scale)
        found.largest = largest
        found.relative = math.sqrt(squares / reference) if reference and math.isfinite(squares) else None
    return found


def _squares(x: Array, scale: Array | None) -> float:
    """The sum of the squares of finite numbers."""
    total = 0.0
    for start, block, _ in row_blocks(x, x):
        if scale is not None:
            block = block * scale[start : start + len(block), None]
        with np.errstate(over="ignore"):
            total += float(np.sum(np.square(block), where=np.isfinite(block)))
    return total


def _are_equal(x: Array, y: Array) -> bool:
    """Whether all numbers are equal as they are stored; none of them is widened."""
    if not x.ndim:
        return bool(x == y)
    rows = max(1, _BLOCK * len(x) // max(1, x.size))
    starts = range(0, len(x), rows)
    return all(np.array_equal(x[start : start + rows], y[start : start + rows]) for start in starts)


def row_blocks(x: Array, y: Array) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    if not x.ndim:
        x, y = x.reshape(1), y.reshape(1)
    rows = max(1, _BLOCK // max(1, x.size // max(1, len(x))))
    if x.ndim == 1:
        rows = _BLOCK
    for start in range(0, len(x), rows):
        pieces = (each[start : start + rows].astype(np.float64) for each in (x, y))
        left, right = (piece.reshape(len(piece), -1) for piece in pieces)
        yield start, left, right


def row_hashes(values: Array) -> NDArray[np.uint64]:
    """For each output channel a hash of its numbers that does not depend on their order.

    References:
        Clarke et al., "Incremental Multiset Hash Functions", 2003: the sum of the hashes of the members.
    """
    rows = []
    if values.ndim < 2:
        values = values.reshape(1, -1)
    for _, block, _ in row_blocks(values, values):
        bits = (block + 0.0).view(np.uint64)  # -0 becomes 0
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finalizer
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        rows.append((bits ^ (bits >> np.uint64(31))).sum(axis=1, dtype=np.uint64))
    return np.concatenate(rows) if rows else np.zeros(0, np.uint64)


def same_numbers(x: Array, y: Array) -> bool:
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
