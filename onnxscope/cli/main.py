"""The commands. stdout carries the result, stderr notes and errors.

Exit codes: 0 done; 1 `diff`, `check` or `convert --verify` found a difference; 2 the work could not be done, usage
errors included. Nothing heavier than click is imported before a command runs.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click

from onnxscope._version import __version__
from onnxscope.base.outputs import dump_json, printable, refuse_inputs
from onnxscope.cli.diff import diff
from onnxscope.cli.gate import check, snapshot
from onnxscope.cli.options import (
    channel_options,
    common,
    fail,
    input_options,
    model_argument,
    note,
    select_option,
    show,
)
from onnxscope.cli.report import report
from onnxscope.cli.stats import stats
from onnxscope.errors import OnnxscopeError

if TYPE_CHECKING:
    from onnxscope.base.tables import Format

__all__ = ["cli", "main"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; the console script's entry point."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Errors become one line, and a hint where there is one."""
    debug = "--debug" in arguments
    try:
        code = cli.main(args=arguments, prog_name="onnxscope", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "onnxscope"
        return fail(error.format_message().rstrip("."), f"`{command} --help` shows how it is used")
    except OnnxscopeError as error:
        if debug:
            raise
        return fail(str(error), error.hint)
    except BrokenPipeError:
        # The reader went away (`| head`); python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", None)
    except MemoryError:
        return fail("not enough memory", "choose fewer taps with --select")
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return fail(f"unexpected {text[:300]}", "this is a fault of onnxscope; --debug shows where")
    return code if isinstance(code, int) else 0  # what a command's context exited with


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="onnxscope")
def cli() -> None:
    """See what is inside an ONNX model: what each layer computes, and what is in its weights."""


@cli.command()
@model_argument
@select_option
@common
def inspect(model: Path, select: tuple[str, ...], form: Format, quiet: bool, debug: bool) -> None:
    """List inputs, outputs, layers and parameters of MODEL; its weights are not read."""
    from onnxscope.analyses.inspection import inspect as describe

    summary = describe(model, select=select)
    if form == "table":
        click.echo(printable_lines(summary.header()))
    show(summary, form)


@cli.command()
@model_argument
@select_option
@click.option("--bins", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Bins of the histograms.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Draw histograms into this folder."
)
@click.option(
    "--picture", type=click.Choice(["svg", "png"]), default="svg", show_default=True, help="Format of the histograms."
)
@common
def weights(
    model: Path,
    select: tuple[str, ...],
    bins: int,
    output: Path | None,
    picture: Literal["svg", "png"],
    form: Format,
    quiet: bool,
    debug: bool,
) -> None:
    """Compute statistics and a histogram of every parameter of MODEL."""
    from onnxscope.analyses.weight_statistics import weights as compute
    from onnxscope.model.loading import load_model

    loaded = load_model(model)
    if output is not None:
        from onnxscope.analyses.folders import files_in_place, save_weights

        refuse_inputs(files_in_place(output, "weights"), loaded.storage.files)
    statistics = compute(loaded, select=select, bins=bins)
    if output is not None:
        pictures = save_weights(statistics, loaded, output, picture=picture)
        note(f"{len(pictures)} histograms and weights.json are in {output}", quiet)
    show(statistics, form)
    if statistics.absent and form == "table":
        note(f"{len(statistics.absent)} parameters are not in the file, {_first(statistics.absent)}", quiet)


@cli.command()
@model_argument
@input_options(required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder of the results."
)
@channel_options
@click.option("--sample", type=click.IntRange(0), default=0, show_default=True, help="Which sample a picture shows.")
@click.option("--cmap", default="viridis", show_default=True, help="A colour map of matplotlib's.")
@click.option("--arrays", is_flag=True, help="Also write features.npz, keyed by value.")
@click.option("--verify", is_flag=True, help="Also run the model untapped and compare its outputs.")
@common
def features(
    model: Path,
    inputs: tuple[str, ...],
    output: Path,
    select: tuple[str, ...],
    at: Literal["post", "pre"],
    channels: int,
    rank: Literal["index", "std", "max", "mean"],
    sample: int,
    preprocess: str | None,
    layout: Literal["auto", "nchw", "nhwc"],
    cmap: str,
    arrays: bool,
    verify: bool,
    form: Format,
    quiet: bool,
    debug: bool,
) -> None:
    """Run MODEL on INPUT and draw what its layers compute."""
    from onnxscope.analyses.feature_maps import features as compute
    from onnxscope.analyses.folders import files_in_place, save_features
    from onnxscope.drawing.mosaics import colour_table
    from onnxscope.inputs.feeds import files_of
    from onnxscope.model.loading import load_model

    colour_table(cmap)  # a misspelt map should not cost a run
    loaded = load_model(model)
    refuse_inputs(files_in_place(output, "features"), files_of(loaded, inputs=inputs, preprocess=preprocess))
    maps = compute(
        loaded,
        list(inputs),
        select=select,
        at=at,
        preprocess=preprocess,
        layout=layout,
        channels=channels,
        rank=rank,
        sample=sample,
        verify=verify,
    )
    for remark in maps.notes:
        note(remark, quiet)
    pictures = save_features(maps, output, cmap=cmap, arrays=arrays)
    if form == "json":
        click.echo(dump_json(maps.to_dict(pictures)), nl=False)
    else:
        show(maps, form)
    for each in maps.unreachable:
        note(f"not reached: {each.name}: {each.reason}", quiet)
    if maps.tapping is not None:
        moved = f"largest difference {maps.tapping['max_abs']:.3g}, relative {maps.tapping['relative']:.3g}"
        note(f"outputs of the tapped and the untapped model: {moved}", quiet)
    note(f"{len(pictures)} pictures and features.json are in {output}", quiet)


