"""Profiles of taps: any split, in any order, against float64 numpy on the raw values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.errors import MergeError
from onnxscope.numerics.log_histogram import RELATIVE_ERROR, LogHistogram
from onnxscope.numerics.sample_moments import observe_array
from onnxscope.profiling.tap_profile import QUANTILES, ChannelState, TapProfile

RNG = np.random.default_rng(2)


def unseen(name="h", channel_axis=1):
    nothing = ChannelState.empty(0)
    return TapProfile(
        name, "conv", "Conv", "post", "float32", None, channel_axis, None, 0, nothing, LogHistogram.empty()
    )


def profile_of(array, first=0, channel_axis=1):
    """The profile of (samples, channels, elements), all of them one run."""
    if not len(array):
        return unseen()
    observation = observe_array(array, 0, channel_axis, samples=len(array))
    return unseen(channel_axis=channel_axis).observed(observation, range(first, first + len(array)), 0)


def assert_profile(tap, array):
    """Against the definitions, spelled out on all values of each channel at once."""
    wide = array.astype(np.float64)
    rows = [("all", tap.overall.to_dict(), wide)]
    channels = tap.channels.to_dict()
    for channel in range(array.shape[1]):
        rows.append((channel, {key: values[channel] for key, values in channels.items()}, wide[:, channel]))
    for channel, found, values in rows:
        values = values.reshape(-1)
        finite = values[np.isfinite(values)]
        expected = {"min": finite.min(initial=math.inf), "max": finite.max(initial=-math.inf)}
        for key, extreme in expected.items():
            assert found[key] == (extreme if finite.size else None), (channel, key)
        scale = np.abs(finite).max(initial=0)
        if finite.size:
            assert found["mean"] == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12 * scale)
            assert found["zero_fraction"] == pytest.approx((finite == 0).mean())
        if finite.size > 1:
            assert found["std"] == pytest.approx(finite.std(ddof=1), rel=1e-5, abs=1e-12 * scale)
        if "count" in found:
            assert found["count"] == values.size
            assert found["nan_count"] == np.isnan(values).sum()
            assert found["inf_count"] == np.isinf(values).sum()
    finite = np.sort(wide[np.isfinite(wide)])
    for share in QUANTILES:
        found = tap.quantiles[str(share)]
        if finite.size:
            expected = finite[max(math.ceil(share * finite.size), 1) - 1]
            assert found == pytest.approx(expected, rel=RELATIVE_ERROR, abs=2.0**-126)
            assert finite[0] <= found <= finite[-1]
        else:
            assert found is None


values = st.one_of(
    st.floats(-100, 100, width=32),
    st.sampled_from([0.0, -0.0, 1e8, 1e8 + 8, -3e38, 1e-40, math.nan, math.inf, -math.inf]),
)
arrays = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)), elements=values)


@given(arrays, st.data())
@settings(max_examples=300, deadline=None)
def test_any_split_in_any_order_agrees_with_the_whole(array, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(array)), max_size=4)))  # empty shards among them
    starts = [0, *cuts]
    pieces = list(zip(starts, np.split(array, cuts), strict=True))
    merged = unseen()
    for start, piece in data.draw(st.permutations(pieces)):
        merged = profile_of(piece, start).merge(merged)
    assert_profile(merged, array)
    assert merged.samples == len(array)
    whole = profile_of(array)
    for name in ("count", "min", "max", "nan", "inf", "examined", "zeros"):
        np.testing.assert_array_equal(getattr(merged.state.moments, name), getattr(whole.state.moments, name), name)
    for name in ("min_sample", "max_sample", "nonfinite_sample", "fingerprint"):
        np.testing.assert_array_equal(getattr(merged.state, name), getattr(whole.state, name), name)


@given(arrays, st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_merging_is_associative(array, first, second):
    first, second = sorted((min(first, len(array)), min(second, len(array))))
    a, b, c = (
        profile_of(array[start:stop], start) for start, stop in ((0, first), (first, second), (second, len(array)))
    )
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    scale = float(np.abs(array[np.isfinite(array)], dtype=np.float64).max(initial=1))
    np.testing.assert_allclose(left.state.moments.mean, right.state.moments.mean, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(left.state.moments.m2, right.state.moments.m2, rtol=1e-6, atol=1e-9 * scale * scale)
    np.testing.assert_array_equal(left.histogram.counts, right.histogram.counts)


def test_noise_on_a_large_offset_keeps_its_spread():
    noise = RNG.normal(size=(60, 3, 50))
    array = 1e8 + noise
    merged = unseen()
    for start in range(0, 60, 7):
        merged = merged.merge(profile_of(array[start : start + 7], start))
    assert merged.overall.std == pytest.approx(noise.std(ddof=1), rel=1e-6)


def test_a_constant_has_exactly_no_spread():
    array = np.full((5, 2, 3), 0.1, np.float32)
    merged = profile_of(array[:2]).merge(profile_of(array[2:], 2))
    assert merged.channels.mean == (float(np.float32(0.1)),) * 2
    assert merged.channels.std == (0.0, 0.0)


def test_samples_that_hold_the_extremes_are_the_earliest():
    array = np.zeros((4, 2, 3), np.float32)
    array[1, 0, 2] = array[3, 0, 0] = 5
    array[2, 0, 1] = -7
    array[1, 1, 0], array[3, 1, 0] = math.inf, math.nan
    merged = profile_of(array[2:], 12).merge(profile_of(array[:2], 10))
    assert merged.state.max_sample.tolist() == [11, 10]
    assert merged.state.min_sample.tolist() == [12, 10]
    assert merged.state.nonfinite_sample.tolist() == [-1, 11]


def test_an_empty_side_changes_no_bit():
    some = profile_of(RNG.normal(size=(3, 2, 4)).astype(np.float32))
    assert some.merge(unseen()) is some
    assert unseen().merge(some) is some


def test_fingerprints_tell_channels_apart():
    array = RNG.normal(size=(6, 4, 9)).astype(np.float32)
    array[:, 2] = array[:, 0]
    array[:, 3] = array[::-1, 0]
    prints = profile_of(array).state.fingerprint.tolist()
    assert prints[2] == prints[0]
    assert len(set(prints)) == 3


def test_a_varying_number_of_channels_becomes_one():
    few, many = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 5, 4))
    for merged in (
        profile_of(few).merge(profile_of(many, 2)),
        profile_of(many, 2).merge(profile_of(few)),
        profile_of(few).merge(profile_of(many, 2)).merge(profile_of(few, 4)),
    ):
        assert merged.channel_axis is None
        assert merged.shape == (None, None, 4)
        assert merged.channels is None
    both = np.concatenate((few.reshape(-1), many.reshape(-1)))
    merged = profile_of(few).merge(profile_of(many, 2))
    assert merged.overall.mean == pytest.approx(both.mean())
    assert merged.overall.std == pytest.approx(both.std(ddof=1))
    assert merged.overall.count == both.size
    assert merged.state.max_sample.tolist() == [
        int(np.argmax([few[0].max(), few[1].max(), many[0].max(), many[1].max()]))
    ]


def test_a_varying_rank_leaves_no_shape():
    merged = profile_of(np.zeros((1, 2, 3))).merge(profile_of(np.zeros((1, 2, 3, 4)), 1))
    assert merged.shape is None


def test_sampled_elements_are_said():
    array = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    tap = unseen().observed(observe_array(array, 0, 1, samples=2, steps=(1, 1, 2, 2)), [0, 1], 0)
    assert tap.sampled == 0.25
    assert profile_of(array.reshape(2, 3, 64)).sampled is None


def test_dead_channels():
    array = np.zeros((3, 3, 2), np.float32)
    array[:, 1] = 1
    array[0, 2] = math.nan
    assert profile_of(array).dead_channels == (0,)


def test_different_taps_do_not_merge():
    with pytest.raises(MergeError, match=r"^cannot merge name 'h' with 'other': tap h$"):
        unseen().merge(unseen(name="other"))


def test_a_profile_shows_as_a_table():
    shown = repr(profile_of(np.array([[[1.0, 2.0], [3.0, 4.0]]], np.float32)))
    lines = shown.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["layer", "operator"]
    assert "array(" not in shown
    assert "2.5" in lines[2]
