"""Nodes that do nothing, or what the node behind them can do: a Dropout in inference, a Pad before a convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["idle_dropout", "merged_pad", "source_behind"]

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


def source_behind(graph: Graph, node: Node, dtype: Callable[[str], str | None]) -> str | None:
    """Return the value that a node gives out as it is; None where it does something.

    Args:
        graph: Where it stands.
        node: Of any operator.
        dtype: Of a value, as numpy calls it, where it is known.
    """
    if not node.is_standard or not node.inputs or node.outputs[0] in graph.outputs:
        return None
    if node.op_type == "Transpose":
        order = node.attribute("perm")
        return node.inputs[0] if order is not None and order == sorted(order) else None
    wider = graph.producers.get(node.inputs[0]) if node.op_type == "Cast" else None
    if wider is None or wider.op_type != "Cast" or not wider.is_standard:
        return None
    held, kind = dtype(wider.inputs[0]), dtype(node.inputs[0])
    is_back = held is not None and held == dtype(node.outputs[0])
    return wider.inputs[0] if is_back and kind in _HELD_BY.get(held or "", ()) else None


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
    proto = NodeProto()
    proto.CopyFrom(reader.proto)
    kept = [stored for stored in proto.attribute if stored.name not in changes]
    made = [helper.make_attribute(name, value) for name, value in changes.items()]
    copies = NodeProto(attribute=[*kept, *made])
    del proto.attribute[:]
    proto.attribute.extend(copies.attribute)
    return reader, proto


def _pads(model: Model, graph: Graph, node: Node) -> list[int] | None:
    """What a Pad adds, begins before ends along all axes; None where that is not known or not zeros."""
    if node.attribute("value") or any(node.inputs[3:]):
        return None
    for value in node.inputs[2:3]:
        filled = graph.stored(value) if value else None
        if value and (filled is None or math.prod(filled.dims) != 1 or np.any(model.array(filled))):
            return None
    written = node.attribute("pads") or node.attribute("paddings")
    if written is not None:
        return [int(side) for side in written]
    stored = graph.stored(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if stored is None else [int(side) for side in model.array(stored).ravel()]
