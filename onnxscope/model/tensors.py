"""Where a model's tensors lie: check that their bytes are what they claim to be, and read them in place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

from onnxscope.base.text import printable
from onnxscope.errors import ModelError
from onnxscope.model.graph_checks import require_text
from onnxscope.model.graphs import graphs_of, walk_graphs
from onnxscope.model.skeleton import MappedFile, contained_path

__all__ = ["Storage", "every_tensor", "stored_tensors"]

_MAX_RANK = 64  # numpy's
_MAX_SHARED = 16  # how often a byte of external data may be a tensor's: layers share weights, a bomb has one hole
_MAX_WRITTEN_OUT = 256 << 20  # bytes of all sparse tensors of a model
_CONSTANT_FORMS = {
    "value_float": (AttributeProto.FLOAT, "f", TensorProto.FLOAT),
    "value_floats": (AttributeProto.FLOATS, "floats", TensorProto.FLOAT),
    "value_int": (AttributeProto.INT, "i", TensorProto.INT64),
    "value_ints": (AttributeProto.INTS, "ints", TensorProto.INT64),
    "value_string": (AttributeProto.STRING, "s", TensorProto.STRING),
    "value_strings": (AttributeProto.STRINGS, "strings", TensorProto.STRING),
}
"""What a Constant may hold in place of a tensor: the attribute's type and field, and what its elements become."""
_DECIMAL = re.compile(r"-?[0-9]{1,19}")
_SUB_BYTE_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


