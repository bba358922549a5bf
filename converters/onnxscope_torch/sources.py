"""From `--arg` and SOURCE to a module: a shipped network, or the one factory that the user named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from onnxscope.converting.factories import call_factory, find_factory, split_source
from onnxscope.errors import ConversionError
from onnxscope_torch import SHIPPED, networks

__all__ = ["Source", "build_module", "find_source"]


@dataclass(frozen=True)
class Source:
    """A factory, and what to call it.

    Attributes:
        label: For provenance: the shipped name, `factory` of a file, or `package.module:factory`; never a path.
        factory: Not called yet.
        shipped: Whether it is one of ours.
    """

    label: str
    factory: Callable[..., Any]
    shipped: bool


def find_source(text: str) -> Source:
    """Resolve SOURCE. Importing the file or module that it names is the only user code that runs here.

    Raises:
        ConversionError: There is no such name, file, module or factory, or importing it failed.
    """
    if text in SHIPPED:
        return Source(text, getattr(networks, text), shipped=True)
    named = split_source(text)
    if named is None:
        raise ConversionError(
            f"no shipped network named {text!r}: PyTorch",
            hint=f"one of {', '.join(SHIPPED)}, or `path/to/file.py:factory`, or `package.module:factory`",
        )
    place, name = named
    label = name if place.endswith(".py") else text
    return Source(label, find_factory(place, name, text, nn.Module), shipped=False)


def build_module(source: Source, arguments: Mapping[str, Any], text: str) -> nn.Module:
    """Call the factory once and return its module in inference mode.

    Args:
        source: From `find_source`.
        arguments: Keyword arguments of the factory.
        text: SOURCE as the user wrote it, for messages.

    Raises:
        ConversionError: The factory does not take the arguments, raised, or returned something else.
    """
    module: nn.Module = call_factory(source.factory, arguments, text, nn.Module)
    return module.eval()
