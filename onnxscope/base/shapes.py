"""Shapes with open dimensions: how they read in messages, and what an exporter's expression of sizes comes to."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from onnxscope.base.text import MAX_HINT, printable

__all__ = ["LARGEST_DIM", "Dim", "computed_size", "is_symbol", "shape_text", "spec_text", "takes_text", "terms_of"]

Dim = int | str | None
"""One dimension: its size, the name or the expression of a size that varies, None where nothing is known."""

LARGEST_DIM = 1 << 40
_LONGEST_EXPRESSION = 200  # characters; exporters write `batch*seq`, `past_len + 1`
_COMPUTED: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class _Spec(Protocol):
    """What is said of an input."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[Dim, ...] | None: ...


def shape_text(shape: Sequence[Dim] | None) -> str:
    """Return a shape for a message: `(batch, 3, 224, 224)`, with `?` for what is unknown."""
    if shape is None:
        return "of unknown rank"
    dims = ["?" if dim is None else printable(str(dim)) for dim in shape]
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"


def spec_text(spec: _Spec) -> str:
    """Return what an input takes, for a message: `float32 (batch, 3, 224, 224)`."""
    return f"{spec.dtype} {shape_text(spec.shape)}"


def takes_text(
    specs: Sequence[_Spec], bounds: Mapping[str, tuple[int, int]] | None = None, *, room: int = MAX_HINT
) -> str:
    """Return what a model takes, for a hint: its inputs with their types, shapes and ranges.

    Args:
        specs: The inputs.
        bounds: Ranges of whole numbers, by input; an end is not in its range.
        room: Characters; inputs beyond it are counted alone. A few are shown even where there is less.
    """
    shown: list[str] = []
    for spec in specs:
        limits = (bounds or {}).get(spec.name)
        inside = "" if limits is None else f" of {limits[0]} to {limits[1] - 1}"
        shown.append(f"{printable(spec.name)} {spec_text(spec)}{inside}")
        if sum(map(len, shown)) > max(room, 60) and len(shown) < len(specs):
            shown[-1:] = [f"and {len(specs) - len(shown) + 1} more"]
            break
    return ", ".join(shown)


def computed_size(dim: str, sizes: Mapping[str, int]) -> int | None:
    """Return what an exporter's expression of dimensions comes to: `past + sequence`, `batch*seq`, `s0//2`.

    Args:
        dim: The expression; a name alone is none.
        sizes: Of the dimensions that it names.

    Returns:
        A size from 0 up; None where it is no such expression, or a size is not known.
    """
    tree = _expression(dim)
    size = None if tree is None else _computed(tree, sizes)
    return size if size is not None and 0 <= size <= LARGEST_DIM else None


def terms_of(dim: str) -> frozenset[str]:
    """Return the names in an expression of dimensions; none where it is no expression."""
    tree = _expression(dim)
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)) if tree else frozenset()


def is_symbol(dim: int | str | None) -> bool:
    """Whether a dimension has a name that means one size wherever it stands: `?` means none."""
    return isinstance(dim, str) and any(map(str.isalnum, dim)) and not terms_of(dim)


def _expression(dim: str) -> ast.expr | None:
    try:
        tree = ast.parse(dim.strip(), mode="eval").body if len(dim) <= _LONGEST_EXPRESSION else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return None if isinstance(tree, ast.Name) else tree


def _computed(tree: ast.AST, sizes: Mapping[str, int]) -> int | None:
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id)
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    if isinstance(tree, ast.BinOp) and type(tree.op) in _COMPUTED:
        left, right = _computed(tree.left, sizes), _computed(tree.right, sizes)
        if left is None or right is None or (isinstance(tree.op, ast.FloorDiv) and not right):
            return None
        size = _COMPUTED[type(tree.op)](left, right)
        return size if 0 <= size <= LARGEST_DIM else None
    return None
