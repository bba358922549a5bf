"""Axes, ranges and pads of a node as plain numbers: counted from the left, sorted, and none that follow from the shape.

`axis = -1` and `axis = 3` are one axis of four; `auto_pad` and the pads that it stands for are one padding. What the
shape alone tells stays as it is where the shape is not known. A row of numbers is stored where weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.structure.attributes import default_of, schema_of

__all__ = ["Places", "resolved"]

_END = (1 << 63) - 1
_FAR = (1 << 31) - 1  # what exporters write for the end, whatever its length
_POOLS = frozenset({"Conv", "AveragePool", "MaxPool", "LpPool"})
_LITERALS: Mapping[str, Any] = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


@dataclass
class Places:
    """What a node says in other words.

    Attributes:
        attributes: Values of attributes by name; None leaves one out.
        operands: Numbers of constant operands by position; None leaves one out.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    operands: dict[int, list[int] | int | None] = field(default_factory=dict)


def resolved(
    model: Model, graph: Graph, node: Node, shape: Callable[[str], Sequence[int | str | None] | None]
) -> list[NodeProto] | None:
    """Return a node in plain numbers, behind the constants that it then reads; None where it is already.

    Args:
        model: Whose node it is.
        graph: Where it stands.
        node: Of any operator.
        shape: Of a value of the graph, as far as it is known.
    """
    if not node.is_standard or not node.outputs:
        return None
    places = _Reader(model, graph, node, shape).places()
    if not places.attributes and not places.operands:
        return None
    written: list[NodeProto] = []
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    kept = [stored for stored in proto.attribute if stored.name not in places.attributes]
    made = [helper.make_attribute(name, value) for name, value in places.attributes.items() if value is not None]
    copies = NodeProto(attribute=[*kept, *made])
    del proto.attribute[:]
    proto.attribute.extend(copies.attribute)
    names = list(node.inputs)
    for position, numbers in places.operands.items():
        names += [""] * (position + 1 - len(names))
        names[position] = ""
        if numbers is not None:
            names[position] = f"{node.outputs[0]}/onnxscope:{position}"
            tensor = numpy_helper.from_array(np.array(numbers, np.int64))
            written.append(helper.make_node("Constant", [], [names[position]], value=tensor))
    while names and not names[-1]:
        names.pop()
    proto.input[:] = names
    return [*written, proto]


