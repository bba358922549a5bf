"""Hashes: equal for equal numbers, and different as soon as one differs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.numerics import blocks
from onnxscope.numerics.hashes import mix_bits, row_hashes

finite = st.floats(-1e3, 1e3, width=32)


def test_bits_are_mixed_as_by_splitmix64():
    # The first outputs of the generator with the seed 0, as its authors publish them.
    states = (np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert mix_bits(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(hnp.arrays(np.float32, (4, 6), elements=finite), st.randoms())
def test_hashes_see_which_numbers_there_are_but_not_their_order(x, random):
    order = list(range(6))
    random.shuffle(order)
    np.testing.assert_array_equal(row_hashes(x), row_hashes(x[:, order]))
    y = x.copy()
    y[1, 2] += 1
    assert (row_hashes(x) != row_hashes(y)).tolist() == [False, True, False, False]


def test_blocks_zeros_and_empty_arrays(monkeypatch):
    x = np.random.default_rng(6).standard_normal((7, 3, 3, 3), np.float32)
    whole = row_hashes(x)
    monkeypatch.setattr(blocks, "_ROWS", 30)
    np.testing.assert_array_equal(row_hashes(x), whole)
    np.testing.assert_array_equal(row_hashes(np.array([[-0.0]])), row_hashes(np.array([[0.0]])))
    assert row_hashes(np.zeros((0, 3))).shape == (0,)
    assert row_hashes(x.reshape(-1)).shape == (1,)
