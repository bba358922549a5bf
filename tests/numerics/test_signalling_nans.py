"""A signalling NaN, which one bit makes of an infinity, is a NaN like others: numpy warns of it where it is widened."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.numerics.blocks import row_blocks, widened
from onnxscope.numerics.distances import difference
from onnxscope.numerics.hashes import content_hash
from onnxscope.numerics.moments import Moments


def signalling(dtype):
    values = np.linspace(-1, 1, 8).astype(dtype)
    values.view({2: np.uint16, 4: np.uint32}[values.dtype.itemsize])[3] = {2: 0x7C01, 4: 0x7F800001}[
        values.dtype.itemsize
    ]
    return values


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_it_is_counted_and_told_from_numbers(dtype):
    values = signalling(dtype)
    assert np.isnan(widened(values)).sum() == 1
    assert [np.isnan(left).sum() for _, left, _ in row_blocks(values, values)] == [1]
    moments = Moments.empty(1)
    moments.update(values)
    assert moments.overall.nan_count == 1
    assert moments.overall.max == 1
    clean = np.linspace(-1, 1, 8).astype(dtype)
    assert content_hash(values) != content_hash(clean)
    assert difference(values, values).equal
    assert not difference(values, clean).equal
