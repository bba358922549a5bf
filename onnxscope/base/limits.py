"""What another process may take, how much it takes, how it has ended, and its end with nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from onnxscope.base.files import PARTIAL_FILES
from onnxscope.base.last_words import LastWords, keep_last_words, new_last_words

__all__ = [
    "MAX_NODES",
    "MEMORY_LIMIT",
    "Death",
    "Limits",
    "adopt",
    "allowed_memory_bytes",
    "clean",
    "default_memory_bytes",
    "descendants",
    "end_adopted",
    "follow",
    "kill",
    "memory_bytes",
    "new_folder",
    "over_memory",
    "over_time",
    "why_it_died",
]

MEMORY_LIMIT = "ONNXSCOPE_MEMORY_LIMIT"
"""The environment variable that tells a process, and those that it starts, what it may take, in bytes."""
MAX_NODES = "ONNXSCOPE_MAX_NODES"
"""The environment variable that tells them how many nodes a model may have."""
_OF_MEMORY = 0.8
_RESERVED_BYTES, _THREAD_BYTES = 1 << 30, 16 << 20
_WORDS = "words"
_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl.h
_END_WITHIN_S = 0.15
_CGROUPS = Path("/sys/fs/cgroup")
_FROM_OUTSIDE = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT")


@dataclass(frozen=True)
class Limits:
    """What a process may take.

    Attributes:
        time_s: Seconds from its start to its end, None without a limit.
        memory_bytes: Anonymous memory of it and of all that it starts, None without a limit.
    """

    time_s: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Death:
    """Why a process has not ended by itself.

    Attributes:
        reason: In a few words, what it was doing among them.
        hint: What to do next.
    """

    reason: str
    hint: str


def default_memory_bytes() -> int | None:
    """Four fifths of the memory of the machine, or of the container; None where neither is known."""
    sizes = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _limit_files():
        with contextlib.suppress(OSError, ValueError):  # `max` is no number
            sizes.append(int(path.read_text(encoding="ascii")))
    return int(min(sizes) * _OF_MEMORY) if sizes else None


def allowed_memory_bytes() -> int | None:
    """What this process may take: the limit that it was given, else four fifths of what there is."""
    given = os.environ.get(MEMORY_LIMIT, "")
    return int(given) if given.isdecimal() else default_memory_bytes()


def _limit_files() -> list[Path]:
    """Where Linux keeps the limits of a process's groups: its own and those above, of version 2, then of version 1."""
    files = [_CGROUPS / "memory.max", _CGROUPS / "memory" / "memory.limit_in_bytes"]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::/"):
                own = _CGROUPS / line[4:]
                files += [place / "memory.max" for place in (own, *own.parents) if _CGROUPS in place.parents]
    return files


def new_folder() -> tuple[str, FileIO]:
    """Make the folder that takes a process's temporary files and its last words; `clean` removes it.

    Returns:
        The folder, and what `read_last_words` reads, also where the folder has been removed.
    """
    folder = tempfile.mkdtemp(prefix="onnxscope-")
    try:
        return folder, new_last_words(os.path.join(folder, _WORDS))
    except OSError:
        clean(folder)
        raise


def follow(lifeline: int, folder: str, limits: Limits) -> None:
    """Called in the new process: be the leader of a group that ends with the process that waits, and keep to `limits`.

    Args:
        lifeline: The reading end of a pipe whose other end only the process that waits holds.
        folder: Of `new_folder`. All temporary files go there.
        limits: Memory beyond them is refused where the system can do so; who waits looks at the rest.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on Windows; the leader of a session already
        os.setpgid(0, 0)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.environ[PARTIAL_FILES] = os.path.join(folder, "partial")
    keep_last_words(os.path.join(folder, _WORDS))
    _limit_memory(limits.memory_bytes)
    if hasattr(signal, "SIGTTOU"):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a terminal may stop what writes from the background

    def end_with_parent() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)  # nothing is ever written: it returns when the other end is closed, however that ended
        end_adopted()
        clean(folder)
        kill(os.getpid())
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _limit_memory(size_bytes: int | None) -> None:
    """Have allocations fail that alone pass the limit by far, and write no memory to a file after a crash.

    The system counts what is reserved and never touched, such as the stacks of threads, so there is room for these.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if size_bytes is not None and sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        size_bytes += _RESERVED_BYTES + (os.cpu_count() or 1) * _THREAD_BYTES
        allowed = size_bytes if most == resource.RLIM_INFINITY else min(size_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))  # what we start may have limits of its own


