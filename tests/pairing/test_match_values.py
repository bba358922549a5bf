"""Values of two models that hold the same numbers with other axes, also of more samples than the pilot run had."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.pairing.match_values import match_values

RNG = np.random.default_rng(2)


def matched(a, b, axes=(None, None)):
    return match_values("a", "b", (a, b), ("float32", "float32"), axes, replaced=True)


@pytest.mark.parametrize(
    ("pilot_a", "pilot_b", "shape_a", "shape_b"),
    [
        ((2, 5, 1, 1), (2, 5), (7, 5, 1, 1), (7, 5)),
        ((2, 5), (2, 5, 1, 1), (7, 5), (7, 5, 1, 1)),
        ((1, 5, 1, 1), (1, 5), (7, 5, 1, 1), (7, 5)),  # the pilot run had one sample
        ((3, 2, 1, 5), (3, 2, 5), (3, 7, 1, 5), (3, 7, 5)),  # samples are along axis 1, as in an LSTM
        ((2, 1, 4), (1, 2, 4), (7, 1, 4), (1, 7, 4)),
        ((), (1,), (), (1,)),
        ((2, 1, 0), (2, 0), (7, 1, 0), (7, 0)),
    ],
)
def test_sides_of_one_come_and_go(pilot_a, pilot_b, shape_a, shape_b):
    pair = matched(pilot_a, pilot_b)
    values = RNG.standard_normal(shape_a, np.float32)
    np.testing.assert_array_equal(pair.to_b(values), values.reshape(shape_b))
    np.testing.assert_array_equal(pair.to_a(values.reshape(shape_b)), values)


def test_channels_that_have_moved_are_moved_back():
    pair = matched((2, 5, 4, 4), (2, 4, 4, 5), (1, 3))
    values = RNG.standard_normal((7, 5, 4, 4), np.float32)
    last = values.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pair.to_b(values), last)
    np.testing.assert_array_equal(pair.to_a(last), values)


def test_shapes_of_other_numbers_do_not_match():
    assert matched((2, 5), (2, 6)) is None
    assert matched((2, 5, 1), (2, 6)) is None


@pytest.mark.parametrize(
    ("pilot_a", "pilot_b", "shape_a", "shape_b"),
    [
        ((20, 192), (4, 5, 192), (35, 192), (7, 5, 192)),
        ((4, 5, 192), (20, 192), (7, 5, 192), (35, 192)),
        ((4, 5, 192), (4, 5, 12, 16), (7, 5, 192), (7, 5, 12, 16)),
        ((2, 3, 4, 5), (6, 20), (8, 3, 4, 5), (24, 20)),
        ((1, 20, 6), (1, 4, 5, 2, 3), (1, 20, 6), (1, 4, 5, 2, 3)),
    ],
)
def test_axes_that_are_merged_hold_the_same_numbers(pilot_a, pilot_b, shape_a, shape_b):
    pair = matched(pilot_a, pilot_b)
    values = RNG.standard_normal(shape_a, np.float32)
    np.testing.assert_array_equal(pair.to_b(values), values.reshape(shape_b))
    np.testing.assert_array_equal(pair.to_a(values.reshape(shape_b)), values)


@pytest.mark.parametrize(("a", "b"), [((4, 6), (3, 8)), ((4, 5), (5, 2, 2, 2)), ((6, 4), (2, 12)), ((0, 3), (2, 0))])
def test_axes_that_are_cut_otherwise_are_not_compared(a, b):
    assert matched(a, b) is None
