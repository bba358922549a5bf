"""describe_codes(): against numpy's own counts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnxscope.numerics.quantization import describe_codes

RNG = np.random.default_rng(2)


def told(codes, bits, scale=0.5, zero_point=None, *, axis=0, block=0, levels=""):
    scales = np.asarray(scale, np.float32)
    return describe_codes(codes, bits, scales, zero_point, axis=axis, block=block, levels=levels)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint4", "int2", "uint2"])
def test_codes_at_the_ends_and_codes_without_a_number_are_counted(kind):
    bits = int(kind.strip("uint"))
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    integers = RNG.integers(low, high + 1, (5, 7))
    integers[0, :2] = low, high
    found = told(integers.astype(np.dtype(getattr(ml_dtypes, kind, None) or kind)), bits)
    assert found.bits == bits
    assert found.unused_codes == 2**bits - len(np.unique(integers))
    np.testing.assert_allclose(found.saturated_fraction, np.isin(integers, (low, high)).mean())


def test_the_lowest_code_counts_as_an_end_only_where_it_is_used():
    codes = np.array([-127, 127, -127, 0, 1, 2], np.int8)
    assert told(codes, 8).saturated_fraction == 3 / 6
    assert told(np.append(codes, np.int8(-128)), 8).saturated_fraction == 2 / 7
    assert told(codes, 8, zero_point=np.array(5, np.int8)).saturated_fraction == 1 / 6


@pytest.mark.parametrize(
    ("kind", "zero_point", "scheme"),
    [
        ("int8", None, "symmetric"),
        ("int8", [0, 0], "symmetric"),
        ("int8", [0, 3], "asymmetric"),
        ("uint8", None, "asymmetric"),
        ("uint8", [128, 128], "symmetric"),
        ("uint8", [128, 127], "asymmetric"),
        ("int32", None, "symmetric"),
    ],
)
def test_a_scheme_is_symmetric_where_zero_is_in_the_middle(kind, zero_point, scheme):
    codes = np.array([[1, 2], [3, 4]], kind)
    zeros = None if zero_point is None else np.array(zero_point, kind)
    found = told(codes, 8 * codes.itemsize, [0.5, 0.25], zeros)
    assert found.scheme == scheme
    assert (found.granularity, found.axis, found.scale_min, found.scale_max) == ("channel", 0, 0.25, 0.5)
    assert (found.zero_point_min, found.zero_point_max) == (min(zero_point or [0]), max(zero_point or [0]))


def test_blocks_are_told_with_their_size():
    found = told(np.zeros((4, 64), np.uint8), 4, np.ones((4, 2)), np.full((4, 2), 8, np.uint8), axis=1, block=32)
    assert (found.granularity, found.axis, found.block_size, found.scheme) == ("block", 1, 32, "symmetric")
    assert found.text == "4 bits, symmetric, per block of 32"


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_the_ends_of_floating_point_codes_are_the_largest_finite_numbers(kind):
    dtype = np.dtype(getattr(ml_dtypes, kind))
    largest = float(ml_dtypes.finfo(dtype).max)
    values = np.array([largest, -largest, 1.0, 0.5, 0.5]).astype(dtype)
    found = told(values, 8)
    assert (found.scheme, found.saturated_fraction, found.unused_codes) == ("symmetric", 2 / 5, 256 - 4)


def test_levels_of_a_table_have_their_ends_there():
    found = told(np.array([0, 15, 7, 7], np.uint8), 4, levels="nf4")  # -1, 1, 0, 0
    assert (found.saturated_fraction, found.unused_codes, found.scheme) == (0.5, 13, "symmetric")


def test_wide_codes_are_not_counted_one_by_one():
    found = told(np.array([2**31 - 1, 0, 5, 6], np.int32), 32)
    assert (found.unused_codes, found.saturated_fraction) == (None, 0.25)


def test_no_numbers_and_no_scale():
    assert told(np.zeros((0, 3), np.int8), 8).saturated_fraction is None
    assert told(np.zeros((2, 3), np.int8), 8, np.zeros(0)) is None
    assert told(np.zeros((2, 3), np.int8), 8, np.inf).scale_text == "not finite"
