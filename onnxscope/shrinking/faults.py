"""What is wrong with a model: found once, and held while the model is made smaller."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxscope.errors import RunError
from onnxscope.providers.provider import DEFAULT_RUNNING, Running
from onnxscope.shrinking.case import Case, with_outputs
from onnxscope.shrinking.trial_run import Compared, Question
from onnxscope.shrinking.trials import Outcome, Trials

__all__ = ["Bench", "Fault", "FaultKind", "Found", "find_fault", "is_finite"]

FaultKind = Literal["crash", "hang", "error", "nan", "infinity", "optimizations", "reference", "models"]
_KEPT_SHARE = 0.25  # of how far it was off: less may be another fault
_LEAST_EXCESS = 4.0  # times the tolerance
_WHERE = ": the part"  # as trials call their model
_REASON = re.compile(r"(onnxruntime cannot \w+ the model) \((.*)\)", re.DOTALL)
_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|[\d.,:x{}\[\]-]+")
_SAID: Mapping[str, str] = {
    "crash": "onnxruntime crashes ({})",
    "hang": "onnxruntime does not end within {} s",
    "error": "{}",
    "nan": "onnxruntime gives NaN, and no input holds one",
    "infinity": "onnxruntime gives infinite numbers, and no input holds one",
    "optimizations": "onnxruntime gives other numbers with its optimizations than without them",
    "reference": "onnxruntime gives other numbers than onnx's ReferenceEvaluator",
    "models": "one model gives other numbers than the other, fed the same",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        kind: Of what kind it is.
        detail: The signal, the seconds, or the engine's message; empty otherwise.
        doing: What a run that does not end was doing; empty otherwise, and where that is not known.
        excess: How many times its tolerance an output is off; 0 where it is not about that.
    """

    kind: FaultKind
    detail: str = ""
    doing: str = ""
    excess: float = 0.0

    def __str__(self) -> str:
        said = _SAID[self.kind].format(self.detail)
        return f"{said}, {self.doing}" if self.doing else said

    @property
    def compared(self) -> Compared:
        """What outputs are held to where it is looked for."""
        if self.kind == "models":
            return "halves"
        return self.kind if self.kind in ("optimizations", "reference") else "nothing"

    def is_in(self, outcome: Outcome) -> bool:
        """Whether a trial shows it, and nothing else."""
        if self.kind == "crash":
            return outcome.kind == "crashed" and outcome.detail == self.detail
        if self.kind == "hang":
            return outcome.kind == "late"
        if self.kind == "error":
            return outcome.kind == "failed" and _kind_of(outcome.detail) == _kind_of(self.detail)
        return outcome.kind == "answered" and bool(self.outputs(outcome))

    def outputs(self, outcome: Outcome) -> list[str]:
        """The outputs of an answered trial that show it."""
        least = max(_LEAST_EXCESS, min(_KEPT_SHARE * self.excess, 1e6))
        states = outcome.answer or {}
        if self.kind == "nan":
            return [name for name, state in states.items() if state.has_nan]
        if self.kind == "infinity":
            return [name for name, state in states.items() if state.has_infinity and not state.has_nan]
        return [name for name, state in states.items() if state.excess >= least]


@dataclass(frozen=True, eq=False)
class Bench:
    """Where trials of cases are made.

    Attributes:
        trials: The process that makes them.
        folder: Where weights lie that are outside.
        custom_ops: Libraries of custom operators.
        tolerances: Of the element types, as shares of the largest magnitude.
        running: How onnxruntime runs cases.
    """

    trials: Trials
    folder: Path | None
    custom_ops: tuple[Path, ...]
    tolerances: Mapping[str, float]
    running: Running = DEFAULT_RUNNING

    def verdict(self, case: Case, compared: Compared, timeout_s: float | None = None) -> Outcome:
        """Run a case and tell how its outputs are."""
        return self.trials.ask(self._question(case, compared, "verdict"), timeout_s)

    def values(self, case: Case) -> dict[str, Any] | None:
        """What the outputs of a case hold, None where it does not run."""
        outcome = self.trials.ask(self._question(case, "nothing", "values"))
        return outcome.answer if outcome.kind == "answered" else None

    def given(self, case: Case) -> dict[str, Any] | None:
        """What the outputs of a case hold where it is run as it was judged, None where it does not run."""
        outcome = self.trials.ask(self._question(case, "nothing", "given"))
        return outcome.answer if outcome.kind == "answered" else None

    def expected(self, case: Case, compared: Compared) -> dict[str, Any] | None:
        """What its outputs should hold, None where that cannot be told."""
        outcome = self.trials.ask(self._question(case, compared, "expected"))
        return outcome.answer if outcome.kind == "answered" else None

    def types(self, case: Case) -> dict[str, bytes]:
        """The types of its outputs as far as they can be inferred, serialized."""
        outcome = self.trials.ask(self._question(case, "nothing", "types"))
        return outcome.answer if outcome.kind == "answered" else {}

    def _question(self, case: Case, compared: Compared, wants: Any) -> Question:
        content = case.proto.SerializeToString(deterministic=True)
        return Question(
            content, case.feeds, self.folder, self.custom_ops, compared, wants, self.tolerances, self.running
        )


