"""The constants that two models store: those in common, which one graph with both stores once, and those not read."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.base.text import printable
from onnxscope.comparison.weight_changes import WeightChange
from onnxscope.model.loading import Model
from onnxscope.numerics.distances import Tolerance, difference

__all__ = ["shared_constants", "unread_changes"]

_FIRST_BYTES = 64  # looked up before the rest is read


def shared_constants(a: Model, b: Model) -> dict[str, str]:
    """Return, for the constants of the second model's main graph that the first one's stores too, the first one's name.

    Args:
        a: The first model.
        b: The second model. Of several constants that are the same bytes, that of its own name is taken.
    """
    stored = {name: (tensor, _content(a, tensor)) for name, tensor in _stored(a).items()}
    known: dict[Hashable, list[str]] = {}
    for name, (tensor, content) in stored.items():
        known.setdefault(_start(tensor, content), []).append(name)
    shared = {}
    for name, tensor in _stored(b).items():
        content = _content(b, tensor)
        alike = known.get(_start(tensor, content), [])
        # One of the same name is the likeliest.
        for other in itertools.chain([name] if name in alike else [], alike):
            if np.array_equal(stored[other][1], content):
                shared[name] = other
                break
    return shared


def _stored(model: Model) -> Mapping[str, TensorProto]:
    constants = {
        node.outputs[0]: stored
        for node in model.main.nodes
        if node.op_type == "Constant" and (stored := model.main.stored(node.outputs[0])) is not None
    }
    tensors = {**model.main.initializers, **constants}
    return {name: tensor for name, tensor in tensors.items() if tensor.data_type != TensorProto.STRING}


def _content(model: Model, tensor: TensorProto) -> NDArray[np.uint8]:
    return np.ascontiguousarray(model.array(tensor)).reshape(-1).view(np.uint8)


def _start(tensor: TensorProto, content: NDArray[np.uint8]) -> Hashable:
    """What is looked up before all bytes are compared."""
    return tensor.data_type, tuple(tensor.dims), content[:_FIRST_BYTES].tobytes()


def unread_changes(a: Model, b: Model, tolerance: Tolerance | None = None) -> list[WeightChange]:
    """Return what is not the same about initializers that no output depends on; one left out does not count.

    Args:
        a: The first model.
        b: The second.
        tolerance: What numbers may be off by.
    """
    unread = _unread(a), _unread(b)
    changes = []
    for name in dict.fromkeys((*unread[0], *unread[1])):
        tensors = [model.main.initializers.get(name) for model in (a, b)]
        if tensors[0] is None or tensors[1] is None:
            side = "first" if tensors[1] is None else "second"
            message = f"only the {side} model has {printable(name)}, on which no output depends"
            kind = "removed" if tensors[1] is None else "added"
            changes.append(_change(name, kind, message, counts=False))
        elif name in unread[0] and name in unread[1]:
            values = a.array(tensors[0]), b.array(tensors[1])
            if values[0].dtype != values[1].dtype or not _are_same(values[0], values[1]):
                forgiven = tolerance is not None and _is_within(tolerance, *values)
                text = f"{_text(*values)}; within the tolerance" if forgiven else _text(*values)
                changes.append(_change(name, "changed", text, counts=not forgiven))
    return changes


def _unread(model: Model) -> list[str]:
    """Stored tensors that no output depends on and no layer has."""
    held = {value for layer in model.layers for part in layer.parts for value in part.inputs}
    stored = model.main.initializers.items()
    return [
        name
        for name, tensor in stored
        if name not in model.main.needed and name not in held and tensor.data_type != TensorProto.STRING
    ]


def _are_same(x: NDArray[Any], y: NDArray[Any]) -> bool:
    return x.shape == y.shape and np.ascontiguousarray(x).tobytes() == np.ascontiguousarray(y).tobytes()


def _is_within(tolerance: Tolerance, x: NDArray[Any], y: NDArray[Any]) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.dtype.kind != "b" and tolerance.forgives(x, y)


def _text(x: NDArray[Any], y: NDArray[Any]) -> str:
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{x.dtype}{list(x.shape)} became {y.dtype}{list(y.shape)}, on which no output depends"
    return f"{difference(x, y).text()}, on which no output depends"


def _change(name: str, kind: str, message: str, *, counts: bool) -> WeightChange:
    return WeightChange(
        a=None if kind == "added" else name,
        b=None if kind == "removed" else name,
        layer="",
        change=kind,
        max_abs=None,
        relative_l2=None,
        channels=(),
        message=message,
        counts=counts,
    )
