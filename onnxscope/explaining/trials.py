"""A part of the second model, edited and run on the first one's values: how far it then is from what the first gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onnxscope.comparison.floors import discrepancy_of, floor_of
from onnxscope.comparison.layer_difference import NOISE_FACTOR, size_of
from onnxscope.errors import OnnxscopeError
from onnxscope.explaining.edits import Edit, applied
from onnxscope.explaining.fed_parts import FedPart, Sample
from onnxscope.extracting.standalone import standalone
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.loading import Model
from onnxscope.numerics.distances import Discrepancy
from onnxscope.pairing.match_values import match_values
from onnxscope.runtime.session import Session, open_session

__all__ = ["Trial", "Tried"]

_FALL = 0.1  # an error that is still a tenth of what it was is not mended
_ROUNDED = 0.25  # of the error, at most, is what rounding to codes leaves where a scale was wrong
_MORE_IN_OTHERS = 3.0  # what rounding leaves in other samples, as a multiple of what it leaves in the first
_FEWEST_NUMBERS = 8  # that differed before: fewer are mended by chance


class Tried:
    """An edit that was run.

    Attributes:
        error: What the part is off by; None where it gives something of another shape, or onnxruntime refuses it.
        session: What runs it; None where onnxruntime refuses it.
        limit: What it may be off by in other samples, where that is more than what it is equal by.
    """

    def __init__(self, error: Discrepancy | None, session: Session | None) -> None:
        """Keep both."""
        self.error = error
        self.session = session
        self.limit = 0.0

    @property
    def relative(self) -> float | None:
        """The error's norm over the value's; None where there is none to tell."""
        return None if self.error is None else self.error.relative_l2


class Trial:
    """One part on which edits are tried.

    Attributes:
        part: Of both models.
        before: The part as it is.
        count: How many edits were tried.
    """

    def __init__(self, models: tuple[Model, Model], part: FedPart, sample: Sample, threads: int) -> None:
        """Run the part as it is.

        Args:
            models: Both.
            part: Of both.
            sample: What it is fed first, and what it should give.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

        Raises:
            OnnxscopeError: The part cannot be cut out or run.
        """
        self.part = part
        self._models = models
        self._sample = sample
        self._threads = threads
        self._proto = _alone(models[1], part, sample.feeds)
        self.count = 0
        row = part.row
        own_floor = row.floor if row.unstable is None else row.own_floor
        exact = discrepancy_of(sample.expected, sample.expected, None, None)
        lowest = floor_of(exact, [sample.expected.dtype.name]).relative
        self._limit = NOISE_FACTOR * max(own_floor or 0.0, lowest)
        session = open_session(models[1], self._proto, threads=threads)
        self._answer = self._given(session, sample)
        self.before = Tried(self._error(self._answer, sample), session)

    @property
    def is_at_fault(self) -> bool:
        """Whether the part by itself is off, as the layer is in its model."""
        return not self._is_equal(self.before.error)

    @property
    def tells(self) -> bool:
        """Whether so many numbers are off that they are not mended by chance."""
        answer, expected = self._answer, self._sample.expected
        if self.before.error is None or answer is None or answer.shape != expected.shape:
            return np.unique(expected).size >= _FEWEST_NUMBERS
        if answer.dtype.kind not in "fiub":
            answer, expected = answer.astype(np.float64), expected.astype(np.float64)
        with np.errstate(all="ignore"):
            off = ~np.isclose(answer, expected, rtol=1e-6, atol=0, equal_nan=True)
        return np.unique(expected[off]).size >= _FEWEST_NUMBERS

    def run(self, edits: Iterable[Edit]) -> Tried:
        """Try edits, all together."""
        self.count += 1
        try:
            proto = applied(self._proto, edits)
            session = open_session(self._models[1], proto, threads=self._threads)
            return Tried(self._error(self._given(session, self._sample), self._sample), session)
        except (
            OnnxscopeError,
            ValueError,
            TypeError,
            OverflowError,
        ):  # of onnx, where a value is none of the attribute's
            return Tried(None, None)

    def mends(self, tried: Tried, *, leaves_rounding: bool = False) -> bool:
        """Whether an edit brings the error down to what rounding explains, from far above.

        Args:
            tried: The edit.
            leaves_rounding: Whether the second model rounds to codes, which no edit takes away.
        """
        if leaves_rounding and tried.error is not None and not tried.error.mismatched:
            tried.limit = _MORE_IN_OTHERS * size_of(tried.error)
            return size_of(tried.error) <= _ROUNDED * size_of(self.before.error)
        if not self._is_equal(tried.error):
            return False
        if self.before.error is None or self.before.error.mismatched:
            return True
        return size_of(tried.error) <= _FALL * size_of(self.before.error)

    def holds_for(self, tried: Tried, sample: Sample) -> bool:
        """Whether what mends the first batch mends another one."""
        try:
            if tried.session is None:
                return False
            error = self._error(self._given(tried.session, sample), sample)
            return error is not None and not error.mismatched and size_of(error) <= max(self._limit, tried.limit)
        except OnnxscopeError:
            return False

    def _given(self, session: Session, sample: Sample) -> NDArray[Any] | None:
        answer = session.run(sample.feeds)[self.part.values[1]]
        return answer if isinstance(answer, np.ndarray) else None

    def _is_equal(self, error: Discrepancy | None) -> bool:
        return error is not None and not error.mismatched and size_of(error) <= self._limit

    def _error(self, answer: NDArray[Any] | None, sample: Sample) -> Discrepancy | None:
        expected = sample.expected
        if answer is None:
            return None
        if answer.shape != expected.shape or self.part.row.reason is None:
            axes = [
                default_axis(array.ndim, model.channel_axes(()).get(name))
                for model, name, array in zip(self._models, self.part.values, (expected, answer), strict=True)
            ]
            kinds = expected.dtype.name, answer.dtype.name
            shapes = expected.shape, answer.shape
            pair = match_values("a", "b", shapes, kinds, (axes[0], axes[1]), replaced=False)
            if pair is None or (pair.is_merged and self.part.row.incomparable):
                return None
            answer = pair.to_a(answer)
        if "O" in (answer.dtype.kind, expected.dtype.kind) or answer.shape != expected.shape:
            return None
        return discrepancy_of(expected, answer, None, None)


def _alone(model: Model, part: FedPart, feeds: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The second model's part as a model, for batches of any size."""
    types = {}
    for name in part.second.inputs:
        array = np.asarray(feeds[name])
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        types[name] = onnx.helper.make_tensor_type_proto(kind, [None] * array.ndim)
    return standalone(model, part.second, types)
