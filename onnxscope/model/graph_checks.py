"""The checks that a stored graph goes through: names hold, nodes can be put in order, nothing is hidden."""

from __future__ import annotations

import heapq
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnxscope.base.limits import MAX_NODES
from onnxscope.base.text import counted, printable
from onnxscope.errors import ModelError
from onnxscope.model.graphs import Graph, Node, Step, graphs_of, walk_graphs

__all__ = ["check_graphs", "check_operators", "check_text", "max_nodes", "refuse_nodes", "require_text"]

_MAX_NODES = 250_000
_KNOWN_DOMAINS = frozenset({"", "ai.onnx.ml"})


def check_graphs(proto: GraphProto, *, where: str) -> list[Graph]:
    """Describe a graph and every nested one, outer ones first.

    Raises:
        ModelError: A name is missing, empty or repeated, the nodes form a cycle, or an attribute hides a graph.
    """
    graphs: list[Graph] = []
    _Checker(where, graphs).graph(proto, (), (), None)
    graphs.sort(key=lambda graph: len(graph.path))
    by_path = {graph.path: graph for graph in graphs}
    for graph in graphs:
        graph.parent = by_path[graph.path[:-1]] if graph.path else None
    return graphs


def max_nodes() -> int:
    """How many nodes a model may have, local functions expanded; `--max-nodes` sets the environment variable."""
    given = os.environ.get(MAX_NODES, "")
    return int(given) if given.isdecimal() else _MAX_NODES


def refuse_nodes(*, where: str) -> NoReturn:
    """Refuse a model of more nodes than `max_nodes`."""
    raise ModelError(f"more than {max_nodes():,} nodes: {where}", hint="`--max-nodes` allows more")


def check_operators(proto: ModelProto, *, where: str) -> None:
    """Check that operator sets have versions, and nodes operators and as many values as these need, and no more nodes.

    Raises:
        ModelError: One has none, a node has too few inputs or outputs, or there are more nodes than `max_nodes`.
    """
    for owner in (proto, *proto.functions):
        for imported in owner.opset_import:
            if imported.version < 1:
                require_text((imported.domain,), where=where)
                domain = printable(imported.domain) or "ai.onnx"
                raise ModelError(f"operator set {domain!r} has version {imported.version}: {where}")
    count, most = 0, max_nodes()
    graphs = ((proto, graph.node) for graph in graphs_of(proto))
    for owner, nodes in (*graphs, *((function, function.node) for function in proto.functions)):
        versions = {imported.domain: imported.version for imported in owner.opset_import}
        versions.setdefault("", versions.get("ai.onnx", 1))
        count += len(nodes)
        if count > most:
            refuse_nodes(where=where)
        for index, node in enumerate(nodes):
            if not node.op_type:
                require_text((node.name,), where=where)
                raise ModelError(f"node {printable(node.name) or f'#{index}'!r} has no operator: {where}")
            domain = "" if node.domain == "ai.onnx" else node.domain
            needs = _needs(node.op_type, versions.get(domain, 1), domain) if domain in _KNOWN_DOMAINS else (0, 0)
            for values, least, noun in ((node.input, needs[0], "input"), (node.output, needs[1], "output")):
                if len(values) < least:
                    require_text((node.name, node.op_type), where=where)
                    called = f"node {printable(node.name) or f'#{index}'!r} ({printable(node.op_type)})"
                    raise ModelError(f"{called} has {counted(len(values), noun)} and needs {least}: {where}")


@cache
def _needs(operator: str, version: int, domain: str) -> tuple[int, int]:
    """How many inputs and outputs an operator has at least; none where onnx does not know it."""
    try:
        schema = onnx.defs.get_schema(operator, version, domain)
    except (onnx.defs.SchemaError, TypeError, ValueError):  # a name that is no text, a version that is too large
        return 0, 0
    return schema.min_input, schema.min_output


def check_text(graph: GraphProto, *, where: str) -> None:
    """Check the names and metadata of a stored graph and every nested one; `Storage` checks those of tensors.

    Raises:
        ModelError: One is not UTF-8.
    """
    for inner in walk_graphs(graph):
        require_text((inner.name, *_metadata(inner)), where=where)
        for node in inner.node:
            require_text((node.name, node.op_type, node.domain, *node.input, *node.output), where=where)
            require_text((attribute.name for attribute in node.attribute), where=where)
            require_text(_metadata(node), where=where)
        values: Iterable[ValueInfoProto] = (*inner.input, *inner.output, *inner.value_info)
        for value in values:
            dims = value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ()
            require_text((value.name, *(dim.dim_param for dim in dims)), where=where)


def require_text(texts: Iterable[str], *, where: str) -> None:
    """Check strings that come from protobuf, which hands over as bytes what is not UTF-8.

    Raises:
        ModelError: One is bytes.
    """
    texts = tuple(texts)
    try:
        "".join(texts)
    except TypeError as error:
        broken: Any = next(text for text in texts if not isinstance(text, str))
        raise ModelError(f"a name that is not UTF-8 ({broken[:60]!r}): {where}") from error


def _metadata(owner: GraphProto | NodeProto) -> Iterator[str]:
    for entry in owner.metadata_props:
        yield entry.key
        yield entry.value


