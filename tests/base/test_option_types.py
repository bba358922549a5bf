"""What a keyword may hold, and what is said of anything else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from onnxscope.base import option_types
from onnxscope.errors import InputError


def test_what_fits_is_taken():
    assert [type(option_types.whole_number("n", value)) for value in (3, np.int64(3), np.uint8(3))] == [int] * 3
    for path in ("a", Path("a")):
        option_types.path("p", path)
    for names in ("a", ["a", "b"], ("a",), []):
        option_types.names("n", names, "names")
    option_types.mapping("m", {"a": 1}, "sizes")
    option_types.one_of("w", "b", ("a", "b"))


@pytest.mark.parametrize(
    ("check", "arguments", "fault"),
    [
        (option_types.whole_number, ("n", "3"), "n is '3', not a whole number"),
        (option_types.whole_number, ("n", True), "n is True, not a whole number"),
        (option_types.whole_number, ("n", np.float64(3)), "not a whole number"),
        (option_types.path, ("p", b"a"), "p is b'a', not a name, or the path of a file"),
        (option_types.path, ("p", ["a"]), "p is ['a'], not a name, or the path of a file"),
        (option_types.names, ("n", [3], "names"), "n is [3], not names"),
        (option_types.names, ("n", b"a", "names"), "n is b'a', not names"),
        (option_types.names, ("n", {"a": 1}, "names"), "n is {'a': 1}, not names"),
        (option_types.mapping, ("m", ["a"], "sizes"), "m is ['a'], not sizes"),
        (option_types.mapping, ("m", {1: 1}, "sizes"), "m is {1: 1}, not sizes"),
        (option_types.one_of, ("w", "c", ("a", "b")), "unknown w 'c'"),
        (option_types.one_of, ("w", 3, ("a", "b")), "unknown w 3"),
        (option_types.path, ("p", ["x" * 1000]), "xxx, not a name"),
    ],
)
def test_anything_else_is_told_in_a_short_line(check, arguments, fault):
    with pytest.raises(InputError, match=re.escape(fault)) as caught:
        check(*arguments)
    assert len(str(caught.value)) < 150
