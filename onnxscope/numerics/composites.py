"""Values that are no tensors of numbers: strings, sequences, optionals and maps, taken apart into what they hold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.blocks import exceeds_float64

__all__ = ["Contents", "contents_of"]

_SHOWN = 60  # characters of a text that a message names


@dataclass(frozen=True, eq=False)
class Contents:
    """What a value holds.

    Attributes:
        form: How it is built: lengths of sequences, keys of maps, shapes of tensors and whether they hold numbers.
        numbers: float64 of one axis: all numbers in order, the real parts before the imaginary ones.
        texts: All strings in order, and integers that float64 would round, written out.
    """

    form: Hashable
    numbers: NDArray[np.float64]
    texts: tuple[str, ...]

    def difference_in_kind(self, other: Contents) -> str | None:
        """Say how another value differs otherwise than in its numbers; None where it does not."""
        if self.form != other.form:
            return f"{_described(self.form)} against {_described(other.form)}"
        pairs = [(mine, theirs) for mine, theirs in zip(self.texts, other.texts, strict=True) if mine != theirs]
        if not pairs:
            return None
        before, after = (text[:_SHOWN] for text in pairs[0])
        return f"{len(pairs):,} of {len(self.texts):,} strings differ, the first: {before!r} became {after!r}"


def contents_of(value: Any) -> Contents:
    """Take a value apart.

    Args:
        value: As onnxruntime gives it: an array of any element type, a list, a mapping, None or a scalar.
    """
    numbers: list[NDArray[np.float64]] = []
    texts: list[str] = []
    form = _form(value, numbers, texts)
    return Contents(form, np.concatenate(numbers) if numbers else np.zeros(0), tuple(texts))


def _form(value: Any, numbers: list[NDArray[np.float64]], texts: list[str]) -> Hashable:
    if value is None:
        return ("nothing",)
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: (isinstance(key, str), key))
        return ("map", tuple(keys), tuple(_form(value[key], numbers, texts) for key in keys))
    if isinstance(value, (list, tuple)):
        return ("sequence", tuple(_form(item, numbers, texts) for item in value))
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        texts += [text.decode(errors="replace") if isinstance(text, bytes) else f"{text}" for text in array.flat]
        return ("strings", array.shape)
    if array.dtype.kind == "c":
        numbers += [array.real.astype(np.float64).reshape(-1), array.imag.astype(np.float64).reshape(-1)]
        return ("complex numbers", array.shape)
    if exceeds_float64(array):
        texts += map(str, array.flat)
        return ("long integers", array.shape)
    numbers.append(array.astype(np.float64).reshape(-1))
    return ("numbers", array.shape)


def _described(form: Hashable) -> str:
    assert isinstance(form, tuple)
    kind, *parts = form
    if kind == "map":
        return f"a map of {len(parts[0]):,} keys"
    if kind == "sequence":
        return f"a sequence of {len(parts[0]):,}"
    return kind if kind == "nothing" else f"{kind} of shape {list(parts[0])}"
