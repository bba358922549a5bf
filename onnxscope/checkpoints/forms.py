"""The same numbers in another form: another element type, axes, shape or order, or codes that they were rounded to."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import shape_text
from onnxscope.checkpoints.sides import Tensor
from onnxscope.numerics.distances import Difference, decibels, difference
from onnxscope.numerics.permutations import describe_permutation, flattened_otherwise, same_numbers
from onnxscope.runtime.stored_values import Levels

__all__ = ["Form", "beyond_codes", "form_of", "quantized_form", "same_bits"]

Array = NDArray[Any]
_BLOCK = 1 << 20  # numbers compared at a time
_MOST_AXES = 5  # whose 120 orders are tried


@dataclass(frozen=True)
class Form:
    """How one tensor became another.

    Attributes:
        change: `equal`, `cast`, `transposed`, `reshaped`, `permuted`, `quantized`, `folded`, `changed`, …
        message: In words; empty where there is nothing to add.
        counts: Whether it makes the files differ.
        seen: How far apart the numbers are, where that says anything.
        is_direct: Whether the two tensors themselves are compared, and not what one was computed from.
    """

    change: str
    message: str
    counts: bool = False
    seen: Difference | None = None
    is_direct: bool = False


def same_bits(x: Array, y: Array) -> bool:
    """Whether two arrays have one shape and element type, and the same bits in every place."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not x.ndim:
        return x.tobytes() == y.tobytes()
    kind = np.dtype(f"u{x.dtype.itemsize}")
    rows = max(1, _BLOCK * len(x) // max(1, x.size))
    return all(
        np.array_equal(x[start : start + rows].view(kind), y[start : start + rows].view(kind))
        for start in range(0, len(x), rows)
    )


def form_of(x: Tensor, y: Tensor, *, in_any_order: bool = True) -> Form | None:
    """Return how the numbers of one tensor are those of another, to the bit; None where they are not.

    Neither is one whose values are codes.

    Args:
        x: Of the first file.
        y: Of the second.
        in_any_order: Whether to look for numbers that changed places, for which all of them are hashed.
    """
    left, right = x.values, y.values
    if left is None or right is None or left.size != right.size or y.is_coded != x.is_coded:
        return None
    cast = "" if left.dtype == right.dtype else f"{x.stored} became {y.stored}"
    if cast:
        sides = _in_one_type(left, right)
        if sides is None:
            return None
        left, right = sides
    if same_bits(left, right):
        return Form("cast", cast) if cast else Form("equal", "" if x.name == y.name else f"{x.name} is called {y.name}")
    also = f", {cast}" if cast else ""
    if 1 < left.ndim == right.ndim <= _MOST_AXES:
        for axes in itertools.permutations(range(left.ndim)):
            if same_bits(left.transpose(axes), right):
                return Form("transposed", f"axes in the order {list(axes)}{also}")
    if same_bits(left.reshape(-1), right.reshape(-1)):
        return Form("reshaped", f"{_text(left.shape)} became {_text(right.shape)}, the same numbers{also}")
    if left.size < 2 or not in_any_order or not same_numbers(left, right):
        return None
    if left.shape == right.shape and difference(left, right).equal:
        return None  # in place, but for the signs of zeros or the bits of NaN
    return _in_another_order(left, right, also)


def may_be_one(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of one size hold the same numbers, in whatever order, in the narrower of their types."""
    left, right = x.values, y.values
    if left is None or right is None:
        return False
    if left.size < 2:
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if left.dtype != right.dtype and (left.dtype.kind in "iub" or right.dtype.kind in "iub"):
        return left.dtype.kind in "iu" and right.dtype.kind in "iu" and bool(np.array_equal(left, right))
    narrow = x.stored if left.dtype.itemsize <= right.dtype.itemsize else y.stored
    digest = x.content(narrow)
    return digest is not None and digest == y.content(narrow)


def _in_another_order(left: Array, right: Array, also: str) -> Form:
    """What is said of the same numbers in other places."""
    for turned in (right, right.T) if left.ndim == right.ndim == 2 else ():
        if left.shape == turned.shape:
            channels = _layout(left, turned)
            if channels:
                message = f"the same numbers, with the inputs in the order of the other layout ({channels} channels)"
                return Form("permuted", message + also)
    if left.shape == right.shape:
        order = describe_permutation(left, right) if left.ndim > 1 else None
        seen = difference(left, right)
        return Form("permuted", (order or "the same numbers in another order") + also, counts=True, seen=seen)
    message = f"{_text(left.shape)} became {_text(right.shape)}, the same numbers in another order{also}"
    return Form("permuted", message, counts=True)


def _layout(left: Array, right: Array) -> int:
    """The channels of the picture that both flatten, in one of two layouts; 0 where that is not what they do."""
    columns = left.shape[1]
    first = left[:1]
    for channels in range(2, columns // 2 + 1):
        if columns % channels or not flattened_otherwise(first, right[:1], channels):
            continue
        if flattened_otherwise(left, right, channels):
            return channels
    return 0


def _in_one_type(left: Array, right: Array) -> tuple[Array, Array] | None:
    """Both in the narrower of two element types, where numbers of both kinds can be compared so."""
    if left.dtype.kind == "b" or right.dtype.kind == "b" or (left.dtype.kind in "iu") != (right.dtype.kind in "iu"):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if left.dtype.itemsize > right.dtype.itemsize:
            return left.astype(right.dtype), right
        return left, right.astype(left.dtype)


def quantized_form(x: Tensor, y: Tensor, expected: Array | None = None, *, folding: str = "") -> Form | None:
    """Return how one tensor was rounded to the codes of another; None where hardly any code is the nearest.

    Args:
        x: Of real numbers.
        y: Of codes.
        expected: What `y` stands for before rounding, in its shape; None: the values of `x`, in whichever order of
            axes.
        folding: How `expected` was computed, in words.
    """
    levels, values = y.levels, x.values if expected is None else expected
    if levels is None or values is None or values.size != y.size or x.is_coded:
        return None
    for axes in itertools.permutations(range(values.ndim)) if values.ndim <= _MOST_AXES else ():
        turned = values.transpose(axes)
        if turned.shape != y.shape:
            continue
        if turned.size > _BLOCK >> 4 and not _first_rows_fit(turned, levels):
            continue
        off = beyond_codes(turned, levels, 1e-5 if folding else 0.0)
        if folding and off.any() and np.count_nonzero(off) * 8 > off.size:
            continue
        if np.count_nonzero(off) * 8 > max(off.size, 8):
            continue
        seen = difference(turned, y.values) if y.values is not None else Difference()
        order = "" if list(axes) == sorted(axes) else f", axes in the order {list(axes)}"
        ratio = decibels(seen.relative)
        noise = "" if ratio is None else f", signal-to-noise {ratio:.1f} dB"
        text = f"{folding + ', ' if folding else ''}stored as {y.stored} codes{order}{noise}"
        if off.any():
            count = int(np.count_nonzero(off))
            places = np.argwhere(off)[:1].tolist()[0] if off.ndim else []
            text += (
                f"; {count:,} of {off.size:,} codes {'is' if count == 1 else 'are'} not the nearest, first at {places}"
            )
        return Form("changed" if off.any() else "quantized", text, counts=bool(off.any()), seen=seen)
    return None


def _first_rows_fit(expected: Array, levels: Levels) -> bool:
    """Whether most codes of the first and of the last row are the nearest: what is cheap to tell."""
    for rows in (slice(0, 1), slice(-1, None)):
        parts = (levels.codes[rows], levels.step[rows], levels.lowest[rows], levels.highest[rows])
        if np.count_nonzero(beyond_codes(expected[rows], Levels(*parts), 1e-5)) * 2 <= expected[rows].size:
            return True
    return False


def beyond_codes(expected: Array, levels: Levels, slack: float) -> NDArray[np.bool_]:
    """Where a code is not the nearest to the number that it was made of.

    Args:
        expected: The numbers, in the shape of the codes.
        levels: The codes.
        slack: What the numbers may be off by, relative, beside float32's rounding.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = expected.astype(np.float64) / levels.step
    # The quantizer divides in float32, whose rounding moves a number near the middle to the other side.
    allowed = 0.5 + 1e-4 + (2.5e-7 + slack) * np.abs(levels.codes)
    gap = ratio - levels.codes
    fine = (np.abs(gap) <= allowed) | (levels.highest & (gap > 0)) | (levels.lowest & (gap < 0))
    fine |= (levels.step == 0) & (levels.codes == 0)
    return np.asarray(~fine)


def _text(shape: tuple[int, ...]) -> str:
    return shape_text(shape)
