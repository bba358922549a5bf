"""What exporters write around constant shapes, computed by numpy: no session is opened for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxscope.model.graphs import Node

__all__ = ["LARGEST", "OPERATORS", "fold"]

Array = NDArray[Any]
_Operands = Sequence[Array | None]
LARGEST = 64
"""Numbers of an operand, or of a result."""


def fold(node: Node, operands: _Operands) -> Array | None:
    """Return what one of `OPERATORS` gives for small operands, None where it takes more than numpy to tell.

    Args:
        node: Of ONNX's own operator set, of any version.
        operands: Its inputs, None for one that is left out.
    """
    given = [operand for operand in operands if operand is not None]
    if not given or operands[0] is None or any(one.size > LARGEST or one.dtype.kind not in "biuf" for one in given):
        return None
    try:
        result = OPERATORS[node.op_type](node, operands)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # numpy does not know what onnxruntime would make of it
    return result if result is not None and result.size <= LARGEST else None


def _reshape(node: Node, operands: _Operands) -> Array | None:
    sides = _numbers(node, operands, 1, "shape")
    if sides is None or 0 in sides:
        return None
    return _first(operands).reshape(sides)


def _concat(node: Node, operands: _Operands) -> Array | None:
    parts = [operand for operand in operands if operand is not None]
    if len({part.dtype for part in parts}) > 1 or len(parts) < len(operands) or node.attribute("axis") is None:
        return None
    return np.concatenate(parts, axis=int(node.attribute("axis")))


def _cast(node: Node, operands: _Operands) -> Array | None:
    values = _first(operands)
    target = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attribute("to")))
    if target.kind not in "biuf":
        return None
    if target.kind in "iu":
        limits = np.iinfo(target)
        # What lies beyond an integer's range is undefined.
        if not all(limits.min <= float(number) <= limits.max for number in values.ravel()):
            return None
    with np.errstate(over="ignore"):
        return values.astype(target)


def _squeeze(node: Node, operands: _Operands) -> Array | None:
    axes = _numbers(node, operands, 1, "axes")
    return np.squeeze(_first(operands), None if axes is None else tuple(axes))


def _unsqueeze(node: Node, operands: _Operands) -> Array | None:
    axes = _numbers(node, operands, 1, "axes")
    return None if axes is None else np.expand_dims(_first(operands), tuple(axes))


def _gather(node: Node, operands: _Operands) -> Array | None:
    places = operands[1]
    if places is None or places.dtype.kind not in "iu":
        return None
    return np.asarray(np.take(_first(operands), places, axis=int(node.attribute("axis") or 0)))


def _slice(node: Node, operands: _Operands) -> Array | None:
    values = _first(operands)
    starts, ends = (_numbers(node, operands, place, name) for place, name in ((1, "starts"), (2, "ends")))
    if starts is None or ends is None:
        return None
    axes = _numbers(node, operands, 3, "axes")
    axes = list(range(len(starts))) if axes is None else axes
    steps = _numbers(node, operands, 4, "steps") or [1] * len(starts)
    parts = [slice(None)] * values.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(start, end, step)
    return values[tuple(parts)]


def _first(operands: _Operands) -> Array:
    values = operands[0]
    assert values is not None  # `fold` has seen to it
    return values


def _numbers(node: Node, operands: _Operands, place: int, attribute: str) -> list[int] | None:
    """Whole numbers that are an operand in later versions of an operator, and an attribute in earlier ones."""
    operand = operands[place] if place < len(operands) else None
    if operand is None:
        stored = node.attribute(attribute)
        return None if stored is None else [int(number) for number in stored]
    if operand.dtype.kind not in "iu" or operand.ndim > 1:
        raise ValueError(attribute)
    return [int(number) for number in operand.ravel()]


OPERATORS: Mapping[str, Callable[[Node, _Operands], Array | None]] = {
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""By operator, what it gives for arrays of plain numbers."""
