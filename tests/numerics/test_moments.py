"""Moments, against numpy in float64 on the whole array."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import arrays_and_axes, assert_same, whole

from onnxscope.errors import InputError
from onnxscope.numerics.moments import Moments

STATE = ("count", "mean", "m2", "min", "max", "zeros", "nan", "inf", "examined")


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
    updated = Moments.empty(channels)
    merged = Moments.empty(channels)
    for piece in pieces:
        updated.update(piece, axis)
        part = Moments.empty(channels)
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
    left, right, empty = Moments.empty(2), Moments.empty(2), Moments.empty(2)
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


numbers = st.one_of(
    st.floats(-100, 100, width=32),
    st.sampled_from([0.0, -0.0, 0.1, 1e8, 1e8 + 8, 1e20, math.nan, math.inf, -math.inf]),
)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)), elements=numbers),
    st.permutations(range(5)),
)
@settings(max_examples=200, deadline=None)
def test_samples_combined_merged_and_taken_together_agree(array, order):
    samples, channels, _ = array.shape
    apart = Moments.empty(samples * channels)
    apart.update(array.reshape(samples * channels, -1) if array.size else np.zeros((samples * channels, 0)), 0)
    apart = apart.reshaped(samples, channels)
    merged = Moments.empty(channels)
    for sample in order:
        if sample < samples:
            row = Moments(**{name: getattr(apart, name)[sample] for name in STATE})
            merged = merged.merge(row)
    combined = apart.combined()
    scale = float(np.abs(array[np.isfinite(array)]).max(initial=0))
    for moments in (combined, merged):
        assert all(getattr(moments, name).shape == (channels,) for name in STATE)
        for channel in range(channels):
            found = {key: row[channel] for key, row in moments.channels.to_dict().items()}
            assert_same(found, whole(array[:, channel]), scale)
        assert_same(moments.overall.to_dict(), whole(array), scale)
    if channels:
        assert_same(combined.reshaped(channels, 1).combined().overall.to_dict(), whole(array), scale)
    for name in ("count", "nan", "inf", "examined", "zeros", "min", "max"):
        np.testing.assert_array_equal(getattr(combined, name), getattr(merged, name), name)


def test_noise_on_a_large_offset_keeps_its_spread():
    noise = np.random.default_rng(4).normal(size=(60, 3, 50))
    apart = Moments.empty(180)
    apart.update((1e8 + noise).reshape(180, 50), 0)
    combined = apart.reshaped(60, 3).combined()
    assert combined.channels.std == pytest.approx(noise.std(axis=(0, 2), ddof=1), rel=1e-6)


def test_a_constant_has_exactly_no_spread():
    apart = Moments.empty(21)
    apart.update(np.full((21, 5), 0.1), 0)
    combined = apart.reshaped(7, 3).combined()
    assert combined.channels.mean == (0.1,) * 3
    assert combined.channels.std == (0.0,) * 3


def test_an_empty_side_leaves_what_has_overflowed():
    large = Moments.empty(1)
    large.update(np.array([1.5e308, 1.5e308, 0.0]))
    for same in (large.merge(Moments.empty(1)), Moments.empty(1).merge(large)):
        for name in STATE:
            np.testing.assert_array_equal(getattr(same, name), getattr(large, name), name)
    assert (large.mean[0], large.overall.mean) == (math.inf, None)


def test_zeros_are_a_share_of_what_was_examined():
    moments = Moments.empty(2)
    moments.update(np.array([[0.0, 1, 2, 3], [0, 0, 0, 0]]), 0)
    thinned = replace(moments, examined=np.array([2, 0]), zeros=np.array([1, 0]))
    assert thinned.channels.zero_fraction == (0.5, None)
    assert thinned.overall.zero_fraction == 0.5
    assert moments.overall.zero_fraction == 5 / 8


def test_faults_are_named():
    with pytest.raises(InputError, match=r"^no statistics for elements of type complex64: an array of shape \(2,\)$"):
        Moments.empty(1).update(np.zeros(2, np.complex64))
    with pytest.raises(InputError, match=r"^no axis 2 for channels: an array of shape \(2, 3\)$"):
        Moments.empty(3).update(np.zeros((2, 3)), 2)
    with pytest.raises(InputError, match=r"^3 channels instead of 2: an array of shape \(2, 3\)$"):
        Moments.empty(2).update(np.zeros((2, 3)), 1)
    with pytest.raises(InputError, match=r"^3 channels instead of 2: an accumulator to merge$"):
        Moments.empty(2).merge(Moments.empty(3))
