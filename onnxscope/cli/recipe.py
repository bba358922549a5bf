"""The command `recipe`: record how a model is fed, so that nobody has to say it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxscope.base.files import record_file, refuse_foreign, require_folders
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import Presentation, common, custom_ops_option, force_option, model_argument

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions

__all__ = ["recipe"]


@click.command()
@model_argument
@input_option(required=False)
@feeding_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="RECIPE.json",
    help="The recipe; NAME.recipe.json beside NAME.onnx by default, where every command finds it.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="COPY.onnx",
    help="Write a copy of MODEL that holds the recipe in its metadata instead.",
)
@force_option
@dim_option
@custom_ops_option
@common
def recipe(
    model: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    into: Path | None,
    force: bool,
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Record how MODEL is fed: what is asked for, what is found on INPUT, and with which sizes it runs.

    What runs the model finds the recipe beside it or in it, and uses what nothing else is said of.
    """
    from onnxscope.analyses.recipe_finding import recipe as find
    from onnxscope.analyses.recipe_finding import write_into
    from onnxscope.datasets.read_files import refuse_read
    from onnxscope.model.loading import load_model
    from onnxscope.selection.feeding_recipes import SCHEMA, recipe_path

    loaded = load_model(model, custom_ops=custom_ops, dims=dims)
    place = recipe_path(loaded.path) if output is None and into is None else output
    refuse_read([place, into], loaded, inputs=inputs, updated=place, **feeding)
    refuse_foreign([(place, record_file(SCHEMA))], force=force)
    require_folders(place, into)
    found = find(loaded, list(inputs) or None, **feeding)
    if into is not None:
        write_into(found, model, into, force=force)
    if place is not None:
        found.save(place, force=force)
    shown.show(found)
    for remark in found.notes:
        shown.note(remark)
    for path in (place, into):
        if path is not None:
            shown.note(f"the recipe is in {path}")
