"""The pictures that a model sees, and maps laid over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.drawing.mosaics import colour_table, scale_maps
from onnxscope.inputs.presets import Preset
from onnxscope.inputs.samples import some_samples

__all__ = ["lay_over", "prepared_pictures"]

_MIN_SIDE_PX = 224  # smaller pictures are enlarged, for a map over eight pixels shows nothing
_STRONGEST = 0.7  # how much of the colour covers the picture where the map is 1


def prepared_pictures(prepared: PreparedInput, *, only: int | None = None) -> tuple[Image.Image, ...]:
    """Return each sample as the picture that the model sees, after resizing and cropping.

    For images the preset's steps are undone, so that colours are the photograph's own. An array or random numbers are
    shown as they are: the first input with one, three or four channels (the last of four is left out), each sample
    scaled to its own finite range.

    Args:
        prepared: What the model is fed.
        only: The sample that is shown, None for all of them.

    Returns:
        An image in mode `L` or `RGB` for every real sample, or for that one; empty where no input is a picture.
    """
    for name, layout in prepared.layouts.items():
        values = prepared.arrays[name]
        samples = some_samples(values, prepared.batch_axes[name], 0, prepared.samples)
        values = samples if layout.batch_axis == 0 else values[None]
        channels_last = values if layout.channel_axis > layout.height_axis else np.moveaxis(values, -3, -1)
        if channels_last.shape[-1] in (1, 3, 4) and channels_last.size:
            shown = channels_last if only is None else channels_last[only : only + 1]
            return tuple(_picture(sample, prepared.preset) for sample in shown)
    return ()


def lay_over(picture: Image.Image | None, values: NDArray[Any], *, cmap: str = "viridis") -> Image.Image:
    """Lay a map over a picture: the larger its value, the more of its colour covers the picture.

    Args:
        picture: Mode `L` or `RGB`; enlarged by a whole factor where it is small. None for the map's colours alone.
        values: Shape (height, width), 0 to 1; enlarged to the picture's size by bilinear interpolation.
        cmap: A colour map of matplotlib.

    Returns:
        A new image in mode `RGB`.

    Raises:
        InputError: `cmap` is unknown.
    """
    table = colour_table(cmap)
    height, width = (picture.height, picture.width) if picture is not None else values.shape
    factor = max(1, _MIN_SIDE_PX // max(height, width))
    size = (width * factor, height * factor)
    enlarged = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    shares = np.clip(np.asarray(enlarged), 0, 1)
    colours = table[np.minimum(shares * 256, 255).astype(np.intp)]
    if picture is None:
        return Image.fromarray(colours)
    below = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.NEAREST))
    cover = _STRONGEST * shares[:, :, None]
    return Image.fromarray(np.rint(below * (1 - cover) + colours * cover).astype(np.uint8))


def _picture(values: NDArray[Any], preset: Preset | None) -> Image.Image:
    """One sample of shape (height, width, channels) as a picture."""
    if preset is not None:
        return preset.restore(values)
    levels = np.rint(np.nan_to_num(scale_maps(values[None])[0]) * 255).astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels[:, :, :3])
