"""A profile's file: how taps are written, and how an untrusted file is read back."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.outputs import printable
from onnxscope.errors import InputError, ProfileError
from onnxscope.inputs.sources import open_regular
from onnxscope.numerics.log_histogram import MAX_KEY, LogHistogram
from onnxscope.numerics.moments import Moments
from onnxscope.profiling.tap_profile import ChannelState, TapProfile

__all__ = ["Record", "read_record", "tap_of", "tap_record"]

_MAX_BYTES = 1 << 30
_MAX_CHANNELS = 1 << 24
_MAX_INTEGER = 1 << 62
_COUNTS = ("count", "nan", "inf", "examined", "zeros")
_SAMPLES = ("min_sample", "max_sample", "nonfinite_sample")
_ABSENT = {"mean": math.nan, "m2": math.nan, "min": math.inf, "max": -math.inf}


class _FaultError(Exception):
    """What is wrong with a file; the reader adds which file."""


def tap_record(tap: TapProfile) -> dict[str, Any]:
    """Return a tap's line of the file. An array that holds one number everywhere is written as that number."""
    state = tap.state
    record: dict[str, Any] = {
        "name": tap.name,
        "layer": tap.layer,
        "op_type": tap.op_type,
        "at": tap.at,
        "dtype": tap.dtype,
        "shape": None if tap.shape is None else list(tap.shape),
        "channel_axis": tap.channel_axis,
        "limits": None if tap.limits is None else list(tap.limits),
        "samples": tap.samples,
        "channels": state.moments.count.size,
    }
    arrays = {**vars(state.moments), **vars(state)}
    for name in ("count", "mean", "m2", "min", "max", "nan", "inf", "examined", "zeros", *_SAMPLES, "fingerprint"):
        values = arrays[name].tolist()
        if name in _ABSENT:
            values = [value if math.isfinite(value) else None for value in values]
        record[name] = values[0] if values and all(value == values[0] for value in values) else values
    record["histogram"] = {"keys": tap.histogram.keys.tolist(), "counts": tap.histogram.counts.tolist()}
    return record


def tap_of(record: Record) -> TapProfile:
    """Return the tap of a line; faults are reported by `Record.checking`."""
    channels = record.count("channels", _MAX_CHANNELS)
    arrays: dict[str, NDArray[Any]] = {name: record.integers(name, channels, 0) for name in _COUNTS}
    arrays |= {name: record.floats(name, channels, absent) for name, absent in _ABSENT.items()}
    moments = Moments(**arrays)
    samples = {name: record.integers(name, channels, -1) for name in _SAMPLES}
    fingerprint = record.integers("fingerprint", channels, 0, np.uint64)
    state = ChannelState(moments=moments, **samples, fingerprint=fingerprint)
    if (moments.zeros > moments.examined).any() or (moments.examined > moments.count).any():
        record.fault("counts that contradict each other")
    if ((moments.count == 0) & ((moments.mean != 0) | (moments.m2 != 0))).any():  # merging relies on it
        record.fault("moments of nothing")
    histogram = record.record("histogram")
    keys = histogram.integers("keys", None, -MAX_KEY, np.int32, MAX_KEY)
    counts = histogram.integers("counts", len(keys), 1)
    if (np.diff(keys) <= 0).any():
        record.fault("buckets out of order")
    limits = record.list_or_none("limits", (int, float))
    if limits is not None and len(limits) != 2:
        record.fault("limits that are no pair")
    shape = record.list_or_none("shape", (int, type(None)))
    axis = record.optional("channel_axis", int)
    if axis is not None and not 0 <= axis < 64:
        record.fault(f"the channel axis {axis}")
    return TapProfile(
        name=record.text("name"),
        layer=record.text("layer"),
        op_type=record.text("op_type"),
        at=record.optional("at", str),
        dtype=record.text("dtype"),
        shape=None if shape is None else tuple(shape),
        channel_axis=axis,
        limits=None if limits is None else (float(limits[0]), float(limits[1])),
        samples=record.count("samples"),
        state=state,
        histogram=LogHistogram(keys, counts),
    )


def read_record(path: str | os.PathLike[str], schema: str) -> Record:
    """Read a JSON file that declares this schema.

    Raises:
        ProfileError: The file is missing, too large, no JSON, or of another schema.
    """
    where = printable(os.fspath(path))
    try:
        with open_regular(os.fspath(path), limit_bytes=_MAX_BYTES) as stream:
            content = stream.read(_MAX_BYTES + 1)
    except InputError as error:
        raise ProfileError(str(error), hint="a profile is what `onnxscope stats -o` writes") from error
    try:
        fields = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"not JSON, or cut short: {where}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("schema"), str):
        raise ProfileError(f"not a profile (no schema in it): {where}")
    if fields["schema"] != schema:
        raise ProfileError(
            f"the schema {printable(fields['schema'][:60])!r} is not {schema!r}: {where}",
            hint="it is another record, or one of another version of onnxscope",
        )
    return Record(fields, "", where)


