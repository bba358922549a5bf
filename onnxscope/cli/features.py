"""The command `features`: what layers compute, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxscope.base.json_files import dump_json
from onnxscope.base.text import counted
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option, replace_option
from onnxscope.terminal.options import (
    Presentation,
    at_option,
    channel_options,
    common,
    custom_ops_option,
    force_option,
    model_argument,
    select_option,
)
from onnxscope.terminal.outputs import open_option, open_written, output_option
from onnxscope.terminal.row_order import order_options

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions

__all__ = ["features"]


@click.command()
@model_argument
@input_option(required=True)
@select_option
@at_option
@replace_option
@feeding_options
@output_option("DIR", ".features", "Folder of the results", is_folder=True)
@open_option
@channel_options
@click.option("--sample", type=click.IntRange(0), default=0, show_default=True, help="Which sample a picture shows.")
@click.option("--cmap", default="viridis", show_default=True, help="A colour map of matplotlib's.")
@click.option("--arrays", is_flag=True, help="Also write features.npz, keyed by value.")
@click.option("--verify", is_flag=True, help="Also run the model untapped and compare its outputs.")
@force_option
@dim_option
@custom_ops_option
@order_options("layer", "mean", "std", "min", "max", "zeros", "zero channels")
@common
def features(
    model: Path,
    inputs: tuple[str, ...],
    output: Path,
    opens: bool,
    select: tuple[str, ...],
    at: Literal["post", "pre"],
    channels: int,
    rank: Literal["index", "std", "max", "mean"],
    sample: int,
    cmap: str,
    arrays: bool,
    verify: bool,
    force: bool,
    replace: dict[str, str],
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Run MODEL on INPUT and draw what its layers compute."""
    from onnxscope.analyses.feature_maps import features as compute
    from onnxscope.analyses.folders import files_in_place, refuse_others, save_features
    from onnxscope.datasets.read_files import refuse_read
    from onnxscope.drawing.mosaics import colour_table
    from onnxscope.model.loading import load_model
    from onnxscope.patching.replacements import replacement_files

    colour_table(cmap)  # a misspelt map should not cost a run
    loaded = load_model(model, custom_ops=custom_ops, dims=dims)
    read = replacement_files(replace)
    refuse_read(files_in_place(output, "features"), loaded, inputs=inputs, read=read, **feeding)
    refuse_others(output, "features", [], arrays=arrays, force=force)
    maps = compute(
        loaded,
        list(inputs),
        select=select,
        at=at,
        **feeding,
        channels=channels,
        rank=rank,
        sample=sample,
        verify=verify,
        replace=replace,
    )
    for remark in maps.notes:
        shown.note(remark)
    pictures = save_features(maps, output, cmap=cmap, arrays=arrays, force=force)
    if shown.form == "json":
        click.echo(dump_json(maps.to_dict(pictures)), nl=False)
    else:
        shown.show(maps)
    for tap in maps.unreachable:
        shown.note(f"not reached: {tap.name}: {tap.reason}")
    if maps.tapping is not None:
        moved = f"largest difference {maps.tapping['max_abs']:.3g}, relative {maps.tapping['relative']:.3g}"
        shown.note(f"outputs of the tapped and the untapped model: {moved}")
    shown.note(f"{counted(len(pictures), 'picture')} and features.json are in {output}")
    if opens:
        open_written(output)
