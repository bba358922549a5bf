"""What values held in one run of a whole model, as a part of it would be fed and would give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import ModelProto, TypeProto

from onnxscope.base.text import printable
from onnxscope.errors import InputError, RunError
from onnxscope.extracting.chosen_part import Part
from onnxscope.extracting.standalone import scope_of
from onnxscope.model.graphs import Graph, ValueType
from onnxscope.model.loading import Model
from onnxscope.runtime.session import open_session
from onnxscope.runtime.tap_outputs import was_not_executed
from onnxscope.runtime.tapped_runs import run_tapped
from onnxscope.selection.selectors import Place, tap_values

__all__ = ["TOLERANCES", "Recorded", "difference", "known_types", "record_values", "types_of"]

Recorded: TypeAlias = Any
"""An array, a list of arrays for a sequence, or None for an absent optional."""

TOLERANCES: Mapping[str, float] = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-9}
"""How far an output may be from what was recorded, in its largest magnitude: kernels differ from machine to machine."""
_ELSEWHERE = "`--from` and `--to` let the part begin and end elsewhere"
_REPEATING = ("Loop", "Scan")
_PACKED = ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")


def record_values(model: Model, part: Part, feeds: Mapping[str, Any], *, threads: int = 0) -> dict[str, Recorded]:
    """Run the whole model once and return what reached a part, and what left it.

    Of what the body of a Loop or a Scan computes in every round, the first round counts.

    Args:
        model: It is not changed.
        part: Which values.
        feeds: What the model is fed.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        By name; arrays belong to the caller.

    Raises:
        InputError: The body that holds the part did not run on this input.
        RunError: onnxruntime fails, or a value cannot be handed out.
    """
    graph = model.graphs[part.path]
    places: dict[str, Place] = {}
    values: dict[str, Recorded] = {}
    for name in (*part.inputs, *part.outputs):
        scope = scope_of(graph, name)
        if not scope.path and name in feeds:
            values[name] = feeds[name]
        else:
            places[name] = (scope.path, name)
    if places:
        values |= _observed(model, places, feeds, threads)
    return {name: values[name] for name in (*part.inputs, *part.outputs)}


def _observed(model: Model, places: Mapping[str, Place], feeds: Mapping[str, Any], threads: int) -> dict[str, Recorded]:
    taps = tap_values(model, places.values())
    named = {place: replace(tap, name=str(number), scale=None) for number, (place, tap) in enumerate(taps.items())}
    tensors = {place: tap for place, tap in named.items() if place[0] or _is_number(model, place)}
    answers, tapped = run_tapped(model, list(tensors.values()), lambda session: session.run(feeds), threads=threads)
    reasons = {missed.name: missed.reason for missed in tapped.unreachable}
    others = [value for path, value in named if (path, value) not in tensors]
    if others:
        answers = {**answers, **_of_any_kind(model, others, feeds, threads)}
    values = {}
    for name, place in places.items():
        tap = named[place]
        if tap.name in reasons:
            hint = "`--select` takes the node around the body as a whole" if place[0] else None
            raise RunError(f"cannot record {printable(name)!r} ({reasons[tap.name]}): {model.name}", hint=hint)
        held = answers[name] if place not in tensors else answers[tapped.outputs[tap.name]]
        values[name] = _of_first_round(model, place, held)
    return values


def _is_number(model: Model, place: Place) -> bool:
    declared = model.graphs[place[0]].types.get(place[1])  # a tap of another kind is refused where it is declared
    return declared is None or (declared.kind == "tensor" and declared.dtype != "str")


def _of_any_kind(model: Model, values: Sequence[str], feeds: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Values of the main graph that are no arrays of numbers."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values if value not in model.main.outputs)
    return open_session(model, proto, threads=threads).run(feeds, values)


def _of_first_round(model: Model, place: Place, held: Any) -> Recorded:
    path, value = place
    if not path or not isinstance(held, np.ndarray):
        return held
    where = f"{printable(value)!r} was not computed on this input: {model.name}"
    if was_not_executed(held.shape):
        raise InputError(where, hint=f"the {path[-1].attribute} that holds it was not taken; feed what takes it")
    rounds = sum(model.graphs[path[: depth + 1]].owner_op in _REPEATING for depth in range(len(path)))
    if 0 in held.shape[:rounds]:
        raise InputError(where, hint="the loop that holds it made no round; feed what makes one")
    return np.array(held[(0,) * rounds])


def types_of(model: Model, part: Part, values: Mapping[str, Recorded]) -> dict[str, TypeProto]:
    """Return the types of a part's inputs and outputs: as the model declares them where that holds, else as recorded.

    Raises:
        InputError: A value is of a kind that no file of onnx's test data holds.
    """
    graph = model.graphs[part.path]
    types = {}
    for name in (*part.inputs, *part.outputs):
        value, declared = values[name], scope_of(graph, name).types.get(name)
        where = f"{printable(name)!r}: {model.name}"
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value)):
            raise InputError(f"held a map, which onnx's test data cannot hold: {where}", hint=_ELSEWHERE)
        stored = None if declared is not None and declared.kind == "tensor" else _declared(model, graph, name)
        types[name] = stored or _recorded_type(value, declared, where)
        if stored is None and _is_optional(model, graph, name):
            types[name] = onnx.helper.make_optional_type_proto(types[name])
    return types


def known_types(model: Model, part: Part) -> dict[str, TypeProto]:
    """Return the types of a part's inputs as they are declared or can be inferred.

    Raises:
        InputError: The type of one is not known.
    """
    graph = model.graphs[part.path]
    types = {}
    for name in part.inputs:
        known = model.type_of(graph, name)
        if known is None or not known.elem_type:
            raise InputError(
                f"nothing tells the type of {printable(name)!r}, so no random numbers: {model.name}",
                hint="`-i` names what the model is fed; the values that reach the part are recorded then",
            )
        types[name] = onnx.helper.make_tensor_type_proto(known.elem_type, known.shape)
    return types


def difference(answer: Recorded, recorded: Recorded) -> tuple[bool, float | None]:
    """Return whether an output is what was recorded, and how far it is from it.

    Returns:
        The second is the largest absolute difference of finite numbers, None where there is none: nothing but numbers
        of one shape can be told apart by more than being equal.
    """
    if isinstance(recorded, list) and isinstance(answer, list):
        pairs = [difference(one, other) for one, other in zip(answer, recorded, strict=False)]
        far = [distance for _, distance in pairs if distance is not None]
        return len(answer) == len(recorded) and all(same for same, _ in pairs), max(far, default=None)
    if recorded is None or answer is None:
        return recorded is answer, None
    answer, recorded = np.asarray(answer), np.asarray(recorded)
    if answer.shape != recorded.shape or answer.dtype != recorded.dtype or answer.dtype.kind in "OUS":
        return bool(np.array_equal(answer, recorded)), None
    tolerance = TOLERANCES.get(recorded.dtype.name, 0.0)
    kind = np.complex128 if recorded.dtype.kind == "c" else np.float64
    exact, given = recorded.astype(kind), answer.astype(kind)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(given - exact)
    scale = np.max(np.abs(exact), where=np.isfinite(exact), initial=0.0)
    same = np.allclose(given, exact, rtol=0.0, atol=tolerance * float(scale), equal_nan=True)
    return bool(same), float(np.max(apart, where=np.isfinite(apart), initial=0.0))


def _recorded_type(value: Recorded, declared: ValueType | None, where: str) -> TypeProto:
    if isinstance(value, np.ndarray | np.generic):
        return _type_of_array(np.asarray(value), declared)
    if isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
        return onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(_elem_type(value[0]), None))
    held = (
        "nothing, of a type that the model does not tell" if not value else "a map, which onnx's test data cannot hold"
    )
    raise InputError(f"held {held}: {where}", hint="`--from` and `--to` let the part begin and end elsewhere")


def _is_optional(model: Model, graph: Graph, name: str) -> bool:
    """Whether a value may be absent; where no operator is about that, nothing is inferred for it."""
    if not any(node.op_type.startswith("Optional") for inner in model.graphs.values() for node in inner.nodes):
        return False
    known = model.type_of(graph, name)
    return known is not None and known.kind == "optional"


def _type_of_array(array: np.ndarray[Any, Any], declared: ValueType | None) -> TypeProto:
    if array.dtype.name in _PACKED:
        raise InputError(
            f"values of {array.dtype.name} reach the part or leave it, which nothing but a model holds", hint=_ELSEWHERE
        )
    shape: list[int | str | None] = list(array.shape)
    if declared is not None and declared.shape is not None and len(declared.shape) == array.ndim:
        shape = [
            side if isinstance(side, str) else length for side, length in zip(declared.shape, array.shape, strict=True)
        ]
    return onnx.helper.make_tensor_type_proto(_elem_type(array), shape)


def _elem_type(array: np.ndarray[Any, Any]) -> int:
    if array.dtype.kind in "OUS":
        return int(onnx.TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _declared(model: Model, graph: Graph, name: str) -> TypeProto | None:
    """The stored type of a value of the main graph."""
    if scope_of(graph, name).path:
        return None
    stored = model.proto.graph
    values = (*stored.input, *stored.output, *stored.value_info)
    return next((value.type for value in values if value.name == name and value.type.WhichOneof("value")), None)
