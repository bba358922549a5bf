"""Which values depend on the numbers of which nodes: through the graph, into the bodies of If, Loop and Scan, and out.

A value may depend on a node in its numbers, or also in its shape: what only reads a shape depends on it in the second
case alone. Where an operator is not known, its shape is taken to depend on whatever its numbers depend on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.operators.table import OPERATORS

__all__ = ["KNOWN_DOMAINS", "Dependents", "told_apart"]

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Whose operators the table is about."""

_TOLD_APART = 256  # nodes beyond these are taken for one: what is kept of a value has a bit for each
_STEERING = {"If": 1, "Loop": 2}  # so many first inputs say whether, or how often, a body runs

_Path: TypeAlias = tuple[Step, ...]
_Value: TypeAlias = tuple[_Path, str]


class Dependents:
    """What depends on each of several nodes."""

    def __init__(self, graphs: Mapping[_Path, Graph], sources: Sequence[Node]) -> None:
        """Follow the outputs of `sources`, nodes of `graphs`, to whatever reads them."""
        self._graphs = graphs
        self._numbers: dict[_Value, int] = {}
        self._shapes: dict[_Value, int] = {}
        self._steered: dict[Node, int] = {}
        self._bodies: dict[Node, list[Graph]] = {}
        self._owners: dict[_Path, Node] = {}
        self._ranks: dict[_Value, int] = {}
        self._changed: list[tuple[int, int, _Value]] = []  # a heap: in execution order, few values change twice
        self._pushed = 0
        if not sources:
            return
        indices = {path: {node.index: node for node in graph.nodes} for path, graph in graphs.items()}
        for graph in graphs.values():
            if graph.path:
                owner = indices[graph.path[:-1]][graph.path[-1].node_index]
                self._owners[graph.path] = owner
                self._bodies.setdefault(owner, []).append(graph)
        self._rank(graphs[()])
        for place, node in enumerate(sources):
            for output in node.outputs:
                self._add(node.path, output, _bit(place), 0)
        while self._changed:
            self._spread(*heapq.heappop(self._changed)[-1])

    def of(self, place: int) -> dict[_Path, frozenset[str]]:
        """The values that depend on the source at `place`, by the path of the graph that makes them."""
        names: dict[_Path, set[str]] = {}
        for (path, name), sources in self._numbers.items():
            graph = self._graphs[path]
            if sources & _bit(place) and (name in graph.producers or name in graph.inputs):
                names.setdefault(path, set()).add(name)
        return {path: frozenset(names[path]) for path in self._graphs if path in names}

    def first(self, places: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Yield each value that depends on any of these sources, and the first of them that it depends on."""
        firsts: dict[int, int] = {}
        for place in places:
            firsts.setdefault(_bit(place), place)
        mask = sum(firsts)
        for (path, name), sources in self._numbers.items():
            wanted, graph = sources & mask, self._graphs[path]
            if wanted and (name in graph.producers or name in graph.inputs):
                yield name, firsts[wanted & -wanted]

    def reaches(self, place: int, path: _Path, name: str) -> bool:
        """Whether a value of the graph at `path` depends on the source at `place`."""
        return bool(self._numbers.get((path, name), 0) & _bit(place))

    def _rank(self, graph: Graph) -> None:
        """Number the values in the order in which they are made, those of a body before what its owner makes."""
        for name in graph.inputs:
            self._ranks[graph.path, name] = len(self._ranks)
        for node in graph.nodes:
            for body in self._bodies.get(node, ()):
                self._rank(body)
            for output in node.outputs:
                self._ranks[graph.path, output] = len(self._ranks)

    def _add(self, path: _Path, name: str, numbers: int, shapes: int) -> None:
        """Let a value depend on more; what depends on a node in its shape does so in its numbers too."""
        if not name:
            return
        value = path, name
        before = self._numbers.get(value, 0), self._shapes.get(value, 0)
        after = before[0] | numbers | shapes, before[1] | shapes
        if after != before:
            self._numbers[value], self._shapes[value] = after
            self._pushed += 1
            heapq.heappush(self._changed, (self._ranks.get(value, 0), self._pushed, value))

    def _spread(self, path: _Path, name: str) -> None:
        graph = self._graphs[path]
        numbers, shapes = self._numbers[path, name], self._shapes[path, name]
        for node in graph.readers.get(name, ()):
            bodies = self._bodies.get(node)
            if bodies is None:
                self._pass_through(node)
                continue
            if name in node.captured:
                for body in bodies:
                    self._add(body.path, name, numbers, shapes)
            for position, read in enumerate(node.inputs):
                if read == name:
                    self._enter(node, position, numbers, shapes)
        if path:
            for index, output in enumerate(graph.outputs):
                if output == name:
                    self._leave(graph, index, numbers, shapes)

    def _pass_through(self, node: Node) -> None:
        operator = node.operator
        known = node.domain in KNOWN_DOMAINS
        listed = known and node.op_type in OPERATORS
        numbers = shapes = 0
        for position, name in enumerate(node.inputs):
            shape = self._shapes.get((node.path, name), 0)
            shapes |= shape
            if known and operator.reads_shape and position == 0:
                numbers |= shape
                continue
            read = self._numbers.get((node.path, name), 0)
            numbers |= read
            if not known or position in operator.shaped_by or (position and not listed):
                shapes |= read
        for output in node.outputs:
            self._add(node.path, output, numbers, shapes)

    def _enter(self, node: Node, position: int, numbers: int, shapes: int) -> None:
        """Follow an input of a node with bodies into them."""
        if position < _STEERING.get(node.op_type, 0):
            self._steer(node, numbers)
            return
        if shapes and node.op_type != "Loop":  # how often a Scan's body runs
            self._steer(node, shapes)
        for body in self._bodies[node]:
            places = range(len(body.inputs))
            if node.op_type in ("Loop", "Scan"):  # a Scan of operator set 8 reads the sequences' lengths first
                place = position - (len(node.inputs) - len(body.inputs) if node.op_type == "Scan" else 0)
                places = range(place, place + 1) if 0 <= place < len(body.inputs) else range(0)
            for place in places:
                self._add(body.path, body.inputs[place], numbers, shapes)

    def _leave(self, body: Graph, index: int, numbers: int, shapes: int) -> None:
        """Follow an output of a body to its owner's, and to the body's next run."""
        node = self._owners[body.path]
        if node.op_type == "Loop" and index == 0:
            self._steer(node, numbers)
            return
        places = range(len(node.outputs))
        if node.op_type in ("If", "Loop", "Scan"):
            place = index - (node.op_type == "Loop")
            places = range(place, place + 1) if place < len(node.outputs) else range(0)
        for place in places:
            self._add(node.path, node.outputs[place], numbers, shapes)
        carried = len(body.inputs) if node.op_type == "Loop" else 0
        again = index + 1
        if node.op_type == "Scan":
            scanned = node.attribute("num_scan_inputs")
            carried, again = len(body.inputs) - (scanned if isinstance(scanned, int) else 0), index
        if again < carried:
            self._add(body.path, body.inputs[again], numbers, shapes)

    def _steer(self, node: Node, sources: int) -> None:
        """Let all that a node makes depend on what decides whether, or how often, its bodies run."""
        if not sources & ~self._steered.get(node, 0):
            return
        self._steered[node] = self._steered.get(node, 0) | sources
        for output in node.outputs:
            self._add(node.path, output, sources, sources)
        bodies = list(self._bodies[node])
        while bodies:
            body = bodies.pop()
            for inner in body.nodes:
                bodies += self._bodies.get(inner, ())
                for output in inner.outputs:
                    self._add(body.path, output, sources, sources)


def told_apart(place: int) -> int:
    """Return the same number for the sources that are taken for one."""
    return min(place, _TOLD_APART - 1)


def _bit(place: int) -> int:
    return 1 << told_apart(place)
