"""What may stand in place of a layer's value: zero, the mean over the samples, an array, another model's value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxscope.base import option_types
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import to_array
from onnxscope.inputs.sources import open_input
from onnxscope.model.loading import Model, load_model
from onnxscope.readers.npy import read_npy, read_npz
from onnxscope.readers.tensor_files import map_safetensors, read_pb

__all__ = ["Replacement", "Replacements", "read_replacements", "replacement_files", "replacements_of"]

Array = NDArray[Any]
Replacements = Mapping[str, Any]
"""By layer what stands in place of its value: `zero`, `mean`, an array, or a model; either of them also as a path."""

_ARRAYS = (".npy", ".npz", ".safetensors", ".pb")
_HINT = "LAYER=zero, LAYER=mean, LAYER=FILE.npy or LAYER=MODEL.onnx"


@dataclass(frozen=True, eq=False)
class Replacement:
    """What stands in place of the value of a layer.

    Attributes:
        layer: A selector.
        kind: What it is.
        name: What records and messages call it: a file's name without its folder, `zero`, `mean` or `array`.
        model: Another model, None for any other kind.
        array: An array that was given, None for any other kind.
        path: The file that an array is in, None where there is none.
    """

    layer: str
    kind: Literal["zero", "mean", "array", "model"]
    name: str
    model: Model | None = None
    array: Array | None = None
    path: str | None = None

    def read(self, value: str, layer: str) -> Array:
        """Return the array that stands in place of a value.

        Args:
            value: The value's name: of several arrays in a file that of this name is taken, else that of the layer's.
            layer: The layer's name.

        Raises:
            InputError: There is no such file, it is broken, or holds several arrays, none of which has such a name.
        """
        if self.path is None:
            assert self.array is not None
            return self.array
        where = printable(self.path)
        if not os.path.isfile(self.path):
            raise InputError(f"no such file: {where}", hint=f"give {_HINT}")

        def choose(names: list[str]) -> Mapping[str, str]:
            found = next((name for name in (value, layer) if name in names), None)
            if found is None and len(names) == 1:
                found = names[0]
            if found is None:
                shown = ", ".join(map(printable, names[:5])) or "nothing"
                raise InputError(
                    f"no array called {printable(value)!r} or {printable(layer)!r}: {where}",
                    hint=f"it holds {shown}; a .npy holds one array, whatever it is called",
                )
            return {"": found}

        suffix = os.path.splitext(self.path)[1].lower()
        with open_input(self.path) as stream:
            if suffix == ".npz":
                return read_npz(stream, where, choose)[""]
            if suffix == ".safetensors":
                return np.array(map_safetensors(stream, where, choose)[""])
            return read_pb(stream, where) if suffix == ".pb" else read_npy(stream, where)


def read_replacements(texts: Sequence[str]) -> dict[str, str]:
    """Read what `--replace` was given: `LAYER=zero`, `LAYER=mean`, `LAYER=FILE.npy` or `LAYER=MODEL.onnx`.

    Raises:
        InputError: It is none of these, or a layer is named twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        layer, _, source = text.partition("=")
        if not layer or not source:
            raise InputError(f"not LAYER=WHAT, but {printable(text)!r}: give {_HINT}")
        if layer in given:
            both = f"{printable(given[layer])} and {printable(source)}"
            raise InputError(f"two replacements of {printable(layer)!r}: {both}")
        given[layer] = source
    return given


def replacement_files(replace: Replacements | None) -> list[str]:
    """Return the files that replacements are read from; a model's external data is not among them.

    Raises:
        InputError: They are not by layer.
    """
    sources = _checked(replace or {}).values()
    paths = (os.fspath(source) for source in sources if isinstance(source, str | os.PathLike))
    return [path for path in paths if path not in ("zero", "mean")]


def replacements_of(replace: Replacements) -> list[Replacement]:
    """Return what a caller's keyword says; models are loaded.

    Raises:
        InputError: A source is nothing that may stand in place of a value.
        ModelError: A model cannot be read.
    """
    loaded: dict[str, Model] = {}
    return [_replacement(layer, source, loaded) for layer, source in _checked(replace).items()]


def _checked(replace: Replacements) -> Replacements:
    option_types.mapping("replace", replace, "what stands in place of a value, by layer")
    return replace


def _replacement(layer: str, source: Any, loaded: dict[str, Model]) -> Replacement:
    if isinstance(source, Model | ModelProto):
        model = load_model(source)
        return Replacement(layer, "model", model.name, model=model)
    if not isinstance(source, str | os.PathLike):
        return Replacement(layer, "array", "array", array=to_array(source, f"in place of {printable(layer)!r}"))
    path = os.fspath(source)
    if path == "zero":
        return Replacement(layer, "zero", path)
    if path == "mean":
        return Replacement(layer, "mean", path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _ARRAYS:
        return Replacement(layer, "array", printable(os.path.basename(path)), path=path)
    if suffix in (".onnx", ".ort") or os.path.isfile(path):
        model = loaded[path] = loaded.get(path) or load_model(path)
        return Replacement(layer, "model", model.name, model=model)
    raise InputError(f"nothing to put in place of {printable(layer)!r}: {printable(path)!r}", hint=f"give {_HINT}")
