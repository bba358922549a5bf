"""The command `snapshot`: write a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.base.files import record_file
from onnxscope.base.run_options import RecipeUsed
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import (
    Presentation,
    batch_options,
    common,
    custom_ops_option,
    force_option,
    model_argument,
)
from onnxscope.terminal.outputs import output_option
from onnxscope.terminal.row_order import order_options

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions

__all__ = ["snapshot"]


@click.command()
@model_argument
@input_option(required=False)
@feeding_options
@batch_options
@output_option("BASELINE.json", ".onnxscope.json", "The baseline", is_beside=True)
@force_option
@dim_option
@custom_ops_option
@order_options("layer", "mean", "std", "min", "max", "zeros", "dead")
@common
def snapshot(
    model: Path,
    inputs: tuple[str, ...],
    batch_size: int,
    limit: int | None,
    output: Path,
    force: bool,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Write a baseline of MODEL: structure, weights, and what its layers compute on INPUT."""
    from onnxscope.datasets.read_files import check_outputs
    from onnxscope.gate.baseline import SCHEMA
    from onnxscope.gate.baseline import snapshot as take
    from onnxscope.gate.unstable_records import notes_on_change
    from onnxscope.model.loading import load_model

    loaded = load_model(model, custom_ops=custom_ops, dims=dims)
    check_outputs([(output, record_file(SCHEMA))], loaded, inputs=inputs, force=force, **feeding)
    baseline = take(
        loaded,
        list(inputs) or None,
        **feeding,
        batch_size=batch_size,
        limit=limit,
    )
    baseline.save(output, force=force)
    shown.show(baseline)
    said = RecipeUsed.notes_of(baseline.input)
    for remark in (*said, *baseline.notes, *notes_on_change(baseline.unstable, baseline.unstable)):
        shown.note(remark)
    if not inputs:
        shown.note("nothing was run: the baseline holds structure and weights alone; -i names an input")
    shown.note(f"the baseline is in {output}, {output.stat().st_size:,} bytes")
