"""Weights of a baseline that were only renamed: the same numbers, of the same layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onnxscope.gate.baseline import Baseline

__all__ = ["remarks_on_names", "under_new_names"]


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
            fresh.setdefault((*_numbers(row), row["layer"]), []).append(row)
    renamed: list[Mapping[str, Any]] = []
    for row in expected.weights:
        layer = partners.get(row["layer"], row["layer"])
        rows = [] if row["name"] in names[1] else fresh.get((*_numbers(row), layer), [])
        renamed.append({**row, "name": rows.pop(0)["name"]} if rows else row)
    return renamed


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
