"""Options that commands share, and how they show notes and results."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxscope.base.outputs import printable

if TYPE_CHECKING:
    from onnxscope.base.tables import Format, Result, Table

__all__ = [
    "StatusLine",
    "batch_options",
    "channel_options",
    "common",
    "fail",
    "image_options",
    "input_option",
    "input_options",
    "model_argument",
    "note",
    "select_option",
    "show",
    "show_more",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SELECT_HELP = (
    "What to look at: a layer or module, a glob, op:Conv, value:NAME, node:NAME, rank:4, re:REGEX; ! excludes."
)


def common(command: _Command) -> _Command:
    """Options of every command."""
    for option in (
        click.option("--debug", is_flag=True, help="Show a traceback when something fails."),
        click.option("-q", "--quiet", is_flag=True, help="No notes on stderr."),
        click.option(
            "--format",
            "form",
            type=click.Choice(["table", "json", "csv", "md"]),
            default="table",
            show_default=True,
            help="How stdout carries the result.",
        ),
    ):
        command = option(command)
    return command


def model_argument(command: _Command) -> _Command:
    """The model's file."""
    return click.argument("model", type=click.Path(path_type=Path))(command)


def select_option(command: _Command) -> _Command:
    """Which layers or values."""
    return click.option("-s", "--select", multiple=True, metavar="SELECTOR", help=_SELECT_HELP)(command)


def input_option(*, required: bool) -> Callable[[_Command], _Command]:
    """What is fed."""
    return click.option(
        "-i",
        "--input",
        "inputs",
        multiple=True,
        required=required,
        metavar="INPUT",
        help="An image, a folder or glob of images, a .npy, a .npz (one array per input), or random[:seed].",
    )


def image_options(command: _Command) -> _Command:
    """How images become inputs."""
    for option in (
        click.option("--layout", type=click.Choice(["auto", "nchw", "nhwc"]), default="auto", show_default=True),
        click.option("--preprocess", metavar="PRESET", help="imagenet, half, unit, caffe, none, or a recipe's .json."),
    ):
        command = option(command)
    return command


def batch_options(command: _Command) -> _Command:
    """How many samples, and how many at a time."""
    for option in (
        click.option("--limit", type=click.IntRange(1), help="Only the first so many samples."),
        click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Samples of a run."),
    ):
        command = option(command)
    return command


def input_options(*, required: bool) -> Callable[[_Command], _Command]:
    """What is fed, and which values are looked at."""

    def add(command: _Command) -> _Command:
        for option in (
            image_options,
            click.option(
                "--at",
                type=click.Choice(["post", "pre"]),
                default="post",
                show_default=True,
                help="After or before the activation.",
            ),
            select_option,
            input_option(required=required),
        ):
            command = option(command)
        return command

    return add


def channel_options(command: _Command) -> _Command:
    """Which channels a picture shows."""
    for option in (
        click.option(
            "--rank",
            type=click.Choice(["index", "std", "max", "mean"]),
            default="index",
            show_default=True,
            help="Which channels: the first, or those with the largest value of this.",
        ),
        click.option(
            "--channels", type=click.IntRange(1), default=12, show_default=True, help="Channels in a picture."
        ),
    ):
        command = option(command)
    return command


def show(result: Result, form: Format) -> None:
    """Print a result on stdout."""
    from onnxscope.base.tables import render

    if form == "table":
        show_more(result.table())
    else:
        click.echo(render(result, form), nl=False)


def show_more(table: Table) -> None:
    """Print a table on stdout, for a person or for a pipe."""
    from onnxscope.base.tables import show_table

    if sys.stdout.isatty():
        show_table(table)
    else:
        click.echo(table.text(), nl=False)


class StatusLine:
    """A line on stderr that is written over: what is being done."""

    def __call__(self, text: str) -> None:
        """Show a text in place of the one before."""
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            width = 0
        click.echo(f"\r{printable(text)[: (width or 80) - 1]}\x1b[K", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away."""
        click.echo("\r\x1b[K", nl=False, err=True)


def note(text: str, quiet: bool) -> None:
    """Print a remark on stderr."""
    if not quiet:
        click.echo(printable(text), err=True)


def fail(message: str, hint: str | None) -> int:
    """Print an error on stderr, and return the exit code of work that could not be done."""
    click.echo(f"onnxscope: error: {printable(message)}", err=True)
    if hint:
        click.echo(f"hint: {printable(hint)}", err=True)
    return 2
