"""The commands `snapshot` and `check`: a baseline, and the gate that holds a model to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxscope.errors import BaselineError
from onnxscope.options import batch_options, common, image_options, input_option, model_argument, note, show
from onnxscope.outputs import printable, write_whole

if TYPE_CHECKING:
    from onnxscope.tables import Format

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
    from onnxscope.baseline import snapshot as take

    baseline = take(
        model,
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
@model_argument
@click.option(
    "--baseline", type=click.Path(path_type=Path), metavar="BASELINE.json", required=True, help="What `snapshot` wrote."
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
    model: Path,
    baseline: Path,
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
    """Hold MODEL to a baseline of it. Exit code 1 where something is not within its tolerance."""
    from onnxscope.baseline import Baseline
    from onnxscope.checking import check as compare
    from onnxscope.gate_formats import github_annotations, junit, markdown
    from onnxscope.settings import read_settings

    if not baseline.exists():
        given = "".join(f" -i {each}" for each in inputs)
        raise BaselineError(
            f"no such baseline: {printable(str(baseline))}", hint=f"`onnxscope snapshot {model}{given} -o {baseline}`"
        )
    settings = read_settings(config)
    result = compare(
        model,
        Baseline.load(baseline),
        list(inputs) or None,
        settings=settings,
        preprocess=preprocess,
        layout=layout,
        batch_size=batch_size,
        limit=limit,
        renew=update,
    )
    for remark in result.notes:
        note(remark, quiet)
    if junit_file is not None:
        write_whole(junit_file, junit(result))
    if markdown_file is not None:
        write_whole(markdown_file, markdown(result))
    if form == "table" and result.ok:
        click.echo(f"{result.name}: {result.verdict()}")
    else:
        show(result, form)
    if github:
        for line in github_annotations(result, str(baseline)):
            click.echo(line, err=form == "json")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            with open(summary, "a", encoding="utf-8") as stream:
                stream.write(markdown(result))
    if update:
        result.merged().save(baseline)
        note(f"the baseline is rewritten: {baseline}", quiet)
    elif not result.ok:
        note("if this is intended, the same command with `--update` accepts it", quiet)
    context.exit(0 if result.ok or update else 1)
