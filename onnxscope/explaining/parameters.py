"""What a node computes by, whether an attribute or a constant operand says so, its operator set's defaults included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto

from onnxscope.errors import OnnxscopeError
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import evaluate_constants
from onnxscope.structure.attributes import default_of, schema_of

__all__ = ["Parameter", "constant_of", "is_same", "parameters_of", "plain", "schema_for"]

_PLAIN = frozenset(
    {
        *("min", "max", "constant_value", "roi", "scales", "values", "ratio", "iou_threshold", "score_threshold"),
        *("depth", "start", "limit", "delta", "offset", "size"),
    }
)
"""Operands of any type that say how something is computed, as the operators call them; so do scales and zero points."""
_COUNTING = frozenset({"tensor(int32)", "tensor(int64)", "tensor(bool)"})
"""What an operand's type is where it can only be a size, a place or a choice."""
_QUANTIZING = ("_scale", "_zero_point")
_ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Where"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    }
)
_LEFT_OUT = frozenset({"consumed_inputs", "kernel_shape", "is_test"})
_MOST_NUMBERS = 65_536
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.SPARSE_TENSOR, AttributeProto.TYPE_PROTO)


@dataclass(frozen=True, eq=False)
class Parameter:
    """One of them.

    Attributes:
        name: The attribute's, or the operand's as the operator calls it.
        value: A number, a text, a list, or an array; None where there is none.
        position: Which input it is; None of an attribute.
        kind: ONNX's type of an attribute; 0 of an operand.
    """

    name: str
    value: Any
    position: int | None
    kind: int


def schema_for(model: Model, node: Node) -> Any:
    """Return onnx's schema of a node's operator in the model's operator set; None where it has none."""
    domain = "" if node.is_standard else node.domain
    return schema_of(node.op_type, domain, model.opsets.get(domain or "ai.onnx"))


def parameters_of(model: Model, node: Node) -> dict[str, Parameter]:
    """Return what a node computes by, without what was learned.

    Args:
        model: Whose node.
        node: Of any operator; of one that onnx does not know, what is written down alone.
    """
    schema = schema_for(model, node)
    found: dict[str, Parameter] = {}
    if schema is not None:
        for name, attribute in schema.attributes.items():
            kind = int(attribute.type.value)
            if name not in _LEFT_OUT and kind not in _GRAPHS:
                found[name] = Parameter(name, plain(default_of(schema, name)), None, kind)
    for stored in node.proto.attribute:
        if stored.name not in _LEFT_OUT and stored.type not in _GRAPHS:
            value = node.attribute(stored.name)
            held = model.array(value) if isinstance(value, TensorProto) and value.data_type else plain(value)
            found[stored.name] = Parameter(stored.name, held, None, int(stored.type))
    for position, name in enumerate(_operand_names(schema, node)):
        if not _says_how(model, node, schema, position, name):
            continue
        present = position < len(node.inputs) and node.inputs[position]
        value = constant_of(model, model.graphs[node.path], node.inputs[position]) if present else None
        if value is not None or not present:
            found[name] = Parameter(name, value, position, 0)
    return found


def constant_of(model: Model, graph: Graph, name: str) -> NDArray[Any] | None:
    """Return a small constant that a graph sees; None of what depends on an input, or is large."""
    if name not in graph.constants:
        return None
    stored = graph.stored(name)
    try:
        if stored is not None:
            small = np.prod(stored.dims, dtype=np.int64) <= _MOST_NUMBERS and stored.data_type != TensorProto.STRING
            return np.array(model.array(stored)) if small else None
        value = evaluate_constants(model, [name])[name] if graph.scope_of(name) is model.main else None
    except OnnxscopeError:
        return None
    return value if isinstance(value, np.ndarray) and value.dtype.kind != "O" and value.size <= _MOST_NUMBERS else None


def is_same(one: Any, other: Any) -> bool:
    """Whether two parameters hold the same numbers, one of them perhaps in an attribute; floats as float32 has them."""
    if one is None or other is None or isinstance(one, str) or isinstance(other, str):
        return one is other or (isinstance(one, str) and isinstance(other, str) and one == other)
    left, right = np.asarray(one), np.asarray(other)
    if left.dtype.kind in "OUS" or right.dtype.kind in "OUS":
        return bool(left.tolist() == right.tolist())
    if left.size != right.size or ((left.ndim > 1 or right.ndim > 1) and left.shape != right.shape):
        return False
    if left.dtype.kind == "f" or right.dtype.kind == "f":
        left, right = left.astype(np.float32), right.astype(np.float32)
    return bool(np.array_equal(left.reshape(-1), right.reshape(-1), equal_nan=left.dtype.kind == "f"))


def plain(value: Any) -> Any:
    """An attribute's value, or an array, with texts as texts and without numpy."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, np.ndarray | np.generic):
        return plain(np.asarray(value).astype(np.float64 if value.dtype.kind not in "biu" else value.dtype).tolist())
    if isinstance(value, float):
        return float(f"{np.float32(value)!s}")
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _operand_names(schema: Any, node: Node) -> list[str]:
    if node.op_type in _ELEMENTWISE and node.is_standard:
        return [f"input {position}" for position in range(len(node.inputs))]
    return [] if schema is None else [operand.name for operand in schema.inputs]


def _says_how(model: Model, node: Node, schema: Any, position: int, name: str) -> bool:
    if node.op_type in _ELEMENTWISE and node.is_standard:
        read = node.inputs[position]
        graph = model.graphs[node.path]
        stored = graph.stored(read) if read in graph.constants else None
        return stored is not None and np.prod(stored.dims, dtype=np.int64) == 1
    return position > 0 and (name in _PLAIN or name.endswith(_QUANTIZING) or _counts(schema, position))


def _counts(schema: Any, position: int) -> bool:
    """Whether an operand can only be whole numbers of some size: sizes, places, axes; QLinearConv's bias can, too."""
    return (
        schema.name != "QLinearConv"
        and position < len(schema.inputs)
        and set(schema.inputs[position].types) <= _COUNTING
    )
