"""One process infers types for many tests: starting one for each model takes longer than the inference."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from onnxscope.model import type_inference

_START = type_inference._started_child
# They look at processes.
_ALONE = ("test_isolation.py", "test_limits.py", "test_supervision.py", "test_type_inference.py")
_KEPT_S = 20  # of the minute after which it is killed


class KeptChildren:
    """Children that have answered, for who asks next; one that has not is ended, as ever."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self.idle: list[tuple[contextlib.ExitStack, type_inference._Child, float]] = []

    @contextlib.contextmanager
    def started(self) -> Iterator[type_inference._Child]:
        if os.getpid() != self.process_id:  # a fork shares the pipes
            with _START() as child:
                yield child
            return
        with contextlib.ExitStack() as stack:
            kept, child, end_s = self._taken()
            stack.push(kept)
            yield child
            self.idle.append((stack.pop_all(), child, end_s))

    def _taken(self) -> tuple[contextlib.ExitStack, type_inference._Child, float]:
        with contextlib.suppress(IndexError):  # none is left, perhaps because another thread was first
            while True:
                kept, child, end_s = self.idle.pop()
                if time.monotonic() < end_s:
                    return kept, child, end_s
                kept.close()
        kept = contextlib.ExitStack()
        return kept, kept.enter_context(_START()), time.monotonic() + _KEPT_S

    def close(self) -> None:
        while self.idle:
            self.idle.pop()[0].close()


@pytest.fixture(scope="session")
def kept_children() -> Iterator[KeptChildren]:
    children = KeptChildren()
    yield children
    children.close()


@pytest.fixture(autouse=True)
def _one_child_infers_types(request, monkeypatch, kept_children):
    if request.path.name in _ALONE:
        kept_children.close()
    else:
        monkeypatch.setattr(type_inference, "_started_child", kept_children.started)
