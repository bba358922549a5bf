"""Results as text: tables for people (plain, CSV, Markdown, HTML), JSON for programs."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from onnxscope.base.json_files import dump_json
from onnxscope.base.text import counted, format_number, plain_shapes, printable, shape_text, shortened

__all__ = ["Cell", "Format", "Result", "Summed", "Table", "render"]

Format = Literal["table", "json", "csv", "md"]
_CELL, _HTML_CELL, _SENTENCE = 60, 200, 400  # characters of a name in a terminal and in HTML, of a sentence
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # wide ones too, as Japanese Excel has them
_LINK = re.compile(r"(:|\bwww)(//|\.)", re.IGNORECASE)
"""What GitHub makes a link of without being asked, before and behind the place where a backslash keeps it from that."""
Cell = str | int | float | bool | Sequence[int | str | None] | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        title: One line above the table.
        columns: Their headings.
        rows: A cell per column; None shows as nothing, a sequence as a shape.
        least: Headings of the columns that matter least, the first to go first where a terminal has no room.
        left_out: How many rows were left out at the end, which people are told below the table.
        total: A last row for people, of what all rows have together; empty where there is nothing to add.
        charts: The heights of a row's histogram, for a terminal's column `distribution`; empty where there are none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    least: tuple[str, ...] = ()
    left_out: int = 0
    total: tuple[Cell, ...] = ()
    charts: tuple[Sequence[float], ...] = ()

    @property
    def tail(self) -> str:
        """The line below the table; empty where all rows are in it."""
        return f"… and {counted(self.left_out, 'more row')}" if self.left_out else ""

    @property
    def rows_for_people(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows, and what they have together."""
        return (*self.rows, self.total) if self.total else self.rows

    def filled(self) -> Table:
        """Return the table without the columns that are empty in every row, as people want to see it."""
        kept = [place for place in range(len(self.columns)) if any(row[place] not in (None, "") for row in self.rows)]
        if not self.rows:
            return self
        return self.with_columns(kept)

    def with_columns(self, places: Sequence[int]) -> Table:
        """Return the table with some of its columns alone."""
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        total = tuple(self.total[place] for place in places if self.total)
        return replace(self, columns=tuple(self.columns[place] for place in places), rows=rows, total=total)

    def with_marks(self, column: str, marks: Sequence[str]) -> Table:
        """Return the table with one more column, or as it is where no row has anything to say there."""
        if not any(marks):
            return self
        rows = tuple((*row, mark) for row, mark in zip(self.rows, marks, strict=True))
        total = (*self.total, None) if self.total else ()
        return replace(self, columns=(*self.columns, column), rows=rows, total=total)

    def text(self, *, is_plain: bool = False, max_cell: int = _CELL) -> str:
        """Return the table for people, in columns of equal width: names to the left, numbers to the right.

        Args:
            is_plain: Whether signs that are not in ASCII cannot be shown.
            max_cell: Characters of a name.
        """
        return self.filled()._text(is_plain, max_cell)

    def _text(self, is_plain: bool, max_cell: int) -> str:
        cells = self.shown_rows(max_cell=max_cell, is_plain=is_plain)
        numeric = self.numeric_columns()
        widths = [max(map(len, (self.columns[i], *(row[i] for row in cells)))) for i in range(len(self.columns))]

        def line(texts: Iterable[str]) -> str:
            aligned = (
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(texts, widths, numeric, strict=True)
            )
            return "  ".join(aligned).rstrip()

        rule = "  ".join("-" * width for width in widths)
        title = [printable(self.title)] if self.title else []
        tail = [self.tail] if self.tail else []
        return "\n".join([*title, line(self.columns), rule, *map(line, cells), *tail]) + "\n"

    def shown_rows(self, *, max_cell: int = _CELL, is_plain: bool = False) -> list[list[str]]:
        """Return the cells as people see them: numbers shortened, names without control characters.

        Names are cut to `max_cell` characters; what has words is a sentence, which is of no use without its middle.
        """
        cells = [[_shown(cell, is_plain=is_plain) for cell in row] for row in self.rows_for_people]
        return [[shortened(text, _SENTENCE if " " in text else max_cell) for text in row] for row in cells]

    def numeric_columns(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [any(_is_number(row[place]) for row in self.rows) for place in range(len(self.columns))]

    def csv(self) -> str:
        """Return comma-separated values with full precision; text that a spreadsheet would run gets a leading quote."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_csv_cell(cell) for cell in row] for row in self.rows)
        return out.getvalue()

    def markdown(self) -> str:
        """Return a GitHub-flavoured Markdown table."""
        lines = [f"**{_markdown_cell(self.title)}**", ""] if self.title else []
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += [
            "| " + " | ".join(_markdown_cell(_shown(cell)) for cell in row) + " |" for row in self.rows_for_people
        ]
        lines += ["", self.tail] if self.tail else []
        return "\n".join(lines) + "\n"

    def html(self, *, pictures: Sequence[str] = (), max_rows: int = 100, max_bytes: int = 45_000) -> str:
        """Return an HTML table without script or style; what there is no room for is counted below it.

        Args:
            pictures: Markup for the first rows, shown beside their first cell; it must be safe as it is.
            max_rows: Rows beyond these are left out.
            max_bytes: So are rows from the one on with which the table, pictures apart, would become longer.
        """
        table = self.filled()
        numeric = table.numeric_columns()
        has_head, has_pictures = any(table.columns), any(pictures)
        title = shortened(printable(table.title), _HTML_CELL)
        caption = f"<caption>{html.escape(title)}</caption>" if title else ""
        head = _html_row(table.columns, numeric, ("th", "th"), "" if has_pictures else None) if has_head else ""
        body: list[str] = []
        first = Table("", table.columns, table.rows[:max_rows])
        for index, cells in enumerate(first.shown_rows(max_cell=_HTML_CELL)):
            beside = (pictures[index] if index < len(pictures) else "") if has_pictures else None
            row = _html_row(cells, numeric, ("td" if has_head else "th", "td"), beside)
            max_bytes -= len(row.encode()) - len(beside or "")
            if max_bytes < 0:
                break
            body.append(row)
        left_out = len(table.rows) - len(body)
        more = f'<p class="muted">… and {left_out:,} more rows: see to_dict().</p>' if left_out > 0 else ""
        thead = f"<thead>{head}</thead>" if head else ""
        return f"<table>{caption}{thead}<tbody>{''.join(body)}</tbody></table>{more}"


class Result(Protocol):
    """What every command shows: a record for programs and a table for people."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON record."""
        ...

    def table(self) -> Table:
        """The table."""
        ...


@runtime_checkable
class Summed(Result, Protocol):
    """A result that is more than one table."""

    def tables(self) -> Sequence[Table]:
        """All that people see, in order."""
        ...

    def flat_table(self) -> Table:
        """The same in one table, for programs: more rows, or one more column."""
        ...


def render(result: Result, form: Format, arranged: Callable[[Table], Table] = lambda table: table) -> str:
    """Return a result as text, ending with a newline.

    Args:
        result: What to show.
        form: As what.
        arranged: Puts the rows of the result's own table into order; programs that read JSON do so themselves.
    """
    if form == "json":
        return dump_json(result.to_dict())
    main = result.table()
    if form == "csv":
        flat = result.flat_table() if isinstance(result, Summed) else main
        if flat.columns == main.columns:  # what it has more than the table comes behind it
            rows = arranged(replace(flat, rows=flat.rows[: len(main.rows)])).rows
            flat = replace(flat, rows=(*rows, *flat.rows[len(main.rows) :]))
        return flat.csv()
    tables = result.tables() if isinstance(result, Summed) else [main]
    tables = [arranged(table) if table.columns == main.columns else table for table in tables]
    return "\n".join(table.markdown() if form == "md" else table.text() for table in tables)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _shown(cell: Cell, *, is_plain: bool = False) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return printable(plain_shapes(cell) if is_plain else cell)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return format_number(cell)
    return shape_text(cell, is_plain=is_plain)


def _html_row(cells: Sequence[str], numeric: Sequence[bool], kinds: tuple[str, str], beside: str | None) -> str:
    """One row of HTML; `kinds` are the elements of the first and of other cells, `beside` is markup for one more."""
    # The attribute is old, but it is all that aligns numbers where a viewer drops the style.
    marks = ['class="n" align="right"' if right else "" for right in numeric]
    parts = [
        f"<{kind}{' ' + mark if mark else ''}>{html.escape(cell)}</{kind}>"
        for kind, mark, cell in zip((kinds[0], *kinds[1:] * len(cells)), marks, cells, strict=False)
    ]
    if beside is not None:
        parts.insert(1, f"<{kinds[1]}>{beside}</{kinds[1]}>")
    return f"<tr>{''.join(parts)}</tr>"


def _csv_cell(cell: Cell) -> str | int | float:
    if cell is None:
        return ""
    if _is_number(cell):
        assert isinstance(cell, (int, float))
        return cell
    text = _shown(cell, is_plain=True)
    return "'" + text if text.lstrip()[:1] in _FORMULA else text


def _markdown_cell(text: str) -> str:
    escaped = html.escape(printable(text), quote=False)
    for character in "\\|`*_[]":
        escaped = escaped.replace(character, "\\" + character)
    return _LINK.sub(lambda match: f"{match[1]}\\{match[2]}", escaped)
