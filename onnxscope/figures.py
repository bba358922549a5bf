"""Pictures: feature maps and kernels as mosaics, histograms as SVG or PNG, and matplotlib Figures.

Mosaics are palette images, one index per colour level, which Pillow writes a hundred times faster than matplotlib draws
subplots; SVG is written by hand. matplotlib is loaded only for its Figures and for colour maps other than viridis.
"""

from __future__ import annotations

import difflib
import html
import io
import math
import warnings
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.outputs import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "coarsened",
    "colour_table",
    "encode_png",
    "feature_figure",
    "histogram_figure",
    "histogram_png",
    "histogram_svg",
    "kernels",
    "mosaic",
    "picture_figure",
    "quantile_figure",
    "reduced",
    "scale_maps",
    "sparkline_svg",
    "strips",
]

_CLEAR = 255  # the palette index of gaps and NaN
_TOP = 254  # the highest level that is left; matplotlib's colours 254 and 255 become one
_GAP_PX = 4
_MAX_CELL_PX = 1024
_MIN_SIDE_PX = 8  # maps of one row or column would otherwise be lines
_MAX_PICTURE_PX = 16_000_000
_BLUE = "#3b7dd8"  # contrast above 3 on white and on the dark background alike
_WIDTH, _MARGIN, _LEFT, _BOTTOM, _PLOT_WIDTH, _PLOT_HEIGHT = 360, 12, 44, 160, 300, 128
_STYLE = (
    ".onnxscope{color:#1f2937;background:#fff}"
    "@media(prefers-color-scheme:dark){.onnxscope{color:#d7dce3;background:#15181d}}"
)


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

    Returns:
        An image of mode `P`, whose palette is the colour map and whose index 255 is transparent.

    Raises:
        InputError: `maps` has another shape, or `cmap` is unknown.
    """
    table = colour_table(cmap)
    if maps.ndim != 3 or not maps.size:
        raise InputError(f"not (channels, height, width) with at least one element: an array of shape {maps.shape}")
    columns = columns or (4 if len(maps) <= 16 else _columns(len(maps)))
    scaled = scale_maps(_thinned(maps))
    levels = np.where(np.isnan(scaled), _CLEAR, np.minimum(scaled * 256, _TOP)).astype(np.uint8)
    image = Image.fromarray(_tiled(levels, columns, cell_px, _CLEAR, gap_px))
    image.putpalette(table.tobytes())
    image.info["transparency"] = _CLEAR
    return image


def reduced(maps: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Shrink maps by averaging squares of whole pixels, until neither side is longer than `side`.

    Args:
        maps: Shape (channels, height, width). Rows and columns that fill no square are left out.
        side: At least 1.

    Returns:
        The maps themselves where they are small enough, else float64; a square with NaN in it is NaN.
    """
    count, height, width = maps.shape
    step = -(-max(height, width) // side)
    if step == 1:
        return maps
    down, across = min(step, height), min(step, width)
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
    scaled = np.moveaxis(scale_maps(_thinned(weights)), 1, -1)
    colours = np.zeros((*scaled.shape[:-1], 4), np.uint8)
    visible = ~np.isnan(scaled).any(axis=-1)
    colours[visible, :3] = np.rint(scaled[visible] * 255)
    colours[visible, 3] = 255
    return Image.fromarray(_tiled(colours, columns, cell_px, 0, _GAP_PX))


def histogram_svg(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    caption: str | None = None,
    standalone: bool = True,
) -> str:
    """Draw a histogram as SVG, about 1.3 kB for 50 bins, without style sheets or scripts from elsewhere.

    It follows the reader's light or dark mode, is valid XML whatever the title holds, and shows the whole title as
    a tool tip where it is too long for its line.

    Args:
        title: Usually a parameter's name.
        edges: Increasing and finite, one more than counts.
        counts: Not negative; a bar that is not empty is at least one pixel high.
        caption: A second line, such as the statistics in words.
        standalone: False for a page, which has headings, colours and a style sheet of its own: the title is then a
            tool tip alone.
    """
    low, high = float(edges[0]), float(edges[-1])
    peak = max(*counts, 1)
    pitch_px = _PLOT_WIDTH / len(counts)
    # One unit to the right is one bin, and up is up: a third shorter than in pixels.
    place = f"matrix({pitch_px:.5g} 0 0 -1 {_LEFT} {_BOTTOM})"
    bars = "".join(f"M{i}.5 0v{max(round(n / peak * _PLOT_HEIGHT), 1)}" for i, n in enumerate(counts) if n)
    thickness = 1 - 1 / pitch_px if pitch_px > 4 else 1
    lines, marks = "", _bottom_labels(low, high) + '<g text-anchor="end">'
    for share, label in _ticks(0, peak, 4, whole=True):
        y = _BOTTOM - share * _PLOT_HEIGHT
        marks += f'<text x="{_LEFT - 6}" y="{_short(y + 4)}">{label}</text>'
        lines += f"M{_LEFT} {_short(y)}h{_PLOT_WIDTH}"
    marks += "</g>"
    if caption:
        marks += f'<text x="{_MARGIN}" y="{_BOTTOM + 34}" font-size="10">{_escaped(_shortened(caption, 62))}</text>'
    top = 0 if standalone else _BOTTOM - _PLOT_HEIGHT - 8
    height = _BOTTOM + (42 if caption else 24) - top
    heading = f'<text x="{_MARGIN}" y="18" font-size="12" font-weight="600">{_escaped(_shortened(title))}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="onnxscope" viewBox="0 {top} {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" font-family="system-ui,sans-serif" font-size="11" '
        'fill="currentColor">'
        f"<title>{_escaped(title)}</title>{f'<style>{_STYLE}</style>' if standalone else ''}"
        f'<path d="{lines}" stroke="currentColor" opacity=".15"/>'
        f'<path d="{bars}" transform="{place}" stroke="{_BLUE}" stroke-width="{thickness:.2g}"/>'
        f'<g opacity=".75">{marks}</g>'
        f"{heading if standalone else ''}</svg>\n"
    )


