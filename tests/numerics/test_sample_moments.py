"""Observations of arrays, against float64 numpy on each sample and channel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxscope.numerics.sample_moments import observe_array, sample_steps

RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("shape", "batch", "channel"),
    [
        ((3, 5, 4, 6), 0, 1),
        ((3, 4, 6, 5), 0, 3),
        ((4, 3, 7), 1, 0),
        ((6, 5), None, 1),
        ((6,), None, None),
        ((), None, None),
        ((3, 7), 0, None),
    ],
)
def test_every_sample_and_channel_is_apart(shape, batch, channel):
    array = RNG.normal(size=shape).astype(np.float32)
    array[array < -1] = 0
    found = observe_array(array, batch, channel, samples=2)
    samples = np.moveaxis(array, batch, 0)[:2] if batch is not None else array[None]
    assert found.shape == samples.shape[1:]
    for index, sample in enumerate(samples.astype(np.float64)):
        place = None if channel is None else channel - (batch is not None and batch < channel)
        rows = [sample] if place is None else np.moveaxis(sample, place, 0)
        assert found.moments.count.shape[1] == len(rows)
        moments = found.moments
        for row, values in enumerate(rows):
            assert moments.count[index, row] == values.size
            assert moments.mean[index, row] == pytest.approx(values.mean(), rel=1e-12, abs=1e-15)
            assert moments.m2[index, row] == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-9, abs=1e-15)
            assert (moments.min[index, row], moments.max[index, row]) == (values.min(), values.max())
            np.testing.assert_array_equal(np.sort(found.values[index, row]), np.sort(values.reshape(-1)))


def test_what_is_not_finite_is_counted_apart():
    array = np.array([[[1.0, math.nan, 3.0], [math.inf, -math.inf, math.nan]]], np.float32)
    found = observe_array(array, 0, 1)
    np.testing.assert_array_equal(found.moments.count, [[2, 0]])
    np.testing.assert_array_equal(found.moments.nan, [[1, 1]])
    np.testing.assert_array_equal(found.moments.inf, [[0, 2]])
    np.testing.assert_array_equal(found.moments.min, [[1, math.inf]])
    np.testing.assert_array_equal(found.moments.mean, [[2, 0]])


@pytest.mark.parametrize(("shape", "channel"), [((0,), None), ((0, 3), 1), ((3, 0), 0), ((2, 0, 3), 1)])
def test_a_value_without_elements_has_nothing_to_count(shape, channel):
    found = observe_array(np.zeros(shape, np.float32), None, channel)
    assert found.moments.count.shape == (1, 1 if channel is None else shape[channel])
    assert not found.moments.count.any()
    assert found.values.size == 0


@pytest.mark.parametrize(
    ("shape", "channel"),
    [((1, 64, 112, 112), 1), ((1, 2048, 7, 7), 1), ((1, 3, 100_000), 1), ((1, 9000, 4), 1), ((1, 10), None)],
)
def test_steps_leave_at_most_8192_elements_or_one_a_channel(shape, channel):
    steps = sample_steps(shape, 0, channel)
    left = [-(-size // step) for size, step in zip(shape, steps, strict=True)]
    assert steps[0] == 1
    channels = 1 if channel is None else shape[channel]
    assert channel is None or steps[channel] == 1
    assert math.prod(left) <= max(8192, channels)
    if math.prod(shape) > 8192:
        assert math.prod(left) >= 2048


def test_steps_choose_places_alone():
    array = RNG.integers(-2, 3, size=(2, 3, 8, 8)).astype(np.float32)
    found = observe_array(array, 0, 1, samples=2, steps=(1, 1, 2, 4))
    examined = array[:, :, ::2, ::4].reshape(2, 3, 8)
    np.testing.assert_array_equal(found.values, examined)
    np.testing.assert_array_equal(found.moments.zeros, (examined == 0).sum(axis=2))
    assert (found.moments.examined == 8).all()
    assert found.moments.count[0, 0] == 64
