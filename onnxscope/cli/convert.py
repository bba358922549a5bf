"""The command `convert`: a framework's model becomes a file."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Literal

import click

from onnxscope.terminal.options import Presentation, common, custom_ops_option, force_option

__all__ = ["convert"]


@click.command()
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
@custom_ops_option
@force_option
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
    custom_ops: tuple[Path, ...],
    force: bool,
    shown: Presentation,
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
        custom_ops=custom_ops,
        force=force,
    )
    for remark in report.notes:
        shown.note(remark)
    shown.show(report)
    if report.verification is not None:
        shown.note(f"against {report.framework}: {report.verification}")
    context.exit(1 if report.verified is False else 0)


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