def sparkline_svg(counts: Sequence[int]) -> str:
    """Draw a histogram as a line's worth of SVG, about 600 bytes for 50 bins, in the colour of the text around it.

    Neighbouring bins are drawn as one where there are more than 60; a bar that is not empty is at least one pixel high.
    """
    every = -(-len(counts) // 60)
    sums = [sum(counts[start : start + every]) for start in range(0, len(counts), every)]
    peak = max(*sums, 1)
    bars = "".join(f"M{i}.5 24v-{max(round(n / peak * 24), 1)}" for i, n in enumerate(sums) if n)
    return (
        f'<svg viewBox="0 0 {len(sums)} 24" width="120" height="24" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{bars}" stroke="currentColor"/></svg>'
    )


def histogram_figure(
    title: str, edges: Sequence[float], counts: Sequence[int], *, caption: str | None = None
) -> Figure:
    """Draw a histogram as a matplotlib Figure of its own, outside pyplot; `caption` is a line below it.

    Saved as PDF or SVG it is made of vectors, with the letters that it uses embedded. PDF gets them as Type 3; a
    publisher who wants TrueType needs `matplotlib.rc_context({"pdf.fonttype": 42})` around `savefig`: no Figure can
    hold that by itself.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(counts, edges, fill=True, color=_BLUE)
    axes.set_title(_shortened(title), parse_math=False)
    axes.set_ylabel("elements")
    axes.set_xlabel("value")
    if caption:
        figure.supxlabel(printable(caption), fontsize="small", color="#5b6676", parse_math=False)
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def histogram_png(title: str, edges: Sequence[float], counts: Sequence[int], *, caption: str | None = None) -> bytes:
    """Return `histogram_figure` as PNG, for readers that cannot show SVG."""
    figure = histogram_figure(title, edges, counts, caption=caption)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(stream, format="png", metadata={"Software": None})  # no version: same input, same bytes
    return stream.getvalue()


def feature_figure(
    maps: npt.NDArray[Any], channel_numbers: Sequence[int], title: str, *, cmap: str = "viridis"
) -> Figure:
    """Draw feature maps as a matplotlib Figure of its own, four to a row, each under its channel's number.

    Args:
        maps: Shape (channels, height, width), at least one element, any real element type.
        channel_numbers: One for each map.
        title: Usually the layer's name.
        cmap: A colour map of matplotlib.

    Raises:
        InputError: `maps` has another shape, or `cmap` is unknown.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colours = ListedColormap(colour_table(cmap) / 255.0)
    if maps.ndim != 3 or not maps.size:
        raise InputError(f"not (channels, height, width) with at least one element: an array of shape {maps.shape}")
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(2.0 * columns, 2.2 * rows + 0.4), layout="constrained")
    figure.suptitle(_shortened(title), parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, values, number in zip(grid.flat, scale_maps(_thinned(maps)), channel_numbers, strict=False):
        # In a PDF or an SVG "none" keeps the map as it is; "nearest" would draw it again at the figure's resolution.
        axes.imshow(values, cmap=colours, vmin=0.0, vmax=1.0, interpolation="none")
        axes.set_title(f"channel {number}", fontsize="small")
    return figure


def picture_figure(picture: Image.Image, title: str) -> Figure:
    """Draw a picture under a title as a matplotlib Figure of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 0.5 + 4.8 * picture.height / picture.width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.asarray(picture))
    axes.set_axis_off()
    axes.set_title(_shortened(title), parse_math=False)
    return figure


def quantile_figure(rows: Sequence[tuple[str, Sequence[float], float | None]], title: str) -> Figure:
    """Draw how the values of layers are distributed, a row a layer: the first layer on top.

    Args:
        rows: For each layer its name, an odd number of at least five ascending values from the minimum to the maximum,
            the middle one the median, and its fraction of zeros.
        title: Above the picture.

    Returns:
        A matplotlib Figure of its own. A thin line goes from minimum to maximum, a thicker one between the second and
        the last but one value, a box between the values around the median, which has a mark. The axis is linear near
        zero and logarithmic beyond.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 1.2 + 0.24 * max(len(rows), 3)), layout="constrained")
    figure.suptitle(_shortened(title, 80), parse_math=False)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    places = [-place for place in range(len(rows))]
    for place, (_, values, zeros) in zip(places, rows, strict=True):
        middle = len(values) // 2
        left.plot((values[0], values[-1]), (place, place), color="#9fb3c8", linewidth=1)
        left.plot((values[1], values[-2]), (place, place), color="#486581", linewidth=3, solid_capstyle="butt")
        left.plot(
            (values[middle - 1], values[middle + 1]),
            (place, place),
            color="#243b53",
            linewidth=7,
            solid_capstyle="butt",
        )
        left.plot((values[middle],), (place,), marker="|", color="#f0b429", markersize=8, markeredgewidth=2)
        right.barh(place, zeros or 0.0, color="#829ab1", height=0.6)
    spreads = [values[-2] - values[1] for _, values, _ in rows]
    left.set_xscale("symlog", linthresh=max(float(np.median(spreads)) if spreads else 0.0, 1e-6))
    left.set_yticks(places, [_shortened(name, 36) for name, _, _ in rows], fontsize="small", parse_math=False)
    left.set_xlabel("minimum, 1 %, 25 %, median, 75 %, 99 %, maximum" if len(rows) else "")
    left.set_ylim(-len(rows), 1)
    left.grid(axis="x", color="#e4e7eb")
    left.set_axisbelow(True)
    right.set_xlim(0, 1)
    right.set_xlabel("zeros")
    right.grid(axis="x", color="#e4e7eb")
    right.set_axisbelow(True)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


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