class Storage:
    """The tensors of one model, inline or in files inside its folder."""

    def __init__(self, folder: Path | None, file: MappedFile | None, *, where: str) -> None:
        """Open nothing yet.

        Args:
            folder: Resolved folder of external data, None for a model from memory without one.
            file: The model's own file, where there is one.
            where: The model's name, for messages.
        """
        self.folder = folder
        self._where = where
        self._files: dict[Path, MappedFile] = {file.path: file} if file else {}
        self._written_out = 0  # bytes of sparse tensors
        self._views: dict[tuple[Any, ...], np.ndarray[Any, Any]] = {}

    def check(self, proto: ModelProto) -> None:
        """Check every tensor of a stored model: of its graph, bodies, local functions and attributes.

        Raises:
            ModelError: A tensor's type, shape and bytes contradict each other, or its file is not to be trusted.
        """
        covered = 0
        for tensor in every_tensor(proto):
            self._check_tensor(tensor)
            if tensor.data_location == TensorProto.EXTERNAL:
                covered += self._external_range(tensor)[2]
        stored = sum(file.size_bytes for file in self._files.values())
        if covered > _MAX_SHARED * stored:
            raise ModelError(
                f"its tensors cover {covered:,} bytes of files that have {stored:,}, each byte more than "
                f"{_MAX_SHARED} times: {self._where}"
            )
        for sparse in _every_sparse(proto):
            self._places(sparse)

    def write_out(self, graph: GraphProto) -> None:
        """Give every checked sparse weight, and every Constant of another form, as a plain tensor in its place.

        They mean the same, and whoever reads a model then finds all of them where weights are. Sparse ones that would
        take more than 256 MB stay as they are.

        Raises:
            ModelError: The places in a sparse tensor are none of its own.
        """
        for inner in walk_graphs(graph):
            kept = [sparse for sparse in inner.sparse_initializer if not self._add_dense(inner, sparse)]
            if len(kept) < len(inner.sparse_initializer):
                del inner.sparse_initializer[:]
                inner.sparse_initializer.extend(kept)
            for node in inner.node:
                if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and len(node.attribute) == 1:
                    self._write_out_constant(node.attribute[0])

    def _add_dense(self, graph: GraphProto, sparse: SparseTensorProto) -> bool:
        dense = self._dense(sparse)
        if dense is not None:
            graph.initializer.append(dense)
        return dense is not None

    def _write_out_constant(self, attribute: AttributeProto) -> None:
        form, value = attribute.name, None
        if form == "sparse_value" and attribute.type == AttributeProto.SPARSE_TENSOR:
            value = self._dense(attribute.sparse_tensor)
        elif form in _CONSTANT_FORMS and attribute.type == _CONSTANT_FORMS[form][0]:
            _, field, elem_type = _CONSTANT_FORMS[form]
            stored = getattr(attribute, field)
            is_list = form.endswith("s")
            values = list(stored) if is_list else [stored]
            value = onnx.helper.make_tensor("", elem_type, [len(values)] if is_list else [], values)
        if value is not None:
            attribute.CopyFrom(onnx.helper.make_attribute("value", value))

    def _dense(self, sparse: SparseTensorProto) -> TensorProto | None:
        """A checked sparse tensor with its zeros written out, None where they are too many or no zeros."""
        kind = TensorProto.DataType.Name(sparse.values.data_type)
        if not sparse.HasField("values") or kind == "STRING" or kind in _SUB_BYTE_BITS:
            return None
        dims, values = tuple(sparse.dims), self.array(sparse.values)
        if self._written_out + math.prod(dims) * values.dtype.itemsize > _MAX_WRITTEN_OUT:
            return None
        places, shape = self._places(sparse)
        dense = np.zeros(shape, values.dtype)
        dense[tuple(places.T)] = values
        self._written_out += dense.nbytes
        return onnx.numpy_helper.from_array(dense.reshape(dims), sparse.values.name)

    def _places(self, sparse: SparseTensorProto) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
        """Where a sparse tensor's values stand, a row for each, in a dense one of the shape beside them, maybe flat.

        Raises:
            ModelError: They do not stand in it.
        """
        where = f"sparse tensor '{printable(sparse.values.name)}': {self._where}"
        dims, values, places = tuple(sparse.dims), tuple(sparse.values.dims), self.array(sparse.indices)
        if len(dims) > _MAX_RANK or any(side < 0 for side in dims):
            raise ModelError(f"the shape {list(dims)} is none: {where}")
        if sparse.indices.data_type != TensorProto.INT64 or len(values) != 1:
            raise ModelError(f"values and their places have to be lists, places of int64: {where}")
        shape: tuple[int, ...] = dims
        if places.shape == values:
            places, shape = places[:, np.newaxis], (math.prod(dims),)
        elif places.shape != (*values, len(dims)):
            raise ModelError(f"{values[0]} values at places of shape {list(places.shape)}: {where}")
        if any(((column < 0) | (column >= side)).any() for column, side in zip(places.T, shape, strict=True)):
            raise ModelError(f"a value lies outside of {list(dims)}: {where}")
        return places, shape

    @property
    def files(self) -> list[Path]:
        """The files that were opened, by name: the model's own, and those with external data."""
        return sorted(self._files)

    def release(self) -> None:
        """Let go of what was read of the files: onnxruntime maps them itself, and pages would count twice."""
        for file in self._files.values():
            file.release()

    def array(self, tensor: TensorProto) -> np.ndarray[Any, Any]:
        """Return the values of a tensor of this model, in place where the stored bytes allow it.

        Returns:
            A read-only array that may be a view of the mapped file, which is made once; types of 2, 4 and 6 bits are
            unpacked into a copy.
        """
        kind = TensorProto.DataType.Name(tensor.data_type)
        if tensor.data_location != TensorProto.EXTERNAL or kind in _SUB_BYTE_BITS:
            return self._read(tensor, kind)
        place = (*self._external_range(tensor), kind, tuple(tensor.dims))
        if place not in self._views:
            self._views[place] = self._read(tensor, kind)
        return self._views[place]

    def stored_bytes(self, tensor: TensorProto) -> int:
        """How many bytes of the file a tensor's values take; typed fields count as raw data would."""
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external_range(tensor)[2]
        if tensor.HasField("raw_data"):
            return len(tensor.raw_data)
        if tensor.data_type == TensorProto.STRING:
            return int(sum(map(len, tensor.string_data)))
        return _packed_bytes(tensor)

    def content(self, tensor: TensorProto) -> memoryview:
        """The bytes of a tensor of this model that holds raw data, inline or in a file, as they are stored."""
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external_bytes(tensor)
        return memoryview(tensor.raw_data)

    def _read(self, tensor: TensorProto, kind: str) -> np.ndarray[Any, Any]:
        external = tensor.data_location == TensorProto.EXTERNAL
        values: np.ndarray[Any, Any]
        if kind == "STRING":
            values = np.empty(len(tensor.string_data), object)
            values[:] = [text.decode("utf-8", errors="backslashreplace") for text in tensor.string_data]
            values = values.reshape(tuple(tensor.dims))
        elif not (external or tensor.HasField("raw_data")):
            values = onnx.numpy_helper.to_array(tensor)
        else:
            content = self._external_bytes(tensor) if external else memoryview(tensor.raw_data)
            if kind in _SUB_BYTE_BITS:
                inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(content))
                values = onnx.numpy_helper.to_array(inline)
            else:
                dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
                values = np.frombuffer(content, dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype)
                values = values.reshape(tuple(tensor.dims))
        values.flags.writeable = False
        return values

    def _external_bytes(self, tensor: TensorProto) -> memoryview:
        path, offset, length = self._external_range(tensor)
        return self._files[path].data[offset : offset + length]

    def _external_range(self, tensor: TensorProto) -> tuple[Path, int, int]:
        """Resolve and check where a tensor's external bytes are; maps the file when it is first met."""

        def owner() -> str:
            return f"'{printable(tensor.name)}': {self._where}"

        fields = {entry.key: entry.value for entry in tensor.external_data}
        if len(fields) < len(tensor.external_data):
            raise ModelError(f"external data of {owner()} names something twice")
        if self.folder is None:
            raise ModelError(
                f"external data of {owner()} needs a folder", hint="pass base_dir=, or give the model's path"
            )
        location = fields.get("location", "")
        if not location:
            raise ModelError(f"external data of {owner()} names no file")
        path = self.folder / location
        if path not in self._files:
            path = contained_path(self.folder, location, owner=owner())
            if path not in self._files:
                self._files[path] = MappedFile(path)
        available = self._files[path].size_bytes
        for key in ("offset", "length"):
            if key in fields and not _DECIMAL.fullmatch(fields[key]):
                raise ModelError(f"external data of {owner()} has an unreadable {key} '{printable(fields[key][:40])}'")
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", available - offset))
        if offset < 0 or length < 0 or offset + length > available:
            raise ModelError(
                f"external data of {owner()} covers bytes {offset} to {offset + length}, the file has {available}",
                hint="the data file is truncated or belongs to another export",
            )
        return path, offset, length

    def _check_tensor(self, tensor: TensorProto) -> None:
        external_data = (text for entry in tensor.external_data for text in (entry.key, entry.value))
        require_text((tensor.name, *external_data), where=self._where)
        where = f"tensor '{printable(tensor.name)}': {self._where}"
        if tensor.HasField("segment"):
            raise ModelError(f"stored in segments, which nothing supports: {where}")
        if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
            raise ModelError(f"unknown element type {tensor.data_type}: {where}")
        if any(dim < 0 for dim in tensor.dims):
            raise ModelError(f"negative dimension in {list(tensor.dims)}: {where}")
        if len(tensor.dims) > _MAX_RANK:
            raise ModelError(f"{len(tensor.dims)} dimensions, more than {_MAX_RANK}: {where}")
        # numpy cannot make an array of shape [2**62, 0], though it has no elements.
        if math.prod(filter(None, tensor.dims)) >= 1 << 59:
            raise ModelError(f"dimensions too large in {list(tensor.dims)}: {where}")
        kind = TensorProto.DataType.Name(tensor.data_type)
        count = math.prod(tensor.dims)
        external = tensor.data_location == TensorProto.EXTERNAL
        if kind == "STRING":
            if external or len(tensor.string_data) != count:
                raise ModelError(f"shape {list(tensor.dims)} does not fit {len(tensor.string_data)} strings: {where}")
            return
        if external or tensor.HasField("raw_data"):
            if external and tensor.HasField("raw_data"):
                raise ModelError(f"holds both inline and external data: {where}")
            stored = self._external_range(tensor)[2] if external else len(tensor.raw_data)
            needed = _packed_bytes(tensor)
        else:
            field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
            stored = len(getattr(tensor, field))
            if kind in ("COMPLEX64", "COMPLEX128"):
                needed = 2 * count
            elif _SUB_BYTE_BITS.get(kind, 8) < 6:  # 6-bit numbers are packed in raw data only
                needed = -(-count * _SUB_BYTE_BITS[kind] // 8)
            else:
                needed = count
        if stored != needed:
            unit = "bytes" if external or tensor.HasField("raw_data") else "numbers"
            raise ModelError(f"shape {list(tensor.dims)} of {kind} needs {needed} {unit}, {stored} are stored: {where}")


def _packed_bytes(tensor: TensorProto) -> int:
    """How many bytes a tensor's numbers take, those of less than 8 bits packed."""
    itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    bits = _SUB_BYTE_BITS.get(TensorProto.DataType.Name(tensor.data_type), 8 * itemsize)
    size_bytes: int = -(-math.prod(tensor.dims) * bits // 8)
    return size_bytes


def stored_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield the initializers and the constants of a stored model; a local function has its own once."""
    graphs = graphs_of(proto)
    for graph in graphs:
        yield from graph.initializer
    for owner in (*graphs, *proto.functions):
        for node in owner.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def every_tensor(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a stored model: of its graph, bodies, local functions and attributes."""
    graphs = graphs_of(proto)
    for graph in graphs:
        yield from graph.initializer
    for attribute in _attributes(proto, graphs):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
    for sparse in _every_sparse(proto):
        yield sparse.values
        yield sparse.indices


def _every_sparse(proto: ModelProto) -> Iterator[SparseTensorProto]:
    graphs = graphs_of(proto)
    for graph in graphs:
        yield from graph.sparse_initializer
    for attribute in _attributes(proto, graphs):
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            if sparse.HasField("values"):
                yield sparse


def _attributes(proto: ModelProto, graphs: Sequence[GraphProto]) -> Iterator[AttributeProto]:
    for owner in (*graphs, *proto.functions):
        for node in owner.node:
            yield from node.attribute
    for function in proto.functions:
        yield from function.attribute_proto
