"""Find converters by name among the installed packages."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from onnxscope.errors import MissingDependencyError

__all__ = ["converter_names", "load_converter"]

_CONVERTERS = "onnxscope.converters"


def converter_names() -> list[str]:
    """Return the frameworks that can be converted from, sorted."""
    return sorted(entry.name for entry in entry_points(group=_CONVERTERS))


def load_converter(framework: str) -> Any:
    """Return the converter module registered under a framework's name; importing it loads no framework.

    Raises:
        MissingDependencyError: There is none.
    """
    for entry in entry_points(group=_CONVERTERS, name=framework):
        return entry.load()
    known = ", ".join(converter_names()) or "none"
    raise MissingDependencyError(f"no converter for {framework!r}", hint=f"installed converters: {known}")
