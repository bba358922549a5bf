"""What every round of a Loop or a Scan is given as it was before: its body reads it where it comes from.

tf2onnx hands the weights of a recurrent layer into the Loop that it becomes, and on from round to round. A body may
read the values around it, so that the same numbers come from the weights themselves, and their readers are layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto

__all__ = ["read_invariants_outside"]


def read_invariants_outside(graph: GraphProto) -> None:
    """Let bodies read what they only hand on by the name that it has outside; the graph is changed in place."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type != AttributeProto.GRAPH:
                continue
            body = attribute.g
            for inside, outside, handing in list(_invariants(node, body)):
                if outside not in _defined(body):
                    _rename(body, inside, outside, handing)
            read_invariants_outside(body)


def _invariants(node: NodeProto, body: GraphProto) -> Iterator[tuple[str, str, list[int]]]:
    """Inputs of a body that are handed on: the name inside, that outside, and the Identities that hand it on."""
    if node.domain not in ("", "ai.onnx"):
        return
    if node.op_type == "Loop":  # inputs: most rounds, condition, states; of the body: round, condition, states
        skipped, shift, states = 2, 1, len(body.input) - 2
    elif node.op_type == "Scan":  # before operator set 9 the lengths of the sequences come first
        scanned = next((attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs"), 0)
        skipped, shift, states = 0, 0, len(body.input) - scanned
    else:
        return
    offset = len(node.input) - len(body.input)
    makers = {output: place for place, maker in enumerate(body.node) for output in maker.output if output}
    for place in range(skipped, skipped + states):
        source, result = place + offset, place - shift
        if not 0 <= source < len(node.input) or result >= len(body.output):
            continue
        inside, outside, name = body.input[place].name, node.input[source], body.output[result].name
        handing: list[int] = []
        while name in makers and body.node[makers[name]].op_type == "Identity" and len(handing) < len(body.node):
            handing.append(makers[name])
            name = body.node[makers[name]].input[0]
        if name == inside and inside and outside:
            yield inside, outside, handing


def _defined(graph: GraphProto) -> set[str]:
    """Names that a graph gives to values of its own."""
    stored = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    return stored | {value.name for value in graph.input} | {name for node in graph.node for name in node.output}


def _rename(graph: GraphProto, old: str, new: str, kept: list[int]) -> None:
    """Read another value in a graph's nodes, but for those that are kept, and in their bodies where both are seen."""
    for place, node in enumerate(graph.node):
        if place in kept:
            continue
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH and _defined(attribute.g).isdisjoint((old, new)):
                _rename(attribute.g, old, new, [])
