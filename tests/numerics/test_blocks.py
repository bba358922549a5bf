"""Blocks of arrays: every element once, none too large."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxscope.errors import InputError
from onnxscope.numerics import blocks
from onnxscope.numerics.blocks import checked_array, row_blocks, spans, widened


@pytest.mark.parametrize("shape", [(3, 100_000), (1, 5, 70_000), (200_000,), (70, 30, 9, 9), (1, 1), (0, 4), ()])
def test_spans_visit_every_element_once(shape):
    visits = np.zeros(shape, np.int64)
    for span in spans(shape):
        assert 0 < len(span) <= 16
        for index in span:
            assert 0 < math.prod(part.stop - part.start for part in index) <= 1 << 16
            visits[index] += 1
    assert (visits == 1).all()


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)), st.integers(1, 9))
def test_rows_come_in_order_in_blocks_that_are_small(array, largest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ROWS", largest)
        pieces = list(row_blocks(array, array + 1))
    rows = array.reshape(len(array) if array.ndim else 1, -1) if array.size else array.reshape(0, 1)
    joined = [np.concatenate([piece[side] for piece in pieces]) if rows.size else rows for side in (1, 2)]
    for found, expected in zip(joined, (rows, rows + 1), strict=True):
        np.testing.assert_array_equal(found, expected)
    for start, left, _ in pieces:
        assert len(left) == 1 or left.size <= largest
        np.testing.assert_array_equal(left, rows[start : start + len(left)] if rows.size else left)


def test_widening_is_exact():
    for dtype in ("bool", "int8", "uint16", "float16"):
        assert widened(np.ones(1, dtype)).dtype == np.float32
    for dtype in ("int32", "uint32", "int64", "float64"):
        assert widened(np.ones(1, dtype)).dtype == np.float64


def test_what_is_no_number_is_refused():
    with pytest.raises(InputError, match=r"^no statistics for elements of type complex64: an array of shape \(2,\)$"):
        checked_array(np.zeros(2, np.complex64), None)
    with pytest.raises(InputError, match=r"^no axis -3 for channels: an array of shape \(2, 3\)$"):
        checked_array(np.zeros((2, 3)), -3)
    assert checked_array(np.zeros((2, 3)), -1)[1] == 1
    assert checked_array(np.zeros(()), None)[0].shape == (1,)
