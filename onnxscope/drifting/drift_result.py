"""What `drift()` returns: how far every value is from what it was, the farthest first, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, printable, samples_text
from onnxscope.drifting.shifts import COLUMNS, Shift

__all__ = ["Drift", "Verdict"]

Verdict = Literal["equal", "differs", "undecided"]


@dataclass(frozen=True, repr=False)
class Drift(Record, Sequence[Shift]):
    """How far every value is from what it was; a sequence of these.

    Inputs that drift stand first, since what follows from them is no news; then the farthest first.

    Attributes:
        model: The name of the model.
        samples: Of the first set, None where the model's own running statistics are the first, and of the second.
        threshold: Beyond which a value drifts.
        shifts: A row for every value that both sides know.
        unmatched: Values that one side alone knows, or that cannot be compared, and why.
        decides: Whether sets of these sizes can differ by more than chance explains.
        notes: Remarks for people.
    """

    model: str
    samples: tuple[int | None, int]
    threshold: float
    shifts: tuple[Shift, ...]
    unmatched: tuple[tuple[str, str], ...]
    decides: bool
    notes: tuple[str, ...]

    frame_keys = ("values",)

    def __len__(self) -> int:
        return len(self.shifts)

    def __iter__(self) -> Iterator[Shift]:
        return iter(self.shifts)

    @overload
    def __getitem__(self, index: int) -> Shift: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Shift, ...]: ...
    def __getitem__(self, index: int | slice) -> Shift | tuple[Shift, ...]:
        return self.shifts[index]

    def layer(self, name: str) -> Shift:
        """Return the first row of a layer or an input.

        Raises:
            KeyError: There is none.
        """
        for row in self.shifts:
            if name in (row.layer, row.name):
                return row
        raise KeyError(name)

    @property
    def drifting(self) -> tuple[Shift, ...]:
        """The rows beyond the threshold."""
        return tuple(row for row in self.shifts if row.drifts)

    @property
    def verdict(self) -> Verdict:
        """`undecided` where nothing drifts, but a value could not be compared or samples are too few to tell."""
        if self.drifting:
            return "differs"
        return "equal" if self.decides and not self.unmatched else "undecided"

    def summary(self) -> str:
        """One line."""
        first = "its running statistics" if self.samples[0] is None else f"{self.samples[0]:,}"
        sets = f"{self.model}, {first} against {samples_text(self.samples[1])}"
        if self.drifting:
            drifting = f"{len(self.drifting):,} of {counted(len(self.shifts), 'value')}"
            text = f"{drifting}, first {printable(self.shifts[0].where)}"
        elif self.verdict == "undecided":
            text = "too few samples to tell" if not self.decides else "not every value could be compared"
        else:
            text = f"no drift in {counted(len(self.shifts), 'value')}"
        return f"{self.verdict}: {text} ({sets})"

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.drift/1`, ready for JSON."""
        return {
            "schema": "onnxscope.drift/1",
            "model": self.model,
            "verdict": self.verdict,
            "samples": list(self.samples),
            "threshold": self.threshold,
            "values": [row.to_dict() for row in self.shifts],
            "unmatched": [{"name": name, "reason": reason} for name, reason in self.unmatched],
        }

    def table(self) -> Table:
        """One row per value."""
        return Table(self.summary(), COLUMNS, tuple(row.cells(short=True) for row in self.shifts), ("PSI", "channels"))

    def tables(self) -> list[Table]:
        """The rows below the verdict."""
        return [self.table()]

    def flat_table(self) -> Table:
        """The rows with all their digits."""
        return Table("", COLUMNS, tuple(row.cells() for row in self.shifts))

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> list[str]:
        """The verdict, the rows and remarks."""
        verdict = paragraph(self.summary(), "good" if self.verdict == "equal" else "bad")
        return [verdict, Table("", COLUMNS, self.table().rows).html(), *remarks(self.notes)]
