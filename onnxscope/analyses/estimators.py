"""What trees, linear models and support vectors hold, whose numbers lie in attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxscope.model.graphs import Node

__all__ = ["Estimator", "describe_estimator"]

_LEAF = b"LEAF"
_MEMBER = 6  # a mode of TreeEnsemble that compares with a set, in place of a threshold


@dataclass(frozen=True)
class Estimator:
    """A node that holds what it has learned in its attributes.

    Attributes:
        trees: How many trees it has; None for one without trees, as are the next three.
        depth: Most comparisons on the way from a root to a leaf.
        leaves: Leaves of all trees.
        features: How many features are compared with a threshold.
        numbers: How many numbers each kind of attribute holds, by its word: `thresholds`, `coefficients`, …
        ranges: Smallest and largest of each kind; of thresholds those that are compared with.
        size_bytes: What these numbers take.
    """

    trees: int | None
    depth: int | None
    leaves: int | None
    features: int | None
    numbers: Mapping[str, int]
    ranges: Mapping[str, tuple[float, float]]
    size_bytes: int

    def text(self) -> str:
        """All of it in one line."""
        parts = []
        if self.trees is not None:
            parts = [
                f"{self.trees:,} trees",
                f"depth {self.depth}",
                f"{self.leaves:,} leaves",
                f"{self.features} features",
            ]
        for word, count in self.numbers.items():
            low, high = self.ranges.get(word, (None, None))
            counted = "" if self.trees is not None else f"{count:,} "
            parts.append(f"{counted}{word}" + ("" if low is None else f" {low:.4g} to {high:.4g}"))
        return ", ".join(parts)


def describe_estimator(node: Node) -> Estimator | None:
    """Return what a node's attributes hold that was learned, None where its operator has no such attributes."""
    if not node.operator.holds:
        return None
    held = dict(_held(node))
    trees = _Trees.of(node)
    if trees is not None and trees.thresholds is not None:
        held["thresholds"] = trees.thresholds
    finite = {word: array[np.isfinite(array)] for word, array in held.items()}
    return Estimator(
        trees=None if trees is None else trees.count,
        depth=None if trees is None else trees.depth,
        leaves=None if trees is None else trees.leaves,
        features=None if trees is None else trees.features,
        numbers={word: array.size for word, array in held.items()},
        ranges={word: (float(array.min()), float(array.max())) for word, array in finite.items() if array.size},
        size_bytes=sum(array.size * array.itemsize for _, array in _held(node)),
    )


def _held(node: Node) -> Iterable[tuple[str, np.ndarray[Any, Any]]]:
    """What each kind of attribute holds; a kind that lies in two attributes comes as one."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, word in node.operator.holds.items():
        array = _array(node, name)
        if array.size:
            found.setdefault(word, []).append(array.ravel())
    return [(word, np.concatenate(arrays)) for word, arrays in found.items()]


def _array(node: Node, name: str) -> np.ndarray[Any, Any]:
    value = node.attribute(name)
    if isinstance(value, TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return np.array(value, object)
    return np.array(value or [], np.float32 if value and isinstance(value[0], float) else np.int64)


@dataclass(frozen=True)
class _Trees:
    count: int
    depth: int
    leaves: int
    features: int
    thresholds: np.ndarray[Any, Any] | None

    @classmethod
    def of(cls, node: Node) -> _Trees | None:
        """Read the trees of a node; None where it has none, or none that hang together."""
        try:
            if node.attribute("tree_roots") is not None:
                return cls._by_roots(node)
            return cls._by_ids(node) if node.attribute("nodes_treeids") is not None else None
        except (ValueError, IndexError, KeyError, TypeError):  # lists of different lengths, children that are missing
            return None

    @classmethod
    def _by_ids(cls, node: Node) -> _Trees:
        trees, ids = (_array(node, f"nodes_{name}").tolist() for name in ("treeids", "nodeids"))
        yes, no = (_array(node, f"nodes_{name}nodeids").tolist() for name in ("true", "false"))
        is_leaf = _array(node, "nodes_modes") == _LEAF
        place = {key: index for index, key in enumerate(zip(trees, ids, strict=True))}
        children = {
            index: () if is_leaf[index] else (place[trees[index], yes[index]], place[trees[index], no[index]])
            for index in place.values()
        }
        below = {child for pair in children.values() for child in pair}
        values = _array(node, "nodes_values_as_tensor")
        values = values if values.size else _array(node, "nodes_values")
        return cls(
            count=len(set(trees)),
            depth=_depth(children, [index for index in children if index not in below]),
            leaves=int(is_leaf.sum()),
            features=len(np.unique(_array(node, "nodes_featureids")[~is_leaf])),
            thresholds=values[~is_leaf] if values.size else None,
        )

    @classmethod
    def _by_roots(cls, node: Node) -> _Trees:
        roots = _array(node, "tree_roots").tolist()
        sides = [
            (_array(node, f"nodes_{side}nodeids").tolist(), _array(node, f"nodes_{side}leafs").tolist())
            for side in ("true", "false")
        ]
        children = {
            index: tuple(ids[index] for ids, leafs in sides if not leafs[index]) for index in range(len(sides[0][0]))
        }
        leaves = {ids[index] for ids, leafs in sides for index in range(len(ids)) if leafs[index]}
        compares = _array(node, "nodes_modes") != _MEMBER
        return cls(
            count=len(roots),
            depth=_depth(children, roots) + 1,
            leaves=len(leaves),
            features=len(np.unique(_array(node, "nodes_featureids"))),
            thresholds=_array(node, "nodes_splits")[compares],
        )


def _depth(children: Mapping[int, tuple[int, ...]], roots: Iterable[int]) -> int:
    """The most steps from a root; no way is longer than there are nodes, whatever a file says."""
    level, depth = set(roots), 0
    while level and depth <= len(children):
        level = {child for index in level for child in children[index]}
        depth += bool(level)
    return depth