@dataclass(frozen=True, eq=False)
class Found:
    """What a look at a case has found.

    Attributes:
        fault: The gravest one, None where nothing is wrong.
        case: Of its outputs those that it is about.
        looked_for: What there is none of, in a sentence.
    """

    fault: Fault | None
    case: Case
    looked_for: str = ""


def find_fault(bench: Bench, case: Case, *, unstable: Collection[str] = (), has_two: bool = False) -> Found:
    """Find what is wrong with a case.

    Args:
        bench: Where it is run.
        case: With two models in it, the first half of its outputs are the first one's.
        unstable: Outputs that are others in every run, which are held to nothing.
        has_two: Whether it has two.

    Raises:
        RunError: It cannot be tried.
    """
    outcome = bench.verdict(case, "halves" if has_two else "nothing")
    if outcome.kind == "crashed":
        return Found(Fault("crash", outcome.detail), case)
    if outcome.kind == "late":
        return Found(Fault("hang", f"{bench.trials.timeout_s:g}", doing=outcome.detail), case)
    if outcome.kind == "failed":
        if not outcome.detail.startswith("onnxruntime"):
            raise RunError(f"it cannot be tried: {outcome.detail}")
        return Found(Fault("error", outcome.detail.removesuffix(_WHERE)), case)
    runs = f"onnxruntime runs it within {bench.trials.timeout_s:g} s"
    if has_two:
        return Found(_off("models", outcome), case, f"{runs}, and both models give the same numbers")
    looked_for = f"{runs}, gives neither NaN nor infinite numbers"
    if all(map(is_finite, case.feeds.values())):
        if any(state.has_nan for state in outcome.answer.values()):
            return Found(Fault("nan"), case)
        if any(state.has_infinity for state in outcome.answer.values()):
            return Found(Fault("infinity"), case)
    else:
        looked_for = f"{runs}, was fed NaN or infinite numbers, so that its own prove nothing"
    stable = [name for name in case.outputs if name not in unstable]
    if not stable:
        return Found(None, case, f"{looked_for}, and never gives the same twice")
    case = with_outputs(case, stable)
    fault = _off("optimizations", bench.verdict(case, "optimizations"))
    if fault is not None:
        return Found(fault, case)
    reference = bench.verdict(case, "reference")
    others = "without its optimizations and by onnx's ReferenceEvaluator"
    if reference.kind != "answered":
        others = "without its optimizations (onnx's ReferenceEvaluator cannot run it)"
    return Found(_off("reference", reference), case, f"{looked_for}, and gives the same {others}")


def is_finite(value: Any) -> bool:
    """Whether an input holds neither NaN nor infinite numbers."""
    arrays = value if isinstance(value, list) else [value]
    numbers = [np.asarray(one) for one in arrays if one is not None]
    return all(
        bool(np.isfinite(one.astype(np.complex128)).all()) for one in numbers if one.dtype.kind not in "OUSMmbiu"
    )


def _off(kind: Literal["optimizations", "reference", "models"], outcome: Outcome) -> Fault | None:
    if outcome.kind != "answered":
        return None
    excess = max((state.excess for state in outcome.answer.values()), default=0.0)
    return Fault(kind, excess=excess) if excess >= _LEAST_EXCESS else None


def _kind_of(message: str) -> str:
    """A message without names and numbers."""
    found = _REASON.fullmatch(message.removesuffix(_WHERE))
    if found is not None:
        message = f"{found[1]}: {found[2]}"
    before = ""
    while before != message:
        before, message = message, _NAMES.sub(" ", message)
    return " ".join(message.split())
