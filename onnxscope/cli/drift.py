"""The command `drift`: whether today's data is like yesterday's."""

from __future__ import annotations

from pathlib import Path

import click

from onnxscope.terminal.options import Presentation, common
from onnxscope.terminal.row_order import order_options

__all__ = ["drift"]


@click.command(
    epilog="""\b
Examples:
  onnxscope drift yesterday.json today.json
  onnxscope drift yesterday.json today.json --threshold 0.1
  onnxscope drift model.onnx today.json
"""
)
@click.argument("first", metavar="PROFILE|MODEL", type=click.Path(path_type=Path))
@click.argument("second", metavar="PROFILE", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=click.FloatRange(0),
    default=0.2,
    show_default=True,
    help="What a value may move by: deviations, a stability index, a share.",
)
@order_options("layer", "shift", "spread", "PSI", "Wasserstein", "outside")
@common
@click.pass_context
def drift(context: click.Context, first: Path, second: Path, threshold: float, shown: Presentation) -> None:
    """Say which layers and channels hold other values in the second PROFILE of `stats` than in the first.

    In place of the first, a MODEL is held to the running statistics of its own BatchNormalizations.

    What as many random samples differ by anyway is no drift. Exit code 1 where a value moves by more than the
    threshold, and where that cannot be decided.
    """
    from onnxscope.drifting.compare_profiles import drift as compare

    result = compare(first, second, threshold=threshold)
    shown.show(result)
    for name, reason in result.unmatched:
        shown.note(f"not compared: {name}: {reason}")
    for remark in result.notes:
        shown.note(remark)
    context.exit(int(result.verdict != "equal"))
