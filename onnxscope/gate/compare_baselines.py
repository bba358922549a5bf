"""Two baselines of a model against each other: what has changed, and what follows from what."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxscope.base.text import counted, format_number, printable
from onnxscope.gate.baseline import Baseline, keys_of
from onnxscope.gate.baseline_nodes import (
    is_stored,
    line_of_layer,
    node_findings,
    records_of,
    stored_digests,
)
from onnxscope.gate.check_result import UNDECIDED, Deviation, shown_value
from onnxscope.gate.folded_layers import folded_layers, remarks_on_folds
from onnxscope.gate.renamed_weights import beside_names, under_new_names
from onnxscope.gate.selected_rows import SelectedRows
from onnxscope.gate.settings import Settings
from onnxscope.gate.signatures import compare_signatures
from onnxscope.model.graphs import Node
from onnxscope.pairing.align_layers import Alignment, align_layers
from onnxscope.runtime.half_range import unfit_sentence
from onnxscope.structure.node_records import NodeRecord

__all__ = ["compare_baselines"]

_EXTREMES = 100.0  # a single element moves further than a mean
_MOMENTS = 10.0  # how many times the noise floor a number may move
_SHARE = 1e-3  # by how much the share of zeros may move
_PLAIN = ("op_type", "norm", "activation", "attributes", "weight_shape", "shape")


def compare_baselines(
    expected: Baseline, actual: Baseline, rows: SelectedRows, nodes: Sequence[Node | None] | None
) -> tuple[list[Deviation], list[str], list[str]]:
    """Compare a baseline of a model with one that was taken before.

    Args:
        expected: The one that was taken before.
        actual: The one to be judged.
        rows: What is compared.
        nodes: The node of each line of `actual`, where that is asked for.

    Returns:
        The findings, the layers that were compared, and remarks.
    """
    settings = rows.settings
    findings, remarks = compare_signatures(expected.model, actual.model)
    keys = keys_of(expected), keys_of(actual)
    alignment = align_layers(keys[0], keys[1])
    weights: dict[str, list[Deviation]] = {}
    folded = folded_layers(expected, actual, alignment.pairs)
    stored = under_new_names(expected, actual, alignment.pairs)
    records = records_of(expected.nodes), records_of(actual.nodes, nodes)
    rest = [[row for row in side if row["name"] not in folded.weights] for side in (stored, actual.weights)]
    before, after = _without_constants(rest[0], rest[1], records)
    for finding in beside_names(_weight_findings(before, after, rows), expected, actual, records):
        weights.setdefault(finding.layer, []).append(finding)
    ran = expected.input is not None and actual.input is not None
    changed = set(weights)
    told = _told([*stored, *actual.weights], weights, folded.weights, rows)
    of_nodes = _node_findings(expected, actual, records, alignment, told, rows)
    others = [finding for finding, _ in of_nodes]
    unexplained = False
    layers: list[str] = []
    first: str | None = None
    for left, right in alignment.pairs:
        old, new = expected.layers[left], actual.layers[right]
        is_held = rows.holds_layer(new) and not settings.ignores(old["layer"])
        if not is_held and (new["layer"] not in rows.outputs or settings.ignores(old["layer"])):
            continue
        layers.append(old["layer"])
        layer_findings = _structure_findings(old, new, folded=left in folded.layers) if is_held else []
        moved = _moved(old, new, settings)
        if moved and moved[0].statistic != UNDECIDED:
            is_changed = old["layer"] in changed or (old["op_type"] != "Output" and old["content"] != new["content"])
            cause = _cause(layer_findings, first, others, is_changed=is_changed)
            unexplained |= first is None and not is_changed
            moved = [replace(finding, message=f"{finding.message}; {cause}") for finding in moved]
        layer_findings += moved
        layer_findings += weights.pop(old["layer"], [])
        if layer_findings:
            first = first or old["layer"]
        findings += layer_findings
    findings += _unpaired(expected, actual, alignment, rows, outputs=ran)
    findings = _with_nodes(findings, of_nodes, set(layers), ran=ran, unexplained=unexplained)
    findings = [*findings, *itertools.chain(*weights.values()), *_unfit_findings(actual, settings)]
    return findings, layers, [*remarks, *remarks_on_folds(expected, folded)]


def _with_nodes(
    findings: list[Deviation],
    of_nodes: Sequence[tuple[Deviation, bool]],
    layers: Collection[str],
    *,
    ran: bool,
    unexplained: bool,
) -> list[Deviation]:
    """What is said of nodes beside the other findings: where values differ, all of it, the cause before what it causes.

    Where none does, numbers of nodes that are others still count, and so does the rest where no values speak for it:
    the models were not run, or the values of its layer could not be judged.
    """
    others = [finding for finding, _ in of_nodes]
    if ran and unexplained:  # what the nodes do was run, and one of them is to blame
        return others + findings
    if any(finding.statistic != UNDECIDED for finding in findings):
        return findings + others
    unjudged = {finding.layer for finding in findings}
    judged = set(layers) - unjudged
    return findings + [
        finding for finding, is_number in of_nodes if is_number or not ran or (unjudged and finding.layer not in judged)
    ]


def _node_findings(
    expected: Baseline,
    actual: Baseline,
    records: tuple[Sequence[NodeRecord], Sequence[NodeRecord]],
    alignment: Alignment,
    told: Iterable[str],
    rows: SelectedRows,
) -> list[tuple[Deviation, bool]]:
    """What is not the same about any node, each with whether it is about numbers that are others."""
    lines = line_of_layer(expected.layers, records[0]), line_of_layer(actual.layers, records[1])
    known = [(lines[0][x], lines[1][y]) for x, y in alignment.pairs if x in lines[0] and y in lines[1]]
    found = node_findings(*records, known, told, holds=rows.holds)
    findings = [(Deviation(**fields), is_number) for fields, is_number in found]
    return [(finding, is_number) for finding, is_number in findings if not rows.settings.ignores(finding.layer)]


def _unpaired(
    expected: Baseline, actual: Baseline, alignment: Alignment, rows: SelectedRows, *, outputs: bool
) -> list[Deviation]:
    """Layers, and where it is asked for outputs, that one side alone has."""
    findings = []
    for side, only, word in ((expected, alignment.only_a, "gone"), (actual, alignment.only_b, "new")):
        for place in only:
            row = side.layers[place]
            counts = outputs or row["op_type"] != "Output"
            if rows.holds_layer(row) and counts and not row.get("unread"):
                before, after = (row["op_type"], None) if word == "gone" else (None, row["op_type"])
                findings.append(
                    Deviation(
                        layer=row["layer"],
                        statistic="layer",
                        expected=before,
                        found=after,
                        tolerance=None,
                        message=f"the layer is {word}",
                    )
                )
    return findings


def _without_constants(
    old: Sequence[Mapping[str, Any]],
    new: Sequence[Mapping[str, Any]],
    records: tuple[Sequence[NodeRecord], Sequence[NodeRecord]],
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The weights of both sides but for those that the other side has elsewhere, which are compared as nodes.

    A small vector in a Constant is a number of its node, where it is a weight as an initializer. Equal weights may be
    stored once.
    """
    names = [{row["name"] for row in rows} for rows in (old, new)]
    held = [stored_digests(side) for side in records]
    equal = [{(row["sha256"], *row["shape"]) for row in rows if all(records)} for rows in (old, new)]

    def is_elsewhere(row: Mapping[str, Any], side: int) -> bool:
        return is_stored(row["sha256"], held[side]) or (row["sha256"], *row["shape"]) in equal[side]

    return (
        [row for row in old if row["name"] in names[1] or not is_elsewhere(row, 1)],
        [row for row in new if row["name"] in names[0] or not is_elsewhere(row, 0)],
    )


