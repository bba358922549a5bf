"""The command `doctor`: what is installed."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from onnxscope._version import __version__
from onnxscope.terminal.options import Presentation, common

if TYPE_CHECKING:
    from onnxscope.base.tables import Table

__all__ = ["Examination", "doctor", "examine"]

_EXTRAS = {
    "torch": ("torch", "onnxscript", "safetensors"),
    "tensorflow": ("tensorflow-cpu", "tf2onnx", "safetensors"),
    "ray": ("ray",),
    "frames": ("pandas",),
    "text": ("tokenizers",),
    "sound": ("soundfile", "soxr"),
    "tables": ("pyarrow",),
}
_CORE = ("numpy", "onnx", "pillow", "matplotlib", "click", "rich", "jinja2")


@click.command()
@common
def doctor(shown: Presentation) -> None:
    """Show versions, execution providers and which extras are installed."""
    shown.show(examine())


@dataclass(frozen=True)
class Examination:
    """What is installed.

    Attributes:
        found: Name and version, or what is missing.
    """

    found: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.doctor/1`, ready for JSON."""
        return {"schema": "onnxscope.doctor/1", "found": dict(self.found)}

    def table(self) -> Table:
        """One row per package."""
        from onnxscope.base.tables import Table

        return Table("", ("what", "found"), self.found)


def examine() -> Examination:
    """Look for our dependencies, extras and execution providers."""
    from onnxscope.runtime.session import providers, runtime_version

    rows = [
        ("onnxscope", __version__),
        ("python", f"{platform.python_version()} on {sys.platform}"),
        ("onnxruntime", runtime_version()),
        ("execution providers", ", ".join(_shown(*provider) for provider in providers())),
    ]
    rows += [(package, _version_of(package) or "missing") for package in _CORE]
    for extra, packages in _EXTRAS.items():
        versions = {package: _version_of(package) for package in packages}
        missing = [package for package, installed in versions.items() if installed is None]
        if missing:
            shown = f"missing {', '.join(missing)}: pip install 'onnxscope[{extra}]'"
        else:
            shown = ", ".join(f"{package} {installed}" for package, installed in versions.items())
        rows.append((f"extra {extra}", shown))
    return Examination(tuple(rows))


def _shown(provider: str, origin: str) -> str:
    return provider if origin == "onnxruntime" else f"{provider} ({origin})"


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
