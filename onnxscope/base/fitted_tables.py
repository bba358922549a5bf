"""Tables made for the width of a terminal: no number is cut or broken, no line is longer than the terminal is wide.

What there is no room for gives way in this order: digits (four significant ones, and an exponent for all numbers of a
column or for none), columns that matter least, which the last line names, the middles of names. Sentences go on in the
next line.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import printable, shape_text, shortened

__all__ = ["as_shown", "can_show_signs", "fit_table", "fit_text", "show_table"]

_GAP = 2
_DIGITS = 4
_CHART, _BLOCKS = "distribution", "▁▂▃▄▅▆▇█"  # as wide as its twelve bars; the lowest is for none
_NAME, _LONGEST_NAME, _SENTENCE = 16, 60, 30  # characters that a name, and a sentence, has before a column goes
_TIGHT = 8  # that anything but a number has before a column goes that matters
_SIDES = (24, 12, 8, 6, 4)  # characters of names in a shape, the fewest last
_SMALL, _LARGE = 1e-4, 1e7  # what is beyond them is written with an exponent
_NUMBER = re.compile(r"[(\[]*[-+−±<>≤≥]*\d[\d.,:/]*(e[-+]?\d+)?[%x)\],;:]*", re.IGNORECASE)
_NO_NUMBERS = ("nan", "inf", "-inf")
_WHOLE = 10_000  # characters: longer than any name that is shown


def can_show_signs() -> bool:
    """Whether stdout takes signs that are not in ASCII."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def as_shown(text: str) -> str:
    """Return a text with another sign, of the same width, in the place of each that stdout does not take."""
    if can_show_signs():
        return text
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return text.replace("…", "~").encode(encoding, "replace").decode(encoding)


def show_table(table: Table, *, is_wide: bool = False) -> None:
    """Print a table on a terminal, fitted to its width; heads are bold where NO_COLOR allows.

    Args:
        table: What to print.
        is_wide: Whether all of it is shown, however wide the terminal is.
    """
    from rich.console import Console
    from rich.text import Text

    is_plain = not can_show_signs()
    width = _WHOLE * len(table.columns) if is_wide else shutil.get_terminal_size().columns
    lines = fit_table(table, width, is_plain=is_plain, max_name=_WHOLE if is_wide else _LONGEST_NAME)
    heads = len(fit_text(table.title, width)) if table.title else 0
    console = Console(width=max(width, 1), highlight=False)
    for index, line in enumerate(lines):
        console.print(Text(as_shown(line), style="bold" if index <= heads and table.columns else ""), soft_wrap=True)


def fit_table(table: Table, width: int, *, is_plain: bool = False, max_name: int = _LONGEST_NAME) -> list[str]:
    """Return the lines of a table, none of them longer than `width` as long as one column of numbers fits.

    Args:
        table: What to show.
        width: Characters of a line.
        is_plain: Whether signs that are not in ASCII cannot be shown.
        max_name: Characters of a name, even where there is room for more.
    """
    table = table.filled()
    if any(map(len, table.charts)) and not is_plain:
        table = table.with_marks(_CHART, list(map(_blocks, table.charts)))
    title = fit_text(table.title, width)
    columns = _columns(table, None, is_plain, max_name)
    if _total([column.natural for column in columns]) <= width:
        return [*title, *_lines(columns, [column.natural for column in columns]), *fit_text(table.tail, width)]
    columns = _columns(table, _DIGITS, is_plain, max_name)
    columns, dropped = _chosen(columns, table.least, width)
    lines = [*title, *_lines(columns, _spread(columns, width)), *fit_text(table.tail, width)]
    if dropped:
        names = [head for head in table.columns if head in dropped]
        lines += fit_text(f"`--wide` shows {', '.join(names)}", width)
    return lines


def fit_text(text: str, width: int, *, indent: int = 0) -> list[str]:
    """Return text in lines of at most so many characters: broken between words, words that are longer shortened.

    Args:
        text: What to show; control characters are escaped.
        width: Characters of a line.
        indent: Spaces before every line but the first.
    """
    if not text:
        return []
    text, indent = printable(text), min(indent, max(0, width - _SENTENCE))
    if _cells(text) <= width:
        return [text]
    words = [word if _NUMBER.fullmatch(word) else _cut(word, max(1, width - indent)) for word in text.split(" ")]
    lines, line = [], ""
    for place, word in enumerate(words):
        longer = f"{line} {word}" if place else word
        if line.strip() and _cells(longer) > width:
            lines.append(line.rstrip())
            longer = " " * indent + word
        line = longer
    return [*lines, line.rstrip()]


@dataclass(frozen=True)
class _Column:
    """A column as it is shown.

    Attributes:
        head: Its heading.
        cells: What is in it, as it is where there is room.
        raw: The same before.
        is_number: Whether it is aligned to the right and neither cut nor broken.
        natural: How wide it is with all that is in it.
        least: How wide it has to be before columns go that matter least.
        tight: How wide it has to be before others go.
    """

    head: str
    cells: tuple[str, ...]
    raw: tuple[Cell, ...]
    is_number: bool
    natural: int
    least: int
    tight: int

    @property
    def is_sentence(self) -> bool:
        """Whether it holds more than names."""
        return self.natural > _LONGEST_NAME

    def lines(self, place: int, width: int) -> list[str]:
        """The lines of a cell in a column of this width."""
        text, raw = self.cells[place], self.raw[place]
        if _cells(text) <= width:
            return [text]
        if raw is not None and not isinstance(raw, (str, int, float)):
            return [_shape(raw, width, is_plain=text.startswith("["))]
        return fit_text(text, width) if " " in text else [_cut(text, width)]


