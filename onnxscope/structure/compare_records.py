"""Where two graphs differ, node by node: `compare_records`.

A change deep down is told at its own node, not at all nodes behind it. Nodes are paired by everything before them, by
everything behind them, by their neighbours, by name, and in order; then what is their own and their wiring is compared.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from onnx import defs

from onnxscope.base.text import printable
from onnxscope.model.graphs import Node
from onnxscope.runtime.constant_values import digest_of_text
from onnxscope.structure.attributes import attribute_text
from onnxscope.structure.fused_regions import FusedRegion, find_regions
from onnxscope.structure.node_records import OUTPUT, UNORDERED, WEIGHT, NodeRecord, Source, is_weight
from onnxscope.structure.reshaped_sides import is_one_shape
from onnxscope.structure.standard_spelling import promoted_reals
from onnxscope.structure.surroundings import Side

__all__ = ["NodeChange", "changes_numbers", "compare_records"]

_MOST_ROWS = 3  # of nodes of one operator that one model alone has, until a count tells the others

_DATA = (defs.OpSchema.AttrType.INTS, defs.OpSchema.AttrType.FLOATS, defs.OpSchema.AttrType.FLOAT)
_LEARNED = ("float", "bfloat", "double", "int8", "uint8", "int4", "uint4", "int16", "uint16", "complex")
"""Element types of what was learned, by how they start; longer integers are mostly shapes, axes and counts."""


@dataclass(frozen=True)
class NodeChange:
    """Something that is not the same about a node, or a node that one model alone has.

    Attributes:
        layer: The layer that the node is, or stands behind; empty where there is none.
        what: What of the node, empty for all of it.
        expected: In the first model; None where it is not there.
        found: In the second.
        message: In words.
        node: Which node, of the first model where it is there; None where it is an output, or several.
        records: What both models have there, where it is something of a node that both have.
        region: What one operator of one model stands for in the other, where the change is that.
    """

    layer: str
    what: str
    expected: Any
    found: Any
    message: str
    node: Node | None = None
    records: tuple[NodeRecord, NodeRecord] | None = None
    region: FusedRegion | None = None


def compare_records(
    a: Sequence[NodeRecord],
    b: Sequence[NodeRecord],
    known: Sequence[tuple[int, int]] = (),
    *,
    regions: bool = False,
) -> list[NodeChange]:
    """Return what is not the same, in the order of the first graph; what only the second has comes behind that.

    What only computes sizes comes last: exporters write it in many ways, and it says least.

    Args:
        a: The first graph, each record behind those that it reads, its outputs last.
        b: The second.
        known: Places of records that belong together by other evidence, such as their weights.
        regions: Whether an operator that stands for several nodes of the other graph is told as that, in one change.
    """
    outputs = [{record.layer for record in records if record.op_type == OUTPUT} for records in (a, b)]
    by_name = outputs[0] == outputs[1]
    sides = (Side(records, by_name, [pair[place] for pair in known]) for place, records in enumerate((a, b)))
    pairing = _Pairing(*sides)
    pairing.pair(known, regions=regions)
    return pairing.changes()


class _Pairing:
    def __init__(self, a: Side, b: Side) -> None:
        self._a, self._b = a, b
        self._of_a: dict[int, int] = {}
        self._of_b: dict[int, int] = {}
        self._named = self._input_names()
        self._regions: Sequence[FusedRegion] = ()
        self._inside: tuple[set[int], set[int]] = set(), set()

    def _input_names(self) -> Mapping[str, str]:
        """What the second graph's inputs are called in the first: the same, or in order where the names differ."""
        if set(self._a.inputs) == set(self._b.inputs):
            return {}
        left = [name for name in self._a.inputs if name not in self._b.inputs]
        right = [name for name in self._b.inputs if name not in self._a.inputs]
        return dict(zip(right, left, strict=False))

    def pair(self, known: Sequence[tuple[int, int]], *, regions: bool) -> None:
        """Pair what can be paired, by the strongest evidence first; `regions` leaves out what one node stands for."""
        for pair in known:
            self._pair(*pair)
        before = self._a.before(str), self._b.before(self._to_a)
        self._alike(lambda place: before[0][place], lambda place: before[1][place])
        self._alike(lambda place: self._a.behind[place], lambda place: self._b.behind[place])
        self._spread()
        for key in (_name_key, _layer_key):
            self._alike(self._keyed(self._a, key), self._keyed(self._b, key), unique=True)
            self._spread()
        if regions:
            self._regions, self._inside = find_regions((self._a, self._b), (self._of_a, self._of_b))
        for token in (self._own_tokens, self._kind_tokens):
            self._in_order(token)
            self._spread()
        self._spread(same_kind=False)

    def changes(self) -> list[NodeChange]:
        """What is not the same about pairs, and what is in no pair."""
        changes = [_of_region(region) for region in self._regions]
        of_sizes: list[NodeChange] = []
        for side, paired, is_first in ((self._a, self._of_a, True), (self._b, self._of_b, False)):
            sizing, inside = side.sizing, self._inside[0 if is_first else 1]
            for left in sorted(paired) if is_first else ():
                if left not in inside or self._of_a[left] not in self._inside[1]:
                    (of_sizes if left in sizing else changes).extend(self._of_pair(left, self._of_a[left]))
            alone = [place for place in range(len(side.records)) if place not in paired and place not in inside]
            changes += _alone(side, [place for place in alone if place not in sizing], is_first)
            of_sizes += _sizes_alone(side, [place for place in alone if place in sizing], is_first)
        return changes + of_sizes

    def _to_a(self, source: str) -> str:
        return self._named.get(source, source)

    @staticmethod
    def _keyed(side: Side, key: Callable[[NodeRecord], Hashable | None]) -> Callable[[int], Hashable | None]:
        return lambda place: key(side.records[place])

    def _alike(
        self,
        key_a: Callable[[int], Hashable | None],
        key_b: Callable[[int], Hashable | None],
        *,
        unique: bool = False,
    ) -> None:
        """Pair records of one key in order; only a key that one record of each has if it is to be unique."""
        places: tuple[dict[Hashable, list[int]], dict[Hashable, list[int]]] = ({}, {})
        for side, paired, key, groups in (
            (self._a, self._of_a, key_a, places[0]),
            (self._b, self._of_b, key_b, places[1]),
        ):
            for place in range(len(side.records)):
                value = None if place in paired else key(place)
                if value is not None:
                    groups.setdefault(value, []).append(place)
        for value, left in places[0].items():
            right = places[1].get(value, [])
            if not unique or len(left) == len(right) == 1:
                for pair in zip(left, right, strict=False):
                    self._pair(*pair)

    def _spread(self, *, same_kind: bool = True) -> None:
        """Pair what stands at the same place before or behind a pair, until nothing is left to pair."""
        waiting = list(self._of_a.items())
        while waiting:
            left, right = waiting.pop()
            sources = self._a.sources(left), self._b.sources(right)
            near = [
                (sources[0][slot][0], sources[1][slot][0])
                for slot in sources[0]
                if len(sources[0][slot]) == len(sources[1].get(slot, ())) == 1
            ]
            readers = [
                [reader for reader, _ in side.readers[place] if reader not in paired]
                for side, place, paired in ((self._a, left, self._of_a), (self._b, right, self._of_b))
            ]
            for kind in {self._a.records[reader].op_type for reader in readers[0]}:
                alike = [
                    [reader for reader in group if not same_kind or side.records[reader].op_type == kind]
                    for side, group in zip((self._a, self._b), readers, strict=True)
                ]
                near += [(alike[0][0], alike[1][0])] if len(set(alike[0])) == len(set(alike[1])) == 1 else []
            for pair in near:
                if self._fit(*pair, same_kind=same_kind) and self._pair(*pair):
                    waiting.append(pair)

    def _fit(self, left: int, right: int, *, same_kind: bool) -> bool:
        x, y = self._a.records[left], self._b.records[right]
        if x.body != y.body or x.is_layer != y.is_layer or (x.op_type == OUTPUT) != (y.op_type == OUTPUT):
            return False
        if same_kind:
            return x.op_type == y.op_type
        # Another operator at the same place: what it reads has to agree too.
        slots = sorted(x.reads), sorted(y.reads)
        return len(slots[0]) == len(slots[1]) and all(
            self._is_same(x.reads[first], y.reads[second]) for first, second in zip(*slots, strict=True)
        )

    def _is_same(self, x: Source, y: Source) -> bool:
        if isinstance(x, str) or isinstance(y, str):
            return isinstance(x, str) and isinstance(y, str) and x == self._to_a(y)
        return self._of_a.get(x[0]) == y[0] and x[1] == y[1]

    def _in_order(self, tokens: Callable[[Side, Sequence[int]], Sequence[Hashable]]) -> None:
        left, right = (
            [place for place in range(len(side.records)) if place not in paired and place not in inside]
            for side, paired, inside in zip((self._a, self._b), (self._of_a, self._of_b), self._inside, strict=True)
        )
        matcher = difflib.SequenceMatcher(None, tokens(self._a, left), tokens(self._b, right), autojunk=False)
        for start_a, start_b, size in matcher.get_matching_blocks():
            for step in range(size):
                self._pair(left[start_a + step], right[start_b + step])

    @staticmethod
    def _own_tokens(side: Side, places: Sequence[int]) -> list[Hashable]:
        return [side.own[place] for place in places]

    @staticmethod
    def _kind_tokens(side: Side, places: Sequence[int]) -> list[Hashable]:
        records = [side.records[place] for place in places]
        return [(record.op_type, record.body, len(record.reads)) for record in records]

    def _pair(self, left: int, right: int) -> bool:
        if left in self._of_a or right in self._of_b or left in self._inside[0] or right in self._inside[1]:
            return False
        self._of_a[left] = right
        self._of_b[right] = left
        return True

    def _of_pair(self, left: int, right: int) -> list[NodeChange]:
        x, y = self._a.records[left], self._b.records[right]
        layer = self._a.layer_of(left)
        what = printable(x.op_type if x.label in ("", x.layer) or x.is_layer else f"{x.op_type} {x.label}")
        if x.op_type != y.op_type:
            message = f"{what} became {printable(y.op_type)}"
            return [NodeChange(layer, "op_type", x.op_type, y.op_type, message, x.node or y.node)]
        changes = []
        both = ((x.attributes, y.attributes, "by default"), (x.constants, y.constants, "nothing"))
        for before, after, missing in both:
            for name in sorted(before.keys() | after.keys()):
                old, new = before.get(name), after.get(name)
                if old == new or name in x.reads or name in y.reads or (before is x.constants and _is_told(old, new)):
                    continue
                if x.op_type == "Reshape" and name == "shape" and old and new and is_one_shape(old, new):
                    continue
                message = (
                    f"{what}: {printable(name)} {attribute_text(old, missing)} became {attribute_text(new, missing)}"
                )
                changes.append(NodeChange(layer, name, old, new, message, x.node or y.node, (x, y)))
        return changes + self._wiring(x, y, layer, what)

    def _wiring(self, x: NodeRecord, y: NodeRecord, layer: str, what: str) -> list[NodeChange]:
        """Operands that come from elsewhere, but for those that come from a node that one model alone has."""
        changes = []
        exchanged = _exchanged(x, y)
        for slot, old, new in self._moved(x, y):
            if (is_weight(x.constants.get(slot)) or is_weight(y.constants.get(slot))) and slot not in exchanged:
                continue
            fresh = (old is not None and not isinstance(old, str) and old[0] not in self._of_a) or (
                new is not None and not isinstance(new, str) and new[0] not in self._of_b
            )
            if fresh:
                continue
            texts = _source(self._a, x, slot, old), _source(self._b, y, slot, new)
            message = f"{what}: {printable(slot)} came from {texts[0]}, and comes from {texts[1]}"
            changes.append(NodeChange(layer, slot, texts[0], texts[1], message, x.node or y.node))
        return changes

    def _moved(self, x: NodeRecord, y: NodeRecord) -> list[tuple[str, Source | None, Source | None]]:
        """Slots whose operands do not come from the same; None stands for no such operand."""
        moved: list[tuple[str, Source | None, Source | None]] = []
        for slot in sorted(x.reads.keys() | y.reads.keys()):
            old, new = x.reads.get(slot), y.reads.get(slot)
            if old is None or new is None or not self._is_same(old, new):
                moved.append((slot, old, new))
        unordered = [[pair[side] for pair in moved if pair[0].startswith(UNORDERED)] for side in (1, 2)]
        for old in list(unordered[0]):
            same = next(
                (new for new in unordered[1] if old is not None and new is not None and self._is_same(old, new)), None
            )
            if same is not None:
                unordered[0].remove(old)
                unordered[1].remove(same)
        rest = itertools.zip_longest(*([source for source in side if source is not None] for side in unordered))
        ordered = [pair for pair in moved if not pair[0].startswith(UNORDERED)]
        return ordered + [(UNORDERED, old, new) for old, new in rest]


