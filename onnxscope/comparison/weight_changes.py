"""The weights of two aligned layers: equal, renamed, permuted, folded, quantized, or changed, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.graphs import Node
from onnxscope.model.layer_names import Names, Operand
from onnxscope.model.layers import Layer
from onnxscope.model.parameters import find_parameters
from onnxscope.numerics.weight_blocks import (
    Difference,
    describe_permutation,
    difference,
    flattened_otherwise,
    row_blocks,
    row_hashes,
    same_numbers,
)
from onnxscope.runtime.stored_values import read_operand

__all__ = ["LayerWeights", "StoredWeight", "WeightChange", "compare_weights", "one_sided"]

Array = NDArray[Any]
_FOLDING_RTOL = 1e-5  # folding rounds to float32 a few times over
_NORM = "norm."


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One weight of a layer.

    Attributes:
        name: The parameter's name.
        values: With the output channels along axis 0; read where they lie.
        stored: numpy's name of the stored element type.
        quantized: Whether `values` are the real numbers behind stored integers.
    """

    name: str
    values: Array
    stored: str
    quantized: bool


@dataclass(frozen=True)
class WeightChange:
    """What became of one weight.

    Attributes:
        a: Its name in the first model, None where it has none.
        b: Its name in the second.
        layer: The layer that it belongs to, in the first model where it is there.
        change: `changed`, `rounded`, `quantized`, `added` or `removed`; `renamed`, `permuted`, `reshaped` or `folded`.
        max_abs: Largest absolute difference, None where there is none to tell.
        relative_l2: Euclidean norm of the difference, over that of the first model's weight.
        channels: Output channels that differ, ascending.
        message: In words.
        counts: Whether it makes the models differ.
    """

    a: str | None
    b: str | None
    layer: str
    change: str
    max_abs: float | None
    relative_l2: float | None
    channels: tuple[int, ...]
    message: str
    counts: bool

    def to_dict(self) -> dict[str, Any]:
        """The row in `onnxscope.diff/1`."""
        return {
            "a": self.a,
            "b": self.b,
            "layer": self.layer,
            "change": self.change,
            "max_abs": self.max_abs,
            "relative_l2": self.relative_l2,
            "channels": list(self.channels),
            "message": self.message,
            "counts": self.counts,
        }


class LayerWeights:
    """Reads the weights of the layers of one model."""

    def __init__(self, names: Names) -> None:
        """Name the parameters; nothing is read yet."""
        self._names = names
        self._model = names.model
        self._named: dict[tuple[str, str], str] = {}
        self._keys: dict[Layer, str | None] = {}
        for parameter in find_parameters(names.model)[0]:
            operand = parameter.operand
            alias = operand.origin.alias if operand is not None and operand.origin is not None else ""
            self._named[parameter.initializer, alias] = parameter.name

    def read(self, layer: Layer) -> dict[str, StoredWeight]:
        """Return a layer's weights by role; those of an absorbed BatchNorm have roles that start with `norm.`."""
        found: dict[str, StoredWeight] = {}
        for node in layer.parts:
            for operand in self._names.operands(node):
                if operand.origin is None and node.path:
                    continue  # computed inside a body
                role = _role(layer, operand)
                weight = self._stored(layer, operand, role)
                if weight is not None:
                    found.setdefault(role, weight)
        return found

    def content(self, layer: Layer) -> str | None:
        """A digest of a layer's main weight that no permutation of its numbers changes; None where it has none."""
        if layer not in self._keys:
            weight = self.read(layer).get("weight")
            hashes = None if weight is None or weight.values.size < 2 else row_hashes(weight.values)
            total = None if hashes is None else int(hashes.sum(dtype=np.uint64))
            self._keys[layer] = None if total is None else f"{total:016x}"
        return self._keys[layer]

    def _stored(self, layer: Layer, operand: Operand, role: str) -> StoredWeight | None:
        origin = operand.origin
        if operand.node.path and (origin is None or origin.permutation is None):
            return None
        values = read_operand(self._model, operand)
        if values.dtype.kind in "OUSc":
            return None
        name = f"{layer.name}.{role}"
        quantized = operand.node.op_type in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
        stored = values.dtype.name
        if origin is not None:
            name = self._named.get((origin.value, origin.alias), name)
            quantized = quantized or origin.dequantized is not None
            tensor = self._model.graphs[operand.node.path].stored(origin.value)
            if tensor is not None:
                stored = np.dtype(_stored_type(tensor.data_type)).name
        return StoredWeight(name, _outputs_first(operand, values), stored, quantized)