class _Checker:
    """Orders the nodes of a graph and its bodies, and refuses names that are missing, repeated or cyclic."""

    def __init__(self, where: str, graphs: list[Graph]) -> None:
        self._where = where
        self._graphs = graphs

    def graph(
        self, proto: GraphProto, outer: tuple[Set[str], ...], path: tuple[Step, ...], owner: Node | None
    ) -> set[str]:
        """Add the graph and its bodies to the list; return the outer values that it reads.

        `outer` holds the names visible in each enclosing graph, innermost first: joining them for every body would
        take quadratic time.
        """
        given = self._given(proto)
        produced: dict[str, int] = {}
        for index, node in enumerate(proto.node):
            for output in node.output:
                if output in produced or output in given:
                    raise ModelError(f"value '{printable(output)}' is produced twice: {self._where}")
                if output:
                    produced[output] = index
        scopes = (given | produced.keys(), *outer)
        visible = scopes[0]
        nodes: list[Node] = []
        borrowed: set[str] = set()
        for index, stored in enumerate(proto.node):
            node = self._node(stored, index, scopes, path)
            for value in (*node.inputs, *node.captured):
                if value and value not in visible and not any(value in scope for scope in outer):
                    reader = printable(node.label)
                    raise ModelError(
                        f"node {reader!r} reads '{printable(value)}', which nothing produces: {self._where}"
                    )
            borrowed.update(value for value in (*node.inputs, *node.captured) if value and value not in visible)
            nodes.append(node)
        for declared in proto.output:
            if not any(declared.name in scope for scope in scopes):
                raise ModelError(f"output '{printable(declared.name)}' is never produced: {self._where}")
            if declared.name not in visible:
                borrowed.add(declared.name)
        self._graphs.append(Graph(proto, path, self._ordered(nodes, produced), owner))
        return borrowed

    def _given(self, proto: GraphProto) -> set[str]:
        """Names of inputs and initializers; an initializer may stand for an input's default."""
        inputs = [value.name for value in proto.input]
        stored = [tensor.name for tensor in proto.initializer]
        stored += [sparse.values.name for sparse in proto.sparse_initializer]
        for kind, names in (("input", inputs), ("initializer", stored)):
            given = Counter(names)
            if "" in given:
                raise ModelError(f"an {kind} has an empty name: {self._where}")
            if len(given) < len(names):
                repeated = given.most_common(1)[0][0]
                raise ModelError(f"an {kind} has the name of another ('{printable(repeated)}'): {self._where}")
        return {*inputs, *stored}

    def _node(self, proto: NodeProto, index: int, scopes: tuple[Set[str], ...], path: tuple[Step, ...]) -> Node:
        node = Node(
            path, index, proto.name, proto.op_type, proto.domain, tuple(proto.input), tuple(proto.output), (), proto
        )
        self._refuse_fatal(node)
        captured: dict[str, None] = {}
        seen: set[str] = set()
        # Bodies in an order of their own, not in the stored one: `then_branch` first.
        for attribute in sorted(proto.attribute, key=lambda stored: stored.name, reverse=True):
            if attribute.name in seen:
                raise ModelError(f"{self._shown(attribute, node)} is given twice: {self._where}")
            seen.add(attribute.name)
            if attribute.type == AttributeProto.GRAPH:
                inner = (*path, Step(index, attribute.name))
                captured.update(dict.fromkeys(sorted(self.graph(attribute.g, scopes, inner, node))))
            elif attribute.HasField("g") or (attribute.graphs and attribute.type != AttributeProto.GRAPHS):
                # What reads the type first and what reads the field first would see two different models.
                raise ModelError(f"{self._shown(attribute, node)} hides a graph: {self._where}")
        return replace(node, captured=tuple(captured)) if captured else node

    def _refuse_fatal(self, node: Node) -> None:
        """Refuse what ends the process that runs it: a TfIdfVectorizer that has more n-grams than places for them."""
        if node.op_type != "TfIdfVectorizer" or not node.is_standard:
            return
        counts, places = node.attribute("ngram_counts") or [], node.attribute("ngram_indexes") or []
        pool = len(node.attribute("pool_int64s") or node.attribute("pool_strings") or [])
        shortest, longest = node.attribute("min_gram_length") or 1, node.attribute("max_gram_length") or len(counts)
        grams, needed, ends = 0, 0, [*counts, pool]
        if ends != sorted(ends):
            return  # onnxruntime says so
        for length, (start, end) in enumerate(itertools.pairwise(ends), 1):
            grams += (end - start) // length
            needed = grams if shortest <= length <= longest and end > start else needed
        if needed > len(places):
            raise ModelError(
                f"node '{printable(node.label)}' has {needed:,} n-grams by its ngram_counts, and ngram_indexes for"
                f" {len(places):,} of them: {self._where}"
            )

    @staticmethod
    def _shown(attribute: AttributeProto, node: Node) -> str:
        return f"attribute '{printable(attribute.name)}' of node '{printable(node.label)}'"

    def _ordered(self, nodes: list[Node], produced: dict[str, int]) -> tuple[Node, ...]:
        """Sort into execution order, keeping the stored order where it already is one (Kahn's algorithm)."""
        waiting: list[set[int]] = []
        followers: dict[int, list[int]] = {}
        in_order = True
        for node in nodes:
            needed = {produced[value] for value in (*node.inputs, *node.captured) if value in produced}
            in_order = in_order and all(index < node.index for index in needed)
            waiting.append(needed)
        if in_order:
            return tuple(nodes)
        for index, needed in enumerate(waiting):
            for source in needed:
                followers.setdefault(source, []).append(index)
        ready = [index for index, needed in enumerate(waiting) if not needed]
        order = []
        while ready:
            index = heapq.heappop(ready)
            order.append(nodes[index])
            for follower in followers.get(index, ()):
                waiting[follower].discard(index)
                if not waiting[follower]:
                    heapq.heappush(ready, follower)
        if len(order) < len(nodes):
            stuck = next(node for node, needed in zip(nodes, waiting, strict=True) if needed)
            raise ModelError(f"the graph has a cycle through node '{printable(stuck.label)}': {self._where}")
        return tuple(order)