def _is_told(old: str | None, new: str | None) -> bool:
    """Whether an operand is compared with the weights alone, or holds the same numbers though one is no weight."""
    if old is None or new is None or WEIGHT in (old, new):
        return is_weight(old) or is_weight(new)
    digests = {text.partition(" ")[2] if is_weight(text) else digest_of_text(text) for text in (old, new)}
    return (is_weight(old) or is_weight(new)) and len(digests) == 1


def _exchanged(x: NodeRecord, y: NodeRecord) -> set[str]:
    """Operands that are a weight in one node alone, where there are such of either node: they changed places."""
    weights = [{slot for slot, text in record.constants.items() if is_weight(text)} for record in (x, y)]
    left, right = weights[0] & y.reads.keys(), weights[1] & x.reads.keys()
    return left | right if left and right else set()


def _alone(side: Side, places: Sequence[int], is_first: bool) -> list[NodeChange]:
    """Nodes that one model alone has; layers are told elsewhere."""
    changes = []
    kinds: Counter[str] = Counter()
    for place in places:
        record = side.records[place]
        if record.is_layer:
            continue
        kinds[record.op_type] += 1
        if kinds[record.op_type] <= _MOST_ROWS:
            name = "" if record.label in ("", record.layer) else f" {record.label}"
            message = f"{record.op_type}{name} is only in the {'first' if is_first else 'second'} model"
            before, after = (record.op_type, None) if is_first else (None, record.op_type)
            changes.append(NodeChange(side.layer_of(place), "node", before, after, printable(message), record.node))
    for kind, count in kinds.items():
        if count > _MOST_ROWS:
            more = f"{count - _MOST_ROWS:,} more of {kind}"
            message = f"{more} are only in the {'first' if is_first else 'second'} model"
            before, after = (more, None) if is_first else (None, more)
            changes.append(NodeChange("", "node", before, after, printable(message)))
    return changes


