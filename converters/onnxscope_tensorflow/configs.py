"""Refuse what a saved Keras model could run or read when it is loaded, by looking at its configuration only."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from onnxscope.base.text import printable
from onnxscope.errors import ConversionError

__all__ = ["check_config", "check_links", "read_h5_config", "read_keras_config"]

_MAX_CONFIG_BYTES = 256 << 20
_FACTORY_HINT = "name a factory that builds the model, `file.py:factory`, and pass its weights as `--weights`"
_CODE = {"Lambda": "Lambda", "__lambda__": "Lambda"}
_OUTSIDE = ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# Parts of keras whose functions and classes compute and do nothing else; `keras.utils.get_file` is elsewhere.
_MODELING = {
    "activations",
    "backend",
    "constraints",
    "dtype_policies",
    "initializers",
    "layers",
    "legacy",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "quantizers",
    "random",
    "regularizers",
}
_CODE_IN_MODULE = ("function", "type")


def read_keras_config(path: Path) -> Any:
    """Return the configuration in a `.keras` file.

    Raises:
        ConversionError: It is no `.keras` file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MAX_CONFIG_BYTES:
                raise ConversionError(f"its config.json is absurdly long: {path}")
            for name in archive.namelist():
                if name.startswith(("/", "\\")) or ".." in Path(name).parts:
                    raise ConversionError(f"it holds a file that would leave its folder, '{printable(name)}': {path}")
            return json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ConversionError(f"not a .keras file: {path}", hint="`model.save('model.keras')` writes one") from error


def read_h5_config(path: Path) -> Any:
    """Return the configuration in a legacy `.h5` file.

    Raises:
        ConversionError: It is not HDF5, or holds weights only.
    """
    with _open_h5(path) as file:
        check_links(file, path)
        text = file.attrs.get("model_config")
        if text is None:
            raise ConversionError(f"the file holds weights, but no model: {path}", hint=_FACTORY_HINT)
        try:
            return json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConversionError(f"its model configuration cannot be read: {path}") from error


def check_config(config: Any, path: Path) -> None:
    """Refuse a configuration with Python code, code from elsewhere, or files to read. Runs nothing.

    Keras's `safe_mode` is meant to do this, but has not always reached the legacy format.

    Raises:
        ConversionError: Names the layer.
    """
    for entry, name in _entries(config):
        kind = entry.get("class_name")
        shown = printable(str(name or kind))
        if kind in _CODE:
            raise ConversionError(
                f"the Lambda layer {shown!r} holds Python code, which is not run: {path}", hint=_FACTORY_HINT
            )
        if kind in _OUTSIDE:
            raise ConversionError(f"the {kind} {shown!r} loads a program from elsewhere: {path}", hint=_FACTORY_HINT)
        module = entry.get("module")
        if isinstance(kind, str) and isinstance(module, str) and not _is_modeling(module, kind):
            raise ConversionError(
                f"{shown!r} comes from '{printable(module)}', not from Keras's layers: {path}", hint=_FACTORY_HINT
            )
        registered = entry.get("registered_name")
        if isinstance(kind, str) and module is None and isinstance(registered, str) and ">" in registered:
            raise ConversionError(
                f"{shown!r} is the user's own class '{printable(registered)}': {path}", hint=_FACTORY_HINT
            )
        if isinstance(entry.get("vocabulary"), str):
            raise ConversionError(
                f"the layer {shown!r} reads a vocabulary from another file: {path}", hint=_FACTORY_HINT
            )


def check_links(file: Any, path: Path) -> None:
    """Refuse an HDF5 file whose groups or datasets live in other files.

    Raises:
        ConversionError: Names the link.
    """
    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            shown = printable(f"{group.name.rstrip('/')}/{name}")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ConversionError(f"{shown!r} is a link, which is not followed: {path}")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif item.is_virtual or item.external:
                raise ConversionError(f"{shown!r} lies in another file: {path}")


def _open_h5(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ConversionError(f"not an HDF5 file: {path}") from error


def _entries(config: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield every object in `config`, with the name of the nearest layer around it."""
    pending: list[tuple[Any, Any]] = [(config, None)]
    while pending:
        value, name = pending.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            if isinstance(inner, dict) and isinstance(inner.get("name"), str):
                name = inner["name"]
            yield value, name
            pending.extend((child, name) for child in value.values())
        elif isinstance(value, list):
            pending.extend((child, name) for child in value)


def _is_modeling(module: str, kind: str) -> bool:
    if module == "builtins":
        return True  # a function of Keras's own by its bare name, such as an activation
    parts = module.split(".")
    if parts[0] != "keras":
        return False
    rest = [part for part in parts[1:] if part not in ("src", "api")]
    if not rest:
        return kind not in _CODE_IN_MODULE
    return rest[0] in _MODELING
