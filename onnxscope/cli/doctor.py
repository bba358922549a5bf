"""The command `doctor`: what is installed, and how a model's pictures must be prepared."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxscope._version import __version__
from onnxscope.errors import InputError
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option
from onnxscope.terminal.options import Presentation, common, custom_ops_option

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
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


@click.command(
    epilog="""\b
Examples:
  onnxscope doctor
  onnxscope doctor model.onnx -i photo.jpg
  onnxscope doctor model.onnx -i photo.jpg --expect right.npy
"""
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@input_option(required=False)
@feeding_options
@click.option(
    "--expect",
    type=click.Path(path_type=Path),
    metavar="OUT.npy",
    help="What MODEL has to give for these pictures, along the first axis; a .npz names its outputs.",
)
@dim_option
@custom_ops_option
@common
def doctor(
    model: Path | None,
    inputs: tuple[str, ...],
    feeding: FeedingOptions,
    expect: Path | None,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Show versions, execution providers and which extras are installed.

    Of a MODEL, say how its pictures must be prepared: all usual ways are tried on those of -i, and ranked by how far
    what enters the first BatchNormalization is from its running mean and variance, or by the error of the output where
    the right one is known.
    """
    if model is None:
        if inputs or expect is not None:
            raise InputError("pictures, and no model that takes them", hint="`onnxscope doctor MODEL -i photo.jpg`")
        shown.show(examine())
        return
    if not inputs:
        raise InputError("nothing to try on the model", hint=f"`onnxscope doctor {model} -i photo.jpg`")
    from onnxscope.preparing.find_preparation import preparation
    from onnxscope.preparing.prepared_result import as_option

    found = preparation(model, list(inputs), expect=expect, custom_ops=custom_ops, dims=dims, **feeding)
    shown.show(found)
    for remark in found.notes:
        shown.note(remark)
    if found.answer is not None:
        shown.note(
            f"`onnxscope recipe {model} --preprocess {as_option(found.answer)}` has every command prepare pictures so"
        )


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
