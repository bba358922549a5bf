"""Inputs that say which positions of a sequence are real: masks and lengths, found by their names or asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import as_typed, printable
from onnxscope.errors import InputError
from onnxscope.selection.input_roles import counts_what_is_fed, is_called, stem_of_lengths

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["NO_MASK", "PaddingMask", "find_padding_masks", "left_out", "positions_of"]

NO_MASK = "none"
"""What asks for no mask."""

Array = NDArray[Any]
_INVERTED = "!"


@dataclass(frozen=True)
class PaddingMask:
    """An input that says which positions are real.

    Attributes:
        name: The input's.
        says: Whether its numbers other than 0 are positions that count, or that are left out, or how many count.
        axes: By input, the axis of what is fed that has these positions.
        batch_axis: Its axis of samples, None where it has none.
    """

    name: str
    says: Literal["counted", "left out", "lengths"]
    axes: Mapping[str, int]
    batch_axis: int | None = 0

    def cut_as(self, batch_axes: Mapping[str, int | None]) -> PaddingMask:
        """The same, of samples that lie along these axes."""
        return replace(self, batch_axis=batch_axes.get(self.name))

    def counted(self, feeds: Mapping[str, Array]) -> NDArray[np.bool_] | None:
        """Return which positions count, of shape (samples, positions); None where what is fed does not tell.

        Args:
            feeds: What a run is fed; all inputs have their axis of samples.
        """
        array = feeds[self.name]
        if self.batch_axis is not None:
            array = np.moveaxis(array, self.batch_axis, 0)
        elif array.ndim == (0 if self.says == "lengths" else 1):
            array = array[None]
        elif array.shape[:1] != (1,):
            return None
        return self._of_samples(array, self._length(feeds))

    def counted_of(self, sample: Mapping[str, Array]) -> NDArray[np.bool_] | None:
        """The same of one sample without its axis, of shape (positions,)."""
        given = {name: array if self.batch_axis is None else array[None] for name, array in sample.items()}
        counted = replace(self, batch_axis=None).counted(given)
        return None if counted is None or len(counted) != 1 else counted[0]

    def _length(self, feeds: Mapping[str, Array]) -> int:
        name, axis = next((name, axis) for name, axis in self.axes.items())
        return feeds[name].shape[axis] if feeds[name].ndim > axis else 0

    def _of_samples(self, array: Array, length: int) -> NDArray[np.bool_] | None:
        if self.says == "lengths":
            return np.asarray(np.arange(length) < array.reshape(len(array), -1)[:, :1])
        if array.ndim != 2:
            return None
        if array.dtype.kind not in "biu" and array.size and array.min() < 0:
            counted = array == 0  # what is added before a softmax
        else:
            counted = array != 0
        return np.asarray(~counted if self.says == "left out" else counted)


def find_padding_masks(specs: Sequence[InputSpec], asked: Sequence[str] | None = None) -> tuple[PaddingMask, ...]:
    """Find the masks and lengths among a model's inputs.

    Args:
        specs: The inputs.
        asked: Names of some, with `!` before one whose numbers other than 0 are left out; `none` for no mask; None for
            those that are called so.

    Raises:
        InputError: An input that was asked for is not there, or is of other axes than samples and positions.
    """
    if asked is not None and list(asked) == [NO_MASK]:
        return ()
    if asked:
        return tuple(_asked(specs, name) for name in asked)
    found: list[PaddingMask] = []
    for spec in specs:
        if _kind(spec) in "biuf" and _rank(spec) == 2 and _is_padding(spec):
            found.append(PaddingMask(spec.name, _says(spec), positions_of(spec, specs)))
    for spec in specs:
        if _kind(spec) in "iu" and _rank(spec) == 1 and counts_what_is_fed(spec.name):
            axes = _axes_of_lengths(spec, specs)
            if axes and not any(axes.items() & mask.axes.items() for mask in found):
                found.append(PaddingMask(spec.name, "lengths", axes))
    return tuple(found)


def left_out(masks: Sequence[PaddingMask], feeds: Mapping[str, Array]) -> dict[int, NDArray[np.bool_]]:
    """Return which positions count, by the number of the mask, of those masks that leave some out in a run."""
    counted = {number: mask.counted(feeds) for number, mask in enumerate(masks)}
    return {number: rows for number, rows in counted.items() if rows is not None and not rows.all()}


def _asked(specs: Sequence[InputSpec], asked: str) -> PaddingMask:
    by_name = {spec.name: spec for spec in specs}
    name = asked if asked in by_name else asked.removeprefix(_INVERTED)
    if name not in by_name:
        closest = difflib.get_close_matches(name, [spec.name for spec in specs if _may_be_mask(spec)], n=1, cutoff=0.5)
        step = f"`--mask {as_typed(closest[0])}`" if closest else "`--mask none` counts every position"
        raise InputError(f"no input {printable(name)!r} to be a mask", hint=step)
    spec = by_name[name]
    if not _may_be_mask(spec):
        raise InputError(
            f"input {printable(name)!r} is no mask of samples by positions, nor lengths: {spec.dtype} of "
            f"{'unknown' if _rank(spec) is None else _rank(spec)} axes",
            hint="`--mask none` counts every position",
        )
    if _rank(spec) == 1 and (axes := _axes_of_lengths(spec, specs)):
        return PaddingMask(name, "lengths", axes)
    says = _says(spec)
    if asked != name:
        says = "counted" if says == "left out" else "left out"
    return PaddingMask(name, says, positions_of(spec, specs))


def _may_be_mask(spec: InputSpec) -> bool:
    return _kind(spec) in "biuf" and _rank(spec) in (1, 2)


def _is_padding(spec: InputSpec) -> bool:
    """Whether an input is called as masks of positions are."""
    return is_called(spec.name, "mask") and not is_called(spec.name, "other mask")


def _says(spec: InputSpec) -> Literal["counted", "left out"]:
    """PyTorch's key_padding_mask is True where there is nothing; other masks are 1 where there is something."""
    return "left out" if _kind(spec) == "b" and is_called(spec.name, "padding mask") else "counted"


