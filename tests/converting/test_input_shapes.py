"""Shapes as users give them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.converting.input_shapes import named_shapes, read_shape, shown_shape
from onnxscope.errors import ConversionError


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), ()),
        ([], ()),
        ((1, 3, None), (("", (1, 3, None)),)),
        ([2], (("", (2,)),)),
        ((None,), (("", (None,)),)),
        (np.zeros((2, 3)).shape, (("", (2, 3)),)),
        (np.array([2, 3]), (("", (2, 3)),)),
        ([()], (("", ()),)),
        ([(1, 3), [4, None]], (("", (1, 3)), ("", (4, None)))),
        ([("ids:int64", (1, 3)), ("", (4,)), (5, 6)], (("ids:int64", (1, 3)), ("", (4,)), ("", (5, 6)))),
        ({"image": (1, 3), "mask:bool": [1]}, (("image", (1, 3)), ("mask:bool", (1,)))),
        ({}, ()),
    ],
)
def test_shapes_by_position_and_by_name(given, named):
    assert named_shapes(given) == named


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("1,3", "'1,3'"),
        (3, "3"),
        ((1.5, 3), "(1.5, 3)"),
        ([(1, 3), 4], "[(1, 3), 4]"),
        ([(1, "3")], "(1, '3')"),
        ({"x": "1,3"}, "'1,3'"),
        ({"x\x1b": ("\x1b",)}, r"('\x1b',)"),
        ([range(3), "?" * 100], "'" + "?" * 59),
    ],
)
def test_what_is_no_shape_is_said(given, shown):
    with pytest.raises(ConversionError) as caught:
        named_shapes(given)
    assert str(caught.value) == f"not a shape: {shown}"
    assert caught.value.hint == "whole numbers, and None for a dynamic dimension"


def test_a_name_may_carry_an_element_type():
    assert read_shape("ids:int64", (1, None), ("int64",), "net.py:make") == ("ids", "int64")
    assert read_shape(":int64", (), ("int64",), "net.py:make") == ("", "int64")
    assert read_shape("ids", (1,), ("int64",), "net.py:make") == ("ids", "")


def test_a_shape_or_type_that_cannot_be_is_refused():
    with pytest.raises(ConversionError, match=r"^an input shape has a dimension below 1, \(\?, 0\): net\.py:make$"):
        read_shape("x", (None, 0), (), "net.py:make")
    with pytest.raises(ConversionError, match=r"^no element type named 'int33': net\.py:make$") as caught:
        read_shape("x:int33", (1,), ("int32", "bool"), "net.py:make")
    assert caught.value.hint == "one of int32, bool"


def test_a_dynamic_dimension_is_shown_as_it_is_written():
    assert shown_shape((1, None, 3)) == "(1, ?, 3)"
    assert shown_shape(()) == "()"
