"""What is not the same about the structure of two models: attributes of paired layers, and any node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.model_layers import ModelLayers
from onnxscope.comparison.weight_changes import WeightChange
from onnxscope.model.graphs import Node
from onnxscope.model.layers import Layer
from onnxscope.numerics.distances import Tolerance
from onnxscope.selection.chosen_parts import Selection
from onnxscope.structure.attributes import attributes_of
from onnxscope.structure.compare_records import NodeChange, changes_numbers, compare_records
from onnxscope.structure.quantized_form import Partner

__all__ = ["StructureChange", "attribute_changes", "likeliest_first", "node_changes"]

Array = NDArray[Any]


@dataclass(frozen=True)
class StructureChange:
    """Something about an aligned layer, or about the models, that is not the same apart from weights and values.

    Attributes:
        layer: The layer in the first model, empty for the model itself.
        message: In words.
        counts: Whether it makes the models differ where their values were compared too: a stored number that is another
            one, or a random node that the inputs at hand may not show.
        folded: Whether it is nothing but the form of a partner in few bits, and told in one line with others.
        forgiven: Whether it is of numbers none of which is beyond the tolerance that was given: it never counts.
        node: The node that it is about, of the first model where it is there; None for none, or several.
    """

    layer: str
    message: str
    counts: bool = False
    folded: bool = False
    forgiven: bool = False
    node: Node | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "layer": self.layer,
            "message": self.message,
            "counts": self.counts,
            "folded": self.folded,
            "forgiven": self.forgiven,
        }


def attribute_changes(
    sides: tuple[ModelLayers, ModelLayers], x: Layer, y: Layer, tolerance: Tolerance | None
) -> list[StructureChange]:
    """Attributes of two aligned layers that are not the same."""
    changes = []
    for left, right in ((x.node, y.node), (x.norm, y.norm)):
        if left is None or right is None or left.op_type != right.op_type:
            continue
        before, after = (
            attributes_of(node, side.model.storage) for node, side in zip((left, right), sides, strict=True)
        )
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                message = f"{left.op_type}: {name} {_text(before.get(name))} became {_text(after.get(name))}"
                change = StructureChange(x.name, message)
                changes.append(
                    _within(tolerance, change, sides[0].attribute(left, name), sides[1].attribute(right, name))
                )
    bent = sides[0].is_bent(x), sides[1].is_bent(y)
    if x.activated != y.activated and bent[0] != bent[1] and not (x.quantized or y.quantized):
        where = ("first", "second") if x.activated else ("second", "first")
        message = f"an activation function follows in the {where[0]} model, none in the {where[1]}"
        changes.append(StructureChange(x.name, message))
    return changes


def node_changes(
    sides: tuple[ModelLayers, ModelLayers],
    pairs: Sequence[tuple[Layer, Layer]],
    weights: Sequence[WeightChange],
    chosen: Selection | None,
    partner: Partner | None,
    tolerance: Tolerance | None,
    modes: Sequence[tuple[StructureChange, Node]],
) -> tuple[StructureChange, ...]:
    """What is not the same about any node, beside what is told of layers and weights."""
    places = ([side.places.get(layer.node) for side, layer in zip(sides, pair, strict=True)] for pair in pairs)
    known = [(left, right) for left, right in places if left is not None and right is not None]
    # A Transpose that one model alone has is accounted for where a weight has its inputs in the other layout's order.
    is_moved = any(change.change == "permuted" and not change.counts for change in weights)

    def numbers(change: NodeChange, side: int) -> Array | None:
        known = tolerance is not None and change.records is not None
        return sides[side].numbers(change.records[side], change.what) if known and change.records else None

    of_nodes = [
        _within(
            tolerance,
            StructureChange(
                change.layer,
                change.message,
                counts=changes_numbers(change),
                folded=partner is not None and not changes_numbers(change) and partner.explains(change),
                node=change.node,
            ),
            numbers(change, 0),
            numbers(change, 1),
        )
        for change in compare_records(sides[0].records, sides[1].records, known)
        if not (is_moved and change.what == "node" and "Transpose" in (change.expected, change.found))
        and not any(_tells_mode(change, node) for _, node in modes)
        and (chosen is None or (chosen.holds(change.node) and not _is_left_out(chosen, change)))
    ]
    return (*of_nodes, *(change for change, node in modes if chosen is None or chosen.holds(node)))


def likeliest_first(
    changes: Sequence[StructureChange], sides: tuple[ModelLayers, ModelLayers], rows: Sequence[LayerDifference]
) -> tuple[StructureChange, ...]:
    """Put first what may have made the first difference: nodes behind all that agrees, those that move numbers last."""
    first = next((row for row in rows if row.differs), None)
    if first is None:
        return tuple(changes)
    same = [row for row in rows if not row.differs]
    suspects = sides[0].between([row.a.name for row in same], first.a.name)
    suspects |= sides[1].between([row.b.name for row in same], first.b.name)

    def order(change: StructureChange) -> int:
        return 2 if change.node not in suspects else change.node is None or bool(change.node.operator.passes_on)

    return tuple(sorted(changes, key=order))


def _is_left_out(chosen: Selection, change: NodeChange) -> bool:
    """Whether a change is of a parameter that is left out by its name."""
    return change.records is not None and change.records[0].held.get(change.what) in chosen.left_out_places


def _within(tolerance: Tolerance | None, change: StructureChange, x: Array | None, y: Array | None) -> StructureChange:
    """A change of numbers, which is forgiven where none is beyond the tolerance."""
    if tolerance is None or x is None or y is None or x.shape != y.shape or not tolerance.forgives(x, y):
        return change
    return replace(change, message=f"{change.message}; within the tolerance", forgiven=True)


def _tells_mode(change: NodeChange, node: Node) -> bool:
    """Whether a change is no more than the mode of a node that is told as such: training, or being there at all."""
    if change.what == "node":
        return change.node is node
    return change.what in ("training_mode", f"{node.op_type}.training_mode") and (
        change.node is None or change.node.op_type == node.op_type or change.what != "training_mode"
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        value = np.float32(value)  # which is what an attribute holds
    return "by default" if value is None else f"{value!s}"
