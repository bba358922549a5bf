"""The command `check`: the gate that holds models to their baselines."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onnxscope.base.files import JUNIT, MARKDOWN, refuse_foreign, refuse_inputs, require_folders, write_whole
from onnxscope.base.run_options import RecipeUsed
from onnxscope.base.text import printable
from onnxscope.errors import BaselineError, InputError, OnnxscopeError
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import (
    Presentation,
    batch_options,
    common,
    custom_ops_option,
    force_option,
    select_option,
)
from onnxscope.terminal.streams import fail

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
    from onnxscope.gate.baseline import Baseline
    from onnxscope.gate.check_result import Check
    from onnxscope.gate.ci_formats import Outcome
    from onnxscope.model.loading import Model

__all__ = ["check"]


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="BASELINE.json",
    help="What `snapshot` wrote; else NAME.onnxscope.json beside NAME.onnx.",
)
@input_option(required=False)
@select_option
@feeding_options
@batch_options
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    metavar="PROFILE.json",
    help="Of `stats` on earlier data: INPUT is held to that, as `drift` does.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0),
    default=0.2,
    show_default=True,
    help="What a value of --profile may move by.",
)
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
@force_option
@dim_option
@custom_ops_option
@common
@click.pass_context
def check(
    context: click.Context,
    models: tuple[Path, ...],
    baseline: Path | None,
    inputs: tuple[str, ...],
    select: tuple[str, ...],
    batch_size: int,
    limit: int | None,
    profile: Path | None,
    threshold: float,
    update: bool,
    config: Path | None,
    junit_file: Path | None,
    markdown_file: Path | None,
    github: bool,
    force: bool,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Hold each MODEL to a baseline of it.

    Exit code 1 where something is not within its tolerance, and where that cannot be decided: something does not
    reproduce, or could not be compared.
    """
    from onnxscope.gate.ci_formats import Outcome, Outcomes
    from onnxscope.gate.settings import find_settings, read_settings

    if update and select:
        raise click.UsageError("--update takes all of a baseline; leave --select out")
    if baseline is not None and len(models) > 1:
        raise click.UsageError("--baseline is of one MODEL; several have theirs beside them")
    if profile is not None and (update or not inputs or len(models) > 1):
        raise click.UsageError("--profile goes with one MODEL and -i, and without --update")
    if profile is None and context.get_parameter_source("threshold") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--threshold is of --profile; tolerances of a baseline stand in --config")
    settings = read_settings(config)
    places = [baseline or model.parent / f"{model.stem}.onnxscope.json" for model in models]
    opened = [_opened(model, custom_ops, dims) for model in models]
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if github else None
    refuse_inputs(
        [junit_file, markdown_file, summary or None, *(places if update else ())],
        [*_files_read(models, opened, inputs, feeding), find_settings(config), profile, *(() if update else places)],
    )
    refuse_foreign([(junit_file, JUNIT), (markdown_file, MARKDOWN)], force=force)
    require_folders(junit_file, markdown_file)
    asked: dict[str, Any] = {"select": select, **feeding, "batch_size": batch_size, "limit": limit}
    if profile is not None:
        asked |= {"profile": profile, "threshold": threshold}
    gate = _Gate(inputs=inputs, options={**asked, "settings": settings}, update=update, single=len(models) == 1)
    to_stderr = shown.form == "json"
    with _no_workflow_commands(github, to_stderr=to_stderr):
        outcomes = [
            Outcome(name, str(place), gate.outcome(model, name, place, loaded, shown))
            for model, name, place, loaded in zip(models, _names(models), places, opened, strict=True)
        ]
        if shown.form != "table" and len(models) > 1:
            shown.show(Outcomes(tuple(outcomes)))
    _write_for_ci(outcomes, junit_file, markdown_file)
    if github:
        _annotate(outcomes, summary, to_stderr=to_stderr)
    failed = any(isinstance(outcome.result, OnnxscopeError) for outcome in outcomes)
    verdicts = {outcome.result.verdict for outcome in outcomes if not isinstance(outcome.result, OnnxscopeError)}
    if "differs" in verdicts and not update:
        shown.note("if this is intended, the same command with `--update` accepts it")
    context.exit(2 if failed else int(verdicts != {"equal"} and not update))


