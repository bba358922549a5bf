"""JSON: records written strictly, and untrusted files read with a check at every access."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from onnxscope.base.files import open_regular
from onnxscope.base.text import COMMAND_START, printable
from onnxscope.errors import InputError, OnnxscopeError

__all__ = ["MAX_INTEGER", "Fields", "JsonFormat", "dump_json", "parse_json"]

MAX_INTEGER = 1 << 62
"""The largest whole number that a file may hold: sums of two still fit into 64 bits."""

_UNUSUAL = re.compile(r"[^\x20-\x7e\n]")


def dump_json(record: Mapping[str, Any]) -> str:
    """Return strict JSON: keys in the order given, no NaN or infinity, a newline at the end.

    Each key of the record has a line of its own, and so has each record of a list, so that a change shows as a
    changed line. Characters that a terminal would act upon, and those that UTF-8 cannot hold, are written as escapes.

    Raises:
        ValueError: A number is not finite.
    """
    lines = []
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            # json's own indent would be ten times slower, and put every number of a histogram on a line.
            rows = ",\n    ".join(map(_compact_json, value))
            lines.append(f"{_compact_json(key)}: [\n    {rows}\n  ]")
        else:
            lines.append(f"{_compact_json(key)}: {_compact_json(value)}")
    text = "{\n  " + ",\n  ".join(lines) + "\n}\n"
    text = COMMAND_START.sub(r"\\u0023", text)  # it stands in a string: what is ours has neither # nor : at its start
    return _UNUSUAL.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def _compact_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def parse_json(text: str | bytes) -> Any:
    """Return what strict JSON holds.

    Raises:
        ValueError: It is no JSON, nested too deeply, has NaN or an infinity in it, or a key twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


class _FaultError(Exception):
    """What is wrong with a file; the format adds which file."""


@dataclass(frozen=True, kw_only=True)
class JsonFormat:
    """A kind of file that others may have written, and how its faults are reported.

    Attributes:
        noun: What such a file is: `profile`.
        schema: What it has to declare.
        limit_bytes: Larger files are not read.
        error: The class of every fault.
        made_by: A hint: what writes such a file.
        other_schema: A hint for a file of another schema.
        damaged: A hint for a file whose content is wrong.
    """

    noun: str
    schema: str
    limit_bytes: int
    error: type[OnnxscopeError]
    made_by: str
    other_schema: str
    damaged: str

    def read(self, path: str | os.PathLike[str]) -> Fields:
        """Read a file that declares this schema.

        Raises:
            OnnxscopeError: Of the class `error`: the file is missing, too large, no JSON, or of another schema.
        """
        if not isinstance(path, str | os.PathLike):
            raise self.error(f"a {self.noun} is a path, not {type(path).__name__}", hint=self.made_by)
        where = printable(os.fspath(path))
        try:
            with open_regular(os.fspath(path), limit_bytes=self.limit_bytes) as stream:
                content = stream.read(self.limit_bytes + 1)
        except InputError as error:
            raise self.error(str(error), hint=self.made_by) from error
        return self.parse(content, where)

    def parse(self, content: str | bytes, where: str) -> Fields:
        """Check content that declares this schema; `where` is what messages call it.

        Raises:
            OnnxscopeError: As `read`.
        """
        try:
            values = parse_json(content)
        except ValueError as error:
            raise self.error(f"not JSON, or cut short: {where}", hint=self.made_by) from error
        schema = values.get("schema") if isinstance(values, dict) else None
        if not isinstance(schema, str):
            raise self.error(f"not a {self.noun} (no schema in it): {where}", hint=self.made_by)
        if schema != self.schema:
            fault = f"the schema '{printable(schema[:60])}' is not {self.schema!r}: {where}"
            raise self.error(fault, hint=self.other_schema)
        return Fields(values, self, where)


class Fields:
    """An object of an untrusted JSON file; every access says what it expects, within `checking()`.

    Attributes:
        values: What the object holds, as it was read.
    """

    def __init__(self, values: dict[str, Any], file_format: JsonFormat, where: str, place: str = "") -> None:
        """Wrap an object.

        Args:
            values: What it holds.
            file_format: Of the file.
            where: The file's name, printable.
            place: Where in the file the object stands.
        """
        self.values = values
        self._format = file_format
        self._where = where
        self._place = place

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """Turn what the block finds wrong into the format's error, which names the file."""
        try:
            yield
        except _FaultError as fault:
            raise self._format.error(f"{fault}: {self._where}", hint=self._format.damaged) from fault

    def fault(self, what: str) -> NoReturn:
        """Report a fault of this object."""
        raise _FaultError(f"the {self._format.noun} has {what}{' in ' + self._place if self._place else ''}")

    def expect(self, kinds: Mapping[str, tuple[type, ...]]) -> None:
        """Check that these keys are there, and that their values are of these types; True and False are no numbers."""
        for key, types in kinds.items():
            value = self.values.get(key, ...)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                self.fault(f"no {key}")

    def text(self, key: str) -> str:
        """A string."""
        value: str = self._get(key, str, "text")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object, as it was read."""
        value: dict[str, Any] = self._get(key, dict, "object")
        return value

    def count(self, key: str, largest: int = MAX_INTEGER) -> int:
        """A whole number from 0."""
        value: int = self._get(key, int, "whole number")
        if not 0 <= value <= largest:
            self.fault(f"the number {str(value)[:30]} as {key!r}")
        return value

    def optional(self, key: str, kind: type) -> Any:
        """A value of a kind, or None."""
        return None if self.values.get(key) is None else self._get(key, kind, kind.__name__)

    def items(self, key: str) -> list[Any]:
        """A list of anything."""
        values: list[Any] = self._get(key, list, "list")
        return values

    def list_or_none(self, key: str, kinds: tuple[type, ...]) -> list[Any] | None:
        """A list of values of some kinds, or None."""
        values = self.optional(key, list)
        if values is not None and not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
            self.fault(f"a wrong {key!r}")
        return None if values is None else list(values)

    def hexadecimal(self, key: str, bits: int) -> int:
        """A number of so many bits, in hexadecimal."""
        text = self.text(key)
        if not re.fullmatch(f"[0-9a-f]{{{bits // 4}}}", text):
            self.fault(f"no digest {key!r}")
        return int(text, 16)

    def part(self, key: str) -> Fields:
        """An object, to be read in the same way."""
        return self._inner(self.mapping(key), self._place or key)

    def rows(self, key: str) -> list[Fields]:
        """A list of objects."""
        rows = self.items(key)
        if not all(isinstance(row, dict) for row in rows):
            self.fault(f"no list of objects {key!r}")
        return [self._inner(row, f"{key}[{index}]") for index, row in enumerate(rows)]

    def counts(self, key: str) -> dict[str, int]:
        """Whole numbers by name."""
        part = self._inner(self.mapping(key), key)
        return {name: part.count(name) for name in part.values}

    def _inner(self, values: dict[str, Any], place: str) -> Fields:
        return Fields(values=values, file_format=self._format, where=self._where, place=place)

    def _get(self, key: str, kind: type | tuple[type, ...], noun: str) -> Any:
        value = self.values.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fault(f"no {noun} {key!r}")
        return value
