"""Load a model, check what the rest relies on, and describe it.

A `Model` holds a skeleton (see `skeleton`): large weights stay in the file and are read in place. No loader validates
what it loads, so names, order, sizes and references are checked here, once.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxscope.base.outputs import first_line, printable
from onnxscope.errors import ModelError
from onnxscope.model.graphs import check_graphs, check_text, require_text, value_type, walk_graphs
from onnxscope.model.provenance import Provenance, read_provenance
from onnxscope.model.skeleton import MappedFile, skeleton_of
from onnxscope.model.tensors import Storage

__all__ = ["InputSpec", "Model", "load_model"]

# Past these we do not inline local functions. Real exports stay far below; onnx's inliner takes 5 s for the nodes.
_MAX_INLINED_NODES = 1_000_000
_MAX_INLINED_BYTES = 1 << 30
_MAX_INLINED_DEPTH = 100  # it recurses, and so do we

_Measure = tuple[int, int, int]


@dataclass(frozen=True)
class InputSpec:
    """One input that the caller must feed.

    Attributes:
        name: The graph input's name.
        dtype: numpy's name of the element type (`float32`, `int64`, `str`), or `sequence`, `map`, … for no tensor.
        shape: Dimensions; a string is a symbolic one, None an unknown one. None altogether for an unknown rank.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class Model:
    """A checked model, ready to be inspected, selected from and rewritten. Read-only; safe to share between threads.

    Attributes:
        name: The file's name, or `model` for one from memory; never a path.
        folder: Where external data lies, resolved; None for a model from memory without `base_dir`.
        storage: Reads its tensors.
        size_bytes: The model file's size, or the message's size.
        proto: The skeleton. It is shared: copy it before changing anything.
        main: The main graph.
        graphs: The main graph and every nested one by its path, outer ones first.
        inlined_functions: How many local functions the stored model had.
    """

    def __init__(self, proto: ModelProto, *, name: str, folder: Path | None, file: MappedFile | None) -> None:
        """Check `proto`, which the new object owns from now on. Use `load_model` instead."""
        self.name = name
        self.folder = folder
        self._file = file
        self.size_bytes = file.size_bytes if file else proto.ByteSize()
        self.inlined_functions = len(proto.functions)
        if not proto.HasField("graph"):
            raise ModelError(f"not an ONNX model (no graph in it): {name}")
        if proto.ir_version < 1:
            raise ModelError(f"not an ONNX model (it states no IR version): {name}")
        if not proto.opset_import and proto.ir_version >= 3:
            raise ModelError(f"not an ONNX model (it imports no operator set): {name}")
        require_text(_own_texts(proto), where=name)
        self.proto = _inline_functions(proto, name)
        check_text(self.proto.graph, where=name)
        _forget_negative_dims(self.proto.graph)
        _name_split_outputs(self.proto.graph)
        self.storage = Storage(folder, file, where=name)
        self.storage.check(self.proto.graph)
        self.graphs = {graph.path: graph for graph in check_graphs(self.proto.graph, where=name)}
        self.main = self.graphs[()]

    def __repr__(self) -> str:
        return f"<Model {self.name}: {len(self.main.nodes)} nodes, {len(self.main.initializers)} initializers>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A model from a file travels to another process as its path, one from memory as its bytes."""
        if self._file is not None:
            return _reload, (self._file.path, self.size_bytes)
        return _revive, (self.proto.SerializeToString(), self.name, self.folder)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over the model file and the files with its external data, in the order of names.

        A model from memory counts as its serialized message.
        """
        whole = hashlib.sha256()
        if self._file is None:
            whole.update(self.proto.SerializeToString(deterministic=True))
        for path in self.storage.files:
            with open(path, "rb") as stream:  # not through the memory map, whose pages would count as ours
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        return whole.hexdigest()

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What must be fed: graph inputs that no initializer gives a value."""
        specs = []
        for value in self.proto.graph.input:
            if value.name not in self.main.initializers:
                declared = value_type(value.type)
                specs.append(InputSpec(value.name, declared.dtype or declared.kind, declared.shape))
        return tuple(specs)

    @cached_property
    def outputs(self) -> tuple[InputSpec, ...]:
        """The declared outputs, in order."""
        return tuple(
            InputSpec(value.name, declared.dtype or declared.kind, declared.shape)
            for value in self.proto.graph.output
            for declared in (value_type(value.type),)
        )

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """`metadata_props` of the model."""
        return MappingProxyType({entry.key: entry.value for entry in self.proto.metadata_props})

    @cached_property
    def provenance(self) -> Provenance | None:
        """What our converter recorded, or None."""
        return read_provenance(self.metadata)

    @property
    def opsets(self) -> dict[str, int]:
        """Operator set versions by domain, `ai.onnx` for ONNX's own."""
        return {entry.domain or "ai.onnx": entry.version for entry in self.proto.opset_import}

    @property
    def producer(self) -> str:
        """Name and version of the program that wrote the model."""
        return f"{self.proto.producer_name} {self.proto.producer_version}".strip()

    def to_dict(self) -> dict[str, Any]:
        """The `model` record that every JSON result carries."""
        provenance = self.provenance
        return {
            "name": self.name,
            "size_bytes": self.size_bytes,
            "ir_version": self.proto.ir_version,
            "opsets": self.opsets,
            "producer": self.producer,
            "graph": self.proto.graph.name,
            "framework": f"{provenance.framework} {provenance.version}" if provenance else None,
            "mode": provenance.mode if provenance else None,
            "source": provenance.source if provenance else None,
            "preprocess": provenance.preprocess if provenance else None,
        }

    def array(self, tensor: TensorProto) -> np.ndarray[Any, Any]:
        """Return the values of one of this model's tensors; see `Storage.array`."""
        return self.storage.array(tensor)


