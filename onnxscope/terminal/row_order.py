"""Which rows of a table are shown, and in which order: `--sort` and `--top`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onnxscope.base.tables import Cell, Table

__all__ = ["RowOrder", "order_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PART = re.compile(r"(\d+)")


@dataclass(frozen=True)
class RowOrder:
    """What was asked for.

    Attributes:
        column: The heading of the column whose largest numbers, or first names, come first; None leaves the order.
        top: How many rows are shown; None shows all.
    """

    column: str | None = None
    top: int | None = None

    def of(self, table: Table) -> Table:
        """Return the table with its rows in this order; one that has no such column keeps its order."""
        rows = table.rows
        if self.column is not None and self.column in table.columns:
            place = table.columns.index(self.column)
            order = sorted(range(len(rows)), key=lambda index: _key(rows[index][place]))
            rows = tuple(rows[index] for index in order)
            table = replace(table, rows=rows, charts=tuple(table.charts[index] for index in order if table.charts))
        if self.top is not None and len(rows) > self.top:
            left_out = table.left_out + len(rows) - self.top
            return replace(table, rows=rows[: self.top], left_out=left_out, charts=table.charts[: self.top])
        return table


def order_options(*columns: str) -> Callable[[_Command], _Command]:
    """Options of a command whose table has these columns to sort by."""

    def decorate(command: _Command) -> _Command:
        for option in (
            click.option(
                "--top", type=click.IntRange(1), metavar="N", help="Only the first so many rows of the table."
            ),
            click.option(
                "--sort",
                "column",
                type=click.Choice(columns),
                metavar="COLUMN",
                help=f"Rows by a column, large numbers first: {', '.join(columns)}; JSON has all rows as they are.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def _key(cell: Cell) -> tuple[Any, ...]:
    """The largest numbers first, then words in natural order, then NaN and what is not known."""
    if isinstance(cell, (int, float)) and not math.isnan(cell):
        return (0, -cell)
    if isinstance(cell, str) and cell:
        return (1, [(int(part), "") if part.isdecimal() else (-1, part) for part in _PART.split(cell.lower())])
    return (2,)
