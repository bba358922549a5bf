"""Which preparations are tried: the usual scales, means and deviations, both orders, the usual ways to resize."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import InputError
from onnxscope.inputs.presets import PRESETS, Preset
from onnxscope.readers.image_recipes import Filter

__all__ = ["Candidate", "candidates_for"]

_NUMBERS = ("imagenet", "half", "unit", "caffe", "none")
_FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic")
_SIZE = 224
_NEAR = 0.2  # of the range: numbers so alike that nobody could tell them apart
_RESIZING = frozenset({"resize", "filter", "size", "shorter_side", "longer_side", "pad"})


@dataclass(frozen=True)
class Candidate:
    """A preparation that is tried.

    Attributes:
        preset: Its steps.
        scale: What its scale, means and deviations are called: the preset that has them, whatever its order.
        is_used: Whether it is what somebody asked for or the model records.
    """

    preset: Preset
    scale: str
    is_used: bool = False

    @property
    def resize(self) -> str:
        """How it resizes, for people."""
        own = ", own size" if self.preset.size is None else ""
        return f"{self.preset.resize}, {self.preset.filter}{own}"

    @property
    def resizing(self) -> Preset:
        """The steps that resize alone: the same for candidates that differ in numbers only."""
        return replace(PRESETS["none"], **{name: getattr(self.preset, name) for name in _RESIZING})

    def has_numbers_of(self, other: Candidate) -> bool:
        """Whether both scale each colour about alike, whatever their order and size."""
        here, there = (_ends(candidate.preset) for candidate in (self, other))
        size = np.minimum(np.ptp(here, axis=1), np.ptp(there, axis=1)).min()
        return bool(np.abs(here - there).max() <= _NEAR * size)


def candidates_for(
    channels: int, dtype: np.dtype[Any], used: Preset | None, size: str | int | None, *, is_open: bool, by_outputs: bool
) -> list[Candidate]:
    """Return what is tried for an input, what is used first.

    Args:
        channels: Of the input: 1, 3 or 4.
        dtype: Its element type.
        used: What somebody asked for, or the model records.
        size: Of pictures, where it was asked for.
        is_open: Whether the model leaves height or width open.
        by_outputs: Whether the right outputs are known, so that filters can be told apart.

    Raises:
        InputError: The size is none.
    """
    found = [] if used is None else [Candidate(used, used.name, is_used=True)]
    sized = [resizing if size is None else resizing.sized(size) for resizing in _resizings(is_open and size is None)]
    for name in _NUMBERS:
        for order in ("RGB", "BGR") if channels > 1 else ("RGB",):
            numbers = _in_order(PRESETS[name], order)
            try:
                numbers.check(channels, dtype)
            except InputError:
                continue
            for resizing in sized:
                steps = {key: getattr(resizing, key) for key in _RESIZING}
                filtered = [
                    _called(replace(numbers, **{**steps, "name": "custom", "filter": kind}), is_open=is_open)
                    for kind in dict.fromkeys([*_FILTERS, numbers.filter])
                ]
                if not by_outputs:  # filters cannot be told apart
                    filtered = [next((preset for preset in filtered if preset.name != "custom"), filtered[0])]
                found += [Candidate(preset, name) for preset in filtered if used is None or not _same(preset, used)]
    return found


def _resizings(is_open: bool) -> list[Preset]:
    straight = Preset(size=_SIZE)
    kinds = [straight, replace(straight, resize="crop"), replace(straight, resize="letterbox")]
    return [*kinds, replace(straight, size=None)] if is_open else kinds


def _in_order(preset: Preset, order: Any) -> Preset:
    """The same numbers for each colour, in an order."""
    if preset.order == order:
        return preset
    return replace(preset, order=order, mean=preset.mean[::-1], std=preset.std[::-1])


def _called(preset: Preset, *, is_open: bool) -> Preset:
    """The steps under the name of ours that does the same to a model with these inputs, if there is one."""
    return next((named for named in PRESETS.values() if _same(preset, named, sizes=is_open)), preset)


def _same(one: Preset, other: Preset, *, sizes: bool = False) -> bool:
    """Whether two presets do the same; without `sizes`, to an input whose height and width are fixed."""
    left = {"name"} | (set() if sizes else {"size"})
    for key, kinds in {"pad": ("letterbox",), "shorter_side": ("crop", "shorter"), "longer_side": ("shorter",)}.items():
        if one.resize not in kinds:
            left.add(key)
    return all(
        getattr(one, field.name) == getattr(other, field.name) for field in fields(Preset) if field.name not in left
    )


def _ends(preset: Preset) -> NDArray[np.float64]:
    """What a preset makes of 0 and 255, by colour: shape (colours, 2), red first."""
    ends = []
    for level in (0.0, 255.0):
        levels = np.full((1, 1, 3), level)
        numbers = np.zeros(3) if max(len(preset.mean), len(preset.std)) not in (1, 3) else None
        if numbers is None:
            numbers = preset.numbers(levels, np.dtype(np.float64))[0, 0]
        ends.append(numbers[::-1] if preset.order == "BGR" else numbers)
    return np.stack(ends, axis=1)