def _of_region(region: FusedRegion) -> NodeChange:
    before, after = (None, region.fused.op_type) if region.in_second else (region.fused.op_type, None)
    layer = region.reader.layer or region.reader.label
    return NodeChange(layer, "fused", before, after, printable(region.message), region.fused.node, region=region)


def _sizes_alone(side: Side, places: Sequence[int], is_first: bool) -> list[NodeChange]:
    if len(places) <= 1:
        return _alone(side, places, is_first)
    what = f"{len(places):,} nodes that compute sizes"
    message = f"{what} are only in the {'first' if is_first else 'second'} model"
    return [NodeChange("", "node", what if is_first else None, None if is_first else what, message)]


def _source(side: Side, record: NodeRecord, slot: str, source: Source | None) -> str:
    if source is None:
        constant = record.constants.get(slot)
        return "nowhere" if constant is None else f"a constant {printable(constant)}"
    if isinstance(source, str):
        return printable(source)
    origin = side.records[source[0]]
    number = f" output {source[1]}" if source[1] else ""
    where = origin.layer or side.layer_of(source[0])
    return printable(f"{origin.op_type}{f' in {where}' if where else ''}{number}")


def _name_key(record: NodeRecord) -> Hashable | None:
    return (record.label, record.op_type, record.body) if record.label else None


