"""Read `.safetensors` files and onnx's `.pb` tensors: headers are checked against the file first."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError

__all__ = ["TensorPlace", "map_safetensors", "read_pb", "tensor_places"]

Array = NDArray[Any]

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_MAX_HEADER_BYTES = 100 << 20  # as the library that writes these files has it
_MAX_TENSOR_BYTES = 1 << 31  # protobuf reads no longer message
_BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32} | {
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of every element type that the library that writes these files knows."""


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor of a `.safetensors` file lies.

    Attributes:
        name: Its name.
        dtype: Its element type, as the format calls it: `F32`, `BF16`, …
        shape: Its sides.
        offset: Of its first byte, from the start of the file.
        size_bytes: How many bytes it takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def tensor_places(stream: IO[bytes], where: str) -> list[TensorPlace]:
    """Read where the tensors of an open `.safetensors` file lie, in the order of its header.

    Args:
        stream: The file, at its start.
        where: Its printable name, for messages.

    Raises:
        InputError: A broken header, an unknown element type, or tensors that are not where it says, or lie in one
            another.
    """
    rows, start, size_bytes = _header(stream, where)
    places = [
        _place(name, row, start, size_bytes, f"tensor '{printable(name)}': {where}") for name, row in rows.items()
    ]
    taken = sorted((place for place in places if place.size_bytes), key=lambda place: place.offset)
    for left, right in pairwise(taken):
        if left.offset + left.size_bytes > right.offset:
            names = f"'{printable(left.name)}' and '{printable(right.name)}' lie in one another"
            raise InputError(f"not a .safetensors file, or a broken one ({names}): {where}")
    return places


def map_safetensors(
    stream: IO[bytes], where: str, choose: Callable[[list[str]], Mapping[str, str]]
) -> dict[str, Array]:
    """Map arrays of an open `.safetensors` file, read-only; they outlive the stream.

    Args:
        stream: The file.
        where: Its printable name, for messages.
        choose: Given the names in the file, says by result which to read, or raises.

    Returns:
        The arrays chosen, by result.

    Raises:
        InputError: A broken header, or tensors that are not where it says.
    """
    tensors, start, size_bytes = _header(stream, where)
    chosen = choose(list(tensors))
    return {
        result: _mapped(stream, tensors[name], start, size_bytes, f"tensor '{printable(name)}': {where}")
        for result, name in chosen.items()
    }


def read_pb(stream: IO[bytes], where: str) -> Array:
    """Read the tensor of an open `.pb` file, as onnx's `test_data_set` folders hold them.

    Raises:
        InputError: It holds no tensor, or one that lies in another file or contradicts itself.
    """
    from onnx import TensorProto, numpy_helper

    size_bytes = os.fstat(stream.fileno()).st_size
    if size_bytes >= _MAX_TENSOR_BYTES:
        raise InputError(f"a tensor of {size_bytes:,} bytes is more than onnx reads: {where}", hint="give a .npy")
    tensor = TensorProto()
    try:
        tensor.ParseFromString(stream.read())
        if tensor.data_location == TensorProto.EXTERNAL or not tensor.data_type or any(d < 0 for d in tensor.dims):
            raise ValueError("no tensor in it, or one in another file")
        stored = sum(len(getattr(tensor, field)) for field in _FIELDS)
        if math.prod(tensor.dims) > 4 * stored:  # of which the smallest has two elements a byte
            raise ValueError(f"{list(tensor.dims)} numbers are not there")
        array = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # protobuf's DecodeError, whose class depends on its back end, and what onnx makes of it
        hint = "sequences and optionals cannot be given as files; `input_0.pb` holds a TensorProto"
        raise InputError(f"no tensor of onnx ({first_line(error)}): {where}", hint=hint) from error
    if array.dtype.kind in "OS":
        array = np.array([_text(item) for item in array.reshape(-1)], dtype=np.str_).reshape(array.shape)
    return array


_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _text(item: Any) -> str:
    return item.decode("utf-8", errors="replace") if isinstance(item, bytes) else str(item)


def _header(stream: IO[bytes], where: str) -> tuple[dict[str, Any], int, int]:
    """The rows of a header by the tensors' names, where the bytes behind it start, and the size of the file."""
    size_bytes = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if size_bytes < 8 or length > min(size_bytes - 8, _MAX_HEADER_BYTES):
        raise InputError(f"not a .safetensors file, or a broken one: {where}")
    try:
        header = json.loads(stream.read(length), object_pairs_hook=_once)
        rows = {name: row for name, row in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"not a .safetensors file, or a broken one ({first_line(error)}): {where}") from error
    return rows, 8 + length, size_bytes


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON in which no name stands twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"'{printable(name)}' stands in it twice")
        found[name] = value
    return found


def _place(name: str, row: Any, start: int, end: int, where: str) -> TensorPlace:
    """Where one tensor lies, as its row of the header says and the file can hold."""
    try:
        kind, shape = row["dtype"], tuple(row["shape"])
        first, last = row["data_offsets"]
        if not isinstance(kind, str) or kind not in _BITS:
            raise ValueError(f"unknown element type '{printable(str(kind))[:40]}'")
        if any(type(number) is not int or number < 0 for number in (*shape, first, last)) or start + last > end:
            raise ValueError("no such place in the file")
        if math.prod(shape) * _BITS[kind] != 8 * (last - first):
            raise ValueError(f"{list(shape)} numbers of {kind} do not take {last - first:,} bytes")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a .safetensors file, or a broken one ({first_line(error)}): {where}") from error
    return TensorPlace(name, kind, shape, start + first, last - first)


def _mapped(stream: IO[bytes], row: Any, start: int, end: int, where: str) -> Array:
    """One tensor, where its row of the header says that it is."""
    if isinstance(row, dict) and row.get("dtype") in ("BF16", "F8_E4M3", "F8_E5M2"):
        import ml_dtypes  # noqa: F401  it makes numpy know these names
    try:
        shape = tuple(row["shape"])
        first, last = row["data_offsets"]
        dtype = np.dtype(_DTYPES[row["dtype"]])
        numbers = (*shape, first, last)
        if any(type(number) is not int or number < 0 for number in numbers) or start + last > end:
            raise ValueError("no such place in the file")
        if math.prod(shape) * dtype.itemsize != last - first:
            raise ValueError(f"{list(shape)} numbers do not take {last - first:,} bytes")
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(stream, dtype, "r", start + first, shape)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"not a .safetensors file, or a broken one ({first_line(error)}): {where}") from error
