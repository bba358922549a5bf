"""The nodes of a baseline: one line each, which says what a node is, what it holds and what it reads.

A node is read by how many lines before it stands, so that a new node changes few lines beside its own. Numbers that
`weights` lists stand there; every other stored number that an output depends on has its digest here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxscope.base.json_files import Fields
from onnxscope.model.graphs import Node
from onnxscope.model.layer_names import Operand, is_anonymous
from onnxscope.model.loading import Model
from onnxscope.runtime.constant_values import digest_of_text
from onnxscope.structure.attributes import digest_of
from onnxscope.structure.compare_records import changes_numbers, compare_records
from onnxscope.structure.node_records import WEIGHT, NodeRecord, Source, node_records

__all__ = [
    "check_node",
    "is_stored",
    "line_of_layer",
    "listed_nodes",
    "node_findings",
    "node_rows",
    "records_of",
    "records_with_lines",
    "stored_digests",
]

_BEFORE = re.compile(r"-([1-9][0-9]{0,8})(?:\.([0-9]{1,6}))?")
_DIGITS = 16
_COUNTED = re.compile(r"\w+_\d+")
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "layer": (str,),
    "op_type": (str,),
    "body": (str,),
    "attributes": (dict,),
    "constants": (dict,),
    "reads": (dict,),
}


def records_with_lines(model: Model, digests: Mapping[str, str]) -> tuple[NodeRecord, ...]:
    """Return a record for every node that an output depends on, each behind those that it reads: one line each.

    Args:
        model: Whose nodes.
        digests: Of the numbers of each parameter, by its name: its operand's line has the start of it.
    """
    parts: dict[Hashable, list[str]] = {}
    for parameter in model.parameters:
        if parameter.operand is not None and parameter.name in digests:
            parts.setdefault(_place(model, parameter.operand), []).append(digests[parameter.name])
    weights = {place: f"{WEIGHT} {_digest_of(told)[:_DIGITS]}" for place, told in parts.items()}

    def listed(operand: Operand) -> str | None:
        origin = operand.origin
        return weights.get(_place(model, operand)) if origin is not None and origin.permutation == () else None

    return node_records(model, listed)


def _digest_of(parts: Sequence[str]) -> str:
    """One digest for the parts of a tensor that is several parameters, and not one of several names."""
    different = list(dict.fromkeys(parts))
    return different[0] if len(different) == 1 else digest_of(different)


def listed_nodes(model: Model) -> list[Node | None]:
    """Return the node of each line of `node_rows`, None for an output."""
    names = (parameter.name for parameter in model.parameters)
    return [record.node for record in records_with_lines(model, dict.fromkeys(names, ""))]


def node_rows(records: Sequence[NodeRecord]) -> tuple[dict[str, Any], ...]:
    """Return the lines of records."""
    return tuple(_row(record, place) for place, record in enumerate(records))


def records_of(
    nodes: Sequence[Mapping[str, Any]] | None, listed: Sequence[Node | None] | None = None
) -> list[NodeRecord]:
    """Return the records behind a baseline's lines; none where it has no lines.

    Args:
        nodes: The lines.
        listed: The node of each line, where it is asked for.
    """
    records = [_record(place, row) for place, row in enumerate(nodes or ())]
    if listed is None:
        return records
    return [replace(record, node=node) for record, node in zip(records, listed, strict=True)]


def stored_digests(records: Sequence[NodeRecord]) -> set[str]:
    """Return the starts of the digests of the numbers that nodes hold beside weights."""
    texts = {text for record in records for text in record.constants.values()}
    return {digest for text in texts if (digest := digest_of_text(text)) is not None}


def is_stored(sha256: str, digests: Collection[str]) -> bool:
    """Whether a weight's numbers are among these."""
    return sha256[:_DIGITS] in digests