def compare_weights(
    a: Layer, b: Layer, held_a: Mapping[str, StoredWeight], held_b: Mapping[str, StoredWeight], before: int | None
) -> list[WeightChange]:
    """Compare the weights of two aligned layers.

    Args:
        a: The first model's layer.
        b: The second's.
        held_a: The weights of `a`, by role.
        held_b: The weights of `b`.
        before: Channels of the layer that `a` reads, where it reads one: a Linear behind a Flatten may hold its inputs
            in the order of another layout.

    Returns:
        What is not the same bits under the same name, by role.
    """
    if (a.norm is None) != (b.norm is None) and "weight" in held_a and "weight" in held_b:
        found = _compare_folded(a, b, held_a, held_b)
        if found is not None:
            return found
    changes = []
    for role in dict.fromkeys((*held_a, *held_b)):
        left, right = held_a.get(role), held_b.get(role)
        if left is not None and right is not None:
            change = _compare_one(a, b, role, left, right, before)
            changes += [] if change is None else [change]
        elif role.startswith(_NORM) and (a.norm is None or b.norm is None):
            continue  # one line for the whole BatchNorm, below
        else:
            changes += _missing(a, left, right)
    if (a.norm is None) != (b.norm is None):
        gone = a.norm is not None
        layer = _norm_name(held_a if gone else held_b)
        message = f"the BatchNorm {layer} is {'missing in the second model' if gone else 'new in the second model'}"
        first, second = (layer, None) if gone else (None, layer)
        kind = "removed" if gone else "added"
        changes.append(WeightChange(first, second, a.name, kind, None, None, (), message, True))
    return changes


def one_sided(layer: Layer, held: Mapping[str, StoredWeight], *, removed: bool) -> list[WeightChange]:
    """Return a change for every weight of a layer that is aligned with none."""
    changes = []
    for weight in held.values():
        first, second = (weight.name, None) if removed else (None, weight.name)
        message = f"only the {'first' if removed else 'second'} model has {weight.name} {list(weight.values.shape)}"
        kind = "removed" if removed else "added"
        changes.append(WeightChange(first, second, layer.name, kind, None, None, (), message, True))
    return changes


def _role(layer: Layer, operand: Operand) -> str:
    if operand.node is layer.node:
        return operand.role
    if operand.node is layer.norm:
        return _NORM + operand.role
    if operand.node.op_type == "Add" and "Linear Conv".find(layer.kind) >= 0:
        return "bias"
    return f"{operand.node.op_type.lower()}.{operand.role}"


def _stored_type(elem_type: int) -> Any:
    import onnx

    return onnx.helper.tensor_dtype_to_np_dtype(elem_type)


