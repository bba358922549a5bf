"""Load a model, which knows itself: whatever follows from the file alone is worked out once, when first asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, StringStringEntryProto, TensorProto

from onnxscope.base import option_types
from onnxscope.base.files import open_regular
from onnxscope.base.text import printable
from onnxscope.errors import ModelError
from onnxscope.model.channel_axes import activation_axes
from onnxscope.model.graph_checks import require_text
from onnxscope.model.graphs import Graph, Step, ValueType
from onnxscope.model.layer_names import Names
from onnxscope.model.layers import Layer, find_layers
from onnxscope.model.loop_invariants import read_invariants_outside
from onnxscope.model.parameters import Parameter, find_parameters
from onnxscope.model.skeleton import MappedFile, contained_path, skeleton_of, store_of
from onnxscope.model.stored_model import InputSpec, StoredModel, checked_dims
from onnxscope.model.tensors import every_tensor
from onnxscope.model.type_inference import infer_ranks, infer_types
from onnxscope.model.value_axes import ValueAxes, known_axes
from onnxscope.providers.provider import DEFAULT_RUNNING, Running

__all__ = ["CustomOps", "Model", "library_files", "load_model"]

CustomOps = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Libraries of custom operators that onnxruntime is to load; none by default."""

_KEEPING = ("same", "cast", "permuted", "reshaped")  # the numbers


