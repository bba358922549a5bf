"""What onnxruntime says of what it refuses, a model or a library, in a line; and libraries that end the process."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from onnxscope.base.text import printable

__all__ = ["ends_process", "library_reason", "provider_reason", "reason_of"]

# ` : 1 : FAIL : ` and `/onnxruntime_src/…/utils.cc:295 void onnxruntime::f(int) `
_SOURCE_PLACE = re.compile(r"^ : \d+ : \w+ : |\S*/onnxruntime_src/\S+:\d+ (?:[^()]*\([^()]*\)(?: const)?)?")
_PLUG_IN_PLACE = re.compile(r"(Exception from|Check '.*' failed at) \S+:\d+:?$")


def reason_of(error: Exception) -> str:
    """Return the first line of onnxruntime's message without status codes and places in its own source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = _SOURCE_PLACE.sub("", lines[0].rpartition("[ONNXRuntimeError]")[2]).strip(" :.")
    if text.endswith("for the following indices"):  # a wrong shape: which axes they are stands in the next lines
        axes = itertools.takewhile(lambda line: line.strip().startswith("index:"), lines[1:])
        text = f"{text}: {', '.join(axis.strip() for axis in axes)}"
    return printable(text or type(error).__name__)[:300]


def provider_reason(error: Exception) -> str:
    """Return the first line of a plug-in's message that says something: places in its source may come before it."""
    lines = str(error).strip().splitlines()
    said = [line for line in lines if line.strip() and not _PLUG_IN_PLACE.search(line)]
    return printable(said[0].strip(" :."))[:300] if said and said[0] is not lines[0] else reason_of(error)


def library_reason(error: Exception, library: Path) -> str:
    """Return the first line of onnxruntime's message on a library without what it says of itself, and the path."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for lead in ("with error: ", "[ONNXRuntimeError] : "):
        text = text.rpartition(lead)[2]
    return printable(text.replace(f"{library}: ", ""))[:200]


@cache
def ends_process(loading: str, library: Path) -> bool:
    """Whether loading a library kills a process, as a file that was cut off does: tried in another one, once.

    Args:
        loading: A program that loads the library of its first argument.
        library: Its path.
    """
    done = subprocess.run([sys.executable, "-c", loading, str(library)], capture_output=True, check=False)
    return done.returncode < 0
