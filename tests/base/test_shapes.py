"""Shapes in messages, and sizes that exporters write as expressions."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from onnxscope.base.shapes import computed_size, is_symbol, shape_text, spec_text, takes_text, terms_of


class _Input(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


def test_shapes_read_as_python_writes_them():
    assert shape_text(None) == "of unknown rank"
    assert (shape_text(()), shape_text((3,))) == ("()", "(3,)")
    assert shape_text(("ba\ntch", None, 3)) == r"(ba\ntch, ?, 3)"
    assert spec_text(_Input("x", "float32", ("n",))) == "float32 (n,)"
    assert spec_text(_Input("x", "sequence", None)) == "sequence of unknown rank"


def test_what_a_model_takes_is_cut_where_there_is_no_more_room():
    specs = [_Input(f"x{place}", "int64", ("b", place)) for place in range(30)]
    assert takes_text(specs[:2]) == "x0 int64 (b, 0), x1 int64 (b, 1)"
    assert takes_text(specs[:1], {"x0": (0, 5)}) == "x0 int64 (b, 0) of 0 to 4"
    shown = takes_text(specs, room=100)
    names = [part.split()[0] for part in shown.split(", ") if part.startswith("x")]
    assert shown.endswith(f", and {30 - len(names)} more")
    assert names == [f"x{place}" for place in range(len(names))]
    assert 60 < len(shown) < 120


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("a + b", 8),
        ("a*b", 15),
        ("b//2", 2),
        ("b - a", 2),
        ("a - b", None),
        ("a", None),
        ("a + c", None),
        ("a //", None),
    ],
)
def test_expressions_of_sizes_are_worked_out(text, size):
    assert computed_size(text, {"a": 3, "b": 5}) == size


def test_an_expression_is_no_symbol_of_its_own():
    assert terms_of("past + sequence") == {"past", "sequence"}
    assert terms_of("past") == frozenset()
    assert [is_symbol(dim) for dim in ("past", "past + 1", "?", 3, None)] == [True, False, False, False, False]
