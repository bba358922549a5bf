"""Arrays that are nearly the same, and others."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.numerics.sketches import are_near, sketch

RNG = np.random.default_rng(29)
SHAPES = [(64, 48), (8, 3, 5, 5), (300,), (1, 1000)]


def rounded(values, bits):
    scale = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return np.round(values / scale) * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_leaves_an_array_near_and_nothing_else_does(shape):
    values = RNG.standard_normal(shape).astype(np.float32)
    for same in (values, values.astype(np.float16), rounded(values, 8), rounded(values, 6)):
        assert are_near(sketch(values), sketch(same))
    for other in (RNG.standard_normal(shape), values[::-1] if shape[0] > 1 else -values, values * 2, -values):
        assert not are_near(sketch(values), sketch(other))


def test_the_distance_is_that_of_the_arrays():
    values = RNG.standard_normal((500, 400))
    changed = values + 0.1 * RNG.standard_normal((500, 400))
    a, b = sketch(values), sketch(changed)
    distance = np.linalg.norm(a[:-1] - b[:-1]) / np.sqrt(8)
    assert 0.3 < distance / np.linalg.norm(values - changed) < 3
    np.testing.assert_allclose(a[-1], np.linalg.norm(values), rtol=1e-12)


@pytest.mark.parametrize("values", [np.float32(3), np.zeros((3, 4)), np.empty((0, 4)), np.array([[1, np.nan]])])
def test_what_has_no_numbers_to_compare_has_no_sketch(values):
    assert sketch(np.asarray(values)) is None
