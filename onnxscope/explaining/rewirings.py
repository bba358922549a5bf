"""Nodes that one part has and the other has not, which lay values out otherwise or make them narrower."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from onnxscope.explaining.edits import Change, Edit, hand_on, set_operands
from onnxscope.explaining.weight_edits import weight_of
from onnxscope.extracting.chosen_part import Part
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model

__all__ = ["layout_edits", "widening_edits"]

_NARROW = {10: "float16", 16: "bfloat16"}
_FLATTENING = ("Reshape", "Flatten")
_ORDERS = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (0, 2, 1), (1, 0))
_MOST_PLACES = 4


def widening_edits(
    models: tuple[Model, Model], parts: tuple[Part, Part], pairs: Sequence[tuple[Node, Node]]
) -> tuple[Edit, ...]:
    """Return the edits that compute the second part in the first one's element types; none where it is not narrower.

    All Casts that the first part has not are left out, and a weight that is the first model's, rounded, becomes it.

    Args:
        models: Both.
        parts: Of their main graphs.
        pairs: Nodes in the same place.
    """
    partners = {right: left for left, right in pairs}
    casts = [
        node
        for node in parts[1].nodes
        if node.op_type == "Cast" and node.is_standard and getattr(partners.get(node), "op_type", "") != "Cast"
    ]
    narrow = {_NARROW[to] for to in (node.attribute("to") for node in casts) if to in _NARROW}
    if len(narrow) != 1:
        return ()
    (name,) = narrow
    edits = [
        Edit(node, "operator", "node", node.op_type, "without that", hand_on, f"goes through {name}", "value")
        for node in casts
    ]
    for left, right in pairs:
        widened = _widened(models, left, right)
        if widened is None:
            return ()
        if widened:
            says = f"is computed in {name} with weights of that type"
            what = ", ".join(f"input {place}" for place in widened)
            edits.append(Edit(right, "weight", what, None, "without that", set_operands(widened), says))
    return tuple(edits)


def layout_edits(models: tuple[Model, Model], parts: tuple[Part, Part]) -> Iterator[tuple[Edit, bool]]:
    """Yield what turns a value's axes before it is read, and whether the first model has such a Transpose there.

    Args:
        models: Both.
        parts: Of their main graphs.
    """
    missing = [
        order
        for order in dict.fromkeys(_orders(models[0], parts[0]))
        if _orders(models[0], parts[0]).count(order) > _orders(models[1], parts[1]).count(order)
    ]
    computed = [node for node in parts[1].nodes if node.inputs and node.inputs[0] not in models[1].main.constants]
    for order, node in itertools.product(missing, computed[:_MOST_PLACES]):
        yield _turned(node, order, "lacks a Transpose that A has before it"), True
    for order, node in itertools.product(_ORDERS, [node for node in computed if node.op_type in _FLATTENING]):
        if order not in missing:
            yield _turned(node, order, "takes its axes in another order than A's"), False


def _orders(model: Model, part: Part) -> list[tuple[int, ...]]:
    found = (node.axis_order(model.ranks.get(node.inputs[0])) for node in part.nodes if node.op_type == "Transpose")
    return [tuple(order) for order in found if order is not None]


def _turned(node: Node, order: tuple[int, ...], says: str) -> Edit:
    wanted = f"with `perm` {list(order)} before it"
    return Edit(node, "inputs", "perm", None, wanted, _insert(order), says)


def _insert(order: tuple[int, ...]) -> Change:
    def change(node: NodeProto, graph: GraphProto) -> None:
        place = next(place for place, other in enumerate(graph.node) if other.output == node.output)
        turned = f"{node.output[0]}.mended_turned"
        added = onnx.helper.make_node("Transpose", [node.input[0]], [turned], perm=order)
        node.input[0] = turned
        graph.node.insert(place, added)

    return change


def _widened(models: tuple[Model, Model], left: Node, right: Node) -> dict[int, np.ndarray] | None:
    """The first model's weights where the second's are these in fewer bits; None where they are others."""
    found: dict[int, np.ndarray] = {}
    for position, names in enumerate(zip(left.inputs, right.inputs, strict=False)):
        wide, narrow = (
            weight_of(model, model.graphs[node.path], name) if name else None
            for model, node, name in zip(models, (left, right), names, strict=True)
        )
        if wide is None or narrow is None or wide.dtype == narrow.dtype:
            continue
        if wide.shape != narrow.shape or not np.array_equal(wide.astype(narrow.dtype), narrow):
            return None
        found[position] = wide
    return found
