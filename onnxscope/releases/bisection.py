"""What `bisect()` returns: each release that was tried, the pair between which the answers change, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, format_number, printable
from onnxscope.comparison.layer_difference import LayerDifference, Verdict
from onnxscope.releases.crash_place import CrashPlace
from onnxscope.releases.environment import JobEnd

__all__ = ["Bisection", "TriedRelease"]

_COLUMNS = ("release", "answers", "first layer", "operator", "max abs", "relative", "noise", "what happens", "numpy")
Answers = Literal["first", "equal", "changed", "undecided", "skipped"]


@dataclass(frozen=True, eq=False)
class TriedRelease:
    """One release, or one environment, in which the model was run.

    Attributes:
        release: Its version, or the interpreter's path.
        answers: `first` of the one that the others are held to; `equal` to it, within its noise; `changed`;
            `undecided` where what differs does not reproduce in the first; `skipped` where it cannot be tried.
        end: How the model has ended there.
        versions: Of `onnxruntime`, `numpy` and `python`, as far as they are known.
        rows: How far each layer, then each output, is from what the first gives; empty where one of both does not run.
        remark: What else there is to say, or empty.
    """

    release: str
    answers: Answers
    end: JobEnd
    versions: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[LayerDifference, ...] = ()
    remark: str = ""

    @property
    def first_row(self) -> LayerDifference | None:
        """The first layer in execution order, or else output, that differs."""
        return next((row for row in self.rows if row.differs), None)

    @property
    def text(self) -> str:
        """What happens, in words."""
        return f"{self.end.text}; {self.remark}" if self.remark else self.end.text

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "release": self.release,
            "answers": self.answers,
            "ending": self.end.ending,
            "detail": self.text,
            "versions": {name: self.versions.get(name) for name in ("onnxruntime", "numpy", "python")},
            "first_layer": None if self.first_row is None else _row(self.first_row),
        }

    def cells(self) -> tuple[Cell, ...]:
        """The row of the table."""
        row = self.first_row
        numbers: tuple[Cell, ...] = (None, None, None)
        if row is not None:
            noise = None if row.noise is None else row.noise.relative_l2
            max_abs, relative = (None, None) if row.entire is None else (row.entire.max_abs, row.entire.relative_l2)
            numbers = (max_abs, relative, noise)
        where = (None, None) if row is None else (row.a.layer or row.a.name, row.op_type)
        reason = "" if row is None or row.reason is None else f"; {row.reason}"
        return (self.release, self.answers, *where, *numbers, f"{self.text}{reason}", self.versions.get("numpy"))


@dataclass(frozen=True, repr=False, eq=False)
class Bisection(Record, Sequence[TriedRelease]):
    """Between which releases a model's answers change; a sequence of those that were tried, from first to last.

    Attributes:
        model: The `model` record.
        input: The `input` record of what was fed.
        package: Whose releases; None of two environments that somebody has named.
        tried: Every release that was tried, in the order of versions.
        pair: The last release that is like the first one, and the next that is not; None where the ends are alike.
        between: Releases between both that cannot be tried, so that it may be one of them.
        releases: How many there are from one end to the other.
        installs: How many were installed.
        crash: The node with which a release crashes: the one that is not like the first, or the first, or all; None
            where none does, or that is not known.
        notes: Remarks for people.
    """

    model: Mapping[str, Any]
    input: Mapping[str, Any]
    package: str | None
    tried: tuple[TriedRelease, ...]
    pair: tuple[str, str] | None
    between: tuple[str, ...]
    releases: int
    installs: int
    crash: CrashPlace | None
    notes: tuple[str, ...]

    frame_keys = ("tried",)

    def __len__(self) -> int:
        return len(self.tried)

    def __iter__(self) -> Iterator[TriedRelease]:
        return iter(self.tried)

    @overload
    def __getitem__(self, index: int) -> TriedRelease: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TriedRelease, ...]: ...
    def __getitem__(self, index: int | slice) -> TriedRelease | tuple[TriedRelease, ...]:
        return self.tried[index]

    def release(self, name: str) -> TriedRelease:
        """Return one of those that were tried.

        Raises:
            KeyError: It was not.
        """
        for one in self.tried:
            if one.release == name:
                return one
        raise KeyError(name)

    @property
    def changed(self) -> TriedRelease | None:
        """The release with which the answers change; None where they do not."""
        return None if self.pair is None else self.release(self.pair[1])

    @property
    def verdict(self) -> Verdict:
        """`undecided` where nothing is known to differ, but a value does not reproduce in the first release."""
        if self.pair is not None:
            return "differs"
        return "undecided" if any(one.answers == "undecided" for one in self.tried) else "equal"

    @property
    def what_changed(self) -> str | None:
        """In words what is otherwise with the release that is not like the first one; None where none is."""
        changed = self.changed
        if changed is None or self.pair is None:
            return None
        last = self.release(self.pair[0])
        if (last.end.ending, changed.end.ending) != ("ran", "ran"):
            return f"{last.end.text} before, now {changed.end.text}{self._crash_text}"
        row = changed.first_row
        assert row is not None
        what = (
            f"the output {printable(row.a.name)}"
            if row.op_type == "Output"
            else f"{printable(row.a.layer)} ({row.op_type})"
        )
        if row.entire is None:
            return f"first {what}: {row.reason}"
        if row.entire.relative_l2 is None:
            return f"first {what}: finite in one release only"
        return f"first {what}, by {format_number(row.entire.relative_l2)} of its norm, noise {format_number(row.floor)}"

    @property
    def _crash_text(self) -> str:
        if self.crash is None:
            return ""
        where = printable(self.crash.layer or self.crash.name)
        return f"; the first node to crash is {where} ({printable(self.crash.op_type)})"

    def summary(self) -> str:
        """One line."""
        name = printable(str(self.model["name"]))
        where = "two environments" if self.package is None else counted(self.releases, "release")
        about = f"{name}, {where}" + (f", {self.installs:,} installed" if self.package is not None else "")
        if self.pair is None:
            first, last = self.tried[0], self.tried[-1]
            text = "what can be compared is" if self.verdict == "undecided" else "no change:"
            ends = "" if last.end.ending == "ran" else f": {last.end.text}{self._crash_text}"
            return f"{self.verdict}: {text} the same from {first.release} to {last.release}{ends} ({about})"
        unknown = f" (or {', '.join(self.between)}, which cannot be tried)" if self.between else ""
        return f"differs: from {self.pair[0]} to {self.pair[1]}{unknown}: {self.what_changed} ({about})"

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.bisection/1`, ready for JSON."""
        changed = self.changed
        return {
            "schema": "onnxscope.bisection/1",
            "model": dict(self.model),
            "input": dict(self.input),
            "package": self.package,
            "verdict": self.verdict,
            "pair": None if self.pair is None else {"last": self.pair[0], "first": self.pair[1]},
            "between": list(self.between),
            "change": self.what_changed,
            "crash": None if self.crash is None else self.crash.to_dict(),
            "releases": self.releases,
            "installs": self.installs,
            "tried": [one.to_dict() for one in self.tried],
            "layers": [] if changed is None else [_row(row) for row in changed.rows],
        }

    def table(self) -> Table:
        """One row per release that was tried."""
        return Table(self.summary(), _COLUMNS, tuple(one.cells() for one in self.tried))

    def tables(self) -> list[Table]:
        """The rows below the verdict."""
        return [self.table()]

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> list[str]:
        """The verdict, the rows and remarks."""
        verdict = paragraph(self.summary(), "good" if self.verdict == "equal" else "bad")
        return [verdict, Table("", _COLUMNS, self.table().rows).html(), *remarks(self.notes)]


def _row(row: LayerDifference) -> dict[str, Any]:
    return {
        "layer": row.a.layer,
        "name": row.a.name,
        "op_type": row.op_type,
        "max_abs": None if row.entire is None else row.entire.max_abs,
        "relative_l2": None if row.entire is None else row.entire.relative_l2,
        "noise_relative_l2": None if row.noise is None else row.noise.relative_l2,
        "differs": row.differs,
        "reason": row.undecided if row.reason is None else row.reason,
    }
