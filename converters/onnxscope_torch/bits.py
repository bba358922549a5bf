"""Compare a module's tensors with stored ones by their bits, so that NaN, -0 and bfloat16 need no special care."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["digest", "match", "state_tensors"]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MAX_PERMUTED_RANK = 4


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by their state_dict keys: the tensors themselves, so that tied ones are one."""
    return {key: value for key, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def digest(tensor: Tensor) -> tuple[object, ...]:
    """Return a key that two tensors share where shape, element type and bits are the same."""
    return tuple(tensor.shape), tensor.dtype, hashlib.sha256(np.ascontiguousarray(_bits(tensor)).data).digest()


def match(tensor: Tensor, stored: onnx.TensorProto) -> tuple[int, ...] | None:
    """Return () where both hold the same bits, the permutation of axes that makes them the same, or None."""
    values = _bits(tensor)
    dims = tuple(stored.dims)
    if values.nbytes != len(stored.raw_data) or sorted(dims) != sorted(values.shape):
        return None
    stored_values = np.frombuffer(stored.raw_data, values.dtype).reshape(dims)
    if dims == values.shape and np.array_equal(values, stored_values):
        return ()
    if values.ndim > _MAX_PERMUTED_RANK:
        return None
    for order in itertools.permutations(range(values.ndim)):
        if dims == tuple(values.shape[axis] for axis in order) and np.array_equal(
            values.transpose(order), stored_values
        ):
            return order
    return None


def _bits(tensor: Tensor) -> NDArray[np.generic]:
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return tensor.resolve_conj().numpy()
    bits: NDArray[np.generic] = tensor.contiguous().view(_INTEGERS[tensor.element_size()]).numpy()
    return bits
