"""Read the profile that onnxruntime writes: which nodes ran, in which order, for how long, within which others.

The file holds an event a line, at its end. So an event that encloses others, as that of an If encloses those of its
branch, comes after them, and began no later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Call", "ModelRun", "read_profile"]

_SUFFIX = "_kernel_time"
_START = '{"cat"'
_EXECUTOR = "SequentialExecutor::Execute"
_HEAD = re.compile(r'"cat"\s*:\s*"(\w+)".*?"dur"\s*:\s*(\d+).*?"ts"\s*:\s*(\d+)', re.DOTALL)


@dataclass(frozen=True, eq=False)
class Call:
    """One node, run once.

    Attributes:
        name: As onnxruntime calls it.
        op_type: Its operator, empty where the line cannot be read.
        duration_us: What it took, bodies included.
        in_use_bytes: What values took when it had run, None where this onnxruntime does not say.
        peak_bytes: The most that they have taken until then, likewise.
        bodies: What ran inside it: the calls of one run of one body each.
    """

    name: str
    op_type: str
    duration_us: int
    in_use_bytes: int | None
    peak_bytes: int | None
    bodies: tuple[tuple[Call, ...], ...]


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One run of the model: what it took altogether, and its calls in order."""

    duration_us: int
    calls: tuple[Call, ...]


@dataclass(frozen=True, eq=False)
class _Ended:
    """An event and the time at which it began."""

    start_us: int
    what: Call | tuple[Call, ...]


def read_profile(path: Path) -> list[ModelRun]:
    """Read the runs of a profile, in order."""
    runs: list[ModelRun] = []
    ended: list[_Ended] = []
    for event in _events(path):
        start_us, duration_us, name = event["ts"], event["dur"], event.get("name")
        if event["cat"] == "Node":
            bodies = tuple(what for what in _within(ended, start_us, tuple) if isinstance(what, tuple))
            ended.append(_Ended(start_us, _call(event, bodies)))
        elif name == _EXECUTOR:
            calls = tuple(what for what in _within(ended, start_us, Call) if isinstance(what, Call))
            ended.append(_Ended(start_us, calls))
        elif name == "model_run":
            last = ended[-1].what if ended else ()
            runs.append(ModelRun(duration_us, last if isinstance(last, tuple) else ()))
            ended.clear()
    return runs


def _within(ended: list[_Ended], start_us: int, kind: type) -> list[Call | tuple[Call, ...]]:
    """Take the last events that began no earlier: those of nodes, or of executors."""
    first = len(ended)
    while first and ended[first - 1].start_us >= start_us and isinstance(ended[first - 1].what, kind):
        first -= 1
    taken = [one.what for one in ended[first:]]
    del ended[first:]
    return taken


def _call(event: dict[str, Any], bodies: tuple[tuple[Call, ...], ...]) -> Call:
    told = event.get("args", {})
    name = str(event.get("name", ""))
    return Call(
        name=name.removesuffix(_SUFFIX),
        op_type=str(told.get("op_name", "")),
        duration_us=event["dur"],
        in_use_bytes=_number(told.get("mem_bytes_in_use")),
        peak_bytes=_number(told.get("mem_in_use_peak")),
        bodies=bodies,
    )


def _number(text: Any) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The events; names of values may stand in them unescaped, and of a line that they break the times alone count."""
    for text in _texts(path):
        try:
            yield json.loads(text)
        except ValueError:
            head = _HEAD.search(text)
            if head is not None:
                yield {"cat": head[1], "dur": int(head[2]), "ts": int(head[3])}


def _texts(path: Path) -> Iterator[str]:
    kept = ""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            if line.startswith(_START):
                if kept:
                    yield kept.strip().rstrip(",")
                kept = line
            elif kept and line.strip() != "]":
                kept += line
    if kept:
        yield kept.strip().removesuffix("]").strip().rstrip(",")
