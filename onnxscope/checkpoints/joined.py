"""Several tensors of one file that are one tensor of the other: query, key and value, gates, heads in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.checkpoints.forms import same_bits
from onnxscope.checkpoints.sides import Tensor
from onnxscope.numerics.hashes import mix_bits, row_hashes

__all__ = ["Joined", "find_joined"]

Array = NDArray[Any]
_MOST_STARTS = 64  # of a run of rows, as zeros may be anywhere


@dataclass(frozen=True, eq=False)
class Joined:
    """One tensor and the parts that it is made of.

    Attributes:
        whole: The one.
        parts: The others, each with where it lies, in words.
    """

    whole: Tensor
    parts: tuple[tuple[Tensor, str], ...]


class _Index:
    """Where the rows of a tensor are, by their digests."""

    def __init__(self, digests: NDArray[np.uint64]) -> None:
        self._digests = digests
        self.places: dict[int, list[int]] = {}
        for place, digest in enumerate(digests.tolist()):
            self.places.setdefault(digest, []).append(place)

    def find(self, digests: NDArray[np.uint64], free: NDArray[np.bool_]) -> Array | None:
        """A free place for each digest: one behind the other where that is so, else the first ones; None for none."""
        count = len(digests)
        for start in self.places.get(int(digests[0]), ())[:_MOST_STARTS]:
            end = start + count
            if free[start:end].all() and np.array_equal(self._digests[start:end], digests):
                return np.arange(start, end)
        left = {digest: iter(self.places.get(digest, ())) for digest in digests.tolist()}
        found = [next((place for place in left[digest] if free[place]), None) for digest in digests.tolist()]
        return None if None in found else np.array(found)


def find_joined(whole: Tensor, candidates: Sequence[Tensor]) -> Joined | None:
    """Return the parts that a tensor is made of, to the bit, so that each of its rows is one of theirs.

    Args:
        whole: Of one file, without codes.
        candidates: Of the other, in the order in which parts are looked for.
    """
    values = whole.values
    if values is None or not values.ndim or whole.is_coded or values.size < 2:
        return None
    for axis in range(min(values.ndim, 2)):
        rows = np.moveaxis(values, axis, 0)
        index = _Index(_row_digests(rows))
        free = np.ones(len(rows), np.bool_)
        parts: list[tuple[Tensor, str]] = []
        for tensor in candidates:
            places = _places(tensor, rows, index, free)
            if places is not None:
                free[places] = False
                parts.append((tensor, _where(places, len(rows), axis)))
        if len(parts) > 1 and not free.any():
            return Joined(whole, tuple(parts))
    return None


def _places(tensor: Tensor, rows: Array, index: _Index, free: NDArray[np.bool_]) -> Array | None:
    """Which rows a part is; None where it is none."""
    values = tensor.values
    if values is None or tensor.is_coded or values.dtype != rows.dtype or values.ndim != rows.ndim:
        return None
    for turned in (values, values.T) if values.ndim == 2 else (values,):
        if turned.shape[1:] != rows.shape[1:] or not 0 < len(turned) < len(rows):
            continue
        if int(_row_digests(turned[:1])[0]) not in index.places:  # before all of them are hashed
            continue
        places = index.find(_row_digests(turned), free)
        if places is not None and same_bits(np.ascontiguousarray(turned), rows[places]):
            return places
    return None


def _row_digests(rows: Array) -> NDArray[np.uint64]:
    if rows.ndim > 1:
        return row_hashes(rows)
    with np.errstate(invalid="ignore"):
        return mix_bits((rows.astype(np.float64) + 0.0).view(np.uint64))


def _where(places: Array, count: int, axis: int) -> str:
    what = "rows" if axis == 0 else "columns"
    if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
        return f"{what} {places[0]} to {places[-1] + 1} of {count}"
    return f"{len(places)} of {count} {what}, first {', '.join(map(str, places[:4].tolist()))}"