def _told(
    weights: Sequence[Mapping[str, Any]],
    findings: Mapping[str, Sequence[Deviation]],
    folded: Collection[str],
    rows: SelectedRows,
) -> list[str]:
    """The digests of weights that are findings, folded, or not looked at: their nodes say nothing more of them."""
    statistics = {finding.statistic for of_layer in findings.values() for finding in of_layer}
    return [
        row["sha256"]
        for row in weights
        if f"weight {row['name']}" in statistics or row["name"] in folded or not rows.holds_weight(row)
    ]


def _unfit_findings(actual: Baseline, settings: Settings) -> list[Deviation]:
    """What a CPU hides: values of half precision that hold numbers beyond their type, whatever the baseline says."""
    values = [value for value in actual.unfit if not settings.ignores(value.layer)]
    if not values:
        return []
    return [
        Deviation(
            layer=values[0].layer,
            statistic="largest magnitude",
            expected=None,
            found=values[0].largest,
            tolerance=None,
            message=unfit_sentence(values),
        )
    ]


def _structure_findings(old: Mapping[str, Any], new: Mapping[str, Any], *, folded: bool) -> list[Deviation]:
    findings = []
    if folded:
        own = ({key: value for key, value in row["attributes"].items() if "." not in key} for row in (old, new))
        old, new = ({**row, "norm": None, "attributes": found} for row, found in zip((old, new), own, strict=True))
    for key in _PLAIN:
        is_open = (key == "shape" and None in (old[key], new[key])) or (
            key == "weight_shape" and not (old[key] and new[key])
        )
        if old[key] != new[key] and not is_open:
            before, after = (shown_value(row[key], is_shape=key.endswith("shape")) for row in (old, new))
            message = f"{key.replace('_', ' ')} {before} became {after}"
            findings.append(_changed(old, new, key, message))
    contents = old["content"], new["content"]
    is_judged = old["op_type"] == new["op_type"] == "Output" and old["reproduces"] and new["reproduces"]
    if is_judged and None not in contents and contents[0] != contents[1]:
        what = "its strings, long integers, keys or lengths are others on the first samples"
        findings.append(_changed(old, new, "content", what))
    return findings


