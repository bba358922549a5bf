"""Mosaics: feature maps, kernels and rows of numbers as pictures with a palette.

One index per colour level, which Pillow writes a hundred times faster than matplotlib draws subplots; matplotlib is
loaded only for colour maps other than viridis.
"""

from __future__ import annotations

import difflib
import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from onnxscope.base.text import printable, shortened
from onnxscope.errors import InputError

__all__ = [
    "coarsened",
    "colour_table",
    "encode_png",
    "kernels",
    "labelled",
    "mosaic",
    "reduced",
    "scale_maps",
    "strips",
    "thinned",
]

_CLEAR = 255  # the palette index of gaps and NaN
_TOP = 254  # the highest level that is left; matplotlib's colours 254 and 255 become one
_LETTERS = 128  # the palette index of what is written
_LETTER_PX = 13
_LEAST_LETTER_PX = 8
_LONGEST_NAME = 16
_GAP_PX = 4
_MAX_CELL_PX = 1024
_MIN_SIDE_PX = 8  # maps of one row or column would otherwise be lines
_MAX_PICTURE_PX = 16_000_000


@cache
def colour_table(name: str) -> npt.NDArray[np.uint8]:
    """Return the 256 RGB colours of one of matplotlib's colour maps, read-only, uint8 of shape (256, 3).

    Raises:
        InputError: There is no colour map of this name.
    """
    if name == "viridis":  # CC0, by van der Walt and Smith; kept here because loading matplotlib takes 256 ms
        return np.frombuffer(Path(__file__).with_name("viridis.bin").read_bytes(), np.uint8).reshape(256, 3)
    import matplotlib

    if name not in matplotlib.colormaps:
        closest = difflib.get_close_matches(name, list(matplotlib.colormaps), cutoff=0.0)
        raise InputError(f"no colour map named {name!r}", hint=f"closest names: {', '.join(closest)}")
    table = np.ascontiguousarray(matplotlib.colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3])
    table.flags.writeable = False
    return table


