"""From SOURCE to a Keras model: a shipped network, the one factory that the user named, or a saved model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from onnxscope.errors import ConversionError
from onnxscope.outputs import printable
from onnxscope_tensorflow import SHIPPED, networks
from onnxscope_tensorflow.configs import check_config, read_h5_config, read_keras_config

__all__ = ["Source", "build_model", "find_source", "one_line"]

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
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        if text.endswith(".py"):
            raise ConversionError(f"no factory named: {text}", hint=f"name one as `{text}:factory`")
        raise ConversionError(
            f"no shipped network named {text!r}: TensorFlow",
            hint=f"one of {', '.join(SHIPPED)}, a .keras or .h5 file, a SavedModel, or `path/to/file.py:factory`",
        )
    if place.endswith(".py"):
        return Source(name, _factory(_import_file(Path(place)), name, text))
    return Source(text, _factory(_import_dotted(place), name, text))


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
    try:
        inspect.signature(source.factory).bind(**arguments)
    except TypeError as error:
        raise ConversionError(
            f"the factory cannot be called ({error}): {text}", hint="see `--arg NAME=VALUE`"
        ) from error
    except ValueError:  # a built-in without a signature: calling it will tell
        pass
    try:
        model = source.factory(**arguments)
    except (Exception, SystemExit) as error:
        raise ConversionError(f"the factory failed ({one_line(error)}): {text}") from error
    if not isinstance(model, keras.Model):
        raise ConversionError(
            f"the factory returned {type(model).__name__}, not a keras.Model: {text}",
            hint="return the model itself; load its weights with `--weights`",
        )
    return model


def one_line(error: BaseException) -> str:
    """Return `TypeName: message`: the message's first line, cut to 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__)


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


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConversionError(f"{'not a file' if path.exists() else 'no such file'}: {path}")
    name = re.sub(r"\W", "_", path.stem)
    if name in sys.modules or not name.isidentifier():
        name = f"source_{name}"  # a file called json.py must not take the place of json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConversionError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look a class's module up there
    sys.path.insert(0, str(path.resolve().parent))  # as for a script: the files beside it can be imported
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConversionError(f"cannot import ({one_line(error)}): {path}") from error
    return module


def _import_dotted(name: str) -> ModuleType:
    here = Path.cwd()
    top = name.partition(".")[0]
    # Only where the current folder has that package, so that no other file in it can pass for a library.
    if (here / top).is_dir() or (here / f"{top}.py").is_file():
        sys.path.insert(0, str(here))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConversionError(
                f"no module named {error.name!r}: {name}", hint="a file is named as `path/to/file.py:factory`"
            ) from error
        raise ConversionError(f"cannot import ({one_line(error)}): {name}") from error
    except (Exception, SystemExit) as error:
        raise ConversionError(f"cannot import ({one_line(error)}): {name}") from error


def _factory(module: ModuleType, name: str, text: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if factory is None:
        found = sorted(
            key
            for key, value in vars(module).items()
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
        )
        hint = f"it defines {', '.join(found)}" if found else "it defines no function and no class"
        raise ConversionError(f"no factory named {name!r}: {text}", hint=hint)
    if isinstance(factory, keras.Model) or not callable(factory):
        raise ConversionError(
            f"{name!r} is a {type(factory).__name__}, not a factory: {text}",
            hint="name a function or a class that returns the model",
        )
    checked: Callable[..., Any] = factory
    return checked
