"""The command `sensitivity`: which layers lose most in a narrower format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxscope.base.files import CHART
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import (
    Presentation,
    batch_options,
    common,
    custom_ops_option,
    force_option,
    model_argument,
    select_option,
)
from onnxscope.terminal.row_order import order_options

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
    from onnxscope.model.loading import Model
    from onnxscope.narrowing.formats import Scheme
    from onnxscope.narrowing.narrowed_layers import Of
    from onnxscope.narrowing.value_ranges import RangeRule

__all__ = ["sensitivity"]

_SIMULATED = {
    "formats": "--as",
    "of": "--of",
    "scheme": "--scheme",
    "ranges": "--ranges",
    "target": "--target",
    "output": "-o",
}


@click.command(
    epilog="""\b
Examples:
  onnxscope sensitivity model.onnx -i images/
  onnxscope sensitivity model.onnx -i x.npz --as int8 --as float16,fp8
  onnxscope sensitivity model.onnx -i x.npz --of both --ranges entropy
  onnxscope sensitivity model.onnx -i x.npz --of both --target top1=0.99
  onnxscope sensitivity model.onnx -i x.npz --target 30dB -o layers.png
  onnxscope sensitivity model.onnx model_int8.onnx -i x.npz
"""
)
@model_argument
@click.argument("quantized", required=False, type=click.Path(path_type=Path))
@input_option(required=True)
@click.option(
    "--as",
    "formats",
    multiple=True,
    default=("int8",),
    show_default=True,
    metavar="FORMAT",
    help="int8, uint8, int6, int4, uint4, float16, bfloat16, fp8 or fp8_e5m2; several with commas, or repeated.",
)
@click.option(
    "--of",
    type=click.Choice(["weights", "activations", "both"]),
    default="weights",
    show_default=True,
    help="What of a layer is narrowed.",
)
@click.option(
    "--scheme",
    type=click.Choice(["tensor", "channel", "block"]),
    help="What of a weight shares a scale; blocks of 32 by default in four bits, else the tensor.",
)
@click.option(
    "--ranges",
    type=click.Choice(["minmax", "percentile", "entropy"]),
    default="minmax",
    show_default=True,
    help="How ranges of activations are found, by every other sample; errors are those of the rest.",
)
@click.option(
    "--target",
    metavar="TARGET",
    help="Find the fewest layers to keep in float for 30dB, top1=0.99 or kl=0.01, and their nodes_to_exclude.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PICTURE",
    help="Draw layers in float against quality, as .png or .svg.",
)
@force_option
@select_option
@feeding_options
@batch_options
@dim_option
@custom_ops_option
@order_options("layer", "dB", "own dB", "top-1 %", "KL nats")
@common
@click.pass_context
def sensitivity(
    context: click.Context,
    model: Path,
    quantized: Path | None,
    inputs: tuple[str, ...],
    formats: tuple[str, ...],
    of: Of,
    scheme: Scheme | None,
    ranges: RangeRule,
    target: str | None,
    output: Path | None,
    force: bool,
    select: tuple[str, ...],
    feeding: FeedingOptions,
    batch_size: int,
    limit: int | None,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Narrow each layer of MODEL to fewer bits, and rank them by what the outputs lose.

    With QUANTIZED, what a quantizer made of it, each layer of that is put back into float, and ranked by what it gains.
    """
    from onnxscope.model.loading import load_model
    from onnxscope.narrowing.sensitive_layers import sensitivity as measure

    loaded = load_model(model, custom_ops=custom_ops, dims=dims)
    fed: dict[str, Any] = {"select": select, "batch_size": batch_size, "limit": limit, **feeding}
    if quantized is not None:
        given = [option for name, option in _SIMULATED.items() if _is_given(context, name)]
        if given:
            raise click.UsageError(f"{given[0]} is for one model: with QUANTIZED nothing is simulated")
        _restore(loaded, load_model(quantized, custom_ops=custom_ops), list(inputs), fed, shown)
        return
    if output is not None:
        from onnxscope.datasets.read_files import check_outputs
        from onnxscope.narrowing.result import picture_form

        check_outputs([(output, CHART)], loaded, inputs=inputs, force=force, **feeding)
        picture_form(output)
    found = measure(
        loaded,
        list(inputs),
        formats=formats,
        of=of,
        scheme=scheme,
        ranges=ranges,
        target=target,
        **fed,
    )
    if output is not None:
        found.save_picture(output, force=force)
    for remark in found.notes:
        shown.note(remark)
    if shown.form == "table":
        for place, table in enumerate(found.tables()):
            if place:
                click.echo()
            shown.show_table(shown.order.of(table) if table.columns == found.table().columns else table)
        for each in found.kept:
            click.echo()
            shown.tell(each.text)
            click.echo(f"nodes_to_exclude={json.dumps(each.nodes_to_exclude)}")  # to be copied: never broken
    else:
        shown.show(found)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _restore(model: Model, quantized: Model, inputs: list[str], fed: dict[str, Any], shown: Presentation) -> None:
    from onnxscope.narrowing.restoration import restoration

    found = restoration(model, quantized, inputs, **fed)
    for remark in found.notes:
        shown.note(remark)
    for each in found.unreachable:
        shown.note(f"{each.name} is not put back: {each.reason}")
    shown.show(found)