def _moved(old: Mapping[str, Any], new: Mapping[str, Any], settings: Settings) -> list[Deviation]:
    """The statistics of a layer's activations that are beyond their tolerance, or why nobody can say."""
    if old["shape"] is None or new["shape"] is None:
        return []
    both = (old, "the baseline"), (new, "the model")
    unstable = [where for row, where in both if not row["reproduces"]]
    odd = [row["nan_count"] + row["inf_count"] for row in (old, new)]
    # Numbers that are not finite in one of them alone differ, whatever onnxruntime does.
    moved = [where for row, where in both if "moved_fraction" in row and odd[0] != odd[1] and all(odd)]
    if unstable or moved:
        where = " and in ".join(unstable or moved)
        message = f"does not reproduce from run to run in {where}: nothing can be judged by it"
        if not unstable:
            message = f"other numbers are finite without onnxruntime's optimizations in {where}: nothing can be judged"
        cause = new.get("cause") or old.get("cause")
        message += f"; it {cause}" if isinstance(cause, str) else ""
        undecided = Deviation(
            layer=old["layer"], statistic=UNDECIDED, expected=None, found=None, tolerance=None, message=message
        )
        return [undecided]
    findings = []
    layer = old["layer"]
    deviation = old["std"] or abs(old["mean"] or 0.0) or 1.0
    norm = ((old["mean"] or 0.0) ** 2 + (old["std"] or 0.0) ** 2) ** 0.5 or 1.0
    allowed = max(settings.tolerance_of(layer) * deviation, _MOMENTS * (old["noise"] or 0.0) * norm)
    limits = {"mean": allowed, "std": allowed, "min": _EXTREMES * allowed, "max": _EXTREMES * allowed}
    limits |= {"zero_fraction": max(_SHARE, settings.tolerance_of(layer))}
    if all("place_mean" in row for row in (old, new)) and old["place_count"] == new["place_count"]:
        limits |= {"place_mean": allowed}  # the weights of places are at most 1
    for key, limit in limits.items():
        before, after = old[key], new[key]
        if before is None or after is None:
            if before is not after:
                findings.append(_changed(old, new, key, "there is no finite number on one side", limit))
        elif abs(after - before) > limit:
            times = abs(after - before) / limit if limit else float("inf")
            message = f"moved by {format_number(abs(after - before))}, {times:,.0f} times the tolerance"
            if key == "place_mean":
                message = f"its numbers are others in their places: {message}"
            findings.append(_changed(old, new, key, message, limit))
    for key, word in (("nan_count", "NaN"), ("inf_count", "infinities")):
        if old[key] != new[key]:
            findings.append(_changed(old, new, key, f"{new[key]:,} {word}, not {old[key]:,}"))
    if new["dead_channels"] > old["dead_channels"]:
        message = f"zero everywhere: {counted(new['dead_channels'] - old['dead_channels'], 'more channel')}"
        findings.append(_changed(old, new, "dead_channels", message))
    return findings


def _changed(
    old: Mapping[str, Any], new: Mapping[str, Any], key: str, message: str, tolerance: float | None = None
) -> Deviation:
    """One entry of a layer's row that is not what it was."""
    return Deviation(
        layer=old["layer"],
        statistic=key,
        expected=old[key],
        found=new[key],
        tolerance=tolerance,
        message=message,
    )


def _cause(
    layer_findings: Sequence[Deviation], first: str | None, nodes: Sequence[Deviation], *, is_changed: bool
) -> str:
    if is_changed:
        return "its weights have changed"
    if layer_findings:
        return "its structure has changed"
    if first is not None:
        return f"probably follows from {printable(first)}"
    if nodes:
        return f"the first to move: {nodes[0].message}"
    return "the first to move, with the same weights: look at the operators before it and at the pre-processing"


def _weight_findings(
    expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]], rows: SelectedRows
) -> list[Deviation]:
    old, new = ({row["name"]: row for row in side if rows.holds_weight(row)} for side in (expected, actual))
    findings = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        present = before or after or {}
        layer = present["layer"]
        statistic = f"weight {name}"
        if before is None or after is None:
            if present["min"] == present["max"] == 0 or present.get("unread") or present.get("folds"):
                continue  # exporters leave out a bias of zeros, what nothing reads, and what can be folded
            word = "new" if before is None else "gone"
            shapes = [None if row is None else row["shape"] for row in (before, after)]
            findings.append(
                Deviation(
                    layer=layer,
                    statistic=statistic,
                    expected=shapes[0],
                    found=shapes[1],
                    tolerance=None,
                    message=f"the weight is {word}",
                )
            )
            continue
        changes = [
            f"{key} {' became '.join(shown_value(row[key], is_shape=key == 'shape') for row in (before, after))}"
            for key in ("shape", "dtype", "mean", "std", "min", "max", "zero_fraction")
            if before[key] != after[key]
        ]
        if (
            before["sha256"] != after["sha256"]
            or before["shape"] != after["shape"]
            or before["dtype"] != after["dtype"]
        ):
            findings.append(
                Deviation(
                    layer=layer,
                    statistic=statistic,
                    expected=before["sha256"],
                    found=after["sha256"],
                    tolerance=None,
                    message=", ".join(changes) or "the same statistics: single numbers, or their order",
                )
            )
    return findings
