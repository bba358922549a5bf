"""Other values: seeded random numbers, ones and zeros in the place of weights and inputs that may be private."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxscope.shrinking.case import Case, changed, copied, replace_tensor
from onnxscope.shrinking.search import Search

__all__ = ["count_original", "replace_values", "simplify_values"]

Array = np.ndarray[Any, Any]
_MOST_SIZES = 16  # elements of an initializer of integers that is about sizes and axes
_MOST_ELEMENTS = 1 << 26  # of a tensor that is replaced as a whole
_MOST_PIECES = 4096  # elements of which one by one are tried
_MOST_TRIALS_OF_PIECES = 120


def count_original(search_case: Case, arrays: Mapping[str, Array]) -> dict[str, int]:
    """How many values of each input and weight there are: sizes and axes are no weights."""
    return {name: int(array.size) for name, array in arrays.items() if _is_private(name, array, search_case)}


def replace_values(search: Search) -> bool:
    """Put seeded random numbers in the place of original values: everywhere, else value by value, else in part."""
    names = _private(search)
    if not names:
        return False
    arrays = _arrays(search, names)
    if search.first(_with(search, {name: make(name, arrays[name]) for name in names}) for make in _WHOLES):
        return True
    found = False
    for name in names:
        array = arrays[name]
        found |= search.first(_with(search, {name: make(name, array)}) for make in (*_WHOLES, _ones, _zeros))
    return found


def simplify_values(search: Search) -> None:
    """At the end: ones or zeros where they do as well, and seeded numbers for as many elements as possible."""
    for name, array in _arrays(search, [*_changeable(search)]).items():
        if array.size and not _is_flat(array):
            search.first(_with(search, {name: make(name, array)}) for make in (_ones, _zeros))
    for name, array in _arrays(search, _private(search)).items():
        if array.size <= _MOST_PIECES:
            _replace_pieces(search, name, array)
        search.keeps(_with(search, {name: _rounded(array)}, keep=True))


def _replace_pieces(search: Search, name: str, array: Array) -> None:
    """Replace as many elements of an array as the fault allows: halves, quarters, and so on."""
    made = _like(name, array)
    original = np.ones(array.size, bool)
    size, start_count = max(1, array.size // 2), search.bench.trials.count
    current = array.reshape(-1).copy()
    while True:
        for start in range(0, array.size, size):
            piece = slice(start, start + size)
            if not original[piece].any() or search.bench.trials.count - start_count > _MOST_TRIALS_OF_PIECES:
                continue
            trial = current.copy()
            trial[piece] = made.reshape(-1)[piece]
            left = original.copy()
            left[piece] = False
            if search.keeps(_with(search, {name: trial.reshape(array.shape)}, {name: int(left.sum())})):
                current, original = trial, left
        if size == 1:
            return
        size //= 2


def _with(
    search: Search, values: Mapping[str, Array], left: Mapping[str, int] | None = None, keep: bool = False
) -> Case:
    """The case with other values, of which so many are original."""
    proto, feeds = copied(search.case.proto), dict(search.case.feeds)
    for name, array in values.items():
        if name in feeds:
            feeds[name] = array
        else:
            replace_tensor(proto, name, array)
    counts = {} if keep else {name: (left or {}).get(name, 0) for name in values}
    return changed(search.case, proto, feeds, **counts)


def _private(search: Search) -> list[str]:
    return [name for name in _changeable(search) if search.case.original.get(name)]


def _changeable(search: Search) -> Iterator[str]:
    arrays = (name for name, value in search.case.feeds.items() if isinstance(value, np.ndarray))
    yield from (name for name in arrays if name not in search.fixed)
    for tensor in search.case.proto.graph.initializer:
        if tensor.name in search.fixed or int(np.prod(tensor.dims)) > _MOST_ELEMENTS:
            continue  # of what is too large for memory, fewer are tried first
        if tensor.data_type not in (6, 7, 9) or int(np.prod(tensor.dims)) > _MOST_SIZES:
            yield tensor.name


def _arrays(search: Search, names: list[str]) -> dict[str, Array]:
    stored = {tensor.name: tensor for tensor in search.case.proto.graph.initializer}
    arrays = {}
    for name in names:
        arrays[name] = search.case.feeds[name] if name in search.case.feeds else search.array(stored[name])
    return arrays


def _is_private(name: str, array: Array, case: Case) -> bool:
    kind, is_short = array.dtype.kind, array.size <= _MOST_SIZES
    if name in case.feeds or not is_short:
        return True
    return kind not in "iub" or (kind in "iu" and array.dtype.itemsize == 1)  # codes of quantized weights


def _plain(name: str, array: Array) -> Array:
    """Seeded numbers of no scale of their own: two decimals, which are short in a text."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if _is_float(array):
        return _as(np.round(random.standard_normal(array.shape), 2), array)
    return _like(name, array)


def _positive(name: str, array: Array) -> Array:
    """As variances and scales are."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if not _is_float(array) or not array.size or (_wide(array) < 0).any():
        return _plain(name, array)
    return _as(np.round(random.uniform(0.5, 1.5, array.shape), 2), array)


def _like(name: str, array: Array) -> Array:
    """Seeded numbers within the bounds of an array."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if array.dtype.kind in "OUS":
        return np.full(array.shape, "a", array.dtype if array.dtype.kind == "O" else object)
    if array.dtype.kind == "b" or not array.size:
        return np.asarray(random.integers(0, 2, array.shape)).astype(array.dtype)
    wide = _wide(array)
    finite = wide[np.isfinite(wide)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if array.dtype.kind in "iu":
        return _as(random.integers(int(low), int(high), array.shape, endpoint=True), array)
    return _as(_short(random.uniform(low, high, array.shape)), array)


def _scaled(name: str, array: Array) -> Array:
    """Seeded numbers as large as those of an array."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if not _is_float(array) or not array.size:
        return _like(name, array)
    wide = _wide(array)
    finite = wide[np.isfinite(wide)]
    mean, deviation = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 1.0)
    return _as(_short(mean + deviation * random.standard_normal(array.shape)), array)


def _ones(name: str, array: Array) -> Array:
    return np.full(array.shape, "a", object) if array.dtype.kind in "OUS" else _as(np.ones(array.shape), array)


def _zeros(name: str, array: Array) -> Array:
    return np.full(array.shape, "", object) if array.dtype.kind in "OUS" else _as(np.zeros(array.shape), array)


_WHOLES = (_plain, _positive, _scaled, _like)


def _rounded(array: Array) -> Array:
    return _as(_short(_wide(array)), array) if _is_float(array) else array


def _short(values: Any) -> Array:
    """Numbers of three digits."""
    wide = np.asarray(values, np.float64)
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log10(np.abs(np.where(wide == 0, 1, wide))))
        scale = 10.0 ** np.where(np.isfinite(exponent), 2 - exponent, 0)
        return np.asarray(np.where(np.isfinite(wide), np.round(wide * scale) / scale, wide))


def _as(values: Any, array: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(values).astype(array.dtype)).reshape(array.shape)


def _wide(array: Array) -> Array:
    return np.asarray(array.astype(np.complex128).real if array.dtype.kind == "c" else array.astype(np.float64))


def _is_float(array: Array) -> bool:
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" or "float" in array.dtype.name)


def _is_flat(array: Array) -> bool:
    """Whether every element is 0, or every one is 1."""
    if array.dtype.kind in "OUS":
        return False
    wide = _wide(array)
    return bool((wide == 0).all() or (wide == 1).all())
