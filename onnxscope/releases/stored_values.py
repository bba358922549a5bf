"""Values in files, as another environment takes and gives them: arrays that numpy alone reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["Answers", "store_feeds"]

Array = NDArray[Any]
_PACKED = frozenset({"int4", "uint4", "int2", "uint2", "float4_e2m1fn"})
# onnxruntime's names of types that numpy lacks: their bits are stored.
_LACKING = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


def store_feeds(feeds: Mapping[str, Any], folder: Path, run: int) -> list[dict[str, Any]]:
    """Write what one run is fed, and return what the script is told of it.

    Args:
        feeds: By input an array, a list of arrays for a sequence, or None for an absent optional.
        folder: Where the files go.
        run: The run's number.

    Raises:
        InputError: A value is of a type that no file of numpy holds.
    """
    rows = []
    for place, (name, value) in enumerate(feeds.items()):
        lacking, stored = 0, value
        if isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            if array.dtype.name in _PACKED:
                raise InputError(
                    f"{array.dtype.name} is fed to {printable(name)!r}, which onnxruntime takes from no array",
                    hint="store it in the model",
                )
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
            if array.dtype.kind == "O":
                array = array.astype(str)
            elif array.dtype.type.__module__ != "numpy":
                lacking = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
                array = array.view(f"u{array.dtype.itemsize}")
            stored = array
        rows.append({"name": name, "value": _store(stored, folder, f"fed_{run}_{place}"), "lacking": lacking})
    return rows


def _store(value: Any, folder: Path, name: str) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_store(one, folder, f"{name}.{place}") for place, one in enumerate(value)]
    np.save(folder / f"{name}.npy", np.asarray(value), allow_pickle=False)
    return {"file": f"{name}.npy"}


class Answers:
    """What outputs of one job held, run by run; a value is read when it is asked for.

    Attributes:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder of a job that was done."""
        self.folder = folder
        self._runs: list[dict[str, Any]] = json.loads((folder / "values.json").read_text(encoding="utf-8"))

    @property
    def runs(self) -> int:
        """How many runs were made."""
        return len(self._runs)

    def value(self, run: int, output: str) -> Any:
        """An array, a list for a sequence, None for an absent optional, text for a map."""
        return self._read(self._runs[run][output])

    def _read(self, row: Any) -> Any:
        if row is None:
            return None
        if isinstance(row, list):
            return [self._read(one) for one in row]
        if "map" in row:
            return np.asarray(row["map"])
        array = np.load(self.folder / row["file"], allow_pickle=False)
        kind = _LACKING.get(row["dtype"])
        return array if kind is None else array.view(kind)
