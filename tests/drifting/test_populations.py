"""Channels of two populations against numpy, and what chance alone does to random parts of one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxscope.drifting.populations import Chance, Population, compare_populations
from onnxscope.numerics.log_histogram import LogHistogram
from onnxscope.numerics.sample_moments import observe_array
from onnxscope.profiling.tap_profile import ChannelState, TapProfile

ODDS = math.log(1e6)


def tap_of(array, limits=None, name="h"):
    """The profile of (samples, channels, elements)."""
    nothing = ChannelState.empty(0)
    empty = TapProfile(name, "conv", "Conv", "post", "float32", None, 1, limits, 0, nothing, LogHistogram.empty())
    return empty.observed(observe_array(array, 0, 1, samples=len(array)), range(len(array)), 0)


def moved(first, second, limits=None):
    chance = Chance(len(first), len(second), ODDS)
    sides = [Population.of(tap_of(side, limits)) for side in (first, second)]
    return compare_populations(*sides, chance)


def test_shift_ratio_and_reach_are_those_of_numpy_in_float64():
    rng = np.random.default_rng(0)
    first = rng.normal([[1.0], [-3.0]], [[1.0], [2.0]], (4000, 2, 5)).astype(np.float32)
    second = rng.normal([[2.0], [-3.0]], [[1.0], [6.0]], (3000, 2, 5)).astype(np.float32)
    found = moved(first, second)
    for channel in (0, 1):
        x, y = (side[:, channel].astype(np.float64).reshape(-1) for side in (first, second))
        assert found.shift[channel] == pytest.approx((y.mean() - x.mean()) / x.std(ddof=1), rel=1e-6)
        assert found.ratio[channel] == pytest.approx(y.std(ddof=1) / x.std(ddof=1), rel=1e-6)
        out = max(x.min() - y.min(), y.max() - x.max(), 0) / x.std(ddof=1)
        assert found.beyond[channel] == pytest.approx(out, rel=1e-6)
    assert found.amount[0] == pytest.approx(abs(found.shift[0]))
    assert found.amount[1] == pytest.approx(math.log(found.ratio[1]))


def test_samples_whose_elements_are_all_alike_show_no_drift_by_chance():
    """The worst case: as many draws as samples, however many elements; heavy tails, rare events, and constants too."""
    rng = np.random.default_rng(1)
    draws = {
        "normal": rng.normal(size=2000),
        "heavy": rng.standard_t(1.2, 2000),
        "rare": (rng.random(2000) < 0.01) * 5.0,
        "two": rng.integers(0, 2, 2000) * 1.0,
        "constant": np.full(2000, 0.1),
    }
    whole = np.stack(list(draws.values()), axis=1)[:, :, None].repeat(30, axis=2).astype(np.float32)
    for _ in range(20):
        order = rng.permutation(2000)
        cut = int(rng.integers(20, 1980))
        assert not moved(whole[order[:cut]], whole[order[cut:]]).amount.any()


def test_a_small_set_may_hold_a_rare_event_by_chance():
    """One sample in a hundred and one, which is far off: it is the whole small set once in a hundred times."""
    first, second = np.zeros((100, 1, 4), np.float32), np.ones((1, 1, 4), np.float32)
    first[1::2] = 1e-3
    assert moved(first, second).amount[0] == 0
    rng = np.random.default_rng(6)
    whole = np.where(rng.random((4000, 1, 1)) < 0.003, 100.0, rng.normal(size=(4000, 1, 1))).astype(np.float32)
    for _ in range(50):
        order = rng.permutation(4000)
        assert not moved(whole[order[:3900]], whole[order[3900:]]).amount.any()
        assert not moved(whole[order[:100]], whole[order[100:]]).amount.any()


def test_bernstein_s_bound_is_that_of_the_formula():
    chance = Chance(math.inf, 500, ODDS)
    assert chance.bound(np.array([2.0]), np.array([8.0]))[0] == pytest.approx(
        8 * ODDS / 1500 + math.sqrt((8 * ODDS / 1500) ** 2 + 2 * 4 * ODDS / 500)
    )
    assert Chance(400, 400, ODDS).largest == pytest.approx(math.sqrt(2 * ODDS / 200))


def test_a_channel_dies_where_it_is_no_chance_that_nothing_is_active():
    alive = np.zeros((100, 3, 4), np.float32)
    alive[::2, 0], alive[:5, 1], alive[:, 2] = 1.0, 1.0, 1.0
    found = moved(alive, np.zeros((100, 3, 4), np.float32))
    assert found.dead.tolist() == [True, False, True]
    assert found.amount[[0, 2]].tolist() == [math.inf, math.inf]
    assert not moved(np.zeros((100, 3, 4), np.float32), np.zeros((100, 3, 4), np.float32)).amount.any()
    assert not moved(np.zeros((100, 3, 4), np.float32), alive).dead.any()


def test_a_channel_saturates_at_a_limit_of_its_activation_function():
    rng = np.random.default_rng(2)
    first = rng.uniform(0.2, 0.8, (200, 2, 3)).astype(np.float32)
    second = first.copy()
    second[:, 1] = 0.999
    found = moved(first, second, (0.0, 1.0))
    assert found.saturated.tolist() == [False, True]
    assert found.amount.tolist() == [0.0, math.inf]
    low = first.copy()
    low[:, 0] = 0.001
    assert moved(first, low, (0.0, 1.0)).saturated.tolist() == [True, False]
    assert moved(first, low, (0.0, 6.0)).saturated.tolist() == [False, False]  # zeros are what ReLU6 is for


def test_what_becomes_constant_or_stops_being_so_is_infinitely_far():
    rng = np.random.default_rng(3)
    first = rng.uniform(0, 1, (300, 1, 4)).astype(np.float32)
    still = np.full((300, 1, 4), -2.0, np.float32)
    assert moved(first, still).amount[0] == math.inf
    back = moved(still, first)
    assert (back.amount[0], back.shift[0], back.ratio[0]) == (math.inf, math.inf, math.inf)
    assert moved(still, still).amount[0] == 0


def test_rounding_of_a_constant_is_no_spread():
    rng = np.random.default_rng(4)
    first = (1 + rng.uniform(0, 1e-7, (500, 1, 4))).astype(np.float32)
    second = (1 + rng.uniform(0, 3e-7, (500, 1, 4))).astype(np.float32)
    assert moved(first, second).amount[0] == 0


def test_few_samples_decide_nothing():
    assert not Chance(8, 8, ODDS).decides
    assert Chance(20, 20, ODDS).decides
    assert Chance(math.inf, 1, ODDS).decides
    far = moved(np.zeros((8, 1, 4), np.float32), np.ones((8, 1, 4), np.float32))
    assert far.amount[0] == 0


def test_what_is_known_exactly_has_no_noise_of_its_own():
    rng = np.random.default_rng(5)
    values = rng.normal(3, 2, (1000, 1, 1)).astype(np.float32)
    known = Population.known(np.array([3.0]), np.array([4.0]))
    chance = Chance(math.inf, 1000, ODDS)
    assert compare_populations(known, Population.of(tap_of(values)), chance).amount[0] == 0
    shifted = compare_populations(known, Population.of(tap_of(values + 1)), chance)
    assert shifted.amount[0] == pytest.approx((float(values.mean()) + 1 - 3) / 2, rel=1e-5)
    assert shifted.shift_noise[0] < 1.3 * math.sqrt(2 * ODDS / 1000)
    assert math.isnan(shifted.beyond[0])


def test_numbers_at_the_edge_of_float64_give_no_warning():
    """A profile may say anything; warnings are errors in the tests."""
    huge = np.array([[[1e308, -1e308]], [[1e308, 1e308]]])
    plain = np.zeros((2, 1, 2))
    for first, second in ((huge, plain), (plain, huge), (huge, huge)):
        moved(first, second)
        moved(first, second, (0.0, 0.0))
