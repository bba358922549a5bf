"""A command in a process of its own, which can be killed: `supervised`.

The process that the user started forks before anything heavy is loaded. What it started runs the command, and it only
waits: for its end, for a signal, for the limits. So a crash of onnxruntime, a loop that never ends and a model that
eats memory end with one line, and nothing is left behind: no process, no temporary file, no half of an output.

The other process writes the results itself. So no array is copied, through shared memory or otherwise, and both
together take what one would, but for the few megabytes of an interpreter that waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from io import FileIO
from select import select
from types import FrameType
from typing import NoReturn

from onnxscope.base.last_words import read_last_words
from onnxscope.base.limits import (
    Death,
    Limits,
    adopt,
    clean,
    end_adopted,
    follow,
    kill,
    memory_bytes,
    new_folder,
    over_memory,
    over_time,
    why_it_died,
)

__all__ = ["Ended", "NoFolderError", "can_supervise", "leave", "supervised", "was_interrupted"]

_GRACE_S = 0.5  # for the command to end by itself after a signal
_LOOK_EVERY_S = 0.05  # at the memory
_AGAIN_S = 0.01  # until an interruption is tried again
_interrupted_here = False
_own_folder: str | None = None  # of a process that `supervised` has started
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGINT,)


@dataclass(frozen=True)
class Ended:
    """How a command has ended.

    Attributes:
        code: The exit code, None where it was killed.
        death: Why it was killed, None where it has told the user itself.
        signal: What the user or the system has sent, None for nothing.
    """

    code: int | None
    death: Death | None = None
    signal: int | None = None


class NoFolderError(Exception):
    """There is no place for temporary files, and for what the processes tell each other."""


def can_supervise() -> bool:
    """Whether this system can fork."""
    return hasattr(os, "fork") and hasattr(os, "killpg")


def supervised(command: Callable[[], None], limits: Limits, *, alone: bool) -> Ended | None:
    """Run a command in a process of its own.

    Args:
        command: Called in the new process alone.
        limits: What it may take.
        alone: Whether this process is there for the command, and has no other children.

    Returns:
        How it has ended; None in the new process, once the command has returned there.

    Raises:
        NoFolderError: Nothing was started, since nothing can be written.
    """
    global _own_folder
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed
            stream.flush()
    with _signals() as (wakeup, restore):
        if alone:
            adopt()
        end, lifeline = os.pipe()
        try:
            folder, words = new_folder()  # last: nobody removes it where this process is killed before it forks
        except OSError as error:
            os.close(end)
            os.close(lifeline)
            raise NoFolderError(f"{error.strerror}: {error.filename}") from error
        with words:
            child = os.fork()
            if not child:
                _own_folder = folder
                os.close(lifeline)
                follow(end, folder, limits)
                restore()
                if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    signal.signal(signal.SIGINT, _interrupt)
                command()
                return None
            os.close(end)
            with contextlib.suppress(OSError):  # it has done so already, or is gone
                os.setpgid(child, child)
            try:
                return _wait(child, wakeup, limits, words)
            finally:
                kill(child)
                if alone:
                    end_adopted()
                os.close(lifeline)
                clean(folder)


def leave(code: int) -> NoReturn:
    """End the process in which `supervised` has returned None, whose temporary files nobody may be there to remove."""
    if _own_folder is not None:
        clean(_own_folder)
    os._exit(code)


def _wait(child: int, wakeup: int, limits: Limits, kept: FileIO) -> Ended:
    asked: int | None = None
    end_s = None if limits.time_s is None else time.monotonic() + limits.time_s
    while True:
        ready, _, _ = select([wakeup], [], [], _LOOK_EVERY_S)
        for number in os.read(wakeup, 64) if ready else b"":
            if number == signal.SIGTSTP:
                _stop(child)
            elif number in _ENDING and asked is None:
                asked, end_s = number, time.monotonic() + _GRACE_S
                kill(child, signal.SIGINT)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _told(status, asked, kept)
        is_late = end_s is not None and time.monotonic() > end_s
        is_large = limits.memory_bytes is not None and memory_bytes(child) > limits.memory_bytes
        if not is_late and not is_large:
            continue
        words = read_last_words(kept)  # what it was doing when it was killed
        kill(child)
        os.waitpid(child, 0)
        if asked is not None:
            return _interrupted(asked, kept)
        return Ended(None, over_time(limits, words) if is_late else over_memory(limits, words))


def _told(status: int, asked: int | None, kept: FileIO) -> Ended:
    if os.WIFEXITED(status):
        return Ended(os.WEXITSTATUS(status), signal=asked)
    if asked is not None:
        return _interrupted(asked, kept)
    return Ended(None, why_it_died(os.WTERMSIG(status), read_last_words(kept)))


def _interrupted(asked: int, kept: FileIO) -> Ended:
    """Killed after a signal: it may have told why, and not have been quick enough with the rest."""
    if read_last_words(kept).told:
        return Ended(2, signal=asked)
    return Ended(None, Death("interrupted", ""), signal=asked)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[int, Callable[[], None]]]:
    """Collect signals instead of being ended by them: gives where they can be read, and what undoes that."""
    wakeup, written = os.pipe()
    os.set_blocking(written, False)
    numbers = (*_ENDING, signal.SIGCHLD, signal.SIGTSTP)
    before = {number: signal.getsignal(number) for number in numbers}
    waking = signal.set_wakeup_fd(written)

    def restore() -> None:
        signal.set_wakeup_fd(waking)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wakeup)
        os.close(written)

    for number in numbers:
        if before[number] is not signal.SIG_IGN or number == signal.SIGCHLD:  # as `nohup` has it
            signal.signal(number, _collect)
    here = os.getpid()
    try:
        yield wakeup, restore
    finally:
        if os.getpid() == here:
            restore()


def was_interrupted() -> bool:
    """Whether this process was interrupted; libraries make errors of their own of that, which say something else."""
    return _interrupted_here


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, as soon as no library is being loaded: some that are written in C++ abort at it."""
    global _interrupted_here
    _interrupted_here = True
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _collect(number: int, frame: FrameType | None) -> None:
    """The number has been written to the wakeup descriptor already."""


def _stop(child: int) -> None:
    """Stop with the command, as a terminal asks for, and go on with it."""
    kill(child, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    kill(child, signal.SIGCONT)
