"""The command `weights`: statistics and histograms of every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from onnxscope.base.files import refuse_inputs
from onnxscope.base.text import counted, printable
from onnxscope.terminal.options import (
    Presentation,
    common,
    custom_ops_option,
    force_option,
    model_argument,
    select_option,
)
from onnxscope.terminal.row_order import order_options

__all__ = ["weights"]


@click.command()
@model_argument
@select_option
@click.option("--bins", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Bins of the histograms.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Draw histograms into this folder."
)
@click.option(
    "--picture", type=click.Choice(["svg", "png"]), default="svg", show_default=True, help="Format of the histograms."
)
@force_option
@custom_ops_option
@order_options("parameter", "mean", "std", "min", "max", "zeros")
@common
def weights(
    model: Path,
    select: tuple[str, ...],
    bins: int,
    output: Path | None,
    picture: Literal["svg", "png"],
    force: bool,
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Compute statistics and a histogram of every parameter of MODEL, or of a checkpoint (.safetensors)."""
    from onnxscope.analyses.weight_statistics import weights as compute
    from onnxscope.checkpoints.checkpoint import load_weights

    loaded = load_weights(model, custom_ops=custom_ops)
    if output is not None:
        from onnxscope.analyses.folders import files_in_place, refuse_others, save_weights

        refuse_inputs(files_in_place(output, "weights"), loaded.files)
        refuse_others(output, "weights", [], force=force)
    statistics = compute(loaded, select=select, bins=bins)
    if output is not None:
        pictures = save_weights(statistics, loaded, output, picture=picture, force=force)
        shown.note(f"{counted(len(pictures), 'histogram')} and weights.json are in {output}")
    shown.show(statistics)
    if statistics.left_out and shown.form == "table":
        total = sum(other.size for other in statistics.left_out)
        count = counted(total, "number is no parameter", "numbers are no parameters")
        first = statistics.left_out[0]
        where = f"first {printable(first.name)}: {printable(first.reason)}; `--format json` lists them"
        shown.note(f"{count} ({where})")
    if statistics.absent and shown.form == "table":
        count = counted(len(statistics.absent), "parameter is", "parameters are")
        shown.note(f"{count} not in the file, {_first(statistics.absent)}")


def _first(absent: Sequence[tuple[str, str]]) -> str:
    name, reason = absent[0]
    return f"the first {name}: {reason}"
