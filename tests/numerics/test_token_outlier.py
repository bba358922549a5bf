"""The token that stands out most, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.numerics.token_outlier import TokenOutlier

RNG = np.random.default_rng(5)


def test_it_is_the_largest_magnitude_over_the_median_of_its_sample():
    values = RNG.normal(size=(6, 8, 9))
    values[4, 3, 7] = -50
    found = TokenOutlier.of(values, range(10, 16), 2)
    largest = np.abs(values[4]).max(axis=0)
    assert found == TokenOutlier(pytest.approx(50 / np.median(largest)), 14, 14)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_any_cut_gives_the_same(cut):
    values = RNG.normal(size=(6, 8, 9))
    first, second = (TokenOutlier.of(values[part], range(6)[part], 1) for part in (slice(cut), slice(cut, None)))
    assert first.merge(second) == second.merge(first) == TokenOutlier.of(values, range(6), 1)
    assert first.merge(None) is first


def test_of_equals_the_earlier_sample_counts():
    assert TokenOutlier(2.0, 1, 5).merge(TokenOutlier(2.0, 3, 4)).sample == 4


def test_nothing_is_said_of_few_tokens_zeros_or_what_is_not_finite():
    assert TokenOutlier.of(np.ones((2, 3, 3)), range(2), 1) is None
    assert TokenOutlier.of(np.zeros((2, 3, 5)), range(2), 1) is None
    assert TokenOutlier.of(np.full((2, 3, 5), np.nan), range(2), 1) is None
    broken = np.ones((2, 3, 5))
    broken[0, 0, 0] = np.inf
    assert TokenOutlier.of(broken, range(2), 1) == TokenOutlier(1.0, 0, 1)
