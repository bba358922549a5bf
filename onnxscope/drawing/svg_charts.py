"""Charts in SVG, written by hand: histograms as a picture of their own, in a page, or as a line's worth."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from decimal import Decimal

from onnxscope.base.text import printable, shortened

__all__ = ["BLUE", "histogram_svg", "sparkline_svg"]

BLUE = "#3b7dd8"
"""Of bars; its contrast is above 3 on white and on the dark background alike."""

_WIDTH, _MARGIN, _LEFT, _BOTTOM, _PLOT_WIDTH, _PLOT_HEIGHT = 360, 12, 44, 160, 300, 128
_STYLE = (
    ".onnxscope{color:#1f2937;background:#fff}"
    "@media(prefers-color-scheme:dark){.onnxscope{color:#d7dce3;background:#15181d}}"
)


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
        marks += f'<text x="{_MARGIN}" y="{_BOTTOM + 34}" font-size="10">{_escaped(caption, 62)}</text>'
    top = 0 if standalone else _BOTTOM - _PLOT_HEIGHT - 8
    height = _BOTTOM + (42 if caption else 24) - top
    heading = f'<text x="{_MARGIN}" y="18" font-size="12" font-weight="600">{_escaped(title, 44)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="onnxscope" viewBox="0 {top} {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" font-family="system-ui,sans-serif" font-size="11" '
        'fill="currentColor">'
        f"<title>{_escaped(title)}</title>{f'<style>{_STYLE}</style>' if standalone else ''}"
        f'<path d="{lines}" stroke="currentColor" opacity=".15"/>'
        f'<path d="{bars}" transform="{place}" stroke="{BLUE}" stroke-width="{thickness:.2g}"/>'
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


def _escaped(text: str, limit: int | None = None) -> str:
    text = printable(text)
    return html.escape(text if limit is None else shortened(text, limit), quote=False)
