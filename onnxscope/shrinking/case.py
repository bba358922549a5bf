"""A model with what it is fed, as it is made smaller step by step, and the graph edits that steps are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper

__all__ = [
    "Case",
    "bodies",
    "changed",
    "copied",
    "feed_type",
    "read_by",
    "renamed",
    "replace_tensor",
    "stored_bytes",
    "tidied",
    "with_nodes",
    "with_outputs",
]


@dataclass(frozen=True, eq=False)
class Case:
    """A model and its inputs. Nothing of it is changed once it is made.

    Attributes:
        proto: Without local functions; the constants of its main graph are initializers, whose bytes may lie in files.
        feeds: By input.
        original: How many values of each input and initializer are still those that were given; 0 where not named.
    """

    proto: ModelProto
    feeds: Mapping[str, Any]
    original: Mapping[str, int] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs."""
        return [value.name for value in self.proto.graph.output]

    @property
    def digest(self) -> bytes:
        """Tells cases apart."""
        known = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for name, value in sorted(self.feeds.items()):
            known.update(name.encode())
            for one in value if isinstance(value, list) else [value]:
                array = np.asarray(one)
                known.update(f"{array.dtype}{array.shape}".encode())
                known.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else array.tobytes())
        return known.digest()


def copied(proto: ModelProto) -> ModelProto:
    """A copy that may be changed."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy


def stored_bytes(case: Case) -> int:
    """What its initializers take, apart from those in files."""
    return sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in case.proto.graph.initializer)


def changed(case: Case, proto: ModelProto, feeds: Mapping[str, Any] | None = None, **original: int) -> Case:
    """The case with another model, without what nothing reads any more."""
    return tidied(Case(proto, case.feeds if feeds is None else feeds, {**case.original, **original}))


def tidied(case: Case) -> Case:
    """Drop inputs and initializers that nothing reads, and whatever is no part of the computation."""
    graph = case.proto.graph
    produced = {value for node in graph.node for value in node.output}
    read = {value for node in graph.node for value in read_by(node)}
    read.update(name for name in case.outputs if name not in produced)
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    inputs = [value for value in graph.input if value.name in read and value.name in case.feeds]
    proto = ModelProto(ir_version=case.proto.ir_version)
    domains = set(_domains(graph.node)) | {"", "ai.onnx"}
    proto.opset_import.extend(each for each in case.proto.opset_import if each.domain in domains)
    proto.graph.name = "part"
    proto.graph.node.extend(graph.node)
    for node in proto.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for body in bodies(node):
            _open_sides(body)
    proto.graph.initializer.extend(stored)
    for value in inputs:
        proto.graph.input.add(name=value.name).type.CopyFrom(feed_type(case.feeds[value.name], value.type))
    for value in graph.output:
        given = proto.graph.output.add(name=value.name)
        if value.type.HasField("tensor_type"):  # its shape may be another one now
            given.type.tensor_type.elem_type = value.type.tensor_type.elem_type
        elif value.HasField("type"):
            given.type.CopyFrom(value.type)
    kept = {value.name for value in inputs}
    feeds = {name: fed for name, fed in case.feeds.items() if name in kept}
    names = kept | {tensor.name for tensor in stored}
    return Case(proto, feeds, {name: count for name, count in case.original.items() if name in names and count})


def _domains(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield node.domain
        for body in bodies(node):
            yield from _domains(body.node)


def _open_sides(body: GraphProto) -> None:
    """Leave the sides of a body's values open, which are others once some are shortened; engines need their number."""
    del body.value_info[:]
    for value in (*body.input, *body.output):
        if value.type.HasField("tensor_type"):
            for side in value.type.tensor_type.shape.dim:
                side.Clear()
    for node in body.node:
        for inner in bodies(node):
            _open_sides(inner)


def feed_type(value: Any, declared: TypeProto | None = None) -> TypeProto:
    """The type of an input: as declared where it is no array.

    Raises:
        TypeError: Nothing tells it.
    """
    if isinstance(value, np.ndarray | np.generic):
        return onnx.helper.make_tensor_type_proto(_elem_type(np.asarray(value)), np.shape(value))
    if declared is not None and declared.WhichOneof("value") not in (None, "tensor_type"):
        return declared
    if isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
        inner = onnx.helper.make_tensor_type_proto(_elem_type(value[0]), None)
        return onnx.helper.make_sequence_type_proto(inner)
    raise TypeError(type(value).__name__)


def read_by(node: NodeProto) -> Iterator[str]:
    """What a node reads, what its bodies see of the values around them included."""
    yield from filter(None, node.input)
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own.update(value for inner in body.node for value in inner.output)
        read = [value for inner in body.node for value in read_by(inner)]
        yield from (value for value in (*read, *(out.name for out in body.output)) if value not in own)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def with_nodes(case: Case, nodes: Iterable[NodeProto], added: Mapping[str, Any] | None = None) -> Case:
    """The case with some nodes alone, and more inputs.

    Raises:
        TypeError: One of these can be no input.
    """
    proto = copied(case.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    given = {value.name for value in proto.graph.input}
    for name, value in (added or {}).items():
        if name not in given:
            proto.graph.input.add(name=name).type.CopyFrom(feed_type(value))
    counts = {name: int(np.size(value)) for name, value in (added or {}).items() if isinstance(value, np.ndarray)}
    return changed(case, proto, {**case.feeds, **(added or {})}, **counts)


def with_outputs(case: Case, outputs: Sequence[str]) -> Case:
    """The case with other outputs, and the nodes that compute them alone."""
    proto = copied(case.proto)
    needed, nodes = set(outputs), []
    for node in reversed(case.proto.graph.node):
        if needed.intersection(filter(None, node.output)):
            nodes.append(node)
            needed.update(read_by(node))
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    types = {value.name: value.type for value in (*proto.graph.output, *proto.graph.value_info)}
    del proto.graph.output[:]
    for name in outputs:
        value = proto.graph.output.add(name=name)
        if name in types:
            value.type.CopyFrom(types[name])
    return changed(case, proto)


def replace_tensor(proto: ModelProto, name: str, array: np.ndarray[Any, Any]) -> None:
    """Give an initializer other values, in place."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(stored_array(array, name))


def stored_array(array: np.ndarray[Any, Any], name: str) -> TensorProto:
    """An array as an initializer."""
    array = np.asarray(array)
    if array.dtype.kind in "US":
        array = array.astype(object)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node that calls values otherwise, in its bodies too."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    for values in (node.input, node.output):
        values[:] = [names.get(value, value) for value in values]
    for body in bodies(node):
        for inner in body.node:
            _rename(inner, names)
        for value in (*body.output, *body.input, *body.initializer):
            value.name = names.get(value.name, value.name)


def _elem_type(array: np.ndarray[Any, Any]) -> int:
    if array.dtype.kind in "OUS":
        return int(TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
