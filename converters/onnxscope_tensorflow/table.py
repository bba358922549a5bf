"""The table of every variable: which initializer holds its values, bit for bit, or why none does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from onnx import numpy_helper

from onnxscope.errors import ConversionError
from onnxscope.model.provenance import ParameterRecord
from onnxscope_tensorflow.export import Exported

__all__ = ["make_table"]

_RANDOM_STATE = "seed_generator_state"
_CONVOLUTIONS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_MAX_RANK = 5  # beyond it there are too many permutations to try, and no layer has such a kernel


def make_table(
    exported: Exported, initializers: Sequence[str | None], layers: Sequence[str | None]
) -> tuple[ParameterRecord, ...]:
    """Describe every variable, in the framework's order, by comparing its bits with those in the model.

    Args:
        exported: Its graph has initializers already.
        initializers: Of each parameter, from `attach_parameters`.
        layers: Of each node, from `node_layers`.
    """
    return tuple(_Table(exported, layers).records(initializers))


class _Table:
    def __init__(self, exported: Exported, layers: Sequence[str | None]) -> None:
        self.exported = exported
        self.stored = {tensor.name: tensor for tensor in exported.model.graph.initializer}
        self.arrays: dict[str, Any] = {}
        self.read: dict[str, dict[str, None]] = {}  # layer to the initializers that its nodes read
        self.kernels: dict[str, str] = {}  # layer to the kernel of its convolution or matrix product
        for node, layer in zip(exported.model.graph.node, layers, strict=True):
            own = [name for name in node.input if name in self.stored]
            self.read.setdefault(layer or "", {}).update(dict.fromkeys(own))
            if layer and node.op_type in _CONVOLUTIONS and own:
                self.kernels.setdefault(layer, own[0])

    def records(self, initializers: Sequence[str | None]) -> Iterator[ParameterRecord]:
        for parameter, own in zip(self.exported.parameters, initializers, strict=True):
            record = ParameterRecord(
                name=parameter.name, layer=parameter.layer, shape=parameter.shape, dtype=parameter.dtype
            )
            yield self._locate(record, parameter.value(), own)

    def _locate(self, parameter: ParameterRecord, value: Any, own: str | None) -> ParameterRecord:
        """Return the record with the initializer that holds it, or with the reason why none does."""
        if own is not None:
            if _match(value, self._array(own)) != ():
                raise ConversionError(f"the initializer differs from its parameter: {parameter.name}")
            return replace(parameter, initializer=own)
        if parameter.name.rpartition("/")[2] == _RANDOM_STATE:
            return replace(parameter, reason="random state")
        if self.exported.handles:
            return replace(parameter, reason="not used by call()")
        near = list(self.read.get(parameter.layer, ()))
        far = [] if _is_plain(value) else [name for name in self.stored if name not in near]
        for name in (*near, *far):
            same = _match(value, self._array(name))
            if same is not None:
                return replace(parameter, initializer=name, permutation=same or None)
        return self._explain(parameter, value)

    def _explain(self, parameter: ParameterRecord, value: Any) -> ParameterRecord:
        """Do as `_locate` for a parameter that no initializer equals."""
        kernel = self.kernels.get(parameter.layer)
        if kernel is not None and value.ndim > 1:
            permutation = _rearranged(value.shape, tuple(self.stored[kernel].dims))
            if permutation is not None:
                return replace(parameter, initializer=kernel, permutation=permutation or None, folded=True)
        if kernel is not None and value.ndim == 1:
            for name in self.read[parameter.layer]:
                if name != kernel and self._array(name).size == value.size:
                    return replace(parameter, initializer=name, folded=True)
        into = self._folded_into(parameter.layer) if kernel is None else None
        if into is not None:
            return replace(parameter, reason=f"folded into {into}")
        reason = "rewritten by the exporter's optimizer" if value.any() else "dropped: all zeros"
        return replace(parameter, reason=reason)

    def _folded_into(self, norm: str) -> str | None:
        """Return the kernel whose numbers have changed in the layer that `norm` reads."""
        for layer in self.exported.feeds.get(norm, ()):
            owner = next((p for p in self.exported.parameters if p.layer == layer and len(p.shape) > 1), None)
            if (
                owner is not None
                and layer in self.kernels
                and _match(owner.value(), self._array(self.kernels[layer])) is None
            ):
                return owner.name
        return None

    def _array(self, name: str) -> Any:
        if name not in self.arrays:
            self.arrays[name] = numpy_helper.to_array(self.stored[name])
        return self.arrays[name]


def _is_plain(value: Any) -> bool:
    """Return whether equal values prove nothing: a constant, or a single number."""
    return bool(value.size < 2 or (value == value.flat[0]).all())


def _match(value: Any, stored: Any) -> tuple[int, ...] | None:
    """Return the permutation that makes `value` equal `stored` bit for bit, () for no change, None for no match."""
    if value.dtype != stored.dtype or value.size != stored.size:
        return None
    if value.ndim != stored.ndim:  # a bias with axes of length 1 added
        squeezed = tuple(dim for dim in stored.shape if dim != 1)
        return () if value.shape == squeezed and value.tobytes() == stored.tobytes() else None
    if value.shape == stored.shape and value.tobytes() == stored.tobytes():
        return ()
    for permutation in _permutations(value.shape, stored.shape):
        if value.transpose(permutation).tobytes() == stored.tobytes():
            return permutation
    return None


def _rearranged(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
    # A kernel becomes (outputs, inputs, height, width), or stays as it is.
    if len(shape) == len(wanted) and len(shape) > 2:
        usual = (len(shape) - 1, len(shape) - 2, *range(len(shape) - 2))
        if tuple(shape[axis] for axis in usual) == wanted:
            return usual
    if shape == wanted:
        return ()
    return next(_permutations(shape, wanted), None)


def _permutations(shape: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(shape) > _MAX_RANK or sorted(shape) != sorted(wanted):
        return
    for permutation in itertools.permutations(range(len(shape))):
        if tuple(shape[axis] for axis in permutation) == wanted:
            yield permutation
