"""A profile's file: how taps are written, and how an untrusted file is read back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.json_files import MAX_INTEGER, Fields, JsonFormat
from onnxscope.errors import ProfileError
from onnxscope.findings.kinds import Finding, FindingKind
from onnxscope.numerics.attention_shares import AttentionShares
from onnxscope.numerics.code_use import CodeGrid, CodeUse
from onnxscope.numerics.log_histogram import MAX_KEY, LogHistogram
from onnxscope.numerics.moments import Moments
from onnxscope.numerics.sample_moments import GroupedMoments
from onnxscope.numerics.token_outlier import TokenOutlier
from onnxscope.profiling.groups import OTHERS, Grouping
from onnxscope.profiling.tap_profile import ChannelState, TapProfile
from onnxscope.runtime.half_range import Unfit

__all__ = [
    "PROFILE_FORMAT",
    "grouping_of",
    "intervals",
    "names_by_position",
    "skipped_samples",
    "tap_of",
    "tap_record",
    "unfit_values",
    "unstable_findings",
]

PROFILE_FORMAT = JsonFormat(
    noun="profile",
    schema="onnxscope.profile/1",
    limit_bytes=1 << 30,
    error=ProfileError,
    made_by="a profile is what `onnxscope stats -o` writes",
    other_schema="it is another record, or one of another version of onnxscope",
    damaged="the file is damaged; make it again",
)

_UNSTABLE: Mapping[str, FindingKind] = {"random": "random", "stateful": "stateful"}
_MAX_CHANNELS = 1 << 24
_COUNTS = ("count", "nan", "inf", "examined", "zeros")
_SAMPLES = ("min_sample", "max_sample", "nonfinite_sample")
_ABSENT = {"mean": math.nan, "m2": math.nan, "min": math.inf, "max": -math.inf}


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
        **({"masked": True} if tap.masked else {}),
        "samples": tap.samples,
        "channels": state.moments.count.size,
    }
    arrays = {**vars(state.moments), **vars(state)}
    names = ("count", "mean", "m2", "min", "max", "nan", "inf", "examined", "zeros", *_SAMPLES, "fingerprint")
    record |= _state({name: arrays[name] for name in names})
    record["histogram"] = {"keys": tap.histogram.keys.tolist(), "counts": tap.histogram.counts.tolist()}
    if tap.heads is not None:
        record["heads"] = {name: values.reshape(-1).tolist() for name, values in vars(tap.heads).items()}
    if tap.codes is not None:
        record["codes"] = {**vars(tap.codes.grid), "counts": tap.codes.counts.tolist()}
    if tap.token is not None:
        record["token"] = vars(tap.token)
    if tap.groups is not None:
        record["groups"] = {"keys": tap.groups.keys.tolist(), **_state(vars(tap.groups.moments))}
    return record


def _state(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arrays as lists; one that holds one number everywhere as that number."""
    record = {}
    for name, array in arrays.items():
        values = array.tolist()
        if name in _ABSENT:
            values = [value if math.isfinite(value) else None for value in values]
        record[name] = values[0] if values and all(value == values[0] for value in values) else values
    return record