def kill(leader: int, number: int | None = None) -> None:
    """Send a signal to a process and its group; by default, to all that it has started, the one that nothing survives.

    Some start processes in groups and sessions of their own, as Ray does.
    """
    if not hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.kill(leader, signal.SIGTERM)
        return
    others = descendants(leader) if number is None else []
    for one, send in ((leader, os.killpg), *((other, os.kill) for other in others)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(one, signal.SIGKILL if number is None else number)


def adopt() -> None:
    """Have what our own children leave behind become children of this process, on Linux, so that they can be ended."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_adopted() -> None:
    """End every process that this one has started or adopted, and wait a moment for their ends; see `adopt`."""
    end_s = time.monotonic() + _END_WITHIN_S
    with contextlib.suppress(ChildProcessError):  # there are none any more
        while time.monotonic() < end_s:
            for one in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(one, signal.SIGKILL)
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.002)


def descendants(process: int) -> list[int]:
    """What a process has started, and what these have; nothing where the system does not tell."""
    found: list[int] = []
    waiting = [process]
    while waiting:
        one = waiting.pop()
        with contextlib.suppress(OSError, ValueError):
            for task in os.listdir(f"/proc/{one}/task"):
                children = [int(child) for child in Path(f"/proc/{one}/task/{task}/children").read_bytes().split()]
                found += children
                waiting += children
    return found


def clean(folder: str) -> None:
    """Remove what a process has left behind."""
    with contextlib.suppress(OSError):
        for name in reversed(Path(folder, "partial").read_bytes().split(b"\0")):  # files before their folders
            if name.endswith(b"/"):
                shutil.rmtree(os.fsdecode(name[:-1]), ignore_errors=True)
                continue
            remove = os.rmdir if os.path.isdir(name) and not os.path.islink(name) else os.unlink
            with contextlib.suppress(OSError):
                remove(name)  # a folder where it is empty, and no link
    shutil.rmtree(folder, ignore_errors=True)


def memory_bytes(process: int) -> int:
    """Anonymous memory of a process and of all that it has started; 0 where the system does not tell."""
    total = 0
    for one in (process, *descendants(process)):
        with contextlib.suppress(OSError, ValueError):
            status = Path(f"/proc/{one}/status").read_bytes()
            start = status.index(b"RssAnon:") + 8
            total += int(status[start : status.index(b"kB", start)]) << 10
    return total


def over_time(limits: Limits, words: LastWords) -> Death:
    """Why a process was killed that has taken too long."""
    return Death(f"stopped after {limits.time_s:g} s{_while(words)}", "`--timeout` (`timeout_s=`) allows more")


def over_memory(limits: Limits, words: LastWords) -> Death:
    """Why a process was killed that has taken too much memory."""
    assert limits.memory_bytes is not None
    return Death(
        f"stopped at {limits.memory_bytes / (1 << 30):.3g} GiB of memory{_while(words)}",
        "`--memory-limit` (`memory_limit_bytes=`) allows more; fewer values (`--select`) or samples take less",
    )


def why_it_died(number: int, words: LastWords) -> Death:
    """Why a process has died of a signal that we have not sent."""
    try:
        name = signal.Signals(number).name
    except ValueError:  # one of those for real time have no names
        name = f"signal {number}"
    if name == "SIGKILL":
        return Death(f"killed from outside{_while(words)}", "the system does that when memory runs out")
    if name in _FROM_OUTSIDE:
        return Death(f"ended from outside ({name}){_while(words)}", "run it again")
    subject = "onnxruntime has crashed" if words.doing else "the process has crashed"
    return Death(f"{subject} ({name}){_while(words)}", "fewer values (`--select`) show which one it is")


def _while(words: LastWords) -> str:
    if not words.doing:
        return ""
    part, *wholes = words.doing
    return f" while {part}" + (f" ({', '.join(wholes)})" if wholes else "")
