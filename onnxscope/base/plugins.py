"""Find converters and engines by name among the installed packages."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from onnxscope.errors import MissingDependencyError

__all__ = ["converter_names", "engine_names", "load_converter", "load_engine"]

_CONVERTERS = "onnxscope.converters"
_ENGINES = "onnxscope.engines"


def converter_names() -> list[str]:
    """Return the frameworks that can be converted from, sorted."""
    return sorted(entry.name for entry in entry_points(group=_CONVERTERS))


def load_converter(framework: str) -> Any:
    """Return the converter module registered under a framework's name; importing it loads no framework.

    Raises:
        MissingDependencyError: There is none.
    """
    return _load(_CONVERTERS, framework, f"no converter for {framework!r}", "installed converters")


def engine_names() -> list[str]:
    """Return the engines that can run shards, sorted."""
    return sorted(entry.name for entry in entry_points(group=_ENGINES))


def load_engine(name: str) -> Any:
    """Return the engine class registered under a name; importing it loads no framework.

    Raises:
        MissingDependencyError: There is none.
    """
    return _load(_ENGINES, name, f"no engine {name!r}", "installed engines")


def _load(group: str, name: str, fault: str, what: str) -> Any:
    for entry in entry_points(group=group, name=name):
        return entry.load()
    known = ", ".join(sorted(entry.name for entry in entry_points(group=group))) or "none"
    raise MissingDependencyError(fault, hint=f"{what}: {known}")
