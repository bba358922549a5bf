"""A Python environment with a release of onnxruntime, and what becomes of a model that is run in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxscope.base.limits import allowed_memory_bytes, kill, memory_bytes
from onnxscope.base.text import printable
from onnxscope.errors import RunError

__all__ = ["Ending", "Environment", "JobEnd", "run_task"]

Ending = Literal["ran", "crashed", "failed", "late", "unusable"]
"""It ran; the process has died of a signal; onnxruntime refuses or fails; it did not end; the release cannot be tried:
it cannot be imported, or does not know the model's format or operators."""

_SCRIPT = Path(__file__).with_name("scripts") / "run_task.py.txt"
_LOOK_EVERY_S = 0.02
_LONGEST = 200
_CODE = re.compile(
    r"^\w+: ?|\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/onnxruntime_src/\S+:\d+ (?:[^()]*\([^()]*\)(?: const)?)?"
)
_UNKNOWN = re.compile(
    r"Unsupported model IR version|(?:only \*guarantees\* support|is under development)|[Oo]pset \d+ is"
    r"|is not a registered function/op|No Op registered for|NOT_IMPLEMENTED|Could not find an implementation"
    r"|Failed to find kernel"
)


@dataclass(frozen=True)
class Environment:
    """Where a release of onnxruntime can be imported.

    Attributes:
        name: The release, or the path of the interpreter: what results call it.
        command: What starts its Python, before the script that it is to run.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class JobEnd:
    """How one job has ended.

    Attributes:
        ending: In one word.
        detail: The signal's name, or the message.
        doing: What it was doing: `importing`, `loading` or `running`.
    """

    ending: Ending
    detail: str = ""
    doing: str = ""

    @property
    def text(self) -> str:
        """In words."""
        while_doing = f" while {self.doing}" if self.doing else ""
        words = {
            "ran": "runs",
            "crashed": f"crashes ({self.detail}){while_doing}",
            "failed": f"fails{while_doing}: {self.detail}",
            "late": f"does not end within {self.detail}{while_doing}",
            "unusable": self.detail,
        }
        return words[self.ending]


@dataclass(frozen=True)
class TaskEnd:
    """How a task has ended.

    Attributes:
        jobs: By name; one that was not begun is missing.
        versions: Of `onnxruntime`, `numpy` and `python`, where these could be imported.
        failure: Why nothing was begun, or None.
    """

    jobs: Mapping[str, JobEnd]
    versions: Mapping[str, str] = field(default_factory=dict)
    failure: JobEnd | None = None


def run_task(
    environment: Environment, task: Mapping[str, Any], folder: Path, *, working_folder: Path | None, timeout_s: float
) -> TaskEnd:
    """Run a model in an environment, in a process of its own.

    Args:
        environment: Where.
        task: What the script `run_task` reads.
        folder: Where what the task names lies; answers appear there.
        working_folder: Of the model's weights.
        timeout_s: Seconds until the process is killed.

    Raises:
        RunError: The process cannot be started, or has come to the limit of memory.
    """
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    said = folder / "said.jsonl"
    said.unlink(missing_ok=True)
    with open(folder / "stderr.txt", "wb") as errors:
        try:
            process = subprocess.Popen(
                [*environment.command, str(_SCRIPT), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=working_folder,
                start_new_session=True,
            )
        except OSError as error:
            raise RunError(
                f"no Python can be started ({error.strerror}): {printable(environment.command[0])}",
                hint="name an interpreter that has onnxruntime and numpy",
            ) from error
        is_late = _wait(process, timeout_s)
    lines = []
    with contextlib.suppress(FileNotFoundError, ValueError):  # a line that is cut off by a crash
        for line in said.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(line))
    words = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")
    return _told(lines, process.returncode, f"{timeout_s:g} s" if is_late else None, words)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end, at the limits kill; whether it was the limit of time."""
    end_s, most = time.monotonic() + timeout_s, allowed_memory_bytes()
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_EVERY_S)
                return False
            if time.monotonic() > end_s:
                return True
            if most is not None and memory_bytes(process.pid) > most:
                raise RunError(
                    f"stopped at {most / (1 << 30):.3g} GiB of memory while another release ran the model",
                    hint="`--memory-limit` allows more; `--limit` takes fewer samples",
                )
    finally:
        if process.poll() is None:
            kill(process.pid)
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _told(lines: Sequence[Mapping[str, Any]], code: int, late: str | None, words: str) -> TaskEnd:
    versions = {name: line[name] for line in lines for name in ("onnxruntime", "numpy", "python") if name in line}
    jobs: dict[str, JobEnd] = {}
    doing: dict[str, str] = {}
    for line in lines:
        job = line.get("job")
        if job is None:
            if "error" in line:
                return TaskEnd({}, versions, JobEnd("unusable", f"cannot be imported: {_reason(line['error'])}"))
        elif "error" in line:
            error = line["error"]
            ending: Ending = "unusable" if doing.get(job) == "loading" and _UNKNOWN.search(error) else "failed"
            jobs[job] = JobEnd(ending, _reason(error), "" if ending == "unusable" else doing.get(job, ""))
        elif line["doing"] == "done":
            jobs[job] = JobEnd("ran")
        else:
            doing[job] = line["doing"]
    begun = next((job for job in reversed(doing) if job not in jobs), None)
    if late is None and not code:
        return TaskEnd(jobs, versions)
    if late is not None:
        end = JobEnd("late", late, doing.get(begun or "", "importing"))
    else:
        end = JobEnd("crashed", _signal(code, words), doing.get(begun or "", "importing"))
    if begun is not None:
        return TaskEnd({**jobs, begun: end}, versions)
    if not versions:
        detail = words.strip().splitlines()[-1:] or [end.text]
        return TaskEnd({}, versions, JobEnd("unusable", f"cannot be started: {printable(detail[0])[:_LONGEST]}"))
    return TaskEnd(jobs, versions)  # all was done, and it has crashed at its end


def _signal(code: int, words: str) -> str:
    """The name of the signal, or the exit code; what the process has said last before it gave up itself."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # one of those for real time have no names
        name = f"signal {-code}"
    said = [line.strip() for line in words.splitlines() if line.strip()]
    return f"{name}: {printable(said[-1])[:_LONGEST]}" if name == "SIGABRT" and said else name


def _reason(error: str) -> str:
    """The first line of a message without codes and places in onnxruntime's source."""
    text = error
    for _ in range(3):
        text = _CODE.sub("", text, count=1).strip(" :")
    return printable((text.splitlines() or [error])[0].strip(" :."))[:_LONGEST]


def python_command(python: str | os.PathLike[str]) -> tuple[str, ...]:
    """What starts a Python that sees nothing but what is installed for it."""
    return (os.fspath(python), "-I")
