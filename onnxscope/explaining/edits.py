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
]

Kind = Literal["attribute", "operand", "inputs", "weight", "operator"]
_Change = Callable[[NodeProto, GraphProto], None]
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
        node: Of the second model's main graph.
        kind: What of the node is changed.
        what: The attribute, the operand by the name that the operator gives it, or in a few words what else.
        found: What the node has: plain numbers, texts and lists of them; None for nothing.
        wanted: What it gets.
        change: Makes the edit, given the node and its graph, which are changed.
        says: In words what the node does, where `found` alone does not tell.
    """

    node: Node
    kind: Kind
    what: str
    found: Any
    wanted: Any
    change: _Change
    says: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells the edit from every other: two layers may have the same node to blame."""
        return _output(self.node), self.kind, self.what

    @property
    def fault(self) -> str:
        """What the second model's node does."""
        op_type = printable(self.node.op_type)
        if self.says:
            return f"B's {op_type} {self.says}"
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
        proto: It has the nodes that are edited in its main graph, by their outputs.
        edits: Each is made once.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    edited: set[str] = set()
    for edit in {edit.key: edit for edit in edits}.values():
        name = _output(edit.node)
        node = next(node for node in copy.graph.node if name in node.output)
        edit.change(node, copy.graph)
        edited.update(filter(None, node.output))
    for node in copy.graph.node:
        if not edited.isdisjoint(node.input) or any(attribute.HasField("g") for attribute in node.attribute):
            edited.update(filter(None, node.output))
    kept = [value for value in copy.graph.value_info if value.name not in edited]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(kept)
    return copy


def set_attribute(name: str, value: Any, kind: int) -> _Change:
    """Return what gives a node an attribute of an ONNX type, or takes it away where the value is None."""

    def change(node: NodeProto, graph: GraphProto) -> None:
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))

    return change


def set_operands(values: Mapping[int, NDArray[Any] | None]) -> _Change:
    """Return what gives a node stored operands by their positions; None leaves one out."""

    def change(node: NodeProto, graph: GraphProto) -> None:
        for position, value in values.items():
            while len(node.input) <= position:
                node.input.append("")
            node.input[position] = "" if value is None else _store(graph, f"{node.output[0]}.mended_{position}", value)
        while node.input and not node.input[-1]:
            node.input.pop()

    return change


def exchange(order: Iterable[int]) -> _Change:
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


def become(op_type: str, domain: str, attributes: Iterable[AttributeProto]) -> _Change:
    """Return what gives a node another operator, with its attributes, on the same inputs."""
    stored = list(attributes)

    def change(node: NodeProto, graph: GraphProto) -> None:
        del node.attribute[:]
        node.attribute.extend(stored)
        node.op_type, node.domain = op_type, domain

    return change


def soften_whole(axis: int) -> _Change:
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