def encode_png(image: Image.Image, *, level: int = 6) -> bytes:
    """Return the image as PNG; level 6 for single pictures, 3 for many (half the time, 20 % more bytes)."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=level)
    return stream.getvalue()


def mosaic(
    maps: npt.NDArray[Any],
    *,
    columns: int | None = None,
    cmap: str = "viridis",
    cell_px: int = 112,
    gap_px: int = _GAP_PX,
    square: bool = True,
) -> Image.Image:
    """Lay feature maps out in a grid, each scaled to its own finite range as `imshow` does.

    NaN and the gaps are transparent, infinities take the ends of the colour map, a constant map is all lowest colour.

    Args:
        maps: Shape (channels, height, width), at least one element, any real element type.
        columns: None for four, or for a roughly square grid of more than 16 maps.
        cmap: A colour map of matplotlib.
        cell_px: Maps are enlarged by the largest integer that keeps their longer side within this, and thinned to
            every n-th row and column beyond 1024 pixels.
        gap_px: Between two maps.
        square: Whether both sides are enlarged, or thinned, alike; of a table of tokens by channels they need not be.

    Returns:
        An image of mode `P`, whose palette is the colour map and whose index 255 is transparent.

    Raises:
        InputError: `maps` has another shape, or `cmap` is unknown.
    """
    table = colour_table(cmap)
    if maps.ndim != 3 or not maps.size:
        raise InputError(f"not (channels, height, width) with at least one element: an array of shape {maps.shape}")
    columns = columns or (4 if len(maps) <= 16 else _columns(len(maps)))
    scaled = scale_maps(thinned(maps, square=square))
    levels = np.where(np.isnan(scaled), _CLEAR, np.minimum(scaled * 256, _TOP)).astype(np.uint8)
    image = Image.fromarray(_tiled(levels, columns, cell_px, _CLEAR, gap_px, square))
    image.putpalette(table.tobytes())
    image.info["transparency"] = _CLEAR
    return image


def labelled(
    image: Image.Image, down: str, right: str, each: str, names: Sequence[str] = (), rows: int = 1
) -> Image.Image:
    """Write beside a mosaic what runs down, below it what runs to the right and of what the maps are.

    The letters have the middle colour of its palette, which is seen on light and on dark ground.

    Args:
        image: From `mosaic`.
        down: What runs down.
        right: What runs to the right.
        each: What the maps are of; empty for one that needs no name.
        names: Of every place down, written where there is room; they may come from anybody.
        rows: How many maps lie above each other.
    """
    font = ImageFont.load_default(_LETTER_PX)  # a palette has no grey, so that letters keep to whole pixels: mode 1
    lines = [line for line in (f"{right}, to the right", each) if line]
    widest = max(math.ceil(font.getlength(line, mode="1")) for line in lines)
    listed = _names_beside(image, names, rows)
    side, foot = _LETTER_PX + 6 + listed.width, (_LETTER_PX + 4) * len(lines) + 2
    text = f"{down}, downwards"
    beside = Image.new(
        "P", (max(image.height, math.ceil(font.getlength(text, mode="1")) + side), _LETTER_PX + 6), _CLEAR
    )
    ImageDraw.Draw(beside).text((beside.width, 0), text, fill=_LETTERS, font=font, anchor="rt")
    size = max(image.width, widest) + side, max(image.height, beside.width) + foot
    canvas = Image.new("P", size, _CLEAR)
    canvas.paste(beside.transpose(Image.Transpose.ROTATE_90), (0, 0))
    canvas.paste(listed, (_LETTER_PX + 6, 0))
    canvas.paste(image, (side, 0))
    pen = ImageDraw.Draw(canvas)
    for place, line in enumerate(lines):
        pen.text((side, size[1] - foot + 2 + place * (_LETTER_PX + 4)), line, fill=_LETTERS, font=font)
    palette = image.getpalette()
    assert palette is not None
    canvas.putpalette(palette)
    canvas.info["transparency"] = _CLEAR
    return canvas


def _names_beside(image: Image.Image, names: Sequence[str], rows: int) -> Image.Image:
    """The names of all places down, beside each row of maps; nothing where they have no room."""
    height = (image.height - _GAP_PX * (rows - 1)) / rows
    step = height / max(1, len(names))
    if not names or step < _LEAST_LETTER_PX:
        return Image.new("P", (0, image.height), _CLEAR)
    font = ImageFont.load_default(min(_LETTER_PX, int(step)))
    shown = [shortened(printable(name), _LONGEST_NAME) for name in names]
    width = max(math.ceil(font.getlength(name, mode="1")) for name in shown) + _GAP_PX
    listed = Image.new("P", (width, image.height), _CLEAR)
    pen = ImageDraw.Draw(listed)
    for row in range(rows):
        for place, name in enumerate(shown):
            middle = row * (height + _GAP_PX) + (place + 0.5) * step
            pen.text((width - _GAP_PX, middle), name, fill=_LETTERS, font=font, anchor="rm")
    return listed


def reduced(maps: npt.NDArray[Any], side: int, *, square: bool = True) -> npt.NDArray[Any]:
    """Shrink maps by averaging squares of whole pixels, until neither side is longer than `side`.

    Args:
        maps: Shape (channels, height, width). Rows and columns that fill no square are left out.
        side: At least 1.
        square: Whether both sides are shrunk alike; else each by itself, by averaging rectangles.

    Returns:
        The maps themselves where they are small enough, else float64; a square with NaN in it is NaN.
    """
    count, height, width = maps.shape
    steps = -(-height // side), -(-width // side)
    if max(steps) == 1:
        return maps
    if square:
        steps = max(steps), max(steps)
    down, across = min(steps[0], height), min(steps[1], width)
    rows, columns = height // down, width // across
    squares = maps[:, : rows * down, : columns * across].reshape(count, rows, down, columns, across)
    with np.errstate(invalid="ignore"):  # infinities of both signs in one square
        means: npt.NDArray[np.float64] = squares.mean(axis=(2, 4), dtype=np.float64)
    return means


def coarsened(picture: Image.Image) -> Image.Image:
    """Return a mosaic in fifteen colours instead of 255: less than half the bytes as PNG, for many small maps."""
    levels = np.minimum(np.asarray(picture) // 17, 14)
    levels[np.asarray(picture) == _CLEAR] = 15
    image = Image.fromarray(levels)
    image.putpalette(np.asarray(picture.getpalette(), np.uint8).reshape(-1, 3)[[*range(8, 255, 17), 255]].tobytes())
    image.info["transparency"] = 15
    return image


def strips(rows: Sequence[tuple[npt.NDArray[np.float64], float, float]]) -> Image.Image:
    """Draw numbers as strips of colour, a strip a row and a pixel a number.

    Args:
        rows: For each strip its numbers, and the values of the first and of the last colour; NaN is transparent.

    Returns:
        An image of mode `P` with 32 colours, to be stretched without smoothing.
    """
    levels = np.full((len(rows), len(rows[0][0])), 32, np.uint8)
    for place, (numbers, low, high) in enumerate(rows):
        known = ~np.isnan(numbers)
        share = (numbers[known] - low) / (high - low) if high > low else np.zeros(int(known.sum()))
        levels[place, known] = np.minimum(np.clip(share, 0, 1) * 32, 31).astype(np.uint8)
    image = Image.fromarray(levels)
    image.putpalette(colour_table("viridis")[4::8].tobytes())
    image.info["transparency"] = 32
    return image


def kernels(weights: npt.NDArray[Any], *, cmap: str = "viridis", cell_px: int = 64) -> Image.Image:
    """Show the kernels of a first layer: in colour where its input has three channels, by colour map where it has one.

    Args:
        weights: Shape (kernels, 1 or 3, height, width), at least one element; each kernel is scaled to its own range,
            its three channels together.
        cmap: A colour map of matplotlib, for kernels of one channel.
        cell_px: As for `mosaic`.

    Returns:
        An image of mode `RGBA` or `P`, roughly square, with transparent gaps.

    Raises:
        InputError: `weights` has another shape, or `cmap` is unknown.
    """
    if weights.ndim != 4 or weights.shape[1] not in (1, 3) or not weights.size:
        raise InputError(f"not (kernels, 1 or 3, height, width): weights of shape {weights.shape}")
    columns = _columns(len(weights))
    if weights.shape[1] == 1:
        return mosaic(weights[:, 0], columns=columns, cmap=cmap, cell_px=cell_px)
    scaled = np.moveaxis(scale_maps(thinned(weights)), 1, -1)
    colours = np.zeros((*scaled.shape[:-1], 4), np.uint8)
    visible = ~np.isnan(scaled).any(axis=-1)
    colours[visible, :3] = np.rint(scaled[visible] * 255)
    colours[visible, 3] = 255
    return Image.fromarray(_tiled(colours, columns, cell_px, 0, _GAP_PX))


def scale_maps(maps: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Scale each map to 0..1 over its finite elements; infinities go to the ends, NaN stays, a constant becomes 0."""
    values = maps.astype(np.float64) * 0.25  # exact, and no difference of two of them overflows
    others = tuple(range(1, values.ndim))
    finite = np.isfinite(values)
    low = np.min(values, axis=others, keepdims=True, where=finite, initial=math.inf)
    high = np.max(values, axis=others, keepdims=True, where=finite, initial=-math.inf)
    low = np.where(np.isfinite(low), low, 0)
    span = np.where(high > low, high - low, 1)
    return np.clip((values - low) / span, 0, 1)


