"""Other nodes in the place of some, in all graphs of a model: `Plan`, `rewritten`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto

from onnxscope.model.graphs import Graph, walk_graphs
from onnxscope.model.loading import Model
from onnxscope.structure.node_writer import FUSED_DOMAIN

__all__ = ["Plan", "rewritten", "without_left_over"]


@dataclass
class Plan:
    """What becomes of a graph.

    Attributes:
        nodes: What stands in the place of nodes, by their stored places.
        values: What is read in place of some values.
        stored: Tensors that are stored beside those that are.
    """

    nodes: dict[int, Sequence[NodeProto]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    stored: list[TensorProto] = field(default_factory=list)


def rewritten(model: Model, plans: Mapping[Graph, Plan]) -> Model:
    """Return a model in which plans are carried out; itself where they say nothing.

    Args:
        model: Not changed. The answer reads its weights from where this one does.
        plans: By graph; inner ones are carried out first, since their places are counted in outer ones.
    """
    if not any(plan.nodes for plan in plans.values()):
        return model
    copy = ModelProto()
    copy.CopyFrom(model.proto)
    for graph in reversed(model.graphs.values()):
        plan = plans.get(graph)
        if plan is None or not plan.nodes:
            continue
        proto = copy.graph
        for step in graph.path:
            owner = proto.node[step.node_index]
            proto = next(attribute.g for attribute in owner.attribute if attribute.name == step.attribute)
        written = [new for index, node in enumerate(proto.node) for new in plan.nodes.get(index, [node])]
        nodes = GraphProto(node=written)  # copies: what a message lends does not outlive its deletion
        del proto.node[:]
        proto.node.extend(nodes.node)
        proto.initializer.extend(plan.stored)
        if plan.values:
            _rename(proto, plan.values)
        _forget_shapeless(proto, plan)
    if not any(entry.domain == FUSED_DOMAIN for entry in copy.opset_import):
        copy.opset_import.append(OperatorSetIdProto(domain=FUSED_DOMAIN, version=1))
    return model.rewritten(copy)


def _forget_shapeless(graph: GraphProto, plan: Plan) -> None:
    """Leave out declarations without a shape, which keep it from being inferred now that ONNX's own operators tell."""
    written = {name for new in plan.nodes.values() for node in new if not node.domain for name in node.output}
    kept = [
        entry for entry in graph.value_info if entry.name not in written or entry.type.tensor_type.HasField("shape")
    ]
    if len(kept) < len(graph.value_info):
        copies = GraphProto(value_info=kept)
        del graph.value_info[:]
        graph.value_info.extend(copies.value_info)


def _rename(graph: GraphProto, values: Mapping[str, str]) -> None:
    """Read other values, in the bodies too."""
    for inner in walk_graphs(graph):
        for node in inner.node:
            node.input[:] = [_end_of(values, name) for name in node.input]


def _end_of(values: Mapping[str, str], name: str) -> str:
    while name in values:
        name = values[name]
    return name


def without_left_over(model: Model, given: Model) -> Model:
    """Leave out stored tensors that outputs depended on before: their numbers lie in parts now, or do nothing.

    Args:
        model: As it was rewritten.
        given: As it was before.
    """
    if model is given:
        return model
    graphs = model.graphs.values()
    read = {
        value
        for graph in graphs
        for values in (graph.outputs, *(node.inputs for node in graph.nodes))
        for value in values
    }
    left = (model.main.initializers.keys() & given.main.needed) - read
    if not left:
        return model
    copy = ModelProto()
    copy.CopyFrom(model.proto)
    kept = GraphProto(initializer=[tensor for tensor in copy.graph.initializer if tensor.name not in left])
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept.initializer)
    return model.rewritten(copy)
