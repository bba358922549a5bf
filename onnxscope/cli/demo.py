"""The command `demo`: the whole tour on a real photograph."""

from __future__ import annotations

from pathlib import Path

import click

from onnxscope.cli.options import Presentation, common

__all__ = ["demo"]


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("onnxscope-demo"), show_default=True, metavar="DIR"
)
@common
def demo(output: Path, shown: Presentation) -> None:
    """Convert the tutorial's networks and look inside them with a real photograph."""
    from onnxscope.cli.demonstration import tour

    result = tour(output, say=shown.note)
    shown.show(result)
    shown.note(
        f"In {result.folder}, a folder a model: everything on one page in report.html, pictures in features/*.png and "
        "weights/*.svg, tables in layers.txt, features.txt and weights.txt, records in features/ and weights/*.json",
    )
