"""Factories that users name, `file.py:factory` or `package.module:factory`: import them, call them, say what failed.

Used by converters within their child process; nothing else of the project runs a user's code.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxscope.base.text import printable
from onnxscope.errors import ConversionError

__all__ = ["call_factory", "find_factory", "one_line", "split_source"]


def split_source(text: str) -> tuple[str, str] | None:
    """Return the file or module that SOURCE names and the factory in it, None where it names no factory.

    Raises:
        ConversionError: It is a Python file alone.
    """
    place, _, name = text.rpartition(":")
    if place and name:
        return place, name
    if text.endswith(".py"):
        raise ConversionError(f"no factory named: {text}", hint=f"name one as `{text}:factory`")
    return None


def find_factory(place: str, name: str, text: str, product: type) -> Callable[..., Any]:
    """Import a file or a module and return the factory in it; importing runs the user's code.

    Args:
        place: A path that ends with `.py`, or a dotted name, looked for in the current folder too.
        name: The factory's name.
        text: SOURCE as the user wrote it, for messages.
        product: The class of what factories return, which is no factory itself.

    Raises:
        ConversionError: There is no such file, module or factory, or importing it failed.
    """
    module = _import_file(Path(place)) if place.endswith(".py") else _import_dotted(place)
    return _named(module, name, text, product)


def call_factory(factory: Callable[..., Any], arguments: Mapping[str, Any], text: str, product: type) -> Any:
    """Call a factory once and return what it made.

    Args:
        factory: From `find_factory`, or one of the shipped ones.
        arguments: Keyword arguments.
        text: SOURCE as the user wrote it, for messages.
        product: The class that it has to return.

    Raises:
        ConversionError: It does not take the arguments, raised, or returned something else.
    """
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ConversionError(
            f"the factory cannot be called ({error}): {text}", hint="see `--arg NAME=VALUE`"
        ) from error
    except ValueError:  # a built-in without a signature: calling it will tell
        pass
    try:
        made = factory(**arguments)
    except (Exception, SystemExit) as error:
        raise ConversionError(f"the factory failed ({one_line(error)}): {text}") from error
    if not isinstance(made, product):
        raise ConversionError(
            f"the factory returned {type(made).__name__}, not a {_shown(product)}: {text}",
            hint=f"return the {_noun(product)} itself; load its weights with `--weights`",
        )
    return made


def one_line(error: BaseException) -> str:
    """Return `TypeName: message`: its first line that is no heading, cut to 200 characters."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        del lines[0]
    return printable(f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConversionError(f"{'not a file' if path.exists() else 'no such file'}: {path}")
    name = re.sub(r"\W", "_", path.stem)
    loaded = sys.modules.get(name)
    if not name.isidentifier() or (loaded is not None and getattr(loaded, "__file__", None) != str(path)):
        name = f"source_{name}"  # a file called json.py must not take the place of json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConversionError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and torch.export look a class's module up there
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


def _named(module: ModuleType, name: str, text: str, product: type) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if factory is None:
        defined = sorted(
            key
            for key, value in vars(module).items()
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
        )
        hint = f"it defines {', '.join(defined)}" if defined else "it defines no function and no class"
        raise ConversionError(f"no factory named {name!r}: {text}", hint=hint)
    if isinstance(factory, product) or not callable(factory):
        raise ConversionError(
            f"{name!r} is a {type(factory).__name__}, not a factory: {text}",
            hint=f"name a function or a class that returns the {_noun(product)}",
        )
    checked: Callable[..., Any] = factory
    return checked


def _noun(product: type) -> str:
    return product.__name__.lower()


def _shown(product: type) -> str:
    """The name under which users know a class: `torch.nn.Module`, `keras.Model`."""
    return {"Module": "torch.nn.Module", "Model": "keras.Model"}.get(product.__name__, product.__qualname__)
