"""Runs that tell whether a model takes what it would be fed, and which node refuses it: of what shapes, how far off.

A copy of the model runs without optimization, its nodes named by number, so that onnxruntime's message names one. What
the refused node reads is computed apart, for other sizes too, and its misfit is a number: below 0 an axis is too short,
above 0 too long, 0 where they fit.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from onnxscope.base.text import label
from onnxscope.errors import InputError, RunError
from onnxscope.inputs.array_samples import ArraySamples
from onnxscope.inputs.arrays import element_type
from onnxscope.inputs.layouts import ImageLayout
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, open_session

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["Refusal", "TrialRuns", "image_multiple", "image_size", "refusal_of", "refuse_conflict"]

Array = NDArray[Any]
_Shape = tuple[int, ...]
_Misfit = Callable[[Node, Sequence[_Shape], Sequence[Array | None]], int | None]

_TRIED = 128  # a side that all of these divide
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
_LINES = (48, 32, 64)  # how high a line of writing is to what reads it
_SQUARES = (28, 32, 64, 96, 112, 128, 160, 192, 224, 256, 299, 320, 384, 416, 448, 512, 640)
_NUMBERED = re.compile(r"@(\d+)@")


@dataclass(frozen=True)
class Refusal:
    """A run that came to its end.

    Attributes:
        rank: Place of the node in execution order, and of one inside a body behind its owner; later is further.
        called: The node's operator and name, for messages.
        node: The node, None inside a body.
        reason: What onnxruntime says.
    """

    rank: tuple[int, int]
    called: str
    node: Node | None
    reason: str


class TrialRuns:
    """Runs of one model on what it might be fed."""

    def __init__(self, model: Model) -> None:
        """Open the session.

        Raises:
            RunError: onnxruntime refuses the model itself.
        """
        self._model = model
        self._numbered: list[tuple[tuple[int, int], str, Node | None]] = []
        proto = ModelProto()
        proto.CopyFrom(model.proto)
        for stored in proto.graph.node:
            node = next((model.main.producers[name] for name in stored.output if name), None)
            self._number(stored, -1 if node is None else model.main.position(node), node)
        self._session = open_session(model, proto, optimize=False)
        self._reading: dict[Node, tuple[Session, dict[str, str], dict[str, str]] | None] = {}

    def refusal(self, feeds: Mapping[str, Array]) -> Refusal | None:
        """Run once; None where the model takes it."""
        try:
            self._session.run(feeds)
        except RunError as error:
            numbers = _NUMBERED.findall(str(error))
            rank, called, node = self._numbered[int(numbers[-1])] if numbers else ((-1, 0), "onnxruntime", None)
            return Refusal(rank, called, node, _said(str(error)))
        return None

    def misfit(self, node: Node, feeds: Mapping[str, Array]) -> int | None:
        """How far what a node reads is from what it takes; None where that is not known, or it is not reached."""
        misfit = _MISFITS.get(node.op_type)
        if misfit is None or not node.is_standard:
            return None
        if node not in self._reading:
            self._reading[node] = self._open(node)
        reading = self._reading[node]
        if reading is None:
            return None
        session, shapes, values = reading
        try:
            found = session.run(feeds)
        except RunError:
            return None
        read, numbers = [], []
        for name in node.inputs:
            tensor = self._model.main.stored(name) if name else None
            if tensor is not None:
                read.append(tuple(tensor.dims))
            else:
                read.append(tuple(found[shapes[name]].tolist()) if name in shapes else ())
            numbers.append(found[values[name]] if name in values else None)
        try:
            return misfit(node, read, numbers)
        except (IndexError, TypeError, ValueError):  # a node that nobody can read
            return None

    def _number(self, stored: onnx.NodeProto, place: int, node: Node | None) -> None:
        called = f"{stored.op_type} '{label(stored.name)}'" if stored.name else stored.op_type
        stored.name = f"@{len(self._numbered)}@"
        self._numbered.append(((place, len(self._numbered)), called, node))
        for attribute in stored.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                for body in (attribute.g, *attribute.graphs):
                    for inner in body.node:
                        self._number(inner, place, None)

    def _open(self, node: Node) -> tuple[Session, dict[str, str], dict[str, str]] | None:
        """A session that computes what a node reads, with the outputs that tell shapes and those that tell numbers."""
        main = self._model.main
        needed = set(_needed(self._model, node))
        proto = ModelProto(ir_version=self._model.proto.ir_version)
        proto.opset_import.extend(self._model.proto.opset_import)
        graph: GraphProto = proto.graph
        graph.name = "operands"
        graph.input.extend(self._model.proto.graph.input)
        graph.initializer.extend(tensor for name, tensor in main.initializers.items() if name in needed)
        graph.node.extend(made.proto for made in main.nodes if any(name in needed for name in made.outputs if name))
        shapes, values = {}, {}
        for place, name in enumerate(node.inputs):
            if not name:
                continue
            if main.stored(name) is None and name not in shapes:
                shapes[name] = f"@shape{place}@"
                graph.node.append(onnx.helper.make_node("Shape", [name], [shapes[name]]))
                graph.output.append(onnx.helper.make_tensor_value_info(shapes[name], TensorProto.INT64, [None]))
            if (node.op_type, place) in _READ:
                values[name] = f"@value{place}@"
                graph.node.append(onnx.helper.make_node("Identity", [name], [values[name]]))
                graph.output.append(onnx.helper.make_tensor_value_info(values[name], TensorProto.INT64, [None]))
        try:
            return open_session(self._model, proto, optimize=False), shapes, values
        except RunError:
            return None


def image_multiple(spec: InputSpec, axes: ImageLayout) -> int:
    """Find out of what height and width are multiples, where a model leaves them open.

    A network that halves its picture five times and joins what it enlarges with what it had takes multiples of 32.

    Args:
        spec: The model's only input; its model is run on pictures of 129 up to 256 pixels a side, all zeros.
        axes: Where they are in its shape.

    Returns:
        1 where the model takes any, or nobody knows; 0 where it takes none of these.
    """
    sizes = [(_TRIED + multiple, _TRIED + multiple) for multiple in _MULTIPLES]
    found = _first_to_run(spec, axes, sizes)
    return 1 if found is None else _MULTIPLES[sizes.index(found)] if found in sizes else 0


def image_size(spec: InputSpec, axes: ImageLayout) -> tuple[int, int] | None:
    """Find a height and a width, as networks have them, on which a model runs that leaves them open.

    Args:
        spec: As for `image_multiple`.
        axes: The same.

    Returns:
        None where none does.
    """
    squares = [(side, side) for side in _SQUARES]
    return _first_to_run(spec, axes, [*((height, 320) for height in _LINES), *squares]) or None


def _first_to_run(
    spec: InputSpec, axes: ImageLayout, sizes: Sequence[tuple[int, int]]
) -> tuple[int, int] | tuple[()] | None:
    """The first height and width of pictures on which a model runs, nothing for none, None where nobody knows."""
    model = spec.model
    if not isinstance(model, Model) or len(model.inputs) != 1:
        return None
    try:
        trials = TrialRuns(model)
    except RunError:
        return None  # the run itself says why
    for height, width in sizes:
        open_sizes = {axes.height_axis: height, axes.width_axis: width, axes.channel_axis: 3}
        shape = [dim if isinstance(dim, int) else open_sizes.get(axis, 1) for axis, dim in enumerate(spec.shape or ())]
        if trials.refusal({spec.name: np.zeros(shape, element_type(spec))}) is None:
            return height, width
    return ()


def refusal_of(specs: Sequence[InputSpec], feeds: Mapping[str, Array]) -> Refusal | None:
    """Who refuses to run on this; None where the model takes it, or nobody knows whose the inputs are."""
    model = next((spec.model for spec in specs if spec.model is not None), None)
    if not isinstance(model, Model):
        return None
    try:
        return TrialRuns(model).refusal(feeds)
    except RunError:
        return None  # the run itself says why


def refuse_conflict(samples: ArraySamples) -> None:
    """Refuse arrays that differ in a dimension of one name, where the model does not run on them either.

    Raises:
        InputError: Says which inputs, and who refuses.
    """
    shapes = samples.shapes
    sizes: dict[str, tuple[str, int]] = {}
    conflict = ""
    for spec in samples.specs:
        for dim, size in zip(spec.shape or (), shapes[spec.name], strict=False):
            name, first = sizes.setdefault(dim, (spec.name, size)) if isinstance(dim, str) and dim else ("", size)
            if first != size and not conflict:
                both = f"'{label(name)}' has {first} and '{label(spec.name)}' {size}"
                conflict = f"inputs differ in the dimension '{label(str(dim))}': {both}"
    model = next((spec.model for spec in samples.specs if spec.model is not None), None)
    if not conflict or not isinstance(model, Model):
        return
    try:
        refusal = TrialRuns(model).refusal(samples.as_one_sample().load(0)[0])
    except RunError:
        return  # the run itself says why
    if refusal is not None:
        raise InputError(f"{conflict}, which {refusal.called} refuses: {model.name}", hint="give both the same size")


def _needed(model: Model, node: Node) -> Iterator[str]:
    """Whatever the values that a node reads are computed from, and they themselves."""
    seen: set[str] = set()
    waiting = list(node.inputs)
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        yield name
        producer = model.main.producers.get(name)
        if producer is not None:
            waiting += (*producer.inputs, *producer.captured)


def _said(text: str) -> str:
    """What onnxruntime says of a refusal, without where it was."""
    reason = text.removeprefix("onnxruntime cannot run the model (").rpartition("): ")[0] or text
    return reason.rpartition("Status Message: ")[2].strip()


def _of_rows(node: Node, shapes: Sequence[_Shape], _values: Sequence[Array | None]) -> int | None:
    """A product: what is summed over has one length on both sides."""
    left, right = shapes[:2]
    if node.op_type == "Gemm":
        return left[0 if node.attribute("transA") else 1] - right[1 if node.attribute("transB") else 0]
    return left[-1] - right[-2 if len(right) > 1 else 0]


def _of_pairs(_node: Node, shapes: Sequence[_Shape], _values: Sequence[Array | None]) -> int | None:
    """Element by element: axes have one length, or length 1."""
    for left, right in itertools.pairwise(shapes):
        for a, b in zip(reversed(left), reversed(right), strict=False):
            if a != b and 1 not in (a, b):
                return a - b
    return 0


def _of_joined(node: Node, shapes: Sequence[_Shape], _values: Sequence[Array | None]) -> int | None:
    axis: int = node.attribute("axis") or 0
    for shape in shapes[1:]:
        for place, (a, b) in enumerate(zip(shapes[0], shape, strict=True)):
            if a != b and place != axis % len(shape):
                return a - b
    return 0


def _of_target(node: Node, shapes: Sequence[_Shape], values: Sequence[Array | None]) -> int | None:
    """A Reshape: as many elements as the target has, or a multiple where it leaves a side open."""
    if values[1] is None:
        return None
    keeps = not node.attribute("allowzero")
    sides = [shapes[0][place] if side == 0 and keeps else int(side) for place, side in enumerate(np.ravel(values[1]))]
    count, wanted = math.prod(shapes[0]), math.prod(side for side in sides if side != -1)
    if -1 in sides and wanted:
        return count - wanted * max(1, -(-count // wanted))
    return count - wanted


def _of_window(node: Node, shapes: Sequence[_Shape], _values: Sequence[Array | None]) -> int | None:
    """A convolution or a pool: the channels of its weight, and no window longer than what it slides over."""
    read = shapes[0]
    window: list[int] = list(node.attribute("kernel_shape") or shapes[1][2:])
    channels: int = shapes[1][1] * (node.attribute("group") or 1) if node.op_type == "Conv" else read[1]
    if read[1] != channels:
        return read[1] - channels
    pads: list[int] = list(node.attribute("pads") or [0] * (2 * len(window)))
    spread: list[int] = list(node.attribute("dilations") or [1] * len(window))
    return min(
        0,
        *(
            side + pads[place] + pads[place + len(window)] - (spread[place] * (window[place] - 1) + 1)
            for place, side in enumerate(read[2:])
        ),
    )


def _of_pads(node: Node, shapes: Sequence[_Shape], values: Sequence[Array | None]) -> int | None:
    """A reflection needs more than it pads."""
    if values[1] is None or node.attribute("mode") not in (b"reflect", "reflect"):
        return None
    pads: list[int] = np.ravel(values[1]).astype(int).tolist()
    sides = shapes[0]
    if len(pads) != 2 * len(sides):
        return None
    return min(0, *(side - 1 - max(pads[axis], pads[axis + len(sides)]) for axis, side in enumerate(sides)))


def _of_channels(_node: Node, shapes: Sequence[_Shape], _values: Sequence[Array | None]) -> int | None:
    return shapes[0][1] - shapes[1][0]


def _of_steps(_node: Node, shapes: Sequence[_Shape], _values: Sequence[Array | None]) -> int | None:
    return shapes[0][2] - shapes[1][2]


def _of_parts(node: Node, shapes: Sequence[_Shape], values: Sequence[Array | None]) -> int | None:
    parts = values[1] if len(values) > 1 and values[1] is not None else node.attribute("split")
    axis: int = node.attribute("axis") or 0
    return None if parts is None else shapes[0][axis] - int(np.sum(parts))


_PAIRS = ("Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal", "Less", "Greater", "And", "Or", "Max", "Min", "PRelu")
_MISFITS: Mapping[str, _Misfit] = {
    **dict.fromkeys(_PAIRS, _of_pairs),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool"), _of_window),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _of_steps),
    **dict.fromkeys(("Gemm", "MatMul"), _of_rows),
    "BatchNormalization": _of_channels,
    "Concat": _of_joined,
    "Pad": _of_pads,
    "Reshape": _of_target,
    "Split": _of_parts,
}
_READ = frozenset({("Reshape", 1), ("Pad", 1), ("Split", 1)})
"""Operands whose numbers say what fits."""
