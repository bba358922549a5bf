"""The command `extract`: a part of a model as a model of its own, with its data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import (
    Presentation,
    common,
    custom_ops_option,
    force_option,
    model_argument,
    select_option,
)

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions

__all__ = ["extract"]


@click.command()
@model_argument
@select_option
@click.option(
    "--from", "start", multiple=True, metavar="VALUE", help="Begin behind this value, or behind a layer; repeatable."
)
@click.option("--to", "end", multiple=True, metavar="VALUE", help="End with this value, or with a layer; repeatable.")
@input_option(required=False)
@feeding_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder of the part."
)
@click.option(
    "--shrink",
    is_flag=True,
    help="Make the part, or all of MODEL, as small as it can be while its fault is there: a crash, a hang, NaN, numbers"
    " that are off.",
)
@force_option
@dim_option
@custom_ops_option
@common
def extract(
    model: Path,
    select: tuple[str, ...],
    start: tuple[str, ...],
    end: tuple[str, ...],
    inputs: tuple[str, ...],
    output: Path,
    shrink: bool,
    force: bool,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Cut a layer, a module or a span out of MODEL: a model of its own, with its data and a script that runs it.

    With --shrink it becomes the smallest model that still shows a fault, and the script shows it.

    \b
    onnxscope extract model.onnx --select layer1.0 -i photo.jpg -o part
    onnxscope extract model.onnx -i x.npy --shrink -o fault
    """
    from onnxscope.datasets.read_files import refuse_read
    from onnxscope.extracting.extract_part import extract as cut
    from onnxscope.extracting.part_folder import files_of_part, refuse_others
    from onnxscope.model.loading import load_model

    loaded = load_model(model, custom_ops=custom_ops, dims=dims)
    refuse_read(files_of_part(output), loaded, inputs=inputs, **feeding)
    refuse_others(output, force=force)
    part = cut(loaded, list(inputs) or None, select=select, start=start, end=end, shrink=shrink, **feeding)
    files = part.save(output, force=force)
    shown.show(part)
    for remark in part.notes:
        shown.note(remark)
    libraries = "".join(f" {library}" for library in custom_ops)
    does = "runs the part" if part.shrunk is None else "shows the fault"
    shown.note(f"{len(files)} files are in {output}; `python {output / 'reproduce.py'}{libraries}` {does}")
