"""The log-spaced histogram, against sorted arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.numerics.log_histogram import RELATIVE_ERROR, LogHistogram

values = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.sampled_from([0.0, -0.0, 1e-20, -3.4e38, 3.4028234e38, math.nan, math.inf, -math.inf]),
)


@given(hnp.arrays(np.float32, st.integers(0, 200), elements=values), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_quantiles_are_within_the_stated_error(array, share):
    histogram = LogHistogram.of(array)
    finite = array[np.isfinite(array)].astype(np.float64)
    assert histogram.total == finite.size
    if not finite.size:
        assert histogram.quantile(share) is None
        return
    expected = float(np.sort(finite)[max(math.ceil(share * finite.size), 1) - 1])
    assert histogram.quantile(share) == pytest.approx(expected, rel=RELATIVE_ERROR, abs=2.0**-126)


@given(hnp.arrays(np.float32, st.integers(0, 100), elements=values), st.lists(st.integers(0, 100), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_split_gives_the_same_buckets(array, cuts):
    whole = LogHistogram.of(array)
    merged = LogHistogram.empty()
    for piece in np.split(array, sorted(min(cut, len(array)) for cut in cuts)):
        merged = LogHistogram.of(piece).merge(merged)
    np.testing.assert_array_equal(merged.keys, whole.keys)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert (np.diff(whole.keys) > 0).all()


def test_values_beyond_float32_stand_in_the_outermost_buckets():
    histogram = LogHistogram.of(np.array([1e300, -1e300, 1.0, math.inf]))
    assert histogram.total == 3
    assert histogram.quantile(1) == pytest.approx(np.finfo(np.float32).max, rel=RELATIVE_ERROR)
    assert histogram.quantile(0) == -histogram.quantile(1)


def test_zero_is_exact_and_what_is_as_good_as_zero_is_counted_with_it():
    histogram = LogHistogram.of(np.array([0.0, -0.0, 1e-45, -1e-45, 2.0], np.float32))
    assert histogram.keys.tolist()[0] == 0
    assert histogram.counts.tolist() == [4, 1]
    assert histogram.quantile(0.5) == 0.0


def test_counting_between_values():
    array = np.array([-2.0, -0.5, 0.0, 2.0**-25, 2.0**-24, 0.99, 1.0, 3.0], np.float32)
    histogram = LogHistogram.of(array)
    assert histogram.count_between(1.0, math.inf) == 2
    assert histogram.count_between(-math.inf, -0.5) == 2
    assert histogram.count_tiny(2.0**-24) == 1
