"""Shapes that users give for a model's inputs: one, several by position, or by name, with element types."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from onnxscope.base.text import printable
from onnxscope.errors import ConversionError

__all__ = ["Dims", "GivenShapes", "InputShapes", "named_shapes", "read_shape", "shown_shape"]

Dims = tuple[int | None, ...]
"""The dimensions of one input; None stands for a dynamic one."""

InputShapes = tuple[tuple[str, Dims], ...]
"""Dimensions by an input's name, `""` for the next by position; a name may end with an element type, `ids:int64`."""

Shape = Sequence[int | None]
GivenShapes = Shape | Sequence[Shape | tuple[str, Shape]] | Mapping[str, Shape]
"""One shape, several by position or as pairs with a name, or a mapping by name."""


def named_shapes(given: GivenShapes) -> InputShapes:
    """Return shapes as `ConversionRequest` has them.

    Raises:
        ConversionError: A dimension is neither a number nor None.
    """
    if isinstance(given, Mapping):
        return tuple((name, _dims(shape)) for name, shape in given.items())
    several = isinstance(given, Sequence) and not isinstance(given, str)
    if several and all(isinstance(item, Sequence) for item in given):
        return tuple(_named(item) for item in given)
    return (("", _dims(given)),)


def read_shape(text: str, dims: Dims, dtypes: Collection[str], source: str) -> tuple[str, str]:
    """Return an input's name and its element type, each empty where it is not given.

    Args:
        text: The name as the user gave it, `ids`, `ids:int64` or `:int64`.
        dims: What was given with it.
        dtypes: The element types that there are.
        source: SOURCE as the user wrote it, for messages.

    Raises:
        ConversionError: A dimension is below 1, or there is no such element type.
    """
    name, _, dtype = text.partition(":")
    if any(dim is not None and dim < 1 for dim in dims):
        raise ConversionError(f"an input shape has a dimension below 1, {shown_shape(dims)}: {source}")
    if dtype and dtype not in dtypes:
        raise ConversionError(f"no element type named {dtype!r}: {source}", hint=f"one of {', '.join(dtypes)}")
    return name, dtype


def shown_shape(dims: Dims) -> str:
    """Return dimensions as people read them, `?` for a dynamic one."""
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _named(item: Any) -> tuple[str, Dims]:
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], str):
        return item[0], _dims(item[1])
    return "", _dims(item)


def _dims(shape: Any) -> Dims:
    try:
        return tuple(None if dim is None else operator.index(dim) for dim in shape)
    except TypeError as error:
        shown = printable(repr(shape))[:60]
        raise ConversionError(
            f"not a shape: {shown}", hint="whole numbers, and None for a dynamic dimension"
        ) from error
