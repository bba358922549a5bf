"""The option `--dim`, which gives sizes to the open dimensions of a model's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from onnxscope.base.text import printable

__all__ = ["dim_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def dim_option(command: _Command) -> _Command:
    """Which size an open dimension has."""
    return click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        callback=_read_dims,
        help="The size of an open dimension, by its name or as INPUT:AXIS=SIZE; repeat it for each.",
    )(command)


def _read_dims(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdecimal()):
            raise click.BadParameter(f"not NAME=SIZE: {printable(text)!r}", context, parameter)
        if dims.get(name, int(size)) != int(size):
            raise click.BadParameter(f"two sizes, {dims[name]} and {size}: {printable(name)!r}", context, parameter)
        dims[name] = int(size)
    return dims
