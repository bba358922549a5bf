"""Shorter dimensions: sides of one length are shortened together, in inputs, initializers, sizes and attributes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto

from onnxscope.shrinking.case import Case, bodies, changed, copied, replace_tensor
from onnxscope.shrinking.search import Search

__all__ = ["shorten_sides"]

Side = tuple[str, int]
"""A value's name and its axis."""
_SIZES = frozenset({"group", "hidden_size", "kv_num_heads", "num_groups", "num_heads", "num_outputs", "size", "shape"})
"""Attributes that hold sides of what a node reads or gives."""
_MOST_SIZES = 64  # elements of an initializer that may be a list of sizes
_INT64 = 7


@dataclass(frozen=True)
class _Cut:
    """How sides are shortened.

    Attributes:
        sides: Which ones; whether a side is so many pieces, each of which is shortened.
        length: Before.
        kept: From where to where.
        in_sizes: Whether attributes and lists of sizes that hold the length change too.
    """

    sides: Mapping[Side, int]
    length: int
    kept: slice
    in_sizes: bool

    @property
    def new(self) -> int:
        return int(self.kept.stop - self.kept.start)


def shorten_sides(search: Search) -> bool:
    """Shorten sides until none can be shortened any more.

    Returns:
        Whether one was.
    """
    found = any(search.keeps(case) for case in _shortest(search))
    for _ in range(8):
        lengths = sorted({length for length in _lengths(search).values() if length > 1}, reverse=True)
        again = False
        for length in lengths:
            while _shorten(search, length):
                again = True
        found |= again
        if not again or search.is_over:
            break
    return found


def _shortest(search: Search) -> Iterator[Case]:
    """Cases in which every side is 1, with sizes or as they are."""
    case = search.case
    sides = [length for length in _lengths(search).values() if length > 1]
    for in_sizes in (True, False) if sides else ():
        proto, counts = copied(case.proto), {}
        for tensor in case.proto.graph.initializer:
            array = search.array(tensor)
            is_list = tensor.data_type == _INT64 and array.size <= _MOST_SIZES
            new = np.minimum(array, 1) if is_list else _corner(array)
            if in_sizes or not is_list:
                replace_tensor(proto, tensor.name, new)
                counts[tensor.name] = _rest(case, tensor.name, new)
        feeds = {name: _corner(value) if isinstance(value, np.ndarray) else value for name, value in case.feeds.items()}
        counts |= {name: _rest(case, name, value) for name, value in feeds.items() if isinstance(value, np.ndarray)}
        yield changed(case, proto, feeds, **counts)


