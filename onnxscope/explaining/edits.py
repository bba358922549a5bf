"""A single edit of one node: what it changes, in words, and how it is made in a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxscope.base.text import format_number, printable
from onnxscope.model.graphs import Node

__all__ = [
    "Change",
    "Edit",
    "Kind",
    "applied",
    "become",
    "exchange",
    "hand_on",
    "set_attribute",
    "set_operands",
    "shown",
    "soften_whole",
    "stored_node",
]

Kind = Literal["attribute", "operand", "inputs", "weight", "operator"]
Change = Callable[[NodeProto, GraphProto], None]
_MOST_SHOWN = 8  # numbers of an operand that are written out
_WORDS: Mapping[tuple[str, str, Any], str] = {
    ("Resize", "nearest_mode", "round_prefer_floor"): "rounds half down",
    ("Resize", "nearest_mode", "round_prefer_ceil"): "rounds half up",
    ("Resize", "nearest_mode", "floor"): "rounds down",
    ("Resize", "nearest_mode", "ceil"): "rounds up",
    ("Resize", "coordinate_transformation_mode", "align_corners"): "aligns the corners",
    ("Resize", "coordinate_transformation_mode", "asymmetric"): "counts from the first pixel's edge",
    ("Gelu", "approximate", "tanh"): "approximates by tanh",
    ("Gelu", "approximate", "none"): "computes the exact function",
    ("GRU", "linear_before_reset", 0): "resets before it multiplies",
    ("GRU", "linear_before_reset", 1): "multiplies before it resets",
    ("CumSum", "exclusive", 1): "leaves out the element itself",
    ("CumSum", "reverse", 1): "adds up from the end",
    ("TopK", "largest", 0): "takes the smallest",
    ("TopK", "largest", 1): "takes the largest",
}
"""What people call an attribute's value, by operator, attribute and value."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of one node.

    Attributes:
        node: Of the second model, in its main graph or in a body.
        kind: What of the node is changed.
        what: The attribute, the operand by the name that the operator gives it, or in a few words what else.
        found: What the node has: plain numbers, texts and lists of them; None for nothing.
        wanted: What it gets.
        change: Makes the edit, given the node and its graph, which are changed.
        says: In words what the node does, where `found` alone does not tell.
        subject: What the sentence calls the node; its operator by default.
    """

    node: Node
    kind: Kind
    what: str
    found: Any
    wanted: Any
    change: Change
    says: str = ""
    subject: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells the edit from every other: two layers may have the same node to blame."""
        return self.node.path, _output(self.node), self.kind, self.what

    @property
    def fault(self) -> str:
        """What the second model's node does."""
        op_type = printable(self.node.op_type)
        if self.says:
            return f"B's {self.subject or op_type} {self.says}"
        words = None
        if isinstance(self.found, str | int):
            words = _WORDS.get((self.node.op_type, self.what, self.found))
        if words is not None:
            return (
                f"B's {op_type} {words} (`{shown(self.found)}`)" if isinstance(self.found, str) else self._plain(words)
            )
        if self.found is None:
            return f"B's {op_type} has no `{printable(self.what)}`"
        return f"B's {op_type} has `{printable(self.what)}` {_quoted(self.found)}"

    @property
    def cure(self) -> str:
        """What makes it equal."""
        if self.kind in ("attribute", "operand"):
            return f"without `{printable(self.what)}`" if self.wanted is None else f"with {_quoted(self.wanted)}"
        return str(self.wanted)

    def _plain(self, words: str) -> str:
        return f"B's {printable(self.node.op_type)} {words} (`{printable(self.what)}` {shown(self.found)})"


def applied(proto: ModelProto, edits: Iterable[Edit]) -> ModelProto:
    """Return a copy of a model, or of a part of it, with edits; what was declared of values behind them is left out.

    Args:
        proto: It has the nodes that are edited, by their outputs, in its main graph or in bodies of it.
        edits: Each is made once.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    edited: set[str] = set()
    for edit in {edit.key: edit for edit in edits}.values():
        place = _place(copy.graph, edit.node)
        if place is None:
            raise ValueError(f"no node to edit gives {_output(edit.node)!r}")
        owner, graph, node = place
        edit.change(node, graph)
        if graph is not copy.graph:
            del graph.value_info[:]
        edited.update(owner)
    for node in copy.graph.node:
        if not edited.isdisjoint(node.input) or any(attribute.HasField("g") for attribute in node.attribute):
            edited.update(filter(None, node.output))
    kept = [value for value in copy.graph.value_info if value.name not in edited]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return copy


def stored_node(main: GraphProto, node: Node) -> NodeProto | None:
    """Return the node of a stored graph, or of a body in it, that is a model's node; None where there is none."""
    place = _place(main, node)
    return None if place is None else place[2]


