"""Nodes that do nothing, or what the node behind them can do: a Dropout in inference, a Pad before a convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = [
    "idle_dropout",
    "merged_pad",
    "source_behind",
    "turned_reduction",
    "unturned_softmax",
    "without_negations",
]

Sides = Sequence["int | str | None"]

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
_OF_SEVERAL = frozenset({"Concat", "Max", "Min", "Sum", "Mean"})
_FAR = (1 << 31) - 1  # what exporters write for the end, whatever its length

_HELD_BY = {
    "float16": ("float32", "float64"),
    "bfloat16": ("float32", "float64"),
    "float32": ("float64",),
    "int32": ("int64", "float64"),
    "uint8": ("int32", "int64", "float16", "float32", "float64"),
    "int8": ("int32", "int64", "float16", "float32", "float64"),
    "bool": ("int32", "int64", "float16", "float32", "float64", "uint8", "int8"),
}
"""Types that hold every number of another."""


def source_behind(
    model: Model, graph: Graph, node: Node, dtype: Callable[[str], str | None], shape: Callable[[str], Sides | None]
) -> str | None:
    """Return the value that a node gives out as it is; None where it does something.

    Args:
        model: Whose node it is.
        graph: Where it stands.
        node: Of any operator.
        dtype: Of a value, as numpy calls it, where it is known.
        shape: Of a value, as far as it is known.
    """
    if not node.is_standard or not node.inputs or node.outputs[0] in graph.outputs:
        return None
    if node.op_type == "Transpose":
        return _unturned(graph, node, shape)
    if node.op_type in _NEUTRAL:
        return _unchanged_operand(model, graph, node, shape)
    if node.op_type == "Slice":
        return node.inputs[0] if _keeps_all(model, graph, node, shape(node.inputs[0])) else None
    if node.op_type == "Cast" and dtype(node.inputs[0]) in {dtype(node.outputs[0])} - {None}:
        return node.inputs[0]
    if node.op_type in _OF_SEVERAL:
        return node.inputs[0] if len(node.inputs) == 1 else None
    if node.op_type in ("Not", "Neg"):
        undone = _made_by(graph, node.inputs[0], node.op_type)
        return None if undone is None else undone.inputs[0]
    wider = graph.producers.get(node.inputs[0]) if node.op_type == "Cast" else None
    if wider is None or wider.op_type != "Cast" or not wider.is_standard:
        return None
    held, kind = dtype(wider.inputs[0]), dtype(node.inputs[0])
    is_back = held is not None and held == dtype(node.outputs[0])
    return wider.inputs[0] if is_back and kind in _HELD_BY.get(held or "", ()) else None


def _unturned(graph: Graph, node: Node, shape: Callable[[str], Sides | None]) -> str | None:
    """What a Transpose gives out in its own order, or as it was before another one turned it."""

    def order_of(turn: Node) -> list[int] | None:
        sides = shape(turn.inputs[0])
        return turn.axis_order(None if sides is None else len(sides))

    order, before = order_of(node), _made_by(graph, node.inputs[0], "Transpose")
    if order is None or order == sorted(order):
        return None if order is None else node.inputs[0]
    first = None if before is None else order_of(before)
    if before is None or first is None or len(first) != len(order):
        return None
    return before.inputs[0] if [first[axis] for axis in order] == sorted(first) else None


def _unchanged_operand(model: Model, graph: Graph, node: Node, shape: Callable[[str], Sides | None]) -> str | None:
    """What a single zero is added to, or a single one multiplied with, where that has no fewer axes."""
    neutral = _NEUTRAL[node.op_type]
    is_ordered = node.op_type in ("Sub", "Div")
    for value, other in [tuple(node.inputs)] if is_ordered else [tuple(node.inputs), tuple(reversed(node.inputs))]:
        tensor, sides = graph.stored(other), shape(value)
        if tensor is None or math.prod(tensor.dims) != 1 or graph.stored(value) is not None:
            continue
        if tensor.dims and (sides is None or len(sides) < len(tensor.dims)):
            continue
        if bool(np.all(model.array(tensor) == neutral)):
            return value
    return None


def _keeps_all(model: Model, graph: Graph, node: Node, sides: Sides | None) -> bool:
    """Whether a Slice starts at the beginning of each of its axes, and ends behind the last number in steps of one."""
    starts, ends, axes, steps = (
        _whole_numbers(model, graph, node, name, place)
        for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if not starts or ends is None or any(starts) or any(step != 1 for step in steps or [1]):
        return False
    if axes is None and (node.attribute("axes") is not None or (len(node.inputs) > 3 and node.inputs[3])):
        return False
    if steps is None and len(node.inputs) > 4 and node.inputs[4]:
        return False
    for end, axis in zip(ends, range(len(ends)) if axes is None else axes, strict=True):
        side = sides[axis] if sides is not None and -len(sides) <= axis < len(sides) else None
        if end < (side if isinstance(side, int) else _FAR):
            return False
    return True


def _whole_numbers(model: Model, graph: Graph, node: Node, name: str, place: int) -> list[int] | None:
    """What an attribute or a stored operand says; None where there is none, or where it is computed."""
    written = node.attribute(name)
    if written is not None:
        return [int(number) for number in written]
    stored = graph.stored(node.inputs[place]) if len(node.inputs) > place and node.inputs[place] else None
    return None if stored is None else [int(number) for number in model.array(stored).ravel()]


def idle_dropout(model: Model, graph: Graph, node: Node) -> bool:
    """Whether a node is a Dropout in inference whose mask nobody reads."""
    if node.op_type != "Dropout" or not node.is_standard or any(graph.readers.get(mask) for mask in node.outputs[1:]):
        return False
    if any(mask in graph.outputs for mask in node.outputs[1:]):
        return False
    opset = model.opsets.get(node.domain or "ai.onnx")
    if opset is not None and opset < 7:
        return bool(node.attribute("is_test"))
    if len(node.inputs) < 3 or not node.inputs[2]:
        return True
    mode = graph.stored(node.inputs[2])
    return mode is not None and not np.any(model.array(mode))


def turned_reduction(model: Model, graph: Graph, node: Node) -> tuple[Node, list[NodeProto]] | None:
    """Return the Transpose that a reduction reads, and what reduces the same before that turns it.

    None where there is no Transpose, or where the axes that are left would be in another order.
    """
    of_index = node.op_type in ("ArgMax", "ArgMin")
    if not node.is_standard or not (of_index or node.op_type.startswith("Reduce")) or node.attribute("keepdims") != 0:
        return None
    turn = graph.producers.get(node.inputs[0])
    is_turned = turn is not None and turn.op_type == "Transpose" and turn.is_standard
    order = _order_of(model, graph, turn) if turn is not None and is_turned else None
    axes = [node.attribute("axis") or 0] if of_index else _whole_numbers(model, graph, node, "axes", 1)
    if turn is None or order is None or not axes or not all(-len(order) <= axis < len(order) for axis in axes):
        return None
    found = sorted(order[axis] for axis in axes)
    left = [axis for axis in order if axis not in found]
    if left != sorted(left):
        return None
    if of_index:
        return turn, [_with_attributes(node, turn.inputs, {"axis": found[0]})]
    if len(node.inputs) < 2:
        return turn, [_with_attributes(node, turn.inputs, {"axes": found})]
    name = f"{node.outputs[0]}/onnxscope:axes"
    stored = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(found)))
    return turn, [stored, _with_attributes(node, [turn.inputs[0], name], {})]


def unturned_softmax(model: Model, graph: Graph, node: Node) -> tuple[Node, NodeProto] | None:
    """Return the Transpose that undoes the one in front of a Softmax, and the Softmax that needs neither; or None."""
    if node.op_type not in ("Softmax", "LogSoftmax", "Hardmax") or not node.is_standard:
        return None
    turn, readers = graph.producers.get(node.inputs[0]), graph.readers_of(node.outputs[0])
    back = readers[0] if len(readers) == 1 and node.outputs[0] not in graph.outputs else None
    if turn is None or back is None or {turn.op_type, back.op_type} != {"Transpose"}:
        return None
    order, other = _order_of(model, graph, turn), _order_of(model, graph, back)
    axis = -1 if node.attribute("axis") is None else node.attribute("axis")
    if order is None or other is None or (model.opsets.get("ai.onnx") or 0) < 13:
        return None
    if not -len(order) <= axis < len(order) or len(other) != len(order):
        return None
    if [order[place] for place in other] != sorted(order):
        return None
    proto = _with_attributes(node, turn.inputs, {"axis": order[axis]})
    proto.output[:] = back.outputs
    return back, proto


def _order_of(model: Model, graph: Graph, turn: Node) -> list[int] | None:
    """Of a Transpose; one that names none has the rank of what it reads."""
    shape = model.shape_of(graph, turn.inputs[0])
    return turn.axis_order(None if shape is None else len(shape))


def without_negations(model: Model) -> Model:
    """Return a model in which no If and no Where asks a Not: what they choose is exchanged; itself where none does."""
    while True:
        found = [
            (path, node, negation.inputs[0])
            for path, graph in model.graphs.items()
            for node in graph.nodes
            if node.op_type in ("If", "Where") and (negation := _made_by(graph, node.inputs[0], "Not")) is not None
        ]
        if not found:
            return model
        copy = ModelProto()
        copy.CopyFrom(model.proto)
        for path, node, asked in reversed(found):  # inner ones first: the branches give their names to what is inside
            graph = copy.graph
            for step in path:
                owner = graph.node[step.node_index]
                graph = next(attribute.g for attribute in owner.attribute if attribute.name == step.attribute)
            graph.node[node.index].input[0] = asked
            if node.op_type == "Where":
                graph.node[node.index].input[1:] = [node.inputs[2], node.inputs[1]]
            for attribute in graph.node[node.index].attribute:
                attribute.name = {"then_branch": "else_branch", "else_branch": "then_branch"}.get(
                    attribute.name, attribute.name
                )
        model = model.rewritten(copy)


def _made_by(graph: Graph, value: str, op_type: str) -> Node | None:
    """The node of an operator that makes a value; one that says yes or no also behind a Cast to just that."""
    node = graph.scope_of(value).producers.get(value)
    while op_type == "Not" and node is not None and node.is_standard and node.op_type == "Cast":
        if node.attribute("to") != TensorProto.BOOL:
            return None
        node = graph.scope_of(node.inputs[0]).producers.get(node.inputs[0])
    return node if node is not None and node.op_type == op_type and node.is_standard else None


def merged_pad(model: Model, graph: Graph, node: Node) -> tuple[Node, NodeProto] | None:
    """Return the only reader of a Pad, and what it is when it pads for itself; None where it cannot."""
    if node.op_type != "Pad" or not node.is_standard or (node.attribute("mode") or b"constant") != b"constant":
        return None
    readers = graph.readers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in graph.outputs or not readers[0].is_standard:
        return None
    reader = readers[0]
    pads = _pads(model, graph, node)
    if pads is None or reader.op_type not in ("Conv", "AveragePool") or reader.inputs.count(node.outputs[0]) != 1:
        return None
    if reader.inputs[0] != node.outputs[0] or (reader.attribute("auto_pad") or b"NOTSET") != b"NOTSET":
        return None
    rank = len(pads) // 2
    spatial = [*pads[2:rank], *pads[rank + 2 :]]
    own = reader.attribute("pads") or [0] * len(spatial)
    if rank < 3 or any(pads[:2] + pads[rank : rank + 2]) or min(pads) < 0 or len(own) != len(spatial):
        return None
    changes: dict[str, Any] = {"pads": [x + y for x, y in zip(spatial, own, strict=True)]}
    if reader.op_type == "AveragePool":
        if (any(own) and not reader.attribute("count_include_pad")) or reader.attribute("ceil_mode"):
            return None
        changes["count_include_pad"] = 1
    return reader, _with_attributes(reader, reader.inputs, changes)


def _pads(model: Model, graph: Graph, node: Node) -> list[int] | None:
    """What a Pad adds, begins before ends along all axes; None where that is not known or not zeros."""
    if node.attribute("value") or any(node.inputs[3:]):
        return None
    for value in node.inputs[2:3]:
        filled = graph.stored(value) if value else None
        if value and (filled is None or math.prod(filled.dims) != 1 or np.any(model.array(filled))):
            return None
    name = "paddings" if node.attribute("pads") is None else "pads"
    return _whole_numbers(model, graph, node, name, 1)


def _with_attributes(node: Node, inputs: Sequence[str], changes: dict[str, Any]) -> NodeProto:
    """A copy of a node that reads other values and has other attributes."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.input[:] = inputs
    kept = [stored for stored in proto.attribute if stored.name not in changes]
    made = [helper.make_attribute(name, value) for name, value in changes.items()]
    copies = NodeProto(attribute=[*kept, *made])
    del proto.attribute[:]
    proto.attribute.extend(copies.attribute)
    return proto
