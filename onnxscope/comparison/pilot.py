"""A tapped model and its first run: what its values look like, and how far the model is from itself.

A pilot is one session. Its first run is made on few samples and its answer is kept: element types and shapes, and the
values where they are small. A second session, without optimization, is made for the noise alone and not kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.errors import RunError
from onnxscope.model.loading import Model
from onnxscope.model.selectors import Tap
from onnxscope.numerics.distances import Discrepancy, measure
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import expose, was_not_executed
from onnxscope.runtime.tapped_runs import TapShapes, number_type, run_tapped, within_budget

__all__ = ["Pilot", "run_pilots"]

Array = NDArray[Any]
_NOT_EXECUTED = "not executed on this input"
_FEW_SAMPLES = 2
_SMALL_BYTES = 32 << 20  # of values


class Pilot:
    """One model with its taps as outputs.

    Attributes:
        model: The model.
        taps: What is observed.
        tapped: The tapped copy.
        dtypes: numpy's names of the element types of taps that hold numbers, by name.
        reasons: Why the other taps hold none, by name; the first run adds what it did not reach.
        shapes: In the first run, by name of the tap.
    """

    def __init__(self, model: Model, taps: Sequence[Tap], *, memory_budget_bytes: int, threads: int) -> None:
        """Open the session; nothing is run yet.

        Args:
            model: It is not changed.
            taps: Named uniquely.
            memory_budget_bytes: What values may take that leave onnxruntime.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

        Raises:
            RunError: onnxruntime refuses the model.
        """
        self.model = model
        self.taps = taps
        self._budget = memory_budget_bytes // 2
        self._threads = threads
        self.reasons: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._session: Session | None = None
        self._feeds: Mapping[str, Array] = {}
        self._values: dict[str, Any] = {}
        self._expose(taps)

    def expected_bytes(self, feeds: Mapping[str, Array]) -> int | None:
        """What all values take, None where onnxruntime cannot tell before it runs."""
        shapes = self.session.expected_shapes(feeds)
        sizes = [
            self._size(name, shape) if (shape := shapes[output]) is not None else None
            for name, output in self._outputs.items()
        ]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def run(self, feeds: Mapping[str, Array]) -> None:
        """Make the first run, or make it again with other feeds.

        Args:
            feeds: For every input of the model. They are kept, and so are the values where all of them fit half the
                budget; others are computed when they are asked for.

        Raises:
            RunError: onnxruntime fails.
        """
        self._values = {}
        self.reasons = {name: reason for name, reason in self.reasons.items() if reason != _NOT_EXECUTED}
        self._leave_out_broken(feeds)
        expected = self.expected_bytes(feeds)
        if expected is None or expected > self._budget:
            taps = [tap for tap in self.taps if tap.name in self._outputs]
            self.shapes = TapShapes(self.model, taps, self._threads).of(feeds)
        else:
            self._values = self.session.run(feeds, dict.fromkeys(self._outputs.values()))
            self.shapes = {name: self._values[output].shape for name, output in self._outputs.items()}
        for tap in self.taps:
            if tap.name in self._outputs and (
                tap.name not in self.shapes or (tap.path and was_not_executed(self.shapes[tap.name]))
            ):
                self.reasons[tap.name] = _NOT_EXECUTED
                self.shapes.pop(tap.name, None)
        self._feeds = feeds

    def values(self, outputs: Sequence[str], feeds: Mapping[str, Array] | None = None) -> Mapping[str, Any]:
        """Return values by the names of the tapped copy's outputs.

        Args:
            outputs: Of the tapped copy.
            feeds: Those of the first run by default, whose values are not computed again where they were kept.
        """
        feeds = self._feeds if feeds is None else feeds
        was_run = feeds.keys() == self._feeds.keys() and all(feeds[name] is self._feeds[name] for name in feeds)
        if was_run and all(output in self._values for output in outputs):
            return {output: self._values[output] for output in outputs}
        return self.session.run(feeds, dict.fromkeys(outputs))

    def noise(self, axes: Mapping[str, int | None]) -> dict[str, Discrepancy]:
        """Measure how far the model is from itself without onnxruntime's optimizations, on one thread.

        It is measured on what the first run was fed. As a ratio of norms it hardly depends on how many samples that
        are where a value holds many numbers. Where it holds few, they may happen to round alike: that is why a floor is
        never below the element types' resolution (`floor_of`), and a difference counts from ten times the floor on.

        Args:
            axes: The channel axis of each value, by output of the tapped copy.

        Raises:
            RunError: onnxruntime fails.
        """
        plain = self._open(optimize=False, threads=1)
        sizes = {self._outputs[name]: self._size(name, shape) for name, shape in self.shapes.items()}
        noise: dict[str, Discrepancy] = {}
        for group in within_budget(axes, lambda output: sizes[output], self._budget):
            left, right = self.values(group), plain.run(self._feeds, group)
            noise |= {output: measure(left[output], right[output], axes[output], None) for output in group}
        return noise

    @property
    def session(self) -> Session:
        """The session, opened again where it was closed."""
        if self._session is None:
            self._session = self._open()
        return self._session

    def close(self) -> None:
        """Forget the first run's feeds and values, and give back the session's memory."""
        self._session = None
        self._feeds = {}
        self._values = {}

    def _expose(self, taps: Sequence[Tap]) -> None:
        self.tapped = expose(self.model, taps)
        self._session = self._open()
        types = {name: number_type(self._session.outputs[output]) for name, output in self.tapped.outputs.items()}
        self.dtypes = {name: dtype for name, dtype in types.items() if dtype is not None}
        self._outputs = {name: self.tapped.outputs[name] for name in self.dtypes}
        self.reasons |= {tap.name: tap.reason for tap in self.tapped.unreachable}
        self.reasons |= {name: "not a tensor of numbers" for name, dtype in types.items() if dtype is None}

    def _leave_out_broken(self, feeds: Mapping[str, Array]) -> None:
        """Take away taps inside bodies that would break every run."""
        lifted = [tap for tap in self.taps if tap.path and tap.name in self._outputs]
        if not lifted:
            return
        _, tapped = run_tapped(self.model, lifted, lambda session: session.run(feeds), threads=self._threads)
        broken = {tap.name: tap.reason for tap in tapped.unreachable}
        if broken:
            self.reasons |= broken
            self._expose([tap for tap in self.taps if tap.name not in self.reasons])

    def _size(self, name: str, shape: Sequence[int]) -> int:
        return np.dtype(self.dtypes[name]).itemsize * math.prod(shape)

    def _open(self, *, optimize: bool = True, threads: int | None = None) -> Session:
        threads = self._threads if threads is None else threads
        return open_session(self.model, self.tapped.proto, threads=threads, optimize=optimize)


def run_pilots(
    pilots: Sequence[Pilot], feed: CommonFeed, shown: Mapping[str, Array] | None = None
) -> Mapping[str, Array]:
    """Make the first run of one model, or of two that are compared.

    The first batch is fed whole where its values are small. Otherwise two samples of it are enough: they tell the
    shapes, and the axis of samples from one of length 1.

    Args:
        pilots: The first is fed what the feed has, the second what is made of that.
        feed: Gives the first batch.
        shown: What the first model is fed instead, because its values are wanted for more than a pilot run.

    Returns:
        What the first model was fed.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
    """
    whole = feed.first()
    expected = pilots[0].expected_bytes(whole)
    is_small = expected is not None and expected <= _SMALL_BYTES
    few = whole if is_small else feed.few(whole, _FEW_SAMPLES)
    for feeds in (few if shown is None else shown, whole):
        try:
            for pilot, fed in zip(pilots, (feeds, feed.of_second(feeds)), strict=False):
                pilot.run(fed)
            break
        except RunError:  # some models run with the number of samples alone that they were exported with
            if feeds is whole:
                raise
    return feeds
