"""Trials of models that may crash, hang or eat memory: a process loads the engines once, and forks for each trial."""

from __future__ import annotations

import contextlib
import json
import os
import pickle  # noqa: TID251 - between processes that we have started ourselves
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from onnxscope.base.last_words import keep_last_words, new_last_words, read_last_words
from onnxscope.base.limits import Limits, allowed_memory_bytes, clean, follow, kill, new_folder
from onnxscope.base.text import first_line
from onnxscope.errors import RunError
from onnxscope.shrinking.trial_run import Question, answer

__all__ = ["Outcome", "Trials", "serve"]

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import onnxscope.shrinking.trials as our; our.serve()"
)
_NAPS_S = (0.001, 0.02)
_WORDS = "words of a trial"


@dataclass(frozen=True)
class Outcome:
    """How a trial has ended.

    Attributes:
        kind: It has answered; an engine has refused the model or failed; it has crashed; it took too long.
        detail: The engine's message; the signal's name; of a trial that took too long what it was doing.
        answer: Of `trial_run.answer`, None where it has not answered.
    """

    kind: Literal["answered", "failed", "crashed", "late"]
    detail: str = ""
    answer: Any = None


class Trials:
    """A process that makes trials, one at a time. A context manager; it ends with the block.

    Raises:
        RunError: There is no place for temporary files, or no process can be started.
    """

    def __init__(self, timeout_s: float) -> None:
        """Start the process.

        Args:
            timeout_s: Seconds of a trial until it is killed.
        """
        self.timeout_s = timeout_s
        self.count = 0
        if not hasattr(os, "fork"):
            raise RunError("this system cannot fork, so nothing can be shrunk", hint="use Linux or macOS")
        try:
            self._folder, words = new_folder()
        except OSError as error:
            raise RunError(
                f"no folder for temporary files can be made ({error.strerror}): {error.filename}",
                hint="`TMPDIR` names another place",
            ) from error
        words.close()  # what a trial is asked is known
        end, self._lifeline = os.pipe()
        limits = json.dumps([allowed_memory_bytes(), end, self._folder])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[end],
        )
        os.close(end)

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kill(self._process.pid)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        os.close(self._lifeline)
        clean(self._folder)

    def ask(self, question: Question, timeout_s: float | None = None) -> Outcome:
        """Make a trial.

        Args:
            question: What is run, and what is to be told.
            timeout_s: Seconds until it is killed, in place of the usual ones.

        Raises:
            RunError: The process that makes trials has ended.
        """
        self.count += 1
        Path(self._folder, "question").write_bytes(pickle.dumps(question, protocol=5))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(timeout_s or self.timeout_s).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = b""
        if not line:
            raise RunError("the process that makes trials has ended", hint="run it again with more memory")
        kind, detail = json.loads(line)
        if kind != "answered":
            return Outcome(kind, detail)
        content = Path(self._folder, "answer").read_bytes()
        return Outcome("answered", "", pickle.loads(content))  # noqa: S301 - see the import


def serve() -> None:
    """The process that makes trials: fork for each, and tell how it has ended."""
    memory_bytes, lifeline, folder = json.loads(sys.argv[2])
    follow(lifeline, folder, Limits(None, memory_bytes))
    _load_engines()
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # engines print when they crash
        os.dup2(nowhere, stream)
    for line in iter(lambda: _line(0), b""):
        told = _tried(folder, json.loads(line))
        os.write(answers, json.dumps(told).encode() + b"\n")
    os._exit(0)


def _load_engines() -> None:
    from onnxscope.runtime.session import runtime_version

    runtime_version()
    import onnx.reference
    import onnx.shape_inference  # noqa: F401


def _line(stream: int) -> bytes:
    """A line, read without a buffer, so that `select` sees what is there."""
    content = b""
    while not content.endswith(b"\n"):
        one = os.read(stream, 1)
        if not one:
            return b""
        content += one
    return content


def _tried(folder: str, timeout_s: float) -> tuple[str, str]:
    for name in ("answer", "error", _WORDS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    with new_last_words(os.path.join(folder, _WORDS)) as words:
        return _ended(folder, timeout_s, words)


def _ended(folder: str, timeout_s: float, words: FileIO) -> tuple[str, str]:
    child = os.fork()
    if not child:
        _be_trial(folder)
    end_s, nap_s = time.monotonic() + timeout_s, _NAPS_S[0]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        is_over = time.monotonic() > end_s
        if is_over or select.select([0], [], [], nap_s)[0]:  # nobody asks while we work: who asks is gone
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "late", ", ".join(read_last_words(words).doing[:1])
        nap_s = min(_NAPS_S[1], 1.5 * nap_s)
    if os.WIFSIGNALED(status):
        return "crashed", signal.Signals(os.WTERMSIG(status)).name
    error = Path(folder, "error")
    if error.is_file():
        return "failed", error.read_text(encoding="utf-8")
    if not Path(folder, "answer").is_file():
        return "crashed", f"exit code {os.WEXITSTATUS(status)}"
    return "answered", ""


def _be_trial(folder: str) -> None:
    import resource  # not on Windows, which cannot fork either

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        keep_last_words(os.path.join(folder, _WORDS))
        question = pickle.loads(Path(folder, "question").read_bytes())  # noqa: S301 - our caller's
        _keep(folder, "answer", lambda: pickle.dumps(answer(question), protocol=5))
    except BaseException as error:
        text = str(error) if isinstance(error, RunError) else first_line(f"{type(error).__name__}: {error}")
        _keep(folder, "error", text.encode)
    os._exit(0)


def _keep(folder: str, name: str, content: Callable[[], bytes]) -> None:
    made = content()
    Path(folder, name).write_bytes(made)
