"""Files: written whole or not at all and in no input's place, and opened only where they are regular."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from onnxscope.base.text import printable
from onnxscope.errors import InputError, OutputError

__all__ = [
    "ARRAYS",
    "CHART",
    "JUNIT",
    "MARKDOWN",
    "MODEL",
    "OVERLAY",
    "PAGE",
    "PARTIAL_FILES",
    "PICTURE",
    "WholeFolder",
    "Written",
    "list_partial",
    "make_folder",
    "open_regular",
    "partial_path",
    "record_file",
    "refuse_foreign",
    "refuse_inputs",
    "require_folders",
    "write_whole",
    "writing_folder",
    "writing_whole",
]

PARTIAL_FILES = "ONNXSCOPE_PARTIAL_FILES"
"""The environment variable that names a file to list partial files in, for whoever ends the process by force."""
_START_BYTES = 8192


@dataclass(frozen=True)
class Written:
    """What a command writes to one place, so that it knows a file that it wrote before.

    Attributes:
        what: In a few words.
        start: How such a file starts.
    """

    what: str
    start: re.Pattern[bytes]


PAGE = Written(
    "a page of onnxscope", re.compile(rb'<!doctype html>.*<meta name="generator" content="onnxscope">', re.DOTALL)
)
JUNIT = Written("a JUnit file", re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*\?>\s*)?<testsuites?[\s>/]"))
MARKDOWN = Written("a summary of `onnxscope check`", re.compile(rb"## \S+ onnxscope check"))
MODEL = Written("an ONNX model", re.compile(rb"\x08[\x01-\x7f][\x10-\x7f]"))  # its IR version, and another field
OVERLAY = Written("an overlay for Model Explorer", re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*"results"'))
PICTURE = Written("a picture", re.compile(rb"\x89PNG\r\n\x1a\n|<svg[\s>]"))
CHART = Written(
    "a chart of onnxscope",
    re.compile(rb"\x89PNG\r\n\x1a\n.{0,300}?Software\x00onnxscope|<svg\s.{0,2000}?<dc:title>onnxscope<", re.DOTALL),
)
ARRAYS = Written("a .npz file", re.compile(rb"PK\x03\x04|PK\x05\x06"))


@contextlib.contextmanager
def writing_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place when the block ends without an exception.

    Raises:
        OutputError: The folder is missing, read-only or full, or a link is in the way; what stood at `path` is
            untouched.
    """
    with _staged(Path(path)) as (stream, finish):
        yield stream
        stream.close()
        finish()


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """Open a temporary file beside `target`, with what puts it in its place; it is gone after the block."""
    try:
        if os.path.exists(target) and not os.path.isfile(target):  # a file must not take the place of /dev/null
            raise OutputError(f"cannot write (not a regular file): {printable(str(target))}")
        _refuse_link(target)
        # tempfile would make it readable to its owner alone, and the umask cannot be asked for without being changed.
        name = os.fspath(target.parent / f".onnxscope-{secrets.token_hex(8)}.partial")
        list_partial(name)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error}): {printable(str(target))}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream, lambda: os.replace(name, target)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror or error}): {printable(str(target))}") from error
    finally:
        with contextlib.suppress(OSError):  # it is in its place already
            os.unlink(name)


class WholeFolder:
    """Files that appear in a folder together; see `writing_folder`."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        """Begin with none."""
        self.path = path
        self._stack = stack
        self._finish: list[tuple[str, Callable[[], None]]] = []
        self._written: set[str] = set()
        self._stale: list[Callable[[], Iterable[str]]] = []

    def open(self, name: str) -> IO[bytes]:
        """Open a file that will be there under this name."""
        stream, put = self._stack.enter_context(_staged(self.path / name))

        def finish() -> None:
            stream.close()
            put()

        self._finish.append((name, finish))
        self._written.add(name)
        return stream

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file (text as UTF-8) that will be there under this name."""
        stream = self.open(name)
        stream.write(_encoded(content))
        stream.close()  # there may be more of them than can be open

    def remove(self, find: Callable[[], Iterable[str]]) -> None:
        """Remove files, with the last of the others in place: `find` names them when that begins."""
        self._stale.append(find)

    def finish(self) -> None:
        """Put all files in their places, in the order in which they were opened, while nobody else does so there."""
        with _locked(self.path):
            stale = {name for find in self._stale for name in find()}
            new: list[Path] = []
            try:
                for name, finish in self._finish:
                    place = self.path / name
                    if not os.path.lexists(place):
                        new.append(place)
                    finish()
                for name in stale - self._written:
                    (self.path / name).unlink(missing_ok=True)
            except BaseException:
                for place in new:
                    with contextlib.suppress(OSError):
                        place.unlink()
                raise


