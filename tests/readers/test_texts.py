"""Lines of text and of JSON."""

from __future__ import annotations

import io

import pytest

from onnxscope.errors import InputError
from onnxscope.readers.texts import MAX_LINE_BYTES, Text, index_lines, read_line, read_row


def lines(content):
    stream = io.BytesIO(content)
    places = index_lines(stream, "t.txt")
    return places[:, 0].tolist(), [read_line(stream, place, "t.txt") for place in places]


@pytest.mark.parametrize(
    ("content", "numbers", "found"),
    [
        (b"one\ntwo\n", [1, 2], ["one", "two"]),
        (b"\n \none\r\n\r\n  two  ", [3, 5], ["one", "  two  "]),
        ("\ufeffein Wörtchen\nzwei".encode(), [1, 2], ["ein Wörtchen", "zwei"]),
        ("a\u2028b\x0bc\n".encode(), [1], ["a\u2028b\x0bc"]),
        ("\ufeff\none".encode(), [2], ["one"]),
    ],
)
def test_a_line_is_a_sample_and_empty_ones_are_none(content, numbers, found):
    assert lines(content) == (numbers, found)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no line with anything in it"),
        (b"\n \n", "no line with anything in it"),
        ("text".encode("utf-16"), "text in UTF-16"),
        (b"one\n\xff\xfe\n", "line 2 is no text in UTF-8"),
        (b"one\n" + b"a" * (MAX_LINE_BYTES + 1), "line 2 is longer than 1,048,576 bytes"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(content, fault):
    with pytest.raises(InputError, match=fault) as caught:
        lines(content)
    assert str(caught.value).endswith("t.txt")


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('"hello"', Text("hello")),
        ('{"text": "hello", "label": "x"}', Text("hello")),
        ('{"text": "hello", "text_pair": "you"}', Text("hello", "you")),
        ('{"label": 3, "sentence": "hello"}', Text("hello")),
        ('{"input_ids": [1, 2], "label": 3, "text": "hello"}', {"input_ids": [1, 2]}),
    ],
)
def test_a_row_is_a_text_or_values_by_input(line, row):
    assert read_row(line, ["input_ids", "attention_mask"], "line 1") == row


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "no line of JSON"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "a key occurs twice"),
        ("[" * 100_000, "no line of JSON"),
        ("[1, 2]", "a string or an object, not an array"),
        ("null", "not null"),
        ("3", "not a number"),
        ('{"question": "a", "answer": "b"}', "no field `text`, none that is called like an input, and 2 other fields"),
        ("{}", "and 0 other fields with text"),
    ],
)
def test_a_row_of_anything_else_is_told(line, fault):
    with pytest.raises(InputError) as caught:
        read_row(line, ["input_ids"], "line 7 of t.jsonl")
    assert fault in str(caught.value)
    assert str(caught.value).endswith("line 7 of t.jsonl")
