"""NaN and infinities among stored numbers, found at the speed of reading: what `inspect` says of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import TensorProto

from onnxscope.model.loading import Model
from onnxscope.numerics.blocks import spans, widened

__all__ = ["Odd", "find_odd_numbers"]

Odd = tuple[int, int]
"""How many numbers are NaN, and how many infinite."""

_LOOKED_AT_BYTES = 256 << 20  # what `inspect` takes must not grow with the weights
_REAL = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def find_odd_numbers(
    model: Model, tensors: Iterable[TensorProto], *, limit_bytes: int = _LOOKED_AT_BYTES
) -> Mapping[int, Odd]:
    """Count NaN and infinities in stored tensors.

    Args:
        model: Whose they are.
        tensors: In the order in which they are looked at.
        limit_bytes: The first tensor with which they take more, and all behind it, are not looked at.

    Returns:
        The counts by the tensor's `id`; those that were not looked at are absent.
    """
    counts: dict[int, Odd] = {}
    for tensor in tensors:
        if id(tensor) in counts:
            continue
        if tensor.data_type in _REAL:
            limit_bytes -= model.storage.stored_bytes(tensor)
            if limit_bytes < 0:
                break
        counts[id(tensor)] = _count(model, tensor) if tensor.data_type in _REAL else (0, 0)
    return counts


def _count(model: Model, tensor: TensorProto) -> Odd:
    values = np.atleast_1d(model.array(tensor))
    nan = inf = 0
    for span in spans(values.shape):
        for place in span:
            block = widened(values[place])
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(block.sum()):  # what is not finite stays so in a sum, which is faster than to look
                    continue
            nan += int(np.isnan(block).sum())
            inf += int(np.isinf(block).sum())
    return nan, inf
