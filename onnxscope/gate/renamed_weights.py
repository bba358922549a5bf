"""Weights of a baseline that were only renamed: the same numbers, of the same layer where that is known.

Whether a node still reads the numbers that it read is compared with the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxscope.gate.baseline import Baseline
from onnxscope.gate.check_result import Deviation
from onnxscope.structure.node_records import NodeRecord
from onnxscope.structure.surroundings import meaning

__all__ = ["beside_names", "remarks_on_names", "under_new_names"]


def under_new_names(expected: Baseline, actual: Baseline, pairs: Iterable[tuple[int, int]]) -> list[Mapping[str, Any]]:
    """Return the weights of a baseline, those that were only renamed under their new names.

    Args:
        expected: The baseline.
        actual: Of the model as it is now.
        pairs: Places of layers that belong together.
    """
    partners = {expected.layers[left]["layer"]: actual.layers[right]["layer"] for left, right in pairs}
    names = [{row["name"] for row in rows} for rows in (expected.weights, actual.weights)]
    fresh: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in actual.weights:
        if row["name"] not in names[0]:
            fresh.setdefault(_numbers(row), []).append(row)
    new_names: dict[str, str] = {}
    for of_same_layer in (True, False):
        for row in expected.weights:
            rows = [] if row["name"] in names[1] or row["name"] in new_names else fresh.get(_numbers(row), [])
            layer = partners.get(row["layer"], row["layer"])
            found = next((new for new in rows if not of_same_layer or new["layer"] == layer), None)
            if found is not None:
                rows.remove(found)
                new_names[row["name"]] = found["name"]
    return [{**row, "name": new_names.get(row["name"], row["name"])} for row in expected.weights]


def beside_names(
    findings: Sequence[Deviation],
    expected: Baseline,
    actual: Baseline,
    records: tuple[Sequence[NodeRecord], Sequence[NodeRecord]],
) -> list[Deviation]:
    """Return the findings about weights that are not about names alone.

    Where every number that an output depends on is where it was, its name says nothing: it may count operators, or a
    copy may hold what the other one computes beforehand.

    Args:
        findings: About weights.
        expected: The baseline.
        actual: Of the model as it is now.
        records: Of the nodes of both.
    """
    sides = expected, actual
    meanings = [meaning(side) for side in records] if findings else []
    if not meanings or not meanings[0] or meanings[0] != meanings[1]:
        return list(findings)
    rows = [{f"weight {row['name']}": row for row in side.weights} for side in sides]
    digests = [{row["sha256"] for row in side.weights} for side in sides]
    read = [{_numbers(row) for row in side.weights if not row.get("unread")} for side in sides]

    def is_name(finding: Deviation) -> bool:
        old, new = (side.get(finding.statistic) for side in rows)
        if old is not None and new is not None:
            return _numbers(old) in read[1] and _numbers(new) in read[0]
        # The same numbers in another shape do something else.
        return all(row is None or row["sha256"] not in others for row, others in ((old, digests[1]), (new, digests[0])))

    return [finding for finding in findings if not is_name(finding)]


def remarks_on_names(expected: Baseline, actual: Baseline, findings: Iterable[str]) -> list[str]:
    """Return one remark on all weights that are called otherwise and are no finding.

    Args:
        expected: The baseline.
        actual: Of the model as it is now.
        findings: What was found, as the statistics of `Deviation`.
    """
    known = {*findings, *(f"weight {row['name']}" for row in actual.weights)}
    digests = {_numbers(row) for row in actual.weights}
    renamed = [row for row in expected.weights if f"weight {row['name']}" not in known and _numbers(row) in digests]
    return [f"weights that were only renamed: {len(renamed):,}"] if renamed else []


def _numbers(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["sha256"], row["dtype"], tuple(row["shape"])
