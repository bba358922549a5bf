"""The guilty layer of two models, made smaller while both differ: `diff --extract DIR --shrink`.

Both stand in one model, which is made smaller as a whole. They share what they are fed and the weights that are the
same, so that what is shortened or replaced in one is in the other:

    x --------> a's nodes -> a:y
      \\-> (T) -> b's nodes -> (T) -> b:y
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.extracting.chosen_part import Part
from onnxscope.extracting.extract_part import Extraction, PartValue
from onnxscope.extracting.recorded_values import TOLERANCES, difference
from onnxscope.extracting.shrunk_part import Shrinking, size_bytes
from onnxscope.model.loading import Model, load_model
from onnxscope.shrinking.case import Case, renamed, with_outputs
from onnxscope.shrinking.shrink import Limited, Shrunk, shrink

__all__ = ["shrink_pair"]

_MOST_AXES = 5
_MOST_BYTES = 1 << 28
_LEADS = ("a:", "b:")
_AS_A = "_as_a"


def shrink_pair(first: Extraction, second: Extraction, limits: Limited | None = None) -> tuple[Extraction, Extraction]:
    """Make two parts smaller together.

    Args:
        first: The first model's part.
        second: The second one's, fed with the first one's values and held to them.
        limits: How long is searched.

    Returns:
        Both, smaller: the second still does not give what the first gives.

    Raises:
        InputError: They give the same, or cannot stand in one model.
        RunError: No trials can be made.
    """
    if len(first.outputs) != len(second.outputs):
        raise InputError("the two parts have not the same outputs, so they are not made smaller together")
    if first.model.stored_bytes + second.model.stored_bytes > _MOST_BYTES:
        raise InputError("the two parts have too many weights to be made smaller together")
    merged, feeds, own = _merged(first, second)
    shrunk = shrink(load_model(merged), feeds, tolerances=TOLERANCES, fixed=own, has_two=True, limits=limits)
    half = len(first.outputs)
    outputs = [value.name for value in shrunk.model.proto.graph.output]
    sides = (outputs[:half], outputs[half:])
    if not all(sides) or len(sides[0]) != len(sides[1]):
        raise InputError("the two parts cannot be told apart any more")
    parts = (first, second)
    return (_side(shrunk, parts, sides, 0), _side(shrunk, parts, sides, 1))


def _merged(first: Extraction, second: Extraction) -> tuple[ModelProto, dict[str, Any], list[str]]:
    """Both parts in one model, what it is fed, and the weights that are each part's own."""
    protos = [_inline(part.model) for part in (first, second)]
    merged = ModelProto(ir_version=max(proto.ir_version for proto in protos))
    versions: dict[str, int] = {}
    for entry in (*protos[0].opset_import, *protos[1].opset_import):
        if versions.setdefault(entry.domain, entry.version) != entry.version:
            raise InputError(
                f"the two models have different operator sets ({versions[entry.domain]} and {entry.version}), so their"
                " parts are not made smaller together"
            )
    for domain, version in versions.items():
        merged.opset_import.add(domain=domain, version=version)
    merged.graph.name = "part"
    shared, own = _share_weights(merged, protos)
    feeds: dict[str, Any] = {f"a:{value.name}": value.value for value in first.inputs}
    for value in second.inputs:
        orders = ((each.name, _order(each.value, value.value)) for each in first.inputs)
        name, order = next(((name, order) for name, order in orders if order is not None), ("", None))
        if order is None:
            feeds[f"b:{value.name}"] = value.value
        elif _is_same(order):
            shared[1][value.name] = f"a:{name}"
        else:
            merged.graph.node.append(_transposed(f"a:{name}", f"b:{value.name}", order))
    for name, array in feeds.items():
        merged.graph.input.add(name=name).type.CopyFrom(_type_of(array))
    for proto, lead, names in zip(protos, _LEADS, shared, strict=True):
        merged.graph.node.extend(renamed(node, _naming(lead, names, proto)) for node in proto.graph.node)
    ends = [f"a:{value.name}" for value in first.outputs]
    for one, other in zip(first.outputs, second.outputs, strict=True):
        order = _order(other.value, one.value)  # of the second: what it should be
        if order is None:
            raise InputError(
                f"{printable(other.name)!r} is not held as {printable(one.name)!r} is, so the two parts are not made"
                " smaller together"
            )
        ends.append(f"b:{other.name}" + ("" if _is_same(order) else _AS_A))
        if not _is_same(order):
            merged.graph.node.append(_transposed(f"b:{other.name}", ends[-1], order))
    merged.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
    return merged, feeds, own


def _naming(lead: str, shared: Mapping[str, str], proto: ModelProto) -> dict[str, str]:
    """What each value of a part is called in the merged model."""
    names = [value.name for value in proto.graph.input]
    names += [tensor.name for tensor in proto.graph.initializer]
    for node in proto.graph.node:
        names += _named(node)
    return {name: shared.get(name, f"{lead}{name}") for name in names if name}


