"""Statistics by their definitions, in float64 numpy on whole arrays; and arrays to try them on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def whole(values):
    """The definitions of the design, spelled out on all values of one channel at once."""
    values = np.asarray(values).astype(np.float64).reshape(-1)
    finite = values[np.isfinite(values)]
    some = finite.size > 0
    return {
        "count": values.size,
        "mean": finite.mean() if some else None,
        "std": finite.std(ddof=1) if finite.size > 1 else None,
        "min": finite.min() if some else None,
        "max": finite.max() if some else None,
        "zero_fraction": float((finite == 0).mean()) if some else None,
        "nan_count": int(np.isnan(values).sum()),
        "inf_count": int(np.isinf(values).sum()),
    }


def assert_same(found, expected, scale):
    """Extremes and counts exactly; mean and std to rounding errors of data of this scale."""
    for key in ("count", "min", "max", "zero_fraction", "nan_count", "inf_count"):
        if key in found:
            assert found[key] == expected[key], key
    for key in ("mean", "std"):
        if expected[key] is None:
            assert found[key] is None, key
        else:
            assert found[key] == pytest.approx(expected[key], rel=1e-9, abs=1e-12 * scale), key


values = st.one_of(
    st.floats(-100, 100, width=32),
    st.sampled_from([0.0, -0.0, 1e8, 1e8 + 8, -3e38, 1e-40, math.nan, math.inf, -math.inf]),
)


@st.composite
def arrays_and_axes(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    array = draw(hnp.arrays(np.float32, shape, elements=values))
    return array, draw(st.sampled_from([None, *range(len(shape))]))
