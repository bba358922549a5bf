"""What a served onnxruntime session is fed: some of it is kept, and profiled when somebody asks: `watch()`."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxscope.base import option_types
from onnxscope.base.text import counted, first_line
from onnxscope.errors import InputError
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.profiling.dataset_run import stats
from onnxscope.profiling.dataset_statistics import DatasetStatistics

__all__ = ["WatchedSession", "watch"]

_SHARE = 0.01  # of the session's time that watching may take


@option_types.checked
def watch(
    session: Any,
    every: int = 100,
    *,
    model: Any = None,
    limit: int = 512,
    memory_budget_bytes: int = 256 << 20,
    custom_ops: CustomOps = (),
) -> WatchedSession:
    """Keep some of what a served session is fed, to make a profile of it when somebody asks.

    One run in `every` has its inputs copied; copying takes at most 1 % of the session's time, and what is beyond that
    is left out. Of all that was copied an even random sample stays, so that memory does not grow. Nothing else is done
    while the session serves; a fault in watching is counted, and never reaches who is served.

    Args:
        session: An `onnxruntime.InferenceSession`, which is not changed: serve with what this returns in its place.
        every: Of how many runs one is kept.
        model: Its path, a `ModelProto` or a loaded `Model`, None for what the session itself was made of.
        limit: How many runs are kept at most.
        memory_budget_bytes: How much memory their inputs may take.
        custom_ops: Libraries of custom operators that the model needs.

    Raises:
        InputError: A number is below 1, or it is not known what the session was made of.
        ModelError: The model cannot be read.
    """
    for name, number in (("every", every), ("limit", limit), ("memory_budget_bytes", memory_budget_bytes)):
        if number < 1:
            raise InputError(f"{name} is {number}, and has to be at least 1")
    source = _source(session) if model is None else model
    loaded = load_model(source, custom_ops=custom_ops)
    return WatchedSession(session, loaded, every=every, limit=limit, memory_budget_bytes=memory_budget_bytes)


class WatchedSession:
    """A session that keeps some of what it is fed; all else is the session's own. Threads may share it.

    Attributes:
        session: Who is served with.
        model: What it was made of.
    """

    def __init__(self, session: Any, model: Model, *, every: int, limit: int, memory_budget_bytes: int) -> None:
        self.session = session
        self.model = model
        self._every = every
        self._limit = limit
        self._budget_bytes = memory_budget_bytes
        self._runs = itertools.count(1)
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self._kept: list[dict[str, NDArray[Any]]] = []
        self._kept_bytes = 0
        self._copied = 0
        self._left_out = 0
        self._debt_s = 0.0
        self._faults: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """What is not watched, such as `get_inputs`, is the session's."""
        if name == "session":  # before there is one, as when it is copied
            raise AttributeError(name)
        return getattr(self.session, name)

    def run(self, output_names: Any, input_feed: Mapping[str, Any], run_options: Any = None) -> Any:
        """Run the session; one run in `every` has its inputs kept."""
        if next(self._runs) % self._every:
            return self.session.run(output_names, input_feed, run_options)
        return self._watched(self.session.run, output_names, input_feed, run_options)

    def run_with_ort_values(self, output_names: Any, input_feed: Mapping[str, Any], run_options: Any = None) -> Any:
        """The same for inputs that are `OrtValue`."""
        if next(self._runs) % self._every:
            return self.session.run_with_ort_values(output_names, input_feed, run_options)
        return self._watched(self.session.run_with_ort_values, output_names, input_feed, run_options)

    @property
    def sampled(self) -> tuple[Mapping[str, NDArray[Any]], ...]:
        """The inputs that are kept, by name, run by run; not to be changed."""
        with self._lock:
            return tuple(self._kept)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for people: what was left out to keep the session fast, and what could not be kept."""
        with self._lock:
            notes = []
            if self._left_out:
                left_out = counted(self._left_out, "run")
                notes.append(f"{left_out} left out: copying more would take over 1 % of the session's time")
            if self._faults:
                notes.append(f"{counted(len(self._faults), 'run')} could not be kept; the first: {self._faults[0]}")
            return tuple(notes)

    def profile(self, **options: Any) -> DatasetStatistics:
        """Return statistics of every layer over what is kept: `stats()` of `sampled`, which runs it again.

        That takes its time where it is called, in a thread or a process of your own; serving goes on beside it.

        Args:
            options: Of `stats()`: `select`, `at`, `batch_size`, …

        Raises:
            InputError: Nothing has been kept yet, or what `stats()` raises.
            RunError: onnxruntime fails.
        """
        kept = self.sampled
        if not kept:
            hint = self.notes[0] if self.notes else f"one run in {self._every:,} is kept"
            raise InputError("nothing that was served has been kept yet", hint=hint)
        return stats(self.model, list(kept), **options)

    def _watched(self, call: Any, output_names: Any, input_feed: Mapping[str, Any], run_options: Any) -> Any:
        start = time.perf_counter()
        answers = call(output_names, input_feed, run_options)
        earned_s = (time.perf_counter() - start) * self._every * _SHARE
        try:
            self._keep(input_feed, earned_s)
        except Exception as error:  # whoever is served must not suffer
            with self._lock:
                self._faults.append(first_line(error))
        return answers

    def _keep(self, feed: Mapping[str, Any], earned_s: float) -> None:
        with self._lock:
            self._debt_s = max(self._debt_s - earned_s, -earned_s)
            if self._debt_s > 0:
                self._left_out += 1
                return
            start = time.thread_time()  # not what others do while this thread waits for a core
            try:
                self._place(feed)
            finally:
                self._debt_s += time.thread_time() - start

    def _place(self, feed: Mapping[str, Any]) -> None:
        """Keep a copy, in the place of another where there is no room: each run stays with the same chance.

        References:
            Vitter, "Random Sampling with a Reservoir", 1985: algorithm R.
        """
        self._copied += 1
        if len(self._kept) >= self._limit:
            place = self._random.randrange(self._copied)
            if place >= self._limit:
                return
            self._kept[place] = _copied(feed)
            return
        copy = _copied(feed)
        size = sum(array.nbytes for array in copy.values())
        if self._kept_bytes + size > self._budget_bytes:
            self._limit = max(len(self._kept), 1)
            if self._kept:
                return
        self._kept_bytes += size
        self._kept.append(copy)


def _copied(feed: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Arrays of our own: the caller may go on to write into theirs."""
    return {name: np.array(value.numpy() if hasattr(value, "has_value") else value) for name, value in feed.items()}


def _source(session: Any) -> Any:
    """What a session was made of."""
    path, stored = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
    if path:
        return path
    if isinstance(stored, bytes):
        return ModelProto.FromString(stored)
    kind = type(session).__name__
    raise InputError(f"it is not known which model a {kind} runs", hint="name it: `watch(session, model=...)`")
