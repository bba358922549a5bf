"""The sizes of a model's values where its symbolic dimensions have sizes: shapes that nodes compute are computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxscope.base import option_types
from onnxscope.base.shapes import is_symbol
from onnxscope.model.graphs import Step, ValueType, attribute_value, walk_graphs
from onnxscope.model.loading import Model
from onnxscope.model.stored_model import StoredModel
from onnxscope.model.type_inference import infer_types

__all__ = ["bind_sizes", "infer_sizes", "name_sizes"]

_Array = np.ndarray[Any, Any]
_Attributes = Mapping[str, Any]

_LONGEST_S = 30
_MOST_NUMBERS = 64  # of a tensor that is a shape, or a part of one
_NUMBERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL)


def bind_sizes(graph: GraphProto, size_of: Callable[[str], int | None]) -> None:
    """Write sizes in place of the symbolic dimensions that a graph and its bodies declare.

    Args:
        graph: It is changed.
        size_of: The size of a dimension, None where that is not known. An empty name stands for the first axis of an
            input that has no name for it.
    """
    stored = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        size = None if value.name in stored or not dims or dims[0].WhichOneof("value") else size_of("")
        if size is not None:
            dims[0].dim_value = size
    for inner in walk_graphs(graph):
        for value in (*inner.input, *inner.value_info, *inner.output):
            for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
                size = size_of(dim.dim_param) if dim.dim_param else None
                if size is not None:
                    dim.dim_value = size


def name_sizes(model: Model, dims: Mapping[str, int]) -> tuple[Model, dict[str, int]]:
    """Take sizes given as `INPUT:AXIS` for those of the symbols that stand there.

    Args:
        model: Whose inputs.
        dims: Sizes by the names of symbols, or as `INPUT:AXIS`.

    Returns:
        The model, or a copy where sizes stand in place of dimensions without a name; and sizes by name. What is no
        dimension of an input keeps its name.

    Raises:
        InputError: The sizes are not by name.
    """
    option_types.mapping("dims", dims, "sizes by the name of a dimension, or by `INPUT:AXIS`")
    named = dict(dims)
    unnamed: dict[str, tuple[int, int]] = {}
    for place, spec in enumerate(model.proto.graph.input):
        for axis, dim in enumerate(spec.type.tensor_type.shape.dim):
            name = f"{spec.name}:{axis}"
            if name not in dims or dim.WhichOneof("value") == "dim_value":
                continue
            size = named.pop(name)
            if is_symbol(dim.dim_param):
                named[dim.dim_param] = size
            else:
                unnamed[name] = (place, axis)
    if not unnamed:
        return model, named
    stated = ModelProto()
    stated.CopyFrom(model.proto)
    for name, (place, axis) in unnamed.items():
        stated.graph.input[place].type.tensor_type.shape.dim[axis].dim_value = dims[name]
    return model.rewritten(stated), named


def infer_sizes(
    model: StoredModel, size_of: Callable[[str], int | None]
) -> Mapping[tuple[Step, ...], Mapping[str, ValueType]]:
    """Infer the types of a model's values with sizes for its symbolic dimensions; see `infer_types`.

    onnx follows numbers through few operators: what exporters compute of a shape, in the main graph, is computed here,
    written into a copy as constants, and inferred again until nothing more is found.
    """
    stated = ModelProto()
    stated.CopyFrom(model.proto)
    bind_sizes(stated.graph, size_of)
    known = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in stated.graph.initializer
        if _is_small(tensor) and tensor.name not in model.main.inputs
    }
    end_s = time.monotonic() + _LONGEST_S
    while True:
        types = infer_types(model, stated)
        found = types.get((), {})
        if all(map(_is_whole, found.values())) or not _write_out(stated.graph, found, known):
            return types
        if time.monotonic() > end_s:
            return types


def _is_small(tensor: TensorProto) -> bool:
    is_inline = tensor.data_location != TensorProto.EXTERNAL
    return is_inline and tensor.data_type in _NUMBERS and math.prod(tensor.dims) <= _MOST_NUMBERS


def _is_whole(known: ValueType) -> bool:
    return known.shape is not None and all(isinstance(dim, int) for dim in known.shape)


def _write_out(graph: GraphProto, types: Mapping[str, ValueType], known: dict[str, _Array]) -> bool:
    """Write constants in place of nodes that compute known numbers of shapes, and say whether there were any."""
    before = len(known)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1 or node.output[0] in known:
            continue
        array = _computed(node, types, known)
        if array is None or array.size > _MOST_NUMBERS:
            continue
        known[node.output[0]] = array
        if node.op_type != "Constant":
            tensor = onnx.numpy_helper.from_array(array)
            node.CopyFrom(onnx.helper.make_node("Constant", [], [node.output[0]], name=node.name, value=tensor))
    return len(known) > before


def _computed(node: NodeProto, types: Mapping[str, ValueType], known: Mapping[str, _Array]) -> _Array | None:
    """What a node makes of known numbers, or of a known shape; None where it is not known, or may be something else."""
    attributes = {stored.name: attribute_value(stored) for stored in node.attribute}
    if node.op_type == "Constant":
        tensor = attributes.get("value")
        return onnx.numpy_helper.to_array(tensor) if isinstance(tensor, TensorProto) and _is_small(tensor) else None
    if node.op_type == "Shape":
        read = types.get(node.input[0])
        if read is None or read.shape is None or not _is_whole(read):
            return None
        return np.array(read.shape, np.int64)[attributes.get("start") : attributes.get("end")]
    if not all(name in known for name in node.input if name):
        return None
    operands = [known[name] if name else None for name in node.input]
    try:
        with np.errstate(all="ignore"):
            if node.op_type in _FUNCTIONS:
                return np.asarray(_FUNCTIONS[node.op_type](*operands))
            made = _OPERATORS[node.op_type](operands, attributes) if node.op_type in _OPERATORS else None
            return None if made is None else np.asarray(made)
    except (ValueError, IndexError, TypeError, KeyError, AttributeError):  # a node that nobody can compute
        return None


def _axes(read: Sequence[Any], attributes: _Attributes) -> tuple[int, ...]:
    axes = read[1] if len(read) > 1 and read[1] is not None else attributes["axes"]
    return tuple(int(axis) for axis in np.ravel(axes))


def _squeeze(read: Sequence[Any], attributes: _Attributes) -> Any:
    return np.squeeze(read[0], _axes(read, attributes))


def _unsqueeze(read: Sequence[Any], attributes: _Attributes) -> Any:
    return np.expand_dims(read[0], _axes(read, attributes))


def _slice(read: Sequence[Any], attributes: _Attributes) -> Any:
    if len(read) < 3 or read[0].ndim != 1:  # a shape; before operator set 10 the places were attributes
        return None
    step = int(read[4].item()) if len(read) > 4 else 1
    return read[0][int(read[1].item()) : int(read[2].item()) : step] if step > 0 else None


def _quotient(read: Sequence[Any], _attributes: _Attributes) -> Any:
    if read[0].dtype.kind == "f":
        return read[0] / read[1]
    return None if (read[1] <= 0).any() or (read[0] < 0).any() else read[0] // read[1]


def _remainder(read: Sequence[Any], _attributes: _Attributes) -> Any:
    return None if (read[1] <= 0).any() or (read[0] < 0).any() else read[0] % read[1]


def _reshape(read: Sequence[Any], _attributes: _Attributes) -> Any:
    return None if (read[1] == 0).any() else read[0].reshape(read[1])


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Ceil": np.ceil,
    "Equal": np.equal,
    "Floor": np.floor,
    "Identity": np.asarray,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Sub": np.subtract,
    "Where": np.where,
}
"""What numpy computes element by element as onnx does."""
_OPERATORS: Mapping[str, Callable[[Sequence[Any], _Attributes], Any]] = {
    "Cast": lambda read, attributes: read[0].astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])),
    "Concat": lambda read, attributes: np.concatenate(read, axis=attributes["axis"]),
    "Div": _quotient,
    "Gather": lambda read, attributes: np.take(read[0], read[1], axis=attributes.get("axis", 0)),
    "Mod": _remainder,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""How to compute what exporters compute of shapes."""
