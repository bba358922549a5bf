"""Numbers, sizes and names as a page writes them."""

from __future__ import annotations

import pytest

from onnxscope.base.page_text import (
    MAX_NAME,
    bytes_text,
    count_text,
    label,
    number_text,
    ranges_text,
    samples_text,
    sentence,
    shape_text,
    tip,
)


@pytest.mark.parametrize(
    ("number", "text"), [(None, "–"), (0.0, "0"), (-1.5, "−1.5"), (1e-300, "1e−300"), (12345.6, "1.235e+04"), (7, "7")]
)
def test_a_number_has_four_digits_and_is_0_only_where_it_is(number, text):
    assert number_text(number) == text


def test_counts_and_sizes_have_three_digits():
    assert [count_text(n) for n in (7, 1500, 4.089e9, 2e12)] == ["7", "1.5 k", "4.09 G", "2 T"]
    assert [bytes_text(n) for n in (999, 102_608_469, 2_500_000_000)] == ["999 B", "103 MB", "2.5 GB"]


def test_channels_are_a_range_where_they_follow_each_other():
    assert ranges_text([0, 1, 2, 3]) == "0 to 3"
    assert ranges_text([3, 0, 1]) == "3, 0, 1"
    assert ranges_text([5]) == "5"


def test_shapes_and_samples_are_written_out():
    assert shape_text(["batch", 3, None]) == "batch × 3 × ?"
    assert shape_text([]) == "scalar"
    assert shape_text(None) == ""
    assert [samples_text(n) for n in (1, 1797)] == ["1 sample", "1,797 samples"]


def test_a_long_name_keeps_both_ends_and_loses_control_characters():
    shown = label("first." + "x" * 100_000 + "\x1b[31m.last")
    assert shown.startswith("first.")
    assert shown.endswith(".last")
    assert len(shown) <= MAX_NAME
    assert "\x1b" not in shown + tip("\x1b") + sentence("\x1b")
    assert len(tip("y" * 100_000)) == len(sentence("y" * 100_000)) == 1000