class Record:
    """Part of an untrusted JSON file; every access says what it expects."""

    def __init__(self, fields: dict[str, Any], place: str, where: str) -> None:
        self.fields = fields
        self._place = place
        self._where = where

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """Turn what the block finds wrong into a ProfileError that names the file."""
        try:
            yield
        except _FaultError as fault:
            raise ProfileError(f"{fault}: {self._where}", hint="the file is damaged; make it again") from fault

    def fault(self, what: str) -> NoReturn:
        """Report a fault of this record."""
        raise _FaultError(f"the profile has {what}{' in ' + self._place if self._place else ''}")

    def _get(self, key: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self.fields.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fault(f"no {what} {key!r}")
        return value

    def text(self, key: str) -> str:
        """A string."""
        value: str = self._get(key, str, "text")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object."""
        value: dict[str, Any] = self._get(key, dict, "object")
        return value

    def count(self, key: str, largest: int = _MAX_INTEGER) -> int:
        """A whole number from 0."""
        value: int = self._get(key, int, "whole number")
        if not 0 <= value <= largest:
            self.fault(f"the number {str(value)[:30]} as {key!r}")
        return value

    def optional(self, key: str, kind: type) -> Any:
        """A value of a kind, or None."""
        return None if self.fields.get(key) is None else self._get(key, kind, kind.__name__)

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

    def record(self, key: str) -> Record:
        """An object, to be read in the same way."""
        return Record(self.mapping(key), self._place or key, self._where)

    def records(self, key: str) -> list[Record]:
        """A list of objects."""
        rows = self._get(key, list, "list")
        if not all(isinstance(row, dict) for row in rows):
            self.fault(f"no list of objects {key!r}")
        return [Record(row, f"{key}[{index}]", self._where) for index, row in enumerate(rows)]

    def integers(
        self, key: str, length: int | None, least: int, dtype: Any = np.int64, most: int = _MAX_INTEGER
    ) -> NDArray[Any]:
        """An array of whole numbers; `length` None takes any."""
        values = self._values(key, length)
        largest = (1 << 64) - 1 if dtype is np.uint64 else most
        if not all(type(value) is int and least <= value <= largest for value in values):
            self.fault(f"wrong numbers {key!r}")
        return np.array(values, dtype)

    def floats(self, key: str, length: int, absent: float) -> NDArray[np.float64]:
        """An array of numbers, in which null stands for `absent`."""
        values = self._values(key, length)
        if not all(value is None or type(value) in (int, float) for value in values):
            self.fault(f"wrong numbers {key!r}")
        try:
            return np.array([absent if value is None else float(value) for value in values], np.float64)
        except OverflowError:
            self.fault(f"wrong numbers {key!r}")

    def _values(self, key: str, length: int | None) -> list[Any]:
        values = self.fields.get(key, ())
        if length is not None and (values is None or type(values) in (int, float)):
            return [values] * length
        if not isinstance(values, list) or (length is not None and len(values) != length):
            self.fault(f"no list of {'any' if length is None else length} numbers {key!r}")
        return values

    def intervals(self, key: str) -> tuple[tuple[int, int], ...]:
        """Half-open intervals, ascending and apart."""
        found = []
        end = -1
        for pair in self._get(key, list, "list"):
            if not isinstance(pair, list) or len(pair) != 2 or not all(type(value) is int for value in pair):
                self.fault(f"wrong intervals {key!r}")
            if not end < pair[0] < pair[1] <= _MAX_INTEGER:
                self.fault(f"wrong intervals {key!r}")
            end = pair[1]
            found.append((pair[0], pair[1]))
        return tuple(found)

    def skipped(self, key: str) -> tuple[tuple[int, str, str], ...]:
        """Position, name and fault of skipped samples."""
        rows = self._get(key, list, "list")
        for row in rows:
            if not isinstance(row, list) or [type(value) for value in row] != [int, str, str]:
                self.fault(f"a wrong {key!r}")
        return tuple((row[0], row[1], row[2]) for row in rows)

    def counts(self, key: str) -> dict[str, int]:
        """Whole numbers by name."""
        found = Record(self.mapping(key), key, self._where)
        return {name: found.count(name) for name in found.fields}

    def sample_names(self, key: str) -> dict[int, str]:
        """Names by position."""
        found = Record(self.mapping(key), key, self._where)
        if not all(re.fullmatch("[0-9]{1,18}", position) for position in found.fields):
            self.fault(f"a wrong {key!r}")
        return {int(position): found.text(position) for position in found.fields}


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
