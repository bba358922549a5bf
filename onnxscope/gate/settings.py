"""The `[tool.onnxscope]` table of pyproject.toml, or the same table in a file of its own.

[tool.onnxscope]
tolerance = 1e-5            # of the mean and the deviation, in units of the layer's deviation
ignore = ["fc", "op:Gemm"]  # selectors of layers and nodes whose activations and weights may change

[tool.onnxscope.tolerances] # by selector; the last that matches holds
"layer4.*" = 1e-3
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxscope.base.files import open_regular
from onnxscope.base.name_patterns import kinds_hint, matcher
from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["Settings", "find_settings", "read_settings"]

_MAX_BYTES = 1 << 20
_MADE_BY = "settings are the table [tool.onnxscope] of a pyproject.toml, or the same table in a file of its own"
_KEYS = {"tolerance", "tolerances", "ignore"}


@dataclass(frozen=True)
class Settings:
    """How strictly a model is checked.

    Attributes:
        tolerance: How far mean and deviation of a layer may move, in units of its deviation.
        tolerances: The same by selector.
        ignore: Selectors of layers and nodes that are not checked.
    """

    tolerance: float = 1e-5
    tolerances: Mapping[str, float] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    def tolerance_of(self, layer: str) -> float:
        """The tolerance of one layer; the last of the patterns that match it holds."""
        tolerances = [tolerance for pattern, tolerance in self.tolerances.items() if matcher(pattern)(layer)]
        return tolerances[-1] if tolerances else self.tolerance

    def ignores(self, layer: str) -> bool:
        """Whether a layer is left out."""
        return any(matcher(pattern)(layer) for pattern in self.ignore)


def read_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read settings from a file, or from the pyproject.toml of this folder or the nearest one above it.

    Raises:
        InputError: The named file is missing, or a table is not what it should be.
    """
    file = find_settings(path)
    if file is None:
        return Settings()
    where = printable(str(file))
    with open_regular(str(file), limit_bytes=_MAX_BYTES, hint=_MADE_BY) as stream:
        content = stream.read(_MAX_BYTES + 1)
    try:
        table: Any = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        if path is None:
            return Settings()  # another tool's fault
        raise InputError(f"not TOML ({error}): {where}") from error
    tool = table.get("tool")
    table = tool.get("onnxscope", {}) if isinstance(tool, dict) else ({} if path is None else table)
    return _settings(table, where)


def find_settings(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the file that `read_settings` reads, None where there is none."""
    if path is not None:
        return Path(path)
    here = Path.cwd()
    files = (folder / "pyproject.toml" for folder in (here, *here.parents))
    return next((file for file in files if file.is_file()), None)


def _settings(table: Any, where: str) -> Settings:
    unknown = sorted(set(table) - _KEYS) if isinstance(table, dict) else ["a table"]
    if unknown:
        raise InputError(
            f"[tool.onnxscope] has no '{printable(unknown[0])}': {where}", hint=f"its keys: {', '.join(sorted(_KEYS))}"
        )
    tolerances, ignore = table.get("tolerances", {}), table.get("ignore", [])
    if not isinstance(tolerances, dict) or not isinstance(ignore, list):
        raise InputError(f"tolerances is a table and ignore a list of selectors: {where}")
    for pattern in (*tolerances, *ignore):
        if not isinstance(pattern, str):
            raise InputError(f"not a selector: {pattern!r}: {where}")
        hint = kinds_hint(pattern)
        if hint is not None:
            raise InputError(f"no kind of selector is called {pattern.partition(':')[0]!r}: {where}", hint=hint)
        matcher(pattern)
    numbers = [table.get("tolerance", Settings.tolerance), *tolerances.values()]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or number < 0:
            raise InputError(f"not a tolerance: {number!r}: {where}", hint="give a number from 0 up")
    return Settings(float(numbers[0]), {key: float(value) for key, value in tolerances.items()}, tuple(ignore))
