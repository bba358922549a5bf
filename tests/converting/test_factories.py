"""SOURCE as text; what factories do is tested with each framework's."""

from __future__ import annotations

import pytest

from onnxscope.converting.factories import one_line, split_source
from onnxscope.errors import ConversionError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("net.py:make", ("net.py", "make")),
        ("C:/nets/net.py:make", ("C:/nets/net.py", "make")),
        ("package.nets:make", ("package.nets", "make")),
        ("resnet34", None),
        ("package.nets:", None),
        (":make", None),
        ("", None),
    ],
)
def test_a_source_names_a_place_and_a_factory(text, parts):
    assert split_source(text) == parts


def test_a_file_alone_names_no_factory():
    with pytest.raises(ConversionError, match=r"^no factory named: nets/net\.py$") as caught:
        split_source("nets/net.py")
    assert caught.value.hint == "name one as `nets/net.py:factory`"


def test_an_exception_in_one_line():
    assert one_line(ValueError("")) == "ValueError"
    assert one_line(ValueError("Errors while loading:\n- a tab\there\nmore")) == r"ValueError: a tab\there"
    assert one_line(KeyError("x" * 300)) == f"KeyError: {repr('x' * 300)[:200]}"
