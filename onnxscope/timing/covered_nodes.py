"""Which nodes of the model a node that onnxruntime runs stands for, and whose time it is.

Three things tell. The name that onnxruntime gives a node keeps the one that it has made it of. A fused node gives the
value that the last of the nodes in it gave: what lies between that value and those that other nodes give is in it. And
what has neither is there for another node: it reorders or converts what the next one reads, or what the last one gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.timing.run_graph import NamedModel, RunNode

__all__ = ["covered_nodes"]

_PREFIXES = ("InsertedPrecisionFreeCast_", "InsertedCast_", "FusedBack_")
_BRANCHES = ("then_branch", "else_branch")
_BLOCKED = "_nchwc"  # behind the name of a node that computes in blocks of channels: before it stands a value


def covered_nodes(named: NamedModel, nodes: Sequence[RunNode]) -> dict[RunNode, tuple[Node, ...]]:
    """Find out what each node that is run stands for, those of bodies included.

    Args:
        named: The model.
        nodes: Of the main graph, in the order in which they run.

    Returns:
        For each node those of the model that are in it; nothing where nobody can tell. What only serves another one
        has the nodes of that.
    """
    found: dict[RunNode, tuple[Node, ...]] = {}
    _cover(named, named.model.main, nodes, found)
    return found


def _cover(
    named: NamedModel, graph: Graph | None, nodes: Sequence[RunNode], found: dict[RunNode, tuple[Node, ...]]
) -> None:
    covers: dict[RunNode, list[Node]] = {
        node: [*named.named_in(node.name), *node.taken] for node in nodes if node.taken or named.named_in(node.name)
    }
    claimed = {original: node for node, originals in covers.items() for original in originals}
    first: dict[tuple[Graph, str], RunNode] = {}
    serving: dict[RunNode, list[RunNode]] = {}
    if graph is not None:
        scopes = [graph, *_inlined(named.model.graphs, graph, claimed)]
        values = {node: _values(scopes, node) for node in nodes}
        for node in nodes:
            for place in values[node]:
                first.setdefault(place, node)
        for node in nodes:
            for scope in scopes:
                starts = [
                    scope.producers[value] for of, value in values[node] if of is scope and first[of, value] is node
                ]
                starts += [original for original in covers.get(node, []) if original.path == scope.path]
                walked = _walk(scope, starts, node, claimed, first)
                if walked:
                    covers[node] = list(dict.fromkeys([*covers.get(node, []), *walked]))
                    claimed.update((original, node) for original in walked)
        serving = {node: [first[place] for place in values[node]] for node in nodes}
    served = _served(nodes, covers, serving)
    for node in nodes:
        originals = tuple(covers.get(served.get(node, node), ()))
        found[node] = originals
        owner = next((original for original in originals if original.op_type == node.op_type), None)
        for attribute, body in node.bodies.items():
            _cover(named, _body(named.model.graphs, owner, attribute), body, found)


def _body(graphs: Mapping[tuple[Step, ...], Graph], owner: Node | None, attribute: str) -> Graph | None:
    return None if owner is None else graphs.get((*owner.path, Step(owner.index, attribute)))


def _inlined(graphs: Mapping[tuple[Step, ...], Graph], graph: Graph, claimed: Mapping[Node, RunNode]) -> list[Graph]:
    """The branches of an If that is not run: of one whose condition is constant the nodes stand in its place."""
    gone = [node for node in graph.nodes if node.op_type == "If" and node not in claimed]
    places = [(*node.path, Step(node.index, branch)) for node in gone for branch in _BRANCHES]
    return [graphs[place] for place in places if place in graphs]


def _values(scopes: Sequence[Graph], node: RunNode) -> list[tuple[Graph, str]]:
    """The values of the model that a node gives, under whatever name, and the graphs that have them."""
    names = [node.name.removesuffix(_BLOCKED)] if node.name.endswith(_BLOCKED) else []
    found = []
    for name in [*node.outputs, *names]:
        for prefix in ("", *_PREFIXES):
            value = name.removeprefix(prefix)
            branch = next((branch for branch in _BRANCHES if value.startswith(f"_if_{branch}_")), None)
            scope = scopes[0]
            if branch is not None and value not in scope.producers:
                value = value.removeprefix(f"_if_{branch}_")
                bodies = [body for body in scopes[1:] if body.path[-1].attribute == branch]
                scope = next((body for body in bodies if value in body.producers), scope)
            if value in scope.producers:
                found.append((scope, value))
                break
    return found


def _walk(
    graph: Graph,
    starts: Iterable[Node],
    node: RunNode,
    claimed: Mapping[Node, RunNode],
    first: Mapping[tuple[Graph, str], RunNode],
) -> list[Node]:
    """The nodes of the model from these ones back to values that others give."""
    walked: dict[Node, None] = {}
    waiting = list(starts)
    while waiting:
        original = waiting.pop()
        if original in walked or claimed.get(original, node) is not node:
            continue
        walked[original] = None
        for value in original.inputs:
            producer = graph.producers.get(value)
            if producer is not None and (graph, value) not in first and value not in graph.constants:
                waiting.append(producer)
    return list(walked)


def _served(
    nodes: Sequence[RunNode],
    covers: Mapping[RunNode, Sequence[Node]],
    serving: Mapping[RunNode, Sequence[RunNode]],
) -> dict[RunNode, RunNode]:
    """For nodes that stand for nothing of the model the one that they serve."""
    readers: dict[str, list[RunNode]] = {}
    producers: dict[str, RunNode] = {}
    for node in nodes:
        producers.update((value, node) for value in node.outputs if value)
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    served: dict[RunNode, RunNode] = {}
    for node in reversed(nodes):  # who reads comes later
        if covers.get(node):
            continue
        ahead = [reader for value in node.outputs for reader in readers.get(value, ())]
        choices = [*serving.get(node, ()), *(served.get(other, other) for other in ahead)]
        choice = next((other for other in choices if covers.get(other)), None)
        if choice is not None:
            served[node] = choice
    for node in nodes:  # what leads to outputs alone
        if covers.get(node) or node in served:
            continue
        before = [producers[value] for value in node.inputs if value in producers]
        choice = next((served.get(other, other) for other in before if covers.get(served.get(other, other))), None)
        if choice is not None:
            served[node] = choice
    return served