def load_model(source: Any, *, base_dir: str | os.PathLike[str] | None = None) -> Model:
    """Load and check a model.

    Args:
        source: A path, a `ModelProto` (copied, never changed) or a `Model` (returned as it is).
        base_dir: Where the external data of a `ModelProto` lies.

    Raises:
        ModelError: The file is missing or no model, refers to files outside its folder, or contradicts itself.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        folder = None if base_dir is None else Path(base_dir).resolve()
        require_text((source.graph.name,), where="model")
        return Model(copy, name=printable(source.graph.name) or "model", folder=folder, file=None)
    if not isinstance(source, (str, os.PathLike)):
        raise ModelError(f"a model is a path or a ModelProto, not {type(source).__name__}")
    file = MappedFile(source)
    name = printable(Path(source).name)
    skeleton = skeleton_of(file, where=name)
    proto = ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except Exception as error:  # protobuf's DecodeError; which class it is depends on the installed back end
        raise ModelError(f"not an ONNX model (protobuf cannot parse it): {name}") from error
    return Model(proto, name=name, folder=file.path.parent, file=file)


def _reload(path: Path, size_bytes: int) -> Model:
    model = load_model(path)
    if model.size_bytes != size_bytes:
        raise ModelError(f"the file has changed while it was in use: {model.name}")
    return model


def _revive(content: bytes, name: str, folder: Path | None) -> Model:
    return Model(ModelProto.FromString(content), name=name, folder=folder, file=None)


def _own_texts(proto: ModelProto) -> Iterator[str]:
    """The strings outside the graph that are read."""
    yield from (proto.producer_name, proto.producer_version)
    for entry in proto.metadata_props:
        yield from (entry.key, entry.value)
    for imported in proto.opset_import:
        yield imported.domain
    for function in proto.functions:
        yield from (function.name, function.domain, function.overload)


def _inline_functions(proto: ModelProto, where: str) -> ModelProto:
    """Replace calls of the model's local functions by their nodes."""
    if not proto.functions:
        return proto
    _Expansion(proto, where).check()
    try:
        import onnx.inliner

        inlined: ModelProto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # the inliner's own errors, and protobuf's where its answer cannot be parsed
        raise ModelError(f"local functions cannot be inlined ({first_line(error)}): {where}") from error
    return inlined


