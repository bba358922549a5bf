"""Orders of a weight's numbers, made on purpose."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.numerics.permutations import describe_permutation, flattened_otherwise, same_numbers

RNG = np.random.default_rng(6)


@given(hnp.arrays(np.float32, (4, 6), elements=st.floats(-1e3, 1e3, width=32)))
def test_the_order_of_numbers_does_not_matter(x):
    assert same_numbers(x, np.ascontiguousarray(x.T))
    assert not same_numbers(x, x + 1)


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
