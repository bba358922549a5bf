"""Every tensor of two files, each explained by what the other holds, or listed as what nothing explains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import shape_text
from onnxscope.checkpoints.folding import find_folding, norms_of
from onnxscope.checkpoints.forms import Form, form_of, may_be_one, quantized_form
from onnxscope.checkpoints.joined import find_joined
from onnxscope.checkpoints.sides import Side, Tensor
from onnxscope.numerics.distances import Tolerance, difference

__all__ = ["Explained", "explain_tensors"]

Array = NDArray[Any]
_NEAR = 0.5  # the largest relative difference by which two tensors of other names are said to be one that changed
_SMALL = 1 << 14  # numbers
_COUNTERS = ("num_batches_tracked",)


@dataclass(frozen=True, eq=False)
class Explained:
    """What became of a tensor.

    Attributes:
        a: Its name in the first file, None where it is not there.
        b: In the second.
        layer: The layer that it belongs to, as far as one of the files tells.
        form: What became of it.
    """

    a: str | None
    b: str | None
    layer: str
    form: Form


def explain_tensors(a: Side, b: Side, tolerance: Tolerance | None = None) -> list[Explained]:
    """Explain every tensor of either file.

    Args:
        a: The first file.
        b: The second.
        tolerance: By how much a number may be off before it counts as changed.

    Returns:
        A row for every parameter of the first file, in its order, then one for every one of the second that no row
        names yet, and for its constants.
    """
    return _Explainer(a, b, tolerance).run()


class _Explainer:
    def __init__(self, a: Side, b: Side, tolerance: Tolerance | None) -> None:
        self._sides = (a, b)
        self._tolerance = tolerance
        self._rows: dict[Tensor, list[Explained]] = {}
        self._taken: set[Tensor] = set()

    def run(self) -> list[Explained]:
        self._by_name()
        self._by_content(_SMALL)  # before BatchNorms are looked for that are not there
        for flipped in (False, True):
            self._folded(flipped)
        self._by_content()  # hashing takes longest, so it comes behind what explains most
        self._quantized()
        for flipped in (False, True):
            self._joined(flipped)
        self._tied()
        self._named_changes()
        self._near()
        for flipped in (False, True):
            self._left(flipped)
        order = [*self._sides[0].tensors, *self._sides[1].tensors, *self._sides[0].constants, *self._sides[1].constants]
        return list(dict.fromkeys(row for tensor in order for row in self._rows.get(tensor, ())))

    def _free(self, side: int) -> list[Tensor]:
        return [tensor for tensor in self._sides[side].tensors if tensor not in self._taken]

    def _note(self, x: Tensor | None, y: Tensor | None, form: Form, *, flipped: bool = False) -> None:
        """Take two tensors as explained by one another; `flipped`: the first is the second file's."""
        a, b = (y, x) if flipped else (x, y)
        layer = next((tensor.layer for tensor in (a, b) if tensor is not None and tensor.layer), "")
        named = a or b
        assert named is not None
        layer = layer or named.name.rpartition("/" if "/" in named.name else ".")[0]
        if self._tolerance is not None and x is not None and y is not None:
            form = _forgiven(form, x, y, self._tolerance)
        row = Explained(None if a is None else a.name, None if b is None else b.name, layer, form)
        for tensor in (a, b):
            if tensor is not None:
                self._rows.setdefault(tensor, []).append(row)
                self._taken.add(tensor)

    def _by_name(self) -> None:
        for x in self._sides[0].tensors:
            y = self._sides[1].named.get(x.name)
            form = None if y is None else _form(x, y, in_any_order=False)
            if y is not None and form is not None and not form.counts:
                self._note(x, y, form)

    def _by_content(self, most: int | None = None) -> None:
        """Pair what has other names, or another order, by the digest of the numbers, in every element type."""
        left = [tensor for tensor in self._free(0) if not tensor.is_coded and (most is None or tensor.size <= most)]
        right = [tensor for tensor in (*self._free(1), *self._sides[1].constants) if not tensor.is_coded]
        sizes = {tensor.size for tensor in left}
        of_kind: dict[tuple[int, str], list[Tensor]] = {}
        for y in right:
            if y.size in sizes and (y.size > 1 or y.constant is None):
                of_kind.setdefault((y.size, y.stored), []).append(y)
        kinds = dict.fromkeys(stored for _, stored in of_kind)
        for x in left:
            candidates = [
                y
                for stored in sorted(kinds, key=lambda stored: stored != x.stored)
                for y in of_kind.get((x.size, stored), ())
                if y not in self._taken and may_be_one(x, y)
            ]
            candidates.sort(key=lambda y: (y.name != x.name, y.shape != x.shape))
            for y in candidates:
                form = form_of(x, y)
                if form is not None:
                    self._note(x, y, form)
                    break

    def _folded(self, flipped: bool) -> None:
        side, other = self._sides[::-1] if flipped else self._sides
        for norm in norms_of(side, self._taken):
            found = find_folding(norm, side, other, self._taken)
            if found is None:
                continue
            self._note(found.weight, found.into, found.form, flipped=flipped)
            held = Form("folded", f"into {found.into.name}")
            if found.shift is not None and found.shift_form is not None:
                both = f"into {found.into.name} and {found.shift.name}"
                held = Form("folded", both)
                if found.bias is not None:
                    self._note(found.bias, found.shift, found.shift_form, flipped=flipped)
                else:
                    self._note(None, found.shift, found.shift_form, flipped=flipped)
            for tensor in norm.tensors:
                self._note(tensor, None, held, flipped=flipped)

    def _quantized(self) -> None:
        for flipped in (False, True):
            for y in self._free(0 if flipped else 1):
                others = [x for x in self._free(1 if flipped else 0) if x.size == y.size] if y.is_coded else []
                for x in sorted(others, key=lambda x: x.name != y.name):
                    form = quantized_form(x, y)
                    if form is not None:
                        self._note(x, y, form, flipped=flipped)
                        break

    def _joined(self, flipped: bool) -> None:
        """Look for wholes in one file whose parts are tensors of the other."""
        parts_side, whole_side = (1, 0) if flipped else (0, 1)
        for whole in sorted(self._free(whole_side), key=lambda tensor: -tensor.size):
            found = find_joined(whole, [part for part in self._free(parts_side) if part.size < whole.size])
            if found is None:
                continue
            for part, where in found.parts:
                message = f"{part.name} is {where} of {whole.name}"
                self._note(part, whole, Form("split" if flipped else "fused", message), flipped=flipped)

    def _tied(self) -> None:
        """Find what one file stores twice and the other once."""
        for side in (0, 1):
            explained = [tensor for tensor in self._sides[side].tensors if tensor in self._taken]
            for x in self._free(side):
                if x.is_constant:
                    continue
                twin = next((t for t in explained if t.size == x.size and _is_equal(x, t)), None)
                rows = [] if twin is None else [row for row in self._rows[twin] if not row.form.counts]
                if twin is not None and rows:
                    other = rows[0].b if side == 0 else rows[0].a
                    message = f"the same numbers as {twin.name}, stored once in the other file"
                    form = Form("tied", message)
                    row = (
                        Explained(x.name, other, x.layer, form)
                        if side == 0
                        else Explained(other, x.name, x.layer, form)
                    )
                    self._rows.setdefault(x, []).append(row)
                    self._taken.add(x)

    def _named_changes(self) -> None:
        for x in self._free(0):
            y = self._sides[1].named.get(x.name)
            if y is not None and y not in self._taken:
                self._note(x, y, _form(x, y) or _changed(x, y))

    def _near(self) -> None:
        """Pair what is left and nearly the same numbers."""
        for x in self._free(0):
            near = []
            for y in self._free(1):
                if y.shape == x.shape and _look_alike(x, y) and not x.is_constant:
                    seen = difference(x.values, y.values)  # type: ignore[arg-type]
                    if seen.relative is not None and seen.relative < _NEAR:
                        near.append((seen.relative, y))
            if near:
                y = min(near, key=lambda item: item[0])[1]
                self._note(x, y, _changed(x, y))

    def _left(self, flipped: bool) -> None:
        """Say of what has no counterpart why that does not matter, or that nothing explains it."""
        side, other = self._sides[::-1] if flipped else self._sides
        for tensor in [tensor for tensor in side.tensors if tensor not in self._taken]:
            self._note(tensor, None, _alone(tensor, other, flipped), flipped=flipped)
        for tensor in side.constants:
            if tensor not in self._taken:
                steered = side.steered.get(tensor.name)
                what = "a constant of the computation" if steered is None else f"scale or zero point of {steered}"
                self._note(tensor, None, Form("constant", what), flipped=flipped)


