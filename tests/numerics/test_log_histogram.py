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


FIRST, SECOND = {-2.0: 10, 0.0: 40, 1.0: 30, 4.0: 20}, {0.0: 10, 1.0: 30, 4.0: 50, 8.0: 10}


def counted(numbers):
    return LogHistogram.of(np.repeat(np.array(list(numbers)), list(numbers.values())).astype(np.float32))


def test_the_stability_index_is_that_of_bins_counted_by_hand():
    # Each of the four numbers fills a tenth or more and is a bin of its own; 8 lies in the open bin above 4.
    p = np.array([1e-4, 0.1, 1e-4, 0.4, 1e-4, 0.3, 1e-4, 0.2, 1e-4])
    q = np.array([1e-4, 1e-4, 1e-4, 0.1, 1e-4, 0.3, 1e-4, 0.5, 0.1])
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    index, bins = counted(FIRST).stability_index(counted(SECOND))
    assert (index, bins) == (pytest.approx(expected, rel=1e-12), 9)
    assert counted(FIRST).stability_index(counted(FIRST))[0] == 0.0


def test_the_stability_index_of_normal_numbers_is_their_divergence_of_jeffreys():
    """For two normal distributions of one deviation, symmetric Kullback-Leibler is the squared shift in deviations."""
    rng = np.random.default_rng(0)
    here, there = (LogHistogram.of(rng.normal(mean, 1, 400_000).astype(np.float32)) for mean in (0.0, 0.5))
    index, bins = here.stability_index(there)
    assert bins == 10
    assert index == pytest.approx(0.25, rel=0.1)  # ten bins tell a little less


def test_a_constant_has_a_stability_index_against_smaller_and_larger_numbers():
    constant = counted({2.0: 5})
    expected = 2 * (1 - 1e-4) * math.log(1e4)
    assert constant.stability_index(counted({1.0: 5}))[0] == pytest.approx(expected)
    assert constant.stability_index(counted({3.0: 5}))[0] == pytest.approx(expected)
    assert constant.stability_index(LogHistogram.empty()) is None


def test_the_wasserstein_distance_is_the_mean_gap_of_sorted_numbers():
    rng = np.random.default_rng(1)
    here, there = rng.normal(0, 1, 20_000), rng.gamma(2.0, 1.5, 20_000)
    distance, _ = LogHistogram.of(here).wasserstein(LogHistogram.of(there))
    assert distance == pytest.approx(np.abs(np.sort(here) - np.sort(there)).mean(), rel=0.01)
    # By hand, with the midpoints of the buckets of -2, 1, 4 and 8, which are 1/256 farther out.
    out = 257 / 256
    cumulated = np.array([[0.1, 0.5, 0.8, 1.0], [0.0, 0.1, 0.4, 0.9]])
    gaps = np.array([2.0, 1.0, 3.0, 4.0]) * out
    expected = np.abs(cumulated[0] - cumulated[1]) @ gaps
    both = cumulated.mean(axis=0)
    found = counted(FIRST).wasserstein(counted(SECOND))
    assert found == (pytest.approx(expected), pytest.approx(np.sqrt(both * (1 - both)) @ gaps))


def test_a_bucket_that_is_as_wide_as_the_numbers_are_spread_tells_no_distance():
    near = np.random.default_rng(2).normal(100, 0.01, 100)
    assert LogHistogram.of(near).wasserstein(LogHistogram.of(near + 0.01)) is None
    assert LogHistogram.empty().wasserstein(counted(FIRST)) is None


def test_counting_beyond_a_range():
    assert counted(SECOND).count_beyond(0.0, 4.0) == 10
    assert counted(SECOND).count_beyond(0.5, 1.0) == 70
    assert counted(SECOND).count_beyond(-math.inf, math.inf) == 0