cli.add_command(stats)
cli.add_command(diff)
cli.add_command(snapshot)
cli.add_command(check)
cli.add_command(report)


@cli.command()
@click.argument("framework", metavar="torch|tensorflow")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="MODEL.onnx")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="A checkpoint to load.")
@click.option("--arg", "arguments", multiple=True, metavar="K=V", help="An argument of the factory; repeatable.")
@click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="[NAME=]1,3,224,224",
    help="? for a dynamic dimension; repeatable.",
)
@click.option("--mode", type=click.Choice(["faithful", "deployed"]), default="faithful", show_default=True)
@click.option("--preprocess", metavar="PRESET", help="Preset to record for images.")
@click.option("--opset", type=click.IntRange(7, 30))
@click.option("--exporter", type=click.Choice(["dynamo", "legacy"]), help="Which of PyTorch's exporters.")
@click.option("--static", is_flag=True, help="Keep axis 0 of the inputs as given, not symbolic.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the initial weights.")
@click.option("--verify", is_flag=True, help="Compare the result with the framework's own layers; 1 where they differ.")
@common
@click.pass_context
def convert(
    context: click.Context,
    framework: str,
    source: str,
    output: Path,
    weights: Path | None,
    arguments: tuple[str, ...],
    shapes: tuple[str, ...],
    mode: Literal["faithful", "deployed"],
    preprocess: str | None,
    opset: int | None,
    exporter: Literal["dynamo", "legacy"] | None,
    static: bool,
    seed: int,
    verify: bool,
    form: Format,
    quiet: bool,
    debug: bool,
) -> None:
    """Export SOURCE (file.py:factory, package:factory, a saved model, or a shipped network) to ONNX."""
    from onnxscope.converting.convert_model import convert as export

    report = export(
        framework,
        source,
        output,
        weights=weights,
        arguments=dict(_key_value(argument) for argument in arguments),
        input_shapes=[_input_shape(shape) for shape in shapes],
        mode=mode,
        preprocess=preprocess,
        opset=opset,
        exporter=exporter,
        static=static,
        seed=seed,
        verify=verify,
    )
    for remark in report.notes:
        note(remark, quiet)
    show(report, form)
    if report.verification is not None:
        note(f"against {report.framework}: {report.verification}", quiet)
    context.exit(1 if report.verified is False else 0)


@cli.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("onnxscope-demo"), show_default=True, metavar="DIR"
)
@common
def demo(output: Path, form: Format, quiet: bool, debug: bool) -> None:
    """Convert the tutorial's networks and look inside them with a real photograph."""
    from onnxscope.cli.tour import tour

    made = tour(output, say=lambda text: note(text, quiet))
    show(made, form)
    note(
        f"In {made.folder}, a folder a model: everything on one page in report.html, pictures in features/*.png and "
        "weights/*.svg, tables in layers.txt, features.txt and weights.txt, records in features/ and weights/*.json",
        quiet,
    )


@cli.command()
@common
def doctor(form: Format, quiet: bool, debug: bool) -> None:
    """Show versions, execution providers and which extras are installed."""
    from onnxscope.cli.tour import examine

    show(examine(), form)


def _first(absent: Sequence[tuple[str, str]]) -> str:
    name, reason = absent[0]
    return f"the first {name}: {reason}"


def printable_lines(text: str) -> str:
    """Make each line of a text safe for a terminal."""
    return "\n".join(map(printable, text.splitlines()))


def _key_value(argument: str) -> tuple[str, Any]:
    name, separator, text = argument.partition("=")
    if not separator or not name.isidentifier():
        raise click.UsageError(f"not a K=V: {argument!r}")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, text


def _input_shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    name, _, dims = text.rpartition("=")
    parts = [part.strip() for part in dims.split(",")] if dims.strip() else []
    if not all(re.fullmatch(r"\d{1,9}|\?", part) for part in parts):
        raise click.UsageError(f"not a shape: {text!r}")
    return name, tuple(None if part == "?" else int(part) for part in parts)
