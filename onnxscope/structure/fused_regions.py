"""Operators of one graph that stand for several nodes of the other: `find_regions`.

An attention that is one node cannot be paired with the nodes that it is written out in: exporters write them in many
ways. What is known is where both begin, at layers that are paired, and where both end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnxscope.model.graphs import Node
from onnxscope.operators.table import operator_of
from onnxscope.structure.node_records import OUTPUT, NodeRecord
from onnxscope.structure.rewriting import inside_of
from onnxscope.structure.surroundings import Side

__all__ = ["FusedRegion", "find_regions"]

_NAMED = 6  # operators that a message lists


@dataclass(frozen=True)
class FusedRegion:
    """An operator of one graph, and the nodes of the other that it stands for.

    Attributes:
        fused: Its record.
        in_second: Whether it is the second graph's.
        nodes: Records of the nodes that it stands for, layers among them, in order.
        reader: The first record behind both, as the first graph has it.
        end: What both give, where something of the main graphs reads it: the nodes of the first and of the second
            graph, each with the value.
    """

    fused: NodeRecord
    in_second: bool
    nodes: tuple[NodeRecord, ...]
    reader: NodeRecord
    end: tuple[tuple[Node, str], tuple[Node, str]] | None

    @property
    def layers(self) -> tuple[NodeRecord, ...]:
        """The layers among the nodes: nobody can tell what leaves them in the other graph."""
        return tuple(node for node in self.nodes if node.is_layer)

    @property
    def message(self) -> str:
        """In words."""
        sides = ("second", "first") if self.in_second else ("first", "second")
        working = [node.op_type for node in self.nodes if operator_of(node.op_type).passes_on is None]
        kinds = list(dict.fromkeys(working or [node.op_type for node in self.nodes]))
        listed = ", ".join([*kinds[:_NAMED], *(["…"] if len(kinds) > _NAMED else [])])
        count = f"{len(self.nodes):,} nodes of the {sides[1]} ({listed})"
        return f"{self.op_type} {self.name} of the {sides[0]} model stands for {count}"

    @property
    def op_type(self) -> str:
        """The fused node's operator in the file, with its domain."""
        if self._given is not None:
            return self._given[0]
        node = self.fused.node
        return self.fused.op_type if node is None else f"{node.domain}.{node.op_type}".lstrip(".")

    @property
    def name(self) -> str:
        """What the fused node is called in the file."""
        return self._given[1] if self._given else self.fused.label or self.fused.layer

    @property
    def _given(self) -> tuple[str, str] | None:
        return None if self.fused.node is None else inside_of(self.fused.node.proto)


def find_regions(
    sides: tuple[Side, Side], pairs: tuple[Mapping[int, int], Mapping[int, int]]
) -> tuple[list[FusedRegion], tuple[set[int], set[int]]]:
    """Find what one graph has in one operator and the other in several nodes.

    Both have to read the same layers, and to be read by the same records.

    Args:
        sides: The two graphs.
        pairs: What is paired so far: by places of the first graph, and by those of the second.

    Returns:
        The regions, and the places of either graph that are in one, or lead to none but one: nothing else is to be
        told of them.
    """
    found: list[tuple[int, int, set[int], set[int], list[tuple[int, int]]]] = []
    inside: tuple[set[int], set[int]] = set(), set()
    for own in (0, 1):
        fused, plain = sides[own], sides[1 - own]
        counts = [Counter(record.op_type for record in side.records) for side in (fused, plain)]
        for place, record in enumerate(fused.records):
            is_more = counts[0][record.op_type] > counts[1][record.op_type]
            if place in pairs[own] or place in inside[own] or not is_more or not _is_fused(record):
                continue
            ends = _ends(fused, place, pairs[own])
            if not ends:
                continue
            regions = [
                _behind(fused, ends, pairs[own]),
                _behind(plain, [pairs[own][end] for end in ends], pairs[1 - own]),
            ]
            read = _layers_read(fused, regions[0], pairs[own]), _layers_read(plain, regions[1], None)
            if len(regions[1]) > 1 and read[0] == read[1] and _may_be(record, [plain.records[at] for at in regions[1]]):
                found.append((own, place, regions[0], regions[1], [(end, pairs[own][end]) for end in ends]))
                inside[own].update(regions[0])
                inside[1 - own].update(regions[1])
    if not found:
        return [], inside
    regions_found = [_region(sides, *each) for each in found]
    for side, places in zip(sides, inside, strict=True):
        places.update(_leading_to(side, places))
    return regions_found, inside


def _is_fused(record: NodeRecord) -> bool:
    """Whether an operator may stand for several: an attention, or one of no domain of ONNX's own.

    One of codes stands in the place of that of real numbers.
    """
    domain, _, name = record.op_type.rpartition(".")
    operator = operator_of(name, domain)
    in_codes = operator.gives_codes is not None or operator.integers or operator.quantizes
    return operator.attends is not None or (bool(domain) and not in_codes)