@contextlib.contextmanager
def writing_folder(path: str | os.PathLike[str], inside: Iterable[str] = ()) -> Iterator[WholeFolder]:
    """Make a folder, where it is missing, with folders `inside` it, and put files into it, all of them or none.

    They are written beside their places first, so that a disk which fills half way leaves the folder as it was, and put
    there one writer after the other, so that what two write at a time does not mix.

    Raises:
        OutputError: The folder cannot be made or written to, or a link is in the way; folders that were made are gone.
    """
    target = Path(path)
    folders = [target / name for name in inside] or [target]
    missing = [place for place in (*folders, *folders[0].parents) if not os.path.exists(place)]
    for place in reversed(missing):
        list_partial(os.fspath(place))
    try:
        for place in folders:
            make_folder(place)
        with contextlib.ExitStack() as stack:
            folder = WholeFolder(target, stack)
            yield folder
            folder.finish()
    except BaseException:
        for place in missing:
            with contextlib.suppress(OSError):  # somebody else has put something there
                place.rmdir()
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others who write to a folder waiting, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def list_partial(name: str, *, with_content: bool = False) -> None:
    """Say what has to go where this process is ended by force; see `PARTIAL_FILES`.

    Args:
        name: A file, or a folder, which goes if it is empty.
        with_content: Whether it is a folder that goes with all that is in it.
    """
    listing = os.environ.get(PARTIAL_FILES)
    if listing:
        with open(listing, "ab") as stream:
            stream.write(os.fsencode(os.path.abspath(name)) + (b"/\0" if with_content else b"\0"))


def partial_path(output: str | os.PathLike[str]) -> Path:
    """Return where an analysis keeps what it knows until it is done, so that another one can go on from there."""
    return Path(f"{os.fspath(output)}.partial")


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all.

    Raises:
        OutputError: See `writing_whole`.
    """
    with writing_whole(path) as stream:
        stream.write(_encoded(content))


def _encoded(content: bytes | str) -> bytes:
    return content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content


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


def record_file(schema: str) -> Written:
    """Return what a JSON file of a schema is, in any of its versions: `onnxscope.baseline/1`."""
    name = schema.partition("/")[0]
    start = re.compile(rb'\s*\{\s*"schema"\s*:\s*"' + re.escape(name).encode() + b"/")
    return Written(f"a file of the schema {name}", start)


def refuse_foreign(outputs: Iterable[tuple[str | os.PathLike[str] | None, Written]], *, force: bool = False) -> None:
    """Refuse to replace a file that is not what a command writes there; one that is empty, or not there, is no loss.

    Args:
        outputs: What will be written or replaced, and as what; None stands for nothing.
        force: Whether the user has said that such files may be replaced.

    Raises:
        OutputError: Another file is there, one that cannot be read, or a link.
    """
    for path, written in outputs:
        if path is None:
            continue
        shown = printable(os.fspath(path))
        if not force and os.path.isfile(path):
            try:
                with open(path, "rb") as stream:
                    start = stream.read(_START_BYTES)
            except OSError as error:
                raise OutputError(f"cannot read what would be replaced ({error.strerror}): {shown}") from error
            if start and not written.start.match(start):
                raise OutputError(
                    f"the output would replace a file that is not {written.what}: {shown}",
                    hint="write to another place, or replace it with `--force` (`force=True`)",
                )
        _refuse_link(Path(path))


def _refuse_link(path: Path) -> None:
    """Refuse a link in the way of an output: to follow it would write elsewhere, to replace it would lose it."""
    if os.path.islink(path) and (os.path.isfile(path) or not os.path.exists(path)):
        raise OutputError(
            f"cannot write (a link is in the way): {printable(str(path))}",
            hint="remove the link, or name the place that it leads to",
        )


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


def require_folders(*outputs: str | os.PathLike[str] | None) -> None:
    """Refuse outputs whose folder is missing, before anything is run for them.

    Args:
        outputs: What will be written; None stands for nothing.

    Raises:
        OutputError: A folder is missing.
    """
    for path in outputs:
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise OutputError(
                f"cannot write (No such file or directory): {printable(os.fspath(path))}",
                hint="write to a folder that is there",
            )


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


def open_regular(path: str, *, limit_bytes: int | None = None, hint: str | None = None) -> IO[bytes]:
    """Open a regular file for reading; the caller closes it.

    Args:
        path: What may stand there is not trusted.
        limit_bytes: Larger files are refused.
        hint: What to do where there is no such file.

    Raises:
        InputError: No such file, a folder, a FIFO, a device, unreadable, or larger than `limit_bytes`.
    """
    where = printable(path)
    try:
        _check_regular(os.stat(path).st_mode, where)
        # What stands there may have changed since: a FIFO opened without O_NONBLOCK would wait for a writer for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {where}", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read ({reason}): {where}") from error
    stream = os.fdopen(descriptor, "rb")
    status = os.fstat(descriptor)
    try:
        _check_regular(status.st_mode, where)
        if limit_bytes is not None and status.st_size > limit_bytes:
            raise InputError(f"{status.st_size:,} bytes are more than the {limit_bytes:,} that we read: {where}")
    except InputError:
        stream.close()
        raise
    return stream


def _check_regular(mode: int, where: str) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"not a regular file: {where}", hint="give a file; copy a stream or a device into one first")
