"""Standard streams: what goes to stderr, and what to do where stdout cannot be written to."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TypeGuard

import click

from onnxscope.base.last_words import has_told
from onnxscope.base.text import printable, shortened

__all__ = ["PIPE_CLOSED", "StatusLine", "fail", "is_of_stdout", "open_streams", "tell_of_stdout"]

PIPE_CLOSED = 128 + 13
"""The exit code that a shell shows for a program that SIGPIPE has ended."""
_ERROR = "onnxscope: error: "
_LONGEST = 300  # characters of a line about what could not be done
_OF_STDOUT = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EBADF)


def open_streams() -> None:
    """Have no file that is opened later take the place of a closed stream, and none of stdout's text be lost."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        # Where PYTHONUNBUFFERED is set, Python drops what a first call of the system has not taken.
        buffered = io.BufferedWriter(io.FileIO(sys.stdout.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(buffered, sys.stdout.encoding, sys.stdout.errors)


def is_of_stdout(error: BaseException) -> TypeGuard[OSError]:
    """Whether an exception says that stdout cannot be written to; faults of files are told as an `OutputError`."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _OF_STDOUT


def tell_of_stdout(error: OSError) -> int:
    """Say that stdout cannot be written to, unless its reader has gone away, and return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python flushes at exit, and would complain again
    if error.errno == errno.EPIPE:
        return PIPE_CLOSED
    return fail(f"cannot write the result ({error.strerror}): standard output", None)


def fail(message: str, hint: str | None) -> int:
    """Print an error on stderr, and return the exit code of work that could not be done."""
    click.echo(f"{_ERROR}{shortened(printable(message), _LONGEST - len(_ERROR))}", err=True)
    if hint:
        click.echo(f"hint: {shortened(printable(hint), _LONGEST)}", err=True)
    has_told()
    return 2


class StatusLine:
    """A line on stderr that is written over: what is being done."""

    def __call__(self, text: str) -> None:
        """Show a text in place of the one before."""
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            width = 0
        click.echo(f"\r{printable(text)[: (width or 80) - 1]}\x1b[K", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away."""
        click.echo("\r\x1b[K", nl=False, err=True)
