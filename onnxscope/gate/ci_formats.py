"""What became of the models of a `check`, for the machines of CI: JUnit XML, a Markdown summary, GitHub annotations."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, printable
from onnxscope.errors import OnnxscopeError
from onnxscope.gate.check_result import FINDING_COLUMNS, Check, Deviation

__all__ = ["Outcome", "Outcomes", "github_annotations", "junit", "markdown"]

_MAX_MARKDOWN_BYTES = 900_000  # GitHub aborts the upload of a summary above 1 MiB
_MAX_ANNOTATIONS = 9  # GitHub shows ten of a step
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes:
        name: The model, told apart from the others of the run.
        baseline: The path of its baseline, as it was given.
        result: What was found, or why it could not be checked.
    """

    name: str
    baseline: str
    result: Check | OnnxscopeError

    @property
    def ok(self) -> bool:
        """Whether the model is what its baseline says."""
        return isinstance(self.result, Check) and self.result.ok

    def summary(self) -> str:
        """One line."""
        return self.result.summary() if isinstance(self.result, Check) else f"error: {self.result}"


@dataclass(frozen=True)
class Outcomes:
    """What became of several models, as one result.

    Attributes:
        models: One outcome each, in the order in which they were named.
    """

    models: tuple[Outcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.checks/1`, ready for JSON: the records of the models that were checked, then the errors."""
        errors = [outcome for outcome in self.models if isinstance(outcome.result, OnnxscopeError)]
        return {
            "schema": "onnxscope.checks/1",
            "ok": all(outcome.ok for outcome in self.models),
            "checks": [outcome.result.to_dict() for outcome in self.models if isinstance(outcome.result, Check)],
            "errors": [{"model": outcome.name, "message": f"{outcome.result}"} for outcome in errors],
        }

    def table(self) -> Table:
        """One row per finding, with its model; one per error."""
        return self._table(flat=False)

    def tables(self) -> list[Table]:
        """A verdict for each model, then all findings."""
        verdicts = tuple((outcome.name, outcome.summary()) for outcome in self.models)
        return [Table("", ("model", "what was found"), verdicts), self.table()]

    def flat_table(self) -> Table:
        """The findings of each model, then its verdict."""
        return self._table(flat=True)

    def _table(self, *, flat: bool) -> Table:
        columns = ("model", *FINDING_COLUMNS)
        rows: list[tuple[Cell, ...]] = []
        for outcome in self.models:
            if isinstance(outcome.result, Check):
                table = outcome.result.flat_table() if flat else outcome.result.table()
                rows += [(outcome.name, *row) for row in table.rows]
            else:
                rows.append((outcome.name, *(None for _ in FINDING_COLUMNS[1:]), outcome.summary()))
        same = sum(outcome.ok for outcome in self.models)
        return Table(f"{same} of {len(self.models)} models are as their baselines say", columns, tuple(rows))


def junit(outcomes: Sequence[Outcome]) -> str:
    """Return JUnit XML: a suite for each model, with a case for the model, and for each layer checked or found.

    References:
        The schema of the Jenkins xUnit plugin, `junit-10.xsd`.
    """
    root = ElementTree.Element("testsuites")
    for outcome in outcomes:
        root.append(_suite(outcome))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(outcome: Outcome) -> ElementTree.Element:
    cases: dict[str, list[str]] = {"": []}
    if isinstance(outcome.result, Check):
        kind, tag = "deviation", "failure"
        cases |= {layer: [] for layer in outcome.result.layers}
        for finding in outcome.result.findings:
            cases.setdefault(finding.layer, []).append(_line(finding))
    else:
        kind, tag = type(outcome.result).__name__, "error"
        cases[""] += _error_lines(outcome.result)
    count = f"{sum(bool(lines) for lines in cases.values())}"
    counts = {"tests": f"{len(cases)}", "failures": "0", "errors": "0", "skipped": "0", f"{tag}s": count}
    suite = ElementTree.Element("testsuite", {"name": _xml(f"onnxscope check {outcome.name}"), **counts})
    for layer, lines in cases.items():
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _xml(outcome.name), "name": _xml(layer or "model"), "time": "0"}
        )
        if lines:
            fault = ElementTree.SubElement(case, tag, {"message": _xml(lines[0]), "type": kind})
            fault.text = _xml("\n".join(lines))
    return suite


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a summary of less than 900 kB: a verdict for each model, then findings as tables, cut where too long."""
    mark = "✅" if all(outcome.ok for outcome in outcomes) else "❌"
    tables = [Table("", ("model", "what was found"), tuple((outcome.name, outcome.summary()) for outcome in outcomes))]
    tables += [
        outcome.result.table() for outcome in outcomes if isinstance(outcome.result, Check) and not outcome.result.ok
    ]
    limit = _MAX_MARKDOWN_BYTES // len(tables) - 100
    return "\n".join([f"## {mark} onnxscope check\n", *(_cut(table, limit) for table in tables)])


def _cut(table: Table, limit_bytes: int) -> str:
    text = table.markdown()
    kept = len(table.rows)
    while kept and len(text.encode()) > limit_bytes:
        kept //= 2
        shown = Table(table.title, table.columns, table.rows[:kept]).markdown()
        text = f"{shown}\nand {len(table.rows) - kept:,} more\n"
    return text


def github_annotations(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield GitHub's workflow commands: an error for each of the nine worst findings, then a count of the others."""
    # What could not be checked, then the models themselves, then what moved furthest beyond its tolerance.
    ranked: list[tuple[tuple[int, float], str, str, str]] = []
    for outcome in outcomes:
        file, name = outcome.baseline, outcome.name
        if isinstance(outcome.result, Check):
            for finding in outcome.result.findings:
                rank = (2, -_excess(finding)) if finding.layer else (1, 0.0)
                ranked.append((rank, file, f"{name}: {finding.layer or 'model'}", _line(finding)))
        else:
            ranked.append(((0, 0.0), file, name, "\n".join(_error_lines(outcome.result))))
    ranked.sort(key=lambda entry: entry[0])
    for _, file, title, text in ranked[:_MAX_ANNOTATIONS]:
        yield f"::error file={_property(file)},title={_property(title)}::{_data(text)}"
    rest = ranked[_MAX_ANNOTATIONS:]
    if rest:
        title = counted(len(rest), "more finding")
        yield f"::error file={_property(rest[0][1])},title={title}::the job summary lists all of them"


def _error_lines(error: OnnxscopeError) -> list[str]:
    lines = [printable(str(error))]
    if error.hint:
        lines.append(f"hint: {printable(error.hint)}")
    return lines


def _line(finding: Deviation) -> str:
    where = f"{finding.layer}, " if finding.layer else ""
    return printable(f"{where}{finding.statistic}: {finding.message}")


def _excess(finding: Deviation) -> float:
    """How many times its tolerance a finding is off; whatever may not move at all comes first."""
    numbers = finding.expected, finding.found
    if not finding.tolerance or not all(isinstance(number, (int, float)) for number in numbers):
        return float("inf")
    return float(abs(finding.found - finding.expected) / finding.tolerance)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", "\n".join(map(printable, text.split("\n"))))


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(printable(text)).replace(":", "%3A").replace(",", "%2C")
