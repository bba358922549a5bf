"""Read tables: the names of their columns, and columns by name, from text (`.csv`, `.tsv`) or from Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import counted, first_line, label
from onnxscope.errors import InputError

__all__ = ["MISSING", "Column", "Table", "open_table"]

Array = NDArray[Any]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
"""What stands in a cell of text without a value, in lower case."""

_SEPARATORS = (",", ";", "\t")
_PARQUET = b"PAR1"
_MAX_BYTES = 4 << 30  # of what is decoded
_INDEX = re.compile(r"__index_level_\d+__")  # what pandas writes beside the columns


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    Attributes:
        cells: What stands in the cells of a text; None where the table knows types.
        values: Booleans, integers of 64 bits, float64 or strings, of shape (rows,), or (rows, n) for lists of numbers.
        missing: Which rows have no value, None where all have one.
        decimal: What separates the fraction in the cells of a text.
    """

    cells: list[str] | None = None
    values: Array | None = None
    missing: NDArray[np.bool_] | None = None
    decimal: str = "."


@dataclass(frozen=True, eq=False)
class Table:
    """A table that is open, whose columns are read when they are asked for.

    Attributes:
        names: Of the columns, in order.
        column: Reads the one at a place.
    """

    names: list[str]
    column: Callable[[int], Column]


def open_table(stream: IO[bytes], where: str, *, header_alone: bool = False) -> Table:
    """Open a table.

    Args:
        stream: Parquet, or UTF-8 separated by commas, semicolons or tabs, whose first row names the columns unless it
            is numbers. With semicolons and tabs a comma may separate the fractions.
        where: Its printable name, for messages.
        header_alone: Whether only the names are wanted.

    Raises:
        InputError: It is no such table, has no rows, or two columns of one name; or it is Parquet, and pyarrow is not
            installed.
    """
    start = stream.read(4)
    stream.seek(0)
    table = (_parquet if start == _PARQUET else _text)(stream, where, header_alone)
    twice = next((name for name in table.names if table.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two columns are called {label(twice)!r}: {where}")
    return table


def _text(stream: IO[bytes], where: str, header_alone: bool) -> Table:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        first = text.readline()
        separator = max(_SEPARATORS, key=first.count)
        decimal = "." if separator == "," else ","
        rows = _rows(first, text, separator)
        names = next(rows, [])
        data = [names] if names and all(_is_number(name, decimal) for name in names) else []
        names = [str(place) for place in range(len(names))] if data else [name.strip() for name in names]
        found = [] if header_alone else [*data, *rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a table of text ({first_line(error)}): {where}", hint="write it as UTF-8") from error
    finally:
        text.detach()
    if not names or (not found and not header_alone):
        raise InputError(f"a table without {'rows' if names else 'columns'}: {where}")
    for number, row in enumerate(found, 1):
        if len(row) != len(names):
            raise InputError(f"row {number} has {counted(len(row), 'value')} for {len(names)} columns: {where}")
    return Table(names, lambda place: Column([row[place] for row in found], decimal=decimal))


def _rows(first: str, text: io.TextIOWrapper, separator: str) -> Iterator[list[str]]:
    """Rows with anything in them."""
    yield from (row for row in csv.reader([first], delimiter=separator) if row)
    yield from (row for row in csv.reader(text, delimiter=separator, strict=True) if row)


def _is_number(cell: str, decimal: str) -> bool:
    try:
        float(cell.replace(decimal, "."))
    except ValueError:
        return False
    return True


def _parquet(stream: IO[bytes], where: str, header_alone: bool) -> Table:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"Parquet is read by pyarrow, which is not installed: {where}",
            hint="`pip install 'onnxscope[tables]'`, or write the table as .csv",
        ) from error
    try:
        file = parquet.ParquetFile(stream)  # of an open file: a name could lead anywhere
        fields = [field for field in file.schema_arrow if not _INDEX.fullmatch(field.name)]
        rows = file.metadata.num_rows
        stored = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    except Exception as error:  # Arrow has errors of many kinds, and files may hold anything
        raise InputError(f"not a Parquet table, or a broken one ({first_line(error)}): {where}") from error
    if not fields or not (rows or header_alone):
        raise InputError(f"a table without {'rows' if fields else 'columns'}: {where}")
    if max(stored, rows * 8) > _MAX_BYTES:
        raise InputError(
            f"a column of {rows:,} rows is more than the {_MAX_BYTES:,} bytes that we read: {where}",
            hint="write the rows that are wanted as a table of their own",
        )

    def column(place: int) -> Column:
        name = fields[place].name
        called = f"the column {label(name)!r}: {where}"
        try:
            texts = [name] if _is_text(fields[place].type) else None
            read = parquet.ParquetFile(stream, read_dictionary=texts).read(columns=[name], use_threads=False)
            return _typed(read.column(0), called)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"not a Parquet table, or a broken one ({first_line(error)}): {called}") from error

    return Table([field.name for field in fields], column)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _typed(read: Any, called: str) -> Column:
    """A column of Arrow as numpy has it; categories are what they stand for."""
    import pyarrow
    from pyarrow import compute, types

    count, kind = len(read), read.type
    missing = None
    if read.null_count:
        missing = np.asarray(read.is_null(), dtype=np.bool_)
    if types.is_dictionary(kind):
        read, kind = read.unify_dictionaries().combine_chunks(), kind.value_type
        read = read.chunk(0) if isinstance(read, pyarrow.ChunkedArray) else read
        if _is_text(kind):
            longest = compute.max(compute.utf8_length(read.dictionary)).as_py() or 0
            if count * max(longest, 1) * 4 > _MAX_BYTES:
                raise InputError(f"strings of up to {longest:,} characters in {count:,} rows are too much: {called}")
        read = read.cast(kind)
    if _is_text(kind):
        return Column(values=np.array(read.fill_null("").to_pylist(), np.str_).reshape(count), missing=missing)
    if types.is_boolean(kind):
        return Column(values=_numbers(read.fill_null(False), np.bool_), missing=missing)
    if types.is_integer(kind):
        wide = np.uint64 if types.is_unsigned_integer(kind) else np.int64
        return Column(values=_numbers(read.fill_null(0), wide), missing=missing)
    if types.is_floating(kind) or types.is_decimal(kind):
        return Column(values=_numbers(read.cast(pyarrow.float64()), np.float64), missing=missing)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return Column(values=_lists(read, count, called))
    raise InputError(f"a column of {kind} holds no numbers and no strings: {called}", hint="write it as numbers")


def _numbers(read: Any, dtype: type) -> Array:
    return np.asarray(read).astype(dtype)


def _lists(read: Any, count: int, called: str) -> Array:
    """Lists of numbers, all of one length."""
    import pyarrow
    from pyarrow import compute

    lengths = compute.unique(compute.list_value_length(read)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise InputError(f"lists of several lengths are no numbers of an input: {called}")
    flat = _numbers(compute.list_flatten(read).cast(pyarrow.float64()), np.float64)
    return flat.reshape(count, lengths[0])