def _thinned(maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Take every n-th row and column of maps that would make a picture too large to open."""
    height, width = maps.shape[-2:]
    step = max(
        -(-max(height, width) // _MAX_CELL_PX), math.ceil(math.sqrt(len(maps) * height * width / _MAX_PICTURE_PX))
    )
    return maps[..., ::step, ::step]


def _tiled(cells: npt.NDArray[np.uint8], columns: int, cell_px: int, blank: int, gap_px: int) -> npt.NDArray[np.uint8]:
    """Enlarge cells of shape (count, height, width, ...) and lay them out in rows, with gaps of the value `blank`."""
    count, height, width, *rest = cells.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    scale = max(1, min(cell_px, math.isqrt(_MAX_PICTURE_PX // (rows * columns))) // max(height, width))
    down, across = max(scale, -(-_MIN_SIDE_PX // height)), max(scale, -(-_MIN_SIDE_PX // width))
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


def _bottom_labels(low: float, high: float) -> str:
    """Return the labels of the horizontal axis as SVG, as many as there is room for."""
    ticks = _ticks(low, high, 5)
    half_px = 3.5 * max(len(label) for _, label in ticks)
    every = math.ceil(2 * half_px * len(ticks) / (_PLOT_WIDTH - half_px))
    labels = ""
    for share, label in ticks[::every]:
        x = min(max(_LEFT + share * _PLOT_WIDTH, half_px), _WIDTH - half_px)
        labels += f'<text x="{_short(x)}" y="{_BOTTOM + 15}">{label}</text>'
    return f'<g text-anchor="middle">{labels}</g>'


def _ticks(low: float, high: float, target: int, *, whole: bool = False) -> list[tuple[float, str]]:
    """Choose about `target` round values; return their places, 0 at low and 1 at high, and labels."""
    start, stop = Decimal(low), Decimal(high)  # 3 * 0.1 is 0.3 here, and no difference overflows
    raw = (stop - start) / target
    exponent = raw.adjusted()
    step = next(Decimal(m).scaleb(exponent) for m in (1, 2, 5, 10) if Decimal(m).scaleb(exponent) >= raw)
    if whole:
        step = max(step, Decimal(1))
    values = [n * step for n in range(math.ceil(start / step), math.floor(stop / step) + 1)]
    return [(float((v - start) / (stop - start)), _label(v, step.adjusted(), whole)) for v in values]


def _label(value: Decimal, exponent: int, whole: bool) -> str:
    if whole:
        power, suffix = next((p for p in ((9, "G"), (6, "M"), (3, "k")) if value >= 10 ** p[0]), (0, ""))
        return f"{value.scaleb(-power).normalize():f}{suffix}"
    if value and not -5 < exponent < 5:
        return f"{value.normalize():e}".replace("e+", "e")
    return f"{value:.{max(0, -exponent)}f}"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _shortened(text: str, length: int = 44) -> str:
    """Cut the middle out of a long name, whose end is what tells it from the next; escapes count as they are shown."""
    text, half = printable(text), length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-half:]}"


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=False)