def _alone(tensor: Tensor, other: Side, flipped: bool) -> Form:
    """What is said of a tensor that the other file does not hold."""
    if tensor.name.endswith(_COUNTERS):
        return Form("absent", "a counter, which only training reads")
    values = tensor.values
    if values is not None and values.size and not np.any(values) and tensor.name.endswith(("bias", "beta")):
        return Form("absent", "all zeros, left out")
    which = "first" if flipped else "second"
    role = "" if tensor.parameter is None or tensor.parameter.operand is None else tensor.parameter.role
    if role and not role.startswith("weight") and values is not None and values.size and not np.any(values):
        return Form("absent", "all zeros, which change nothing: a first state, or a bias")
    if values is not None and _is_computable(values):
        return Form("absent", "positions, or a causal mask, which an export computes where it needs them")
    reason = other.reasons.get(tensor.name)
    recorded = "" if reason is None else f" (recorded: {reason})"
    return Form("unexplained", f"nothing in the {which} file is made of its numbers{recorded}", counts=True)


def _is_computable(values: Array) -> bool:
    """Whether a tensor is a buffer without information: 0, 1, 2, …, or ones up to the diagonal, then zeros."""
    if values.dtype.kind in "iu" and values.size > 1 and values.size == values.shape[-1]:
        return bool(np.array_equal(values.reshape(-1), np.arange(values.size)))
    is_square = values.ndim > 1 and values.shape[-1] == values.shape[-2] and values.size == values.shape[-1] ** 2
    return is_square and values.dtype.kind in "biu" and _is_triangle(values.reshape(values.shape[-2:]))


