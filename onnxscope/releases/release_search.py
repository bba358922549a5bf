"""The search itself: both ends first, then halves, with what cannot be tried left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from onnxscope.base.last_words import doing
from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.releases.bisection import TriedRelease
from onnxscope.releases.crash_place import CrashPlace, find_crash
from onnxscope.releases.environment import Environment, JobEnd
from onnxscope.releases.halving import first_unlike
from onnxscope.releases.judging import Judge
from onnxscope.releases.pip_environments import Environments, NotInstalledError
from onnxscope.releases.trial_case import Trial, TrialCase

__all__ = ["ReleaseSearch"]


class ReleaseSearch:
    """Finds two neighbours of which one is like the first release, and the other is not.

    Attributes:
        pair: Both; None where the ends are alike.
        between: Those between both that cannot be tried.
        crash: Where the one of them crashes that does.
        notes: Remarks for people.
    """

    def __init__(self, case: TrialCase, environments: Environments, names: Sequence[str], noun: str) -> None:
        """Take what is asked, where, and of which releases, in order; the noun is what messages call them."""
        self._case, self._environments, self._names, self._noun = case, environments, tuple(names), noun
        self._tried: dict[int, TriedRelease] = {}
        self._had: dict[str, Environment] = {}
        self._first: Trial | None = None
        self._judge: Judge | None = None
        self.pair: tuple[str, str] | None = None
        self.between: tuple[str, ...] = ()
        self.crash: CrashPlace | None = None
        self.notes: list[str] = []

    def tried(self) -> tuple[TriedRelease, ...]:
        """Those that were tried, in the order of versions."""
        return tuple(self._tried[place] for place in sorted(self._tried))

    def run(self) -> None:
        """Search.

        Raises:
            RunError: Fewer than two can be tried.
        """
        low = self._end(range(len(self._names)))
        high = self._end(range(len(self._names) - 1, low, -1))
        if self._tried[high].answers != "changed":
            self._find_crash(low, high)
            return
        found = first_unlike(low, high, self._is_like)
        self.pair = self._names[found.last], self._names[found.first]
        self.between = tuple(self._names[place] for place in found.between)
        self._find_crash(found.last, found.first)

    def _end(self, places: Sequence[int]) -> int:
        """The first of several places that can be tried: an end may move inward.

        A release that is too old or too new for the model is told apart from the others by halving too, so that few are
        installed.
        """
        if places and self._is_like(places[0]) is not None:
            return places[0]
        if len(places) > 1 and self._can_be_tried(places[-1]):
            found = first_unlike(0, len(places) - 1, lambda index: not self._can_be_tried(places[index]))
            place = places[found.first]
            if self._is_like(place) is not None:
                self.notes.append(f"{self._names[places[0]]} cannot be tried: {self._names[place]} stands for it")
                return place
        skipped, name = next(one for one in self._tried.values() if one.answers == "skipped"), self._case.model.name
        raise RunError(
            f"fewer than two of {len(self._names)} can be tried ({skipped.release}: {skipped.text}): {name}",
            hint="name other releases, or environments that have onnxruntime and numpy",
        )

    def _can_be_tried(self, place: int) -> bool:
        """Whether a release can be had and knows the model; one that does not is skipped."""
        if place in self._tried:
            return self._tried[place].answers != "skipped"
        name = self._names[place]
        try:
            end = self._case.ends(self._environment(name))
        except NotInstalledError as error:
            end = JobEnd("unusable", str(error))
        if end.ending == "unusable":
            self._tried[place] = TriedRelease(name, "skipped", end)
        return end.ending != "unusable"

    def _environment(self, name: str) -> Environment:
        if name not in self._had:
            with doing(f"installing {self._noun} {name}"):
                self._had[name] = self._environments.environment(name)
        return self._had[name]

    def _is_like(self, place: int) -> bool | None:
        """Try a release: whether it is like the first one, None where it cannot be tried."""
        one = self._tried[place] = self._try(self._names[place])
        return None if one.answers == "skipped" else one.answers != "changed"

    def _try(self, name: str) -> TriedRelease:
        try:
            environment = self._environment(name)
        except NotInstalledError as error:
            return TriedRelease(name, "skipped", JobEnd("unusable", str(error)))
        if self._first is None:
            trial = self._case.first_trial(environment)
            if trial.end.ending == "unusable":
                return TriedRelease(name, "skipped", trial.end, trial.versions)
            self._first = trial
            if trial.end.ending == "ran":
                self._judge = Judge(self._case, trial)
            return TriedRelease(name, "first", trial.end, trial.versions, remark=self._on_taps(trial))
        trial = self._case.trial(environment)
        if trial.end.ending == "unusable":
            return TriedRelease(name, "skipped", trial.end, trial.versions)
        if self._judge is None or trial.end.ending != "ran":
            before = self._first.end
            same = trial.end.ending == before.ending and (before.ending != "crashed" or trial.end == before)
            return TriedRelease(name, "equal" if same else "changed", trial.end, trial.versions)
        rows = tuple(self._judge.rows(trial))
        self._case.forget(trial)
        verdicts = {row.verdict for row in rows}
        answers = "changed" if "differs" in verdicts else "undecided" if "undecided" in verdicts else "equal"
        remark = self._on_taps(trial) if self._judge.has_layers else ""
        if answers == "changed" and not remark and all(row.op_type == "Output" for row in rows if row.differs):
            remark = "no layer shows it" if len(rows) > len(self._case.model.main.outputs) else ""
        return TriedRelease(name, answers, trial.end, trial.versions, rows, remark)  # type: ignore[arg-type]

    @staticmethod
    def _on_taps(trial: Trial) -> str:
        if trial.end.ending != "ran" or trial.tapped.ending == "ran":
            return ""
        return f"outputs alone, since with its layers as outputs it {printable(trial.tapped.text)}"

    def _find_crash(self, last: int, first: int) -> None:
        """Find the node with which one of two releases crashes, by running parts of the model in its environment."""
        for place in (first, last):
            end = self._tried[place].end
            if end.ending == "crashed":
                environment = self._had[self._names[place]]
                self.crash = find_crash(self._case.model, partial(self._case.ends, environment), end)
                return
