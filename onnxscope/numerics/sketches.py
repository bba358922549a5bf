"""A few numbers that say whether two large arrays are nearly the same: `sketch`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.blocks import row_blocks

__all__ = ["are_near", "sketch"]

_PROJECTIONS = 8
_NEAR = 0.15  # of the norm: rounding to a few bits is within it, and of two arrays of random numbers 1 in 10 million


def sketch(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return projections of an array and its norm, None where that is 0 or not finite.

    Each projection adds the numbers up with random signs, one of each row times one of each place in it.

    Args:
        values: With axis 0 for rows. Not kept.

    References:
        Achlioptas, "Database-friendly random projections", 2003: signs serve as well as normal numbers.
    """
    if values.ndim == 0 or not values.size:
        return None
    rng = np.random.default_rng(2003)
    columns = rng.choice([-1.0, 1.0], (values.size // len(values), _PROJECTIONS))
    rows = rng.choice([-1.0, 1.0], (len(values), _PROJECTIONS))
    sums, squares = np.zeros(_PROJECTIONS), 0.0
    with np.errstate(all="ignore"):
        for start, block, _ in row_blocks(values, values):
            sums += ((block @ columns) * rows[start : start + len(block)]).sum(axis=0)
            squares += float(np.square(block).sum())
    return np.append(sums, squares**0.5) if 0 < squares < np.inf else None


def are_near(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two sketches are of arrays that are the same but for rounding."""
    distance = float(np.linalg.norm(a[:-1] - b[:-1])) / _PROJECTIONS**0.5
    return distance < _NEAR * max(float(a[-1]), float(b[-1])) and abs(float(a[-1] - b[-1])) < _NEAR * float(a[-1])
