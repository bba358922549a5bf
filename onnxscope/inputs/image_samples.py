"""Samples that are images: decoded, and made numbers by a preset."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.shapes import spec_text
from onnxscope.base.text import as_typed, printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type, only_input
from onnxscope.inputs.layouts import ImageLayout, find_layout, image_layout
from onnxscope.inputs.presets import PRESETS, Preset, load_preset, nearest_preset, preset_beside, preset_of_model
from onnxscope.inputs.samples import Load, Samples
from onnxscope.inputs.sources import files_behind, open_input
from onnxscope.inputs.teaching import also
from onnxscope.readers.images import MAX_IMAGE_BYTES, Colour, Picture, normalize_image, read_image
from onnxscope.readers.ways_said import first_said

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["ImageSamples", "place_of_images", "preset_for"]

Array = NDArray[Any]

_MAX_BATCH_BYTES = 4 << 30
_NAMED_INPUTS = 3
_COLOURS: Mapping[int, Colour] = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSamples(Samples):
    """Images, prepared by a preset.

    Attributes:
        entries: Paths, or Pillow's images.
        preset: The recipe that makes them numbers.
        axes: Where the axes of the model's input are.
        multiple: Of which height and width are, where these are open and follow the picture.
    """

    kind = "images"

    entries: Sequence[Any]
    preset: Preset
    axes: ImageLayout
    multiple: int = 1

    @classmethod
    def open(cls, entries: Sequence[Any], specs: Sequence[InputSpec], preset: Preset, layout: str) -> ImageSamples:
        """Find the place of images in the model's inputs.

        Raises:
            InputError: They have none.
        """
        spec, axes = place_of_images(specs, layout)
        follows = preset.follows
        multiple = 1
        if follows and None in _sides(spec, axes) and spec.model is not None:
            from onnxscope.inputs.trial_runs import image_multiple  # and with it onnx

            multiple = image_multiple(spec, axes)
        samples = cls(
            specs=tuple(specs),
            count=len(entries),
            batch_axes={spec.name: axes.batch_axis},
            layouts={spec.name: axes},
            fixed_batch=_fixed_batch(spec, axes),
            entries=entries,
            preset=preset,
            axes=axes,
            multiple=multiple or 1,
        )
        if not multiple:
            samples._refuse_size()
        return samples

    def _refuse_size(self) -> None:
        """Hold the first picture to its model, where that takes few sizes; one that cannot be read is told later.

        Raises:
            InputError: The model takes others; says one.
        """
        from onnxscope.inputs.trial_runs import image_size, refusal_of

        (spec,) = self.specs
        try:
            arrays, _ = self.load(0)
        except InputError:
            return
        array = arrays[spec.name] if self.axes.batch_axis is None else arrays[spec.name][None]
        refusal = refusal_of(self.specs, {spec.name: array})
        runs = image_size(spec, self.axes) if refusal else None
        if refusal and runs:
            height, width = array.shape[self.axes.height_axis : self.axes.width_axis + 1]
            raise InputError(
                f"no picture of {width} x {height} runs: {refusal.called} refuses it: {self.name(0)}",
                hint=f"`--size {runs[1]}x{runs[0]}` runs",
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
        pixels, remarks = self._prepared(position, *_sides(spec, self.axes))
        return {spec.name: pixels}, remarks

    def _prepared(self, position: int, height: int | None, width: int | None) -> tuple[Array, list[str]]:
        """One image as the model takes it, of a height and a width where they are given."""
        (spec,) = self.specs
        dtype = element_type(spec)
        image, remarks, where = self._decoded(position)
        first = image[0] if isinstance(image, tuple) else image
        try:
            pixels = self.preset.apply(image, height, width, dtype, self.multiple)
        except InputError as error:
            raise InputError(f"{error}: {where}", hint=error.hint) from error
        made = pixels.shape[:2]
        if self.multiple > 1 and None in (height, width) and made != (first.height, first.width):
            done = "padded" if self.preset.resize == "letterbox" else "resized"
            remarks = [*remarks, f"{done} to {made[1]} x {made[0]}: the model takes multiples of {self.multiple}"]
        if isinstance(image, tuple) and dtype.kind in "iu":
            kept = np.iinfo(dtype).max >= 65_535
            remarks = [*remarks, "fed as 0..65535" if kept else f"rounded to whole levels for {spec.dtype}"]
        return self.placed(pixels), remarks

    def levels(self, position: int, presets: Iterable[Preset]) -> Iterator[Array]:
        """Decode one image once, and resize it as each of several presets does.

        Yields:
            Its levels, a new array (height, width, channels), RGB where it is colour: what `Preset.numbers` takes.

        Raises:
            InputError: It is missing or broken, or would become too large on the way.
        """
        (spec,) = self.specs
        image, _, _ = self._decoded(position)
        for preset in presets:
            resizing = replace(preset, order="RGB", divisor=1.0, mean=(0.0,), std=(1.0,))
            yield resizing.apply(image, *_sides(spec, self.axes), element_type(spec), self.multiple)

    def placed(self, pixels: Array) -> Array:
        """Return numbers of shape (height, width, channels) with their axes where the model has them."""
        return np.ascontiguousarray(
            pixels.transpose(2, 0, 1) if self.axes.channel_axis < self.axes.height_axis else pixels
        )

    def _decoded(self, position: int) -> tuple[Picture, list[str], str]:
        """An image as it is, upright, with remarks and what messages call it."""
        (spec,) = self.specs
        entry = self.entries[position]
        colour = _COLOURS[_colours(spec, self.axes)]
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
            elif image.shape != batch.shape[1:]:
                start = self.axes.height_axis - (self.axes.batch_axis is not None)
                image, remarks = self._prepared(position, *batch.shape[1:][start : start + 2])
                remarks = [*remarks, "resized to the size of the first image, for all are fed at once"]
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
    pictures = [spec for spec in specs if find_layout(spec.shape) is not None]
    if len(specs) > 1 and pictures:
        named = [
            f"-i {as_typed(spec.name)}=FILE.{'png' if spec in pictures else 'npy'}" for spec in specs[:_NAMED_INPUTS]
        ]
        step = f"`{' '.join(named)}`" if len(specs) <= _NAMED_INPUTS else f"`{named[0]}`, and so on"
        raise InputError(f"the model has {len(specs)} inputs, not one: images", hint=f"name that of each file: {step}")
    spec = only_input(specs, "images")
    axes = image_layout(spec.name, spec.shape, layout)
    dtype = element_type(spec)
    if dtype.kind not in "fiu" and "float" not in dtype.name:
        raise InputError(f"no image becomes {spec.dtype}: input {spec.name!r}")
    if any(isinstance(dim, int) and dim < 1 for dim in spec.shape or ()):
        raise InputError(f"no image fits: input {spec.name!r} {spec_text(spec)}")
    return spec, axes


def preset_for(specs: Sequence[InputSpec], options: RunOptions, recorded: str | None) -> tuple[Preset, list[str]]:
    """Find out how images are prepared for inputs: as somebody asks for, or as the model or what lies beside it says.

    Args:
        specs: The inputs, of which one takes images.
        options: Their preset, size and layout count.
        recorded: What the model's converter recorded.

    Returns:
        The preset, and notes for people where nobody has named it.

    Raises:
        InputError: Nobody says, no input takes images, or they cannot have the size that is asked for.
    """
    spec, axes = place_of_images(specs, options.layout)  # whether it takes images is no matter of presets
    channels, dtype = _colours(spec, axes), element_type(spec)
    asked = options.preprocess if isinstance(options.preprocess, str) else ""
    nearest = nearest_preset(channels, dtype, asked)
    given = options.preprocess
    as_they_are = spec.dtype == "uint8"
    notes = []
    try:
        chosen, by = first_said(
            None if given is None else lambda: load_preset(given, hint=nearest),
            None if recorded is None else lambda: preset_of_model(recorded, nearest),
            lambda: PRESETS["none"] if as_they_are else preset_beside(spec.model.path if spec.model else None),
        )
        preset = chosen or preset_of_model(None, nearest)
        if by == "beside":
            uint8 = "the model takes uint8: pictures are fed as they are, 0..255 (the preset `none`)"
            notes.append(uint8 if as_they_are else f"prepared as {preset.name} beside the model says")
        preset.check(channels, dtype)
    except InputError as error:
        raise error if nearest is None or nearest in (error.hint or "") else also(error, nearest) from None
    return (preset if options.size is None else _sized(preset, options.size, spec, axes)), notes


def _sized(preset: Preset, size: str | int, spec: InputSpec, axes: ImageLayout) -> Preset:
    """The same steps for another size.

    Raises:
        InputError: It is none, or the model has another.
    """
    given = _sides(spec, axes)
    try:
        sized = preset.sized(size)
    except InputError as error:
        error.hint = error.hint if None in given else "leave `--size` out"
        raise
    if sized.size is not None and None not in given and sized.target((1, 1), None, None) != given:
        raise InputError(
            f"the model fixes its pictures at {given[1]} x {given[0]}, not {printable(str(size))}: "
            f"input {spec.name!r} {spec_text(spec)}",
            hint="leave `--size` out",
        )
    return sized


def _sides(spec: InputSpec, axes: ImageLayout) -> tuple[int | None, int | None]:
    """The model's height and width, None where they are open."""
    height, width = (spec.shape or ())[axes.height_axis : axes.width_axis + 1]
    return height if isinstance(height, int) else None, width if isinstance(width, int) else None


def _colours(spec: InputSpec, axes: ImageLayout) -> int:
    """How many channels a picture has for an input: that of the model, three where it is open."""
    channels = (spec.shape or ())[axes.channel_axis]
    return channels if channels in (1, 4) else 3


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
