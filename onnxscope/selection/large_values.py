"""Values that would not fit into memory, as far as arithmetic tells without a run: `refuse_large_values`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from weakref import WeakSet

import numpy as np
import onnx
from onnx import TensorProto

from onnxscope.base.limits import allowed_memory_bytes
from onnxscope.base.text import bytes_text, label
from onnxscope.errors import RunError
from onnxscope.model.graphs import Graph, Node, ValueType
from onnxscope.model.loading import Model

__all__ = ["refuse_large_values"]

_SUSPICIOUS = 1 << 20  # numbers that a value may have, by what is stored, before types are inferred
_MOST_READ = 64  # numbers of an operand that says sizes
_SIZED = {"ConstantOfShape": 0, "Expand": 1, "OneHot": 1, "Pad": 1}  # whose size an operand tells, and which one
_EXACT = ("ConstantOfShape", "Expand", "Range")  # the result is at least as large as is stated
_SCALED = {"Resize": (2, 3), "Tile": (1,), "Upsample": (1,)}  # how many times as large operands make it
_SCALING = ("output_padding", "output_shape", "pads", "paddings", "repeats", "scales", "shape", "strides")
_USUAL = 16  # of a stride or a padding
_OUTER = 1 << 14
_checked: WeakSet[Model] = WeakSet()


def refuse_large_values(model: Model) -> None:
    """Refuse a model one of whose values would take more memory than there may be used.

    Types are inferred, which takes a moment, only where stored numbers say that something may be large.
    What a run alone can know is left to the limits of the process.

    Raises:
        RunError: The first such value, by its node and its size.
    """
    if model in _checked:
        return
    allowed = allowed_memory_bytes()
    if allowed is not None and _growth(model) >= _SUSPICIOUS:
        for path, graph in model.graphs.items():
            types = model.types.get(path, {})
            for node in graph.nodes:
                size = _least_bytes(graph, node, types)
                if size > allowed:
                    raise _refusal(model, node, size, allowed)
    _checked.add(model)


def _least_bytes(graph: Graph, node: Node, types: Mapping[str, ValueType]) -> int:
    """What the largest result of a node takes at least."""
    size = max((_bytes(types[value]) for value in node.outputs if value in types), default=0)
    if node.op_type in _EXACT:  # also where types could not be inferred, as in bodies that read constants
        size = max(size, int(min(_stated_size(graph, node), 1e30)))
    return size


def _refusal(model: Model, node: Node, size: int, allowed: int) -> RunError:
    return RunError(
        f"node '{label(node.label)}' ({label(node.op_type)}) would make {bytes_text(size)}, more than the "
        f"{bytes_text(allowed)} of memory that may be used: {model.name}",
        hint="`--memory-limit` allows more",
    )


def _bytes(known: ValueType) -> int:
    """What a value takes at least: a size that is not known counts as 1."""
    if known.shape is None:
        return 0
    try:
        itemsize = np.dtype(known.dtype).itemsize
    except TypeError:  # strings, numbers of a few bits
        itemsize = 1
    return math.prod(side for side in known.shape if isinstance(side, int)) * itemsize


def _growth(model: Model) -> float:
    """How many numbers a value may have because of what is stored, roughly: the largest size, times all that scales."""
    largest, scale = 1.0, 1.0
    for graph in model.graphs.values():
        for node in graph.nodes:
            largest = max(largest, _stated_size(graph, node))
            scale = min(scale * _scale(graph, node), 1e300)
    return largest * scale


def _stated_size(graph: Graph, node: Node) -> float:
    """How many numbers stored operands say that a result has, 1 where they do not."""
    if node.op_type in _SIZED:
        return math.prod(max(abs(number), 1.0) for number in _stored(graph, node, _SIZED[node.op_type]))
    if node.op_type == "Range":
        ends = [next(iter(_stored(graph, node, place)), None) for place in range(3)]
        start, limit, step = ends
        return abs((limit - start) / step) if None not in ends and step else 1.0  # type: ignore[operator]
    if node.op_type == "EyeLike":
        return _SUSPICIOUS if any(_outer(graph, value) > 1 for value in node.inputs) else 1.0
    return 1.0


def _scale(graph: Graph, node: Node) -> float:
    """How many times as large as what a node reads its result may be."""
    if node.op_type in _SCALED:
        numbers = (number for place in _SCALED[node.op_type] for number in _stored(graph, node, place))
        return math.prod(max(abs(number), 1.0) for number in numbers)
    if node.op_type == "Concat":
        return len(node.inputs) / len(set(node.inputs)) if node.inputs else 1.0
    attributes = (
        max(abs(number) / _USUAL, 1.0)
        for stored in node.proto.attribute
        if stored.name in _SCALING
        for number in (*stored.ints, *stored.floats)
    )
    return math.prod((*attributes, *(_outer(graph, value) for value in node.inputs)))


def _stored(graph: Graph, node: Node, place: int) -> list[float]:
    """The numbers of a stored operand, where it may be one that says sizes."""
    tensor = graph.stored(node.inputs[place]) if place < len(node.inputs) and node.inputs[place] else None
    if tensor is None or math.prod(tensor.dims) > _MOST_READ or tensor.data_type == TensorProto.STRING:
        return []
    if tensor.data_location == TensorProto.EXTERNAL:  # nobody stores sizes there; it may be anything
        return [float(_SUSPICIOUS)]
    return [float(number) for number in onnx.numpy_helper.to_array(tensor).ravel().astype(np.float64)]


def _outer(graph: Graph, value: str) -> float:
    """What a stored vector that stands across others makes of them: [n, 1] and [1, n] together have n times n."""
    tensor = graph.stored(value) if value else None
    if tensor is None or len(tensor.dims) < 2 or 1 not in tensor.dims:
        return 1.0
    count = math.prod(tensor.dims)
    return float(count) if count >= _OUTER and max(tensor.dims) == count else 1.0
