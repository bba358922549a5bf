"""Where a record stands in its graph: digests of everything before it and of everything behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from onnxscope.runtime.constant_values import digest_of_text
from onnxscope.structure.node_records import OUTPUT, UNORDERED, WEIGHT, NodeRecord, is_weight

__all__ = ["Side", "meaning", "place_of", "surroundings"]

_SIZING = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Squeeze", "Unsqueeze", "Concat", "Reshape", "Cast", "Identity"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Min", "Max"}
)
"""Operators that exporters compute the sizes of a Reshape, a Slice or an Expand with."""


def surroundings(records: Sequence[NodeRecord]) -> list[tuple[str, str]]:
    """Return for each record two digests: of everything before it, and of everything behind it, itself included.

    Inputs stand there by their names where there are several, and outputs by their order.
    """
    side = Side(records, outputs_by_name=False)
    before = side.before(str if len(side.inputs) > 1 else lambda _: "input")
    return list(zip(before, side.behind, strict=True))


def meaning(records: Sequence[NodeRecord]) -> list[str] | None:
    """Return digests of all that the outputs depend on, every number included, whoever computed it; None if unknown."""
    told = []
    for record in records:
        if WEIGHT in record.constants.values():
            return None
        constants = {slot: _numbers_in(text) for slot, text in record.constants.items()}
        told.append(replace(record, constants=constants))
    before = [digest for digest, _ in surroundings(told)]
    return [digest for digest, record in zip(before, records, strict=True) if record.op_type == OUTPUT]


def _numbers_in(text: str) -> str:
    return text.partition(" ")[2] if is_weight(text) else digest_of_text(text) or text


class Side:
    """One graph, and digests of what stands before and behind each record."""

    def __init__(self, records: Sequence[NodeRecord], outputs_by_name: bool, known: Sequence[int] = ()) -> None:
        """Digest the records, those that are known to belong to one of the other graph with their number."""
        self.records = records
        ends = [place for place, record in enumerate(records) if record.op_type == OUTPUT]
        self._ends = {place: records[place].layer if outputs_by_name else f"{end}" for end, place in enumerate(ends)}
        self.inputs = list(dict.fromkeys(source for record in records for source in _inputs(record)))
        self.readers: list[list[tuple[int, str]]] = [[] for _ in records]
        for place, record in enumerate(records):
            for slot, source in record.reads.items():
                if not isinstance(source, str):
                    self.readers[source[0]].append((place, slot))
        self.own = [_digest(_own(record)) for record in records]
        for number, place in enumerate(known):
            self.own[place] = _digest([self.own[place], number])
        self.behind = [""] * len(records)
        for place in range(len(records) - 1, -1, -1):
            after = sorted(f"{self.behind[reader]} {place_of(slot)}" for reader, slot in self.readers[place])
            self.behind[place] = _digest([self.own[place], self._ends.get(place), after])

    def before(self, named: Callable[[str], str]) -> list[str]:
        """A digest of each record and of everything before it, with inputs by the names that are given to them."""
        digests: list[str] = []
        for place, record in enumerate(self.records):
            read = sorted(
                [place_of(slot), named(source) if isinstance(source, str) else f"{digests[source[0]]} {source[1]}"]
                for slot, source in record.reads.items()
            )
            digests.append(_digest([self.own[place], self._ends.get(place), read]))
        return digests

    def sources(self, place: int) -> dict[str, list[int]]:
        """The records that a record reads, by slot; those of unordered operands by their operators."""
        sources: dict[str, list[int]] = {}
        for slot, source in self.records[place].reads.items():
            if not isinstance(source, str):
                key = place_of(slot)
                key = f"{key} {self.records[source[0]].op_type}" if key == UNORDERED else key
                sources.setdefault(key, []).append(source[0])
        return sources

    @cached_property
    def sizing(self) -> frozenset[int]:
        """Places of nodes that compute with the sizes of values, and with nothing else."""
        found: set[int] = set()
        for place, record in enumerate(self.records):
            sources = record.reads.values()
            reads_sizes = bool(sources) and all(
                not isinstance(source, str) and source[0] in found for source in sources
            )
            if record.op_type in ("Shape", "Size") or (record.op_type in _SIZING and reads_sizes):
                found.add(place)
        return frozenset(found)

    def layer_of(self, place: int) -> str:
        """The layer that a record is, or the nearest one before it."""
        visited = set()
        waiting = [place]
        while waiting:
            place = waiting.pop(0)
            if self.records[place].layer:
                return self.records[place].layer
            for source in self.records[place].reads.values():
                if not isinstance(source, str) and source[0] not in visited:
                    visited.add(source[0])
                    waiting.append(source[0])
        return ""


def _inputs(record: NodeRecord) -> list[str]:
    return [source for source in record.reads.values() if isinstance(source, str) and source.startswith("input ")]


def _own(record: NodeRecord) -> list[Any]:
    constants = {slot: WEIGHT if is_weight(text) else text for slot, text in record.constants.items()}
    return [record.op_type, record.body, dict(record.attributes), constants]


def place_of(slot: str) -> str:
    """Return a slot's name, one for all operands whose order says nothing."""
    return UNORDERED if slot.startswith(UNORDERED) else slot


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
