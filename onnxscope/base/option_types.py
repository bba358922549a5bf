"""Whether a keyword of the library holds what it may: told in a line, where Python would only fail later."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["mapping", "names", "one_of", "path", "whole_number", "wrong_type"]


def wrong_type(name: str, value: object, wanted: str) -> InputError:
    """The error that says so."""
    return InputError(f"{name} is {printable(repr(value))[:60]}, not {wanted}")


def whole_number(name: str, value: Any, wanted: str = "a whole number") -> int:
    """Return a whole number as Python's own, numpy's too.

    Raises:
        InputError: It is none; `True` is none either.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise wrong_type(name, value, wanted)
    return int(value)


def path(name: str, value: Any) -> None:
    """Check a name or a path.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise wrong_type(name, value, "a name, or the path of a file")


def names(name: str, value: Any, wanted: str) -> None:
    """Check a name, or several.

    Raises:
        InputError: It is neither.
    """
    several = value if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray) else (None,)
    if not isinstance(value, str) and not all(isinstance(each, str) for each in several):
        raise wrong_type(name, value, wanted)


def mapping(name: str, value: Any, wanted: str) -> None:
    """Check something by name.

    Raises:
        InputError: It is no mapping, or one of other things than names.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong_type(name, value, wanted)


def one_of(name: str, value: Any, known: Sequence[str]) -> None:
    """Check one of some words.

    Raises:
        InputError: It is another one.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"unknown {name} {printable(repr(value))[:60]}", hint=f"one of {', '.join(known)}")
