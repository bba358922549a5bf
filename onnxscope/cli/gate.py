"""The commands `snapshot` and `check`: a baseline, and the gate that holds a model to it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxscope.base.outputs import printable, refuse_inputs, write_whole
from onnxscope.cli.options import batch_options, common, fail, image_options, input_option, model_argument, note, show
from onnxscope.errors import BaselineError, InputError, OnnxscopeError

if TYPE_CHECKING:
    from onnxscope.base.tables import Format
    from onnxscope.gate.baseline import Baseline
    from onnxscope.model.loading import Model

__all__ = ["check", "snapshot"]


@click.command()
@model_argument
@input_option(required=False)
@image_options
@batch_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="BASELINE.json",
    required=True,
    help="The baseline.",
)
@common
def snapshot(
    model: Path,
    inputs: tuple[str, ...],
    preprocess: str | None,
    layout: Literal["auto", "nchw", "nhwc"],
    batch_size: int,
    limit: int | None,
    output: Path,
    form: Format,
    quiet: bool,
    debug: bool,
) -> None:
    """Write a baseline of MODEL: structure, weights, and what its layers compute on INPUT."""
    from onnxscope.gate.baseline import snapshot as take
    from onnxscope.inputs.feeds import files_of
    from onnxscope.model.loading import load_model

    loaded = load_model(model)
    refuse_inputs([output], files_of(loaded, inputs=inputs, preprocess=preprocess))
    baseline = take(
        loaded,
        list(inputs) or None,
        preprocess=preprocess,
        layout=layout,
        batch_size=batch_size,
        limit=limit,
    )
    baseline.save(output)
    show(baseline, form)
    if not inputs:
        note("nothing was run: the baseline holds structure and weights alone; -i names an input", quiet)
    note(f"the baseline is in {output}, {output.stat().st_size:,} bytes", quiet)


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="BASELINE.json",
    help="What `snapshot` wrote; else NAME.onnxscope.json beside NAME.onnx.",
)
@input_option(required=False)
@image_options
@batch_options
@click.option("--update", is_flag=True, help="Rewrite the baseline, and print what has changed.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Tolerances; else the nearest pyproject.toml.",
)
@click.option("--junit", "junit_file", type=click.Path(path_type=Path), metavar="F.xml", help="Write JUnit XML.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), metavar="F.md", help="Write a summary.")
@click.option("--github", is_flag=True, help="Print annotations for GitHub, and add to the job's summary.")
@common
@click.pass_context
def check(
    context: click.Context,
    models: tuple[Path, ...],
    baseline: Path | None,
    inputs: tuple[str, ...],
    preprocess: str | None,
    layout: Literal["auto", "nchw", "nhwc"],
    batch_size: int,
    limit: int | None,
    update: bool,
    config: Path | None,
    junit_file: Path | None,
    markdown_file: Path | None,
    github: bool,
    form: Format,
    quiet: bool,
    debug: bool,
) -> None:
    """Hold each MODEL to a baseline of it. Exit code 1 where something is not within its tolerance."""
    from onnxscope.gate.checking import Check
    from onnxscope.gate.checking import check as diff
    from onnxscope.gate.ci_formats import Outcome, Outcomes, github_annotations, junit, markdown
    from onnxscope.gate.settings import find_settings, read_settings

    if baseline is not None and len(models) > 1:
        raise click.UsageError("--baseline is of one MODEL; several have theirs beside them")
    settings = read_settings(config)
    places = [baseline or model.parent / f"{model.stem}.onnxscope.json" for model in models]
    opened = [_opened(model) for model in models]
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if github else None
    refuse_inputs(
        [junit_file, markdown_file, summary or None, *(places if update else ())],
        [*_files_read(models, opened, inputs, preprocess), find_settings(config), *(() if update else places)],
    )
    outcomes = []
    with _no_workflow_commands(github, to_stderr=form == "json"):
        for model, name, place, loaded in zip(models, _names(models), places, opened, strict=True):
            result: Check | OnnxscopeError
            try:
                if isinstance(loaded, OnnxscopeError):
                    raise loaded
                result = diff(
                    loaded,
                    _expected(model, place, inputs, update=update),
                    list(inputs) or None,
                    settings=settings,
                    preprocess=preprocess,
                    layout=layout,
                    batch_size=batch_size,
                    limit=limit,
                    renew=update,
                )
                result = replace(result, name=name)
                for remark in result.notes:
                    note(remark if len(models) == 1 else f"{name}: {remark}", quiet)
                if form == "table" and result.ok:
                    click.echo(f"{printable(name)}: {result.verdict()}")
                elif form == "table" or len(models) == 1:
                    show(result, form)
                if update:
                    result.merged().save(place)
                    note(f"the baseline is rewritten: {place}", quiet)
            except OnnxscopeError as error:
                if debug:
                    raise
                fail(str(error), error.hint)
                result = error
            outcomes.append(Outcome(name, str(place), result))
        if form != "table" and len(models) > 1:
            show(Outcomes(tuple(outcomes)), form)
    if junit_file is not None:
        write_whole(junit_file, junit(outcomes))
    if markdown_file is not None:
        write_whole(markdown_file, markdown(outcomes))
    if github:
        for line in github_annotations(outcomes):
            click.echo(line, err=form == "json")
        if summary:
            with open(summary, "a", encoding="utf-8") as stream:
                stream.write(markdown(outcomes))
    failed = any(isinstance(each.result, OnnxscopeError) for each in outcomes)
    differs = any(isinstance(each.result, Check) and not each.result.ok for each in outcomes)
    if differs and not update:
        note("if this is intended, the same command with `--update` accepts it", quiet)
    context.exit(2 if failed else int(differs and not update))


def _opened(model: Path) -> Model | OnnxscopeError:
    """A model, or why it cannot be read: the others are checked all the same."""
    from onnxscope.model.loading import load_model

    try:
        return load_model(model)
    except OnnxscopeError as error:
        return error


def _files_read(
    models: Sequence[Path], opened: Sequence[Model | OnnxscopeError], inputs: Sequence[str], preprocess: str | None
) -> list[str | os.PathLike[str]]:
    from onnxscope.inputs.feeds import files_of

    loaded = [each for each in opened if not isinstance(each, OnnxscopeError)]
    try:
        return [*models, *files_of(*loaded, inputs=inputs, preprocess=preprocess)]
    except InputError:  # told of each model, and nothing is read then
        return [*models, *files_of(*loaded, preprocess=preprocess)]


def _names(models: Sequence[Path]) -> list[str]:
    """The models' paths below the folder that holds them all: models of one file name are told apart."""
    paths = [os.path.abspath(model) for model in models]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]


def _expected(model: Path, place: Path, inputs: Sequence[str], *, update: bool) -> Baseline:
    """Read a baseline that must be there and, to be rewritten, must not lose what it says of activations."""
    from onnxscope.gate.baseline import Baseline

    given = "".join(f" -i {each}" for each in inputs)
    if not place.exists():
        raise BaselineError(
            f"no such baseline: {printable(str(place))}", hint=f"`onnxscope snapshot {model}{given} -o {place}`"
        )
    expected = Baseline.load(place)
    if update and not inputs and expected.input is not None:
        raise InputError(
            f"an update without inputs would drop what the baseline says of activations: {printable(str(place))}",
            hint=f"name them: `onnxscope check {model} --baseline {place} -i INPUT --update`",
        )
    return expected


@contextlib.contextmanager
def _no_workflow_commands(github: bool, *, to_stderr: bool) -> Iterator[None]:
    """Keep GitHub from obeying what a model's names look like: a layer may be called `::add-mask::`."""
    if not github:
        yield
        return
    token = secrets.token_hex(16)  # a model must not be able to guess it
    click.echo(f"::stop-commands::{token}", err=to_stderr)
    try:
        yield
    finally:
        click.echo(f"::{token}::", err=to_stderr)