def line_of_layer(layers: Sequence[Mapping[str, Any]], records: Sequence[NodeRecord]) -> dict[int, int]:
    """Return which line is that of which layer; empty where a file does not have them in one order."""
    weighted = [place for place, record in enumerate(records) if record.is_layer]
    if len(weighted) > len(layers):
        return {}
    for row, place in zip(layers, weighted, strict=False):
        if row["op_type"] != records[place].op_type or records[place].layer not in ("", row["layer"]):
            return {}
    return dict(enumerate(weighted))


def _place(model: Model, operand: Operand) -> Hashable:
    """Where an operand is stored, and where it is dequantized: one that two scales are for is two weights."""
    origin, graph = operand.origin, model.graphs[operand.node.path]
    if origin is None:
        return None
    places = (graph.scope_of(value).path if value else () for value in (origin.value, origin.dequantized))
    return origin.value, origin.dequantized, *places


def check_node(row: Fields, place: int) -> None:
    """Check a line of a file; faults are reported by `Fields.checking`."""
    row.expect(_FIELDS)
    if not isinstance(row.values.get("weighted"), bool):
        row.fault("no weighted")
    for key in ("constants", "reads"):
        if not all(isinstance(text, str) for text in row.values[key].values()):
            row.fault(f"{key} that are no texts")
    for text in row.values["reads"].values():
        before = _BEFORE.fullmatch(text)
        if before is not None and int(before[1]) > place:
            row.fault(f"a node before the first: {text}")


def node_findings(
    old: Sequence[NodeRecord],
    new: Sequence[NodeRecord],
    known: Sequence[tuple[int, int]],
    told: Iterable[str],
    *,
    holds: Callable[[Node | None], bool] = lambda node: True,
) -> list[tuple[dict[str, Any], bool]]:
    """Return where the nodes of two baselines differ, as the fields of a `Deviation`.

    With each stands whether numbers are others: these count where the models were run, which may not have reached them.

    Args:
        old: Those of the first; none where it lists no nodes, so that nothing is compared.
        new: Of the second.
        known: Places of those that belong together.
        told: Digests of weights that are findings of their own.
        holds: Whether what is said of a node of `new` is looked at; one that is gone is None.
    """
    if not old or not new:
        return []
    of_told = {f"{WEIGHT} {digest[:_DIGITS]}" for digest in told}
    return [
        (
            {
                "layer": change.layer,
                "statistic": "node" if change.what == "node" else f"node {change.what}",
                "expected": change.expected,
                "found": change.found,
                "tolerance": None,
                "message": change.message,
            },
            changes_numbers(change),
        )
        for change in compare_records(old, new, known)
        if holds(change.node) and not (isinstance(change.expected, str) and {change.expected, change.found} & of_told)
    ]


def _row(record: NodeRecord, place: int) -> dict[str, Any]:
    is_made_up = record.is_layer and (is_anonymous(record.layer) or _COUNTED.fullmatch(record.layer) is not None)
    return {
        "layer": "" if is_made_up else record.layer,
        "op_type": record.op_type,
        "body": record.body,
        "weighted": record.is_layer,
        "attributes": dict(sorted(record.attributes.items())),
        "constants": dict(sorted(record.constants.items())),
        "reads": {slot: _shown(source, place) for slot, source in record.reads.items()},
    }


def _shown(source: Source, place: int) -> str:
    if isinstance(source, str):
        return source
    return f"-{place - source[0]}" + (f".{source[1]}" if source[1] else "")


def _record(place: int, row: Mapping[str, Any]) -> NodeRecord:
    reads: dict[str, Source] = {}
    for slot, text in row["reads"].items():
        before = _BEFORE.fullmatch(text)
        reads[slot] = text if before is None else (place - int(before[1]), int(before[2] or 0))
    return NodeRecord(
        op_type=row["op_type"],
        layer=row["layer"],
        label="",
        body=row["body"],
        is_layer=bool(row["weighted"]),
        attributes=row["attributes"],
        constants=row["constants"],
        reads=reads,
    )
