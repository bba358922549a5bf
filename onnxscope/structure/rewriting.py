"""Other nodes in the place of some: `NodeWriter` writes them, a `Plan` says where, and `rewritten` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

from onnxscope.model.graphs import Graph, Node, attribute_value, walk_graphs
from onnxscope.model.loading import Model
from onnxscope.model.provenance import LAYER_KEY

__all__ = ["FUSED_DOMAIN", "NodeWriter", "Plan", "Site", "inside_of", "rewritten", "without_left_over"]

Array = NDArray[Any]

FUSED_DOMAIN = "com.microsoft"
"""Of the operators that onnxruntime's optimizer makes up."""

_INSIDE_KEY = "onnxscope.inside"
"""The entry of a node's metadata that says which fused node it is part of, with its operator in front."""


def inside_of(node: NodeProto) -> tuple[str, str] | None:
    """Return operator and name of the fused node that a node was written in place of; None for one of the file."""
    found = next((entry.value for entry in node.metadata_props if entry.key == _INSIDE_KEY), "")
    op_type, _, name = found.partition(" ")
    return (op_type, name) if found else None


@dataclass(frozen=True)
class Site:
    """What is known around a node in whose place others are written.

    Attributes:
        opset: Of ONNX's own operators.
        used: Names of values that are taken; those that are made up are added.
        layer: Returns what the node's layer is called.
        shape: Of a value, where it is known.
        dtype: Returns numpy's name of the element type of a value, or the model's own where it is not known.
        numbers: Returns a stored tensor's values, None for other values.
        made_by: Returns the node that makes a value which is read here alone, None for other values.
        is_one_layer: Whether the other model holds a weight of some shape as that of one layer, for each that is packed
            so in this one; a second argument of 1 says that it is one layer's here too.
    """

    opset: int
    used: set[str]
    layer: Callable[[], str]
    shape: Callable[[str], Sequence[int | str | None] | None]
    dtype: Callable[[str], str]
    numbers: Callable[[str], Array | None]
    made_by: Callable[[str], Node | None]
    is_one_layer: Callable[[tuple[int, ...], int], bool]


class NodeWriter:
    """Writes nodes in the place of a fused one, which keeps its name and its outputs for the last of them.

    Attributes:
        fused: The node in whose place the others stand.
        site: What is known around it.
        nodes: What was written; nothing where the node stands for itself.
        stored: Tensors that these read.
        replaced: Nodes in front of the fused one in whose place they stand too.
    """

    def __init__(self, fused: NodeProto, site: Site) -> None:
        """Begin.

        Args:
            fused: Not to be changed.
            site: Of that node.
        """
        self.fused = fused
        self.site = site
        self.nodes: list[NodeProto] = []
        self.stored: list[TensorProto] = []
        self.replaced: list[Node] = []
        own = f"{fused.domain}.{fused.op_type} {fused.name or next(filter(None, fused.output), '')}".lstrip(".")
        self._inside = " ".join(inside_of(fused) or (own,))

    def rank(self, value: str) -> int | None:
        """How many axes a value has, where that is known."""
        shape = self.site.shape(value)
        return None if shape is None else len(shape)

    def input(self, place: int) -> str:
        """The name of one of the fused node's operands, empty where it is left out."""
        return self.fused.input[place] if place < len(self.fused.input) else ""

    def output(self, place: int) -> str:
        """The name of one of the fused node's outputs, empty where it is left out."""
        return self.fused.output[place] if place < len(self.fused.output) else ""

    def attributes(self, *left_out: str) -> dict[str, Any]:
        """The fused node's attributes, but for some."""
        return {stored.name: attribute_value(stored) for stored in self.fused.attribute if stored.name not in left_out}

    def add(self, op_type: str, inputs: Iterable[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        """Write a node and return its first output, which has a new name where none is given."""
        named = list(outputs) if outputs and outputs[0] else [self._value(op_type), *outputs[1:]]
        node = helper.make_node(op_type, list(inputs), named, domain=domain, **attributes)
        ends = named[0] == self.fused.output[0]
        node.name = self.fused.name if ends or not self.fused.name else f"{self.fused.name}/{op_type}"
        node.metadata_props.extend(entry for entry in self.fused.metadata_props if entry.key != _INSIDE_KEY)
        node.metadata_props.add(key=_INSIDE_KEY, value=self._inside)
        self.nodes.append(node)
        return named[0]

    def store(self, name: str, values: Array) -> str:
        """Store a tensor, under its name where that is free, and return what it is called."""
        stored = self._free(name)
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(values), stored))
        return stored

    def call(self, layer: str, start: int) -> None:
        """Name the layer of the nodes that were written from a place on."""
        for node in self.nodes[start:]:
            del node.metadata_props[:]
            node.metadata_props.add(key=LAYER_KEY, value=layer)
            node.metadata_props.add(key=_INSIDE_KEY, value=self._inside)

    def integers(self, *values: int) -> str:
        """Write a Constant of a row of integers."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.array(values, np.int64)))

    def scalar(self, value: int) -> str:
        """Write a Constant of one integer, without axes."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.array(value, np.int64)))

    def with_axis(self, op_type: str, value: str, axis: int, *outputs: str) -> str:
        """Write Squeeze or Unsqueeze, which take their axes as an attribute before operator set 13."""
        if self.site.opset < 13:
            return self.add(op_type, [value], *outputs, axes=[axis])
        return self.add(op_type, [value, self.integers(axis)], *outputs)

    def number(self, value: float) -> str:
        """Write a Constant of one number, of the element type that the fused node reads."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.site.dtype(self.input(0))))
        return self.add("Constant", [], value=helper.make_tensor("", kind, (), [value]))

    def function(self, op_type: str, value: str, parameters: Mapping[str, float]) -> None:
        """Write the activation function that gives the fused node's output."""
        if op_type == "Clip" and self.site.opset >= 11:
            limits = [self.number(parameters[side]) if side in parameters else "" for side in ("min", "max")]
            self.add(op_type, [value, *limits], self.output(0))
        else:
            self.add(op_type, [value], self.output(0), **dict[str, Any](parameters))

    def _value(self, word: str) -> str:
        return self._free(f"{next(filter(None, self.fused.output))}/{word}")

    def _free(self, base: str) -> str:
        name, number = base, 2
        while name in self.site.used:
            name, number = f"{base}_{number}", number + 1
        self.site.used.add(name)
        return name


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
