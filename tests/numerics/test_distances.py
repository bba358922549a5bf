"""How far apart two values are, against float64 numpy on everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.numerics import distances
from onnxscope.numerics.distances import Tolerance, from_sums, measure

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
