"""What a process is doing, kept where another one can read it after a death that leaves no time for words."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO

__all__ = ["LastWords", "doing", "has_told", "keep_last_words", "new_last_words", "read_last_words"]

_BYTES = 4096  # one page
_TOLD = b"!"

_lock = threading.Lock()
_doing: dict[int, list[str]] = {}  # by thread, the whole before its parts; the thread that began last stands last
_page: mmap.mmap | None = None


@dataclass(frozen=True)
class LastWords:
    """What is known of a process that is gone.

    Attributes:
        doing: What it was doing, the part before the whole; empty where it has not said.
        told: Whether it has itself told its user why it ends.
    """

    doing: tuple[str, ...] = ()
    told: bool = False


def new_last_words(path: str) -> FileIO:
    """Make the file that both sides share; before the process that keeps its words there is started.

    Returns:
        What `read_last_words` reads, also where the file has been removed.
    """
    kept = open(path, "x+b", buffering=0)  # noqa: SIM115 - the caller's
    kept.truncate(_BYTES)
    return kept


def keep_last_words(path: str) -> None:
    """Keep in a file of `new_last_words` from now on what this process is doing."""
    global _page
    with open(path, "r+b") as stream:
        _page = mmap.mmap(stream.fileno(), _BYTES)


def read_last_words(kept: FileIO) -> LastWords:
    """Read what a process has kept in what `new_last_words` has made; nothing where it has not begun to."""
    kept.seek(0)
    told, words = kept.read(1), kept.read().rstrip(b"\0")
    lines = words.decode(errors="ignore").splitlines()
    return LastWords(tuple(reversed(lines)), told == _TOLD)


@contextlib.contextmanager
def doing(text: str) -> Iterator[None]:
    """Say what the block is about to do, such as `running m.onnx`; printable, and cut where it is long.

    It costs some microseconds, and nothing where nobody listens.
    """
    if _page is None:
        yield
        return
    thread = threading.get_ident()
    with _lock:
        parts = [*_doing.pop(thread, []), text]
        _doing[thread] = parts
        _write()
    try:
        yield
    finally:
        with _lock:
            _doing[thread] = parts[:-1]
            if not parts[:-1]:
                del _doing[thread]
            _write()


def has_told() -> None:
    """Say that the user has been told why this process ends."""
    if _page is not None:
        _page[:1] = _TOLD


def _write() -> None:
    assert _page is not None
    parts = next(reversed(_doing.values()), [])
    words = "\n".join(part[:500] for part in parts[-4:]).encode()[: _BYTES - 1]
    _page[1:] = words.ljust(_BYTES - 1, b"\0")


def _forget_in_child() -> None:
    """A process that this one forks does something else."""
    global _page, _lock
    _page, _lock = None, threading.Lock()
    _doing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
