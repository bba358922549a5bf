"""Files that appear whole or not at all and in no input's place, names that are safe, and strict JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from onnxscope.errors import OutputError

__all__ = [
    "dump_json",
    "first_line",
    "make_folder",
    "printable",
    "refuse_inputs",
    "safe_stem",
    "write_whole",
    "writing_whole",
]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_UNUSUAL = re.compile(r"[^\x20-\x7e\n]")
_MAX_STEM_BYTES = 60


@contextlib.contextmanager
def writing_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place when the block ends without an exception.

    Raises:
        OutputError: The folder is missing, read-only or full; what stood at `path` is untouched.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():  # a file must not take the place of /dev/null
            raise OutputError(f"cannot write (not a regular file): {printable(str(target))}")
        # tempfile would make it readable to its owner alone, and the umask cannot be asked for without being changed.
        name = os.fspath(target.parent / f".onnxscope-{secrets.token_hex(8)}.partial")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error}): {printable(str(target))}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        os.replace(name, target)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error}): {printable(str(target))}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all.

    Raises:
        OutputError: See `writing_whole`.
    """
    with writing_whole(path) as stream:
        stream.write(content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content)


def refuse_inputs(
    outputs: Iterable[str | os.PathLike[str] | None], inputs: Iterable[str | os.PathLike[str] | None]
) -> None:
    """Refuse to write to what is read, or twice to one file. Files are told apart by what they are, not by their paths.

    Args:
        outputs: What will be written or replaced, there or not yet; None stands for nothing.
        inputs: What is read; a file that is only brought up to date is not among them.

    Raises:
        OutputError: An output is an input or another output, also through links.
    """
    read = {_identity(path): path for path in inputs if path is not None}
    written: dict[tuple[int | str, ...], str] = {}
    for path in outputs:
        if path is None:
            continue
        identity, shown = _identity(path), printable(os.fspath(path))
        if identity in read:
            name, other = os.path.basename(path), os.fspath(read[identity])
            where = shown if os.path.basename(other) == name else f"{shown}, which is {printable(other)}"
            raise OutputError(f"the output would replace an input: {where}", hint="write to another place")
        if identity in written:
            raise OutputError(
                f"two outputs would be one file: {written[identity]} and {shown}", hint="write them to different places"
            )
        written[identity] = shown


def _identity(path: str | os.PathLike[str]) -> tuple[int | str, ...]:
    """What tells a file from every other; for one that is not there yet, its folder's identity with its name."""
    try:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            return status.st_dev, status.st_ino
        folder, name = os.path.split(os.path.realpath(path))
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            return status.st_dev, status.st_ino, name
        return folder, name
    except ValueError:  # a zero byte: no file has such a path
        return (os.fspath(path),)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, and those above it, where they are missing.

    Raises:
        OutputError: It cannot be made.
    """
    target = Path(path)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder ({error.strerror}): {printable(str(target))}") from error
    return target


def safe_stem(name: str, index: int) -> str:
    """Return a file name stem for something that a model named: the index, then at most 60 harmless bytes."""
    stem = _UNSAFE.sub("_", name)[:_MAX_STEM_BYTES].strip("._") or "unnamed"
    return f"{index:03d}_{stem}"


def printable(text: str) -> str:
    """Replace every control, format and surrogate character, so that a terminal or a log shows nothing but text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: Exception | Warning | str) -> str:
    """Return the first line of a foreign exception's message, printable and of at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0][:200])


def dump_json(record: Mapping[str, Any]) -> str:
    """Return strict JSON: keys in the order given, no NaN or infinity, a newline at the end.

    Each key of the record has a line of its own, and so has each record of a list, so that a change shows as a
    changed line. Characters that a terminal would act upon, and those that UTF-8 cannot hold, are written as escapes.

    Raises:
        ValueError: A number is not finite.
    """
    lines = []
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            # json's own indent would be ten times slower, and put every number of a histogram on a line.
            rows = ",\n    ".join(map(_compact_json, value))
            lines.append(f"{_compact_json(key)}: [\n    {rows}\n  ]")
        else:
            lines.append(f"{_compact_json(key)}: {_compact_json(value)}")
    text = "{\n  " + ",\n  ".join(lines) + "\n}\n"
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def _compact_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
