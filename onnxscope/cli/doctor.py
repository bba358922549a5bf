"""The command `doctor`: what is installed."""

from __future__ import annotations

import click

from onnxscope.cli.options import Presentation, common

__all__ = ["doctor"]


@click.command()
@common
def doctor(shown: Presentation) -> None:
    """Show versions, execution providers and which extras are installed."""
    from onnxscope.cli.installation import examine

    shown.show(examine())