def _outputs_first(operand: Operand, values: Array) -> Array:
    """The same numbers with the output channels along axis 0."""
    node = operand.node
    if operand.role == "bias" and values.ndim > 1 and values.size == max(values.shape):
        return values.reshape(-1)
    if not operand.role.startswith("weight") or values.ndim < 2:
        return values
    if node.op_type == "ConvTranspose":
        groups = int(node.attribute("group") or 1)
        if values.shape[0] % groups:
            return values
        split = values.reshape(groups, values.shape[0] // groups, *values.shape[1:])
        return split.swapaxes(1, 2).reshape(groups * values.shape[1], -1, *values.shape[2:])
    if node.op_type in ("Gemm", "FusedGemm"):
        transposed = bool(node.attribute("transA" if operand.position == 0 else "transB"))
        return values if transposed == (operand.position == 1) else values.T
    if node.op_type in ("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul") and operand.position != 0:
        return np.moveaxis(values, -1, 0)
    return values


def _missing(a: Layer, left: StoredWeight | None, right: StoredWeight | None) -> list[WeightChange]:
    present = left or right
    assert present is not None
    if not np.any(present.values):
        return []  # exporters leave out a bias of zeros
    return one_sided(a, {"": present}, removed=right is None)


def _compare_one(
    a: Layer, b: Layer, role: str, left: StoredWeight, right: StoredWeight, before: int | None
) -> WeightChange | None:
    x, y = left.values, right.values
    names = (left.name, right.name)

    def change(kind: str, message: str, *, counts: bool, seen: Difference | None = None) -> WeightChange:
        found = seen or Difference()
        return WeightChange(*names, a.name, kind, found.largest, found.relative, found.channels, message, counts)

    if x.shape != y.shape:
        if x.size == y.size and x.size and difference(x.reshape(-1), y.reshape(-1)).equal:
            return change("reshaped", f"{_text(x.shape)} became {_text(y.shape)}, the same numbers", counts=False)
        if x.size == y.size and same_numbers(x, y):
            message = f"{_text(x.shape)} became {_text(y.shape)}, the same numbers in another order"
            return change("permuted", message, counts=True)
        return change("changed", f"{_text(x.shape)} became {_text(y.shape)}", counts=True)
    seen = difference(x, y)
    if seen.equal:
        renamed = left.name != right.name
        return change("renamed", f"{left.name} is called {right.name}", counts=False, seen=seen) if renamed else None
    if left.quantized != right.quantized or (left.quantized and left.stored != right.stored):
        stored = right.stored if right.quantized else left.stored
        message = f"stored as {stored}: {seen.text()}, signal-to-noise {_decibels(seen.relative)}"
        return change("quantized", message, counts=True, seen=seen)
    if left.stored != right.stored and _rounds(x, y, left.stored, right.stored):
        message = f"{left.stored} became {right.stored}: {seen.text()}"
        return change("rounded", message, counts=True, seen=seen)
    if before and x.ndim == 2 and x.shape[1] % before == 0 and flattened_otherwise(x, y, before):
        message = f"the same numbers, with the inputs in the order of the other layout ({before} channels)"
        return change("permuted", message, counts=False)
    if role == "weight" and x.ndim > 1:
        order = describe_permutation(x, y)
        if order is not None:
            return change("permuted", order, counts=True, seen=seen)
    return change("changed", seen.text(), counts=True, seen=seen)


def _rounds(x: Array, y: Array, stored_x: str, stored_y: str) -> bool:
    narrow, wide, target = (y, x, stored_y) if np.dtype(y.dtype).itemsize <= x.dtype.itemsize else (x, y, stored_x)
    try:
        dtype = np.dtype(target)
    except TypeError:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(wide.astype(dtype), narrow.astype(dtype), equal_nan=dtype.kind == "f"))


def _affine(layer: Layer, held: Mapping[str, StoredWeight]) -> tuple[Array, Array] | None:
    """Scale and offset that the absorbed BatchNorm applies, in float64; None where its numbers are not all stored."""
    norm = layer.norm
    keys = ("weight", "bias", "running_mean", "running_var")
    if norm is None or any(_NORM + key not in held for key in keys):
        return None
    gamma, beta, mean, variance = (held[_NORM + key].values.astype(np.float64) for key in keys)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + _epsilon(norm))
    return scale, beta - mean * scale


def _epsilon(norm: Node) -> float:
    stored = norm.attribute("epsilon")
    return 1e-5 if stored is None else float(stored)


