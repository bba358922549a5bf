"""A check's findings for the machines of continuous integration: JUnit XML, a Markdown summary, GitHub annotations."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from onnxscope.checking import Check, Deviation
from onnxscope.outputs import printable
from onnxscope.tables import Table

__all__ = ["github_annotations", "junit", "markdown"]

_MAX_MARKDOWN_BYTES = 900_000  # GitHub aborts the upload of a summary above 1 MiB
_MAX_ANNOTATIONS = 9  # GitHub shows ten of a step
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(check: Check) -> str:
    """Return JUnit XML: a test case for the model, one for each checked layer, and one for each layer with findings.

    References:
        The schema of the Jenkins xUnit plugin, `junit-10.xsd`.
    """
    by_layer: dict[str, list[Deviation]] = {layer: [] for layer in ("", *check.layers)}
    for finding in check.findings:
        by_layer.setdefault(finding.layer, []).append(finding)
    failed = sum(bool(findings) for findings in by_layer.values())
    counts = {"tests": f"{len(by_layer)}", "failures": f"{failed}", "errors": "0", "skipped": "0"}
    suite = ElementTree.Element("testsuite", {"name": _xml(f"onnxscope check {check.name}"), **counts})
    for layer, findings in by_layer.items():
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _xml(check.name), "name": _xml(layer or "model"), "time": "0"}
        )
        if findings:
            failure = ElementTree.SubElement(
                case, "failure", {"message": _xml(_line(findings[0])), "type": "deviation"}
            )
            failure.text = _xml("\n".join(_line(finding) for finding in findings))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def markdown(check: Check) -> str:
    """Return a summary of less than 900 kB: the verdict, and the findings as a table, cut where there are too many."""
    mark = "✅" if check.ok else "❌"
    head = f"## {mark} onnxscope check\n\n"
    table = check.table()
    whole = head + table.markdown()
    if len(whole.encode()) <= _MAX_MARKDOWN_BYTES:
        return whole
    kept = len(table.rows)
    while kept and len(whole.encode()) > _MAX_MARKDOWN_BYTES:
        kept //= 2
        shown = Table(table.title, table.columns, table.rows[:kept]).markdown()
        whole = f"{head}{shown}\nand {len(table.rows) - kept:,} more\n"
    return whole


def github_annotations(check: Check, file: str) -> Iterator[str]:
    """Yield GitHub's workflow commands: an error for each of the nine worst findings, then a count of the others.

    Args:
        check: What was found.
        file: The baseline's path within the repository.
    """
    # The model itself first; then what moved furthest beyond its tolerance.
    ordered = sorted(check.findings, key=lambda each: (bool(each.layer), -_excess(each)))
    for finding in ordered[:_MAX_ANNOTATIONS]:
        title = f"{check.name}: {finding.layer or 'model'}"
        yield f"::error file={_property(file)},title={_property(title)}::{_data(_line(finding))}"
    more = len(ordered) - _MAX_ANNOTATIONS
    if more > 0:
        title = _property(f"{check.name}: {more} more findings")
        yield f"::error file={_property(file)},title={title}::{_data('the job summary lists all of them')}"


def _line(finding: Deviation) -> str:
    where = f"{finding.layer}, " if finding.layer else ""
    return printable(f"{where}{finding.statistic}: {finding.message}")


def _excess(finding: Deviation) -> float:
    """How many times its tolerance a finding is off; whatever may not move at all comes first."""
    if not finding.tolerance or not all(isinstance(each, (int, float)) for each in (finding.expected, finding.found)):
        return float("inf")
    return float(abs(finding.found - finding.expected) / finding.tolerance)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(printable(text)).replace(":", "%3A").replace(",", "%2C")
