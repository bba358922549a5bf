"""Histograms, against numpy's in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.errors import InputError
from onnxscope.numerics.histograms import histogram_counts, histogram_edges
from onnxscope.numerics.tensor_summary import describe


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=60), elements=st.floats(-10, 10, width=32)),
    st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_a_histogram_equals_numpy_on_float64(array, bins):
    expected = None
    try:
        expected, edges = np.histogram(array.astype(np.float64), bins)
    except ValueError:  # numpy refuses the range
        assert describe(array, bins=bins).histogram is None
    if expected is not None:
        histogram = describe(array, bins=bins).histogram
        np.testing.assert_array_equal(histogram.edges, edges)
        np.testing.assert_array_equal(histogram.counts, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int32", "int64"])
@pytest.mark.parametrize("bins", [1, 7, 50, 1000])
def test_a_histogram_of_many_blocks_equals_numpy(dtype, bins):
    # A grid of values puts many elements exactly on edges, where rounding would show.
    rng = np.random.default_rng(5)
    array = (rng.integers(-100, 100, (5, 100_003)) / (100 if "float" in dtype else 1)).astype(dtype)
    expected, edges = np.histogram(array.astype(np.float64), bins)
    histogram = describe(array, 0, bins=bins).histogram
    np.testing.assert_array_equal(histogram.edges, edges)
    np.testing.assert_array_equal(histogram.counts, expected)


def test_histogram_counts_leave_out_what_is_not_finite_or_out_of_range():
    array = np.array([math.nan, math.inf, -math.inf, -1, 0, 0.25, 0.5, 1, 1.5], np.float32)
    edges = np.array([0, 0.5, 1.0])
    np.testing.assert_array_equal(histogram_counts(array, edges), [2, 2])
    np.testing.assert_array_equal(histogram_counts(array.astype(np.float64), edges), [2, 2])


def test_float32_edges_are_compared_without_rounding():
    edges = np.array([0.0, 0.1, 0.2])  # 0.1 and 0.2 lie below their nearest float32
    array = np.array([np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(0)), np.float32(0.2)], np.float32)
    expected, _ = np.histogram(array.astype(np.float64), edges)
    np.testing.assert_array_equal(histogram_counts(array, edges), expected)
    np.testing.assert_array_equal(expected, [1, 1])


def test_edges_follow_numpy_also_where_it_refuses():
    np.testing.assert_array_equal(histogram_edges(2.0, 2.0, 4), [1.5, 1.75, 2.0, 2.25, 2.5])
    np.testing.assert_array_equal(histogram_edges(-0.3, 0.7, 50), np.linspace(-0.3, 0.7, 51))
    assert histogram_edges(1e17, 1e17, 4) is None
    assert histogram_edges(1.0, math.nextafter(1.0, 2), 50) is None
    assert histogram_edges(-1.7e308, 1.7e308, 50) is None


def test_faults_are_named():
    with pytest.raises(InputError, match=r"^no statistics for elements of type object: an array of shape \(1,\)$"):
        histogram_counts(np.array([None]), np.array([0.0, 1.0]))
    with pytest.raises(InputError, match=r"^a histogram needs at least one bin: -1$"):
        histogram_edges(0.0, 1.0, -1)