def _layer_key(record: NodeRecord) -> Hashable | None:
    return (record.layer, record.op_type, record.body) if record.layer else None


def changes_numbers(change: NodeChange) -> bool:
    """Whether numbers that a node holds are others in the same place, in a tensor or in a list."""
    old, new = change.expected, change.found
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys()
    if isinstance(old, list) and isinstance(new, list):
        kinds: tuple[type, ...] = (float, int) if change.what in _data_attributes() else (float,)
        return len(old) == len(new) and all(isinstance(number, kinds) for number in (*old, *new))
    if not (isinstance(old, str) and isinstance(new, str)):
        return isinstance(old, float) and isinstance(new, float) and change.what in _data_attributes()
    if change.what in promoted_reals() and _are_numbers(old) and _are_numbers(new):
        return len(old.split()) == len(new.split())
    return old.startswith(_LEARNED) and _kind(old) == _kind(new)


def _are_numbers(text: str) -> bool:
    """Whether numbers stand in a text without their type, as those that older operator sets have in an attribute do."""
    try:
        return bool([float(number) for number in text.split()])
    except ValueError:
        return False


@cache
def _data_attributes() -> frozenset[str]:
    """What holds what was learned, or how it is labelled: lists and real numbers of operators of `ai.onnx.ml`."""
    schemas = [schema for schema in defs.get_all_schemas_with_history() if schema.domain == "ai.onnx.ml"]
    stored = [entry for schema in schemas for entry in schema.attributes.items()]
    return frozenset(name for name, attribute in stored if attribute.type in _DATA)


def _kind(text: str) -> str:
    """Type and shape, in front of the numbers."""
    return text[: text.index("]")] if "]" in text else text.partition(" ")[0]
