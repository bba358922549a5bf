"""The reader of `.npy` and `.npz` files: no pickles, and no memory before the file is known to fill it."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from onnxscope.errors import InputError
from onnxscope.outputs import printable

__all__ = ["read_npy", "read_npz"]

Array = NDArray[Any]

# A compressed archive may hold this much, or 100 times its own size: deflate makes a gigabyte of zeros one megabyte.
_FREE_BYTES = 256 << 20
_MAX_EXPANSION = 100
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
    size_bytes = os.fstat(stream.fileno()).st_size
    try:
        with zipfile.ZipFile(stream) as archive:
            members = _members(archive, where)
            chosen = choose(list(members))
            expanded = sum(member.file_size for member in members.values())
            if expanded > max(_FREE_BYTES, _MAX_EXPANSION * size_bytes):
                raise InputError(
                    f"{size_bytes:,} bytes would expand to {expanded:,}: {where}",
                    hint="write it with numpy.savez, which does not compress",
                )
            arrays = {}
            for name, key in chosen.items():
                with archive.open(members[key]) as member:
                    arrays[name] = _read(member, members[key].file_size, f"{key!r} in {where}")
            return arrays
    except InputError:
        raise
    except Exception as error:  # zipfile lets many kinds out on broken archives
        raise InputError(f"not a .npz archive, or a broken one ({_first_line(error)}): {where}") from error


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2 make numpy warn
            shape, fortran_order, dtype = _header(stream)
    except Exception as error:  # numpy parses the header as Python, and lets the tokenizer's own errors out
        raise InputError(f"not a .npy array, or a broken one ({_first_line(error)}): {where}") from error
    if dtype.hasobject:
        raise InputError(f"an array of Python objects, which only a pickle could hold: {where}", hint="save numbers")
    sides = [side for side in shape if side]
    too_large = len(shape) > _MAX_RANK or math.prod(sides) * dtype.itemsize > _MAX_BYTES
    if min(sides, default=0) < 0 or too_large or not dtype.itemsize:
        raise InputError(f"no array has {dtype.str} numbers and shape {str(shape)[:200]}: {where}")
    declared = math.prod(shape) * dtype.itemsize
    present = size_bytes - stream.tell()
    if declared > present:
        raise InputError(f"the header declares {declared:,} bytes and {max(present, 0):,} are there: {where}")
    flat = np.empty(math.prod(shape), dtype)
    view = flat.view(np.uint8).data
    done = 0
    while done < len(view):
        piece = stream.read(min(1 << 20, len(view) - done))
        if not piece:
            raise InputError(f"the header declares {declared:,} bytes and {done:,} are there: {where}")
        view[done : done + len(piece)] = piece
        done += len(piece)
    stream.read(1)  # reaching the end makes zipfile compare the checksum
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(stream)
    raise ValueError(f"version {version[0]}.{version[1]} of the format")


def _first_line(error: Exception) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:200])
