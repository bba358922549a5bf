"""Figures of matplotlib, each outside pyplot's state; matplotlib is loaded when the first one is drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from onnxscope.base.text import printable, shortened
from onnxscope.drawing.mosaics import colour_table, scale_maps, thinned
from onnxscope.drawing.svg_charts import BLUE
from onnxscope.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Curve",
    "curve_figure",
    "feature_figure",
    "figure_bytes",
    "histogram_figure",
    "histogram_png",
    "picture_figure",
    "quantile_figure",
]

_MOST_NAMES = 40  # at an axis
_LONGEST_NAME = 16


@dataclass(frozen=True)
class Curve:
    """Something that was measured at some places, and is expected at others.

    Attributes:
        name: For the legend.
        expected: Points of a thin line.
        measured: Points that have marks, in order.
        chosen: The place of the one that stands out, None where none does.
    """

    name: str
    expected: Sequence[tuple[float, float]]
    measured: Sequence[tuple[float, float]]
    chosen: float | None = None


def curve_figure(
    curves: Sequence[Curve], title: str, labels: tuple[str, str], *, target: float | None = None
) -> Figure:
    """Draw curves as a matplotlib Figure of its own, outside pyplot.

    Args:
        curves: In the order of the legend.
        title: Above the picture.
        labels: Of what runs to the right, in whole numbers, and of what runs up.
        target: A height that has a line, None for none.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for place, curve in enumerate(curves):
        colour = f"C{place % 10}"
        if curve.expected:
            axes.plot(*zip(*curve.expected, strict=True), color=colour, linewidth=1, linestyle="--", alpha=0.7)
        if curve.measured:
            axes.plot(
                *zip(*curve.measured, strict=True), color=colour, marker="o", markersize=4, label=printable(curve.name)
            )
        for x, y in curve.measured:
            if x == curve.chosen:
                axes.plot((x,), (y,), color=colour, marker="o", markersize=10, fillstyle="none", markeredgewidth=2)
    if target is not None:
        axes.axhline(target, color="#5b6676", linewidth=1, linestyle=":")
    axes.set_title(_label(title, 70), parse_math=False)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e4e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(curve.expected for curve in curves):
        axes.plot((), (), color="#5b6676", linewidth=1, linestyle="--", label="expected")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure


def figure_bytes(figure: Figure, form: Literal["png", "svg"], *, made_by: str | None = None) -> bytes:
    """Return a figure as a file; the same figure gives the same bytes, whatever the day or the version.

    Args:
        figure: It is drawn.
        form: The kind of file.
        made_by: What the file says of who made it, near its start.
    """
    from matplotlib import rc_context

    stream = io.BytesIO()
    metadata = {"Software": made_by} if form == "png" else {"Date": None, "Creator": made_by}
    with rc_context({"svg.hashsalt": "onnxscope"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(stream, format=form, metadata=metadata)
    content = stream.getvalue()
    return content if form == "png" else content[content.index(b"<svg") :]


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
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.set_title(_label(title), parse_math=False)
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
    return figure_bytes(histogram_figure(title, edges, counts, caption=caption), "png")


def feature_figure(
    maps: npt.NDArray[Any],
    channel_numbers: Sequence[int],
    title: str,
    *,
    cmap: str = "viridis",
    each: str = "channel",
    sides: tuple[str, str] | None = None,
    square: bool = True,
    numbered: bool = True,
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Figure:
    """Draw feature maps as a matplotlib Figure of its own, four to a row, each under its channel's number.

    Args:
        maps: Shape (channels, height, width), at least one element, any real element type.
        channel_numbers: One for each map.
        title: Usually the layer's name.
        cmap: A colour map of matplotlib.
        each: What the maps are of; empty for one that needs no name.
        sides: What runs down and what runs to the right, with numbers at the axes; None for images.
        square: Whether a pixel is as long to either side.
        numbered: Whether places to the right have numbers; the slices of a volume lie side by side there.
        names: Of all places down and of all to the right, in place of numbers; they may come from anybody.

    Raises:
        InputError: `maps` has another shape, or `cmap` is unknown.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colours = ListedColormap(colour_table(cmap) / 255.0)
    if maps.ndim != 3 or not maps.size:
        raise InputError(f"not (channels, height, width) with at least one element: an array of shape {maps.shape}")
    columns = min(4 if maps.shape[2] < 3 * maps.shape[1] or sides is None else 1, len(maps))
    rows = -(-len(maps) // columns)
    width = 2.0 if sides is None else max(2.0, 6.4 / columns)
    figure = Figure(figsize=(width * columns, (width + 0.2) * min(1.0, 2.4 / width) * rows + 0.4), layout="constrained")
    figure.suptitle(_label(title), parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    shown = scale_maps(thinned(maps, square=square))
    for axes, values, number in zip(grid.flat, shown, channel_numbers, strict=False):
        # In a PDF or an SVG "none" keeps the map as it is; "nearest" would draw it again at the figure's resolution.
        axes.imshow(values, cmap=colours, vmin=0.0, vmax=1.0, interpolation="none", **_extent(maps, sides, square))
        if each:
            axes.set_title(f"{each} {number}", fontsize="small")
        if sides is not None:
            axes.set_axis_on()
            axes.set_ylabel(sides[0], fontsize="small")
            axes.set_xlabel(sides[1], fontsize="small")
            axes.tick_params(labelsize="x-small")
            axes.locator_params(nbins=5, integer=True)
            if not numbered:
                axes.set_xticks([])
            _name_places(axes, names)
    return figure


def _name_places(axes: Axes, names: tuple[Sequence[str], Sequence[str]]) -> None:
    """Write names at the axes, where there are some and not too many."""
    for axis, found, turned in ((axes.yaxis, names[0], 0), (axes.xaxis, names[1], 90)):
        if 0 < len(found) <= _MOST_NAMES:
            shown = [_label(name, _LONGEST_NAME) for name in found]
            axis.set_ticks(range(len(found)), shown, parse_math=False, rotation=turned)


def _extent(maps: npt.NDArray[Any], sides: tuple[str, str] | None, square: bool) -> dict[str, Any]:
    """Where the numbers at the axes lie, whatever was thinned out."""
    if sides is None:
        return {}
    _, height, width = maps.shape
    return {"extent": (-0.5, width - 0.5, height - 0.5, -0.5), "aspect": "equal" if square else "auto"}


def picture_figure(picture: Image.Image, title: str) -> Figure:
    """Draw a picture under a title as a matplotlib Figure of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 0.5 + 4.8 * picture.height / picture.width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.asarray(picture))
    axes.set_axis_off()
    axes.set_title(_label(title), parse_math=False)
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
    figure.suptitle(_label(title, 80), parse_math=False)
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
    left.set_yticks(places, [_label(name, 36) for name, _, _ in rows], fontsize="small", parse_math=False)
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


def _label(text: str, limit: int = 44) -> str:
    return shortened(printable(text), limit)