def tap_of(fields: Fields) -> TapProfile:
    """Return the tap of a line; faults are reported by `Fields.checking`."""
    channels = fields.count("channels", _MAX_CHANNELS)
    moments = _moments(fields, channels)
    samples = {name: _integers(fields, name, channels, -1) for name in _SAMPLES}
    fingerprint = _integers(fields, "fingerprint", channels, 0, np.uint64)
    state = ChannelState(moments=moments, **samples, fingerprint=fingerprint)
    histogram = fields.part("histogram")
    keys = _integers(histogram, "keys", None, -MAX_KEY, np.int32, MAX_KEY)
    counts = _integers(histogram, "counts", len(keys), 1)
    if (np.diff(keys) <= 0).any():
        fields.fault("buckets out of order")
    limits = fields.list_or_none("limits", (int, float))
    if limits is not None and len(limits) != 2:
        fields.fault("limits that are no pair")
    shape = fields.list_or_none("shape", (int, type(None)))
    axis = fields.optional("channel_axis", int)
    if axis is not None and not 0 <= axis < 64:
        fields.fault(f"the channel axis {axis}")
    return TapProfile(
        name=fields.text("name"),
        layer=fields.text("layer"),
        op_type=fields.text("op_type"),
        at=fields.optional("at", str),
        dtype=fields.text("dtype"),
        shape=None if shape is None else tuple(shape),
        channel_axis=axis,
        limits=None if limits is None else (float(limits[0]), float(limits[1])),
        samples=fields.count("samples"),
        state=state,
        histogram=LogHistogram(keys, counts),
        masked=bool(fields.optional("masked", bool)),
        heads=_heads(fields.part("heads")) if "heads" in fields.values else None,
        token=_token(fields.part("token")) if "token" in fields.values else None,
        codes=_codes(fields.part("codes")) if "codes" in fields.values else None,
        groups=_groups(fields.part("groups")) if "groups" in fields.values else None,
    )


def _moments(fields: Fields, channels: int) -> Moments:
    arrays: dict[str, NDArray[Any]] = {name: _integers(fields, name, channels, 0) for name in _COUNTS}
    arrays |= {name: _floats(fields, name, channels, absent) for name, absent in _ABSENT.items()}
    moments = Moments(**arrays)
    if (moments.zeros > moments.examined).any() or (moments.examined > moments.count).any():
        fields.fault("counts that contradict each other")
    if ((moments.count == 0) & ((moments.mean != 0) | (moments.m2 != 0))).any():  # merging relies on it
        fields.fault("moments of nothing")
    return moments


def _groups(fields: Fields) -> GroupedMoments:
    keys = _integers(fields, "keys", None, OTHERS)
    if (np.diff(keys) <= 0).any():
        fields.fault("groups out of order")
    return GroupedMoments(keys, _moments(fields, len(keys)))


def grouping_of(fields: Fields) -> Grouping | None:
    """Which groups taps are told by; a file that says nothing of them has none."""
    if "grouping" not in fields.values:
        return None
    part = fields.part("grouping")
    by, tokens, inputs = part.text("by"), part.items("tokens"), part.items("inputs")
    if by != "token" and by != "position":
        part.fault(f"statistics by {by[:30]!r}")
    for row in tokens:
        if not isinstance(row, list) or [type(value) for value in row] != [int, str]:
            part.fault("wrong tokens")
    for row in inputs:
        if (
            not isinstance(row, list)
            or len(row) != 2
            or type(row[0]) is not str
            or type(row[1]) not in (int, type(None))
        ):
            part.fault("wrong inputs")
    return Grouping(
        "token" if by == "token" else "position",
        tuple((number, name) for number, name in tokens),
        part.text("others"),
        tuple((name, axis) for name, axis in inputs),
    )


def _codes(fields: Fields) -> CodeUse:
    bits = fields.count("bits", 16)
    lowest, zero_point = (int(_integers(fields, name, 1, -(1 << 15))[0]) for name in ("lowest", "zero_point"))
    (scale,) = _floats(fields, "scale", 1, 0.0).tolist()
    if not bits or not 0 < scale < math.inf:
        fields.fault("codes that stand for nothing")
    grid = CodeGrid(bits, lowest, scale, zero_point)
    return CodeUse(grid, _integers(fields, "counts", CodeUse.places(grid), 0))


def _token(fields: Fields) -> TokenOutlier:
    (ratio,) = _floats(fields, "ratio", 1, 0.0).tolist()
    return TokenOutlier(ratio, fields.count("token"), fields.count("sample"))


