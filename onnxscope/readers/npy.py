"""Read `.npy` and `.npz` files, with no pickles and no memory before the file is known to fill it; write `.npz`."""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from onnxscope.base.text import first_line
from onnxscope.errors import InputError

__all__ = ["map_npy", "map_npz", "read_npy", "read_npz", "write_npz"]

Array = NDArray[Any]

# A compressed archive may hold this much, or 100 times its own size: deflate makes a gigabyte of zeros one megabyte.
_FREE_BYTES = 256 << 20
_MAX_EXPANSION = 100
# Signature, five fields of two bytes, checksum and two sizes, then the lengths of the name and of what follows it.
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_MAX_RANK, _MAX_BYTES = 64, 1 << 62  # numpy's own limits, which hold for empty arrays too


def read_npy(stream: IO[bytes], where: str) -> Array:
    """Read one array from an open `.npy` file.

    Raises:
        InputError: Broken, truncated, an object array (never unpickled), or a structured one.
    """
    return _read(stream, os.fstat(stream.fileno()).st_size, where)


def read_npz(stream: IO[bytes], where: str, choose: Callable[[list[str]], Mapping[str, str]]) -> dict[str, Array]:
    """Read arrays from an open `.npz` file.

    Args:
        stream: The file.
        where: Its printable name, for messages.
        choose: Given the archive's names, says by result which to read, or raises.

    Returns:
        The arrays chosen, by result.

    Raises:
        InputError: A broken archive, one that would expand without measure, or what `read_npy` raises.
    """
    return _from_archive(stream, where, choose, map_stored=False)


def map_npy(stream: IO[bytes], where: str) -> Array:
    """Map the array of an open `.npy` file, read-only; it outlives the stream.

    Raises:
        InputError: See `read_npy`.
    """
    return _map(stream, os.fstat(stream.fileno()).st_size, where)


def map_npz(stream: IO[bytes], where: str, choose: Callable[[list[str]], Mapping[str, str]]) -> dict[str, Array]:
    """Map the stored arrays of an open `.npz` file, and read those that are compressed; see `read_npz`."""
    return _from_archive(stream, where, choose, map_stored=True)


def write_npz(stream: IO[bytes], arrays: Iterable[tuple[str, Array]]) -> None:
    """Write an archive that `np.load` reads; the same arrays give the same bytes.

    Args:
        stream: Open for writing.
        arrays: By names that a zip archive can hold. numpy's file format has no bfloat16 and its like: they are widened
            to float32, integers of fewer than eight bits to int8.
    """
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            if array.dtype.type.__module__ != "numpy":
                array = array.astype(np.int8 if "int" in array.dtype.name else np.float32)
            content = io.BytesIO()
            npy_format.write_array(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + ".npy"), content.getvalue())  # with a date that never changes


def _from_archive(
    stream: IO[bytes], where: str, choose: Callable[[list[str]], Mapping[str, str]], *, map_stored: bool
) -> dict[str, Array]:
    size_bytes = os.fstat(stream.fileno()).st_size
    try:
        with zipfile.ZipFile(stream) as archive:
            members = _members(archive, where)
            chosen = {name: (members[key], f"{key!r} in {where}") for name, key in choose(list(members)).items()}
            mapped = {
                name: _map_member(stream, member, place)
                for name, (member, place) in chosen.items()
                if map_stored and member.compress_type == zipfile.ZIP_STORED
            }
            expanded = sum(member.file_size for member in members.values())
            if len(mapped) < len(chosen) and expanded > max(_FREE_BYTES, _MAX_EXPANSION * size_bytes):
                raise InputError(
                    f"{size_bytes:,} bytes would expand to {expanded:,}: {where}",
                    hint="write it with numpy.savez, which does not compress",
                )
            arrays = {}
            for name, (member, place) in chosen.items():
                if name in mapped:
                    arrays[name] = mapped[name]
                    continue
                with archive.open(member) as content:
                    arrays[name] = _read(content, member.file_size, place)
            return arrays
    except InputError:
        raise
    except Exception as error:  # zipfile lets many kinds out on broken archives
        raise InputError(f"not a .npz archive, or a broken one ({first_line(error)}): {where}") from error


def _map_member(stream: IO[bytes], member: zipfile.ZipInfo, where: str) -> Array:
    """Map a member that is not compressed; only its own header says where its bytes begin."""
    stream.seek(member.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise InputError(f"no array where the archive says that it is: {where}")
    _, *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    start = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    stream.seek(start)
    return _map(stream, min(start + member.file_size, os.fstat(stream.fileno()).st_size), where)


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise InputError(f"{name!r} is no .npy array: {where}", hint="write it with numpy.savez")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{name!r} is compressed in a way that numpy does not write: {where}",
                hint="write it with numpy.savez",
            )
        if member.flag_bits & 1:
            raise InputError(f"{name!r} is encrypted: {where}")
        if name in members:
            raise InputError(f"two arrays are called {name!r}: {where}")
        members[name] = member
    return members


def _read(stream: IO[bytes], size_bytes: int, where: str) -> Array:
    """Read one array, comparing what its header declares with what is there before memory is reserved."""
    shape, fortran_order, dtype = _checked_header(stream, size_bytes, where)
    flat = np.empty(math.prod(shape), dtype)
    view = flat.view(np.uint8).data
    done = 0
    while done < len(view):
        piece = stream.read(min(1 << 20, len(view) - done))
        if not piece:
            raise InputError(f"the header declares {len(view):,} bytes and {done:,} are there: {where}")
        view[done : done + len(piece)] = piece
        done += len(piece)
    stream.read(1)  # reaching the end makes zipfile compare the checksum
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _map(stream: IO[bytes], end: int, where: str) -> Array:
    """Map the array that starts where the stream stands and has to end before `end`."""
    start = stream.tell()
    shape, fortran_order, dtype = _checked_header(stream, end, where)
    if not math.prod(shape):
        return np.empty(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran_order else "C"
    try:
        return np.memmap(stream, dtype, "r", stream.tell(), shape, order)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot map the array at {start} ({first_line(error)}): {where}") from error


def _checked_header(stream: IO[bytes], end: int, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read a header whose numbers have to end before `end`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2 make numpy warn
            shape, fortran_order, dtype = _header(stream)
    except Exception as error:  # numpy parses the header as Python, and lets the tokenizer's own errors out
        raise InputError(f"not a .npy array, or a broken one ({first_line(error)}): {where}") from error
    if dtype.hasobject:
        raise InputError(f"an array of Python objects, which only a pickle could hold: {where}", hint="save numbers")
    if dtype.subdtype is not None:
        raise InputError(f"an array whose elements are arrays themselves ({dtype}): {where}", hint="save numbers")
    sides = [side for side in shape if side]
    too_large = len(shape) > _MAX_RANK or math.prod(sides) * dtype.itemsize > _MAX_BYTES
    if min(sides, default=0) < 0 or too_large or not dtype.itemsize:
        raise InputError(f"no array has {dtype.str} numbers and shape {str(shape)[:200]}: {where}")
    declared = math.prod(shape) * dtype.itemsize
    present = end - stream.tell()
    if declared > present:
        raise InputError(f"the header declares {declared:,} bytes and {max(present, 0):,} are there: {where}")
    return shape, fortran_order, dtype


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(stream)
    raise ValueError(f"version {version[0]}.{version[1]} of the format")
