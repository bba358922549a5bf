"""Python packages that bring execution providers as plug-ins: which are installed, and where their libraries lie.

Such a package is called `onnxruntime-ep-NAME` where it follows onnxruntime's advice, and its module has
`get_library_path()` and `get_ep_names()`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from types import ModuleType

from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError

__all__ = ["PlugIn", "plug_in_of", "plug_ins"]

_PREFIX = "onnxruntime-ep-"
_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class PlugIn:
    """A plug-in that a Python package brings.

    Attributes:
        package: The package, as it is installed.
        version: Of it, None where nobody says.
        library: Its library, resolved.
        providers: The execution providers in it, by onnxruntime's names.
    """

    package: str
    version: str | None
    library: Path
    providers: tuple[str, ...]


@cache
def plug_ins() -> tuple[PlugIn, ...]:
    """Return the plug-ins that are installed under the usual name; one that cannot be imported is left out."""
    names = {distribution.metadata["Name"] for distribution in distributions()} - {None}
    found = []
    for name in sorted(name for name in names if re.sub(r"[-_.]+", "-", name).lower().startswith(_PREFIX)):
        try:
            found.append(_read(name, re.sub(r"[-_.]+", "_", name).lower()))
        except InputError:  # it is said where somebody asks for it
            continue
    return tuple(found)


def plug_in_of(package: str) -> PlugIn | None:
    """Return the plug-in of a Python package, whose code runs; None where no such package is installed.

    Args:
        package: As it is installed, or as it is imported.

    Raises:
        InputError: The package brings no plug-in.
    """
    if not _NAME.fullmatch(package):
        return None
    module = package.replace("-", "_")
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    return _read(package, module)


def _read(package: str, module: str) -> PlugIn:
    """Raises: InputError: It cannot be imported, or brings no plug-in."""
    try:
        imported = importlib.import_module(module)
        library = Path(imported.get_library_path()).resolve()
        providers = _providers_of(imported)
    except Exception as error:  # whatever a package raises
        raise InputError(
            f"the package brings no execution provider ({first_line(error)}): {printable(package)}",
            hint="its module has `get_library_path()` and `get_ep_names()`; `onnxscope doctor` lists those that have",
        ) from error
    if not providers or not library.is_file():
        raise InputError(
            f"the package brings no execution provider (its library is missing): {printable(package)}",
            hint="install it again",
        )
    return PlugIn(package, _version_of(package), library, providers)


def _providers_of(module: ModuleType) -> tuple[str, ...]:
    several = getattr(module, "get_ep_names", None)
    return tuple(map(str, several())) if several is not None else (str(module.get_ep_name()),)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return None
