"""Values of half precision that hold numbers which their type cannot: what a CPU hides.

A CPU computes most of float16 in float32, between Casts that onnxruntime adds, and a number beyond 65,504 lives on as
long as nothing rounds it. On hardware that computes in float16 it is infinite. So the largest magnitude of every such
value leaves the graph, as it was computed:

    v -> Abs -> Cast to float32 -> (Where: infinities by design are 0) -> ReduceMax

onnxruntime drops a Cast behind one of its own, which is what makes the numbers visible that were never rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from onnx import ModelProto, TensorProto

from onnxscope.base.text import format_number, printable
from onnxscope.errors import RunError
from onnxscope.model.graphs import Node, ValueType, walk_graphs
from onnxscope.model.loading import Model
from onnxscope.runtime.masks import find_masks
from onnxscope.runtime.nodes import HALF_TYPES, GraphWriter, opset_of

__all__ = ["Magnitudes", "Unfit", "append_magnitudes", "merged_unfit", "open_watched", "unfit_sentence"]

_Session = TypeVar("_Session")

_FIRST_BEYOND: Mapping[str, float] = {"float16": 65520.0, "bfloat16": float.fromhex("0x1.ffp127")}
"""The smallest magnitude that rounds to infinity: half a step above the largest number."""

_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_WHERE_OPSET, _ISINF_OPSET = 9, 10


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """A value that its element type cannot hold.

    Attributes:
        value: Its name.
        node: The node that makes it.
        layer: Its layer, as the source framework called it.
        dtype: `float16` or `bfloat16`.
        position: The node's place in execution order.
        largest: The largest magnitude in it, as it was computed; None where that is infinite already.
    """

    value: str
    node: str
    layer: str
    dtype: str
    position: int
    largest: float | None

    def to_dict(self) -> dict[str, Any]:
        """The record that results carry."""
        return asdict(self)


class Magnitudes:
    """Scalar outputs of a tapped model, one for each value of half precision.

    Attributes:
        outputs: Their names, none for a model without such values.
    """

    def __init__(self, model: Model, nodes: Mapping[str, tuple[Node, str, str]]) -> None:
        """Take the node, the value and the element type behind each output."""
        self._model = model
        self._nodes = nodes
        self.outputs = tuple(nodes)

    def unfit(self, answers: Mapping[str, Any], feeds: Iterable[Any]) -> tuple[Unfit, ...]:
        """Return the values that do not fit their type, in execution order.

        Args:
            answers: Of the session, by output.
            feeds: What the model was fed: where that is infinite, infinities behind it tell nothing.
        """
        given = any(_is_infinite(array) for array in feeds)
        values = []
        for output, (node, value, dtype) in self._nodes.items():
            largest = float(np.asarray(answers[output]).reshape(()))
            if largest >= _FIRST_BEYOND[dtype] and not (given and np.isinf(largest)):
                values.append(
                    Unfit(
                        value=value,
                        node=node.label,
                        layer=self._model.names.layers[node],
                        dtype=dtype,
                        position=self._model.main.position(node),
                        largest=largest if np.isfinite(largest) else None,
                    )
                )
        return tuple(values)


def append_magnitudes(model: Model, proto: ModelProto, prefix: str) -> Magnitudes:
    """Append a scalar output for every value of half precision in the main graph that is no constant.

    Args:
        model: Who is run; its types are inferred where it holds half precision and does not declare every one.
        proto: Its tapped copy, which is changed.
        prefix: That no name of the copy starts with.
    """
    masked = None
    nodes: dict[str, tuple[Node, str, str]] = {}
    writer = GraphWriter(proto, f"{prefix}magnitude_")
    for node, value, dtype in _half_values(model):
        masked = find_masks(model).values if masked is None else masked
        is_masked = ((), value) in masked
        if is_masked and opset_of(proto) < max(_ISINF_OPSET, _WHERE_OPSET):
            continue
        size = _magnitudes(writer, value, dtype)
        if is_masked:
            zero = writer.array(np.zeros((), np.float32))
            size = writer.node("Where", [writer.node("IsInf", [size]), zero, size])
        largest = writer.node("ReduceMax", [size], keepdims=0)  # -inf for an empty value
        writer.output(largest)
        nodes[largest] = node, value, dtype
    return Magnitudes(model, nodes)


def open_watched(
    model: Model, proto: ModelProto, prefix: str, opened: Callable[[ModelProto], _Session]
) -> tuple[_Session, Magnitudes]:
    """Open a session that also gives the largest magnitudes of half precision, where there is a kernel for each.

    Args:
        model: Who is run.
        proto: Its tapped copy, which stays as it is.
        prefix: That no name of the copy starts with.
        opened: Opens a session over a copy.

    Raises:
        RunError: onnxruntime refuses the copy.
    """
    none = Magnitudes(model, {})
    if next(_half_values(model), None) is None:
        return opened(proto), none
    copy = ModelProto()
    copy.CopyFrom(proto)
    magnitudes = append_magnitudes(model, copy, prefix)
    try:
        return opened(copy), magnitudes
    except RunError:
        return opened(proto), none


def merged_unfit(left: Sequence[Unfit], right: Sequence[Unfit]) -> tuple[Unfit, ...]:
    """Return the values of both sides in execution order, each with the larger magnitude."""
    values: dict[str, Unfit] = {}
    for unfit in (*left, *right):
        known = values.get(unfit.value)
        if known is None or _size(unfit) > _size(known):
            values[unfit.value] = unfit
    return tuple(sorted(values.values(), key=lambda unfit: (unfit.position, unfit.value)))


def unfit_sentence(values: Sequence[Unfit]) -> str:
    """Say how many values do not fit their type, and which is the first."""
    first = values[0]
    reaches = "is infinite" if first.largest is None else f"reaches {format_number(first.largest)}"
    counted = "1 value does" if len(values) == 1 else f"{len(values):,} values do"
    where = f"the first {printable(first.node)} ({reaches})"
    return f"computed in float32 here; {counted} not fit {first.dtype}, {where}"


def _magnitudes(writer: GraphWriter, value: str, dtype: str) -> str:
    """Every element's magnitude in float32.

    A Cast right behind a value would have onnxruntime drop other Casts than it does without one, so that the rest of
    the graph computes other numbers. Behind an Abs it does not, which the CPU has for float16 in float32 alone.
    """
    if dtype == "float16":
        return writer.cast(writer.node("Abs", [value]), TensorProto.FLOAT)
    return writer.node("Abs", [writer.cast(value, TensorProto.FLOAT)])


def _half_values(model: Model) -> Iterator[tuple[Node, str, str]]:
    if not _mentions_half(model.proto):
        return
    main = model.main
    nodes = [node for node in main.nodes if any(output and output not in main.constants for output in node.outputs)]
    outputs = [(node, output) for node in nodes for output in node.outputs if output]
    types: Mapping[str, ValueType] = main.types
    if any(output not in types for _, output in outputs):
        types = {**model.types.get((), {}), **types}
    for node, output in outputs:
        declared = types.get(output)
        if declared is not None and declared.kind == "tensor" and declared.dtype in HALF_TYPES:
            yield node, output, str(declared.dtype)


def _mentions_half(proto: ModelProto) -> bool:
    """Whether half precision comes in, is stored, or is cast to; nothing else makes it."""
    for graph in walk_graphs(proto.graph):
        if any(tensor.data_type in _HALF for tensor in graph.initializer):
            return True
        declared = (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info))
        if any(elem_type in _HALF for elem_type in declared):
            return True
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in _HALF:
                    return True
                if attribute.HasField("t") and attribute.t.data_type in _HALF:
                    return True
    return False


def _is_infinite(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fV" and bool(np.isinf(array.astype(np.float32)).any())


def _size(unfit: Unfit) -> float:
    return float("inf") if unfit.largest is None else unfit.largest
