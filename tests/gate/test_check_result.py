"""What a check found is said in words: no tuples, lists or None of Python's, and singular where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed

import onnxscope
from onnxscope.gate.check_result import shown_value

TEXT = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 2, 8, 8] y) {
        [conv] y = Conv<pads = [1, 1, 1, 1]>(x, w)
    }"""
W = np.random.default_rng(2).standard_normal((2, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("value", "is_shape", "text"),
    [
        (None, False, "none"),
        (True, False, "yes"),
        ([1, 1, 2, 2], False, "1, 1, 2, 2"),
        ([None, 3, 8], True, "? × 3 × 8"),
        ([], True, "scalar"),
        ([], False, "nothing"),
        (("a", "b"), False, "a, b"),
        ({"pads": [1, 1], "group": 1}, False, "group 1; pads 1, 1"),
        ([{"name": "x", "dtype": "float32", "shape": [None, 3]}], False, "x float32 ? × 3"),
        ([{"name": "x", "dtype": "float32", "shape": None}], False, "x float32 of any shape"),
        (0.25, False, "0.25"),
        (7, False, "7"),
    ],
)
def test_entries_are_shown_in_words(value, is_shape, text):
    assert shown_value(value, is_shape=is_shape) == text


@pytest.mark.parametrize(
    "changed",
    [
        {"text": TEXT.replace("pads = [1, 1, 1, 1]", "pads = [0, 0, 2, 2]")},
        {"text": TEXT.replace("N, 3, 8, 8", "N, 3, 9, 8")},
        {"text": TEXT.replace(" y)", " z)").replace("y = Conv", "z = Conv")},
        {"text": TEXT.replace("[1, 1, 1, 1]", "[1, 1, 1, 1], group = 1, dilations = [2, 2]")},
        {"w": np.ones((2, 3, 1, 1), np.float32)},
        {"w": W.astype(np.float32) * 2},
    ],
)
def test_no_notation_of_python_shows_in_a_cell(changed):
    baseline = onnxscope.snapshot(parsed(TEXT, w=W))
    result = onnxscope.check(parsed(changed.get("text", TEXT), w=changed.get("w", W)), baseline)
    assert result.findings
    cells = [cell for row in result.table().rows for cell in row[:5] if isinstance(cell, str)]
    assert not [cell for cell in cells if any(mark in cell for mark in "[](){}'") or cell == "None"]


def test_one_of_something_is_singular():
    text = TEXT.replace("[conv]", "[conv]")
    baseline = onnxscope.snapshot(parsed(text, w=W))
    assert onnxscope.check(parsed(text, w=W), baseline).summary() == "as the baseline says: 1 layer, 1 weight"
    assert baseline.table().title == "1 layer, 1 weight: structure and weights"
    x = np.ones((1, 3, 8, 8), np.float32)
    assert onnxscope.snapshot(parsed(text, w=W), x).table().title == "1 layer, 1 weight: 1 sample"
    assert onnxscope.diff(parsed(text, w=W), parsed(text, w=W)).table().title == "g against g: 1 layer aligned"
