"""The command `inspect`: what a model says about itself."""

from __future__ import annotations

from pathlib import Path

import click

from onnxscope.terminal.feeding import dim_option
from onnxscope.terminal.options import Presentation, common, model_argument, select_option
from onnxscope.terminal.row_order import order_options

__all__ = ["inspect"]


@click.command()
@model_argument
@select_option
@dim_option
@order_options("layer", "operator", "parameters", "bytes", "multiply-adds", "output bytes")
@common
def inspect(model: Path, select: tuple[str, ...], dims: dict[str, int], shown: Presentation) -> None:
    """List inputs, outputs, layers and parameters of MODEL, and say where a weight is not finite."""
    from onnxscope.analyses.inspection import inspect as describe

    summary = describe(model, select=select, dims=dims)
    if shown.form == "table":
        shown.tell(summary.header(), indent=10)
    shown.show(summary)