def _heads(fields: Fields) -> AttentionShares:
    queries = _integers(fields, "queries", None, 0)
    heads = len(queries)
    later = _integers(fields, "later", heads, 0)
    if (later > queries).any():
        fields.fault("heads that contradict each other")
    return AttentionShares(
        queries=queries,
        later=later,
        first=_floats(fields, "first", heads, 0.0),
        entropy=_floats(fields, "entropy", heads, 0.0),
        room=_floats(fields, "room", heads, 0.0),
        products=_floats(fields, "products", heads * heads, 0.0).reshape(heads, heads),
    )


def unfit_values(fields: Fields) -> tuple[Unfit, ...]:
    """Values of half precision that held numbers beyond their type; a file without any says nothing of them."""
    if "unfit" not in fields.values:
        return ()
    values = []
    for row in fields.rows("unfit"):
        row.expect({"largest": (int, float, type(None))})
        largest = row.values["largest"]
        values.append(
            Unfit(
                value=row.text("value"),
                node=row.text("node"),
                layer=row.text("layer"),
                dtype=row.text("dtype"),
                position=row.count("position"),
                largest=None if largest is None else float(largest),
            )
        )
    return tuple(values)


def intervals(fields: Fields, key: str) -> tuple[tuple[int, int], ...]:
    """Half-open intervals, ascending and apart."""
    pairs = []
    end = -1
    for pair in fields.items(key):
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(value) is int for value in pair):
            fields.fault(f"wrong intervals {key!r}")
        if not end < pair[0] < pair[1] <= MAX_INTEGER:
            fields.fault(f"wrong intervals {key!r}")
        end = pair[1]
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def skipped_samples(fields: Fields, key: str) -> tuple[tuple[int, str, str], ...]:
    """Position, name and fault of skipped samples."""
    rows = fields.items(key)
    for row in rows:
        if not isinstance(row, list) or [type(value) for value in row] != [int, str, str]:
            fields.fault(f"a wrong {key!r}")
    return tuple((row[0], row[1], row[2]) for row in rows)


def names_by_position(fields: Fields, key: str) -> dict[int, str]:
    """Names of samples by their position."""
    part = fields.part(key)
    if not all(re.fullmatch("[0-9]{1,18}", position) for position in part.values):
        fields.fault(f"a wrong {key!r}")
    return {int(position): part.text(position) for position in part.values}


def _integers(
    fields: Fields, key: str, length: int | None, least: int, dtype: Any = np.int64, most: int = MAX_INTEGER
) -> NDArray[Any]:
    """An array of whole numbers; `length` None takes any."""
    values = _numbers(fields, key, length)
    largest = (1 << 64) - 1 if dtype is np.uint64 else most
    if not all(type(value) is int and least <= value <= largest for value in values):
        fields.fault(f"wrong numbers {key!r}")
    return np.array(values, dtype)


def _floats(fields: Fields, key: str, length: int, absent: float) -> NDArray[np.float64]:
    """An array of numbers, in which null stands for `absent`."""
    values = _numbers(fields, key, length)
    if not all(value is None or type(value) in (int, float) for value in values):
        fields.fault(f"wrong numbers {key!r}")
    try:
        return np.array([absent if value is None else float(value) for value in values], np.float64)
    except OverflowError:
        fields.fault(f"wrong numbers {key!r}")


def _numbers(fields: Fields, key: str, length: int | None) -> list[Any]:
    """A list; one number, or null, stands for as many as there have to be."""
    values = fields.values.get(key, ())
    if length is not None and (values is None or type(values) in (int, float)):
        return [values] * length
    if not isinstance(values, list) or (length is not None and len(values) != length):
        fields.fault(f"no list of {'any' if length is None else length} numbers {key!r}")
    return values


def unstable_findings(fields: Fields, key: str) -> tuple[Finding, ...]:
    """Return the findings on random and stateful nodes; a file that says nothing of them has none."""
    findings = []
    for row in fields.rows(key) if key in fields.values else ():
        kind = _UNSTABLE.get(row.text("kind"))
        if kind is None:
            row.fault(f"the kind {row.text('kind')[:30]!r}")
        findings.append(Finding(kind=kind, layer=row.text("layer"), channel=None, message=row.text("message")))
    return tuple(findings)
