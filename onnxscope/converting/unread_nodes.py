"""Remove from an exported graph what nothing reads any more after an edit."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from onnxscope.model.graphs import walk_graphs

__all__ = ["drop_unread"]


def drop_unread(graph: GraphProto) -> None:
    """Remove the nodes that lead to no output, and with them the weights and declared types that were theirs alone.

    Weights that no node has read to begin with stay: a framework's module may own what its forward() does not use.

    Args:
        graph: Its nodes are in topological order; changed in place.
    """
    read = {value.name for value in graph.output}
    orphans: set[str] = set()  # what the dropped nodes made or read
    for index in reversed(range(len(graph.node))):  # so that every reader has been seen
        node = graph.node[index]
        reads = set(_reads(node))
        if any(name and name in read for name in node.output):
            read |= reads
        else:
            orphans.update(node.output, reads)
            del graph.node[index]
    orphans -= read
    for values in (graph.initializer, graph.value_info):
        for index in reversed(range(len(values))):
            if values[index].name in orphans:
                del values[index]


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, and what its bodies read, from outside or within."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for graph in walk_graphs(body):
                for inner in graph.node:
                    yield from inner.input
                yield from (value.name for value in graph.output)
