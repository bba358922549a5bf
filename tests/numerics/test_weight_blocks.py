"""Weights number by number, against numpy on the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.numerics import weight_blocks
from onnxscope.numerics.weight_blocks import (
    describe_permutation,
    difference,
    flattened_otherwise,
    row_hashes,
    same_numbers,
)

finite = st.floats(-1e3, 1e3, width=32)
RNG = np.random.default_rng(6)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=finite), st.data())
def test_a_difference_is_what_numpy_finds(x, data):
    y = data.draw(hnp.arrays(np.float32, x.shape, elements=finite))
    found = difference(x, y)
    gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
    assert found.equal == (not gap.any())
    assert found.count == np.count_nonzero(gap)
    if gap.any():
        rows = gap.reshape(len(x), -1)
        assert found.largest == gap.max()
        assert found.channels == tuple(np.flatnonzero(rows.any(axis=1)))
        norm = np.linalg.norm(x.astype(np.float64))
        assert found.relative == (pytest.approx(np.linalg.norm(gap) / norm) if norm else None)


def test_blocks_change_nothing(monkeypatch):
    x = RNG.standard_normal((7, 3, 3, 3), np.float32)
    y = x + (RNG.random(x.shape) > 0.9)
    whole, hashes = difference(x, y), row_hashes(x)
    monkeypatch.setattr(weight_blocks, "_BLOCK", 30)
    cut = difference(x, y)
    assert (cut.text(), cut.channels, cut.count) == (whole.text(), whole.channels, whole.count)
    np.testing.assert_array_equal(row_hashes(x), hashes)


def test_numbers_that_are_not_finite_are_equal_to_themselves_alone():
    x = np.array([np.nan, np.inf, 1.0], np.float32)
    assert difference(x, x.copy()).equal
    found = difference(x, np.array([0.0, np.inf, 1.0], np.float32))
    assert (found.equal, found.count, found.largest, found.relative) == (False, 1, None, None)
    assert found.text() == "numbers that are not finite, 1 of 3 numbers, in channel 0"


def test_a_tolerance_is_relative_to_the_number_or_its_row():
    x = np.array([[1.0, 0.001], [1.0, 1.0]])
    assert difference(x, x * (1 + 1e-6), tolerance=1e-5).equal
    assert difference(x, x + np.array([[0, 9e-7], [0, 0]]), tolerance=1e-5).equal
    assert difference(x, x + np.array([[0, 2e-6], [0, 0]]), tolerance=1e-5).channels == (0,)
    assert difference(x, x * [[2.0], [3.0]], np.array([2.0, 3.0])).equal


@given(hnp.arrays(np.float32, (4, 6), elements=finite), st.randoms())
def test_hashes_see_which_numbers_there_are_but_not_their_order(x, random):
    order = list(range(6))
    random.shuffle(order)
    np.testing.assert_array_equal(row_hashes(x), row_hashes(x[:, order]))
    assert same_numbers(x, np.ascontiguousarray(x.T))
    y = x.copy()
    y[1, 2] += 1
    assert (row_hashes(x) != row_hashes(y)).tolist() == [False, True, False, False]


def test_permutations_are_named():
    x = RNG.standard_normal((5, 4, 3, 3))
    moved = x[[1, 0, 2, 3, 4]]
    assert describe_permutation(x, moved) == "2 output channels have changed places: 0, 1"
    assert describe_permutation(x, x.swapaxes(2, 3)) == "the kernels are transposed: height and width are exchanged"
    assert describe_permutation(x, x[..., ::-1, ::-1]) == "the kernels are turned by 180 degrees"
    assert describe_permutation(x, x[:, ::-1]) == "the same numbers in every channel, in another order"
    square = RNG.standard_normal((4, 4))
    assert describe_permutation(square, square.T) == "the matrix is transposed"
    shuffled = RNG.permutation(square.reshape(-1)).reshape(4, 4)
    assert describe_permutation(square, shuffled) == "the same numbers in another order"
    assert describe_permutation(square, square + 1) is None


def test_the_order_behind_a_flatten():
    x = RNG.standard_normal((3, 8))
    other = x.reshape(3, 2, 4).swapaxes(1, 2).reshape(3, 8)
    assert flattened_otherwise(x, other, 2)
    assert flattened_otherwise(other, x, 2)
    assert not flattened_otherwise(x, x[:, ::-1], 2)
    assert not flattened_otherwise(x, other, 8)