def _columns(table: Table, digits: int | None, is_plain: bool, max_name: int) -> list[_Column]:
    shown = table.shown_rows(max_cell=max_name, is_plain=is_plain)
    columns = []
    for place, (head, is_number) in enumerate(zip(table.columns, table.numeric_columns(), strict=True)):
        raw = tuple(row[place] for row in table.rows_for_people)
        cells = [row[place] for row in shown]
        if digits is not None:
            floats = iter(_rounded([cell for cell in raw if isinstance(cell, float)], digits))
            cells = [next(floats) if isinstance(one, float) else cell for one, cell in zip(raw, cells, strict=True)]
        natural = max(map(_cells, (head, *cells)))
        words = [word for cell in cells for word in cell.split(" ")]
        whole = max([_cells(head), *(_cells(word) for word in words if _NUMBER.fullmatch(word))])
        if all(_NUMBER.fullmatch(cell) or cell in _NO_NUMBERS for cell in cells if cell):
            least = tight = natural
        else:
            comfort = _SENTENCE if any(" " in cell for cell in cells) else _NAME + 8 * (place == 0)
            least, tight = (max(whole, min(natural, most)) for most in (comfort, _TIGHT))
        columns.append(_Column(head, tuple(cells), raw, is_number, natural, least, tight))
    return columns


def _blocks(heights: Sequence[float]) -> str:
    """A bar for each height, in eighths of the largest; one that is not zero has two at least."""
    largest = max(heights, default=0)
    steps = [math.ceil(height / largest * (len(_BLOCKS) - 1)) if largest else 0 for height in heights]
    return "".join(_BLOCKS[step] for step in steps)


def _rounded(numbers: Sequence[float], digits: int) -> list[str]:
    """Numbers in so many significant digits, with an exponent all of them or none."""
    sizes = [abs(number) for number in numbers if number and math.isfinite(number)]
    has_exponent = any(not _SMALL <= size < _LARGE for size in sizes)
    return [_rounded_number(number, digits, has_exponent) for number in numbers]


def _rounded_number(number: float, digits: int, has_exponent: bool) -> str:
    if not number or not math.isfinite(number):
        return f"{number:g}"
    if has_exponent:
        return f"{number:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def _chosen(columns: list[_Column], least: Sequence[str], width: int) -> tuple[list[_Column], set[str]]:
    """The columns that there is room for, and the headings of the others."""
    columns, dropped = list(columns), set[str]()
    for head in least:
        if _total([column.least for column in columns]) <= width:
            return columns, dropped
        dropped |= {column.head for column in columns[1:] if column.head == head}
        columns = [columns[0], *(column for column in columns[1:] if column.head != head)]
    while len(columns) > 1 and _total([column.tight for column in columns]) > width:
        numbers = [place for place, column in enumerate(columns) if place and column.is_number]
        dropped.add(columns.pop(numbers[-1] if numbers else -1).head)
    return columns, dropped


def _spread(columns: Sequence[_Column], width: int) -> list[int]:
    """How wide columns become: what is left goes to the narrowest of those that have more to show, sentences twice."""
    widths = [column.least for column in columns]
    if _total(widths) > width:
        widths = [column.tight for column in columns]
    for _ in range(width - _total(widths)):
        wanting = [place for place, column in enumerate(columns) if widths[place] < column.natural]
        if not wanting:
            break
        widths[min(wanting, key=lambda place: widths[place] / (1 + columns[place].is_sentence))] += 1
    if _total(widths) > width:  # one column, of names, in a terminal that is narrower than its head
        widths[0] = max(1, columns[0].natural if columns[0].is_number else width)
    return widths


def _lines(columns: Sequence[_Column], widths: Sequence[int]) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        parts = []
        for text, width, column in zip(texts, widths, columns, strict=True):
            space = " " * (width - _cells(text))
            parts.append(space + text if column.is_number else text + space)
        return (" " * _GAP).join(parts).rstrip()

    heads = [_cut(column.head, width) for column, width in zip(columns, widths, strict=True)]
    lines = [line(heads), line(["-" * width for width in widths])]
    for place in range(len(columns[0].cells) if columns else 0):
        cells = [column.lines(place, width) for column, width in zip(columns, widths, strict=True)]
        for index in range(max(map(len, cells))):
            lines.append(line([cell[index] if index < len(cell) else "" for cell in cells]))
    return lines


def _shape(shape: Sequence[int | str | None], width: int, *, is_plain: bool) -> str:
    """A shape in so many characters: names shortened, then axes in the middle left out; a size is always whole."""
    for longest in _SIDES:
        text = shape_text(shape, is_plain=is_plain, max_side=longest)
        if _cells(text) <= width:
            return text
    for kept in range(len(shape) - 1, 0, -1):
        ends = [*shape[: kept - kept // 2], "…", *shape[len(shape) - kept // 2 :]]
        text = shape_text(ends, is_plain=is_plain, max_side=_SIDES[-1])
        if _cells(text) <= width:
            return text
    return "…"


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * max(0, len(widths) - 1)


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes: some signs take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(text: str, width: int) -> str:
    """A text without its middle, in so many columns of a terminal."""
    kept = width
    while _cells(text) > width and kept > 0:
        text, kept = shortened(text, kept), kept - 1
    return text
