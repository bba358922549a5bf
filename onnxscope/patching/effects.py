"""How far the outputs move where something else stands in place of values: `measure_effect()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import format_number, label, output_text, printable
from onnxscope.model.loading import Model
from onnxscope.numerics.composites import contents_of
from onnxscope.numerics.distances import Discrepancy, measure
from onnxscope.numerics.score_agreement import ScoreAgreement, are_scores, compare_scores
from onnxscope.patching.patched_model import patched_pair
from onnxscope.patching.runs import Run, Runs
from onnxscope.runtime.session import open_session
from onnxscope.selection.selectors import At

__all__ = ["MovedOutput", "PatchEffect", "measure_effect", "with_replacements"]

Array = NDArray[Any]
_COLUMNS = ("output", "SNR dB", "cosine", "relative", "max abs", "top-1", "what")
_NAMED = 3


@dataclass(frozen=True, eq=False)
class MovedOutput:
    """How far one output of a patched model is from that of the model itself.

    Attributes:
        name: Its name.
        identical: Whether it is the same, bit for bit, in every run.
        discrepancy: Over all real samples, None where it is no tensor of numbers, or has another shape.
        scores: How far both agree as scores of classes; None where they are none.
        reason: Why there is no discrepancy, None where there is.
    """

    name: str
    identical: bool
    discrepancy: Discrepancy | None
    scores: ScoreAgreement | None
    reason: str | None = None

    def __add__(self, more: MovedOutput) -> MovedOutput:
        """What both have seen together."""
        apart, scores = None, None
        if self.discrepancy is not None and more.discrepancy is not None:
            apart = self.discrepancy + more.discrepancy
            scores = None if self.scores is None or more.scores is None else self.scores + more.scores
        reason = self.reason or more.reason
        return MovedOutput(self.name, self.identical and more.identical, apart, scores, reason)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        apart = self.discrepancy
        return {
            "name": self.name,
            "identical": self.identical,
            "sqnr_db": None if apart is None else apart.sqnr_db,
            "cosine": None if apart is None else apart.cosine,
            "relative_l2": None if apart is None else apart.relative_l2,
            "max_abs": None if apart is None else apart.max_abs,
            "scores": None if self.scores is None else self.scores.to_dict(),
            "reason": self.reason,
        }

    @property
    def text(self) -> str:
        """In words."""
        name = output_text(self.name)
        if self.identical:
            return f"{name} does not move, bit for bit"
        if self.discrepancy is None:
            return f"{name} moves: {self.reason}"
        ratio, cosine = self.discrepancy.sqnr_db, self.discrepancy.cosine
        far = f"at most {format_number(self.discrepancy.max_abs or 0.0)}"
        words = [f"{round(ratio, 1) + 0.0:.1f} dB"] if ratio is not None else [far]
        words += ["in one of them numbers are not finite"] if self.discrepancy.mismatched else []
        words += [f"cosine {cosine:.6g}"] if cosine is not None else []
        words += [self.scores.text] if self.scores is not None and self.scores.count else []
        return f"{name} moves: {', '.join(words)}"

    def cells(self) -> tuple[Cell, ...]:
        """A row of the table."""
        apart, scores = self.discrepancy, self.scores
        numbers = (None,) * 4 if apart is None else (apart.sqnr_db, apart.cosine, apart.relative_l2, apart.max_abs)
        top1 = None if scores is None else f"{scores.top1}/{scores.count}"
        return (self.name, *numbers, top1, "identical" if self.identical else self.reason)


@dataclass(frozen=True, eq=False)
class PatchEffect:
    """What was put in place of values, and how far the outputs move.

    Attributes:
        replaced: A record of each value, as in the `model` record.
        outputs: One for each output, in order.
    """

    replaced: tuple[Mapping[str, Any], ...]
    outputs: tuple[MovedOutput, ...]

    def to_dict(self) -> dict[str, Any]:
        """What results say under `replaced`, ready for JSON."""
        return {
            "values": [dict(record) for record in self.replaced],
            "outputs": [output.to_dict() for output in self.outputs],
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """For people: what stands where, and how far the first outputs move."""
        stands = "; ".join(map(_stands, self.replaced))
        more = len(self.outputs) - _NAMED
        rest = [f"{more} more outputs are in the JSON record"] if more > 0 else []
        return (f"replaced: {stands}", *(output.text for output in self.outputs[:_NAMED]), *rest)

    def table(self) -> Table:
        """A row for each output."""
        layers = ", ".join(printable(record["layer"]) for record in self.replaced)
        return Table(
            f"outputs with {layers} replaced", _COLUMNS, tuple(output.cells() for output in self.outputs), ("max abs",)
        )


def measure_effect(model: Model, patched: Model, runs: Runs, *, threads: int = 0) -> PatchEffect:
    """Run a model and its patched copy, and measure how far the outputs move.

    Args:
        model: The reference, as `patched_pair` returns it: what onnxruntime fuses is the same in both.
        patched: What `patched_pair` has made of it.
        runs: What both are fed.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
    """
    sessions = [open_session(one, threads=threads) for one in (model, patched)]
    names = [name for name in model.main.outputs if all(name in session.outputs for session in sessions)]
    totals: dict[str, MovedOutput] = {}
    for run in runs():
        before, after = (session.run(run.feeds, names) for session in sessions)
        for name in names:
            moved = _moved(name, before[name], after[name], run)
            totals[name] = totals[name] + moved if name in totals else moved
    return PatchEffect(patched.replaced, tuple(totals[name] for name in names))


def with_replacements(
    model: Model, options: RunOptions, runs: Runs, *, at: At = "post"
) -> tuple[Model, PatchEffect | None]:
    """Return the model that is to be run, and how far what was replaced moves its outputs.

    Args:
        model: It is not changed.
        options: What is to stand in place of which values; threads.
        runs: What the model is fed.
        at: Where a layer's value is.

    Returns:
        The model itself and None where nothing is to be replaced.

    Raises:
        SelectorError, InputError, ModelError, RunError: As `patch_model` raises them.
    """
    if not options.replace:
        return model, None
    plain, patched = patched_pair(model, options.replace, runs, at=at, threads=options.threads)
    return patched, measure_effect(plain, patched, runs, threads=options.threads)


def _stands(record: Mapping[str, Any]) -> str:
    """One replacement in words."""
    layer, of = record["layer"], record["of"]
    other = f" ({label(of)})" if of not in (None, layer) else ""
    return f"{printable(record['source'])}{other} in place of {label(layer)}"


def _moved(name: str, before: Any, after: Any, run: Run) -> MovedOutput:
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        held = contents_of(before), contents_of(after)
        reason = held[0].difference_in_kind(held[1])
        if reason is None and held[0].numbers.tobytes() != held[1].numbers.tobytes():
            reason = "its numbers differ"
        return MovedOutput(name, reason is None, None, None, reason)
    is_same = before.shape == after.shape and before.dtype == after.dtype
    is_same = is_same and (
        bool((before == after).all()) if before.dtype.hasobject else before.tobytes() == after.tobytes()
    )
    if before.dtype.kind in "OUSc" or before.shape != after.shape:
        reason = f"shape {list(before.shape)} becomes {list(after.shape)}" if before.shape != after.shape else "texts"
        return MovedOutput(name, is_same, None, None, None if is_same else reason)
    sides = run.cut(before), run.cut(after)
    scores = compare_scores(*sides) if are_scores(before.shape, before.dtype.name) else None
    return MovedOutput(name, is_same, measure(*sides, None, None), scores)
