"""What a check found: what is not as the baseline says, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Table
from onnxscope.base.text import format_number, printable
from onnxscope.comparison.layer_difference import Verdict
from onnxscope.gate.baseline import Baseline

__all__ = ["FINDING_COLUMNS", "UNDECIDED", "Check", "Deviation", "shown_value"]

FINDING_COLUMNS = ("layer", "statistic", "expected", "found", "tolerance", "what it means")
UNDECIDED = "undecided"
"""The statistic of a finding that nobody can judge."""


@dataclass(frozen=True)
class Deviation:
    """One statistic that is not what the baseline says.

    Attributes:
        layer: The layer, the weight's layer, or empty for the model itself.
        statistic: `mean`, `shape`, `weight conv1.weight`, …
        expected: As the baseline has it.
        found: As the model has it.
        tolerance: How far it may move, None where it may not.
        message: How much it moved, and what that probably means.
    """

    layer: str
    statistic: str
    expected: Any
    found: Any
    tolerance: float | None
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The row in `onnxscope.check/1`."""
        return {
            "layer": self.layer,
            "statistic": self.statistic,
            "expected": self.expected,
            "found": self.found,
            "tolerance": self.tolerance,
            "message": self.message,
        }


@dataclass(frozen=True)
class Check(Record):
    """What a check found.

    Attributes:
        name: The model's name.
        baseline: What was expected.
        found: What the model is now.
        findings: What is not within its tolerance: the model itself first, then layers in execution order, each with
            its weights, then other weights.
        layers: The layers that were checked.
        weights: How many weights were.
        notes: Remarks for people.
    """

    name: str
    baseline: Baseline
    found: Baseline
    findings: tuple[Deviation, ...]
    layers: tuple[str, ...]
    weights: int
    notes: tuple[str, ...]

    frame_keys = ("findings",)

    @property
    def ok(self) -> bool:
        """Whether there is no finding: everything was compared, and is as the baseline says."""
        return not self.findings

    @property
    def verdict(self) -> Verdict:
        """`undecided` where nothing differs, but something could not be compared or does not reproduce."""
        if self.ok:
            return "equal"
        return "undecided" if all(finding.statistic == UNDECIDED for finding in self.findings) else "differs"

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.check/1`, ready for JSON."""
        return {
            "schema": "onnxscope.check/1",
            "ok": self.ok,
            "verdict": self.verdict,
            "model": self.name,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def table(self) -> Table:
        """One row per finding."""
        rows = tuple(
            (
                finding.layer,
                finding.statistic,
                _cell(finding.expected),
                _cell(finding.found),
                finding.tolerance,
                finding.message,
            )
            for finding in self.findings
        )
        return Table(f"{self.name}: {self.summary()}", FINDING_COLUMNS, rows)

    def tables(self) -> list[Table]:
        """The findings below the verdict."""
        return [self.table()]

    def flat_table(self) -> Table:
        """The findings, then the verdict."""
        table = self.table()
        verdict = (None, "verdict", None, self.verdict, None, self.summary())
        return replace(table, rows=(*table.rows, verdict))

    def summary(self) -> str:
        """One line."""
        if self.ok:
            return f"as the baseline says: {len(self.layers)} layers, {self.weights} weights"
        count = len(self.findings)
        first = next((finding.layer for finding in self.findings if finding.layer), "")
        start = f", first in {printable(first)}" if first else ""
        lead = "undecided: " if self.verdict == "undecided" else ""
        return f"{lead}{count:,} finding{'' if count == 1 else 's'}{start}"

    def merged(self) -> Baseline:
        """The baseline to write: new lines for what has changed, the old ones for what is within its tolerance."""
        changed = {finding.layer for finding in self.findings}
        old_layers = {(row["layer"], row["call"]): row for row in self.baseline.layers}
        old_weights = {row["name"]: row for row in self.baseline.weights}

        def kept(row: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
            if old is None or row["layer"] in changed or (row.get("shape") is None) != (old.get("shape") is None):
                return row
            return old

        return replace(
            self.found,
            layers=tuple(kept(row, old_layers.get((row["layer"], row["call"]))) for row in self.found.layers),
            weights=tuple(kept(row, old_weights.get(row["name"])) for row in self.found.weights),
        )

    def __repr__(self) -> str:
        return self.table().text() if self.findings else f"{self.name}: {self.summary()}\n"

    def html_parts(self) -> list[str]:
        """The verdict, findings and remarks."""
        verdict = paragraph(f"{self.name}: {self.summary()}", "good" if self.ok else "bad")
        tables = [replace(self.table(), title="").html()] if self.findings else []
        return [verdict, *tables, *remarks(self.notes)]


def _cell(value: Any) -> float | str:
    """An entry of a row for a table, which keeps all digits of a number where it is asked to."""
    return value if isinstance(value, float) else shown_value(value)


def shown_value(value: Any) -> str:
    """An entry of a row, as messages and tables have it."""
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, list) and value and all(isinstance(dim, (int, type(None))) for dim in value):
        return "x".join("?" if dim is None else f"{dim}" for dim in value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return printable(value[0])
    return "none" if value is None else printable(str(value))[:200]
