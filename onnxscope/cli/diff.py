"""The command `diff`: two models compared layer by layer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import InputError, RunError
from onnxscope.terminal.feeding import against_options, dim_option, feeding_options, input_option, replace_option
from onnxscope.terminal.options import (
    Presentation,
    batch_options,
    common,
    custom_ops_option,
    force_option,
    repeats_option,
    select_option,
)
from onnxscope.terminal.row_order import order_options

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
    from onnxscope.comparison.result import Comparison
    from onnxscope.model.loading import Model
    from onnxscope.pairing.align_layers import Align
    from onnxscope.providers.provider import Optimization

__all__ = ["diff"]

_NUMBERS = ("max abs", "relative", "own", "noise", "SQNR dB", "cosine", "beyond")
_RATIOS = ("SNR dB", "own SNR", "weights SNR")  # of a partner in few bits


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
@input_option(required=False)
@select_option
@replace_option
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
@against_options
@click.option("--time", is_flag=True, help="Also say what each layer takes in both, and which is faster.")
@repeats_option
@click.option(
    "--extract",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Cut the guilty layer out of both models, into DIR/a and DIR/b; see `onnxscope extract`.",
)
@click.option("--shrink", is_flag=True, help="Make both parts of --extract smaller together, while they differ.")
@click.option(
    "--explain",
    is_flag=True,
    help="Try which edit mends each guilty layer of B, and which layers carry the outputs' difference.",
)
@click.option(
    "--mend",
    type=click.Path(path_type=Path),
    metavar="OUT.onnx",
    help="Write B with these edits, and compare it again; implies --explain.",
)
@force_option
@dim_option
@custom_ops_option
@order_options("layer", *_NUMBERS, *_RATIOS)
@common
@click.pass_context
def diff(
    context: click.Context,
    a: Path,
    b: Path | None,
    inputs: tuple[str, ...],
    select: tuple[str, ...],
    align: Align,
    rtol: float | None,
    atol: float | None,
    weights_only: bool,
    batch_size: int,
    limit: int | None,
    extract: Path | None,
    shrink: bool,
    explain: bool,
    mend: Path | None,
    force: bool,
    replace: dict[str, str],
    against_provider: str | None,
    against_optimization: Optimization | None,
    against_threads: int | None,
    time: bool,
    repeats: int,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Compare the models A and B layer by layer: where does it start, and who is to blame?

    Where A or B is a checkpoint (.safetensors), weights alone are compared: what became of every tensor of either.

    Without B, A is compared with itself, run in another way: --against-provider, --against-optimization or
    --against-threads.

    Exit code 1 where they differ by more than ten times the noise, beyond --rtol and --atol where these are given, and
    where that cannot be decided: something does not reproduce, or could not be compared.
    """
    from onnxscope.checkpoints.checkpoint import is_checkpoint, load_weights
    from onnxscope.comparison.compare_models import diff as compare
    from onnxscope.comparison.two_ways import WaysComparison

    has_graphs = not is_checkpoint(a) and not is_checkpoint(b)
    if not has_graphs and (explain or mend is not None or extract is not None):
        raise click.UsageError("a checkpoint has no layers to explain, mend or extract")
    if extract is not None and (weights_only or not inputs):
        raise click.UsageError("--extract needs what the models are fed: -i")
    if shrink and extract is None:
        raise click.UsageError("--shrink needs a place for the two parts: --extract")
    if (explain or mend is not None) and (weights_only or not inputs):
        raise click.UsageError("--explain and --mend need what the models are fed: -i")
    if time and (weights_only or not inputs):
        raise click.UsageError("--time needs what the models are fed: -i")
    if time and (not has_graphs or explain or mend is not None or replace):
        raise click.UsageError("--time measures two models as they are: leave --explain, --mend and --replace out")
    if replace and (explain or mend is not None or extract is not None):
        raise click.UsageError("--explain, --mend and --extract take B as it is: run them without --replace")
    in_two_ways = not all(value is None for value in (against_provider, against_optimization, against_threads))
    if in_two_ways and not has_graphs:
        raise click.UsageError("a checkpoint has no layers to run in another way")
    if in_two_ways and (weights_only or not inputs):
        raise click.UsageError("--against-… needs what the models are fed: -i")
    if in_two_ways and (explain or mend is not None or extract is not None):
        raise click.UsageError("--explain, --mend and --extract run both in the same way: leave --against-… out")
    if b is None and not in_two_ways:
        raise click.UsageError("Missing argument 'B', or another way of running A: --against-provider")
    second = a if b is None else b
    models = load_weights(a, custom_ops=custom_ops, dims=dims), load_weights(second, custom_ops=custom_ops)
    if extract is not None:
        _refuse(extract, models, inputs, feeding, force)
    if mend is not None:
        _refuse_mended(mend, models, inputs, feeding, force)
    given = list(inputs) if inputs and not weights_only else None
    if explain or mend is not None:
        from onnxscope.explaining.explain_models import explain as explained

        compare = functools.partial(explained, mend=mend, force=force)
    else:
        compare = functools.partial(
            compare,
            replace=replace,
            against_provider=against_provider,
            against_optimization=against_optimization,
            against_threads=against_threads,
            time=time,
            repeats=repeats,
        )
    result = compare(
        models[0],
        None if b is None else models[1],
        given,
        align=align,
        rtol=rtol,
        atol=atol,
        select=select,
        **feeding,
        batch_size=batch_size,
        limit=limit,
    )
    for remark in result.notes:
        shown.note(remark)
    if not result.was_run and has_graphs:
        shown.note("nothing was run: weights and structure alone are compared; -i names an input")
    if shown.form == "table":
        if result.was_run or result.is_ranked:
            shown.show(result)
            click.echo()
        changes = result.changes_table()
        if changes.rows:
            shown.show_table(changes)
            click.echo()
        shown.tell(result.summary())
        if result.times is not None:
            shown.tell(result.times.text)
        for line in result.lines if isinstance(result, WaysComparison) else ():
            shown.tell(line)
        _show_reasons(result, mend, shown)
    else:
        shown.show(result)
    if extract is not None:
        options = RunOptions(**feeding, batch_size=batch_size, limit=limit)
        for remark in _cut(extract, result, models, list(inputs), options, force, shrink):
            shown.note(remark)
    context.exit(0 if result.equal else 1)


