"""The command `report`: one page about a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxscope.base.files import OVERLAY, PAGE, refuse_foreign, require_folders
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import (
    Presentation,
    at_option,
    batch_size_option,
    channel_options,
    common,
    custom_ops_option,
    force_option,
    model_argument,
    repeats_option,
    select_option,
)
from onnxscope.terminal.outputs import open_option, open_written, output_option
from onnxscope.terminal.streams import StatusLine

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
    from onnxscope.reporting.reports import Report

__all__ = ["report"]


@click.command()
@model_argument
@input_option(required=False)
@select_option
@at_option
@feeding_options
@output_option("REPORT.html", ".report.html", "The page")
@open_option
@click.option(
    "--profile", type=click.Path(path_type=Path), metavar="PROFILE.json", help="Show the statistics that `stats` wrote."
)
@click.option("--against", type=click.Path(path_type=Path), metavar="OTHER", help="Show another model beside this one.")
@click.option("--explain", is_flag=True, help="With --against: say why layers differ; see `onnxscope diff --explain`.")
@click.option("--time", is_flag=True, help="Also say what each layer takes of a run.")
@repeats_option
@channel_options
@click.option(
    "--cam",
    type=click.Choice(["eigen", "ablation", "score", "none"]),
    default="eigen",
    show_default=True,
    help="How the class activation map over the input is made.",
)
@click.option("--cam-layer", metavar="SELECTOR", help="The convolution that it looks at; the last one by default.")
@click.option("--target", type=click.IntRange(0), metavar="CLASS", help="The class that ablation and score look for.")
@click.option(
    "--node-data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the numbers as overlays for Model Explorer.",
)
@click.option(
    "--max-size",
    type=click.FloatRange(0.1),
    default=12,
    show_default=True,
    metavar="MB",
    help="Leave pictures out of a larger page.",
)
@force_option
@batch_size_option
@dim_option
@custom_ops_option
@common
def report(
    model: Path,
    inputs: tuple[str, ...],
    select: tuple[str, ...],
    output: Path,
    opens: bool,
    profile: Path | None,
    against: Path | None,
    explain: bool,
    time: bool,
    repeats: int,
    at: Literal["post", "pre"],
    channels: int,
    rank: Literal["index", "std", "max", "mean"],
    cam: Literal["eigen", "ablation", "score", "none"],
    cam_layer: str | None,
    target: int | None,
    node_data: Path | None,
    max_size: float,
    force: bool,
    batch_size: int,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Write one self-contained page about MODEL: what deserves attention, its layers, their pictures and numbers."""
    from onnxscope.datasets.read_files import refuse_read
    from onnxscope.model.loading import load_model
    from onnxscope.reporting.overlays import overlay_files
    from onnxscope.reporting.reports import report as make

    if explain and (against is None or not inputs):
        raise click.UsageError("--explain needs another model and what both are fed: --against and -i")
    if time and not inputs:
        raise click.UsageError("--time needs what the model is fed: -i")
    models = [load_model(path, custom_ops=custom_ops) for path in (model, against) if path is not None]
    models[0] = load_model(models[0], dims=dims)
    overlays = overlay_files(node_data) if node_data is not None else []
    refuse_read([output, *overlays], *models, inputs=inputs, read=[profile], **feeding)
    refuse_foreign([(output, PAGE), *((path, OVERLAY) for path in overlays)], force=force)
    require_folders(output)
    progress = StatusLine() if sys.stderr.isatty() and not shown.quiet else None
    try:
        result = make(
            models[0],
            list(inputs) or None,
            profile=profile,
            against=None if against is None else models[1],
            explain=explain,
            time=time,
            repeats=repeats,
            select=select,
            at=at,
            channels=channels,
            rank=rank,
            cam=None if cam == "none" else cam,
            cam_layer=cam_layer,
            target=target,
            **feeding,
            batch_size=batch_size,
            max_bytes=int(max_size * 1_000_000),
            progress=progress,
        )
    finally:
        if progress is not None:
            progress.clear()
    result.save(output, force=force)
    shown.show(result)
    comparison = result.content.comparison
    if comparison is not None:
        shown.note(f"against {comparison.b['name']}: {comparison.summary()}")
    for remark in (*result.content.notes, *result.page.left_out):
        shown.note(remark)
    if node_data is not None:
        _write_overlays(result, node_data, shown, force=force)
    shown.note(f"the page is in {output}, {output.stat().st_size:,} bytes")
    if opens:
        open_written(output)


def _write_overlays(report: Report, folder: Path, shown: Presentation, *, force: bool) -> None:
    from onnxscope.reporting.overlays import write_node_data

    content = report.content
    overlays = write_node_data(
        folder,
        report.model,
        activations=content.statistics or content.maps,
        weights=content.weights,
        comparison=content.comparison,
        force=force,
    )
    written = [overlay for overlay in overlays if overlay.file is not None]
    missing = {name: reason for overlay in written for name, reason in overlay.left_out}
    for name, reason in list(missing.items())[:3]:
        shown.note(f"not in the overlays: {name}: {reason}")
    if len(missing) > 3:
        shown.note(f"nor are {len(missing) - 3:,} more")
    shown.note(f"{len(written)} overlays for Model Explorer are in {folder}")
