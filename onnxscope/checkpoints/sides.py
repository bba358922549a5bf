"""The tensors of one file, a model's or a checkpoint's, with what is known of each before it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.errors import RunError
from onnxscope.model.loading import Model
from onnxscope.model.parameters import Parameter
from onnxscope.numerics.hashes import content_hash
from onnxscope.runtime.stored_values import Levels, read_levels, read_parameter

__all__ = ["Side", "Tensor"]

Array = NDArray[Any]
_UNREAD = (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor.

    Attributes:
        name: The parameter's name, or the constant's.
        layer: The layer that a parameter belongs to, empty where nobody knows.
        shape: Its sides.
        stored: numpy's name of the stored element type.
        model: Whose it is.
        parameter: What it is to the model; None for a constant of its computation.
        constant: The stored constant, None for a parameter.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    stored: str
    model: Model
    parameter: Parameter | None = None
    constant: TensorProto | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def is_coded(self) -> bool:
        """Whether integers are stored that stand for real numbers."""
        return self.parameter is not None and self.parameter.encoding is not None

    @cached_property
    def values(self) -> Array | None:
        """The numbers, read where they lie; None where they cannot be read."""
        if self.constant is not None:
            return self.model.array(self.constant)
        assert self.parameter is not None
        try:
            return read_parameter(self.model, self.parameter)
        except RunError:
            return None

    @cached_property
    def levels(self) -> Levels | None:
        """What its codes say; None for others, and where they cannot be read."""
        try:
            return None if self.parameter is None else read_levels(self.model, self.parameter)
        except RunError:
            return None

    @cached_property
    def _contents(self) -> dict[str, str | None]:
        return {}

    def content(self, stored: str) -> str | None:
        """A digest of its numbers, in an element type and in whatever order; None for fewer than two."""
        if stored not in self._contents:
            values = self.values
            if values is not None and values.dtype.name != stored:
                with np.errstate(over="ignore", invalid="ignore"):
                    values = values.astype(stored)
            self._contents[stored] = None if values is None else content_hash(values)
        return self._contents[stored]

    @cached_property
    def is_constant(self) -> bool:
        """Whether it is one number over and over."""
        values = self.values
        return values is None or values.size < 2 or bool(np.all(values == values.reshape(-1)[0]))


class Side:
    """The tensors of one file."""

    def __init__(self, model: Model) -> None:
        """List them; none is read."""
        self.model = model
        self.tensors: Sequence[Tensor] = [
            Tensor(each.name, each.layer, each.shape, each.dtype, model, parameter=each) for each in model.parameters
        ]
        listed = {(parameter.graph.path, parameter.initializer) for parameter in model.parameters}
        self.constants: Sequence[Tensor] = [
            Tensor(name, "", tuple(tensor.dims), _dtype(tensor), model, constant=tensor)
            for graph in model.graphs.values()
            for name, tensor in graph.initializers.items()
            if (graph.path, name) not in listed and tensor.data_type not in _UNREAD
        ]
        self.named: Mapping[str, Tensor] = {tensor.name: tensor for tensor in self.tensors}
        self.steered: Mapping[str, str] = {
            value: each.name for each in model.parameters if each.encoding is not None for value in each.encoding.values
        }
        self.reasons: Mapping[str, str] = dict(model.absent)
        self._biases = {
            tensor.parameter.operand.node: tensor
            for tensor in self.tensors
            if tensor.parameter is not None and tensor.parameter.operand is not None and tensor.parameter.role == "bias"
        }

    def bias_of(self, weight: Tensor) -> Tensor | None:
        """The bias that is added behind a weight: that of its node, else the one that is called like it."""
        operand = None if weight.parameter is None else weight.parameter.operand
        if operand is not None:
            own = self._biases.get(operand.node)
            if own is not None:
                return own
        for end in ("weight", "kernel"):
            if weight.name.endswith(end):
                return self.named.get(weight.name.removesuffix(end) + "bias")
        return None


def _dtype(tensor: TensorProto) -> str:
    import onnx

    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name)
