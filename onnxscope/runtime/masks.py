"""Infinities that are there by design: masks, what fills a Where, what is added before a Softmax.

mask of 0 and -inf ----.
scores --------------- Add -> Softmax          the mask, and the value in between, are infinite by design
Where(keep, scores, -inf) -> Softmax           so are the constant and what leaves the Where
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import Model
from onnxscope.numerics.blocks import widened

__all__ = ["Masks", "find_masks"]

Place = tuple[tuple[Step, ...], str]
Readers = Sequence[tuple[Graph, Node]]

_MOVING = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Slice"),
        *("Gather", "GatherElements", "GatherND", "Split", "Concat", "Trilu", "Dropout"),
    }
)
"""Operators that hand elements on."""
_ADDING = frozenset({"Add", "Sub", "Sum"})
_KEEPING = _MOVING | _ADDING | {"Mul", "Div", "Neg", "LogSoftmax", "Where", "Pad", "ScatterND", "ScatterElements"}
"""Operators behind which an infinity is still the one that came in."""
_FILLS = {"Where": (1, 2), "Pad": (2,), "Clip": (1, 2), "Max": (0, 1), "Min": (0, 1), "ScatterElements": (2,)}
"""Operands that are fills or limits."""
_TAKING = _KEEPING | _FILLS.keys()
_NORMALIZING = frozenset({"Softmax", "LogSoftmax"})
_LARGE = 65505.0  # more than half precision holds
_LARGEST_BYTES = 64 << 20  # of a mask
_MAX_STEPS = 12  # from a mask to its Softmax


@dataclass(frozen=True)
class Masks:
    """Where infinities are meant.

    Attributes:
        constants: Graph and name of stored tensors.
        values: Of what is computed from them, as far as an infinity comes through unchanged.
        large: Stored tensors that mask with large numbers, such as -3.4e38, in place of infinities.
    """

    constants: frozenset[Place]
    values: frozenset[Place]
    large: frozenset[Place] = frozenset()


def find_masks(model: Model) -> Masks:
    """Find the infinities of a model that are there by design.

    Only constants that something other than a layer reads are looked at. They count as masks where they hold nothing
    but zeros and infinities of one sign, or are read as a fill, a limit, or what is added before a Softmax; none that
    holds a NaN does.
    """
    constants: set[Place] = set()
    values: set[Place] = set()
    large: set[Place] = set()
    for graph in model.graphs.values():
        for name, tensor in _candidates(graph):
            readers = [(around, node) for around in _graphs_in(model, graph) for node in around.readers.get(name, ())]
            if not _may_mask(readers):
                continue
            if _is_infinite(model, tensor) and _is_mask(model, name, tensor, readers):
                constants.add((graph.path, name))
            elif _is_large(model, tensor) and _is_mask(model, name, tensor, readers):
                large.add((graph.path, name))
    for graph in model.graphs.values():
        for node in graph.nodes:
            is_filled = node.is_standard and node.op_type == "ConstantOfShape" and _fills_with_infinity(model, node)
            passes = node.is_standard and node.op_type in _KEEPING
            sources = [_place(graph, name) for name in node.inputs if name] if passes else []
            if is_filled or any(source in constants or source in values for source in sources):
                values |= {(graph.path, output) for output in node.outputs if output}
    return Masks(frozenset(constants), frozenset(values), frozenset(large))


def _candidates(graph: Graph) -> Iterator[tuple[str, TensorProto]]:
    yield from graph.initializers.items()
    for node in graph.nodes:
        tensor = graph.stored(node.outputs[0]) if node.op_type == "Constant" and node.outputs else None
        if tensor is not None:
            yield node.outputs[0], tensor


def _graphs_in(model: Model, graph: Graph) -> Iterator[Graph]:
    """A graph and the bodies in it, which see its values."""
    depth = len(graph.path)
    return (inner for inner in model.graphs.values() if inner.path[:depth] == graph.path)


def _may_mask(readers: Readers) -> bool:
    """Whether a constant is read by what takes masks and by no layer, whose weights need not be looked at."""
    if any(node.operator.cost is not None for _, node in readers):
        return False
    return any(node.is_standard and node.op_type in _TAKING for _, node in readers)


def _is_infinite(model: Model, tensor: TensorProto) -> bool:
    """Whether a stored tensor holds infinities and no NaN."""
    values = _numbers(model, tensor)
    return values is not None and bool(np.isinf(values).any() and not np.isnan(values).any())


def _is_large(model: Model, tensor: TensorProto) -> bool:
    """Whether a stored tensor holds one negative number beyond half precision, and zeros at most beside it."""
    values = _numbers(model, tensor)
    if values is None or not values.size or not np.isfinite(values).all() or values.min() > -_LARGE:
        return False
    return set(np.unique(values).tolist()) <= {0.0, float(values.min())}


def _numbers(model: Model, tensor: TensorProto) -> np.ndarray[Any, Any] | None:
    """A stored tensor's real numbers; None where it has none, or too many for a mask."""
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return None
    if model.storage.stored_bytes(tensor) > _LARGEST_BYTES:
        return None
    return widened(model.array(tensor))


def _is_mask(model: Model, name: str, tensor: TensorProto, readers: Readers) -> bool:
    values = widened(model.array(tensor))
    if set(np.unique(values).tolist()) in ({0.0, -np.inf}, {0.0, np.inf}):
        return True
    return any(_fills(node, name) or _is_added_before_softmax(graph, node) for graph, node in readers)


def _fills(node: Node, name: str) -> bool:
    return any(node.inputs[place : place + 1] == (name,) for place in _FILLS.get(node.op_type, ()))


def _is_added_before_softmax(graph: Graph, node: Node) -> bool:
    """Whether a node adds, and a Softmax follows behind nothing but what moves, adds and scales."""
    waiting, seen, adds = [node], {node}, False
    for _ in range(_MAX_STEPS):
        following: list[Node] = []
        for reader in waiting:
            if reader.op_type in _NORMALIZING:
                return adds
            if reader.op_type not in _KEEPING:
                continue
            adds = adds or reader.op_type in _ADDING
            following += [more for output in reader.outputs for more in graph.readers.get(output, ())]
        waiting = [reader for reader in following if reader not in seen]
        seen.update(waiting)
    return False


def _fills_with_infinity(model: Model, node: Node) -> bool:
    value = node.attribute("value")
    return isinstance(value, TensorProto) and _is_infinite(model, value)


def _place(graph: Graph, name: str) -> Place:
    """Where a visible name stands: in this graph or in the one around it that has it."""
    around: Graph | None = graph
    while around is not None:
        if name in around.producers or name in around.initializers or name in around.inputs:
            return around.path, name
        around = around.parent
    return (), name