def _named(node: NodeProto) -> list[str]:
    names = [*node.input, *node.output]
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []), *attribute.graphs):
            names += [value.name for value in (*body.input, *body.output, *body.initializer)]
            for inner in body.node:
                names += _named(inner)
    return names


def _share_weights(merged: ModelProto, protos: list[ModelProto]) -> tuple[tuple[dict[str, str], ...], list[str]]:
    """Store the weights of both parts, those that are the same once, and name those that are not."""
    names: tuple[dict[str, str], ...] = ({}, {})
    first = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in protos[0].graph.initializer}
    own = {f"a:{name}" for name in first}
    for name, array in first.items():
        merged.graph.initializer.append(_stored(array, f"a:{name}"))
    for tensor in protos[1].graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        orders = ((name, _order(other, array)) for name, other in first.items())
        partner, order = next(((name, order) for name, order in orders if order is not None), ("", None))
        if order is None:
            merged.graph.initializer.append(_stored(array, f"b:{tensor.name}"))
            own.add(f"b:{tensor.name}")
            continue
        own.discard(f"a:{partner}")
        if _is_same(order):
            names[1][tensor.name] = f"a:{partner}"
        else:
            merged.graph.node.append(_transposed(f"a:{partner}", f"b:{tensor.name}", order))
    return names, sorted(own)


def _order(one: Any, other: Any) -> tuple[int, ...] | None:
    """In which order the axes of one array are those of another one; None where they hold different numbers."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray) or one.dtype != other.dtype:
        return None
    if one.ndim != other.ndim or one.ndim > _MOST_AXES or sorted(one.shape) != sorted(other.shape):
        return None
    orders = itertools.permutations(range(one.ndim))
    return next((order for order in orders if np.array_equal(one.transpose(order), other)), None)


def _is_same(order: tuple[int, ...]) -> bool:
    return order == tuple(range(len(order)))


def _transposed(source: str, name: str, order: tuple[int, ...]) -> NodeProto:
    return onnx.helper.make_node("Transpose", [source], [name], perm=list(order))


def _inline(model: Model) -> ModelProto:
    """A part with the bytes of its weights."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(_stored(model.array(tensor), tensor.name))
    return proto


def _stored(array: np.ndarray[Any, Any], name: str) -> TensorProto:
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def _type_of(array: Any) -> onnx.TypeProto:
    if not isinstance(array, np.ndarray) or array.dtype.kind in "OUS":
        raise InputError("what reaches the two parts is no array of numbers, so they are not made smaller together")
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _side(shrunk: Shrunk, parts: tuple[Extraction, Extraction], sides: Any, place: int) -> Extraction:
    """One of the two models, held to what the first one gives."""
    case = with_outputs(Case(shrunk.model.proto, shrunk.feeds), sides[place])
    for value in case.proto.graph.output:
        value.type.CopyFrom(_type_of(shrunk.given[value.name]))
    names = _without_leads(case.proto)
    inputs = [PartValue(names[value.name], case.feeds[value.name]) for value in case.proto.graph.input]
    found = []
    for expected, name in zip(sides[0], sides[place], strict=True):
        same, distance = difference(shrunk.given[name], shrunk.given[expected])
        found.append(PartValue(names[name], shrunk.given[expected], distance, same))
    model = shrunk.model.rewritten(_renamed(case.proto, names))
    before = parts[place]
    shrinking = Shrinking(
        fault=shrunk.fault,
        nodes_before=len(before.part.nodes),
        nodes=len(model.main.nodes),
        bytes_before=size_bytes(before.model),
        bytes=size_bytes(model),
        original_weights=shrunk.original_weights,
        original_inputs=shrunk.original_inputs,
        trials=shrunk.trials,
        is_complete=shrunk.is_complete,
    )
    return replace(
        before,
        part=Part(
            (),
            tuple(model.main.nodes),
            tuple(value.name for value in inputs),
            tuple(value.name for value in found),
        ),
        model=model,
        layers=before.layers,
        inputs=tuple(inputs),
        outputs=tuple(found),
        notes=(*before.notes, *shrinking.notes),
        shrunk=shrinking,
    )


def _without_leads(proto: ModelProto) -> dict[str, str]:
    """What the values of one of the two models are called there; where two would be called the same, as they are."""
    every = dict.fromkeys([value.name for value in (*proto.graph.input, *proto.graph.initializer)])
    every |= dict.fromkeys(name for node in proto.graph.node for name in _named(node) if name)
    short = {name: name[2:] if name.startswith(_LEADS) else name for name in every}
    taken = list(short.values())
    return {name: new if taken.count(new) == 1 else name for name, new in short.items()}


def _renamed(proto: ModelProto, names: Mapping[str, str]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    nodes = [renamed(node, names) for node in proto.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.initializer):
        value.name = names[value.name]
    return copy