def _compare_folded(
    a: Layer, b: Layer, held_a: Mapping[str, StoredWeight], held_b: Mapping[str, StoredWeight]
) -> list[WeightChange] | None:
    """Compare what a convolution and its BatchNorm do together with one that holds both; None where nothing fits."""
    with_norm, plain = (held_a, held_b) if a.norm is not None else (held_b, held_a)
    affine = _affine(a if a.norm is not None else b, with_norm)
    full, folded = with_norm["weight"], plain["weight"]
    if affine is None or full.values.shape != folded.values.shape or len(affine[0]) != len(full.values):
        return None
    scale, offset = affine
    size = np.zeros(len(scale))
    bias = _bias(with_norm, size) * scale + offset
    norm = _norm_name(with_norm)
    epsilon = _epsilon(a.norm if a.norm is not None else b.norm)  # type: ignore[arg-type]
    formula = f"{full.name} x {norm}.weight / sqrt({norm}.running_var + {epsilon:.3g})"
    weight_seen = difference(full.values, folded.values, scale, _FOLDING_RTOL)
    parts = np.abs(_bias(with_norm, size) * scale) + np.abs(offset) + np.abs(with_norm[_NORM + "bias"].values)
    gap = np.abs(_bias(plain, size) - bias)
    off = np.flatnonzero(~(gap <= _FOLDING_RTOL * (parts + 0.1 * parts.max(initial=0.0))))

    def change(kind: str, message: str, seen: Difference, *, counts: bool) -> WeightChange:
        return WeightChange(
            held_a["weight"].name,
            held_b["weight"].name,
            a.name,
            kind,
            seen.largest,
            seen.relative,
            seen.channels,
            message,
            counts,
        )

    if folded.quantized and not full.quantized:
        seen = difference(full.values, folded.values, scale)
        noise = f"signal-to-noise {_decibels(seen.relative)}"
        message = f"{folded.name} = {formula}, stored as {folded.stored}: {seen.text()}, {noise}"
        return [change("quantized", message, seen, counts=True)]
    if weight_seen.equal:
        changes = [change("folded", f"{folded.name} = {formula}", weight_seen, counts=False)]
        if len(off):
            largest = float(gap.max())
            message = f"the bias does not hold what {norm} shifts: largest difference {largest:.3g}"
            first, second = (held["bias"].name if "bias" in held else None for held in (held_a, held_b))
            channels = tuple(off.tolist())
            changes.append(WeightChange(first, second, a.name, "changed", largest, None, channels, message, True))
        return changes
    if difference(full.values, folded.values).equal:
        return None  # not folded, but left out
    found = _other_epsilon(full.values, folded.values, with_norm)
    if found is not None:
        message = f"{folded.name} = {formula}, but with an epsilon of {found:.3g}: {weight_seen.text()}"
        return [change("changed", message, weight_seen, counts=True)]
    return [change("changed", f"not {formula}: {weight_seen.text()}", weight_seen, counts=True)]


def _bias(held: Mapping[str, StoredWeight], zeros: Array) -> Array:
    values: Array = held["bias"].values.astype(np.float64) if "bias" in held else zeros
    return values


def _norm_name(held: Mapping[str, StoredWeight]) -> str:
    name = next(weight.name for role, weight in held.items() if role.startswith(_NORM))
    return name.rpartition("/" if "/" in name else ".")[0] or name


def _other_epsilon(full: Array, folded: Array, held: Mapping[str, StoredWeight]) -> float | None:
    """The epsilon with which a BatchNorm's scale would have been folded, where one fits all channels."""
    gamma, variance = (held[_NORM + key].values.astype(np.float64) for key in ("weight", "running_var"))
    products = np.zeros(len(full))
    squares = np.zeros(len(full))
    for start, left, right in row_blocks(full, folded):
        products[start : start + len(left)] = (left * right).sum(axis=1)
        squares[start : start + len(left)] = np.square(left).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = products / squares
        epsilons = np.square(gamma / ratio) - variance
    usable = epsilons[np.isfinite(epsilons)]
    if not len(usable):
        return None
    epsilon = float(np.median(usable))
    scale = np.divide(gamma, np.sqrt(np.maximum(variance + epsilon, 1e-300)))
    fits = epsilon >= 0 and difference(full, folded, scale, 10 * _FOLDING_RTOL).equal
    return epsilon if fits else None


def _decibels(relative: float | None) -> str:
    return "unknown" if not relative else f"{-20 * math.log10(relative):.1f} dB"


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
