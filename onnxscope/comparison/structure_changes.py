"""What is not the same about the structure of two models: attributes of paired layers, any node, what nothing reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.base.text import format_number, printable
from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.weight_changes import WeightChange
from onnxscope.model.graphs import Node
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.numerics.distances import Tolerance, difference
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.selection.chosen_parts import Selection
from onnxscope.selection.selectors import Tap
from onnxscope.structure.attributes import attribute_text, attributes_of
from onnxscope.structure.compare_records import NodeChange, changes_numbers, compare_records
from onnxscope.structure.fused_regions import FusedRegion
from onnxscope.structure.quantized_form import Partner

__all__ = ["FusedPart", "StructureChange", "attribute_changes", "likeliest_first", "node_changes", "unread_changes"]

Array = NDArray[Any]
_FEW = 8  # numbers, which a message shows


@dataclass(frozen=True)
class FusedPart:
    """An operator of one model that stands for several nodes of the other, which is compared as one.

    Attributes:
        model: `a` or `b`: which has it as one.
        node: What the node is called.
        op_type: Its operator, with its domain.
        compared_at: The value of each model at which both are compared; None where there is none but what is behind.
        layers: Layers of the other model that are inside of it, and have no value of their own.
        count: How many nodes it stands for.
    """

    model: Literal["a", "b"]
    node: str
    op_type: str
    compared_at: tuple[str, str] | None
    layers: tuple[str, ...]
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        compared = None if self.compared_at is None else dict(zip("ab", self.compared_at, strict=True))
        return {
            "model": self.model,
            "node": self.node,
            "op_type": self.op_type,
            "compared_at": compared,
            "layers": list(self.layers),
            "nodes": self.count,
        }


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
        fused: The operator that stands for several nodes, where it is that; it says nothing of equal or not, which
            values alone tell.
        region: What is known of these nodes.
    """

    layer: str
    message: str
    counts: bool = False
    folded: bool = False
    forgiven: bool = False
    node: Node | None = field(default=None, repr=False, compare=False)
    fused: FusedPart | None = None
    region: FusedRegion | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "layer": self.layer,
            "message": self.message,
            "counts": self.counts,
            "folded": self.folded,
            "forgiven": self.forgiven,
        }

    @property
    def fused_value(self) -> str:
        """The first model's value at which an operator is compared that stands for several nodes; empty for none."""
        return self.fused.compared_at[0] if self.fused is not None and self.fused.compared_at is not None else ""

    @property
    def untold(self) -> str:
        """Why nobody can say whether such an operator does the same, where nothing was run."""
        return f"{self.message}: only values tell whether they do the same, on inputs that -i names"

    def fused_text(self, *, was_run: bool) -> str:
        """What such an operator stands for, the layers inside of it, and where it was compared."""
        part = self.fused
        if part is None:
            return self.message
        inside = f"; inside of it, without values of their own: {', '.join(part.layers)}" if part.layers else ""
        where = "what reads it" if part.compared_at is None else " against ".join(dict.fromkeys(part.compared_at))
        return printable(f"{self.message}{inside}{f'; compared at {where}' if was_run else ''}")


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
                texts = attribute_text(before.get(name)), attribute_text(after.get(name))
                message = f"{left.op_type}: {name} {texts[0]} became {texts[1]}"
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

    def numbers(change: NodeChange) -> tuple[Array | None, Array | None]:
        if change.records is None or not (tolerance is not None or changes_numbers(change)):
            return None, None
        left, right = (side.numbers(record, change.what) for side, record in zip(sides, change.records, strict=True))
        return left, right

    def is_form(change: NodeChange) -> bool:
        """Whether a change is nothing but the form of a partner in few bits, or what its layers make of constants."""
        if partner is None:
            return False
        if changes_numbers(change):
            records = zip(sides, change.records or (), strict=False)
            return change.records is not None and all(side.is_made_by_layer(one, change.what) for side, one in records)
        return partner.explains(change)

    of_nodes = [
        _within(
            tolerance,
            StructureChange(
                change.layer,
                f"{change.message}{_places(*held)}",
                counts=changes_numbers(change) and not is_form(change),
                folded=is_form(change),
                node=change.node,
                fused=None if change.region is None else _fused_part(change.region),
                region=change.region,
            ),
            *held,
        )
        for change in compare_records(sides[0].records, sides[1].records, known, regions=True)
        if not (is_moved and change.what == "node" and "Transpose" in (change.expected, change.found))
        and not any(_tells_mode(change, node) for _, node in modes)
        and (chosen is None or (chosen.holds(change.node) and not _is_left_out(chosen, change)))
        for held in (numbers(change),)
    ]
    return (*of_nodes, *(change for change, node in modes if chosen is None or chosen.holds(node)))


