"""The command `inspect`: what a model says about itself, and what takes its time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import (
    Presentation,
    common,
    custom_ops_option,
    model_argument,
    repeats_option,
    select_option,
)
from onnxscope.terminal.row_order import order_options

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions

__all__ = ["inspect"]


@click.command()
@model_argument
@input_option(required=False)
@select_option
@click.option("--time", is_flag=True, help="Run MODEL on INPUT, and say what each layer takes.")
@repeats_option
@feeding_options
@dim_option
@custom_ops_option
@order_options("layer", "operator", "parameters", "bytes", "multiply-adds", "output bytes", "ms")
@common
def inspect(
    model: Path,
    inputs: tuple[str, ...],
    select: tuple[str, ...],
    time: bool,
    repeats: int,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """List inputs, outputs, layers and parameters of MODEL, and say where a weight is not finite.

    Nothing is run but with --time.
    """
    from onnxscope.analyses.inspection import inspect as describe

    if time and not inputs:
        raise click.UsageError("--time needs what the model is fed: -i, which takes random too")
    if inputs and not time:
        raise click.UsageError("-i is fed to the model where time is measured: --time")
    summary = describe(
        model,
        list(inputs) or None,
        select=select,
        dims=dims,
        time=time,
        repeats=repeats,
        custom_ops=custom_ops,
        **feeding,
    )
    for remark in summary.timing.notes if summary.timing is not None else ():
        shown.note(remark)
    if shown.form == "table":
        shown.tell(summary.header(), indent=10)
    shown.show(summary)
