"""Read `.safetensors` files, onnx's `.pb` tensors and `.wav` sounds: headers are checked against the file first."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError

__all__ = ["map_safetensors", "read_pb", "read_wav"]

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
    size_bytes = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if size_bytes < 8 or length > min(size_bytes - 8, _MAX_HEADER_BYTES):
        raise InputError(f"not a .safetensors file, or a broken one: {where}")
    try:
        header = json.loads(stream.read(length))
        tensors = {name: row for name, row in header.items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"not a .safetensors file, or a broken one ({first_line(error)}): {where}") from error
    chosen = choose(list(tensors))
    return {
        result: _mapped(stream, tensors[name], 8 + length, size_bytes, f"tensor {printable(name)!r}: {where}")
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


def read_wav(stream: IO[bytes], where: str) -> tuple[Array, int]:
    """Read the sound of an open `.wav` file: integers of 8 to 32 bits, or floating point.

    Returns:
        The mean of all channels, float32 from -1 to 1, of shape (samples,); and how many there are a second.

    Raises:
        InputError: It is no such file, or is compressed.
    """
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError(f"not a .wav file: {where}")
    kind, channels, rate, bits, data = 0, 0, 0, 0, None
    size_bytes = os.fstat(stream.fileno()).st_size
    while len(head := stream.read(8)) == 8:
        length = min(int.from_bytes(head[4:], "little"), size_bytes - stream.tell())
        if head[:4] == b"fmt " and length >= 16:
            content = stream.read(length)
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if kind == _EXTENSIBLE and length >= 26:
                kind = int.from_bytes(content[24:26], "little")
        elif head[:4] == b"data":
            data = stream.read(length)
        else:
            stream.seek(length, os.SEEK_CUR)
        stream.seek(length % 2, os.SEEK_CUR)
    if data is None or not channels or not rate:
        raise InputError(f"not a .wav file, or a broken one: {where}")
    if (kind, bits) not in _SOUNDS:
        raise InputError(
            f"a sound in format {kind} of {bits} bits is not read: {where}", hint="write it as integers of 16 bits"
        )
    width = channels * bits // 8
    frames = np.frombuffer(data, np.uint8, len(data) // width * width).reshape(-1, channels, bits // 8)
    if not len(frames):
        raise InputError(f"a sound of no length: {where}")
    if bits == 24:  # as the upper bytes of 32
        frames = np.concatenate([np.zeros((*frames.shape[:2], 1), np.uint8), frames], axis=2)
    numbers = np.ascontiguousarray(frames).view(_SOUNDS[kind, bits])[..., 0].astype(np.float64)
    if kind == _INTEGERS:
        numbers = (numbers - 128) / 128 if bits == 8 else numbers / (1 << 15 if bits == 16 else 1 << 31)
    return numbers.mean(axis=1).astype(np.float32), rate


_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE
_SOUNDS = {
    (_INTEGERS, 8): "u1",
    (_INTEGERS, 16): "<i2",
    (_INTEGERS, 24): "<i4",
    (_INTEGERS, 32): "<i4",
    (_FLOATS, 32): "<f4",
    (_FLOATS, 64): "<f8",
}
"""numpy's type of a sample, by the format and its bits."""
_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def _text(item: Any) -> str:
    return item.decode("utf-8", errors="replace") if isinstance(item, bytes) else str(item)


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
