"""Read text: a sample a line, plain or as JSON; a file is looked through once, and a line read when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.json_files import parse_json
from onnxscope.base.text import counted, first_line, label
from onnxscope.errors import InputError

__all__ = ["MAX_LINE_BYTES", "Row", "Text", "index_lines", "read_line", "read_row"]

MAX_LINE_BYTES = 1 << 20
"""A book has as many letters, and no model takes more at once."""

_BOMS = (b"\xff\xfe", b"\xfe\xff")
_MARK = b"\xef\xbb\xbf"
_SHOWN = 5  # fields that a message names


@dataclass(frozen=True)
class Text:
    """One text, or two that belong together: a question and its answer, two sentences to compare.

    Attributes:
        text: The text, or the first of two.
        pair: The second one, None where there is none.
    """

    text: str
    pair: str | None = None


Row = Text | Mapping[str, Any]
"""What a line holds: a text, or numbers, lists of them and strings by the name of a model's input."""


def index_lines(stream: IO[bytes], where: str) -> NDArray[np.int64]:
    """Find the lines of an open file with anything in them.

    Returns:
        Of shape (lines, 3): the number of each line from 1 on, where it starts, and its length, both in bytes.

    Raises:
        InputError: The file is in UTF-16, a line is beyond measure, or there is none.
    """
    found: list[tuple[int, int, int]] = []
    start = number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not start and line.startswith(_BOMS):
            raise InputError(f"text in UTF-16: {where}", hint="write it as UTF-8")
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"line {number} is longer than {MAX_LINE_BYTES:,} bytes: {where}", hint="a line is one sample"
            )
        if line.removeprefix(_MARK if not start else b"").strip():
            found.append((number, start, len(line)))
        start += len(line)
    if not found:
        raise InputError(f"no line with anything in it: {where}", hint="a line is one sample")
    return np.array(found, np.int64)


def read_line(stream: IO[bytes], place: NDArray[np.int64], where: str) -> str:
    """Read one line, without its end.

    Args:
        stream: The file.
        place: Its row of what `index_lines` returned.
        where: The file's printable name, for messages.

    Raises:
        InputError: It is no text in UTF-8.
    """
    number, start, length = place.tolist()
    stream.seek(start)
    content = stream.read(length)
    if not start:
        content = content.removeprefix(_MARK)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"line {number} is no text in UTF-8 ({first_line(error)}): {where}", hint="write it as UTF-8"
        ) from error
    return text.rstrip("\r\n")


def read_row(line: str, inputs: Collection[str], where: str) -> Row:
    """Read one line of JSON.

    Args:
        line: A string; or an object with values by the names of inputs, with the field `text` (and `text_pair`), or
            with one string in it.
        inputs: The names of the model's inputs.
        where: The printable place of the line, for messages.

    Raises:
        InputError: It is none of these.
    """
    try:
        row = parse_json(line)
    except ValueError as error:
        raise InputError(f"no line of JSON ({first_line(error)}): {where}") from error
    if isinstance(row, str):
        return Text(row)
    if not isinstance(row, dict):
        raise InputError(f"a line is a string or an object, not {_called(row)}: {where}")
    named = {name: value for name, value in row.items() if name in inputs}
    if named:
        return named
    texts = {name: value for name, value in row.items() if isinstance(value, str)}
    if "text" in texts:
        return Text(texts["text"], texts.get("text_pair"))
    if len(texts) == 1:
        return Text(*texts.values())
    shown = ", ".join(map(label, list(row)[:_SHOWN])) or "none"
    others = counted(len(texts), "other field")
    raise InputError(
        f"no field `text`, none that is called like an input, and {others} with text: {where}",
        hint=f"the fields: {shown}",
    )


def _called(value: Any) -> str:
    """What JSON calls a value that is no string and no object."""
    return {list: "an array", bool: "true or false", type(None): "null"}.get(type(value), "a number")