def thinned(maps: npt.NDArray[Any], *, square: bool = True) -> npt.NDArray[Any]:
    """Take every n-th row and column of maps that would make a picture too large to open."""
    height, width = maps.shape[-2:]
    area = math.ceil(math.sqrt(len(maps) * height * width / _MAX_PICTURE_PX))
    rows, columns = (max(-(-side // _MAX_CELL_PX), area) for side in (height, width))
    if square:
        rows = columns = max(rows, columns)
    return maps[..., ::rows, ::columns]


def _tiled(
    cells: npt.NDArray[np.uint8], columns: int, cell_px: int, blank: int, gap_px: int, square: bool = True
) -> npt.NDArray[np.uint8]:
    """Enlarge cells of shape (count, height, width, ...) and lay them out in rows, with gaps of the value `blank`."""
    count, height, width, *rest = cells.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    room = min(cell_px, math.isqrt(_MAX_PICTURE_PX // (rows * columns)))
    if square:
        scale = max(1, room // max(height, width))
        down, across = max(scale, -(-_MIN_SIDE_PX // height)), max(scale, -(-_MIN_SIDE_PX // width))
    else:  # no thicker than a quarter of the picture: three tokens need not fill it
        down, across = (max(1, min(room // side, room // 16)) for side in (height, width))
    cells = cells.repeat(down, axis=1).repeat(across, axis=2)
    height, width = height * down, width * across
    canvas = np.full((rows * columns, height + gap_px, width + gap_px, *rest), blank, np.uint8)
    canvas[:count, :height, :width] = cells
    canvas = canvas.reshape(rows, columns, height + gap_px, width + gap_px, *rest).swapaxes(1, 2)
    canvas = canvas.reshape(rows * (height + gap_px), columns * (width + gap_px), *rest)
    return np.ascontiguousarray(canvas[: canvas.shape[0] - gap_px, : canvas.shape[1] - gap_px])


def _columns(count: int) -> int:
    """Choose a number of columns for a picture about 3 by 2, without an incomplete row where that can be had."""
    ideal = math.sqrt(1.5 * count)
    whole = [n for n in range(math.ceil(ideal / 1.5), int(ideal * 1.8) + 1) if count % n == 0]
    return min(whole, key=lambda n: abs(n - ideal), default=math.ceil(ideal))
