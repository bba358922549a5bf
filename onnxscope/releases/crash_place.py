"""The first node with which a release crashes: the model is cut off behind one node after the other, by halving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from onnxscope.model.loading import Model
from onnxscope.releases.environment import JobEnd
from onnxscope.releases.halving import first_unlike

__all__ = ["CrashPlace", "find_crash"]


@dataclass(frozen=True)
class CrashPlace:
    """Where a release crashes.

    Attributes:
        layer: The layer of the node, as the source framework called it.
        name: Its first output.
        op_type: Its operator.
        position: Its position among the nodes of the main graph.
        nodes: How many nodes it needs before it and with it, so that the model up to it crashes.
    """

    layer: str
    name: str
    op_type: str
    position: int
    nodes: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "layer": self.layer,
            "name": self.name,
            "op_type": self.op_type,
            "position": self.position,
            "nodes": self.nodes,
        }


def find_crash(model: Model, ends: Callable[[ModelProto], JobEnd], death: JobEnd) -> CrashPlace | None:
    """Find the first node with which a model crashes, while it does not crash without it and what follows.

    Args:
        model: It crashes.
        ends: How a part of it ends.
        death: How all of it has ended.

    Returns:
        None where it crashes without any node, as at something in its inputs or its weights.
    """
    nodes = model.main.nodes

    def is_sound(count: int) -> bool:
        return ends(_first_nodes(model, count)).ending != death.ending

    if not nodes:
        return None
    found = first_unlike(0, len(nodes), is_sound)
    node = nodes[found.first - 1]
    name = next(filter(None, node.outputs), "")
    behind = {
        id(scope.producers[value]) for value, scope in model.main.behind([name]).items() if value in scope.producers
    }
    return CrashPlace(model.names.layers.get(node, ""), name, node.op_type, found.first - 1, len(behind))


def _first_nodes(model: Model, count: int) -> ModelProto:
    """The model with its first nodes alone; what no other reads becomes an output, of a type that is inferred."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    nodes = model.main.nodes[:count]
    read = {value for node in nodes for value in (*node.inputs, *node.captured)}
    declared = {value.name: value for value in model.proto.graph.output}
    del proto.graph.node[:], proto.graph.output[:]
    proto.graph.node.extend(node.proto for node in nodes)
    for node in nodes:
        for name in node.outputs:
            if name in declared:
                proto.graph.output.add().CopyFrom(declared[name])
            elif name and name not in read:
                proto.graph.output.add().name = name
    return proto