def _place(main: GraphProto, node: Node) -> tuple[list[str], GraphProto, NodeProto] | None:
    """What the main graph's node gives that is, or holds, a node, the graph that has this node, and itself.

    Only names within one body are unlike: of several owners the one in the same place is meant.
    """
    if not node.path:
        found = _find(main, node)
        return None if found is None else ([name for name in found.output if name], main, found)
    first, *deeper = node.path
    owners = sorted(enumerate(main.node), key=lambda each: each[0] != first.node_index)
    for _, owner in owners:
        graph: GraphProto | None = _body(owner, first.attribute)
        for step in deeper:
            inner = graph.node[step.node_index] if graph and step.node_index < len(graph.node) else None
            graph = None if inner is None else _body(inner, step.attribute)
        found = None if graph is None else _find(graph, node)
        if graph is not None and found is not None:
            return [name for name in owner.output if name], graph, found
    return None


def _find(graph: GraphProto, node: Node) -> NodeProto | None:
    name = _output(node)
    return next((stored for stored in graph.node if name in stored.output), None)


def _body(node: NodeProto, attribute: str) -> GraphProto | None:
    return next((stored.g for stored in node.attribute if stored.name == attribute and stored.HasField("g")), None)


def set_attribute(name: str, value: Any, kind: int) -> Change:
    """Return what gives a node an attribute of an ONNX type, or takes it away where the value is None."""

    def change(node: NodeProto, graph: GraphProto) -> None:
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))
        if name == "training_mode" and not value:
            del node.output[1:]  # statistics that are moved in training alone

    return change


def set_operands(values: Mapping[int, NDArray[Any] | None]) -> Change:
    """Return what gives a node stored operands by their positions; None leaves one out."""

    def change(node: NodeProto, graph: GraphProto) -> None:
        for position, value in values.items():
            while len(node.input) <= position:
                node.input.append("")
            node.input[position] = "" if value is None else _store(graph, f"{node.output[0]}.mended_{position}", value)
        while node.input and not node.input[-1]:
            node.input.pop()

    return change


def exchange(order: Iterable[int]) -> Change:
    """Return what puts a node's inputs into another order."""
    places = list(order)

    def change(node: NodeProto, graph: GraphProto) -> None:
        inputs = [node.input[place] for place in places]
        del node.input[:]
        node.input.extend(inputs)

    return change


def hand_on(node: NodeProto, graph: GraphProto) -> None:
    """Have a node hand on its first input."""
    first = node.input[0]
    del node.input[:], node.attribute[:]
    node.op_type, node.domain = "Identity", ""
    node.input.append(first)


def become(op_type: str, domain: str, attributes: Iterable[AttributeProto]) -> Change:
    """Return what gives a node another operator, with its attributes, on the same inputs."""
    stored = list(attributes)

    def change(node: NodeProto, graph: GraphProto) -> None:
        del node.attribute[:]
        node.attribute.extend(stored)
        node.op_type, node.domain = op_type, domain

    return change


def soften_whole(axis: int) -> Change:
    """Return what has a Softmax take all from an axis on as one, as it did before operator set 13."""

    def change(node: NodeProto, graph: GraphProto) -> None:
        place = next(place for place, other in enumerate(graph.node) if other is node or other.output == node.output)
        source, result = node.input[0], node.output[0]
        flat, shape, softened = (f"{result}.mended_{role}" for role in ("flat", "shape", "softened"))
        kept = onnx.helper.make_node(node.op_type, [flat], [softened], name=node.name, axis=-1)
        node.CopyFrom(onnx.helper.make_node("Reshape", [softened, shape], [result]))
        for number, added in enumerate(
            (
                onnx.helper.make_node("Flatten", [source], [flat], axis=axis),
                onnx.helper.make_node("Shape", [source], [shape]),
                kept,
            )
        ):
            graph.node.insert(place + number, added)

    return change


def shown(value: Any) -> str:
    """A value of an attribute or an operand as people read it."""
    if isinstance(value, list):
        listed = ", ".join(shown(item) for item in value[:_MOST_SHOWN])
        return f"[{listed}{', …' if len(value) > _MOST_SHOWN else ''}]"
    if isinstance(value, float):
        return format_number(value)
    return printable(f"{value}")


def _quoted(value: Any) -> str:
    return f"`{shown(value)}`" if isinstance(value, str) else shown(value)


def _output(node: Node) -> str:
    return next(filter(None, node.outputs))


def _store(graph: GraphProto, name: str, value: NDArray[Any]) -> str:
    tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
    graph.initializer.append(tensor)
    return name
