"""The edit: what computes a value gives it under another name, and something else gives it under its own.

    x -> Conv -> h -> Relu -> y        x -> Conv -> h' -> Shape -> Expand(0) -> h -> Relu -> y

Nobody who reads the value has to be found, in whatever body, and an output of the model keeps its name. New nodes of
the main graph come last, so that places of nodes, and of the bodies that they own, stay what they were. In a body they
follow the node that computes the value: there onnxruntime wants them in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.model.graphs import Step, walk_graphs
from onnxscope.model.loading import Model
from onnxscope.model.tensors import every_tensor
from onnxscope.runtime.nodes import GraphWriter, opset_of
from onnxscope.runtime.tap_outputs import body_at, unused_prefix
from onnxscope.selection.selectors import Tap
from onnxscope.structure.attributes import schema_of

__all__ = ["GraphEdit", "PatchWriter"]

Array = NDArray[Any]
_LEAST_OPSET = 9  # ConstantOfShape, and Where
_COMPUTED = frozenset(
    {"float16", "float32", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}
)
"""What ConstantOfShape and Expand give on a CPU; others are made of float32."""


class PatchWriter(GraphWriter):
    """Appends to any graph of a model."""

    def __init__(self, proto: ModelProto, graph: GraphProto, prefix: str) -> None:
        """Append nothing yet; no name of the model may start with `prefix`."""
        super().__init__(proto, prefix)
        self._graph = graph

    def give(self, kind: str, inputs: Sequence[str], name: str) -> None:
        """Append a node whose only output has a name that is free by now."""
        self._graph.node.append(onnx.helper.make_node(kind, list(inputs), [name]))


class GraphEdit:
    """A copy of a model in which values are replaced one by one.

    Attributes:
        proto: The copy.
        folder: Where its external data lies, None where there is none.
        prefix: That no name of the model starts with.
        replaced: Taps at the values that are replaced, in that order.
    """

    def __init__(self, model: Model) -> None:
        """Copy it; nothing is replaced yet.

        Raises:
            InputError: Its operator set is too old for what stands in place of a value.
        """
        if opset_of(model.proto) < _LEAST_OPSET:
            raise InputError(
                f"no value can be replaced in operator set {opset_of(model.proto)}: {model.name}",
                hint=f"onnx.version_converter makes operator set {_LEAST_OPSET} or later of it",
            )
        self._model = model
        self.proto = ModelProto()
        self.proto.CopyFrom(model.proto)
        self.folder = model.folder
        self.prefix = unused_prefix(model)
        self._writers: dict[tuple[Step, ...], PatchWriter] = {}
        self.replaced: list[Tap] = []
        self._graphs = {path: body_at(self.proto, path) for path in model.graphs}
        self._embedded = 0

    def zero(self, tap: Tap, dtype: str) -> None:
        """Put zeros in place of a value, as many as it has."""
        own, writer = self._divert(tap)
        made = dtype if dtype in _COMPUTED else "float32"
        fill = onnx.numpy_helper.from_array(np.zeros(1, made))
        self._give(tap, writer, writer.node("ConstantOfShape", [writer.node("Shape", [own])], value=fill), dtype, made)

    def array(self, tap: Tap, values: Array, dtype: str) -> None:
        """Put an array in place of a value; its sides of 1 are repeated along those of the value."""
        own, writer = self._divert(tap)
        made = dtype if dtype in _COMPUTED else "float32"
        shape = writer.node("Shape", [own])
        wide = writer.node("Expand", [writer.array(np.ascontiguousarray(values.astype(made))), shape])
        # An array with more sides would have grown the value; so onnxruntime refuses it.
        self._give(tap, writer, writer.node("Reshape", [wide, shape]), dtype, made)

    def value(self, tap: Tap, make: Callable[[PatchWriter, str], str]) -> None:
        """Put in place of a value what `make` writes, given the name under which it is computed as before."""
        own, writer = self._divert(tap)
        self._give(tap, writer, make(writer, own), "", "")

    def own(self, tap: Tap) -> None:
        """Put a value in its own place, so that it is computed, and read, apart from what is before it and behind it.

        onnxruntime fuses no nodes across a value that is replaced; nor does it across this one.
        """
        own, writer = self._divert(tap)
        self._end(tap, writer, "Reshape", [own, writer.node("Shape", [own])])

    def embed(self, donor: Model, wanted: Iterable[str], given: Mapping[str, str]) -> Callable[[str], str]:
        """Append what another model computes values of its main graph from.

        Args:
            donor: The other model.
            wanted: The names of these values.
            given: By the name in the other model, what it is called here, for its inputs and whatever else is not
                to be computed anew.

        Returns:
            What says under which name a value of the other model stands here.

        Raises:
            InputError: The two cannot stand in one graph: an operator is not the same in both operator sets, or their
                files have no folder in common.
        """
        self._embedded += 1
        prefix = f"{self.prefix}{self._embedded}:"

        def rename(name: str) -> str:
            return given.get(name, prefix + name) if name else ""

        reached: set[str] = set()
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name and name not in reached and name not in given:
                reached.add(name)
                node = donor.main.producers.get(name)
                waiting += [] if node is None else [*node.inputs, *node.captured]
        nodes = [node.proto for node in donor.main.nodes if not reached.isdisjoint(node.outputs)]
        self._join_opsets(donor, nodes)
        folder = self._join_folders(donor)
        for name, tensor in donor.main.initializers.items():
            if name in reached:
                added = self.proto.graph.initializer.add()
                added.CopyFrom(tensor)
                added.name = rename(name)
                _rebase([added], donor.folder, folder)
        for node in nodes:
            copy = _renamed(node, rename)
            _rebase((tensor for body in _bodies(copy) for tensor in _stored(body)), donor.folder, folder)
            self.proto.graph.node.append(copy)
        return rename

    def writer(self, path: tuple[Step, ...] = ()) -> PatchWriter:
        """Return what appends to the graph at a path."""
        if path not in self._writers:
            prefix = f"{self.prefix}with_{len(self._writers)}_"
            self._writers[path] = PatchWriter(self.proto, self._graphs[path], prefix)
        return self._writers[path]

    def _divert(self, tap: Tap) -> tuple[str, PatchWriter]:
        """Have what computes a value give it under another name, and return that, with what appends beside it."""
        for node in self._graphs[tap.path].node:
            for place, output in enumerate(node.output):
                if output == tap.value:
                    self.replaced.append(tap)
                    node.output[place] = f"{self.prefix}own_{len(self.replaced)}"
                    return node.output[place], self.writer(tap.path)
        raise InputError(
            f"nothing computes {printable(tap.value)!r}, so nothing else can stand in its place: {self._model.name}",
            hint="inputs are fed: `-i` says what; weights are changed in the file",
        )

    def _give(self, tap: Tap, writer: PatchWriter, value: str, dtype: str, made: str) -> None:
        """Give a new value the name, the element type and, where it is codes, the codes of the one that it replaces."""
        if dtype != made:
            value = writer.cast(value, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        if tap.scale is None:
            self._end(tap, writer, "Identity", [value])
        else:
            self._end(tap, writer, "QuantizeLinear", [value, *tap.scale])

    def _end(self, tap: Tap, writer: PatchWriter, kind: str, inputs: Sequence[str]) -> None:
        """Write the last node of a replacement; in a body all of them move behind what computed the value."""
        writer.give(kind, inputs, tap.value)
        if tap.path:
            nodes = self._graphs[tap.path].node
            own = f"{self.prefix}own_{len(self.replaced)}"
            place = next(place for place, node in enumerate(nodes) if own in node.output) + 1
            first = next(place for place, node in enumerate(nodes) if own in node.input)
            for _ in range(first, len(nodes)):
                nodes.insert(place, nodes.pop())

    def _join_opsets(self, donor: Model, nodes: Sequence[NodeProto]) -> None:
        """Import what nodes of another model need; in another operator set they have to be the same as in this one."""
        own = {entry.domain or "ai.onnx": entry.version for entry in self.proto.opset_import}
        for domain, version in donor.opsets.items():
            if domain not in own:
                self.proto.opset_import.add(domain=domain, version=version)
                continue
            changed = None if own[domain] == version else _changed(nodes, domain, own[domain], version)
            if changed is not None:
                raise InputError(
                    f"{changed} is not the same in two operator sets {domain}: {own[domain]} of {self._model.name} and "
                    f"{version} of {donor.name}",
                    hint="record the value with `onnxscope features --arrays` and give that file, or convert one of "
                    "them with onnx.version_converter",
                )
        self.proto.ir_version = max(self.proto.ir_version, donor.proto.ir_version)

    def _join_folders(self, donor: Model) -> Path | None:
        folders = [str(folder) for folder in (self.folder, donor.folder) if folder is not None]
        try:
            folder = Path(os.path.commonpath(folders)) if folders else None
        except ValueError as error:  # two drives of Windows
            raise InputError(f"{self._model.name} and {donor.name} have no folder in common") from error
        _rebase(every_tensor(self.proto), self.folder, folder)
        self.folder = folder
        return folder


def _changed(nodes: Iterable[NodeProto], domain: str, own: int, other: int) -> str | None:
    """The first operator of some nodes, and of their bodies, that two versions of an operator set define otherwise."""
    for node in nodes:
        if (node.domain or "ai.onnx") == domain:
            schemas = [schema_of(node.op_type, node.domain, version) for version in (own, other)]
            if None in schemas or schemas[0].since_version != schemas[1].since_version:
                return str(node.op_type)
        inner = (_changed(body.node, domain, own, other) for body in _bodies(node))
        if (found := next(filter(None, inner), None)) is not None:
            return found
    return None


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def _stored(graph: GraphProto) -> Iterator[TensorProto]:
    """The tensors of a graph and of all that is nested in it."""
    for inner in walk_graphs(graph):
        yield from inner.initializer
        for node in inner.node:
            yield from (attribute.t for attribute in node.attribute if attribute.type == AttributeProto.TENSOR)


def _renamed(node: NodeProto, rename: Callable[[str], str]) -> NodeProto:
    """A node with new names, in its bodies too; what bodies declare of values inside is left out."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    for names in (copy.input, copy.output):
        names[:] = [rename(name) for name in names]
    for body in _bodies(copy):
        del body.value_info[:]
        inner = [_renamed(inner_node, rename) for inner_node in body.node]
        del body.node[:]
        body.node.extend(inner)
        for value in (*body.input, *body.output, *body.initializer):
            value.name = rename(value.name)
        for sparse in body.sparse_initializer:
            sparse.values.name = rename(sparse.values.name)
    return copy


def _rebase(tensors: Iterable[TensorProto], old: Path | None, new: Path | None) -> None:
    """Make the location of external data relative to another folder, above its own."""
    if old is None or new is None or old == new:
        return
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location" and tensor.data_location == TensorProto.EXTERNAL:
                entry.value = os.path.relpath(old / entry.value, new)
