"""A part of a model as a model of its own, whose weights stay where they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import ModelProto, TensorProto, TypeProto

from onnxscope.base.text import printable
from onnxscope.errors import ModelError
from onnxscope.extracting.chosen_part import Part
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["PART_KEY", "scope_of", "standalone"]

PART_KEY = "onnxscope.part"
"""The metadata that says what a model was cut out of."""


def standalone(model: Model, part: Part, types: Mapping[str, TypeProto]) -> ModelProto:
    """Make a model of a part.

    It has the nodes of the part, the constants that they read, each once, as they are stored or with the nodes that
    compute them, and the part's inputs and outputs. Operator sets, names and what exporters noted on nodes are kept.

    Args:
        model: Whose part it is. It is not changed.
        part: Which nodes.
        types: Of its inputs, and of those outputs whose type is known.

    Returns:
        A model that refers to weights where they lie.

    Raises:
        ModelError: A constant is stored in a form that cannot be read.
    """
    graph = model.graphs[part.path]
    stored, computing = _constants(model, graph, part.nodes)
    source = model.proto
    proto = ModelProto(
        ir_version=source.ir_version, producer_name=source.producer_name, producer_version=source.producer_version
    )
    proto.opset_import.extend(source.opset_import)
    proto.functions.extend(source.functions)
    proto.metadata_props.add(key=PART_KEY, value=f"{', '.join(part.outputs)} of {model.name}")
    proto.graph.name = "part"
    proto.graph.node.extend(node.proto for node in _in_order(model, {*part.nodes, *computing}))
    proto.graph.initializer.extend(stored)
    for names, values in ((part.inputs, proto.graph.input), (part.outputs, proto.graph.output)):
        for name in names:
            value = values.add()
            value.name = name
            if name in types:
                value.type.CopyFrom(types[name])
    return proto


def scope_of(graph: Graph, name: str) -> Graph:
    """The graph, this or one around it, whose value a visible name is."""
    scope = graph
    while scope.parent is not None and not any(
        name in own for own in (scope.inputs, scope.initializers, scope.producers)
    ):
        scope = scope.parent
    return scope


def _constants(model: Model, graph: Graph, nodes: Iterable[Node]) -> tuple[list[TensorProto], set[Node]]:
    """The stored tensors behind the constants that nodes read, and the nodes that compute with them."""
    read = (value for node in nodes for value in (*node.inputs, *node.captured))
    behind = graph.behind(value for value in read if value in graph.constants)
    for name, scope in behind.items():
        if name not in scope.initializers and name not in scope.producers:
            raise ModelError(f"cannot read the constant {printable(name)!r}: {model.name}")
    stored = [scope.initializers[name] for name, scope in behind.items() if name in scope.initializers]
    computing = {scope.producers[name] for name, scope in behind.items() if name not in scope.initializers}
    return stored, computing


def _in_order(model: Model, nodes: Iterable[Node]) -> list[Node]:
    """Nodes of a graph and of those around it, the outer ones first, in execution order."""
    return sorted(nodes, key=lambda node: (len(node.path), model.graphs[node.path].position(node)))
