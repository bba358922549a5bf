"""A graph in one form, whoever wrote it: a record for every node that its outputs depend on; `node_records`.

Names, the stored order of nodes, what is a default, Identity, a Cast to the same type, Dropout in inference and how far
constants were folded do not show. A layer with all that it absorbs is one record, whose weights are compared elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto

from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.layer_names import Operand
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.runtime.constant_values import ConstantValues
from onnxscope.structure.idle_nodes import idle_dropout
from onnxscope.structure.reshaped_sides import flattened, without_zeros
from onnxscope.structure.standard_spelling import COMMUTATIVE, operand_names, spell, spell_promoted

__all__ = ["OUTPUT", "UNORDERED", "WEIGHT", "NodeRecord", "Source", "is_weight", "node_records"]

Source = tuple[int, int] | str
"""What an operand comes from: a record and which of its outputs, or an input by its name behind `input `."""

OUTPUT = "Output"
"""The operator of a record that stands for an output of the model."""

UNORDERED = "operand"
"""What the names of operands start with whose order says nothing."""

WEIGHT = "weight"
"""What stands for a constant operand that is listed among the weights, with a digest of its numbers or without."""

_UNTOLD = ("auto_pad", "training_mode", "transA")
"""Attributes of a layer that are not compared with the layers."""


@dataclass(frozen=True)
class NodeRecord:
    """One node that matters.

    Attributes:
        op_type: With its domain in front where that is not ONNX's own; a layer's kind.
        layer: What the source framework called it; empty where the name only counts operators.
        label: The node's name, for messages.
        body: The attributes that lead to its graph, empty in the main graph.
        is_layer: Whether it owns weights, and is compared as a layer too.
        attributes: What is not at its default.
        constants: Constant operands by name: the numbers, or a digest of many.
        reads: The other operands by name.
        node: The node itself, a layer's the one that owns the weights; None for an output, and in what was stored.
        held: Where the numbers of constant operands are: the path of a graph and a value of it. Empty in what was
            stored.
    """

    op_type: str
    layer: str
    label: str
    body: str
    is_layer: bool
    attributes: Mapping[str, Any]
    constants: Mapping[str, str]
    reads: Mapping[str, Source]
    node: Node | None = field(default=None, compare=False, repr=False)
    held: Mapping[str, tuple[tuple[Step, ...], str]] = field(default_factory=dict, compare=False, repr=False)


def is_weight(text: str | None) -> bool:
    """Whether a constant of a record stands for an operand that is listed among the weights."""
    return text is not None and (text == WEIGHT or text.startswith(f"{WEIGHT} "))


def node_records(model: Model, listed: Callable[[Operand], str | None]) -> tuple[NodeRecord, ...]:
    """Return a record for every node that an output depends on, in an order that does not depend on the stored one.

    Args:
        model: Its constants are read where they lie.
        listed: What stands for a constant operand that is compared as a weight, so that its numbers are left out:
            `WEIGHT`, or that and a digest; None for another operand.
    """
    return _Records(model, listed).all()


_Key = tuple[tuple[Step, ...], str]


class _Records:
    def __init__(self, model: Model, listed: Callable[[Operand], str | None]) -> None:
        self._model = model
        self._names = model.names
        self._listed = listed
        self._layers: dict[Node, Layer] = {part: layer for layer in model.layers for part in layer.parts}
        self._constants = ConstantValues(model)
        self._places: dict[Node, int] = {}

    def all(self) -> tuple[NodeRecord, ...]:
        main = self._model.main
        computing = [node for node in main.nodes if any(value not in main.constants for value in node.outputs if value)]
        read = (node.inputs[place] for node in computing for place in self._unlisted_places(node))
        self._constants.prepare([*read, *main.outputs])
        order = list(self._order())
        records: list[NodeRecord] = []
        for unit in order:
            self._places[unit] = len(records)
            records.append(self._record(unit))
        for name in self._model.main.outputs:
            constants, reads, held = self._operands([("value", (), name)])
            records.append(
                NodeRecord(
                    op_type=OUTPUT,
                    layer=name,
                    label=name,
                    body="",
                    is_layer=False,
                    attributes={},
                    constants=constants,
                    reads=reads,
                    held=held,
                )
            )
        return tuple(records)

    def _order(self) -> Iterator[Node]:
        """Units, each behind what it reads, as a walk from the outputs meets them; a deep graph needs no deep stack."""
        done: set[Node] = set()
        waiting: list[tuple[Node, bool]] = []
        for name in self._model.main.outputs:
            waiting += [(unit, False) for unit in self._behind(((), name))]
            while waiting:
                unit, is_ready = waiting.pop()
                if unit in done:
                    continue
                if is_ready:
                    done.add(unit)
                    yield unit
                    continue
                waiting.append((unit, True))
                values = [(part.path, value) for part in self._parts(unit) for _, value in self._unlisted(part)]
                for part in self._parts(unit):
                    for path, graph in self._bodies(part):
                        values += [(path, value) for value in graph.outputs]
                before = [other for key in values for other in self._behind(key) if other is not unit]
                waiting += [(other, False) for other in reversed(before) if other not in done]

    def _unlisted(self, node: Node) -> list[tuple[int, str]]:
        """Place and name of what a node reads, but for weights and for a shape that is known."""
        places = self._unlisted_places(node)
        if node.op_type == "Reshape" and self._target(node):
            places.remove(1)
        return [(place, node.inputs[place]) for place in places]

    def _unlisted_places(self, node: Node) -> list[int]:
        listed = self._listed_places(node)
        return [place for place, value in enumerate(node.inputs) if value and place not in listed]

    def _listed_places(self, node: Node) -> dict[int, str]:
        """What stands for each operand that is compared as a weight, by its place."""
        texts = {operand.position: self._listed(operand) for operand in self._names.operands(node)}
        return {place: text for place, text in texts.items() if text is not None}

    def _target(self, node: Node) -> str:
        """The shape that a Reshape or a Flatten leads to, where at most one side of it is open, which then follows."""
        if node.is_standard and node.op_type == "Flatten":
            axis = node.attribute("axis")
            sides = flattened(self._shape(node), 1 if axis is None else axis)
            return f"flattened at {1 if axis is None else axis}" if sides is None else _shape_text(sides)
        if node.op_type != "Reshape" or not node.is_standard or len(node.inputs) < 2:
            return ""
        sides = self._constants.sides(node.path, node.inputs[1])
        if sides is not None and 0 in sides and not node.attribute("allowzero"):
            sides = without_zeros(sides, self._shape(node))
        if sides is None or 0 in sides or sum(side is None or side < 0 for side in sides) > 1:
            return ""
        return _shape_text(sides)

    def _shape(self, node: Node) -> Sequence[int | str | None] | None:
        """The shape of what a node reads first, as far as it is known."""
        declared = self._model.type_of(self._model.graphs[node.path], node.inputs[0])
        return None if declared is None else declared.shape

    def _parts(self, unit: Node) -> tuple[Node, ...]:
        return self._layers[unit].parts if unit in self._layers else (unit,)

    def _unit(self, node: Node) -> Node:
        return self._layers[node].node if node in self._layers else node

    def _behind(self, key: _Key) -> list[Node]:
        source = self._resolved(key)
        return [self._unit(source)] if isinstance(source, Node) else []

    def _resolved(self, key: _Key) -> Node | _Key:
        """The node that computes a value, or the constant or input that it is, through what only hands it on."""
        path, value = key
        while True:
            graph = self._model.graphs[path]
            value = graph.repeated.get(value, value)
            if value in graph.producers:
                node = graph.producers[value]
                if self._constants.is_constant(path, value):
                    return path, value
                if not self._hands_on(graph, node, value):
                    return node
                value = node.inputs[0]
            elif value in graph.initializers or value in graph.inputs or graph.parent is None:
                return path, value
            else:
                path = graph.parent.path

    def _hands_on(self, graph: Graph, node: Node, value: str) -> bool:
        if not node.is_standard or node in self._layers or not node.inputs or value != node.outputs[0]:
            return False
        if node.op_type == "Identity":
            return True
        if node.op_type == "Cast":
            declared = self._model.type_of(graph, node.inputs[0])
            return declared is not None and declared.elem_type == node.attribute("to")
        return idle_dropout(self._model, graph, node)

    def _opset(self, node: Node) -> int | None:
        return self._model.opsets.get(node.domain or "ai.onnx")

    def _bodies(self, node: Node) -> list[tuple[tuple[Step, ...], Graph]]:
        if node in self._layers:
            return []  # told by the layer's attributes
        steps = [(*node.path, Step(node.index, stored.name)) for stored in node.proto.attribute if _is_body(stored)]
        return [(path, self._model.graphs[path]) for path in sorted(steps, key=lambda path: path[-1].attribute)]

    def _record(self, unit: Node) -> NodeRecord:
        layer = self._layers.get(unit)
        spelled = spell(unit, self._opset(unit), self._model.storage)
        if layer is None:
            attributes, op_type = dict(spelled.attributes), spelled.op_type
        else:  # what else it has is compared with the layers
            attributes = {key: spelled.attributes[key] for key in _UNTOLD if key in spelled.attributes}
            if layer.norm is not None and layer.norm.attribute("training_mode"):
                attributes["BatchNormalization.training_mode"] = 1
            op_type = layer.kind
        if spelled.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
            attributes = self._with_last_axis(unit, attributes)
        target = self._target(unit)
        if target:
            op_type = "Reshape"
            attributes = {key: value for key, value in attributes.items() if key not in ("allowzero", "axis")}
        slots: list[tuple[str, tuple[Step, ...], str]] = []
        listed: dict[str, str] = {}
        inside = {output for part in self._parts(unit) for output in part.outputs}
        again = self._model.graphs[unit.path].repeated
        for part in self._parts(unit):
            prefix = "" if part is unit else f"{part.op_type}."
            names = operand_names(part, spelled.op_type if part is unit else part.op_type)
            names = ["data"] if part.op_type == "Flatten" else names  # as Reshape has it
            of_weights = self._listed_places(part)
            for place, value in enumerate(part.inputs):
                is_own = part is not unit and again.get(value, value) in inside
                if value and not (target and place == 1) and not is_own:
                    slots.append((f"{prefix}{names[place]}", part.path, value))
                    listed |= {f"{prefix}{names[place]}": of_weights[place]} if place in of_weights else {}
            for path, graph in self._bodies(part):
                slots += [(f"{path[-1].attribute} {place}", path, value) for place, value in enumerate(graph.outputs)]
        constants, reads, held = self._operands(slots, listed, spelled.op_type)
        constants |= {"shape": target} if target else {}
        name = self._names.layers[unit]
        is_made_up = name == unit.name or name.rpartition("_")[0] == unit.op_type
        return NodeRecord(
            op_type=op_type,
            layer=layer.name if layer is not None else "" if is_made_up else name,
            label=unit.label,
            body="/".join(step.attribute for step in unit.path),
            is_layer=layer is not None,
            attributes=attributes,
            constants={**spelled.operands, **constants} if layer is None else constants,
            reads=reads,
            node=unit,
            held=held,
        )

    def _with_last_axis(self, node: Node, attributes: dict[str, Any]) -> dict[str, Any]:
        """Before opset 13 these took everything from their axis on as one, which is the same for the last axis."""
        flattened = (self._opset(node) or 13) < 13
        axis = attributes.pop("axis", -1)
        if axis >= 0 and not node.path:
            declared = self._model.main.types.get(node.inputs[0])
            rank = len(declared.shape) if declared is not None and declared.shape is not None else None
            rank = self._model.ranks.get(node.inputs[0]) if rank is None else rank
            axis = -1 if rank is not None and axis == rank - 1 else axis
        if axis == -1:
            return attributes
        return attributes | {"axis": axis} | ({"flattened": 1} if flattened else {})

    def _operands(
        self, slots: list[tuple[str, tuple[Step, ...], str]], listed: Mapping[str, str] | None = None, op_type: str = ""
    ) -> tuple[dict[str, str], dict[str, Source], dict[str, _Key]]:
        """Of slots, each with a value of a graph: the constants, what the others come from, and where constants are."""
        constants: dict[str, str] = {}
        reads: dict[str, Source] = {}
        held: dict[str, _Key] = {}
        for slot, path, value in slots:
            if listed and slot in listed:
                constants[slot] = listed[slot]
                continue
            source = self._resolved((path, value))
            if isinstance(source, Node):
                unit = self._unit(source)
                output = source.outputs.index(self._last_name(path, value)) if source is unit else 0
                reads[slot] = (self._places[unit], output)
            elif (text := self._constants.text(*source)) is not None:
                values = self._constants.values(*source)
                promoted = None if values is None else spell_promoted(op_type, slot, values)
                text = text if promoted is None else promoted
                if text and not (op_type == "Resize" and values is not None and not values.size):
                    constants[slot] = text
                    held[slot] = source
            else:
                graph = self._model.graphs[source[0]]
                place = graph.inputs.index(source[1]) if source[1] in graph.inputs else -1
                reads[slot] = f"{source[0][-1].attribute} {place}" if source[0] else f"input {source[1]}"
        return (constants, reads, held) if op_type not in COMMUTATIVE else _unordered(constants, reads, held)

    def _last_name(self, path: tuple[Step, ...], value: str) -> str:
        """The name under which the node that computes a value gives it out."""
        while True:
            graph = self._model.graphs[path]
            value = graph.repeated.get(value, value)
            node = graph.producers.get(value)
            if node is None:
                assert graph.parent is not None  # `_resolved` has met a producer
                path = graph.parent.path
            elif self._hands_on(graph, node, value):
                value = node.inputs[0]
            else:
                return value


def _shape_text(sides: Sequence[int | None]) -> str:
    return " ".join(f"{-1 if side is None else side}" for side in sides)


def _unordered(
    constants: dict[str, str], reads: dict[str, Source], held: dict[str, _Key]
) -> tuple[dict[str, str], dict[str, Source], dict[str, _Key]]:
    """Operands of an operator that does not care in which order they stand."""
    names = {slot: f"constant {place}" for place, slot in enumerate(sorted(constants, key=constants.__getitem__))}
    sources = sorted(reads.values(), key=str)
    return (
        {name: constants[slot] for slot, name in names.items()},
        {f"{UNORDERED} {place}": source for place, source in enumerate(sources)},
        {name: held[slot] for slot, name in names.items() if slot in held},
    )


def _is_body(attribute: AttributeProto) -> bool:
    return attribute.type == AttributeProto.GRAPH
