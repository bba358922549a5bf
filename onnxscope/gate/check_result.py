"""What a check found: what is not as the baseline says, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, format_number, printable, shape_text
from onnxscope.comparison.layer_difference import Verdict
from onnxscope.gate.baseline import Baseline

__all__ = ["FINDING_COLUMNS", "UNDECIDED", "Check", "Deviation", "shown_value"]

FINDING_COLUMNS = ("layer", "statistic", "expected", "found", "tolerance", "what it means")
_SHAPES = ("shape", "weight_shape")
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
                _cell(finding.expected, finding.statistic),
                _cell(finding.found, finding.statistic),
                finding.tolerance,
                finding.message,
            )
            for finding in self.findings
        )
        return Table(f"{self.name}: {self.summary()}", FINDING_COLUMNS, rows, least=("tolerance",))

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
            return f"as the baseline says: {counted(len(self.layers), 'layer')}, {counted(self.weights, 'weight')}"
        first = next((finding.layer for finding in self.findings if finding.layer), "")
        start = f", first in {printable(first)}" if first else ""
        lead = "undecided: " if self.verdict == "undecided" else ""
        return f"{lead}{counted(len(self.findings), 'finding')}{start}"

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


def _cell(value: Any, statistic: str) -> Cell:
    """An entry of a row for a table, which keeps all digits of a number where it is asked to."""
    if value is None or (isinstance(value, (float, int)) and not isinstance(value, bool)):
        return value
    is_shape = statistic in _SHAPES or statistic.startswith("weight ")
    if is_shape and isinstance(value, (list, tuple)):
        return tuple(value)
    return shown_value(value, is_shape=is_shape)


def shown_value(value: Any, *, is_shape: bool = False) -> str:
    """An entry of a row, as messages and tables have it: no notation of Python's."""
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and is_shape:
        return shape_text(value)
    if isinstance(value, (list, tuple)):
        return _cut((", " if all(map(_is_plain, value)) else "; ").join(map(shown_value, value)) or "nothing")
    if isinstance(value, dict) and value.keys() == {"name", "dtype", "shape"}:  # an input or an output
        shape = "of any shape" if value["shape"] is None else shown_value(value["shape"], is_shape=True)
        return f"{printable(value['name'])} {shown_value(value['dtype'])} {shape}"
    if isinstance(value, dict):
        entries = (
            f"{printable(key)} {shown_value(entry, is_shape=key in _SHAPES)}" for key, entry in sorted(value.items())
        )
        return _cut("; ".join(entries) or "nothing")
    return "none" if value is None else _cut(printable(f"{value}"))


def _is_plain(value: Any) -> bool:
    return not isinstance(value, (list, tuple, dict))


def _cut(text: str) -> str:
    return text[:200]
