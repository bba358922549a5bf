"""A model as it is stored: checked graphs, inputs and outputs, tensors, provenance.

A `StoredModel` holds a skeleton (see `skeleton`): large weights stay in the file and are read in place. No loader
validates what it loads, so names, order, sizes and references are checked here, once.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from onnxscope.base import option_types
from onnxscope.base.shapes import LARGEST_DIM, computed_size, is_symbol, takes_text, terms_of
from onnxscope.base.text import MAX_HINT, as_typed, printable, shortened
from onnxscope.errors import InputError, ModelError
from onnxscope.model.graph_checks import check_graphs, check_operators, check_text, require_text
from onnxscope.model.graphs import value_type, walk_graphs
from onnxscope.model.local_functions import inline_functions
from onnxscope.model.provenance import Provenance, read_provenance
from onnxscope.model.skeleton import MappedFile
from onnxscope.model.tensors import Storage, stored_tensors

__all__ = ["InputSpec", "StoredModel", "checked_dims"]


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

    def sized_shape(self, spec: InputSpec) -> tuple[int | str | None, ...] | None:
        """The shape of a declared input with the sizes that its open dimensions were given."""
        if not self.dims or spec.shape is None:
            return spec.shape
        sides: list[int | str | None] = []
        for axis, dim in enumerate(spec.shape):
            size = self.dims.get(dim) if isinstance(dim, str) else None
            if not isinstance(dim, int):
                size = self.dims.get(f"{spec.name}:{axis}", size)
            if size is None and isinstance(dim, str):
                size = computed_size(dim, self.dims)
            sides.append(dim if size is None else size)
        return tuple(sides)

    def taught(self, step: str) -> str:
        """Return a hint: a step, and what the model takes as far as there is room."""
        lead = f"{step}; the model takes "
        return shortened(f"{lead}{takes_text(self.declared_inputs, room=MAX_HINT - len(lead))}", MAX_HINT)

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


def checked_dims(model: StoredModel, dims: Mapping[str, int]) -> Mapping[str, int]:
    """Return sizes that a model's inputs can be given; `INPUT:AXIS` stands for the symbol there, where there is one.

    Raises:
        InputError: No input has such a dimension, it is fixed, has two sizes, or a size is none.
    """
    checked: dict[str, int] = {}
    option_types.mapping("dims", dims, option_types.SIZES)
    sides = {f"{spec.name}:{axis}": dim for spec in model.declared_inputs for axis, dim in enumerate(spec.shape or ())}
    names = {dim for dim in sides.values() if isinstance(dim, str)}
    names |= {term for dim in names for term in terms_of(dim)}
    for name, size in dims.items():
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= LARGEST_DIM:
            raise InputError(f"the size of a dimension is a whole number, not {size!r}: '{printable(name)}'")
        if name not in names and name not in sides:
            open_sides = dict.fromkeys(dim or place for place, dim in sides.items() if not isinstance(dim, int))
            shown = ", ".join(map(printable, open_sides))
            near = difflib.get_close_matches(name, open_sides, n=1, cutoff=0.3) or list(open_sides)
            step = f"`--dim {as_typed(near[0])}={size}`; open are {shown}" if shown else "leave `--dim` out"
            raise InputError(
                f"no dimension of an input is called '{printable(name)}': {model.name}", hint=model.taught(step)
            )
        fixed = None if name in names else sides[name]
        if isinstance(fixed, int) and fixed != size:
            raise InputError(
                f"the dimension {printable(name)} is fixed at {fixed}, not {size}: {model.name}",
                hint=model.taught("leave `--dim` out for it"),
            )
        key = str(fixed) if is_symbol(fixed) else name
        if checked.setdefault(key, size) != size:
            raise InputError(f"two sizes, {checked[key]} and {size}, for the dimension {printable(key)}: {model.name}")
    return checked


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
