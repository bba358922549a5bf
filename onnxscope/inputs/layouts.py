"""Where batch, channels, height and width are in the shape of an image input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from onnxscope.base.run_options import Layout
from onnxscope.base.shapes import Dim, shape_text
from onnxscope.errors import InputError

__all__ = ["ImageLayout", "find_layout", "image_layout"]

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ImageLayout:
    """The axes of an image input.

    Attributes:
        name: `nchw` or `nhwc`, without the `n` for an input that takes one image and has no batch axis.
        batch_axis: 0, or None where there is none.
        channel_axis: The axis of the channels.
        height_axis: The axis of the rows; the axis of the columns is the next one.
    """

    name: str
    batch_axis: int | None
    channel_axis: int
    height_axis: int

    @property
    def width_axis(self) -> int:
        """The axis of the columns."""
        return self.height_axis + 1


_LAYOUTS = {
    ("nchw", 4): ImageLayout(name="nchw", batch_axis=0, channel_axis=1, height_axis=2),
    ("nhwc", 4): ImageLayout(name="nhwc", batch_axis=0, channel_axis=3, height_axis=1),
    ("nchw", 3): ImageLayout(name="chw", batch_axis=None, channel_axis=0, height_axis=1),
    ("nhwc", 3): ImageLayout(name="hwc", batch_axis=None, channel_axis=2, height_axis=0),
}


def find_layout(shape: Sequence[Dim] | None) -> ImageLayout | None:
    """Return the layout that the shape alone shows: 1, 3 or 4 channels at one end and not at the other, or None."""
    if shape is None or len(shape) not in (3, 4):
        return None
    fitting = [
        layout
        for (_, rank), layout in _LAYOUTS.items()
        if rank == len(shape) and shape[layout.channel_axis] in _CHANNELS
    ]
    return fitting[0] if len(fitting) == 1 else None


def image_layout(name: str, shape: Sequence[Dim] | None, layout: str = "auto") -> ImageLayout:
    """Return the layout in which an image input takes its images.

    Args:
        name: The input's name, for messages.
        shape: Rank 4, or rank 3 for an input without a batch axis.
        layout: `nchw`, `nhwc`, or `auto` to read it from the shape.

    Raises:
        InputError: The input is no image, its layout is ambiguous, or the number of channels is not 1, 3 or 4.
    """
    if layout not in get_args(Layout):
        raise InputError(f"unknown layout {layout!r}", hint=f"one of {', '.join(get_args(Layout))}")
    where = f"input {name!r} {shape_text(shape)}"
    if shape is None or len(shape) not in (3, 4):
        raise InputError(f"an image has no place in an input without height, width and channels: {where}")
    axes = find_layout(shape) if layout == "auto" else _LAYOUTS[layout, len(shape)]
    if axes is None:
        ends = [shape[candidate.channel_axis] for (_, rank), candidate in _LAYOUTS.items() if rank == len(shape)]
        if all(isinstance(size, int) and size not in _CHANNELS for size in ends):
            raise InputError(f"an image gives 1, 3 or 4 channels, and no axis has these: {where}")
        raise InputError(
            f"cannot tell channels-first from channels-last: {where}",
            hint="`--layout nchw` or `--layout nhwc` tells",
        )
    channels = shape[axes.channel_axis]
    if isinstance(channels, int) and channels not in _CHANNELS:
        raise InputError(
            f"an image gives 1, 3 or 4 channels, not the {channels} at axis {axes.channel_axis} ({axes.name}): {where}",
            hint="leave `--layout` out" if find_layout(shape) else None,
        )
    return axes
