"""From SOURCE to a Keras model: a shipped network, the one factory that the user named, or a saved model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from onnxscope.converting.factories import call_factory, find_factory, one_line, split_source
from onnxscope.errors import ConversionError
from onnxscope_tensorflow import SHIPPED, networks
from onnxscope_tensorflow.configs import check_config, read_h5_config, read_keras_config

__all__ = ["Source", "build_model", "find_source"]

_SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class Source:
    """What SOURCE stands for.

    Attributes:
        label: For provenance: the shipped name, `factory` of a file, `package.module:factory`, or the name of a saved
            model's file; never a path.
        factory: Not called yet; None for a saved model.
        saved: A `.keras` or `.h5` file or the folder of a SavedModel, else None.
        shipped: Whether it is one of ours.
    """

    label: str
    factory: Callable[..., Any] | None = None
    saved: Path | None = None
    shipped: bool = False

    @property
    def is_saved_model(self) -> bool:
        """Whether it is the folder of a SavedModel."""
        return self.saved is not None and self.saved.is_dir()


def find_source(text: str) -> Source:
    """Resolve SOURCE. Importing the file or module that it names is the only user code that runs here.

    Raises:
        ConversionError: There is no such name, file, module or factory, or importing it failed.
    """
    if text in SHIPPED:
        return Source(text, networks.FACTORIES[text], shipped=True)
    path = Path(text)
    if path.is_dir() or path.suffix in (".keras", ".h5", ".hdf5", ".pb"):
        return _find_saved(path)
    named = split_source(text)
    if named is None:
        raise ConversionError(
            f"no shipped network named {text!r}: TensorFlow",
            hint=f"one of {', '.join(SHIPPED)}, a .keras or .h5 file, a SavedModel, or `path/to/file.py:factory`",
        )
    place, name = named
    label = name if place.endswith(".py") else text
    return Source(label, find_factory(place, name, text, keras.Model))


def build_model(source: Source, arguments: Mapping[str, Any], text: str) -> Any:
    """Call the factory once, or load a saved Keras model without running any code from it.

    Args:
        source: From `find_source`, and not a SavedModel.
        arguments: Keyword arguments of the factory.
        text: SOURCE as the user wrote it, for messages.

    Raises:
        ConversionError: The factory does not take the arguments, raised, or returned something else; or the file is
            none, or holds what we refuse to run.
    """
    if source.factory is None:
        if arguments:
            raise ConversionError(f"a saved model takes no arguments ({next(iter(arguments))}): {text}")
        assert source.saved is not None
        return _load(source.saved)
    return call_factory(source.factory, arguments, text, keras.Model)


def _find_saved(path: Path) -> Source:
    if path.name == _SAVED_MODEL:
        path = path.parent
    if path.is_dir():
        if not (path / _SAVED_MODEL).is_file():
            raise ConversionError(f"not a SavedModel (it has no {_SAVED_MODEL}): {path}")
        return Source(path.resolve().name, saved=path)
    if not path.is_file():
        raise ConversionError(f"{'not a file' if path.exists() else 'no such file'}: {path}")
    return Source(path.name, saved=path)


def _load(path: Path) -> Any:
    if path.suffix == ".keras":
        check_config(read_keras_config(path), path)
    else:
        check_config(read_h5_config(path), path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ConversionError(
            f"Keras cannot load the model ({one_line(error)}): {path}",
            hint="name a factory that builds it, `file.py:factory`, and pass its weights as `--weights`",
        ) from error
