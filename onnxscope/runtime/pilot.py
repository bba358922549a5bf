"""A tapped model before anything is measured: what its values look like, and the values of the first samples.

A pilot is one session, made once for all that a run wants to know of a model: pictures, a plan for statistics, what
two models hold side by side. Its first run is made on few samples, and its answer is kept where it is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import RunError
from onnxscope.model.loading import Model
from onnxscope.runtime.half_range import Unfit, merged_unfit, open_watched
from onnxscope.runtime.sample_growth import SampleShapes, sample_shapes
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import TappedModel, expose, unused_prefix, was_not_executed
from onnxscope.runtime.tapped_runs import (
    TapShapes,
    is_number,
    is_tensor,
    numbered,
    numpy_name,
    run_tapped,
    within_budget,
)
from onnxscope.selection.selectors import Tap

__all__ = ["Pilot"]

Array = NDArray[Any]
_NOT_EXECUTED = "not executed on this input"
_SMALL_BYTES = 32 << 20  # of values


class Pilot:
    """One model with its taps as outputs.

    Attributes:
        model: The model.
        taps: What is observed.
        tapped: The tapped copy.
        exposed: For each tap that can be observed the output of the tapped copy that carries it.
        outputs: The same, of those that hold numbers.
        composites: The same, of taps at the model's own outputs that are no tensors of numbers.
        kinds: Of every tap that can be observed, numpy's name of the element type or onnxruntime's of anything else.
        reasons: Why the other taps hold no numbers; the first run adds what it did not reach.
        shapes: In the first run.
        kept_back: Taps that it computes, and its provider does not give.
        feeds: What the first run was fed.
        unfit: Values of half precision that held numbers beyond their type in the first run, or in another that was
            watched, in execution order.
    """

    def __init__(self, model: Model, taps: Sequence[Tap], options: RunOptions) -> None:
        """Open the session; nothing is run yet.

        Args:
            model: It is not changed.
            taps: No two of them are equal; their names do not matter.
            options: Threads, and what values may take that leave onnxruntime.

        Raises:
            RunError: onnxruntime refuses the model.
        """
        self.model = model
        self.taps = taps
        self._budget = options.memory_budget_bytes // 2
        self._threads = options.threads
        self.kinds: dict[Tap, str] = {}
        self.reasons: dict[Tap, str] = {}
        self.kept_back: frozenset[Tap] = frozenset()
        self.shapes: dict[Tap, tuple[int, ...]] = {}
        self.feeds: Mapping[str, Array] = {}
        self.unfit: tuple[Unfit, ...] = ()
        self._session: Session | None = None
        self._tap_shapes: TapShapes | None = None
        self._values: dict[str, Any] = {}
        self._sample_shapes: SampleShapes | None = None
        self._watched: Mapping[str, Array] | None = None
        try:
            self._expose(taps)
        except RunError:
            lifted = [tap for tap in taps if tap.path]
            if model.running.provider.is_cpu or not lifted:
                raise
            # A provider that runs a body may not run one that gives more, of other shapes in each branch.
            self._expose([tap for tap in taps if not tap.path])
            self.reasons |= dict.fromkeys(lifted, f"{model.running.provider.name} does not give what lies in a body")
            self.kept_back = frozenset(lifted)

    def start(self, whole: Mapping[str, Array], few: Mapping[str, Array]) -> None:
        """Make the first run: on a whole batch where its values are small.

        Otherwise a few samples of it are enough: two tell the shapes, and the axis of samples from one of length 1.

        Args:
            whole: The first batch.
            few: Some of its samples. Some models run with the number of samples alone that they were exported with:
                they are fed the whole batch.

        Raises:
            RunError: onnxruntime fails.
        """
        expected = self._expected_bytes(whole)
        feeds = whole if expected is not None and expected <= _SMALL_BYTES else few
        try:
            self.run(feeds)
        except RunError:
            if feeds is whole:
                raise
            self.run(whole)

    def run(self, feeds: Mapping[str, Array]) -> None:
        """Make the first run, or make it again with other feeds.

        Args:
            feeds: For every input of the model. They are kept, and so are the values where all of them fit half the
                budget; others are computed when they are asked for.

        Raises:
            RunError: onnxruntime fails.
        """
        self.reasons = {tap: reason for tap, reason in self.reasons.items() if reason != _NOT_EXECUTED}
        self._values = {}
        self._sample_shapes = None
        self._watched, self.unfit = None, ()
        self._leave_out_broken(feeds)
        shapes = self._shapes(feeds, keep=True)
        self.shapes = {tap: shape for tap, shape in shapes.items() if tap in self.outputs}
        for tap in self.outputs:
            if tap not in self.shapes or (tap.path and was_not_executed(self.shapes[tap])):
                self.reasons[tap] = _NOT_EXECUTED
                self.shapes.pop(tap, None)
        self.feeds = feeds
        self.watch(feeds)

    def watch(self, feeds: Mapping[str, Array]) -> None:
        """Take the magnitudes of half precision in, where the model is fed something else than in the first run.

        Raises:
            RunError: onnxruntime fails.
        """
        if self._magnitudes.outputs and self._watched is not feeds:
            self._run(feeds, ())

    def shapes_of(self, feeds: Mapping[str, Array]) -> dict[Tap, tuple[int, ...]]:
        """Return the shapes of all taps that hold tensors, of numbers or not, where the model is fed something else.

        Raises:
            RunError: onnxruntime fails.
        """
        return self._shapes(feeds, keep=False)

    def sample_shapes(self, axes: Mapping[str, int | None]) -> SampleShapes:
        """Return all shapes for one sample of the first run, and for two where the model takes them; run once.

        Args:
            axes: Which axis of each input counts samples, None where none does.

        Raises:
            RunError: onnxruntime fails.
        """
        if self._sample_shapes is None:
            self._sample_shapes = sample_shapes(self.shapes_of, self.feeds, axes, self.shapes)
        return self._sample_shapes

    def values(self, outputs: Iterable[str], feeds: Mapping[str, Array] | None = None) -> Mapping[str, Any]:
        """Return values by the names of the tapped copy's outputs.

        Args:
            outputs: Of the tapped copy.
            feeds: Those of the first run by default, whose values are not computed again where they were kept.

        Raises:
            RunError: onnxruntime fails.
        """
        wanted = list(dict.fromkeys(outputs))
        feeds = self.feeds if feeds is None else feeds
        was_run = feeds.keys() == self.feeds.keys() and all(feeds[name] is self.feeds[name] for name in feeds)
        if was_run and all(output in self._values for output in wanted):
            return {output: self._values[output] for output in wanted}
        return self._run(feeds, wanted)

    def values_of(self, taps: Sequence[Tap], feeds: Mapping[str, Array]) -> dict[Tap, Array]:
        """Return the values of taps that hold numbers.

        Raises:
            RunError: onnxruntime fails.
        """
        outputs = {tap: self.outputs[tap] for tap in taps if tap in self.outputs}
        values = self.values(outputs.values(), feeds)
        return {tap: values[output] for tap, output in outputs.items()}

    def groups(self, outputs: Iterable[str]) -> list[list[str]]:
        """Cut outputs into groups whose numbers in the first run fit half the budget together."""
        sizes = {self.outputs[tap]: self._size(tap, shape) for tap, shape in self.shapes.items()}
        return within_budget(outputs, lambda output: sizes.get(output, 0), self._budget)

    @property
    def session(self) -> Session:
        """The session, opened again where it was closed."""
        if self._session is None:
            self._session = self._opened()
        return self._session

    def close(self) -> None:
        """Forget the first run's feeds and values, and give back the session's memory."""
        self._session = self._tap_shapes = None
        self._watched = None
        self.feeds = {}
        self._values = {}

    def _expose(self, taps: Sequence[Tap]) -> None:
        by_name = numbered(taps)
        self.tapped: TappedModel = expose(self.model, [replace(tap, name=name) for name, tap in by_name.items()])
        self._session = None  # so that no two sessions hold the weights of a large model at once
        self._session = self._opened()
        self._tap_shapes = None
        self.exposed = {by_name[name]: output for name, output in self.tapped.outputs.items()}
        self.kinds |= {tap: numpy_name(self._session.outputs[output]) for tap, output in self.exposed.items()}
        self.outputs = {tap: output for tap, output in self.exposed.items() if is_number(self.kinds[tap])}
        others = [tap for tap in by_name.values() if not tap.path and tap not in self.outputs]
        given = [name for name in self.tapped.declared if name in self._session.outputs]
        self.composites = {tap: tap.value for tap in others if tap.value in given}
        self.reasons |= {by_name[missed.name]: missed.reason for missed in self.tapped.unreachable}
        self.reasons |= {tap: _without_numbers(self.kinds[tap]) for tap in self.exposed.keys() - self.outputs.keys()}

    def _opened(self) -> Session:
        """A session that also gives the largest magnitudes of half precision; the tapped copy stays as it was."""
        session, self._magnitudes = open_watched(
            self.model,
            self.tapped.proto,
            unused_prefix(self.model),
            lambda proto: open_session(self.model, proto, threads=self._threads),
        )
        return session

    def _run(self, feeds: Mapping[str, Array], outputs: Iterable[str]) -> dict[str, Any]:
        """Run once; the magnitudes come along where they are not known of these feeds."""
        session = self.session  # it may be opened here, and the magnitudes with it
        watched = () if self._watched is feeds else self._magnitudes.outputs
        answers = session.run(feeds, dict.fromkeys([*outputs, *watched]))
        if watched:
            largest = {output: answers.pop(output) for output in watched}
            self.unfit = merged_unfit(self.unfit, self._magnitudes.unfit(largest, feeds.values()))
            self._watched = feeds
        return answers

    def _shapes(self, feeds: Mapping[str, Array], *, keep: bool) -> dict[Tap, tuple[int, ...]]:
        """Shapes from the values themselves where they fit half the budget; then they may be kept."""
        expected = self._expected_bytes(feeds)
        if expected is None or expected > self._budget:
            if self._tap_shapes is None:
                tensors = [tap for tap in self.exposed if is_tensor(self.kinds[tap])]
                self._tap_shapes = TapShapes(self.model, tensors, self._threads)
            return self._tap_shapes.of(feeds)
        wanted = dict.fromkeys(self.exposed.values())
        values = self._run(feeds, wanted) if keep else self.session.run(feeds, wanted)
        if keep:
            self._values = values
        return {
            tap: values[output].shape for tap, output in self.exposed.items() if isinstance(values[output], np.ndarray)
        }

    def _expected_bytes(self, feeds: Mapping[str, Array]) -> int | None:
        """What all values take, None where onnxruntime cannot tell before it runs."""
        shapes = self.session.expected_shapes(feeds)
        total = 0
        for tap, output in self.outputs.items():
            shape = shapes[output]
            if shape is None:
                return None
            total += self._size(tap, shape)
        return total

    def _leave_out_broken(self, feeds: Mapping[str, Array]) -> None:
        """Take away taps inside bodies that would break every run."""
        lifted = numbered(tap for tap in self.exposed if tap.path)
        if not lifted:
            return
        taps = [replace(tap, name=name) for name, tap in lifted.items()]
        _, tapped = run_tapped(self.model, taps, lambda session: session.run(feeds), threads=self._threads)
        broken = {lifted[missed.name]: missed.reason for missed in tapped.unreachable}
        if broken:
            self.reasons |= broken
            self._expose([tap for tap in self.exposed if tap not in broken])

    def _size(self, tap: Tap, shape: Sequence[int]) -> int:
        return np.dtype(self.kinds[tap]).itemsize * math.prod(shape)


def _without_numbers(kind: str) -> str:
    """Why a value of a type that is not one of numbers has no statistics."""
    if kind.startswith("seq("):
        return "a sequence, not a tensor"
    if kind.startswith("optional("):
        return "an optional, not a tensor"
    return "a map, not a tensor" if kind.startswith("map(") else "not a tensor of numbers"
