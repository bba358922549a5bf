"""Accumulators, against numpy in float64 on the whole array."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import arrays_and_axes, assert_same, whole

from onnxscope.errors import InputError
from onnxscope.numerics.moments import Accumulator

STATE = ("finite", "mean", "m2", "min", "max", "zeros", "nan", "inf")


@given(st.data(), arrays_and_axes())
@settings(max_examples=200, deadline=None)
def test_any_split_in_any_order_agrees_with_the_whole(data, drawn):
    array, axis = drawn
    cut_axis = data.draw(st.sampled_from([i for i in range(array.ndim) if i != axis] or [None]))
    if cut_axis is None:
        pieces = [array]
    else:
        cuts = sorted(data.draw(st.lists(st.integers(0, array.shape[cut_axis]), max_size=3)))
        pieces = data.draw(st.permutations(np.split(array, cuts, cut_axis)))
    channels = 1 if axis is None else array.shape[axis]
    updated = Accumulator(channels)
    merged = Accumulator(channels)
    for piece in pieces:
        updated.update(piece, axis)
        part = Accumulator(channels)
        part.update(piece, axis)
        merged = part.merge(merged)
    scale = np.abs(array[np.isfinite(array)]).max(initial=0)
    for accumulator in (updated, merged):
        assert_same(accumulator.overall.to_dict(), whole(array), float(scale))
        for channel in range(channels):
            expected = whole(array if axis is None else np.take(array, channel, axis))
            found = {key: row[channel] for key, row in accumulator.channels.to_dict().items()}
            assert_same(found, expected, float(scale))


def test_merging_leaves_both_sides_alone_and_shares_nothing():
    left, right, empty = Accumulator(2), Accumulator(2), Accumulator(2)
    left.update(np.arange(6.0).reshape(2, 3), 0)
    right.update(np.array([[7.0, math.nan], [0.0, math.inf]]), 0)
    before = {key: (getattr(left, key).copy(), getattr(right, key).copy()) for key in STATE}
    merged = left.merge(right)
    merged.update(np.ones((2, 5)), 0)
    for key, (old_left, old_right) in before.items():
        np.testing.assert_array_equal(getattr(left, key), old_left)
        np.testing.assert_array_equal(getattr(right, key), old_right)
    for same in (left.merge(empty), empty.merge(left)):
        for key in STATE:
            np.testing.assert_array_equal(getattr(same, key), getattr(left, key))


def test_faults_are_named():
    with pytest.raises(InputError, match=r"^no statistics for elements of type complex64: an array of shape \(2,\)$"):
        Accumulator().update(np.zeros(2, np.complex64))
    with pytest.raises(InputError, match=r"^no axis 2 for channels: an array of shape \(2, 3\)$"):
        Accumulator(3).update(np.zeros((2, 3)), 2)
    with pytest.raises(InputError, match=r"^3 channels instead of 2: an array of shape \(2, 3\)$"):
        Accumulator(2).update(np.zeros((2, 3)), 1)
    with pytest.raises(InputError, match=r"^3 channels instead of 2: an accumulator to merge$"):
        Accumulator(2).merge(Accumulator(3))