class _Expansion:
    """Bounds what inlining would make: functions that call each other double the model at every level."""

    def __init__(self, proto: ModelProto, where: str) -> None:
        self._where = where
        self._nodes = proto.graph.node
        self._functions = {
            (_domain(function.domain), function.name, function.overload): function for function in proto.functions
        }
        self._measured: dict[tuple[str, str, str], _Measure] = {}
        self._largest_argument = 0

    def check(self) -> None:
        for function in self._functions.values():
            self._check_arguments(function.attribute_proto, function.name)
            self._find_arguments(function.node)
        self._find_arguments(self._nodes)
        self._measure(self._nodes, ())

    def _find_arguments(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            if self._called(node):
                self._check_arguments(node.attribute, node.op_type)
            for body in _bodies(node):
                self._find_arguments(body.node)

    def _check_arguments(self, arguments: Iterable[AttributeProto], function: str) -> None:
        for argument in arguments:
            if argument.HasField("g") or argument.graphs:
                # A graph that is handed on can contain itself: its size after inlining cannot be told from here.
                raise ModelError(f"function {printable(function)!r} takes a graph as an attribute: {self._where}")
            self._largest_argument = max(self._largest_argument, argument.ByteSize())

    def _called(self, node: NodeProto) -> tuple[str, str, str] | None:
        key = (_domain(node.domain), node.op_type, node.overload)
        return key if key in self._functions else None

    def _measure(self, nodes: Iterable[NodeProto], active: tuple[tuple[str, str, str] | None, ...]) -> _Measure:
        """Nodes, bytes of attributes and depth after inlining; `active` are the calls and bodies around `nodes`."""
        self._check_depth(len(active))
        count = size = depth = 0
        for node in nodes:
            count += 1
            for attribute in node.attribute:
                size += self._largest_argument if attribute.ref_attr_name else 0
                size += 0 if attribute.HasField("g") or attribute.graphs else attribute.ByteSize()
            inner = [self._measure(body.node, (*active, None)) for body in _bodies(node)]
            key = self._called(node)
            if key is not None:
                if key in active:
                    raise ModelError(f"function {printable(node.op_type)!r} calls itself: {self._where}")
                if key not in self._measured:
                    self._measured[key] = self._measure(self._functions[key].node, (*active, key))
                inner.append(self._measured[key])
            for more, bytes_more, below in inner:
                count, size, depth = count + more, size + bytes_more, max(depth, below + 1)
            self._check_depth(len(active) + depth)
            if count > _MAX_INLINED_NODES or size > _MAX_INLINED_BYTES:
                limit = f"{_MAX_INLINED_NODES:,} nodes or {_MAX_INLINED_BYTES:,} bytes"
                raise ModelError(f"local functions expand to more than {limit}: {self._where}")
        return count, size, depth

    def _check_depth(self, depth: int) -> None:
        if depth > _MAX_INLINED_DEPTH:
            raise ModelError(f"local functions call each other more than {_MAX_INLINED_DEPTH} deep: {self._where}")


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _forget_negative_dims(graph: GraphProto) -> None:
    """Make dimensions written as -1 unknown: some exporters write them, and shape inference aborts on them."""
    for inner in walk_graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info):
            if value.type.HasField("tensor_type"):
                for dim in value.type.tensor_type.shape.dim:
                    if dim.dim_value < 0:
                        dim.ClearField("dim_value")


def _name_split_outputs(graph: GraphProto) -> None:
    """Name the omitted outputs of Split: onnxruntime crashes on them."""
    graphs = list(walk_graphs(graph))
    unnamed = [node for inner in graphs for node in inner.node if node.op_type == "Split" and "" in node.output]
    if not unnamed:
        return
    used = {value for inner in graphs for node in inner.node for value in node.output}
    used.update(value.name for inner in graphs for value in (*inner.input, *inner.initializer))
    fresh = (f"onnxscope_unused_{number}" for number in itertools.count())
    for node in unnamed:
        for place, output in enumerate(node.output):
            if not output:
                node.output[place] = next(name for name in fresh if name not in used)
