"""Which stored constants two models have in common, byte by byte, so that one graph with both stores them once."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.model.loading import Model

__all__ = ["shared_constants"]

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