class _Reader:
    """Reads one node."""

    def __init__(
        self, model: Model, graph: Graph, node: Node, shape: Callable[[str], Sequence[int | str | None] | None]
    ) -> None:
        self._model = model
        self._graph = graph
        self._node = node
        self._shape = shape
        self._opset = model.opsets.get(node.domain or "ai.onnx") or 1

    def places(self) -> Places:
        """What of the node is said in other words."""
        op_type = self._node.op_type
        if op_type == "Constant":
            return self._literal()
        if op_type in _POOLS:
            return self._padding()
        if op_type in ("Squeeze", "Unsqueeze") or op_type.startswith("Reduce"):
            return self._axes()
        if op_type == "Slice":
            return self._range()
        if op_type == "Split":
            return self._pieces()
        if op_type == "Pad":
            return self._padded_axes()
        if op_type == "CumSum":
            return self._running()
        if op_type == "Transpose":
            return self._order()
        return self._axis()

    def _literal(self) -> Places:
        for name, kind in _LITERALS.items():
            value = self._node.attribute(name)
            if value is not None:
                return Places({name: None, "value": numpy_helper.from_array(np.array(value, kind))})
        return Places()

    def _axis(self) -> Places:
        """From the left, but for the default."""
        axis = self._node.attribute("axis")
        newest = schema_of(self._node.op_type, "")
        if not isinstance(axis, int) or newest is None or self._node.op_type in ("ConcatFromSequence", "Flatten"):
            return Places()
        default = default_of(newest, "axis")
        last = default if isinstance(default, int) and default < 0 else None
        rank = None if axis == last or (axis >= 0 and last is None) else self._rank()
        if rank is None:
            return Places()
        rank += self._node.op_type == "OneHot"
        found = axis + rank if axis < 0 else axis
        found = last if last is not None and found - rank == last else found
        return Places({"axis": found}) if found != axis else Places()

    def _order(self) -> Places:
        """Of a Transpose that names none: the other way round."""
        rank = None if self._node.attribute("perm") is not None else self._rank()
        return Places({"perm": self._node.axis_order(rank)}) if rank else Places()

    def _axes(self) -> Places:
        axes = self._numbers("axes", 1)
        op_type = self._node.op_type
        if axes is None:
            sides = self._shape(self._node.inputs[0]) if op_type == "Squeeze" and len(self._node.inputs) < 2 else None
            if sides is None or not all(isinstance(side, int) for side in sides):
                return Places()
            return self._with("axes", 1, [place for place, side in enumerate(sides) if side == 1])
        rank = self._rank() if min(axes, default=0) < 0 or op_type.startswith("Reduce") else 0
        if rank is None:
            found = axes if min(axes, default=0) < 0 else sorted(axes)
        else:
            whole = rank + (len(axes) if op_type == "Unsqueeze" else 0)
            found = sorted(axis + whole if axis < 0 else axis for axis in axes)
            empties = self._node.attribute("noop_with_empty_axes")
            if op_type.startswith("Reduce") and found == list(range(rank)) and rank and not empties:
                return self._with("axes", 1, None)
        return self._with("axes", 1, found) if found != axes else Places()

    def _range(self) -> Places:
        """Starts, ends, axes and steps of a Slice, one of each for each axis, without steps of 1."""
        starts, ends = self._numbers("starts", 1), self._numbers("ends", 2)
        rank, sides = self._rank(), self._shape(self._node.inputs[0])
        given = [self._numbers("axes", 3), self._numbers("steps", 4)]
        absent = [not (len(self._node.inputs) > place and self._node.inputs[place]) for place in (3, 4)]
        known = all(numbers is not None or missing for numbers, missing in zip(given, absent, strict=True))
        if starts is None or ends is None or not known:
            return Places()
        axes = given[0] if given[0] is not None else list(range(len(starts)))
        if rank is None and min(axes, default=0) < 0:
            return Places()
        steps = given[1] or [1] * len(starts)
        rows = []
        for axis, start, end, step in sorted(
            (axis + (rank or 0) if axis < 0 else axis, start, end, step)
            for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
        ):
            side = sides[axis] if sides is not None and 0 <= axis < len(sides) else None
            if isinstance(side, int):
                lowest = 0 if step > 0 else -1
                start, end = (
                    max(lowest, min(side if step > 0 else side - 1, place + side if place < 0 else place))
                    if place > -_FAR
                    else lowest
                    for place in (start, end)
                )
                if (step < 0 and end == -1) or (step > 0 and end == side):  # to where an unknown side ends, too
                    end = -_END if step < 0 else _END
            else:
                start, end = (_END if place >= _FAR else -_END if place <= -_FAR else place for place in (start, end))
            rows.append((start, end, axis, step))
        found = [list(column) for column in zip(*rows, strict=True)]
        if not found or [starts, ends, given[0], given[1]] == [*found[:3], None if set(steps) == {1} else found[3]]:
            return Places()
        if self._opset < 10:
            return Places({"starts": found[0], "ends": found[1], "axes": found[2]})
        rest = None if set(steps) == {1} else found[3]
        operands: dict[int, list[int] | int | None] = {1: found[0], 2: found[1], 3: found[2]}
        return Places(operands=operands | ({4: rest} if rest is not None or given[1] is not None else {}))

    def _pieces(self) -> Places:
        """Pieces of one length are no pieces to list."""
        places = self._axis()
        pieces = self._numbers("split", 1)
        if pieces is not None and len(set(pieces)) == 1 and len(pieces) == len(self._node.outputs):
            places.attributes |= self._with("split", 1, None).attributes
            places.operands |= self._with("split", 1, None).operands
            places.attributes |= {"num_outputs": len(pieces)} if self._opset >= 18 else {}
        return places

    def _padded_axes(self) -> Places:
        """Pads of all axes for those of some."""
        axes, pads, rank = self._numbers("axes", 3), self._numbers("pads", 1), self._rank()
        if axes is None or pads is None or rank is None or len(pads) != 2 * len(axes):
            return Places()
        whole = [0] * (2 * rank)
        for place, axis in enumerate(axes):
            whole[axis % rank] = pads[place]
            whole[axis % rank + rank] = pads[place + len(axes)]
        return Places(operands={1: whole, 3: None})

    def _running(self) -> Places:
        axis, rank = self._numbers("", 1), self._rank()
        return Places(operands={1: axis[0] + rank}) if axis and axis[0] < 0 and rank is not None else Places()

    def _padding(self) -> Places:
        node = self._node
        mode = node.attribute("auto_pad")
        if mode == b"VALID":
            return Places({"auto_pad": None, "pads": None})
        kernel = self._kernel()
        if mode not in (b"SAME_UPPER", b"SAME_LOWER") or kernel is None:
            return Places()
        strides = node.attribute("strides") or [1] * len(kernel)
        dilations = node.attribute("dilations") or [1] * len(kernel)
        sides = self._shape(node.inputs[0]) or [None] * (len(kernel) + 2)
        if len(sides) != len(kernel) + 2:
            return Places()
        begins, ends = [], []
        for side, width, stride, dilation in zip(sides[2:], kernel, strides, dilations, strict=True):
            if stride == 1:
                total = (width - 1) * dilation
            elif isinstance(side, int):
                total = max(0, (-(-side // stride) - 1) * stride + (width - 1) * dilation + 1 - side)
            else:
                return Places()
            less = total // 2
            begins.append(less if mode == b"SAME_UPPER" else total - less)
            ends.append(total - begins[-1])
        return Places({"auto_pad": None, "pads": [*begins, *ends]})

    def _kernel(self) -> list[int] | None:
        written = self._node.attribute("kernel_shape")
        if written is not None or self._node.op_type != "Conv":
            return None if written is None else list(written)
        sides = self._shape(self._node.inputs[1])
        if sides is None or not all(isinstance(side, int) for side in sides[2:]):
            return None
        return [side for side in sides[2:] if isinstance(side, int)]

    def _with(self, name: str, position: int, numbers: list[int] | None) -> Places:
        """Numbers where this operator set has them: as an attribute, or as an operand."""
        own = schema_of(self._node.op_type, "", self._opset)
        if own is not None and name in own.attributes:
            return Places({name: numbers})
        return Places(operands={position: numbers})

    def _numbers(self, name: str, position: int) -> list[int] | None:
        """Whole numbers in an attribute or in a stored operand."""
        written = self._node.attribute(name) if name else None
        if written is not None:
            return [int(number) for number in written] if isinstance(written, list) else None
        value = self._node.inputs[position] if position < len(self._node.inputs) else ""
        tensor = self._graph.stored(value) if value else None
        if tensor is None:
            return None
        numbers = self._model.array(tensor)
        return [int(number) for number in numbers.ravel()] if numbers.dtype.kind in "iu" else None

    def _rank(self) -> int | None:
        sides = self._shape(self._node.inputs[0]) if self._node.inputs else None
        return None if sides is None else len(sides)