def _is_triangle(values: Array) -> bool:
    side = np.arange(len(values))
    return len(side) > 1 and all(
        np.array_equal(row, side <= place) for place, row in enumerate(values.astype(np.int64))
    )


def _form(x: Tensor, y: Tensor, *, in_any_order: bool = True) -> Form | None:
    """How one tensor became another, whichever of them is codes."""
    if x.is_coded == y.is_coded:
        if not x.is_coded:
            return form_of(x, y, in_any_order=in_any_order)
        same = x.values is not None and y.values is not None and x.shape == y.shape
        if same and difference(x.values, y.values).equal:  # type: ignore[arg-type]
            return Form("equal", "" if x.name == y.name else f"{x.name} is called {y.name}")
        return None
    return quantized_form(x, y) if y.is_coded else quantized_form(y, x)


def _changed(x: Tensor, y: Tensor) -> Form:
    if x.values is None or y.values is None:
        return Form("unexplained", "its numbers cannot be read", counts=True)
    if x.shape != y.shape:
        sides = (shape_text(tensor.shape) for tensor in (x, y))
        return Form("changed", " became ".join(sides), counts=True)
    seen = difference(x.values, y.values)
    called = "" if x.name == y.name else f", now called {y.name}"
    if seen.equal:
        return Form("changed", f"other bits for the same numbers: signs of zeros, or other NaN{called}", counts=True)
    return Form("changed", f"{seen.text()}{called}", counts=True, seen=seen, is_direct=True)


def _forgiven(form: Form, x: Tensor, y: Tensor, tolerance: Tolerance) -> Form:
    """A change that does not count where no number is beyond the tolerance."""
    if form.change != "changed" or form.seen is None or form.seen.largest is None:
        return form
    within = form.seen.largest <= tolerance.atol
    if not within and form.is_direct and x.values is not None and y.values is not None and x.shape == y.shape:
        within = tolerance.forgives(x.values, y.values)
    return replace(form, counts=False, message=f"{form.message}; within the tolerance") if within else form


def _look_alike(x: Tensor, y: Tensor) -> bool:
    """Whether the first numbers of two tensors of one shape are near: what is cheap to tell."""
    if x.values is None or y.values is None:
        return False
    if not x.values.ndim or x.size < _SMALL:
        return True
    seen = difference(x.values[:1], y.values[:1])
    return seen.equal or (seen.relative is not None and seen.relative < 2 * _NEAR)


def _is_equal(x: Tensor, y: Tensor) -> bool:
    form = _form(x, y)
    return form is not None and form.change in ("equal", "transposed", "reshaped", "cast")
