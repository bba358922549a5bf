"""Untrusted bytes: open files safely, and turn a model into a skeleton that points at its own weights.

This is the only module that looks at a file before it is known to be a model. A *skeleton* is the model with each
large `raw_data` of an initializer replaced by an external-data reference into the same file. It is a few kilobytes
where the model is gigabytes, so rewriting it never copies a weight.

Field numbers are those of `onnx.proto`: ModelProto.graph 7, GraphProto.initializer 5, TensorProto.raw_data 9,
.external_data 13, .data_location 14. The encoding is protobuf's wire format: a tag (field number << 3 | wire type),
then a varint (type 0), 8 bytes (1), a length and that many bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from onnxscope.base.text import printable
from onnxscope.errors import ModelError
from onnxscope.model.graph_checks import max_nodes, refuse_nodes

__all__ = ["MappedFile", "contained_path", "skeleton_of", "store_of"]

_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14

# onnxruntime reads shapes, axes and other small constants while it builds a session, so these stay inline.
_MIN_EXTERNAL_BYTES = 1024
_MAX_SKELETON_BYTES = (2 << 30) - 1  # protobuf refuses a longer message


class MappedFile:
    """A regular file mapped read-only into memory.

    Attributes:
        path: Resolved: absolute, without symbolic links.
        given: Where it was opened: absolute, in a folder without symbolic links, and perhaps one itself.
        size_bytes: The file's size when it was opened.
        data: The whole file; pages are read when they are touched.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open `path`, following symbolic links.

        Raises:
            ModelError: It is missing, unreadable, empty, or anything but a regular file.
        """
        shown = printable(os.fspath(path))
        try:
            self.path = Path(path).resolve(strict=True)
            self.given = Path(path).parent.resolve(strict=True) / Path(path).name
            # O_NONBLOCK: opening a FIFO would otherwise wait for a writer that never comes.
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise ModelError(f"no such file: {shown}", hint="check the path") from error
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a usable path"
            raise ModelError(f"cannot open ({reason}): {shown}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"not a regular file: {shown}", hint="give the path of an .onnx file")
            if status.st_size == 0:
                raise ModelError(f"the file is empty: {shown}", hint="export or download it again")
            self.size_bytes = status.st_size
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            self.data = memoryview(self._map)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot map into memory ({error}): {shown}") from error
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Let go of the pages that were read; they are read again when they are touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def contained_path(folder: Path, location: str, *, owner: str) -> Path:
    """Return the file that an external-data `location` names, if it lies inside `folder` or the store behind it.

    A model hub keeps files under `snapshots/REVISION/` that are links into one folder `blobs/` beside `snapshots/`,
    with other names: such links are followed, and no further.

    Args:
        folder: The model's folder, resolved.
        location: The untrusted reference: a relative path with forward slashes.
        owner: What refers to it, for the message.

    Raises:
        ModelError: The reference is absolute, climbs out with `..`, passes through a symbolic link that leads out
            of the folder, or names a file with more than one hard link (whose other name may be anywhere).
    """
    shown = f"'{printable(location)}' of {owner}"
    parts = location.replace("\\", "/").split("/")
    if "*" in parts:
        # `*/_ORT_MEM_ADDR_/*` tells onnxruntime that the offset is an address in its own memory.
        raise ModelError(f"external data at a place that no file can have: {shown}")
    if not location or "\0" in location or location.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
        raise ModelError(
            f"external data outside the model's folder: {shown}", hint="weights must lie beside the model or below it"
        )
    if "\\" in location and os.sep == "/":
        # onnxruntime would open the file whose name holds a backslash, not the one that we would check.
        raise ModelError(f"external data with a backslash in its path: {shown}", hint="export it with / in paths")
    try:
        path = Path(folder, *parts).resolve(strict=True)
        status = path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"external data not found: {shown}", hint="keep the model and its data files in one folder"
        ) from error
    store = store_of(folder)
    if not path.is_relative_to(folder) and (store is None or path.parent != store):
        raise ModelError(
            f"external data outside the model's folder (through a symbolic link): {shown}",
            hint="copy the data file beside the model",
        )
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"external data is not a regular file: {shown}")
    if status.st_nlink > 1:
        raise ModelError(
            f"external data has {status.st_nlink} hard links, so it may be a file from elsewhere: {shown}",
            hint="copy the data file beside the model",
        )
    return path


def store_of(folder: Path) -> Path | None:
    """Return the folder `blobs` that links in a model hub's snapshot lead to; None where `folder` is in no snapshot."""
    for revision in (folder, *folder.parents):
        if revision.parent.name == "snapshots":
            store = revision.parent.parent / "blobs"
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(store.lstat().st_mode):  # no link to elsewhere
                    return store
    return None


