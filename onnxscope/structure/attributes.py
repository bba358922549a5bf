"""The attributes of a node as a comparison sees them: without defaults, of any kind, ready for strict JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, defs

from onnxscope.base.text import printable
from onnxscope.model.graphs import Node, attribute_value
from onnxscope.model.tensors import Storage

__all__ = [
    "attribute_text",
    "attributes_of",
    "default_of",
    "digest_of",
    "is_same_value",
    "plain_attribute",
    "schema_of",
]

# Attributes that say how a result is computed or laid out, not what it is.
_INDIFFERENT = frozenset({"auto_pad", "transA", "transB", "perm", "consumed_inputs", "is_test", "training_mode"})
_SHOWN_DIGITS = 8  # of a digest
_NEUTRAL: dict[str, int] = {"pads": 0, "output_padding": 0, "strides": 1, "dilations": 1}  # along every axis


def attributes_of(node: Node, storage: Storage) -> dict[str, Any]:
    """Return a node's attributes without defaults, so that leaving one out and writing it down is the same.

    Args:
        node: Of any operator.
        storage: Of the node's model; reads the tensors among its attributes.

    Returns:
        Values ready for strict JSON, in the stored order of names. Numbers and texts are themselves. An object stands
        for what JSON lacks: `float` for NaN and infinities, `bytes` for a text that is not UTF-8, and `tensor`,
        `sparse_tensor`, `graph` and `type` for what is told by a digest.
    """
    attributes: dict[str, Any] = {}
    for attribute in node.proto.attribute:
        value = node.attribute(attribute.name)
        if value is not None and attribute.name not in _INDIFFERENT and not _is_default(node, attribute.name, value):
            attributes[attribute.name] = plain_attribute(value, storage)
    return attributes


def attribute_text(value: Any, missing: str = "by default") -> str:
    """Return a plain attribute, or the text of an operand, in words; `missing` where there is none."""
    if value is None:
        return missing
    if isinstance(value, dict) and "list" in value:
        return f"{value['length']:,} values ({value['list'][:_SHOWN_DIGITS]})"
    if isinstance(value, list):
        return printable(f"[{', '.join(f'{_as_stored(item)!s}' for item in value)}]")
    return printable(f"{_as_stored(value)!s}")


def _as_stored(value: Any) -> Any:
    return np.float32(value) if isinstance(value, float) else value  # which is what an attribute holds


def schema_of(op_type: str, domain: str, opset: int | None = None) -> Any:
    """Return onnx's own schema of an operator, the newest one without an operator set; None where it has none."""
    try:
        return defs.get_schema(op_type, domain) if opset is None else defs.get_schema(op_type, opset, domain)
    except defs.SchemaError:
        return None


def default_of(schema: Any, name: str) -> Any:
    """Return the value of an attribute that holds where it is left out; None where there is none."""
    if schema is None or name not in schema.attributes:
        return None
    stored = schema.attributes[name].default_value
    return attribute_value(stored) if stored.type != AttributeProto.UNDEFINED else None


def is_same_value(value: Any, default: Any) -> bool:
    """Whether a value is the default, both as onnx reads them; floats as float32 has them."""
    if isinstance(value, float) and isinstance(default, float):
        return bool(np.float32(value) == np.float32(default))
    return type(value) is type(default) and bool(value == default)


def _is_default(node: Node, name: str, value: Any) -> bool:
    if isinstance(value, list):
        return name == "kernel_shape" or all(side == _NEUTRAL.get(name) for side in value)
    default = default_of(schema_of(node.op_type, "" if node.is_standard else node.domain), name)
    return default is not None and is_same_value(value, default)


def plain_attribute(value: Any, storage: Storage) -> Any:
    """Return an attribute's value as JSON holds it, not to be taken for a value of another kind."""
    if isinstance(value, list):
        return [plain_attribute(item, storage) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": f"{value}"}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": _digest([value]), "size_bytes": len(value)}
    if isinstance(value, TensorProto):
        return _tensor(value, storage)
    if isinstance(value, SparseTensorProto):
        stored = [_tensor(part, storage) for part in (value.values, value.indices)]
        return {"sparse_tensor": digest_of(stored), "dtype": stored[0]["dtype"], "shape": list(value.dims)}
    if isinstance(value, GraphProto):
        return {"graph": digest_of(_graph(value, storage)), "nodes": len(value.node)}
    if isinstance(value, TypeProto):
        return {"type": _digest([_bytes_of(value)]), "kind": value.WhichOneof("value")}
    return value


def _tensor(tensor: TensorProto, storage: Storage) -> dict[str, Any]:
    """A tensor by its numbers, wherever and however they are stored, and not by its name."""
    shape = list(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        return {"tensor": _digest(tensor.string_data), "dtype": "str", "shape": shape}
    if not tensor.data_type:  # left out
        return {"tensor": _digest([]), "dtype": None, "shape": shape}
    values = storage.array(tensor)
    return {"tensor": _digest([np.ascontiguousarray(values).tobytes()]), "dtype": values.dtype.name, "shape": shape}


def _graph(graph: GraphProto, storage: Storage) -> list[Any]:
    """What a graph computes, with its values numbered as they appear: exporters make their names up."""
    numbers: dict[str, int] = {}

    def numbered(names: Iterable[str]) -> list[int]:
        return [numbers.setdefault(name, len(numbers)) if name else -1 for name in names]

    def attributes(node: NodeProto) -> dict[str, Any]:
        return {
            stored.name: plain_attribute(attribute_value(stored), storage)
            for stored in sorted(node.attribute, key=_name)
        }

    given: list[Any] = [[numbered([value.name]), _digest([_bytes_of(value.type)])] for value in graph.input]
    given += [[numbered([tensor.name]), _tensor(tensor, storage)] for tensor in graph.initializer]
    given += [[numbered([sparse.values.name]), plain_attribute(sparse, storage)] for sparse in graph.sparse_initializer]
    nodes = [
        [node.domain, node.op_type, numbered(node.input), numbered(node.output), attributes(node)]
        for node in graph.node
    ]
    return [given, nodes, numbered(value.name for value in graph.output)]


def _name(attribute: AttributeProto) -> str:
    return attribute.name


def _bytes_of(declared: TypeProto) -> bytes:
    return bytes(declared.SerializeToString(deterministic=True))


def digest_of(record: Any) -> str:
    """Return a digest of what JSON can hold."""
    return _digest([json.dumps(record).encode()])


def _digest(pieces: Iterable[bytes]) -> str:
    """The first half of the SHA-256 of some pieces and of where one ends."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(len(piece).to_bytes(8, "little") + piece)
    return whole.hexdigest()[:32]
