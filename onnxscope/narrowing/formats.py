"""What is left of numbers in a narrower format: simulated in float64, as real numbers.

Whole numbers are `scale * (code - zero point)`, with a scale for a tensor, each channel, or each block
of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["BLOCK", "FORMATS", "Format", "Scheme", "find_formats", "narrow_values", "narrow_weight", "scheme_of"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Scheme = Literal["tensor", "channel", "block"]

BLOCK = 32
"""Numbers of a block, as onnxruntime's four-bit quantizer has them."""


@dataclass(frozen=True)
class Format:
    """A narrower format.

    Attributes:
        name: What it is called.
        bits: Of a number.
        dtype: The floating-point type, None of whole numbers.
        symmetric: Of whole numbers, whether those of a weight are as many below zero as above, with zero point 0.
        scaled: Whether the largest magnitude is scaled to the format's largest number.
    """

    name: str
    bits: int
    dtype: np.dtype[Any] | None = None
    symmetric: bool = True
    scaled: bool = True

    @property
    def is_coherent(self) -> bool:
        """Whether errors of so few bits follow the values, so that no noise stands for them."""
        return self.dtype is None and self.bits <= _FEW_BITS


_FEW_BITS = 4

FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("int8", 8),
        Format("uint8", 8, symmetric=False),
        Format("int6", 6),
        Format("int4", 4),
        Format("uint4", 4, symmetric=False),
        Format("float16", 16, np.dtype(np.float16), scaled=False),
        Format("bfloat16", 16, np.dtype(ml_dtypes.bfloat16), scaled=False),
        Format("fp8", 8, np.dtype(ml_dtypes.float8_e4m3fn)),
        Format("fp8_e5m2", 8, np.dtype(ml_dtypes.float8_e5m2)),
    )
}
_LARGEST = {"fp8": 448.0, "fp8_e5m2": 57344.0}
"""The largest numbers of the formats, by their definitions."""
_OTHER_NAMES = {"fp16": "float16", "bf16": "bfloat16", "float8": "fp8", "fp8_e4m3": "fp8", "float8e4m3fn": "fp8"}


def find_formats(names: str | Sequence[str]) -> tuple[Format, ...]:
    """Return formats by their names, each once.

    Raises:
        InputError: There is none of a name.
    """
    given = [names] if isinstance(names, str) else list(names)
    found = {}
    for name in (part for text in given for part in text.split(",")):
        known = _OTHER_NAMES.get(name, name)
        if known not in FORMATS:
            raise InputError(f"no format is called '{printable(name)}'", hint=f"one of {', '.join(FORMATS)}")
        found[known] = FORMATS[known]
    if not found:
        raise InputError("no format is named", hint=f"one of {', '.join(FORMATS)}")
    return tuple(found.values())


def scheme_of(form: Format, asked: Scheme | None) -> Scheme | None:
    """What shares a scale in a weight: what was asked for, else blocks of four bits and tensors of more.

    Returns:
        None of a format without scales.

    Raises:
        InputError: There is no such scheme.
    """
    if asked is not None and asked not in get_args(Scheme):
        raise InputError(f"unknown scheme {asked!r}", hint=f"one of {', '.join(get_args(Scheme))}")
    if not form.scaled:
        return None
    return asked or ("block" if form.is_coherent else "tensor")


def narrow_weight(values: Array, form: Format, scheme: Scheme | None, channel_axis: int | None) -> Floats:
    """Return what a format leaves of a weight.

    Args:
        values: Real numbers.
        form: The format; symmetric whole numbers of `b` bits are in `[-(2^(b-1) - 1), 2^(b-1) - 1]`, and the largest
            magnitude is the largest code.
        scheme: What shares a scale: the tensor, a channel, or `BLOCK` numbers of a channel, its axes laid out in order.
        channel_axis: That of the output channels; None makes one channel of everything.

    Returns:
        Of the same shape.
    """
    exact = np.asarray(values).astype(np.float64)
    if scheme is None or scheme == "tensor" or not exact.size:
        return _between(exact, form, exact.min(initial=0.0), exact.max(initial=0.0), form.symmetric)
    first = exact[None] if channel_axis is None else np.moveaxis(exact, channel_axis, 0)
    rows = first.reshape(len(first), -1)
    length = rows.shape[1]
    block = length if scheme == "channel" else min(BLOCK, length)
    blocks = np.pad(rows, ((0, 0), (0, -length % block))).reshape(len(rows), -1, block)
    low, high = blocks.min(axis=2, keepdims=True), blocks.max(axis=2, keepdims=True)
    narrowed = _between(blocks, form, low, high, form.symmetric).reshape(len(rows), -1)[:, :length].reshape(first.shape)
    return np.ascontiguousarray(narrowed[0] if channel_axis is None else np.moveaxis(narrowed, 0, channel_axis))


def narrow_values(values: Array, form: Format, low: float, high: float) -> Floats:
    """Return what a format leaves of activations; what lies outside the range is clipped to it.

    Args:
        values: Real numbers.
        form: The format; codes of whole numbers are used from the least to the largest number, 0 among them.
        low: The least number that it holds.
        high: The largest one.
    """
    return _between(np.asarray(values).astype(np.float64), form, np.float64(low), np.float64(high), symmetric=False)


def _between(values: Floats, form: Format, low: Any, high: Any, symmetric: bool) -> Floats:
    """Narrow numbers to what a range holds; `low` and `high` go with them as numpy broadcasts."""
    with np.errstate(over="ignore", invalid="ignore"):
        if form.dtype is not None and not form.scaled:
            return values.astype(form.dtype).astype(np.float64)
        largest = np.maximum(np.abs(low), np.abs(high))
        if form.dtype is not None:
            top = _LARGEST[form.name]
            scale = _scale(largest, top)
            return np.clip(values / scale, -top, top).astype(form.dtype).astype(np.float64) * scale
        if symmetric:
            most = 2 ** (form.bits - 1) - 1
            scale = _scale(largest, most)
            symmetric_codes: Floats = np.clip(np.rint(values / scale), -most, most)
            return symmetric_codes * scale
        least, most = np.minimum(low, 0.0), 2**form.bits - 1
        # Codes are computed in float32 by whoever uses them, which decides where numbers lie halfway between two codes:
        # all pixels of -1 to 1 do in a range of -1 to 1.
        scale = _scale(np.maximum(high, 0.0) - least, most, np.float32)
        zero = np.rint(np.float32(-least) / scale)
        codes = np.clip(np.rint(values.astype(np.float32) / scale) + zero, 0, most)
        narrowed: Floats = (codes - zero).astype(np.float64) * scale
        return narrowed


def _scale(span: Any, codes: float, dtype: type[np.floating[Any]] = np.float64) -> Array:
    """Of a span of numbers over so many codes; 1 where there is nothing but zeros."""
    scale = (np.asarray(span, np.float64) / codes).astype(dtype)
    return np.where((scale > 0) & np.isfinite(scale), scale, dtype(1.0))
