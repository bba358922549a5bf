"""Everything that a model is fed at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.inputs.layouts import ImageLayout
from onnxscope.inputs.samples import BatchAxes, axis_of_samples, run_length, sample_count, some_samples
from onnxscope.selection.padding_masks import PaddingMask

if TYPE_CHECKING:
    from onnxscope.inputs.presets import Preset
    from onnxscope.model.stored_model import InputSpec

__all__ = ["PreparedInput"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedInput:
    """Everything at once, as the model takes it.

    Attributes:
        specs: The model's inputs.
        arrays: By input name, C-contiguous, of the input's element type, and ours: nothing else changes them. Where
            the model's batch is fixed, the axis of samples is a multiple of it.
        samples: How many samples are real; repeated images that fill the last run come after them. None where no
            input has an axis of samples.
        record: The `input` of results, ready for JSON; of each input it says what was fed: shape, element type, and
            mean, sample deviation, least and largest number of every channel (of all numbers where it is no image),
            over the finite numbers of the real samples.
        notes: Remarks for people.
        layouts: Where the axes of an input are, by its name, for those that are images by their shape.
        preset: The recipe that made images into numbers, None for arrays and random numbers.
        batch_axes: By input, the axis along which samples lie, None where there is none.
        masks: Inputs that say which positions count.
        fixed_batch: How many samples a run must have, None for any number.
        tokens: What the tokens of each real sample are called, those that fill it up too; nothing where it is no text.
        sequences: Of each step, what the tokens that a cache holds are called; nothing where that is not known.
        apart: Of steps whose shapes grow, what each run is fed, a sample each; `arrays` are then those of the last one.
    """

    specs: tuple[InputSpec, ...]
    arrays: dict[str, Array]
    samples: int | None
    record: dict[str, Any]
    notes: tuple[str, ...]
    layouts: Mapping[str, ImageLayout]
    preset: Preset | None
    batch_axes: BatchAxes
    masks: tuple[PaddingMask, ...] = ()
    fixed_batch: int | None = None
    tokens: tuple[tuple[str, ...], ...] = ()
    sequences: tuple[tuple[str, ...], ...] = ()
    apart: tuple[dict[str, Array], ...] = ()

    def runs(self) -> Iterator[dict[str, Array]]:
        """Yield what each run is fed: everything, or runs of the model's fixed batch along its samples, as views."""
        if self.apart:
            yield from map(dict, self.apart)
            return
        length = run_length(self.arrays, self.specs, self.batch_axes)
        if length is None:
            yield dict(self.arrays)
            return
        axes = self.batch_axes
        for start in range(0, sample_count(self.arrays, axes) or 0, length):
            yield {name: some_samples(array, axes[name], start, start + length) for name, array in self.arrays.items()}

    def axis_of_samples(self, shape: Sequence[int]) -> int | None:
        """Return where samples lie in what one run gave, as far as its shape tells."""
        count = run_length(self.arrays, self.specs, self.batch_axes) or sample_count(self.arrays, self.batch_axes)
        return axis_of_samples(shape, count or 1, self.batch_axes)

    def joined(self, parts: Sequence[Any], axis: int | None = None) -> Any:
        """Join what one output was in each of the runs along its samples; those that only fill up leave no trace.

        Args:
            parts: Of `runs`, in order: arrays, or anything else that is taken from the first run.
            axis: Where its samples lie, None where its shape has to tell.
        """
        if self.apart:
            return self._padded(parts, axis)
        whole, fed = parts[0], sample_count(self.arrays, self.batch_axes)
        if fed is None or not all(isinstance(part, np.ndarray) and part.ndim for part in parts):
            return whole
        if axis is None:
            axis = self.axis_of_samples(whole.shape) or 0
        whole = np.concatenate(parts, axis) if len(parts) > 1 else whole
        return some_samples(whole, axis, 0, self.samples) if whole.shape[axis] == fed else whole

    def parts_of(self, parts: Sequence[Any], axis: int | None) -> list[Array] | None:
        """What of the runs of steps that grow goes into `joined`, as it was; None where all of that counts."""
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        differ = len({array.shape for array in arrays}) > 1
        return arrays if self.apart and differ and self._along(parts, axis) is not None else None

    def _along(self, parts: Sequence[Any], axis: int | None) -> int | None:
        """The axis along which every run gave one sample, None where there is none."""
        arrays = [part for part in parts if isinstance(part, np.ndarray) and part.dtype.kind != "U"]
        if len(arrays) < len(parts) or len({array.ndim for array in arrays}) > 1:
            return None
        along = self.axis_of_samples(arrays[0].shape) if axis is None else axis
        fits = along is not None and all(along < array.ndim and array.shape[along] == 1 for array in arrays)
        return along if fits else None

    def _padded(self, parts: Sequence[Any], axis: int | None) -> Any:
        """Steps along their axis, with NaN behind what is shorter; where there is no such axis, the last one's."""
        along = self._along(parts, axis)
        if along is None:
            return parts[-1]
        longest = np.max([part.shape for part in parts], axis=0)
        if all((part.shape == longest).all() for part in parts):
            return np.concatenate(parts, along)
        kind = parts[0].dtype if parts[0].dtype.kind not in "biu" else np.dtype(np.float64)
        filled = []
        for part in parts:
            whole = np.full(longest, np.nan, kind)
            whole[tuple(map(slice, part.shape))] = part
            filled.append(whole)
        return np.concatenate(filled, along)
