"""A call in a process of its own, under limits: `isolated`.

Commands are run so by themselves. In the library it is a choice, since a process has to be started for it, which
imports everything again: about a second. What comes back is pickled by that process, its arrays apart from it: they
stand in a file that is mapped, so that none is copied.

It is protection against crashes, endless loops and full memory, not a sandbox: the process may do what the user may.
"""

from __future__ import annotations

import copyreg
import io
import json
import mmap
import os
import pickle  # noqa: TID251 - what comes back was pickled by a process that we have started ourselves
import subprocess
import sys
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from onnxscope.base import option_types
from onnxscope.base.last_words import read_last_words
from onnxscope.base.limits import (
    MEMORY_LIMIT,
    Limits,
    clean,
    default_memory_bytes,
    follow,
    kill,
    memory_bytes,
    new_folder,
    over_memory,
    over_time,
    why_it_died,
)
from onnxscope.base.text import first_line
from onnxscope.errors import InputError, RunError

__all__ = ["isolated", "serve"]

_LOOK_EVERY_S = 0.05
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); import onnxscope.base.isolation as our; our.serve()"
)
_Result = TypeVar("_Result")


@option_types.checked
def isolated(
    function: Callable[..., _Result],
    *arguments: Any,
    timeout_s: float | None = None,
    memory_limit_bytes: int | None = None,
    **options: Any,
) -> _Result:
    """Call a function in a process of its own, so that a model that crashes onnxruntime, or never ends, does no harm.

        onnxscope.isolated(onnxscope.stats, "model.onnx", "images/", timeout_s=60)

    Args:
        function: One that another process can import by its name, such as those of onnxscope.
        *arguments: What it is called with; they are pickled.
        timeout_s: Seconds until it is killed; never by default.
        memory_limit_bytes: Anonymous memory at which it is killed, on Linux; by default four fifths of what the
            machine, or the container, has.
        **options: What it is called with by name.

    Returns:
        What it returns. Arrays are the caller's own.

    Raises:
        InputError: The function, or what it is called with, cannot be had in another process.
        RunError: The process has crashed, or was killed at a limit: what it was doing, and by what. Or it was not
            started, since there is no place for temporary files.
        Exception: What the function raises.
    """
    if getattr(function, "__module__", None) == "__main__":
        raise InputError(
            f"another process cannot import {function.__qualname__} from the program that was started",
            hint="put it into a module",
        )
    try:
        call = _pickled((function, arguments, options))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        name = getattr(function, "__qualname__", repr(function))
        raise InputError(
            f"it cannot be called in another process ({first_line(error)}): {name}",
            hint="give a function of a module, and paths or arrays",
        ) from error
    limits = Limits(timeout_s, default_memory_bytes() if memory_limit_bytes is None else memory_limit_bytes)
    try:
        folder, words = new_folder()
    except OSError as error:
        raise RunError(
            f"no folder for temporary files can be made ({error.strerror}): {error.filename}",
            hint="`TMPDIR` names another place",
        ) from error
    try:
        Path(folder, "call").write_bytes(call)
        with words:
            _wait(_start(folder, limits), limits, words)
        succeeded, answer = _answer(folder)
    finally:
        clean(folder)
    if not succeeded:
        raise answer
    result: _Result = answer
    return result


def _start(folder: str, limits: Limits) -> subprocess.Popen[bytes]:
    """Start the process; its stdin is the pipe whose end tells it that we are gone."""
    command = [sys.executable, "-c", _PROGRAM, folder, json.dumps(sys.path), json.dumps(limits.memory_bytes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def _wait(process: subprocess.Popen[bytes], limits: Limits, words: FileIO) -> None:
    end_s = None if limits.time_s is None else time.monotonic() + limits.time_s
    death = None
    try:
        while death is None:
            try:
                process.wait(_LOOK_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                if end_s is not None and time.monotonic() > end_s:
                    death = over_time(limits, read_last_words(words))
                elif limits.memory_bytes is not None and memory_bytes(process.pid) > limits.memory_bytes:
                    death = over_memory(limits, read_last_words(words))
    finally:
        kill(process.pid)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    if death is None and process.returncode < 0:
        death = why_it_died(-process.returncode, read_last_words(words))
    if death is not None:
        raise RunError(death.reason, hint=death.hint)


def _answer(folder: str) -> tuple[bool, Any]:
    """Whether the call has succeeded, and what it has returned or raised."""
    try:
        content = Path(folder, "answer").read_bytes()
    except FileNotFoundError as error:
        raise RunError("the other process has ended without an answer") from error
    sizes: list[int] = json.loads(Path(folder, "sizes").read_text(encoding="ascii"))
    with open(os.path.join(folder, "arrays"), "rb") as stream:
        if os.name == "nt" or not sum(sizes):  # Windows removes no file that is mapped; nothing cannot be mapped
            whole = memoryview(bytearray(stream.read()))
        else:
            whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    buffers, start = [], 0
    for size in sizes:
        buffers.append(whole[start : start + size])
        start += _padded(size)
    answer: tuple[bool, Any] = pickle.loads(content, buffers=buffers)  # noqa: S301 - see the import
    return answer


def _padded(size: int) -> int:
    """Where the next array begins: aligned as numpy's own are."""
    return -(-size // 64) * 64


def _pickled(content: Any, take_buffer: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5, buffer_callback=take_buffer)
    pickler.dispatch_table = {**copyreg.dispatch_table, MappingProxyType: _reduced}
    pickler.dump(content)
    return stream.getvalue()


def _reduced(view: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _read_only, (dict(view),)


def _read_only(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(content)


def serve() -> None:
    """The other process: call, and answer."""
    folder, limits = sys.argv[1], Limits(None, json.loads(sys.argv[3]))
    follow(os.dup(0), folder, limits)
    if limits.memory_bytes is not None:
        os.environ[MEMORY_LIMIT] = str(limits.memory_bytes)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        function, arguments, options = pickle.loads(Path(folder, "call").read_bytes())  # noqa: S301 - our caller's
        answer: tuple[bool, Any] = (True, function(*arguments, **options))
        _write(folder, answer)
    except BaseException as error:
        try:
            _write(folder, (False, error))
        except Exception:  # an exception that cannot be pickled
            _write(folder, (False, RunError(first_line(f"{type(error).__name__}: {error}"))))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _write(folder: str, answer: tuple[bool, Any]) -> None:
    buffers: list[pickle.PickleBuffer] = []
    content = _pickled(answer, buffers.append)
    views = [buffer.raw() for buffer in buffers]
    with open(os.path.join(folder, "arrays"), "wb") as stream:
        for view in views:
            stream.write(view)
            stream.seek(_padded(view.nbytes) - view.nbytes, os.SEEK_CUR)
        stream.truncate()
    Path(folder, "sizes").write_text(json.dumps([view.nbytes for view in views]), encoding="ascii")
    Path(folder, "answer").write_bytes(content)
