"""Scores of classes: which output gives them, and what it gives for variants of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxscope.base.shapes import shape_text
from onnxscope.base.text import printable
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.errors import InputError, RunError
from onnxscope.inputs.layouts import find_layout
from onnxscope.inputs.samples import BatchAxes
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session

__all__ = ["ScoredClass", "Subject", "cut_sample", "find_class"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ScoredClass:
    """The class whose score is looked at: its output, its place there, among how many, and its score."""

    output: str
    place: int
    count: int
    score: float


@dataclass(frozen=True)
class Subject:
    """One sample, as a run takes it.

    Attributes:
        arrays: By input name; a sample of a fixed batch is repeated to fill it.
        axes: By input name, the axis of samples, None where there is none.
        fixed: How many samples every run takes, None where that is open.
        size: How many variants of the sample go into one run.
    """

    arrays: dict[str, Array]
    axes: BatchAxes
    fixed: int | None
    size: int

    def score(
        self,
        session: Session,
        name: str,
        others: Sequence[str],
        count: int,
        variants: Callable[[range], Array],
        scored: ScoredClass,
    ) -> Array:
        """Return the scores of all classes for variants of the sample, float64, a row each.

        Args:
            session: Computes the output with the scores.
            name: The input that is varied.
            others: The inputs that are fed the sample as it is.
            count: How many variants there are.
            variants: Returns those of a range, along axis 0; a single one as it is where nothing is batched.
            scored: Where the scores are.

        Raises:
            InputError: A score is not finite.
            RunError: onnxruntime fails, or gives something else than scores.
        """
        size = self.size
        while True:
            try:
                runs = [range(start, min(start + size, count)) for start in range(0, count, size)]
                rows = np.concatenate([self._run(session, name, others, variants, run, scored) for run in runs])
                break
            except RunError:
                if size == 1 or self.fixed is not None:
                    raise
                size = 1  # an open batch that a Reshape inside holds to one
        if not np.isfinite(rows).all():
            raise InputError(
                f"scores that are not finite once the input is varied: output '{printable(scored.output)}'"
            )
        return rows

    def _run(
        self,
        session: Session,
        name: str,
        others: Sequence[str],
        variants: Callable[[range], Array],
        run: range,
        scored: ScoredClass,
    ) -> Array:
        part = variants(run)
        if self.fixed is not None:
            part = np.concatenate([part, np.repeat(part[-1:], self.fixed - len(run), axis=0)])
        feeds = {other: self._repeated(other, len(part)) for other in others}
        answer = session.run({**feeds, name: part}, [scored.output])[scored.output]
        if answer.ndim != 2 or len(answer) < len(run) or answer.shape[1] != scored.count:
            raise RunError(
                f"no {scored.count} scores for each of {len(run)} samples but {shape_text(answer.shape)}: "
                f"output '{printable(scored.output)}'"
            )
        scores: Array = answer[: len(run)].astype(np.float64)
        return scores

    def _repeated(self, name: str, count: int) -> Array:
        return _repeated(self.arrays[name], self.axes[name], 0, count)


def cut_sample(prepared: PreparedInput, model: Model, sample: int, batch_size: int) -> Subject:
    """Cut one sample out of what the model is fed.

    Args:
        prepared: What it is fed.
        model: Its inputs tell whether the batch is fixed.
        sample: Which one, from 0.
        batch_size: How many variants go into one run where the batch is open.

    Raises:
        InputError: There is no such sample.
    """
    layouts = [prepared.layouts.get(spec.name) or find_layout(spec.shape) for spec in model.inputs]
    alone = any(layout is not None and layout.batch_axis is None for layout in layouts)
    axes = dict.fromkeys(prepared.arrays) if alone else dict(prepared.batch_axes)
    samples = 1 if alone or prepared.samples is None else prepared.samples
    if not 0 <= sample < samples:
        raise InputError(f"no sample {sample} among {samples}: {model.name}", hint="samples count from 0")
    if all(axis is None for axis in axes.values()):
        return Subject(arrays=prepared.arrays, axes=axes, fixed=None, size=1)
    declared = [(spec.shape, axes[spec.name]) for spec in model.inputs]
    sizes = [shape[axis] for shape, axis in declared if shape and axis is not None]
    fixed = next((size for size in sizes if isinstance(size, int)), None)
    arrays = {name: _repeated(array, axes[name], sample, fixed or 1) for name, array in prepared.arrays.items()}
    return Subject(arrays=arrays, axes=axes, fixed=fixed, size=fixed or batch_size)


def find_class(model: Model, answers: Mapping[str, Any], declared: Sequence[str], target: int | None) -> ScoredClass:
    """Find the first output that scores classes, and the class there.

    Args:
        model: For messages.
        answers: What one run gave, by output name; its first sample counts.
        declared: The model's own outputs, in order.
        target: The class, None for the one with the largest score.

    Raises:
        InputError: No output does, the class is not among them, or a score is not finite.
    """
    for name in declared:
        scores = answers[name]
        if isinstance(scores, np.ndarray) and scores.ndim == 2 and scores.shape[1] > 1 and "float" in scores.dtype.name:
            where = f"output '{printable(name)}' of {model.name}"
            if target is not None and not 0 <= target < scores.shape[1]:
                raise InputError(f"no class {target} among {scores.shape[1]:,}: {where}", hint="classes count from 0")
            if not np.isfinite(scores[:1].astype(np.float64)).all():
                raise InputError(f"scores that are not finite: {where}")
            place = int(scores[0].argmax()) if target is None else target
            return ScoredClass(output=name, place=place, count=scores.shape[1], score=float(scores[0, place]))
    shown = ", ".join(f"{printable(name)} {shape_text(getattr(answers[name], 'shape', None))}" for name in declared)
    raise InputError(
        f"no output scores classes (samples x classes): {shown}: {model.name}",
        hint="the method `eigen` needs no scores",
    )


def _repeated(array: Array, axis: int | None, sample: int, times: int) -> Array:
    """One sample, so many times; all of an array that has no axis of samples."""
    return array if axis is None else np.repeat(array.take([sample], axis), times, axis)