def _corner(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.array(array[(slice(0, 1),) * array.ndim])


def _shorten(search: Search, length: int) -> bool:
    """Shorten the sides of one length by one step."""
    sides = _lengths(search)
    for group in _groups(sides, length):
        for kept in _pieces(length):
            for in_sizes in (True, False):
                case = _cut(search, _Cut(group, length, kept, in_sizes))
                if case is not None and search.keeps(case):
                    return True
    return False


def _groups(sides: Mapping[Side, int], length: int) -> Iterator[dict[Side, int]]:
    """Sides that may belong together: all, those of the very length, those of a value, one by one, two by two."""
    exact = {side: 1 for side, other in sides.items() if other == length}
    if not exact:
        return
    seen: set[frozenset[tuple[Side, int]]] = set()
    multiples = {side: other // length for side, other in sides.items() if other % length == 0 and other > length}
    candidates = [exact]
    if multiples and length > 1:
        candidates.insert(0, {**exact, **multiples})
    by_axis: dict[int, dict[Side, int]] = defaultdict(dict)
    for side in exact:
        by_axis[side[1]][side] = 1
    candidates += [by_axis[axis] for axis in sorted(by_axis)]
    candidates += [{side: 1} for side in exact]
    if len(exact) <= 8:
        candidates += [dict.fromkeys(pair, 1) for pair in itertools.combinations(exact, 2)]
        candidates += [dict.fromkeys(rest, 1) for rest in itertools.combinations(exact, len(exact) - 1)]
    for group in candidates:
        known = frozenset(group.items())
        if group and known not in seen:
            seen.add(known)
            yield group


def _pieces(length: int) -> Iterator[slice]:
    seen = set()
    half = length // 2
    for start, stop in (
        *((0, 1), (0, 2), (0, half), (half, length), (length - 1, length)),
        *((0, 3 * length // 4), (length - 3 * length // 4, length), (0, length - 1), (1, length)),
    ):
        if 0 < stop - start < length and (start, stop) not in seen:
            seen.add((start, stop))
            yield slice(start, stop)


def _lengths(search: Search) -> dict[Side, int]:
    """Every side of an input or of an initializer."""
    sides: dict[Side, int] = {}
    for name, value in search.case.feeds.items():
        if isinstance(value, np.ndarray):
            sides.update(((name, axis), length) for axis, length in enumerate(value.shape))
    for tensor in search.case.proto.graph.initializer:
        sides.update(((tensor.name, axis), length) for axis, length in enumerate(tensor.dims))
    return sides


def _cut(search: Search, cut: _Cut) -> Case | None:
    case = search.case
    proto = copied(case.proto)
    feeds = dict(case.feeds)
    counts: dict[str, int] = {}
    axes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (name, axis), pieces in cut.sides.items():
        axes[name].append((axis, pieces))
    for tensor in case.proto.graph.initializer:
        if tensor.name in axes:
            array = _shortened(search.array(tensor), axes[tensor.name], cut)
            replace_tensor(proto, tensor.name, array)
            counts[tensor.name] = _rest(case, tensor.name, array)
        elif cut.in_sizes and tensor.data_type == _INT64 and int(np.prod(tensor.dims)) <= _MOST_SIZES:
            old = search.array(tensor)
            new = _sizes(old, cut)
            if (new != old).any():
                replace_tensor(proto, tensor.name, new)
    for name in axes:
        if name in feeds:
            feeds[name] = _shortened(feeds[name], axes[name], cut)
            counts[name] = _rest(case, name, feeds[name])
    if cut.in_sizes:
        changes = [_change_attributes(node, cut) for node in proto.graph.node]
        if not any(changes) and not _has_sizes(search, cut):
            return None  # the same as without
    return changed(case, proto, feeds, **counts)


def _rest(case: Case, name: str, array: np.ndarray[Any, Any]) -> int:
    return min(case.original.get(name, 0), int(array.size))


def _has_sizes(search: Search, cut: _Cut) -> bool:
    return any(
        tensor.data_type == _INT64
        and int(np.prod(tensor.dims)) <= _MOST_SIZES
        and (_sizes(search.array(tensor), cut) != search.array(tensor)).any()
        for tensor in search.case.proto.graph.initializer
    )


def _shortened(array: np.ndarray[Any, Any], axes: list[tuple[int, int]], cut: _Cut) -> np.ndarray[Any, Any]:
    for axis, pieces in axes:
        shape = array.shape
        split = array.reshape(*shape[:axis], pieces, cut.length, *shape[axis + 1 :])
        taken = split[(slice(None),) * (axis + 1) + (cut.kept,)]
        array = taken.reshape(*shape[:axis], pieces * cut.new, *shape[axis + 1 :])
    return np.array(array)


def _sizes(sizes: np.ndarray[Any, Any], cut: _Cut) -> np.ndarray[Any, Any]:
    """A list of sizes in which the length, and what holds it several times, is shorter."""
    new = sizes.copy()
    several = (sizes > 0) & (sizes % cut.length == 0)
    if all(pieces == 1 for pieces in cut.sides.values()):
        several = sizes == cut.length
    new[several] = sizes[several] // cut.length * cut.new
    return new


def _change_attributes(node: NodeProto, cut: _Cut) -> bool:
    is_changed = False
    for attribute in node.attribute:
        if attribute.name not in _SIZES:
            continue
        if attribute.type == AttributeProto.INT and attribute.i == cut.length:
            attribute.i = cut.new
            is_changed = True
        elif attribute.type == AttributeProto.INTS and cut.length in attribute.ints:
            attribute.ints[:] = [cut.new if one == cut.length else one for one in attribute.ints]
            is_changed = True
    for body in bodies(node):
        for inner in body.node:
            is_changed |= _change_attributes(inner, cut)
    return is_changed
