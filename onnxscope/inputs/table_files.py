"""Tables become arrays: columns by the names of a model's inputs, or one matrix together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.shapes import spec_text
from onnxscope.base.text import counted, label, printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type
from onnxscope.readers.tables import MISSING, Column, open_table

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["TABLE_SUFFIXES", "read_table", "unused_columns"]

Array = NDArray[Any]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".pq"})
_EMPTY, _ABSENT = "an empty cell", "a missing value"
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_table(stream: IO[bytes], where: str, specs: Sequence[InputSpec]) -> dict[str, Array]:
    """Read each input's columns from an open table, whose rows are samples.

    An input that is called like a column takes that column. One further input, a matrix, takes all other columns in
    their order, of which there must be as many as it is wide; lists of numbers count as so many columns. A missing
    value (an empty cell, NA, null) is NaN, or an empty string.

    Args:
        stream: As for `open_table`.
        where: Its printable name, for messages.
        specs: The model's inputs.

    Returns:
        New arrays of the inputs' types, with the samples along axis 0.

    Raises:
        InputError: It is no such table, columns and inputs do not fit, or a value is none of the input's type.
    """
    table = open_table(stream, where)
    names = table.names
    columns = {spec.name: [names.index(spec.name)] for spec in specs if spec.name in names}
    others = [spec for spec in specs if spec.name not in columns]
    if len(others) > 1 or (others and not _is_matrix(others[0])):
        shown = ", ".join(map(label, names[:8])) + (", …" if len(names) > 8 else "")
        missing = [spec for spec in others if not _is_matrix(spec)] or others
        raise InputError(
            f"no column for the input {missing[0].name!r}: {where}",
            hint=f"an input takes the column of its name, one matrix all others; the columns: {shown}",
        )
    taken = {place for places in columns.values() for place in places}
    for spec in others:
        columns[spec.name] = [place for place in range(len(names)) if place not in taken]
    arrays = {}
    for spec in specs:
        made = [_column(table.column(place), spec, names[place], where) for place in columns[spec.name]]
        if len(spec.shape or (0, 0)) == 2:
            made = [np.concatenate([one if one.ndim == 2 else one[:, None] for one in made], axis=1)] if made else []
        _check_width(spec, made[0].shape[1:] if made else (0,), where)
        dtype = element_type(spec)
        arrays[spec.name] = made[0] if dtype.kind == "U" else made[0].astype(dtype)
    return arrays


def _check_width(spec: InputSpec, shape: tuple[int, ...], where: str) -> None:
    """Hold the columns of an input to its width."""
    wanted = (spec.shape or ())[1:]
    if (
        shape == (0,)
        or len(shape) != len(wanted)
        or any(isinstance(a, int) and a != b for a, b in zip(wanted, shape, strict=True))
    ):
        columns = counted(wanted[0], "column") if wanted and isinstance(wanted[0], int) else "columns"
        count = shape[0] if shape else 1
        raise InputError(
            f"input {spec.name!r} takes {columns}, and {count} are there: {where}",
            hint="give a table of those columns alone, in the model's order: the rows have no label and no number",
        )


def unused_columns(stream: IO[bytes], where: str, specs: Sequence[InputSpec]) -> list[str]:
    """Return the columns that no input takes.

    Raises:
        InputError: It is no table.
    """
    names = open_table(stream, where, header_alone=True).names
    inputs = {spec.name for spec in specs}
    return [] if inputs - set(names) else [printable(name) for name in names if name not in inputs]


def _is_matrix(spec: InputSpec) -> bool:
    return spec.shape is not None and len(spec.shape) == 2 and spec.shape[1] != 1


def _column(column: Column, spec: InputSpec, name: str, where: str) -> Array:
    """One column in a type that holds its input's numbers."""
    dtype = element_type(spec)
    if spec.shape is None or len(spec.shape) not in (1, 2):
        raise InputError(f"no column becomes {spec_text(spec)}: input {spec.name!r}: {where}")
    if column.cells is None:
        return _typed(column, dtype, spec, name, where)
    if dtype.kind == "U":
        return np.array(["" if cell.strip().lower() in MISSING else cell for cell in column.cells], np.str_)
    values = []
    for number, cell in enumerate(column.cells, 1):
        try:
            values.append(_value(cell.strip(), dtype, column.decimal))
        except (ValueError, KeyError, OverflowError):
            shown = _EMPTY if not cell.strip() else f"{cell[:40]!r}"
            raise _wrong(number, name, shown, spec, where) from None
    return np.array(values, np.float64 if dtype.kind not in "iub" else dtype)


def _typed(column: Column, dtype: np.dtype[Any], spec: InputSpec, name: str, where: str) -> Array:
    """A column whose type the table knows."""
    values, missing = column.values, column.missing
    assert values is not None
    wrong: Any = np.zeros(len(values), np.bool_)
    if (dtype.kind == "U") != (values.dtype.kind == "U") and not (dtype.kind == "U" and values.dtype.kind in "iu"):
        kind = "strings" if values.dtype.kind == "U" else "numbers"
        raise InputError(
            f"the column {label(name)!r} holds {kind}, and {spec.dtype} is wanted: {where}",
            hint="write the column as the model takes it",
        )
    if dtype.kind == "U":
        texts = values.astype(np.str_)
        return texts if missing is None else np.where(missing, "", texts)
    if dtype.kind in "iub":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        wrong = (values < low) | (values > high)
        if values.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                wrong |= values != np.rint(values)
        wrong = wrong if missing is None else wrong | missing
        wrong = wrong.reshape(len(wrong), -1).any(axis=1)
    if wrong.any():
        place = int(np.argmax(wrong))
        absent = missing is not None and missing[place]
        raise _wrong(place + 1, name, _ABSENT if absent else str(values[place])[:40], spec, where)
    if dtype.kind in "iub":
        return values.astype(dtype)
    real = values.astype(np.float64)
    return real if missing is None or real.ndim > 1 else np.where(missing, np.nan, real)


def _wrong(number: int, name: str, shown: str, spec: InputSpec, where: str) -> InputError:
    missing = shown in (_EMPTY, _ABSENT)
    return InputError(
        f"row {number} of the column {label(name)!r} is {shown}, and {spec.dtype} is wanted: {where}",
        hint=f"{'where a value is missing' if missing else 'for words'}, write the number that the model was taught",
    )


def _value(cell: str, dtype: np.dtype[Any], decimal: str) -> Any:
    if dtype.kind == "b":
        return _FLAGS[cell.lower()]
    if cell.lower() in ("true", "false"):
        return int(_FLAGS[cell.lower()])
    if dtype.kind in "iu":
        value = int(cell) if cell.lstrip("+-").isdecimal() else float(cell.replace(decimal, "."))
        if value != int(value) or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            raise ValueError(cell)
        return int(value)
    return float("nan") if cell.lower() in MISSING else float(cell.replace(decimal, "."))
