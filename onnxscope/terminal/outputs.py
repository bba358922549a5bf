"""Where a command writes when nobody says, and opening what it has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxscope.base.text import printable

__all__ = ["open_option", "open_written", "output_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def output_option(
    metavar: str, ending: str, text: str, *, is_folder: bool = False, is_beside: bool = False
) -> Callable[[_Command], _Command]:
    """The option `-o` of a command about one MODEL.

    Args:
        metavar: What help shows for the path.
        ending: Of the path that is written by default, behind the model's name without its own ending.
        text: What the path is, for help.
        is_folder: Whether it is a folder.
        is_beside: Whether the default lies beside the model, where another command looks for it, and not in the
            current folder.
    """

    def chosen(context: click.Context, option: click.Parameter, given: Path | None) -> Path | None:
        model = context.params.get("model")  # absent where it is missing, of which click tells
        if given is not None or model is None:
            return given
        return (model.parent if is_beside else Path()) / f"{model.stem}{ending}"

    where = " beside it" if is_beside else ""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=is_folder),
        metavar=metavar,
        callback=chosen,
        help=f"{text}; else NAME{ending}{where} for NAME.onnx.",
    )


def open_option(command: _Command) -> _Command:
    """Whether what was written is opened."""
    return click.option("--open", "opens", is_flag=True, help="Open it with the program that the system has for it.")(
        command
    )


def open_written(path: Path) -> None:
    """Have the system open a page or a folder, and say so where it does not."""
    if click.launch(str(path)):
        click.echo(printable(f"the system opens no such thing: {path}"), err=True)
