"""A model as it is stored: checked graphs, inputs and outputs, tensors, provenance.

A `StoredModel` holds a skeleton (see `skeleton`): large weights stay in the file and are read in place. No loader
validates what it loads, so names, order, sizes and references are checked here, once.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from onnxscope.base.text import printable
from onnxscope.errors import ModelError
from onnxscope.model.graph_checks import check_graphs, check_operators, check_text, require_text
from onnxscope.model.graphs import value_type, walk_graphs
from onnxscope.model.local_functions import inline_functions
from onnxscope.model.provenance import Provenance, read_provenance
from onnxscope.model.skeleton import MappedFile
from onnxscope.model.tensors import Storage, stored_tensors

__all__ = ["LARGEST_DIM", "InputSpec", "StoredModel", "computed_size", "is_symbol", "terms_of"]

LARGEST_DIM = 1 << 40
_LONGEST_EXPRESSION = 200  # characters; exporters write `batch*seq`, `past_len + 1`
_COMPUTED: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


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

    @property
    def model(self) -> StoredModel | None:
        """The model whose input it is, where that is known and still there; it does not travel to other processes."""
        owner = vars(self).get("_owner")
        return None if owner is None else owner()

    def owned(self, shape: tuple[int | str | None, ...] | None, owner: Callable[[], StoredModel | None]) -> InputSpec:
        """The same input of another shape, which knows its model."""
        spec = InputSpec(self.name, self.dtype, shape)
        object.__setattr__(spec, "_owner", owner)  # no field: records show those
        return spec

    def __reduce__(self) -> tuple[Any, ...]:
        return InputSpec, (self.name, self.dtype, self.shape)


class StoredModel:
    """A checked model as it is stored. Read-only; safe to share between threads.

    Attributes:
        name: The file's name, or `model` for one from memory; never a path.
        folder: Where external data lies, resolved; None for a model from memory without `base_dir`.
        storage: Reads its tensors.
        size_bytes: The model file's size, or the message's size.
        stored_count: Numbers in its initializers and constants, bodies and local functions included.
        stored_bytes: What they take.
        proto: The skeleton. It is shared: copy it before changing anything.
        with_functions: The same with calls of local functions, where the stored model has any.
        main: The main graph.
        graphs: The main graph and every nested one by its path, outer ones first.
        inlined_functions: How many local functions the stored model had.
        dims: Sizes that open dimensions of its inputs were given, by name, or as `INPUT:AXIS`.
    """

    def __init__(self, proto: ModelProto, *, name: str, folder: Path | None, file: MappedFile | None) -> None:
        """Check `proto`, which the new object owns from now on. Use `load_model` instead."""
        self.name = name
        self.folder = folder
        self.dims: Mapping[str, int] = {}
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
        check_operators(proto, where=name)
        self.storage = Storage(folder, file, where=name)
        self.storage.check(proto)
        # Of what is stored, not of what is inlined: a function that is called twice would count twice.
        self.stored_count = sum(math.prod(tensor.dims) for tensor in stored_tensors(proto))
        self.stored_bytes = sum(map(self.storage.stored_bytes, stored_tensors(proto)))
        self.with_functions = proto
        self.proto = inline_functions(proto, where=name)
        check_text(self.proto.graph, where=name)
        _forget_negative_dims(self.proto.graph)
        _name_split_outputs(self.proto.graph)
        self.storage.write_out(self.proto.graph)
        self.graphs = {graph.path: graph for graph in check_graphs(self.proto.graph, where=name)}
        self.main = self.graphs[()]

    @property
    def path(self) -> Path | None:
        """Where its file was opened: what is written beside it is looked for there. None for one from memory."""
        return None if self._file is None else self._file.given

    def __repr__(self) -> str:
        main = self.main
        return f"<Model {self.name}: {len(main.nodes)} nodes, {len(main.initializers)} initializers>"

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over the model file and the files with its external data, in the order of names.

        A model from memory counts as its serialized message.

        Raises:
            ModelError: One of them cannot be read any more.
        """
        whole = hashlib.sha256()
        if self._file is None:
            whole.update(self.proto.SerializeToString(deterministic=True))
        for path in self.storage.files:
            try:
                with open(path, "rb") as stream:  # not through the memory map, whose pages would count as ours
                    whole.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise ModelError(f"cannot read ({error.strerror or error}): {printable(str(path))}") from error
        return whole.hexdigest()

    @cached_property
    def declared_inputs(self) -> tuple[InputSpec, ...]:
        """What must be fed, as the file declares it: graph inputs that no initializer gives a value."""
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


def computed_size(dim: str, sizes: Mapping[str, int]) -> int | None:
    """Return what an exporter's expression of dimensions comes to: `past + sequence`, `batch*seq`, `s0//2`.

    Args:
        dim: The expression; a name alone is none.
        sizes: Of the dimensions that it names.

    Returns:
        A size from 0 up; None where it is no such expression, or a size is not known.
    """
    tree = _expression(dim)
    size = None if tree is None else _computed(tree, sizes)
    return size if size is not None and 0 <= size <= LARGEST_DIM else None


def terms_of(dim: str) -> frozenset[str]:
    """Return the names in an expression of dimensions; none where it is no expression."""
    tree = _expression(dim)
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)) if tree else frozenset()


def is_symbol(dim: int | str | None) -> bool:
    """Whether a dimension has a name that means one size wherever it stands: `?` means none."""
    return isinstance(dim, str) and any(map(str.isalnum, dim)) and not terms_of(dim)


def _expression(dim: str) -> ast.expr | None:
    try:
        tree = ast.parse(dim.strip(), mode="eval").body if len(dim) <= _LONGEST_EXPRESSION else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return None if isinstance(tree, ast.Name) else tree


def _computed(tree: ast.AST, sizes: Mapping[str, int]) -> int | None:
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id)
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    if isinstance(tree, ast.BinOp) and type(tree.op) in _COMPUTED:
        left, right = _computed(tree.left, sizes), _computed(tree.right, sizes)
        if left is None or right is None or (isinstance(tree.op, ast.FloorDiv) and not right):
            return None
        size = _COMPUTED[type(tree.op)](left, right)
        return size if 0 <= size <= LARGEST_DIM else None
    return None


def _own_texts(proto: ModelProto) -> Iterator[str]:
    """The strings outside the graph that are read."""
    yield from (proto.producer_name, proto.producer_version)
    for entry in proto.metadata_props:
        yield from (entry.key, entry.value)
    for imported in proto.opset_import:
        yield imported.domain
    for function in proto.functions:
        yield from (function.name, function.domain, function.overload)


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
