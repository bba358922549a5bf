"""Two models in one: what both compute in the same way is left out of both."""

from __future__ import annotations

from onnx import NodeProto

from onnxscope.shrinking.case import Case, changed, copied, renamed
from onnxscope.shrinking.search import Search

__all__ = ["cut_pairs"]


def cut_pairs(search: Search) -> None:
    """Leave out nodes of one operator, one of either model at a time, while the models differ."""
    found = True
    while found and not search.is_over:
        nodes = list(search.case.proto.graph.node)
        first, second = (_behind(search.case, half) for half in _halves(search.case))
        pairs = [
            (one, other)
            for one in first
            for other in second
            if one is not other and nodes[one].op_type == nodes[other].op_type
        ]
        cases = (_without(search.case, nodes[one], nodes[other]) for one, other in pairs)
        found = search.first(case for case in cases if case is not None)


def _halves(case: Case) -> tuple[list[str], list[str]]:
    half = len(case.outputs) // 2
    return case.outputs[:half], case.outputs[half:]


def _behind(case: Case, outputs: list[str]) -> list[int]:
    """The places of the nodes that compute some outputs."""
    needed, places = set(outputs), []
    for place, node in reversed(list(enumerate(case.proto.graph.node))):
        if needed.intersection(filter(None, node.output)):
            places.append(place)
            needed.update(node.input)
    return places


def _without(case: Case, one: NodeProto, other: NodeProto) -> Case | None:
    """The case in which the first inputs of two nodes take the places of their outputs; None where they cannot."""
    names = {}
    for node in (one, other):
        outputs = [value for value in node.output if value]
        if len(outputs) != 1 or not node.input or not node.input[0]:
            return None
        names[outputs[0]] = node.input[0]
    names = {output: names.get(value, value) for output, value in names.items()}
    rest = [renamed(node, names) for node in case.proto.graph.node if node is not one and node is not other]
    made = {value for node in rest for value in node.output}
    outputs = [names.get(value, value) for value in case.outputs]
    if len(set(outputs)) < len(outputs) or not made.issuperset(outputs):
        return None
    proto = copied(case.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(rest)
    for value, name in zip(proto.graph.output, outputs, strict=True):
        value.Clear()
        value.name = name
    return changed(case, proto)
