"""What every result shows of itself: one look in notebooks, and rows for pandas.

The HTML is static: no script, nothing to load, everything from a model escaped, and small whatever the model. Its style
stands in `results.css`, below one class; where a viewer removes it (GitHub does) plain tables are left.
"""

from __future__ import annotations

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxscope.base.tables import Table
from onnxscope.base.text import printable, shortened
from onnxscope.errors import MissingDependencyError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PICTURE_BYTES", "Record", "facts", "paragraph", "picture", "remarks", "within"]

PICTURE_BYTES = 100_000
"""What the pictures in one table take together at most: with two full tables a record stays below 200 kB."""

_PARAGRAPH = 600
_REMARKS = 5


class Record(ABC):
    """A result that shows itself in notebooks and turns into rows.

    Attributes:
        frame_keys: The lists of `to_dict()` whose records are the rows of `to_frame()`; none: the result is one row.
    """

    frame_keys: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The JSON record."""

    @abstractmethod
    def table(self) -> Table:
        """The table."""

    def to_frame(self) -> DataFrame:
        """Return a pandas frame with a row for each record, under the names that `to_dict()` has, in full precision.

        Records in a record get columns such as `a.layer` or `quantiles.0.5`; what they hold for each channel or bin
        stays in `to_dict()`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            hint = "pip install pandas, or 'onnxscope[frames]'"
            raise MissingDependencyError("pandas is not installed", hint=hint) from error
        record = self.to_dict()
        rows = [row for key in self.frame_keys for row in record[key]] if self.frame_keys else [record]
        return DataFrame([_flattened(row) for row in rows])

    def html_parts(self) -> Iterable[str]:
        """The markup of the parts that a notebook shows, below each other."""
        return (self.table().html(),)

    def _repr_html_(self) -> str:
        return f'<div class="onnxscope-record"><style>{_style()}</style>{"".join(self.html_parts())}</div>'


def paragraph(text: str, kind: Literal["", "muted", "good", "bad"] = "") -> str:
    """Return a line of text as HTML; the middle of a very long one is cut out."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(shortened(printable(text), _PARAGRAPH))}</p>"


def remarks(lines: Sequence[str]) -> list[str]:
    """Return remarks for people as paragraphs, and how many are left out."""
    shown = list(lines[:_REMARKS])
    if len(lines) > _REMARKS:
        shown.append(f"{len(lines) - _REMARKS:,} more remarks")
    return [paragraph(line, "muted") for line in shown]


def facts(title: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return what is known of one thing as HTML, a line a fact."""
    return Table(title, ("", ""), tuple(pairs)).html()


def picture(png: bytes, alternative: str) -> str:
    """Return a PNG as an `img` that holds its own data; `alternative` is what is read out in its place."""
    text = html.escape(shortened(printable(alternative), 80))
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def within(pictures: Iterable[str], limit_bytes: int = PICTURE_BYTES) -> list[str]:
    """Return the first pictures, as many as there is room for; the others are not asked for."""
    kept: list[str] = []
    for markup in pictures:
        limit_bytes -= len(markup)
        if limit_bytes < 0:
            break
        kept.append(markup)
    return kept


def _flattened(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": part for name, part in value.items() if not isinstance(part, (list, dict))}
        else:
            flat[key] = value
    return flat


@cache
def _style() -> str:
    return Path(__file__).with_name("results.css").read_text(encoding="utf-8")
