"""Values of half precision that hold numbers which their type cannot: what a CPU hides.

A CPU computes most of float16 in float32, between Casts that onnxruntime adds, and a number beyond 65,504 lives on as
long as nothing rounds it. On hardware that computes in float16 it is infinite. So the largest magnitude of every such
value leaves the graph, as it was computed:

    v -> Abs -> Cast to float32 -> (Where: infinities by design are 0) -> ReduceMax

onnxruntime drops a Cast behind one of its own, which is what makes the numbers visible that were never rounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto

from onnxscope.base.text import format_number, printable
from onnxscope.errors import RunError
from onnxscope.model.graphs import Node, Step, ValueType, walk_graphs
from onnxscope.model.loading import Model
from onnxscope.runtime.masks import find_masks
from onnxscope.runtime.nodes import HALF_TYPES, GraphWriter, opset_of
from onnxscope.runtime.tap_outputs import body_at, lift

__all__ = ["Magnitudes", "Unfit", "append_magnitudes", "merged_unfit", "open_watched", "unfit_sentence"]

_Session = TypeVar("_Session")
_Made: TypeAlias = tuple[Node, str, str]  # a node, a value of it, and its element type

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
    """Scalar outputs of a tapped model, which tell the magnitude of every value of half precision.

    Attributes:
        outputs: Their names, none for a model without such values.
    """

    def __init__(self, model: Model, nodes: Mapping[str, Sequence[_Made]]) -> None:
        """Take what each output tells of: node, value and element type."""
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
        made = [(output, *one) for output, alike in self._nodes.items() for one in alike]
        for output, node, value, dtype in made:
            largest = float(np.max(answers[output], initial=-np.inf))  # of every run of a body, if any
            if largest >= _FIRST_BEYOND[dtype] and not (given and np.isinf(largest)):
                values.append(
                    Unfit(
                        value=value,
                        node=node.label,
                        layer=self._model.names.layers[node],
                        dtype=dtype,
                        position=self._position(node),
                        largest=largest if np.isfinite(largest) else None,
                    )
                )
        return tuple(sorted(values, key=lambda unfit: unfit.position))

    def _position(self, node: Node) -> int:
        """Of the node, or of the one of the main graph that it is inside of."""
        main = self._model.main
        if not node.path:
            return main.position(node)
        return main.position(next(owner for owner in main.nodes if owner.index == node.path[0].node_index))


def append_magnitudes(model: Model, proto: ModelProto, prefix: str, *, bodies: bool = True) -> Magnitudes:
    """Append scalar outputs for all values of half precision that are no constants.

    Of the main graph, a value that only has the numbers of another in another shape or order shares its output, and one
    that a bounded function gives always fits.

    Args:
        model: Who is run; its types are inferred where it holds half precision and does not declare every one.
        proto: Its tapped copy, which is changed.
        prefix: That no name of the copy starts with.
        bodies: Whether those inside bodies too, one number for each of their runs.
    """
    masked = None
    nodes: dict[str, list[_Made]] = {}
    inside: dict[tuple[tuple[Step, ...], str], _Made] = {}
    told: dict[str, str] = {}
    writer = GraphWriter(proto, f"{prefix}magnitude_")
    for node, value, dtype in _half_values(model):
        masked = find_masks(model).values if masked is None else masked
        is_masked = (node.path, value) in masked
        if node.path:
            if bodies and not is_masked:
                inside[node.path, _append_inside(body_at(proto, node.path), value, dtype, prefix)] = node, value, dtype
            continue
        source = _source(node)
        if not is_masked and source in told:
            told[value] = told[source]
            nodes[told[source]].append((node, value, dtype))
            continue
        if node.is_standard and node.operator.limits is not None:
            continue
        if is_masked and opset_of(proto) < max(_ISINF_OPSET, _WHERE_OPSET):
            continue
        size = _magnitudes(writer, value, dtype)
        if is_masked:
            zero = writer.array(np.zeros((), np.float32))
            size = writer.node("Where", [writer.node("IsInf", [size]), zero, size])
        largest = writer.node("ReduceMax", [size], keepdims=0)  # -inf for an empty value
        writer.output(largest)
        nodes[largest] = [(node, value, dtype)]
        if not is_masked:
            told[value] = largest
    lifted = lift(model, proto, [(path, name, TensorProto.FLOAT) for path, name in inside], f"{prefix}magnitude_of_")
    nodes |= {output: [inside[place]] for place, output in lifted.items()}
    return Magnitudes(model, nodes)


def _source(node: Node) -> str:
    """The value whose numbers a node hands on in its own type, empty for any other node."""
    hands_on = node.operator.passes_on in ("same", "permuted", "reshaped") and node.operator.training is None
    return node.inputs[0] if node.is_standard and hands_on and node.inputs else ""


def _append_inside(body: GraphProto, value: str, dtype: str, prefix: str) -> str:
    """Append the largest magnitude of a body's value to the body, and return its name."""
    names = [f"{prefix}magnitude_in_{len(body.node)}_{step}" for step in range(3)]
    steps: list[tuple[str, dict[str, Any]]] = [("Abs", {}), ("Cast", {"to": TensorProto.FLOAT})]
    if dtype != "float16":
        steps.reverse()
    for (kind, attributes), read, given in zip(
        [*steps, ("ReduceMax", {"keepdims": 0})], [value, *names], names, strict=False
    ):
        body.node.append(onnx.helper.make_node(kind, [read], [given], **attributes))
    return names[-1]


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
    for bodies in (True, False):
        copy = ModelProto()
        copy.CopyFrom(proto)
        magnitudes = append_magnitudes(model, copy, prefix, bodies=bodies)
        with contextlib.suppress(RunError):
            return opened(copy), magnitudes
    return opened(proto), none


def merged_unfit(left: Sequence[Unfit], right: Sequence[Unfit]) -> tuple[Unfit, ...]:
    """Return the values of both sides in execution order, each with the larger magnitude."""
    values: dict[tuple[str, str], Unfit] = {}
    for unfit in (*left, *right):
        key = unfit.node, unfit.value  # two bodies may use one name
        known = values.get(key)
        if known is None or _size(unfit) > _size(known):
            values[key] = unfit
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
    for path, graph in model.graphs.items():
        nodes = [
            node for node in graph.nodes if any(output and output not in graph.constants for output in node.outputs)
        ]
        outputs = [(node, output) for node in nodes for output in node.outputs if output]
        types: Mapping[str, ValueType] = graph.types
        if any(output not in types for _, output in outputs):
            types = {**model.types.get(path, {}), **types}
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
