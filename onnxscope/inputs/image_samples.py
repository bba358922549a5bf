"""Samples that are images: decoded, and made numbers by a preset."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type, only_input, spec_text
from onnxscope.inputs.layouts import ImageLayout, image_layout
from onnxscope.inputs.presets import Preset
from onnxscope.inputs.samples import Load, Samples
from onnxscope.inputs.sources import files_behind, open_input
from onnxscope.readers.images import MAX_IMAGE_BYTES, Colour, normalize_image, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from onnxscope.model.stored_model import InputSpec

__all__ = ["ImageSamples", "place_of_images"]

Array = NDArray[Any]

_MAX_BATCH_BYTES = 4 << 30


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSamples(Samples):
    """Images, prepared by a preset.

    Attributes:
        entries: Paths, or Pillow's images.
        preset: The recipe that makes them numbers.
        axes: Where the axes of the model's input are.
    """

    kind = "images"

    entries: Sequence[Any]
    preset: Preset
    axes: ImageLayout

    @classmethod
    def open(cls, entries: Sequence[Any], specs: Sequence[InputSpec], preset: Preset, layout: str) -> ImageSamples:
        """Find the place of images in the model's inputs.

        Raises:
            InputError: They have none.
        """
        spec, axes = place_of_images(specs, layout)
        return cls(
            specs=tuple(specs),
            count=len(entries),
            batch_axes={spec.name: axes.batch_axis},
            layouts={spec.name: axes},
            fixed_batch=_fixed_batch(spec, axes),
            entries=entries,
            preset=preset,
            axes=axes,
        )

    @property
    def files(self) -> list[str]:
        """The images' paths."""
        return files_behind(self.entries)

    @property
    def names(self) -> list[str]:
        """The images' file names."""
        return [printable(os.path.basename(entry)) for entry in self.entries if isinstance(entry, str)]

    @property
    def record(self) -> dict[str, Any]:
        """The preset and the layout."""
        return {"preset": self.preset.record, "layout": self.axes.name, "random_seed": None}

    def name(self, position: int) -> str:
        """The file's name, or the position of an image that has none."""
        entry = self.entries[position]
        return printable(os.path.basename(entry)) if isinstance(entry, str) else super().name(position)

    def first(self, count: int) -> ImageSamples:
        """The first images."""
        return replace(self, entries=self.entries[:count], count=count)

    def fed_to(self, specs: Sequence[InputSpec]) -> ImageSamples:
        """The same images."""
        (spec,) = specs
        return replace(self, specs=tuple(specs), fixed_batch=_fixed_batch(spec, self.axes))

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Decode and prepare one image."""
        (spec,) = self.specs
        shape = spec.shape or ()
        height, width = (
            size if isinstance(size, int) else None for size in shape[self.axes.height_axis : self.axes.width_axis + 1]
        )
        image, remarks, where = self._decoded(position)
        if self.preset.size is None and None in (height, width) and self.count > 1:
            own_height, own_width = self._first_size
            height, width = height or own_height, width or own_width
            if (image.height, image.width) != (height, width):
                remarks = [*remarks, "resized to the size of the first image, as the model leaves it open"]
        try:
            pixels = self.preset.apply(image, height, width, element_type(spec))
        except InputError as error:
            raise InputError(f"{error}: {where}", hint=error.hint) from error
        if self.axes.channel_axis < self.axes.height_axis:
            pixels = pixels.transpose(2, 0, 1)
        return {spec.name: np.ascontiguousarray(pixels, element_type(spec))}, remarks

    @cached_property
    def _first_size(self) -> tuple[int, int]:
        """Height and width of the first image that can be read: all of them have to be of one size."""
        for position in range(self.count):
            with contextlib.suppress(InputError):
                image, _, _ = self._decoded(position)
                return image.height, image.width
        raise InputError("none of the images can be read")

    def _decoded(self, position: int) -> tuple[Image, list[str], str]:
        """An image as it is, upright, with remarks and what messages call it."""
        (spec,) = self.specs
        entry = self.entries[position]
        colour: Colour = "L" if (spec.shape or ())[self.axes.channel_axis] == 1 else "RGB"
        if isinstance(entry, str):
            where = printable(entry)
            with open_input(entry, limit_bytes=MAX_IMAGE_BYTES) as stream:
                return *read_image(stream, where, colour), where
        where = f"image {position}"
        return *normalize_image(entry, where, colour), where

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """One batch; copies of the last image fill up runs of a fixed batch."""
        (spec,) = self.specs
        padded, notes = self._padded_count()
        batch: Array | None = None
        for position, entry in enumerate(self.entries):
            arrays, remarks = load(position)
            image = arrays[spec.name]
            if batch is None:
                batch = _reserve((padded, *image.shape), image.dtype, spec)
            batch[position] = image
            called = self.name(position) if isinstance(entry, str) else f"image {position}"
            notes += [f"{called}: {remark}" for remark in remarks]
        assert batch is not None  # there is at least one image
        batch[self.count :] = batch[self.count - 1]
        return {spec.name: batch[0] if self.axes.batch_axis is None else batch}, self.count, notes

    def _padded_count(self) -> tuple[int, list[str]]:
        """How many images fill the runs of a fixed batch, and a note where that takes copies."""
        (spec,) = self.specs
        if self.axes.batch_axis is None and self.count > 1:
            raise InputError(
                f"{self.count} images for an input without a batch axis: input {spec.name!r} {spec_text(spec)}",
                hint="give one image",
            )
        fixed = self.fixed_batch or 1
        padded = math.ceil(self.count / fixed) * fixed
        if padded == self.count:
            return padded, []
        copies = "1 copy" if padded - self.count == 1 else f"{padded - self.count} copies"
        note = f"the model's batch is fixed at {fixed}: {copies} of the last image added to fill it, not counted"
        return padded, [note]


def place_of_images(specs: Sequence[InputSpec], layout: str) -> tuple[InputSpec, ImageLayout]:
    """Find the input that images become, and its axes.

    Raises:
        InputError: There is none.
    """
    spec = only_input(specs, "images")
    axes = image_layout(spec.name, spec.shape, layout)
    dtype = element_type(spec)
    if dtype.kind not in "fiu" and "float" not in dtype.name:
        raise InputError(f"no image becomes {spec.dtype}: input {spec.name!r}", hint="give a .npy file")
    if any(isinstance(dim, int) and dim < 1 for dim in spec.shape or ()):
        raise InputError(f"no image fits: input {spec.name!r} {spec_text(spec)}")
    return spec, axes


def _fixed_batch(spec: InputSpec, axes: ImageLayout) -> int | None:
    batch = 1 if axes.batch_axis is None else (spec.shape or ())[axes.batch_axis]
    return batch if isinstance(batch, int) else None


def _reserve(shape: tuple[int, ...], dtype: np.dtype[Any], spec: InputSpec) -> Array:
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes > _MAX_BATCH_BYTES:
        raise InputError(
            f"a batch of {shape[0]:,} images would take {size_bytes:,} bytes, more than the {_MAX_BATCH_BYTES:,} that "
            f"we make: input {spec.name!r} {spec_text(spec)}",
            hint="give fewer images",
        )
    return np.empty(shape, dtype)
