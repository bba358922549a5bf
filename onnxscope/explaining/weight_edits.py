"""What a weight of the second model is of the first one's: transposed, in another order, rounded, missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxscope.explaining.edits import Edit, set_operands
from onnxscope.explaining.parameters import schema_for
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["relation", "weight_edits", "weight_of"]

Array = NDArray[np.generic]
_MOST_NUMBERS = 1 << 25
_WITH_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3, "LayerNormalization": 2}
_FEWEST_NUMBERS = 8  # fewer are in another order by chance


def weight_edits(models: tuple[Model, Model], left: Node, right: Node) -> Iterator[tuple[Edit, ...]]:
    """Yield the edits that give a node the first model's weights, where its own are these in another form.

    That is found out number by number, without a run: a weight that was changed otherwise gives no edit.

    Args:
        models: Both.
        left: The first model's node.
        right: The second model's, of the same operator, in the same place.
    """
    values: dict[int, NDArray[np.generic] | None] = {}
    says: list[str] = []
    names = _names(models[1], right)
    for position in range(max(len(left.inputs), len(right.inputs))):
        arrays = [
            weight_of(model, model.graphs[node.path], node.inputs[position] if position < len(node.inputs) else "")
            for model, node in zip(models, (left, right), strict=True)
        ]
        reads = [position < len(node.inputs) and bool(node.inputs[position]) for node in (left, right)]
        name = names[position] if position < len(names) else f"input {position}"
        if reads[0] != reads[1]:
            if _WITH_BIAS.get(right.op_type) != position or (reads[0] and arrays[0] is None):
                return
            values[position] = arrays[0]
            says.append(f"has no `{name}`" if reads[0] else f"has a `{name}` that A's has not")
            continue
        if arrays[0] is None or arrays[1] is None or _equal(arrays[0], arrays[1]):
            continue
        found = relation(arrays[0], arrays[1])
        if found is None:
            return
        values[position] = arrays[0]
        says.append(f"has its `{name}` {found}")
    if values and right.domain == left.domain:
        wanted = "with A's" if len(values) == 1 else "with A's in their place"
        yield (
            Edit(
                right, "weight", ", ".join(_of(names, values)), None, wanted, set_operands(values), " and ".join(says)
            ),
        )


def relation(a: Array, b: Array) -> str | None:
    """Say in words how the second of two arrays is made of the first; None where it is not."""
    if a.dtype != b.dtype or a.ndim < 1 or a.size != b.size or a.dtype.kind not in "fiu":
        return None
    if a.shape != b.shape or a.size < _FEWEST_NUMBERS or not np.any(a != a.reshape(-1)[0]):
        return None
    for order in itertools.permutations(range(a.ndim)) if a.ndim <= 5 else ():
        if (
            order != tuple(range(a.ndim))
            and a.transpose(order).shape == b.shape
            and np.array_equal(a.transpose(order), b)
        ):
            return f"transposed, its axes in the order {list(order)}" if a.ndim > 2 else "transposed"
    for axis in range(a.ndim):
        if np.array_equal(np.flip(a, axis), b):
            return f"reversed along axis {axis}"
    if a.ndim > 2 and np.array_equal(np.flip(a, tuple(range(2, a.ndim))), b):
        return "turned round: correlation and convolution are mistaken for each other"
    for axis in range(a.ndim):
        if _is_reordered(a, b, axis):
            return f"in another order along axis {axis}"
    if np.array_equal(-a.astype(np.float64), b.astype(np.float64)):
        return "negated"
    return _rounded(a, b) or (_in_proportion(a, b) if a.dtype.kind == "f" else None)


def _rounded(a: Array, b: Array) -> str | None:
    if a.dtype != np.float32:
        return None
    bits = np.ascontiguousarray(a).view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        if np.array_equal(a.astype(np.float16).astype(np.float32), b):
            return "rounded to float16"
    for name, lost in (("bfloat16", 16), ("tf32", 13)):
        half, odd = (1 << (lost - 1)) - 1, (bits >> np.uint64(lost)) & np.uint64(1)
        kept = ((bits + np.uint64(half) + odd) >> np.uint64(lost) << np.uint64(lost)).astype(np.uint32).view(np.float32)
        cut = (bits >> np.uint64(lost) << np.uint64(lost)).astype(np.uint32).view(np.float32)
        if np.array_equal(kept, b) or np.array_equal(cut, b):
            return f"rounded to {name}"
    return None


def _in_proportion(a: Array, b: Array) -> str | None:
    """One factor for all numbers is a mistake of scale; what is not exactly that is another weight."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.vdot(first, first))
    factor = float(np.vdot(first, second)) / norm if norm else 0.0
    far = np.abs(second - factor * first).max()
    if not factor or not far <= 4e-7 * np.abs(second).max():
        return None
    return f"multiplied by {factor:.6g}"


def _is_reordered(a: Array, b: Array, axis: int) -> bool:
    if a.shape[axis] < 2:
        return False
    rows = [sorted(np.ascontiguousarray(part).tobytes() for part in np.moveaxis(array, axis, 0)) for array in (a, b)]
    return rows[0] == rows[1]


def weight_of(model: Model, graph: Graph, name: str) -> Array | None:
    """Return a stored constant that a graph sees, None of what is computed, no number, or too large to look at."""
    stored = graph.stored(name) if name in graph.constants else None
    if stored is None or not stored.data_type or np.prod(stored.dims, dtype=np.int64) > _MOST_NUMBERS:
        return None
    array = model.array(stored)
    return array if array.dtype.kind in "fiu" or array.dtype.name == "bfloat16" else None


def _equal(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b))


def _names(model: Model, node: Node) -> list[str]:
    schema = schema_for(model, node)
    return [] if schema is None else [operand.name for operand in schema.inputs]


def _of(names: list[str], positions: dict[int, Array | None]) -> list[str]:
    return [names[place] if place < len(names) else f"input {place}" for place in positions]
