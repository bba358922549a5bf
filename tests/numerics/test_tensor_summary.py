"""Summaries of tensors, against numpy in float64 on the whole array."""

from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from oracles import arrays_and_axes, assert_same, whole

from onnxscope.errors import InputError
from onnxscope.numerics.moments import Moments
from onnxscope.numerics.tensor_summary import describe, describe_all

NUMPY_TYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOAT_TYPES = ["float16", "float32", "float64"]
ML_TYPES = [
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz,
    ml_dtypes.float4_e2m1fn,
    ml_dtypes.int4,
    ml_dtypes.uint4,
]


def assert_summary(summary, array, axis):
    finite = np.abs(np.asarray(array).astype(np.float64).reshape(-1))
    scale = finite[np.isfinite(finite)].max(initial=0)
    assert_same(summary.overall.to_dict(), whole(array), scale)
    if axis is None:
        assert summary.channels is None
        return
    rows = [whole(np.take(array, channel, axis)) for channel in range(array.shape[axis])]
    found = summary.channels.to_dict()
    assert set(found) == {"mean", "std", "min", "max", "zero_fraction"}
    for channel, row in enumerate(rows):
        assert_same({key: values[channel] for key, values in found.items()}, row, scale)
    expected_zero = [
        channel
        for channel, row in enumerate(rows)
        if row["min"] == row["max"] == 0 and row["nan_count"] == row["inf_count"] == 0
    ]
    assert list(summary.zero_channels) == expected_zero


@given(arrays_and_axes())
@settings(max_examples=200, deadline=None)
def test_a_summary_agrees_with_numpy_on_any_array_and_channel_axis(drawn):
    array, axis = drawn
    before = array.copy()
    assert_summary(describe(array, axis), array, axis)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, *FLOAT_TYPES, *ML_TYPES], ids=str)
def test_every_element_type_is_widened_first(dtype):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 2 if dtype == "bool" else 7, (3, 40)).astype(dtype)
    summary = describe(array, 0, bins=5)
    assert_summary(summary, array, 0)
    np.testing.assert_array_equal(summary.histogram.counts, np.histogram(array.astype(np.float64), 5)[0])


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((7, 60, 41, 30), axis) for axis in (0, 1, 2, 3, -1, None)),
        *(((2, 3, 400, 301), axis) for axis in (0, 1, 2, 3)),
        *(((90000, 2, 1, 3), axis) for axis in (1, 2, 3, None)),
        *(((1, 1, 1, 200001), axis) for axis in (0, -2, None)),
        *(((300, 1200), axis) for axis in (0, 1)),
    ],
)
def test_arrays_of_many_blocks_have_their_channels_at_any_axis(shape, axis):
    rng = np.random.default_rng(2)
    array = rng.standard_normal(shape, dtype=np.float32)
    array[array < -1.5] = 0
    assert_summary(describe(array, axis), array, axis)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_elements_are_counted_apart_block_by_block(bad):
    array = np.random.default_rng(3).standard_normal((3, 100_001), dtype=np.float32) + 5
    array[1, ::7] = bad
    array[2] = bad
    summary = describe(array, 0)
    assert_summary(summary, array, 0)
    assert summary.channels.mean[2] is None
    assert summary.channels.min[2] is None


def test_noise_on_a_large_offset_keeps_its_spread():
    noise = np.random.default_rng(4).standard_normal((4, 70_000))
    array = 1e8 + noise
    overall = describe(array).overall
    assert overall.mean == pytest.approx(array.mean(), rel=1e-14)
    assert overall.std == pytest.approx((array - 1e8).std(ddof=1), rel=1e-7)
    pieces = Moments.empty(4)
    for start in range(0, 70_000, 999):
        pieces.update(array[:, start : start + 999], 0)
    assert pieces.overall.std == pytest.approx((array - 1e8).std(ddof=1), rel=1e-7)
    # NaN among them takes the path that masks
    array[0, 0] = math.nan
    assert describe(array).overall.std == pytest.approx((array.reshape(-1)[1:] - 1e8).std(ddof=1), rel=1e-7)


@pytest.mark.parametrize("value", [0.1, -3.7, 1e30, 0.0])
def test_a_constant_has_exactly_no_spread(value):
    array = np.full((3, 50_001), value, np.float32)
    summary = describe(array, 0)
    assert summary.overall.mean == summary.overall.min == summary.overall.max == float(np.float32(value))
    assert summary.overall.std == 0
    assert summary.channels.std == (0.0, 0.0, 0.0)
    assert summary.zero_channels == ((0, 1, 2) if value == 0 else ())


