"""The command `inspect`: what a model says about itself."""

from __future__ import annotations

from pathlib import Path

import click

from onnxscope.base.text import printable
from onnxscope.cli.options import Presentation, common, model_argument, select_option

__all__ = ["inspect"]


def read_dims(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    """Read sizes of dimensions, by name."""
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal():
            raise click.BadParameter(f"not NAME=SIZE: {printable(text)!r}", context, parameter)
        dims[name] = int(size)
    return dims


@click.command()
@model_argument
@select_option
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    callback=read_dims,
    help="The size of a symbolic dimension, for shapes, multiply-adds and bytes; repeat it for each.",
)
@common
def inspect(model: Path, select: tuple[str, ...], dims: dict[str, int], shown: Presentation) -> None:
    """List inputs, outputs, layers and parameters of MODEL, and say where a weight is not finite."""
    from onnxscope.analyses.inspection import inspect as describe

    summary = describe(model, select=select, dims=dims)
    if shown.form == "table":
        click.echo(summary.header(), nl=False)
    shown.show(summary)
