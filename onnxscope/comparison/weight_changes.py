"""The weights of two aligned layers: equal, renamed, permuted, folded, quantized, or changed, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import shape_text
from onnxscope.comparison.whole_weights import FOLDING_RTOL, Whole, are_one, epsilon_of
from onnxscope.model.layers import Layer
from onnxscope.numerics.blocks import row_blocks
from onnxscope.numerics.distances import Difference, Tolerance, decibels, difference
from onnxscope.numerics.permutations import describe_permutation, flattened_otherwise, same_numbers
from onnxscope.pairing.layer_weights import NORM, StoredWeight

__all__ = ["WeightChange", "compare_weights", "folded_change", "one_sided"]

Array = NDArray[Any]
_OF_NUMBERS = frozenset({"changed", "rounded", "quantized"})


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
        place: Of the layer among the aligned ones, several of which may have one name; None where it is not aligned.
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
    place: int | None = None

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


def compare_weights(
    a: Layer,
    b: Layer,
    weights_a: Mapping[str, StoredWeight],
    weights_b: Mapping[str, StoredWeight],
    before: int | None,
    tolerance: Tolerance | None = None,
) -> list[WeightChange]:
    """Compare the weights of two aligned layers.

    Args:
        a: The first model's layer.
        b: The second's.
        weights_a: The weights of `a`, by role.
        weights_b: The weights of `b`.
        before: Channels of the layer that `a` reads, where it reads one: a Linear behind a Flatten may hold its inputs
            in the order of another layout.
        tolerance: What numbers may be off by, quantized ones as the real numbers that they stand for.

    Returns:
        What is not the same bits under the same name, by role.
    """
    if (a.norm is None) != (b.norm is None) and "weight" in weights_a and "weight" in weights_b:
        folded = _compare_folded(a, b, weights_a, weights_b, tolerance)
        if folded is not None:
            return folded
    changes = []
    for role in dict.fromkeys((*weights_a, *weights_b)):
        left, right = weights_a.get(role), weights_b.get(role)
        if left is not None and right is not None:
            change = _compare_one(a, b, role, left, right, before)
            if change is not None and tolerance is not None:
                change = _forgiven(change, left, right, tolerance)
            changes += [] if change is None else [change]
        elif role.startswith(NORM) and (a.norm is None or b.norm is None):
            continue  # one line for the whole BatchNorm, below
        else:
            changes += _missing(a, left, right)
    if (a.norm is None) != (b.norm is None):
        gone = a.norm is not None
        layer = _norm_name(weights_a if gone else weights_b)
        message = f"the BatchNorm {layer} is {'missing in the second model' if gone else 'new in the second model'}"
        first, second = (layer, None) if gone else (None, layer)
        changes.append(_on_one_side(first, second, a.name, message))
    return changes


def folded_change(layer: str, a: Whole | None, b: Whole | None) -> WeightChange | None:
    """Return what is said where two layers that hold their numbers otherwise do the same; None where they do not.

    Args:
        layer: Its name.
        a: What the first does altogether.
        b: What the second does.
    """
    if a is None or b is None or a.names.keys() == b.names.keys() or not are_one(a, b):
        return None
    more, fewer = (a, b) if len(a.names) >= len(b.names) else (b, a)
    parts = [name for role, name in more.names.items() if role not in fewer.names]
    message = f"{', '.join(fewer.names.values())} hold {', '.join(parts)} too"
    return WeightChange(
        a=a.names["weight"],
        b=b.names["weight"],
        layer=layer,
        change="folded",
        max_abs=None,
        relative_l2=None,
        channels=(),
        message=message,
        counts=False,
    )


def one_sided(layer: Layer, weights: Mapping[str, StoredWeight], *, removed: bool) -> list[WeightChange]:
    """Return a change for every weight of a layer that is aligned with none."""
    changes = []
    for weight in weights.values():
        first, second = (weight.name, None) if removed else (None, weight.name)
        message = f"only the {'first' if removed else 'second'} model has {weight.name} {list(weight.values.shape)}"
        changes.append(_on_one_side(first, second, layer.name, message))
    return changes


def _on_one_side(a: str | None, b: str | None, layer: str, message: str) -> WeightChange:
    return WeightChange(
        a=a,
        b=b,
        layer=layer,
        change="added" if a is None else "removed",
        max_abs=None,
        relative_l2=None,
        channels=(),
        message=message,
        counts=True,
    )


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

    def change(kind: str, message: str, *, counts: bool, seen: Difference | None = None) -> WeightChange:
        numbers = seen or Difference()
        if role != "weight" and kind != "renamed":  # which of a layer's
            message = f"{left.name}: {message}"
        return WeightChange(
            a=left.name,
            b=right.name,
            layer=a.name,
            change=kind,
            max_abs=numbers.largest,
            relative_l2=numbers.relative,
            channels=numbers.channels,
            message=message,
            counts=counts,
        )

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


def _forgiven(change: WeightChange, left: StoredWeight, right: StoredWeight, tolerance: Tolerance) -> WeightChange:
    """A change that does not count where no number is beyond the tolerance."""
    sides = left, right
    if change.change not in _OF_NUMBERS or left.values.shape != right.values.shape:
        return change
    if any(side.quantized and side.values.dtype.kind in "iu" for side in sides):
        return change  # codes, and nobody knows what one of them stands for
    if not tolerance.forgives(left.values, right.values):
        return change
    codes = f", stored as {left.stored} codes" if all(side.quantized for side in sides) else ""
    return replace(change, counts=False, message=f"{change.message}{codes}; within the tolerance")


def _rounds(x: Array, y: Array, stored_x: str, stored_y: str) -> bool:
    narrow, wide, target = (y, x, stored_y) if np.dtype(y.dtype).itemsize <= x.dtype.itemsize else (x, y, stored_x)
    try:
        dtype = np.dtype(target)
    except TypeError:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(wide.astype(dtype), narrow.astype(dtype), equal_nan=dtype.kind == "f"))


def _affine(layer: Layer, weights: Mapping[str, StoredWeight]) -> tuple[Array, Array] | None:
    """Scale and offset that the absorbed BatchNorm applies, in float64; None where its numbers are not all stored."""
    norm = layer.norm
    keys = ("weight", "bias", "running_mean", "running_var")
    if norm is None or any(NORM + key not in weights for key in keys):
        return None
    gamma, beta, mean, variance = (weights[NORM + key].values.astype(np.float64) for key in keys)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + epsilon_of(norm))
    return scale, beta - mean * scale


def _compare_folded(
    a: Layer,
    b: Layer,
    weights_a: Mapping[str, StoredWeight],
    weights_b: Mapping[str, StoredWeight],
    tolerance: Tolerance | None,
) -> list[WeightChange] | None:
    """Compare what a convolution and its BatchNorm do together with one that holds both; None where nothing fits."""
    with_norm, plain = (weights_a, weights_b) if a.norm is not None else (weights_b, weights_a)
    affine = _affine(a if a.norm is not None else b, with_norm)
    full, folded = with_norm["weight"], plain["weight"]
    if affine is None or full.values.shape != folded.values.shape or len(affine[0]) != len(full.values):
        return None
    scale, _ = affine
    norm = _norm_name(with_norm)
    epsilon = epsilon_of(a.norm if a.norm is not None else b.norm)  # type: ignore[arg-type]
    formula = f"{full.name} x {norm}.weight / sqrt({norm}.running_var + {epsilon:.3g})"
    weight_seen = difference(full.values, folded.values, scale, FOLDING_RTOL)

    def change(kind: str, message: str, seen: Difference, *, counts: bool) -> WeightChange:
        return WeightChange(
            a=weights_a["weight"].name,
            b=weights_b["weight"].name,
            layer=a.name,
            change=kind,
            max_abs=seen.largest,
            relative_l2=seen.relative,
            channels=seen.channels,
            message=message,
            counts=counts,
        )

    if not weight_seen.equal and tolerance is not None and folded.values.dtype.kind not in "iu":
        product = full.values * scale.reshape(-1, *[1] * (full.values.ndim - 1))
        if tolerance.forgives(*((product, folded.values) if a.norm is not None else (folded.values, product))):
            kind = "quantized" if folded.quantized and not full.quantized else "folded"
            message = f"{folded.name} = {formula}: {weight_seen.text()}; within the tolerance"
            folding = change(kind, message, weight_seen, counts=False)
            return [folding, *_bias_not_shifted(a, weights_a, weights_b, affine, tolerance)]
    if folded.quantized and not full.quantized:
        seen = difference(full.values, folded.values, scale)
        noise = f"signal-to-noise {_decibels(seen.relative)}"
        message = f"{folded.name} = {formula}, stored as {folded.stored}: {seen.text()}, {noise}"
        return [change("quantized", message, seen, counts=True)]
    if weight_seen.equal:
        folding = change("folded", f"{folded.name} = {formula}", weight_seen, counts=False)
        return [folding, *_bias_not_shifted(a, weights_a, weights_b, affine, tolerance)]
    if difference(full.values, folded.values).equal:
        return None  # not folded, but left out
    epsilon_of_folding = _other_epsilon(full.values, folded.values, with_norm)
    if epsilon_of_folding is not None:
        message = f"{folded.name} = {formula}, but with an epsilon of {epsilon_of_folding:.3g}: {weight_seen.text()}"
        return [change("changed", message, weight_seen, counts=True)]
    return [change("changed", f"not {formula}: {weight_seen.text()}", weight_seen, counts=True)]


def _bias_not_shifted(
    layer: Layer,
    weights_a: Mapping[str, StoredWeight],
    weights_b: Mapping[str, StoredWeight],
    affine: tuple[Array, Array],
    tolerance: Tolerance | None,
) -> list[WeightChange]:
    """What is wrong with the bias of a convolution whose weight holds its BatchNorm."""
    with_norm, plain = (weights_a, weights_b) if NORM + "bias" in weights_a else (weights_b, weights_a)
    scale, offset = affine
    zeros = np.zeros(len(scale))
    bias = _bias(with_norm, zeros) * scale
    parts = np.abs(bias) + np.abs(offset) + np.abs(with_norm[NORM + "bias"].values)
    gap = np.abs(_bias(plain, zeros) - (bias + offset))
    allowed = FOLDING_RTOL * (parts + 0.1 * parts.max(initial=0.0))
    if tolerance is not None:
        allowed = np.maximum(allowed, tolerance.atol + tolerance.rtol * np.abs(bias + offset))
    off = np.flatnonzero(~(gap <= allowed))
    if not len(off):
        return []
    largest = float(gap.max())
    first, second = (weights["bias"].name if "bias" in weights else None for weights in (weights_a, weights_b))
    return [
        WeightChange(
            a=first,
            b=second,
            layer=layer.name,
            change="changed",
            max_abs=largest,
            relative_l2=None,
            channels=tuple(off.tolist()),
            message=f"the bias does not hold what {_norm_name(with_norm)} shifts: largest difference {largest:.3g}",
            counts=True,
        )
    ]


def _bias(weights: Mapping[str, StoredWeight], zeros: Array) -> Array:
    values: Array = weights["bias"].values.astype(np.float64) if "bias" in weights else zeros
    return values


def _norm_name(weights: Mapping[str, StoredWeight]) -> str:
    name = next(weight.name for role, weight in weights.items() if role.startswith(NORM))
    return name.rpartition("/" if "/" in name else ".")[0] or name


def _other_epsilon(full: Array, folded: Array, weights: Mapping[str, StoredWeight]) -> float | None:
    """The epsilon with which a BatchNorm's scale would have been folded, where one fits all channels."""
    gamma, variance = (weights[NORM + key].values.astype(np.float64) for key in ("weight", "running_var"))
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
    fits = epsilon >= 0 and difference(full, folded, scale, 10 * FOLDING_RTOL).equal
    return epsilon if fits else None


def _decibels(relative: float | None) -> str:
    ratio = decibels(relative)
    return "unknown" if ratio is None else f"{ratio:.1f} dB"


def _text(shape: tuple[int, ...]) -> str:
    return shape_text(shape)
