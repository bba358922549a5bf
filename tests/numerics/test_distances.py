"""How far apart two values are, against float64 numpy on everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.numerics import blocks, distances
from onnxscope.numerics.distances import Tolerance, decibels, difference, from_sums, measure, relative_l2

finite = st.floats(-1e3, 1e3, width=32)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4), elements=finite), st.data()
)
def test_any_cut_along_any_axis_gives_the_definitions(x, data):
    y = data.draw(hnp.arrays(np.float32, x.shape, elements=finite))
    axis = data.draw(st.sampled_from([None, *range(x.ndim)]))
    batch = data.draw(st.sampled_from([place for place in range(x.ndim) if place != axis] or [None]))
    tolerance = Tolerance(0.1, 0.5)
    cut = 1 if batch is not None and x.shape[batch] > 1 else 0
    parts = [(x, y)] if not cut else list(zip(np.split(x, [1], batch), np.split(y, [1], batch), strict=True))
    found = measure(*parts[0], axis, tolerance)
    for part in parts[1:]:
        found = found + measure(*part, axis, tolerance)
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    gap, norm = np.abs(wide_y - wide_x), np.linalg.norm(wide_x)
    assert found.count == x.size
    assert found.max_abs == gap.max(initial=0)
    assert found.beyond == np.count_nonzero(gap > 0.5 + 0.1 * np.abs(wide_x))
    if norm:
        assert found.relative_l2 == pytest.approx(np.linalg.norm(gap) / norm, rel=1e-9)
    elif gap.any():
        assert found.relative_l2 is None
    other = np.linalg.norm(wide_y)
    if other and norm and 1e-3 < norm / other < 1e3:  # it comes from the three sums of squares
        cosine = (wide_x * wide_y).sum() / norm / other
        assert found.cosine == pytest.approx(cosine, abs=1e-6)


def test_channels_are_kept_apart_and_the_worst_is_named():
    x = np.ones((2, 3, 4))
    y = x.copy()
    y[:, 1] += 0.5
    found = measure(x, y, 1, None)
    assert found.squares.tolist() == [0, 2, 0]
    assert found.worst_channel == (1, pytest.approx(0.5))
    assert measure(x, x, 1, None).worst_channel is None
    assert found.sqnr_db == pytest.approx(10 * np.log10(24 / 2))


def test_what_is_not_finite_is_equal_to_itself_alone():
    x = np.array([np.nan, np.inf, -np.inf, 1.0, 2.0])
    same = measure(x, x.copy(), None, None)
    assert (same.mismatched, same.relative_l2) == (0, 0.0)
    other = measure(x, np.array([np.nan, -np.inf, 0.0, 1.0, np.nan]), None, Tolerance(0, 0))
    assert (other.mismatched, other.beyond, other.relative_l2, other.max_abs, other.cosine) == (3, 3, None, None, None)


def test_blocks_change_nothing(monkeypatch):
    x, y = np.random.default_rng(1).standard_normal((2, 5, 40))
    whole = measure(x, y, 0, None)
    monkeypatch.setattr(distances, "_BLOCK", 16)
    assert measure(x, y, 0, None).relative_l2 == pytest.approx(whole.relative_l2, rel=1e-12)


def test_sums_from_a_graph_tell_where_all_is_finite():
    sums = {key: np.array([[1.0], [4.0]], np.float32) for key in ("a", "b", "squares", "high")}
    sums |= {"low": np.array([[-3.0], [0.0]]), "shape": np.array([2, 5])}
    found = from_sums(sums, "")
    assert found.largest.tolist() == [3, 4]
    assert (found.count, found.beyond) == (10, None)
    assert from_sums(sums | {"squares": np.array([np.inf, 1])}, "") is None


def test_sizes_of_a_difference():
    assert relative_l2(9.0, 4.0) == 1.5
    assert relative_l2(0.0, 0.0) == 0.0
    assert relative_l2(1.0, 0.0) is None
    assert decibels(0.1) == pytest.approx(20)
    assert decibels(0.0) is None
    assert decibels(None) is None


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


def test_blocks_of_rows_change_no_difference(monkeypatch):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((7, 3, 3, 3), np.float32)
    y = x + (rng.random(x.shape) > 0.9)
    whole = difference(x, y)
    monkeypatch.setattr(blocks, "_ROWS", 30)
    cut = difference(x, y)
    assert (cut.text(), cut.channels, cut.count) == (whole.text(), whole.channels, whole.count)


LONG = {"int64": st.integers(-(2**63), 2**63 - 1), "uint64": st.integers(0, 2**64 - 1), "int32": st.integers(-9, 9)}


@given(st.sampled_from(list(LONG)), st.sampled_from(list(LONG)), st.booleans(), st.data())
def test_long_integers_are_subtracted_before_they_are_rounded(left, right, near, data):
    x = data.draw(hnp.arrays(left, 6, elements=LONG[left]))
    y = data.draw(hnp.arrays(right, 6, elements=LONG[right]))
    if near and left == right:
        y = x + (y % 3).astype(left)  # modulo 2**64, as numpy adds
    gaps = [abs(int(b) - int(a)) for a, b in zip(x, y, strict=True)]
    assert measure(x, y, None, None).max_abs == pytest.approx(max(gaps), rel=1e-15)
    seen = difference(x, y)
    assert seen.equal == (max(gaps) == 0)
    assert seen.count == sum(gap > 0 for gap in gaps)


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (3, 2, 2)])
def test_weights_of_long_integers_are_compared_as_they_are_stored(shape):
    x = np.full(shape, 2**62, np.int64)
    y = x.copy()
    y.reshape(-1)[-1] += 1
    assert difference(x, x.copy()).equal
    seen = difference(x, y)
    assert (seen.equal, seen.largest, seen.count) == (False, 1, 1)