@dataclass(frozen=True)
class _Gate:
    """Holds one model after the other to its baseline.

    Attributes:
        inputs: What the models are fed.
        options: Of the library's `check`.
        update: Whether baselines are rewritten.
        single: Whether there is one model alone, which needs no name before what is said of it.
    """

    inputs: Sequence[str]
    options: Mapping[str, Any]
    update: bool
    single: bool

    def outcome(
        self, model: Path, name: str, place: Path, loaded: Model | OnnxscopeError, shown: Presentation
    ) -> Check | OnnxscopeError:
        """Check one model and say what became of it; a fault is said too, and ends nothing."""
        try:
            if isinstance(loaded, OnnxscopeError):
                raise loaded
            return self._checked(model, name, place, loaded, shown)
        except OnnxscopeError as error:
            if shown.debug:
                raise
            fail(str(error), error.hint)
            return error

    def _checked(self, model: Path, name: str, place: Path, loaded: Model, shown: Presentation) -> Check:
        from onnxscope.gate.checking import check as compare

        expected = _expected(model, place, self.inputs, update=self.update)
        result = compare(loaded, expected, list(self.inputs) or None, renew=self.update, **self.options)
        result = replace(result, name=name)
        for remark in (*RecipeUsed.notes_of(result.found.input), *result.notes):
            shown.note(remark if self.single else f"{name}: {remark}")
        if shown.form == "table" and result.ok:
            shown.tell(f"{name}: {result.summary()}")
        elif shown.form == "table" or self.single:
            shown.show(result)
        if self.update:
            result.merged().save(place)
            shown.note(f"the baseline is rewritten: {place}")
        return result


def _write_for_ci(outcomes: Sequence[Outcome], junit_file: Path | None, markdown_file: Path | None) -> None:
    from onnxscope.gate.ci_formats import junit, markdown

    if junit_file is not None:
        write_whole(junit_file, junit(outcomes))
    if markdown_file is not None:
        write_whole(markdown_file, markdown(outcomes))


def _annotate(outcomes: Sequence[Outcome], summary: str | None, *, to_stderr: bool) -> None:
    """Print annotations for GitHub, and add to the job's summary where it has one."""
    from onnxscope.gate.ci_formats import github_annotations, markdown

    for line in github_annotations(outcomes):
        click.echo(line, err=to_stderr)
    if summary:
        with open(summary, "a", encoding="utf-8") as stream:
            stream.write(markdown(outcomes))


def _opened(model: Path, custom_ops: Sequence[Path], dims: Mapping[str, int]) -> Model | OnnxscopeError:
    """A model, or why it cannot be read: the others are checked all the same."""
    from onnxscope.model.loading import load_model

    try:
        return load_model(model, custom_ops=custom_ops, dims=dims)
    except OnnxscopeError as error:
        return error


def _files_read(
    models: Sequence[Path], opened: Sequence[Model | OnnxscopeError], inputs: Sequence[str], feeding: FeedingOptions
) -> list[str | os.PathLike[str]]:
    from onnxscope.datasets.read_files import files_of

    loaded = [model for model in opened if not isinstance(model, OnnxscopeError)]
    try:
        return [*models, *files_of(*loaded, inputs=inputs, **feeding)]
    except InputError:  # told of each model, and nothing is read then
        return [*models, *files_of(*loaded, **feeding)]


def _names(models: Sequence[Path]) -> list[str]:
    """The models' paths below the folder that holds them all: models of one file name are told apart."""
    paths = [os.path.abspath(model) for model in models]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]


def _expected(model: Path, place: Path, inputs: Sequence[str], *, update: bool) -> Baseline:
    """Read a baseline that must be there and, to be rewritten, must not lose what it says of activations."""
    from onnxscope.gate.baseline import Baseline

    arguments = "".join(f" -i {source}" for source in inputs)
    if not os.path.exists(place):
        raise BaselineError(
            f"no such baseline: {printable(str(place))}", hint=f"`onnxscope snapshot {model}{arguments} -o {place}`"
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
