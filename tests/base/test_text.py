"""Numbers, sizes and names as people read them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from onnxscope.base import name_patterns
from onnxscope.base.text import (
    MAX_NAME,
    bytes_text,
    count_text,
    counted,
    first_line,
    format_number,
    is_safe_stem,
    label,
    number_text,
    output_text,
    plain_shapes,
    printable,
    ranges_text,
    safe_stem,
    samples_text,
    sentence,
    shape_text,
    shortened,
    tip,
)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("features.0", "007_features.0"),
        ("../../etc/passwd", "007_etc_passwd"),
        ("/abs", "007_abs"),
        ("a\\b:c\0d\ne", "007_a_b_c_d_e"),
        ("\x1b[31m<b>", "007_31m_b"),
        ("", "007_unnamed"),
        ("...", "007_unnamed"),
        ("ünï/Größe", "007_ünï_Größe"),
        ("u\u0308n", "007_ün"),  # composed
        ("畳み込み層.1", "007_畳み込み層.1"),
        ("слой 1", "007_слой_1"),
        ("हिन्दी", "007_हिन्दी"),  # vowel signs and a virama are marks
        ("\u0338a\u0338", "007_a\u0338"),
        ("a\u202eb\u2066c\u200fd\u200be", "007_a_b_c_d_e"),
        ("a\uff0fb\u2215c\u2044d\u29f8e", "007_a_b_c_d_e"),  # they look like slashes
        ("a\ufe0fb\u3164c\U000e0100", "007_a_b_c"),
        ("a\udcffb\x85c\u2028", "007_a_b_c"),
        ("_a__b", "007_a__b"),
        ("漢" * 30, "007_" + "漢" * 20),
        ("x漢" * 30, "007_" + "x漢" * 15),
        ("a" * 59 + "é", "007_" + "a" * 59),
        ("x" * 100_000, "007_" + "x" * 60),
    ],
)
def test_a_stem_is_the_index_and_harmless_bytes(name: str, stem: str) -> None:
    assert safe_stem(name, 7) == stem
    assert Path(stem).name == stem
    assert is_safe_stem(stem)
    assert len(stem.encode()) <= 64


@pytest.mark.parametrize(
    "name", ["7_a", "007_", "007_a/b", "007_a\n", "007_.a", "007_" + "x" * 61, "007_u\u0308", "notes"]
)
def test_a_stem_of_another_form_is_not_ours(name: str) -> None:
    assert not is_safe_stem(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0 é 漢", "layer1.0 é 漢"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("abc\u202edcba\u2066", "abc\\u202edcba\\u2066"),
        ("\udcff\U000e0001", "\\udcff\\U000e0001"),
    ],
)
def test_what_a_terminal_would_act_upon_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_first_line_of_a_foreign_message_is_short_and_printable():
    assert first_line(ValueError("bad\x1b value\nand a page more")) == "bad\\x1b value"
    assert first_line(ValueError("")) == "ValueError"
    assert len(first_line("x" * 1000)) == 200


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
    assert shape_text(["batch", 3, None], is_plain=True) == "[batch, 3, ?]"
    assert shape_text([7], is_plain=True) == "[7]"
    assert plain_shapes("input x  float32 batch × 3 × ?, and y  int8 2 × 3") == (
        "input x  float32 [batch, 3, ?], and y  int8 [2, 3]"
    )
    assert shape_text(["a" * 99, 12345678901234567890], max_side=5) == "aa…aa × 12345678901234567890"
    assert shape_text([]) == shape_text([], is_plain=True) == "scalar"
    assert shape_text(None) == ""
    assert [samples_text(n) for n in (1, 1797)] == ["1 sample", "1,797 samples"]


def test_a_long_name_keeps_both_ends_and_loses_control_characters():
    shown = label("first." + "x" * 100_000 + "\x1b[31m.last")
    assert shown.startswith("first.")
    assert shown.endswith(".last")
    assert len(shown) <= MAX_NAME
    assert "\x1b" not in shown + tip("\x1b") + sentence("\x1b")
    assert len(tip("y" * 100_000)) == len(sentence("y" * 100_000)) == 1000


def test_a_number_in_a_table_has_five_digits_and_is_0_only_where_it_is():
    assert [format_number(number) for number in (0.0, 1 / 3, 123456.0)] == ["0", "0.33333", "1.2346e+05"]
    assert format_number(1e-300) == "1e-300"
    assert format_number(-4.9e-324) != "-0"


def test_a_long_text_loses_its_middle():
    assert shortened("x" * 9, 9) == "x" * 9
    assert shortened("first.second", 7) == "fir…ond"


def test_one_of_something_is_singular():
    assert [counted(count, "layer") for count in (0, 1, 2, 1234)] == ["0 layers", "1 layer", "2 layers", "1,234 layers"]
    assert [counted(count, "node is", "nodes are") for count in (1, 2)] == ["1 node is", "2 nodes are"]


def test_an_error_of_the_library_has_an_end_however_long_a_name_is_and_doubles_no_escape():
    error = name_patterns.nothing_matches("\0" * 5000, ["a"], "m.onnx")
    assert len(str(error)) == 1000
    assert str(error).startswith("nothing matches the selector '\\x00\\x00")
    assert str(error).endswith("': m.onnx")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.hint) == (str(error), error.hint)


def test_an_output_that_is_called_so_is_not_called_so_twice():
    assert [output_text(name) for name in ("y", "output", "output_0", "Output", "out")] == [
        "output y",
        "output",
        "output_0",
        "Output",
        "output out",
    ]
