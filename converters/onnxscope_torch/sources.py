"""From `--arg` and SOURCE to a module: a shipped network, or the one factory that the user named."""

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

from torch import nn

from onnxscope.errors import ConversionError
from onnxscope_torch import SHIPPED, networks

__all__ = ["Source", "build_module", "find_source", "one_line"]


@dataclass(frozen=True)
class Source:
    """A factory, and what to call it.

    Attributes:
        label: For provenance: the shipped name, `factory` of a file, or `package.module:factory`; never a path.
        factory: Not called yet.
        shipped: Whether it is one of ours.
    """

    label: str
    factory: Callable[..., Any]
    shipped: bool


def find_source(text: str) -> Source:
    """Resolve SOURCE. Importing the file or module that it names is the only user code that runs here.

    Raises:
        ConversionError: There is no such name, file, module or factory, or importing it failed.
    """
    if text in SHIPPED:
        return Source(text, getattr(networks, text), shipped=True)
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        if text.endswith(".py"):
            raise ConversionError(f"no factory named: {text}", hint=f"name one as `{text}:factory`")
        raise ConversionError(
            f"no shipped network named {text!r}: PyTorch",
            hint=f"one of {', '.join(SHIPPED)}, or `path/to/file.py:factory`, or `package.module:factory`",
        )
    if place.endswith(".py"):
        return Source(name, _factory(_import_file(Path(place)), name, text), shipped=False)
    return Source(text, _factory(_import_dotted(place), name, text), shipped=False)


def build_module(source: Source, arguments: Mapping[str, Any], text: str) -> nn.Module:
    """Call the factory once and return its module in inference mode.

    Args:
        source: From `find_source`.
        arguments: Keyword arguments of the factory.
        text: SOURCE as the user wrote it, for messages.

    Raises:
        ConversionError: The factory does not take the arguments, raised, or returned something else.
    """
    try:
        inspect.signature(source.factory).bind(**arguments)
    except TypeError as error:
        raise ConversionError(f"the factory cannot be called ({error}): {text}", hint="`--arg NAME=VALUE`") from error
    except ValueError:  # a built-in without a signature: calling it will tell
        pass
    try:
        module = source.factory(**arguments)
    except Exception as error:
        raise ConversionError(f"the factory failed ({one_line(error)}): {text}") from error
    if not isinstance(module, nn.Module):
        raise ConversionError(
            f"the factory returned {type(module).__name__}, not a torch.nn.Module: {text}",
            hint="return the network itself; load its weights with `--weights`",
        )
    return module.eval()


def one_line(error: BaseException) -> str:
    """Return `TypeName: message`: its first line that is no heading, cut to 200 characters."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        del lines[0]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


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
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ConversionError(
            f"{name!r} is a {type(factory).__name__}, not a factory: {text}",
            hint="name a function or a class that returns the module",
        )
    checked: Callable[..., Any] = factory
    return checked
