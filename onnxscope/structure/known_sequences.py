"""Sequences and optionals whose contents the graph tells: what is taken out is what was put in.

A place is counted from the front, wherever the length is known, and what is put together in several steps is one
SequenceConstruct.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.runtime.constant_values import ConstantValues

__all__ = ["KnownSequences"]

_BUILDERS = ("SequenceInsert", "SequenceErase")
_MOST_ELEMENTS = 1_000


class KnownSequences:
    """Knows what the sequences and optionals of a model hold."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._constants = ConstantValues(model)

    def plain(self, graph: Graph, node: Node) -> list[NodeProto] | None:
        """Return what stands for a node that takes something out of a known sequence, or puts it in; None for others.

        Args:
            graph: Where the node stands.
            node: Of any operator.
        """
        if not node.is_standard or not node.op_type.startswith(("Sequence", "Optional", "ConcatFromSequence")):
            return None
        if node.op_type == "OptionalGetElement":
            source = self._held_by_optional(graph, node.inputs[0])
            return None if not source else [_node("Identity", [source], node)]
        if node.op_type == "OptionalHasElement":
            source = self._held_by_optional(graph, node.inputs[0]) if any(node.inputs) else ""
            return None if source is None else [_constant(np.array(bool(source)), node.outputs[0], node.name)]
        held = self._elements(graph, node.inputs[0]) if node.inputs else None
        if held is None:
            return None
        if node.op_type == "SequenceLength":
            return [_constant(np.array(len(held), np.int64), node.outputs[0], node.name)]
        if node.op_type == "ConcatFromSequence":
            names = [name for name in held if name is not None]
            if node.attribute("new_axis") or len(names) < len(held) or not names:
                return None
            return [_node("Concat", names, node, axis=node.attribute("axis"))]
        if node.op_type == "SequenceAt":
            return self._taken(graph, node, held)
        return self._put_together(graph, node, len(held)) if node.op_type in _BUILDERS else None

    def _taken(self, graph: Graph, node: Node, held: Sequence[str | None]) -> list[NodeProto] | None:
        place = self._place(graph, node.inputs[1], len(held))
        if place is None:
            return None
        name = held[place]
        return self._at(graph, node, 1, place) if name is None else [_node("Identity", [name], node)]

    def _put_together(self, graph: Graph, node: Node, length: int) -> list[NodeProto] | None:
        held = self._elements(graph, node.outputs[0])
        if held is None:
            return None
        names = [name for name in held if name is not None]
        if names and len(names) == len(held):
            return [_node("SequenceConstruct", names, node)]
        operand = 2 if node.op_type == "SequenceInsert" else 1
        if len(node.inputs) <= operand or not node.inputs[operand]:
            return self._at(graph, node, operand, length if operand == 2 else length - 1)
        place = self._place(graph, node.inputs[operand], length + operand - 1, length)
        return None if place is None else self._at(graph, node, operand, place)

    def _at(self, graph: Graph, node: Node, operand: int, place: int) -> list[NodeProto] | None:
        """The node with a place counted from the front; None where it is so already."""
        if len(node.inputs) > operand and self._number(graph, node.inputs[operand]) == place:
            return None
        name = f"{node.outputs[0]}/onnxscope:place"
        inputs = [*node.inputs[:operand], name]
        return [_constant(np.array(place, np.int64), name, ""), _node(node.op_type, inputs, node)]

    def _held_by_optional(self, graph: Graph, value: str) -> str | None:
        """What an optional holds, empty where that is nothing; None where it is not known."""
        scope = graph.scope_of(value)
        node = scope.producers.get(value)
        if node is not None and node.op_type == "Optional" and node.is_standard:
            return node.inputs[0] if any(node.inputs) else ""
        if node is not None and node.op_type == "Identity" and node.is_standard:
            return self._held_by_optional(scope, node.inputs[0])
        declared = self._model.type_of(scope, value)
        return value if declared is not None and declared.kind in ("tensor", "sequence") else None

    def _elements(self, graph: Graph, value: str, depth: int = 0) -> list[str | None] | None:
        """Names of what a sequence holds, None for each that has none; None where its length is not known."""
        scope = graph.scope_of(value)
        node = scope.producers.get(value)
        if node is None or not node.is_standard or depth > _MOST_ELEMENTS:
            return None
        if node.op_type == "SequenceConstruct":
            return list(node.inputs)
        if node.op_type == "SequenceEmpty":
            return []
        if node.op_type == "Identity":
            return self._elements(scope, node.inputs[0], depth + 1)
        if node.op_type == "OptionalGetElement":
            held_whole = self._held_by_optional(scope, node.inputs[0])
            return self._elements(scope, held_whole, depth + 1) if held_whole else None
        if node.op_type == "SplitToSequence":
            count = self._parts(scope, node)
            return None if count is None or count > _MOST_ELEMENTS else [None] * count
        if node.op_type not in _BUILDERS:
            return None
        held = self._elements(scope, node.inputs[0], depth + 1)
        operand = 2 if node.op_type == "SequenceInsert" else 1
        if held is None:
            return None
        length = len(held) + operand - 1  # a new one may stand behind all others
        place: int | None = length - 1
        if len(node.inputs) > operand and node.inputs[operand]:
            place = self._place(scope, node.inputs[operand], length, len(held))
        if place is None or place < 0:
            return None
        return [*held[:place], node.inputs[1], *held[place:]] if operand == 2 else [*held[:place], *held[place + 1 :]]

    def _parts(self, graph: Graph, node: Node) -> int | None:
        """How many parts a SplitToSequence makes; None where that is not known."""
        lengths = None
        if len(node.inputs) > 1 and node.inputs[1]:
            is_known = self._constants.is_constant(graph.path, node.inputs[1])
            lengths = self._constants.values(graph.path, node.inputs[1]) if is_known else None
            if lengths is None:
                return None
            if lengths.ndim:
                return len(lengths)
        declared = self._model.type_of(graph, node.inputs[0])
        axis = node.attribute("axis") or 0
        sides = declared.shape if declared is not None else None
        side = sides[axis] if sides is not None and -len(sides) <= axis < len(sides) else None
        if not isinstance(side, int):
            return None
        return math.ceil(side / int(lengths)) if lengths is not None and int(lengths) > 0 else side

    def _place(self, graph: Graph, value: str, length: int, count: int | None = None) -> int | None:
        """A stored place, counted from the front; None where it is not stored, or is outside.

        Args:
            graph: Where it is read.
            value: Its name.
            length: How many places there are.
            count: How many elements there are, from whose end a negative one counts; `length` by default.
        """
        number = self._number(graph, value)
        if number is None:
            return None
        place = number + (length if count is None else count) if number < 0 else number
        return place if 0 <= place < length else None

    def _number(self, graph: Graph, value: str) -> int | None:
        if not value or not self._constants.is_constant(graph.path, value):
            return None
        values = self._constants.values(graph.path, value)
        return int(values.ravel()[0]) if values is not None and values.size == 1 else None


def _node(op_type: str, inputs: Sequence[str], node: Node, **attributes: Any) -> NodeProto:
    written = helper.make_node(op_type, list(inputs), list(node.outputs), name=node.name, **attributes)
    written.metadata_props.extend(node.proto.metadata_props)
    return written


def _constant(values: np.ndarray, name: str, label: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], name=label, value=numpy_helper.from_array(values))
