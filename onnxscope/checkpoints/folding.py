"""A BatchNorm that one file has and the other has folded into the weight and the bias before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.checkpoints.forms import Form, quantized_form
from onnxscope.checkpoints.sides import Side, Tensor
from onnxscope.numerics.distances import difference

__all__ = ["Folding", "Norm", "find_folding", "norms_of"]

Array = NDArray[Any]
_RTOL = 1e-5  # folding rounds to float32 a few times over
_EPSILONS = (1e-5, 1e-3, 1e-6, 1e-4, 2e-5, 1e-12, 0.0)
_ALL_OVER = 0.25  # the share of a channel's numbers that another rounding of its scale moves at least
_ENOUGH = 64  # numbers from which on such shares say something
_MEANS = re.compile(r"^(.*?)(running_mean|moving_mean)$")
_PARTS = {
    "running_mean": ("running_var", "weight", "bias"),
    "moving_mean": ("moving_variance", "gamma", "beta"),
}


@dataclass(frozen=True, eq=False)
class Norm:
    """The tensors of one BatchNorm; scale and shift may be missing."""

    name: str
    mean: Tensor
    variance: Tensor
    scale: Tensor | None
    shift: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return tuple(part for part in (self.scale, self.shift, self.mean, self.variance) if part is not None)


@dataclass(frozen=True, eq=False)
class Folding:
    """A BatchNorm in a weight, and in a bias.

    Attributes:
        weight: Before.
        into: The weight that holds the BatchNorm too.
        form: What became of the weight.
        bias: Before, None where there is none.
        shift: The bias that holds the BatchNorm too, None where there is none.
        shift_form: What became of it.
    """

    weight: Tensor
    into: Tensor
    form: Form
    bias: Tensor | None
    shift: Tensor | None
    shift_form: Form | None


def norms_of(side: Side, taken: set[Tensor]) -> Iterator[Norm]:
    """Yield the BatchNorms of a file that are not found in the other one, by the names of running statistics."""
    for tensor in side.tensors:
        match = _MEANS.match(tensor.name)
        if match is None or tensor in taken or len(tensor.shape) != 1:
            continue
        prefix, mean = match.groups()
        variance, scale, shift = (side.named.get(prefix + part) for part in _PARTS[mean])
        parts = (tensor, variance, scale, shift)
        if variance is None or any(part is not None and part.shape != tensor.shape for part in parts):
            continue
        yield Norm(prefix.rstrip("./"), tensor, variance, scale, shift)


def find_folding(norm: Norm, side: Side, other: Side, taken: set[Tensor]) -> Folding | None:
    """Return where a BatchNorm has gone; None where nothing holds it.

    Args:
        norm: Of `side`.
        side: The file that has it.
        other: The file that has not.
        taken: Tensors of both that are explained.
    """
    channels = norm.mean.shape[0]
    weights = [
        t for t in side.tensors if t not in taken and len(t.shape) > 1 and channels in t.shape and not t.is_coded
    ]
    for weight in _likely(norm, side, other, weights):
        targets = [t for t in other.tensors if t not in taken and sorted(t.shape) == sorted(weight.shape)]
        targets.sort(key=lambda target: target.name != weight.name)
        for target in targets:
            found = _folded(norm, side, other, weight, target)
            if found is not None:
                return found
    return None


def _likely(norm: Norm, side: Side, other: Side, weights: Sequence[Tensor]) -> list[Tensor]:
    """Weights that a BatchNorm may stand behind: the one that is recorded, then the nearest before it by name."""
    order = {tensor: place for place, tensor in enumerate(side.tensors)}
    reason = other.reasons.get(norm.mean.name, "")
    place = order[norm.mean]

    def rank(weight: Tensor) -> tuple[bool, bool, int]:
        gap = place - order[weight]
        return reason != f"folded into {weight.name}", gap < 0, abs(gap)

    return sorted(weights, key=rank)


def _folded(norm: Norm, side: Side, other: Side, weight: Tensor, target: Tensor) -> Folding | None:
    values, found = weight.values, target.values
    parts = [None if part is None else part.values for part in (norm.scale, norm.shift, norm.mean, norm.variance)]
    if values is None or found is None or parts[2] is None or parts[3] is None or found.dtype.kind in "iub":
        return None
    for axis in dict.fromkeys((0, 1, values.ndim - 1)):
        if axis >= values.ndim or values.shape[axis] != norm.mean.shape[0]:
            continue
        moved = np.moveaxis(values, axis, 0)
        if values.shape != found.shape:
            continue
        turned = np.moveaxis(found, axis, 0)
        if not _are_parallel(moved, turned):
            continue
        for epsilon in _EPSILONS:
            scales = _scales(parts[0], parts[3], epsilon)
            if not _first_fits(moved, turned, scales[-1], coded=target.is_coded):
                continue
            formula = f"{weight.name} x {norm.name} / sqrt(variance + {epsilon:.3g})"
            form, scale, exact = _judged(values, scales, axis, weight, target, formula)
            if form is None:
                continue
            bias, shift = side.bias_of(weight), other.bias_of(target)
            shift_form = None
            if shift is not None:
                shift_form = _shifted(norm, bias, shift, (scale, exact), parts)
            return Folding(weight, target, form, bias, shift, shift_form)
    return None


def _scales(gamma: Array | None, variance: Array, epsilon: float) -> list[Array]:
    """What each channel is multiplied by, as folding programs compute it, the last one in float64."""
    wide = variance.astype(np.float64) + epsilon
    narrow = variance.astype(np.float32) + np.float32(epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = (1.0 if gamma is None else gamma.astype(np.float64)) / np.sqrt(wide)
        one = np.ones_like(narrow) if gamma is None else gamma.astype(np.float32)
        root = np.sqrt(wide).astype(np.float32)
        rooted = one / np.sqrt(narrow)
        return [rooted, one / root, one * (np.float32(1) / np.sqrt(narrow)), exact.astype(np.float32), exact]


def _are_parallel(values: Array, found: Array) -> bool:
    """Whether the first channels of two weights are one another times a factor each, roughly: cheap to tell."""
    left, right = (side[:8].reshape(min(8, len(side)), -1)[:, :64].astype(np.float64) for side in (values, found))
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        along = np.abs(np.sum(left * right, axis=1)) >= 0.9 * lengths
    return bool(np.count_nonzero(along) * 2 >= len(along))


def _first_fits(values: Array, found: Array, scale: Array, *, coded: bool) -> bool:
    """Whether the first numbers of most channels look folded: what is cheap to tell, before all is compared."""
    left = values.reshape(len(values), -1)[:, :64].astype(np.float64) * scale[:, None]
    right = found.reshape(len(found), -1)[:, :64].astype(np.float64)
    with np.errstate(invalid="ignore"):
        largest = np.maximum(np.abs(left), np.abs(right)).max(axis=1, keepdims=True, initial=0.0)
        fits = (np.abs(left - right) <= (0.1 if coded else 1e-4) * largest).all(axis=1)
    return bool(np.count_nonzero(fits) * 2 > len(fits)) if len(fits) > 2 else bool(fits.any())


def _by_channel(values: Array, scale: Array, axis: int) -> Array:
    return values * scale.reshape([-1 if place == axis else 1 for place in range(values.ndim)])


def _judged(
    values: Array, scales: Sequence[Array], axis: int, weight: Tensor, target: Tensor, formula: str
) -> tuple[Form | None, Array, Array]:
    """What is said of a folded weight, by which scale it was computed, and for which channels that is so to the bit."""
    found = target.values
    assert found is not None
    if target.is_coded:
        form = quantized_form(weight, target, _by_channel(values, scales[0], axis), folding=formula)
        return form, scales[0], np.ones(values.shape[axis], np.bool_)
    best, off = scales[0], np.ones(found.shape, np.bool_)
    for scale in scales:
        other = _by_channel(values, scale, axis).astype(found.dtype) != found
        if np.count_nonzero(other) < np.count_nonzero(off):
            best, off = scale, other
        if not off.any():
            return Form("folded", f"{formula}, to the bit"), best, np.ones(values.shape[axis], np.bool_)
    shares = np.moveaxis(off, axis, 0).reshape(values.shape[axis], -1).mean(axis=1)
    exact = shares == 0
    seen = difference(_by_channel(values, scales[-1], axis), found, None, _RTOL)
    # Where most channels are right to the bit, this is how it was computed, and a few numbers that are not, in channels
    # that are right otherwise, were changed since. A scale that was rounded otherwise shows all over its channel, by a
    # few units in the last place.
    alone = (shares > 0) & (shares < _ALL_OVER)
    alone |= ~exact & ~_within_units(np.moveaxis(_by_channel(values, scales[-1], axis), axis, 0), found, axis)
    if found.size >= _ENOUGH and np.count_nonzero(exact) * 2 >= len(exact) and alone.any():
        seen = difference(_by_channel(values, best, axis).astype(found.dtype), found)
        return Form("changed", f"not {formula}: {seen.text()}", counts=True, seen=seen), best, exact
    if seen.equal:
        return Form("folded", f"{formula}, but for rounding"), best, exact
    return (
        Form("changed", f"not {formula}: {seen.text()}", counts=True, seen=seen) if _mostly(seen) else None,
        best,
        exact,
    )


def _within_units(expected: Array, found: Array, axis: int) -> NDArray[np.bool_]:
    """For each channel whether all numbers are right but for a few units in the last place of float32."""
    left, right = (side.reshape(len(side), -1) for side in (expected, np.moveaxis(found, axis, 0)))
    allowed = np.maximum(4e-7 * np.abs(left), np.finfo(np.float32).tiny)
    return np.asarray((np.abs(left - right) <= allowed).all(axis=1))


def _mostly(seen: Any) -> bool:
    """Whether most numbers are as they should be, so that the others were changed."""
    return bool(seen.count * 4 <= seen.size)


def _shifted(
    norm: Norm, bias: Tensor | None, shift: Tensor, scaled: tuple[Array, Array], parts: Sequence[Array | None]
) -> Form:
    """What is said of a bias that holds a BatchNorm, whose scale is known, for some channels to the bit."""
    scale, exact_scale = scaled
    mean, beta = parts[2], parts[1]
    before = None if bias is None else bias.values
    assert mean is not None
    formula = f"{norm.name}.bias + ({bias.name if bias else '0'} - {norm.mean.name}) x scale"
    start = np.zeros_like(mean) if before is None else before.reshape(-1)
    added = np.zeros_like(mean) if beta is None else beta
    found = shift.values
    if found is None or found.size != mean.size or start.shape != mean.shape:
        return Form("unexplained", f"not {formula}: of another shape", counts=True)
    found = found.reshape(-1)
    sums = [
        (start - mean) * scale + added,
        start * scale + (added - mean * scale),
        start * scale - mean * scale + added,
    ]
    sums += [sums[0].astype(np.float64)]
    if shift.is_coded:
        form: Form | None = None
        for expected in sums[:3]:
            form = quantized_form(norm.mean, shift, expected.reshape(shift.shape), folding=formula)
            if form is not None and form.change == "quantized":
                return form
        return form or Form("changed", f"not {formula}", counts=True)
    off = min((expected.astype(found.dtype) != found for expected in sums), key=np.count_nonzero)
    off &= exact_scale
    if not off.any() and exact_scale.all():
        return Form("folded", f"{formula}, to the bit")
    wide = [np.asarray(part, np.float64) for part in (start, mean, added)]
    exact = (wide[0] - wide[1]) * scale + wide[2]
    allowed = np.abs(wide[0] * scale) + np.abs(wide[1] * scale) + np.abs(wide[2])
    allowed = _RTOL * (allowed + 0.1 * allowed.max(initial=0.0))
    beyond = ~(np.abs(exact - found) <= allowed)
    if beyond.any() or (off.size >= 8 and 0 < np.count_nonzero(off) * 8 <= np.count_nonzero(exact_scale)):
        seen = difference(exact.astype(found.dtype), found)
        return Form("changed", f"not {formula}: {seen.text()}", counts=True, seen=seen)
    return Form("folded", f"{formula}, but for rounding")