def skeleton_of(file: MappedFile, *, where: str, location: str | None = None) -> bytes:
    """Return the model as protobuf bytes in which large initializers refer to their bytes in `file`.

    Args:
        file: A model. It is scanned, not parsed: nodes are skipped, weights are never touched.
        where: How messages name the file.
        location: The file's name where its data is looked up, its own by default.

    Raises:
        ModelError: The bytes are not protobuf, hold no graph or two or more nodes than `max_nodes`, or stay over 2 GB.
    """
    try:
        return _Scanner(file.data, location or file.path.name, where).model()
    except _MalformedError as error:
        hint = "give a file that an ONNX exporter wrote"
        raise ModelError(f"not an ONNX model ({error}): {where}", hint=hint) from error


class _MalformedError(Exception):
    pass


class _Scanner:
    def __init__(self, data: memoryview, location: str, where: str) -> None:
        self._data = data
        self._where = where
        self._location = _length_delimited(1, b"location") + _length_delimited(2, os.fsencode(location))

    def model(self) -> bytes:
        # Here and below, what stays as it is is copied in whole runs: a file may hold millions of two-byte fields.
        pieces: list[bytes | memoryview] = []
        copied = graphs = 0
        for number, wire_type, start, value, end in self._fields(0, len(self._data)):
            if number == _MODEL_GRAPH:
                if wire_type != 2:
                    raise _MalformedError(f"the graph has wire type {wire_type}")
                graphs += 1
                graph = self._graph(value, end)
                pieces += [self._data[copied:start], _tag(_MODEL_GRAPH, 2), _varint(sum(map(len, graph))), *graph]
                copied = end
        pieces.append(self._data[copied:])
        if graphs != 1:
            raise _MalformedError(f"{graphs or 'no'} graph{'s' if graphs else ''} in it")
        size = sum(map(len, pieces))
        if size > _MAX_SKELETON_BYTES:
            raise _MalformedError(f"{size} bytes without its weights, more than protobuf's 2 GB")
        return b"".join(pieces)

    def _graph(self, begin: int, finish: int) -> list[bytes | memoryview]:
        pieces: list[bytes | memoryview] = []
        copied, nodes, most = begin, 0, max_nodes()
        for number, wire_type, start, value, end in self._fields(begin, finish):
            nodes += number == _GRAPH_NODE
            if nodes > most:
                refuse_nodes(where=self._where)
            if number == _GRAPH_INITIALIZER and wire_type == 2 and end - value >= _MIN_EXTERNAL_BYTES:
                tensor = self._tensor(value, end)
                if tensor is not None:
                    pieces += [self._data[copied:start], _tag(_GRAPH_INITIALIZER, 2), _varint(len(tensor)), tensor]
                    copied = end
        pieces.append(self._data[copied:finish])
        return pieces

    def _tensor(self, begin: int, finish: int) -> bytes | None:
        """The tensor with its raw data referred to, or None where it can stay as it is."""
        kept: list[bytes | memoryview] = []
        copied = begin
        raw: tuple[int, int] | None = None
        for number, wire_type, start, value, end in self._fields(begin, finish):
            if number == _TENSOR_RAW_DATA and wire_type == 2:
                raw = (value, end)
                kept.append(self._data[copied:start])
                copied = end
            elif number in (_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION):
                return None  # already external, or contradictory: checked when the model is described
        if raw is None or raw[1] - raw[0] < _MIN_EXTERNAL_BYTES:
            return None
        offset, length = (str(number).encode() for number in (raw[0], raw[1] - raw[0]))
        kept += [
            self._data[copied:finish],
            _length_delimited(_TENSOR_EXTERNAL_DATA, self._location),
            _length_delimited(_TENSOR_EXTERNAL_DATA, _length_delimited(1, b"offset") + _length_delimited(2, offset)),
            _length_delimited(_TENSOR_EXTERNAL_DATA, _length_delimited(1, b"length") + _length_delimited(2, length)),
            _tag(_TENSOR_DATA_LOCATION, 0) + b"\x01",
        ]
        return b"".join(kept)

    def _fields(self, begin: int, finish: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield field number, wire type, and where the field, its value and its end are."""
        data, position = self._data, begin
        while position < finish:
            start = position
            tag = data[position]
            position += 1
            if tag > 0x7F:
                tag, position = self._read_varint(start, finish)
            number, wire_type = tag >> 3, tag & 7
            if number == 0:
                raise _MalformedError(f"field number 0 at byte {start}")
            if wire_type == 2:
                length, value = self._read_varint(position, finish)
                position = value + length
            elif wire_type == 0:
                value = position
                _, position = self._read_varint(position, finish)
            elif wire_type in (1, 5):
                value = position
                position += 8 if wire_type == 1 else 4
            else:
                raise _MalformedError(f"wire type {wire_type} at byte {start}")
            if position > finish:
                raise _MalformedError(f"a field at byte {start} ends {position - finish} bytes beyond its end")
            yield number, wire_type, start, value, position

    def _read_varint(self, position: int, finish: int) -> tuple[int, int]:
        result = shift = 0
        start = position
        while position < finish and shift < 70:
            byte = self._data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result, position
            shift += 7
        raise _MalformedError(f"a broken number at byte {start}")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _length_delimited(number: int, content: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(content)) + content