def _may_be(record: NodeRecord, nodes: Iterable[NodeRecord]) -> bool:
    """Whether nodes may do what one does: an activation function is put together wherever codes do not cut it."""
    domain, _, name = record.op_type.rpartition(".")
    bends = operator_of(name, domain).function is not None
    return not bends or any(operator_of(node.op_type).quantizes for node in nodes)


def _ends(side: Side, place: int, paired: Mapping[int, int]) -> list[int]:
    """The paired records that read what a record gives, through what is not paired."""
    ends: dict[int, None] = {}
    waiting, seen = [place], {place}
    while waiting:
        for reader, _ in side.readers[waiting.pop()]:
            if reader in paired:
                ends[reader] = None
            elif reader not in seen:
                if side.records[reader].op_type == OUTPUT:
                    return []
                seen.add(reader)
                waiting.append(reader)
    return sorted(ends)


def _behind(side: Side, ends: Iterable[int], paired: Mapping[int, int]) -> set[int]:
    """What is not paired and leads to some records, through nothing that is."""
    found: set[int] = set()
    waiting = list(ends)
    while waiting:
        for source in side.records[waiting.pop()].reads.values():
            if not isinstance(source, str) and source[0] not in paired and source[0] not in found:
                found.add(source[0])
                waiting.append(source[0])
    return found


def _layers_read(side: Side, region: set[int], paired: Mapping[int, int] | None) -> set[int]:
    """The nearest layers before a region, but for sizes; by places in the other graph where pairs are given."""
    layers: set[int] = set()
    waiting = [place for place in region if place not in side.sizing]
    seen = {*region, *side.sizing}
    while waiting:
        for source in side.records[waiting.pop()].reads.values():
            if isinstance(source, str) or source[0] in seen:
                continue
            seen.add(source[0])
            if side.records[source[0]].is_layer:
                layers.add(source[0])
            else:
                waiting.append(source[0])
    return layers if paired is None else {paired.get(place, -1) for place in layers}


def _leading_to(side: Side, region: set[int]) -> set[int]:
    """What is read by nothing but a region, or by nothing else but what leads to it; layers are compared themselves."""
    found: set[int] = set()
    for place in range(len(side.records) - 1, -1, -1):
        readers = side.readers[place]
        if place in region or not readers or side.records[place].is_layer:
            continue
        if all(reader in region or reader in found for reader, _ in readers):
            found.add(place)
    return found


def _region(
    sides: tuple[Side, Side], own: int, place: int, region: set[int], other: set[int], ends: list[tuple[int, int]]
) -> FusedRegion:
    plain = sides[1 - own]
    inside = (region, other) if own == 0 else (other, region)
    in_order = sorted(ends if own == 0 else [(left, right) for right, left in ends])
    return FusedRegion(
        fused=sides[own].records[place],
        in_second=own == 1,
        nodes=tuple(plain.records[place] for place in sorted(other - plain.sizing)),
        reader=sides[0].records[in_order[0][0]],
        end=next(filter(None, (_given(sides, inside, reader) for reader in in_order)), None),
    )


def _given(
    sides: tuple[Side, Side], inside: tuple[set[int], set[int]], reader: tuple[int, int]
) -> tuple[tuple[Node, str], tuple[Node, str]] | None:
    """What a record reads of a region, as each graph has it; None where that is not one value of the main graph."""
    found: list[tuple[Node, str]] = []
    for side, region, place in zip(sides, inside, reader, strict=True):
        record = side.records[place]
        if record.op_type == OUTPUT:
            return None
        sources = _sources(record, region)
        while (
            len(rounded := {place for place, _ in sources if operator_of(side.records[place].op_type).quantizes}) == 1
        ):
            record = side.records[rounded.pop()]  # gives codes, their scale and zero point: what they are made of
            sources = _sources(record, region)
        node = side.records[sources[0][0]].node if len(sources) == 1 else None
        if node is None or node.path:
            return None
        source, output = sources[0]
        value = node.outputs[output]
        if side.records[source].is_layer and not _reads(record, value):
            return None
        found.append((node, value))
    return found[0], found[1]


def _sources(record: NodeRecord, region: set[int]) -> list[tuple[int, int]]:
    """What a record reads of a region."""
    reads = (source for source in record.reads.values() if not isinstance(source, str))
    return sorted({source for source in reads if source[0] in region})


def _reads(record: NodeRecord, value: str) -> bool:
    """Whether a record reads what a layer's node gives, and not what something else has made of it."""
    return record.node is not None and value in record.node.inputs