def _fused_part(region: FusedRegion) -> FusedPart:
    return FusedPart(
        model="b" if region.in_second else "a",
        node=region.name,
        op_type=region.op_type,
        compared_at=None if region.end is None else (region.end[0][1], region.end[1][1]),
        layers=tuple(layer.layer for layer in region.layers),
        count=len(region.nodes),
    )


def layers_inside(regions: Sequence[FusedRegion]) -> frozenset[Node]:
    """The layers of either model that are compared as part of one operator, and that operator where it owns weights."""
    records = (record for region in regions for record in (*region.layers, region.fused))
    return frozenset(record.node for record in records if record.is_layer and record.node is not None)


def fused_taps(sides: tuple[ModelLayers, ModelLayers], regions: Sequence[FusedRegion]) -> list[tuple[Tap, Tap | None]]:
    """Taps at what operators of one model give, and the nodes of the other that they stand for."""
    taps: list[tuple[Tap, Tap | None]] = []
    for region in regions:
        if region.end is not None:
            op_type = region.op_type.rpartition(".")[2]
            left, right = (
                side.value_tap(value, value, side.model.names.layers[node], op_type)
                for side, (node, value) in zip(sides, region.end, strict=True)
            )
            taps.append((left, right))
    return taps


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


def _places(x: Array | None, y: Array | None) -> str:
    """Of many numbers, how many are others, and the first of them; nothing where they are few, or of another shape."""
    if x is None or y is None or x.shape != y.shape or x.size <= _FEW:
        return ""
    left, right = x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
    places = np.flatnonzero((left != right) & ~(np.isnan(left) & np.isnan(right)))
    if not places.size:
        return ""
    first = int(places[0])
    where = ", ".join(str(place) for place in np.unravel_index(first, x.shape))
    numbers = f"{format_number(left[first])} became {format_number(right[first])}"
    return f"; {places.size:,} of {x.size:,} numbers, the first at {where}: {numbers}"


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


def unread_changes(a: Model, b: Model, tolerance: Tolerance | None = None) -> list[WeightChange]:
    """Return what is not the same about initializers that no output depends on; one left out does not count.

    Args:
        a: The first model.
        b: The second.
        tolerance: What numbers may be off by.
    """
    unread = _unread(a), _unread(b)
    changes = []
    for name in dict.fromkeys((*unread[0], *unread[1])):
        tensors = [model.main.initializers.get(name) for model in (a, b)]
        if tensors[0] is None or tensors[1] is None:
            side = "first" if tensors[1] is None else "second"
            message = f"only the {side} model has {printable(name)}, on which no output depends"
            kind = "removed" if tensors[1] is None else "added"
            changes.append(_change(name, kind, message, counts=False))
        elif name in unread[0] and name in unread[1]:
            values = a.array(tensors[0]), b.array(tensors[1])
            if values[0].dtype != values[1].dtype or not _are_same(values[0], values[1]):
                forgiven = tolerance is not None and _is_within(tolerance, *values)
                text = f"{_text(*values)}; within the tolerance" if forgiven else _text(*values)
                changes.append(_change(name, "changed", text, counts=not forgiven))
    return changes


def _unread(model: Model) -> list[str]:
    """Stored tensors that no output depends on and no layer has."""
    held = {value for layer in model.layers for part in layer.parts for value in part.inputs}
    stored = model.main.initializers.items()
    return [
        name
        for name, tensor in stored
        if name not in model.main.needed and name not in held and tensor.data_type != TensorProto.STRING
    ]


def _are_same(x: NDArray[Any], y: NDArray[Any]) -> bool:
    return x.shape == y.shape and np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()


def _is_within(tolerance: Tolerance, x: NDArray[Any], y: NDArray[Any]) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.dtype.kind != "b" and tolerance.forgives(x, y)


def _text(x: NDArray[Any], y: NDArray[Any]) -> str:
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{x.dtype}{list(x.shape)} became {y.dtype}{list(y.shape)}, on which no output depends"
    return f"{difference(x, y).text()}, on which no output depends"


def _change(name: str, kind: str, message: str, *, counts: bool) -> WeightChange:
    return WeightChange(
        a=None if kind == "added" else name,
        b=None if kind == "removed" else name,
        layer="",
        change=kind,
        max_abs=None,
        relative_l2=None,
        channels=(),
        message=message,
        counts=counts,
    )