class Model(StoredModel):
    """A checked model and what it knows of itself, ready to be inspected, selected from and rewritten.

    Every property is worked out once, when it is first asked for, and kept. Read-only; safe to share between threads.

    Attributes:
        custom_ops: Libraries of custom operators that it is run with, resolved.
        running: How onnxruntime runs it.
        computed: Real numbers behind quantized weights, by what they were computed from; `stored_values` keeps them.
        replaced: A record of each value that something else stands in place of; see `onnxscope.patching`.
    """

    def __init__(self, proto: ModelProto, *, name: str, folder: Path | None, file: MappedFile | None) -> None:
        """Check `proto`, which the new object owns from now on. Use `load_model` instead."""
        super().__init__(proto, name=name, folder=folder, file=file)
        self.custom_ops: tuple[Path, ...] = ()
        self.running = DEFAULT_RUNNING
        self._axes: dict[tuple[Step, ...], Mapping[str, int]] = {}
        self._known_axes: dict[tuple[Step, ...], Mapping[str, ValueAxes]] = {}
        self.computed: dict[Hashable, np.ndarray[Any, Any]] = {}
        self._inferring = threading.Lock()
        self._types: Mapping[tuple[Step, ...], Mapping[str, ValueType]] | None = None

        self._is_rewritten = False
        self.replaced: tuple[Mapping[str, Any], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """A model from a file travels to another process as its path, one from memory as its bytes."""
        if self._file is not None and not self.replaced:
            content = self.proto.SerializeToString() if self._is_rewritten else b""
            return _reload, (self._file.given, self.size_bytes, content, self.custom_ops, self.dims, self.running)
        revived = self.proto.SerializeToString(), self.name, self.folder, self.custom_ops, self.dims, self.running
        return _revive, (*revived, self.size_bytes, self.replaced)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What must be fed: the declared inputs with the sizes that their open dimensions were given."""
        owner = weakref.ref(self)
        return tuple(spec.owned(self.sized_shape(spec), owner) for spec in self.declared_inputs)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is read from, and the libraries that it is run with."""
        library = self.running.provider.library
        return (*self.storage.files, *self.custom_ops, *([] if library is None else [library]))

    def to_dict(self) -> dict[str, Any]:
        """The `model` record that every JSON result carries, with how it is run and what stands in place."""
        libraries = [
            {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in self.custom_ops
        ]
        replaced = {"replaced": list(map(dict, self.replaced))} if self.replaced else {}
        libraries_used = {"custom_ops": libraries} if libraries else {}
        running = {} if self.running.is_default else {"running": self.running.to_dict()}
        return {**super().to_dict(), **libraries_used, **running, **replaced}

    def rewritten(self, proto: ModelProto) -> Model:
        """Return this model with other nodes, which reads its tensors from the same files.

        Args:
            proto: A changed copy of this model's own; the new object owns it.
        """
        model = Model(proto, name=self.name, folder=self.folder, file=self._file)
        model._is_rewritten = True
        return self._like(model)

    def patched(self, proto: ModelProto, folder: Path | None, replaced: Sequence[Mapping[str, Any]]) -> Model:
        """Return this model with something else in place of values, which reads its tensors from files in `folder`."""
        model = Model(proto, name=self.name, folder=folder, file=self._file if folder == self.folder else None)
        model.replaced, model.size_bytes = tuple(replaced), self.size_bytes
        return self._like(model)

    def _like(self, model: Model) -> Model:
        model.inlined_functions, model.custom_ops, model.dims = self.inlined_functions, self.custom_ops, self.dims
        model.running = self.running
        return model

    def run_as(self, running: Running) -> Model:
        """Return the same model, which shares what it knows, to be run in a given way."""
        if running == self.running:
            return self
        other = _with(self, self.custom_ops, self.dims)
        other.running = running
        return other

    @cached_property
    def names(self) -> Names:
        """What the source framework called its layers and modules."""
        return Names(self)

    @property
    def types(self) -> Mapping[tuple[Step, ...], Mapping[str, ValueType]]:
        """The types of each graph's values, by the graph's path, as far as they can be inferred; see `infer_types`.

        Inferring takes a child process, and a moment: look at the declared types of a graph first.
        """
        with self._inferring:  # of threads that ask at the same time, one infers
            if self._types is None:
                self._types = infer_types(self)
            return self._types

    def type_of(self, graph: Graph, value: str) -> ValueType | None:
        """The type of a value that a graph sees: as it is declared with a shape, else as it can be inferred."""
        scope = graph
        while scope.parent is not None and not any(
            value in own for own in (scope.inputs, scope.initializers, scope.producers)
        ):
            scope = scope.parent
        declared: ValueType | None = scope.types.get(value)
        if declared is not None and declared.shape is not None:
            return declared
        return self.types.get(scope.path, {}).get(value) or declared

    def shape_of(self, graph: Graph, value: str) -> Sequence[int | str | None] | None:
        """The sides of a value that a graph sees, names for those that vary; None where its rank is unknown."""
        stored = graph.stored(value)
        if stored is not None:
            return list(stored.dims)
        kind = self.type_of(graph, value)
        return None if kind is None else kind.shape

    def dtype_of(self, graph: Graph, value: str) -> str | None:
        """The element type of a value that a graph sees; None where it is unknown."""
        kind = self.type_of(graph, value)
        return None if kind is None else kind.dtype

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """The ranks of the main graph's values, as far as they can be inferred."""
        return infer_ranks(self.types)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, those of bodies included, in execution order; see `find_layers`."""
        return find_layers(self.names)

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The stored parameters: recorded ones in the framework's order, the others in execution order."""
        return self._parameters[0]

    @property
    def absent(self) -> Sequence[tuple[str, str]]:
        """Name of each parameter that is not stored, and the reason."""
        return self._parameters[1]

    @cached_property
    def index_bounds(self) -> Mapping[str, tuple[int, int]]:
        """The range of valid numbers for the inputs that index a stored table, such as the embedding of tokens."""
        return _index_bounds(self)

    def channel_axes(self, path: tuple[Step, ...]) -> Mapping[str, int]:
        """The channel axis of each value in the graph at `path`, where the operators tell; -1 stands for the last."""
        if path not in self._axes:
            self._axes[path] = activation_axes(self.graphs[path], partial(self.shape_of, self.graphs[path]))
        return self._axes[path]

    def value_axes(self, path: tuple[Step, ...]) -> Mapping[str, ValueAxes]:
        """What the operators in the graph at `path` tell of all axes of a value, for those where they do."""
        if path not in self._known_axes:
            self._known_axes[path] = known_axes(self.graphs[path], partial(self.shape_of, self.graphs[path]))
        return self._known_axes[path]

    @cached_property
    def _parameters(self) -> tuple[Sequence[Parameter], Sequence[tuple[str, str]]]:
        return find_parameters(self, self.names)


@option_types.checked
def load_model(
    source: Any,
    *,
    base_dir: str | os.PathLike[str] | None = None,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
) -> Model:
    """Load and check a model.

    Args:
        source: A path, a `ModelProto` (copied, never changed) or a `Model` (returned as it is).
        base_dir: Where the external data of a `ModelProto` lies.
        custom_ops: Libraries of custom operators that onnxruntime loads whenever the model is run: their code runs.
        dims: Sizes for open dimensions of its inputs: by their names, or as `INPUT:AXIS`.

    Raises:
        InputError: There is no such library, or the model's inputs have no such dimension.
        ModelError: The file is missing or no model, refers to files outside its folder, or contradicts itself.
    """
    libraries = library_files(custom_ops)
    model = source if isinstance(source, Model) else _loaded(source, base_dir)
    if not libraries and not dims:
        return model
    return _with(model, libraries or model.custom_ops, {**model.dims, **checked_dims(model, dims or {})})


def library_files(custom_ops: CustomOps) -> tuple[Path, ...]:
    """Return the paths of libraries of custom operators, each once: a bare name would have the system look elsewhere.

    Raises:
        InputError: There is no such file.
    """
    given = [custom_ops] if isinstance(custom_ops, str) or not isinstance(custom_ops, Sequence) else custom_ops
    for each in given:
        option_types.path("custom_ops", each)
    for path in given:
        open_regular(os.fspath(path), hint="`--custom-ops` names a library of custom operators").close()
    return tuple(dict.fromkeys(Path(path).resolve() for path in given))


def _loaded(source: Any, base_dir: str | os.PathLike[str] | None) -> Model:
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        folder = None if base_dir is None else Path(base_dir).resolve()
        require_text((source.graph.name,), where="model")
        read_invariants_outside(copy.graph)
        return Model(copy, name=printable(source.graph.name) or "model", folder=folder, file=None)
    if not isinstance(source, (str, os.PathLike)):
        raise ModelError(f"a model is a path or a ModelProto, not {type(source).__name__}")
    file = MappedFile(source)
    name = printable(Path(source).name)
    if name.lower().endswith(".safetensors"):
        raise ModelError(f"a checkpoint, which has no graph: {name}", hint="`weights` and `diff` take checkpoints")
    proto = _parse(file, file.path.name, name)
    folder = _data_folder(file, proto)
    store = store_of(folder)
    if store is not None:
        location = os.path.relpath(file.path, store.parent)
        proto = _parse(file, location, name)
        _follow_links(proto, folder, store.parent, location, where=name)
        folder = store.parent
    elif folder != file.path.parent:
        proto = _parse(file, file.given.name, name)
    read_invariants_outside(proto.graph)
    return Model(proto, name=name, folder=folder, file=file)


def _index_bounds(model: StoredModel) -> dict[str, tuple[int, int]]:
    """Return, for integer inputs that index a stored table (an embedding), the range of valid numbers.

    Followed through operators that keep the numbers (Cast, Reshape, …) to the data operand of a Gather.
    """
    main = model.main
    bounds = {}
    for spec in model.declared_inputs:
        limits: list[int] = []
        seen = {spec.name}
        waiting = [spec.name]
        while waiting:
            for node in main.readers.get(value := waiting.pop(), ()):
                if node.operator.looks_up and node.inputs[1:2] == (value,):
                    declared = main.types.get(node.inputs[0])
                    axis = int(node.attribute("axis") or 0)
                    if declared is not None and declared.shape and -len(declared.shape) <= axis < len(declared.shape):
                        size = declared.shape[axis]
                        limits += [size] if isinstance(size, int) else []
                elif node.operator.passes_on in _KEEPING and node.inputs[0] == value and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    waiting.append(node.outputs[0])
        if limits:
            bounds[spec.name] = (0, min(limits))
    return bounds


def _parse(file: MappedFile, location: str, name: str) -> ModelProto:
    """The skeleton of a file that large weights refer to as `location`."""
    skeleton = skeleton_of(file, where=name, location=location)
    proto = ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except Exception as error:  # protobuf's DecodeError; which class it is depends on the installed back end
        raise ModelError(f"not an ONNX model (protobuf cannot parse it): {name}") from error
    return proto


def _data_folder(file: MappedFile, proto: ModelProto) -> Path:
    """Where a file's external data lies: beside it; for a link beside the link, or else beside what it leads to."""
    given, own = file.given.parent, file.path.parent
    locations = {entry.value for _, entry in _locations(proto)} - {file.path.name}
    with contextlib.suppress(ValueError):  # a zero byte: no file has such a name
        if file.given != file.path and any(os.path.lexists(given / location) for location in locations):
            return given
    return own


def _follow_links(proto: ModelProto, folder: Path, root: Path, own: str, *, where: str) -> None:
    """Name external data by where the links of a hub's cache lead, below `root`: onnxruntime does not follow them.

    Raises:
        ModelError: A link leads out of the store.
    """
    paths: dict[str, str] = {own: own}
    for tensor, entry in _locations(proto):
        if entry.value not in paths:
            path = contained_path(folder, entry.value, owner=f"'{printable(tensor.name)}': {where}")
            paths[entry.value] = os.path.relpath(path, root)
        entry.value = paths[entry.value]


def _locations(proto: ModelProto) -> Iterator[tuple[TensorProto, StringStringEntryProto]]:
    for tensor in every_tensor(proto):
        for entry in tensor.external_data:
            if entry.key == "location":
                yield tensor, entry


def _with(model: Model, libraries: tuple[Path, ...], dims: Mapping[str, int]) -> Model:
    """The same model, which shares what it knows; it may be in use without the libraries and the sizes."""
    other = object.__new__(Model)
    other.__dict__.update(model.__dict__)
    other.custom_ops, other.dims = libraries, dims
    return other


def _reload(
    path: Path,
    size_bytes: int,
    content: bytes,
    custom_ops: tuple[Path, ...],
    dims: Mapping[str, int],
    running: Running,
) -> Model:
    model = load_model(path, custom_ops=custom_ops, dims=dims).run_as(running)
    if model.size_bytes != size_bytes:
        raise ModelError(f"the file has changed while it was in use: {model.name}")
    return model.rewritten(ModelProto.FromString(content)) if content else model


def _revive(
    content: bytes,
    name: str,
    folder: Path | None,
    custom_ops: tuple[Path, ...],
    dims: Mapping[str, int],
    running: Running,
    size_bytes: int,
    replaced: tuple[Mapping[str, Any], ...],
) -> Model:
    model = Model(ModelProto.FromString(content), name=name, folder=folder, file=None)
    model.size_bytes, model.replaced = size_bytes, replaced
    return load_model(model, custom_ops=custom_ops, dims=dims).run_as(running)
