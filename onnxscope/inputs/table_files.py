"""Read tables, `.csv` and `.tsv`: columns become arrays by the names of a model's inputs, or one matrix together."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import counted, first_line, label, printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type, spec_text

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["TABLE_SUFFIXES", "read_table", "unused_columns"]

Array = NDArray[Any]

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
_SEPARATORS = (",", ";", "\t")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def read_table(stream: IO[bytes], where: str, specs: Sequence[InputSpec]) -> dict[str, Array]:
    """Read each input's columns from an open table, whose rows are samples.

    An input that is called like a column takes that column. One further input, a matrix, takes all other columns in
    their order, of which there must be as many as it is wide. A missing value (an empty cell, NA, null) is NaN, or an
    empty string.

    Args:
        stream: UTF-8, separated by commas, semicolons or tabs. The first row names the columns, unless it is numbers.
        where: Its printable name, for messages.
        specs: The model's inputs.

    Returns:
        New arrays of the inputs' types, with the samples along axis 0.

    Raises:
        InputError: It is no such table, columns and inputs do not fit, or a value is none of the input's type.
    """
    names, rows = _read(stream, where)
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
        width = (spec.shape or ())[1]
        if isinstance(width, int) and width != len(columns[spec.name]):
            raise InputError(
                f"input {spec.name!r} takes {width} columns, and {len(columns[spec.name])} are there: {where}",
                hint="give a table of those columns alone, in the model's order: the rows have no label and no number",
            )
    arrays = {}
    for spec in specs:
        made = [_column([row[place] for row in rows], spec, names[place], where) for place in columns[spec.name]]
        dtype = element_type(spec)
        joined = np.stack(made, axis=1) if len(spec.shape or (0, 0)) == 2 else made[0]
        arrays[spec.name] = joined if dtype.kind == "U" else joined.astype(dtype)
    return arrays


def unused_columns(stream: IO[bytes], where: str, specs: Sequence[InputSpec]) -> list[str]:
    """Return the columns that no input takes.

    Raises:
        InputError: It is no table.
    """
    names, _ = _read(stream, where, header_alone=True)
    inputs = {spec.name for spec in specs}
    return [] if inputs - set(names) else [printable(name) for name in names if name not in inputs]


def _read(stream: IO[bytes], where: str, *, header_alone: bool = False) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        rows = _rows(text)
        names = next(rows, [])
        first = [] if not names or not all(map(_is_number, names)) else [names]
        names = [str(place) for place in range(len(names))] if first else [name.strip() for name in names]
        found = [] if header_alone else [*first, *rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a table of text ({first_line(error)}): {where}", hint="write it as UTF-8") from error
    finally:
        text.detach()
    if not names or (not found and not header_alone):
        raise InputError(f"a table without {'rows' if names else 'columns'}: {where}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two columns are called '{label(twice)}': {where}")
    for number, row in enumerate(found, 1):
        if len(row) != len(names):
            raise InputError(f"row {number} has {counted(len(row), 'value')} for {len(names)} columns: {where}")
    return names, found


def _rows(text: io.TextIOWrapper) -> Iterator[list[str]]:
    """Rows with anything in them; the first line shows what separates them."""
    first = text.readline()
    separator = max(_SEPARATORS, key=first.count)
    yield from (row for row in csv.reader([first], delimiter=separator) if row)
    yield from (row for row in csv.reader(text, delimiter=separator, strict=True) if row)


def _is_matrix(spec: InputSpec) -> bool:
    return spec.shape is not None and len(spec.shape) == 2 and spec.shape[1] != 1


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(cells: Sequence[str], spec: InputSpec, name: str, where: str) -> Array:
    """One column in a type that holds its input's numbers."""
    dtype = element_type(spec)
    if spec.shape is None or len(spec.shape) not in (1, 2):
        raise InputError(f"no column becomes {spec_text(spec)}: input {spec.name!r}: {where}")
    if dtype.kind == "U":
        return np.array(["" if cell.strip().lower() in _MISSING else cell for cell in cells], np.str_)
    values = []
    for number, cell in enumerate(cells, 1):
        try:
            values.append(_value(cell.strip(), dtype))
        except (ValueError, KeyError, OverflowError):
            shown = "an empty cell" if not cell.strip() else f"{cell[:40]!r}"
            raise InputError(
                f"row {number} of the column '{label(name)}' is {shown}, and {spec.dtype} is wanted: {where}",
                hint="where a value is missing, write the number that the model was taught for it",
            ) from None
    return np.array(values, np.float64 if dtype.kind not in "iub" else dtype)


def _value(cell: str, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return _FLAGS[cell.lower()]
    if dtype.kind in "iu":
        value = int(cell) if cell.lstrip("+-").isdecimal() else float(cell)
        if value != int(value) or not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            raise ValueError(cell)
        return int(value)
    return float("nan") if cell.lower() in _MISSING else float(cell)
