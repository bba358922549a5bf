"""Operators that this onnxruntime does not know: what depends on them, and a model without all that.

What does not depend on them can still be looked at: onnxruntime gets a copy that ends before them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from functools import cache

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.runtime.custom_libraries import holds_operator

__all__ = ["cut_off", "reason_cut_off", "without_unknown"]

_STANDARD = ("", "ai.onnx")
_cut_off: weakref.WeakKeyDictionary[Model, Mapping[str, str]] = weakref.WeakKeyDictionary()


def cut_off(model: Model) -> Mapping[str, str]:
    """Return the values of the main graph that depend on an operator which onnxruntime does not know, with its name."""
    known = _cut_off.get(model)
    if known is None:
        known = _cut_off[model] = _find(model)
    return known


def reason_cut_off(operator: str) -> str:
    """Why a value that depends on an operator cannot be computed, in a few words."""
    unknown = f"{printable(operator)}, an operator that onnxruntime does not know"
    return f"it depends on {unknown}; `--custom-ops` names its library"


def without_unknown(model: Model, proto: ModelProto) -> ModelProto:
    """Return a model that ends before operators which onnxruntime does not know: itself where it has none of them.

    Args:
        model: What `proto` was made from.
        proto: The model, or a copy to which nodes were appended.

    Raises:
        RunError: Nothing that it gives is left.
    """
    values = dict(cut_off(model))
    if not values:
        return proto
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    for node in proto.graph.node:
        reason = next((values[name] for name in (*node.input, *node.output) if name in values), None)
        if reason is None:
            copy.graph.node.add().CopyFrom(node)
        else:
            values.update((output, reason) for output in node.output if output)
    del copy.graph.output[:]
    copy.graph.output.extend(output for output in proto.graph.output if output.name not in values)
    if not copy.graph.output:
        reason = reason_cut_off(next(iter(values.values())))
        raise RunError(f"onnxruntime cannot run the model (every output: {reason}): {model.name}")
    return copy


def _find(model: Model) -> dict[str, str]:
    functions = {(function.domain, function.name) for function in model.proto.functions}
    values: dict[str, str] = {}
    for node in model.main.nodes:
        reason = next((values[name] for name in (*node.inputs, *node.captured) if name in values), None)
        reason = reason or _unknown_in(model, node, functions)
        if reason is not None:
            values.update((output, reason) for output in node.outputs if output)
    return values


def _unknown_in(model: Model, node: Node, functions: set[tuple[str, str]]) -> str | None:
    """The first operator that onnxruntime does not know of a node and its bodies."""
    for proto in _nodes(node.proto):
        kind = (proto.domain, proto.op_type)
        if proto.domain in _STANDARD or kind in functions or kind in _known():
            continue
        version = model.opsets.get(proto.domain, 1)
        if not model.custom_ops or not holds_operator(model.custom_ops, *kind, version):
            return ".".join(kind)
    return None


def _nodes(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for attribute in node.attribute:
        bodies: list[GraphProto] = [attribute.g] if attribute.type == AttributeProto.GRAPH else [*attribute.graphs]
        for body in bodies:
            for inner in body.node:
                yield from _nodes(inner)


@cache
def _known() -> frozenset[tuple[str, str]]:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    schemas = (*onnx.defs.get_all_schemas_with_history(), *get_all_operator_schema())
    return frozenset((schema.domain, schema.name) for schema in schemas)
