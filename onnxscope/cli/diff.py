"""The command `diff`: two models compared layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.base.text import printable
from onnxscope.cli.feeding import dim_option, feeding_options, input_option
from onnxscope.cli.options import (
    Presentation,
    batch_options,
    common,
    custom_ops_option,
    select_option,
)

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
    from onnxscope.comparison.align_layers import Align

__all__ = ["diff"]


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@input_option(required=False)
@select_option
@feeding_options
@click.option(
    "--align",
    type=click.Choice(["auto", "name", "structure", "content"]),
    default="auto",
    show_default=True,
    help="By what layers are paired; content is weights, then values.",
)
@click.option("--rtol", type=click.FloatRange(0), help="Relative tolerance of an element, as in numpy.isclose.")
@click.option("--atol", type=click.FloatRange(0), help="Absolute tolerance of an element.")
@click.option("--weights-only", is_flag=True, help="Compare weights and structure; run nothing.")
@batch_options
@dim_option
@custom_ops_option
@common
@click.pass_context
def diff(
    context: click.Context,
    a: Path,
    b: Path,
    inputs: tuple[str, ...],
    select: tuple[str, ...],
    align: Align,
    rtol: float | None,
    atol: float | None,
    weights_only: bool,
    batch_size: int,
    limit: int | None,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Compare the models A and B layer by layer: where does it start, and who is to blame?

    Exit code 1 where they differ by more than ten times the noise, beyond --rtol and --atol where these are given, and
    where that cannot be decided: something does not reproduce, or could not be compared.
    """
    from onnxscope.comparison.compare_models import diff as compare

    result = compare(
        a,
        b,
        list(inputs) if inputs and not weights_only else None,
        align=align,
        rtol=rtol,
        atol=atol,
        select=select,
        **feeding,
        batch_size=batch_size,
        limit=limit,
        custom_ops=custom_ops,
        dims=dims,
    )
    for remark in result.notes:
        shown.note(remark)
    if not result.was_run:
        shown.note("nothing was run: weights and structure alone are compared; -i names an input")
    if shown.form == "table":
        if result.was_run or result.is_ranked:
            shown.show(result)
            click.echo()
        changes = result.changes_table()
        if changes.rows:
            shown.show_table(changes)
            click.echo()
        click.echo(printable(result.summary()))
    else:
        shown.show(result)
    context.exit(0 if result.equal else 1)
