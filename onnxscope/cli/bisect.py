"""The command `bisect`: which release of onnxruntime changed a model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.errors import InputError
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import Presentation, common, custom_ops_option, model_argument

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions

__all__ = ["bisect"]


@click.command(
    epilog="""\b
Examples:
  onnxscope bisect model.onnx -i x.npz --release 1.20.1..1.32.0
  onnxscope bisect model.onnx -i x.npz --release 1.24.1..
  onnxscope bisect model.onnx -i x.npz --python old/bin/python --against-python new/bin/python
"""
)
@model_argument
@input_option(required=True)
@click.option(
    "--release",
    metavar="FIRST..LAST",
    help="From which release to which; without the last one up to the one that is installed here.",
)
@click.option(
    "--package",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="What is installed: a package that brings onnxruntime.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PYTHON",
    help="The interpreter that environments are made of; without --release the first environment, given twice both.",
)
@click.option(
    "--against-python",
    metavar="PYTHON",
    help="Without --release the second environment; the one that runs onnxscope by default.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the environments in DIR, and use those that are there; by default they are removed at the end.",
)
@click.option(
    "--run-timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="S",
    help="Seconds that one release may take to run the model.",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many samples.")
@feeding_options
@dim_option
@custom_ops_option
@common
@click.pass_context
def bisect(
    context: click.Context,
    model: Path,
    inputs: tuple[str, ...],
    release: str | None,
    package: str,
    pythons: tuple[str, ...],
    against_python: str | None,
    keep: Path | None,
    run_timeout: float,
    limit: int | None,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Find the release of onnxruntime that changed what MODEL answers, or crashes on it.

    pip installs releases into throwaway environments: both ends, then by halves. With --python two environments that
    there are already are compared.

    Exit code 1 where something has changed, or nobody can say.
    """
    from onnxscope.releases.bisect_releases import bisect as search

    first, *others = pythons or (None,)
    if against_python is not None:
        others.append(against_python)
    if len(others) > 1 or (others and release is not None):
        raise InputError("too many environments: two are compared", hint="`--release` takes one `--python`, or none")
    found = search(
        model,
        list(inputs),
        release=release,
        package=package,
        python=first,
        against_python=others[0] if others else None,
        keep=keep,
        run_timeout_s=run_timeout,
        limit=limit,
        custom_ops=custom_ops,
        dims=dims,
        **feeding,
    )
    shown.show(found)
    for remark in found.notes:
        shown.note(remark)
    context.exit(int(found.verdict != "equal"))
