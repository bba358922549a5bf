"""Whether a keyword of the library holds what it may: told in a line, where Python would only fail later."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, get_origin

from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["SIZES", "checked", "mapping", "names", "one_of", "path", "whole_number", "wrong_type"]

_Options = ParamSpec("_Options")
_Result = TypeVar("_Result")


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


def checked(function: Callable[_Options, _Result]) -> Callable[_Options, _Result]:
    """Have a public function hold what it is given to the types that its signature names, before it does anything.

    Whole numbers of numpy's become Python's. What its body has to look at (a model, what is fed, options of feeding) is
    annotated with `Any` or an alias, and left to it; so are words, where they are text at all.

    Raises:
        InputError: When it is called, of the first argument that is of another type.
    """
    signature = inspect.signature(function)
    kinds = {name: _parts(each.annotation) for name, each in signature.parameters.items() if each.kind not in _VARIADIC}
    names_in_order = [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    scope = getattr(function, "__globals__", {})

    @functools.wraps(function)
    def call(*arguments: _Options.args, **options: _Options.kwargs) -> _Result:
        placed = [
            _fitting(name, value, kinds[name], scope) for name, value in zip(names_in_order, arguments, strict=False)
        ]
        placed += arguments[len(placed) :]
        named = {
            name: _fitting(name, value, kinds[name], scope) if name in kinds else value
            for name, value in options.items()
        }
        return function(*placed, **named)  # type: ignore[arg-type]

    return call


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SIZES = "sizes by the name of a dimension, or by `INPUT:AXIS`"
_OF_KEYWORDS: Mapping[str, str] = {"dims": SIZES}  # where the keyword tells more than its type
_WANTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "a text",
    "Sequence": "several",
    "PathLike": "a path",
    "Path": "a path",
    "Mapping": "something by name",
    "Callable": "something to call",
}


def _parts(annotation: Any) -> tuple[str, ...]:
    """The parts of a union as it is written, without what stands in brackets."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "Any")
    while "[" in text:
        shorter = re.sub(r"\[[^\[\]]*\]", "", text)
        if shorter == text:
            break
        text = shorter
    return tuple(part.strip().rpartition(".")[2] for part in text.split("|"))


def _fitting(name: str, value: Any, parts: Sequence[str], scope: Mapping[str, Any]) -> Any:
    """The value, where one of the parts takes it or cannot be told."""
    if any(_fits(value, part, scope) for part in parts):
        return int(value) if "int" in parts and _fits(value, "int", scope) else value
    wanted = [_WANTED.get(part, "a text" if _is_word(part, scope) else f"a {part}") for part in parts if part != "None"]
    if parts[:2] == ("str", "PathLike"):
        wanted[:2] = ["a name, or the path of a file"]
    elif parts[:2] == ("str", "Sequence"):
        wanted[:2] = ["a text, or several"]
    raise wrong_type(name, value, _OF_KEYWORDS.get(name, ", or ".join(dict.fromkeys(wanted))))


def _fits(value: Any, part: str, scope: Mapping[str, Any]) -> bool:
    """Whether a part of a union takes a value; all do of whose meaning nothing is known here."""
    match part:
        case "Any":
            return True
        case "None":
            return value is None
        case "int":
            return isinstance(value, Integral) and not isinstance(value, bool)
        case "float":
            return isinstance(value, Real) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "name", None) == "bool"
        case "str":
            return isinstance(value, str)
        case "Sequence":
            is_several = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
            return is_several and all(isinstance(each, str) for each in value)
        case "PathLike" | "Path":
            return isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
        case "Mapping":
            return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        case "Callable":
            return callable(value)
    if _is_word(part, scope):
        return isinstance(value, str)
    known = scope.get(part)
    return not isinstance(known, type) or isinstance(value, known)


def _is_word(part: str, scope: Mapping[str, Any]) -> bool:
    return part == "Literal" or get_origin(scope.get(part)) is Literal