def test_a_scalar_and_nothing():
    assert describe(np.array(2.5)).overall.to_dict() == {
        "count": 1,
        "mean": 2.5,
        "std": None,
        "min": 2.5,
        "max": 2.5,
        "zero_fraction": 0.0,
        "nan_count": 0,
        "inf_count": 0,
    }
    empty = describe(np.empty((0, 3), np.float32), 1)
    assert empty.overall.to_dict() == {
        "count": 0,
        "mean": None,
        "std": None,
        "min": None,
        "max": None,
        "zero_fraction": None,
        "nan_count": 0,
        "inf_count": 0,
    }
    assert empty.channels.to_dict() == {key: [None] * 3 for key in ("mean", "std", "min", "max", "zero_fraction")}
    assert empty.histogram is None
    assert empty.zero_channels == ()


def test_records_are_strict_json_even_where_float64_overflows():
    summary = describe(np.array([[1.7e308, -1.7e308, 1.7e308], [1.0, math.nan, 0.0]]), 0)
    record = {"overall": summary.overall.to_dict(), "channels": summary.channels.to_dict()}
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert json.dumps(describe(np.array([1, 3]), bins=2).histogram.to_dict()) == (
        '{"edges": [1.0, 2.0, 3.0], "counts": [1, 1]}'
    )
    assert summary.overall.std is None
    assert summary.overall.max == 1.7e308
    assert summary.histogram is None
    assert describe(np.array([[1.7e308, 1.7e308], [0.0, 0.0]]), 0).overall.mean is None


def test_negative_zero_is_reported_as_zero():
    overall = describe(np.array([-0.0, -1.0])).overall
    assert math.copysign(1, overall.max) == 1
    histogram = describe(np.array([-0.0, 1.0])).histogram
    assert math.copysign(1, histogram.edges[0]) == 1


def test_64_bit_integers_have_exact_extremes():
    array = np.array([[-(2**63), 5], [2**63 - 1, 2**53 + 1]])
    summary = describe(array, 0)
    assert (summary.overall.min, summary.overall.max) == (-(2**63), 2**63 - 1)
    assert summary.channels.min == (-(2**63), 2**53 + 1)
    assert summary.channels.max == (5, 2**63 - 1)
    unsigned = describe(np.array([2**64 - 1, 2**64 - 2], np.uint64)).overall
    assert (unsigned.min, unsigned.max) == (2**64 - 2, 2**64 - 1)


def test_strided_read_only_and_mapped_arrays_are_read_in_place(tmp_path):
    rng = np.random.default_rng(6)
    base = rng.standard_normal((50, 60, 70), dtype=np.float32)
    strided = base.transpose(2, 0, 1)[::-1, ::2]
    assert_summary(describe(strided, 1), strided.copy(), 1)
    np.save(tmp_path / "base.npy", base)
    mapped = np.load(tmp_path / "base.npy", mmap_mode="r")
    assert describe(mapped, 2) == describe(base, 2)


def test_threads_and_company_change_no_bit():
    rng = np.random.default_rng(7)
    tensors = [
        (rng.standard_normal((64, 30, 3, 3), dtype=np.float32), 0),
        (rng.standard_normal(64, dtype=np.float32), None),
        (rng.standard_normal((2100, 2100), dtype=np.float32), 1),
        (rng.standard_normal((5000, 3), dtype=np.float64), 1),
        *((rng.standard_normal(5, dtype=np.float32), None) for _ in range(200)),
    ]
    alone = [describe(array, axis) for array, axis in tensors]
    for threads in (1, 2, 3, None):
        assert list(describe_all(iter(tensors), threads=threads)) == alone
    with ThreadPoolExecutor(3) as pool:
        assert describe(*tensors[2], pool=pool) == alone[2]


def test_tensors_are_read_only_a_little_ahead():
    made = 0

    def tensors():
        nonlocal made
        for _ in range(100):
            made += 1
            yield np.zeros(300_000, np.float32), None

    summaries = describe_all(tensors(), threads=1)
    next(summaries)
    assert made < 10
    summaries.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_faults_are_named():
    with pytest.raises(InputError, match=r"^no statistics for elements of type complex64: an array of shape \(2,\)$"):
        describe(np.zeros(2, np.complex64))
    with pytest.raises(InputError, match=r"^no axis 2 for channels: an array of shape \(2, 3\)$"):
        describe(np.zeros((2, 3)), 2)
    with pytest.raises(InputError, match=r"^a histogram needs at least one bin: 0$"):
        describe(np.zeros((2, 3)), bins=0)
