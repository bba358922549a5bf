"""Which inputs somebody's sources name: by keys, columns, members of archives and fields of rows; most name none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxscope.base.text import printable
from onnxscope.inputs.sources import NamedFiles, open_input, suffix_of, tensor_files
from onnxscope.inputs.table_files import TABLE_SUFFIXES
from onnxscope.readers.npy import map_npz
from onnxscope.readers.tables import open_table
from onnxscope.readers.tensor_files import map_safetensors
from onnxscope.readers.texts import index_lines, read_line, read_row

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["names_given"]


_AXES_OF_COLUMNS = 2  # what has more is not called by a column, even if one happens to have its name


def names_given(entries: Iterable[Any], specs: Sequence[InputSpec]) -> frozenset[str]:
    """Return the names that sources give to what is in them; an array, a picture, a sound or a text gives none.

    Args:
        entries: Of `gather`.
        specs: All inputs of the model: a folder of test data that has a file for each names them all.

    Raises:
        InputError: A file cannot be read.
    """
    return frozenset().union(*(_names(entry, specs) for entry in entries))


def _names(entry: Any, specs: Sequence[InputSpec]) -> Iterable[str]:
    if isinstance(entry, NamedFiles):
        return entry.paths
    if isinstance(entry, Mapping):
        return map(str, entry)
    if not isinstance(entry, str):
        return ()
    if os.path.isdir(entry):
        return [spec.name for spec in specs] if len(tensor_files(entry)) == len(specs) else ()
    return _names_in(entry, specs)


def _names_in(path: str, specs: Sequence[InputSpec]) -> Iterable[str]:
    suffix, where = suffix_of(path), printable(path)
    if suffix not in TABLE_SUFFIXES | {".npz", ".safetensors", ".jsonl"}:
        return ()
    members: list[str] = []

    def none_of(names: list[str]) -> Mapping[str, str]:
        members.extend(names)
        return {}

    with open_input(path) as stream:
        if suffix == ".jsonl":  # the first row says what the others are
            line = read_line(stream, index_lines(stream, where)[0], where)
            row = read_row(line, [spec.name for spec in specs], f"the first line of {where}")
            return row if isinstance(row, Mapping) else ()
        if suffix in TABLE_SUFFIXES:
            columns = open_table(stream, where, header_alone=True).names
            return {spec.name for spec in specs if len(spec.shape or ()) <= _AXES_OF_COLUMNS} & set(columns)
        (map_npz if suffix == ".npz" else map_safetensors)(stream, where, none_of)
    return members