def positions_of(mask: InputSpec, specs: Sequence[InputSpec]) -> dict[str, int]:
    """Return where the positions of a mask, or of ids, are in all inputs: of its dimension's name, or of its length.

    Args:
        mask: Its last axis is that of positions.
        specs: All inputs.
    """
    shape = mask.shape or ()
    last = len(shape) - 1
    axes = {mask.name: last}
    for spec in specs:
        if spec.name == mask.name or not spec.shape:
            continue
        if isinstance(shape[last], str):
            same = [axis for axis, dim in enumerate(spec.shape) if dim == shape[last]]
        else:
            place = 1 if len(spec.shape) > 1 else 0
            same = [place] if len(spec.shape) <= 3 and spec.shape[place] == shape[last] else []
        if len(same) == 1:
            axes[spec.name] = same[0]
    return axes


def _axes_of_lengths(lengths: InputSpec, specs: Sequence[InputSpec]) -> dict[str, int]:
    """Where the positions are that lengths count: the only open axis of the only sequence, or of that of their name."""
    stem = stem_of_lengths(lengths.name)
    others = [spec for spec in specs if spec.shape and len(spec.shape) >= 2 and spec.name != lengths.name]
    named = [spec for spec in others if stem and spec.name.lower().startswith(stem)]
    found = {}
    for spec in named or others:
        is_open = [axis for axis, dim in enumerate(spec.shape or ()) if axis and not isinstance(dim, int)]
        if len(is_open) == 1:
            found[spec.name] = is_open[0]
    dims = {next(spec.shape or () for spec in specs if spec.name == name)[axis] for name, axis in found.items()}
    return found if len(dims) == 1 else {}


def _rank(spec: InputSpec) -> int | None:
    return None if spec.shape is None else len(spec.shape)


def _kind(spec: InputSpec) -> str:
    """numpy's letter of an input's type; `?` for a sequence and the like."""
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        return "?"
    return "f" if "float" in dtype.name else dtype.kind