def _show_reasons(result: Comparison, mend: Path | None, shown: Presentation) -> None:
    """Print why layers differ, which carry the difference, and how the mended copy compares."""
    from onnxscope.explaining.explained import ExplainedComparison

    if not isinstance(result, ExplainedComparison):
        return
    for explanation in result.explanations:
        shown.tell(f"{explanation.a.layer}: {explanation.text}")
    if result.causes is not None:
        shown.tell(result.causes.text)
    if mend is not None:
        nothing = "nothing is explained, so no mended copy is written"
        shown.tell(f"{mend}: {result.mended.summary()}" if result.mended is not None else nothing)


def _refuse_mended(
    place: Path, models: tuple[Model, Model], inputs: tuple[str, ...], feeding: FeedingOptions, force: bool
) -> None:
    from onnxscope.datasets.read_files import refuse_read
    from onnxscope.explaining.mended_copy import mended_files, refuse_mended

    refuse_read(mended_files(place), *models, inputs=inputs, **feeding)
    refuse_mended(place, force=force)


def _refuse(
    folder: Path, models: tuple[Model, Model], inputs: tuple[str, ...], feeding: FeedingOptions, force: bool
) -> None:
    from onnxscope.datasets.read_files import refuse_read
    from onnxscope.extracting.part_folder import files_of_part, refuse_others

    written = [path for name in ("a", "b") for path in files_of_part(folder / name)]
    refuse_read(written, *models, inputs=inputs, **feeding)
    for name in ("a", "b"):
        refuse_others(folder / name, force=force)


def _cut(
    folder: Path,
    result: Comparison,
    models: tuple[Model, Model],
    inputs: list[str],
    options: RunOptions,
    force: bool,
    shrink: bool,
) -> list[str]:
    """Write the guilty layer of both models, and return what there is to say of it."""
    from onnxscope.extracting.guilty_parts import extract_guilty
    from onnxscope.selection.feeding_recipes import load_to_run

    first, options = load_to_run(models[0], options, inputs)
    try:
        parts = extract_guilty(result, first, models[1], inputs, options, shrink=shrink)
    except (InputError, RunError) as error:  # the verdict stands
        return [f"the guilty layer is not extracted: {error}"]
    if parts is None:
        return ["no layer adds a difference of its own, so none is extracted"]
    remarks = []
    for name, part in zip(("a", "b"), parts, strict=True):
        part.save(folder / name, force=force)
        remarks += [f"{name}: {remark}" for remark in part.notes]
        remarks += [] if part.shrunk is None else [f"{name}: {part.shrunk}"]
    layer = ", ".join(parts[0].layers[:3])
    return [*remarks, f"the guilty layer ({layer}) of both is in {folder / 'a'} and {folder / 'b'}"]
