"""The nodes that onnxruntime really runs, after it has fused, folded and reordered those of the model.

Every node of the model gets a name of ours first, which stays a part of the names that onnxruntime makes of it. Then
onnxruntime writes the graph that it has made, in the order in which it runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto

from onnxscope.errors import RunError
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import open_session
from onnxscope.timing.profile_events import Call

__all__ = ["NamedModel", "RunNode", "name_nodes", "nodes_of_calls", "read_run_graph"]

_TOKEN = re.compile(r"@(\d+)@")
_GRAPH_FILE, _WEIGHTS_FILE = "optimized.onnx", "optimized.data"


@dataclass(frozen=True, eq=False)
class RunNode:
    """A node that onnxruntime runs.

    Attributes:
        name: As onnxruntime calls it.
        op_type: Its operator, which may be one that only onnxruntime has.
        inputs: Names of the values that it reads.
        outputs: Names of those that it gives.
        bodies: By attribute, the nodes of its bodies.
        taken: Nodes of the model that a provider has taken as a whole.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    bodies: dict[str, tuple[RunNode, ...]] = field(default_factory=dict)
    taken: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class NamedModel:
    """A model in which every node has a name of ours.

    Attributes:
        model: The model as it is.
        proto: The copy with the names.
        nodes: The model's nodes, in the order of their names.
    """

    model: Model
    proto: ModelProto
    nodes: tuple[Node, ...]

    def named_in(self, name: str) -> list[Node]:
        """The nodes of the model whose names of ours are part of a name."""
        places = (int(number) for number in _TOKEN.findall(name))
        return [self.nodes[place] for place in places if place < len(self.nodes)]


def name_nodes(model: Model) -> NamedModel:
    """Give every node of a copy of the model a name that says which one it is."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    nodes: list[Node] = []
    for path, graph in model.graphs.items():
        stored = _graph_at(proto.graph, graph)
        assert stored is not None, path
        for node in graph.nodes:
            stored.node[node.index].name = f"@{len(nodes)}@"
            nodes.append(node)
    return NamedModel(model, proto, tuple(nodes))


def read_run_graph(named: NamedModel, folder: Path, threads: int) -> tuple[RunNode, ...] | None:
    """Return the nodes that onnxruntime runs, in its order; None where it cannot write them.

    Args:
        named: The model.
        folder: Where it writes them, with weights of its own.
        threads: As for `open_session`.

    Raises:
        InputError: There is no such provider.
    """

    def configure(options: Any) -> None:
        options.optimized_model_filepath = str(folder / _GRAPH_FILE)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS_FILE)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")

    try:
        open_session(named.model, named.proto, threads=threads, configure=configure)
        written = onnx.load(folder / _GRAPH_FILE, load_external_data=False)
    except (RunError, OSError):  # what a provider has compiled cannot be written
        return None
    finally:
        for name in (_GRAPH_FILE, _WEIGHTS_FILE):
            (folder / name).unlink(missing_ok=True)
    return _nodes_of(written.graph)


def nodes_of_calls(calls: Sequence[Call], taken: Sequence[tuple[Node, ...]]) -> tuple[RunNode, ...]:
    """Make up the nodes of what was run, where nothing but the names of calls is known.

    Args:
        calls: In order.
        taken: The parts that a provider has taken as wholes, in order.
    """
    parts = iter(taken)
    return tuple(
        RunNode(call.name, call.op_type, taken=() if _TOKEN.search(call.name) else next(parts, ())) for call in calls
    )


def _nodes_of(graph: GraphProto) -> tuple[RunNode, ...]:
    return tuple(
        RunNode(
            name=node.name,
            op_type=node.op_type,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            bodies={stored.name: _nodes_of(stored.g) for stored in node.attribute if stored.HasField("g")},
        )
        for node in graph.node
    )


def _graph_at(main: GraphProto, graph: Graph) -> GraphProto | None:
    found = main
    for step in graph.path:
        stored = found.node[step.node_index].attribute
        body = next(_bodies(stored, step.attribute), None)
        if body is None:
            return None
        found = body
    return found


def _bodies(stored: Any, name: str) -> Iterator[GraphProto]:
    return (attribute.g for attribute in stored if attribute.name == name and attribute.HasField("g"))
