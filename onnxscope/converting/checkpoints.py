"""Checkpoints, whatever the framework: is there a file, what is in a `.safetensors`, and does it fit the model."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from onnxscope.base.text import printable
from onnxscope.converting.factories import one_line
from onnxscope.errors import ConversionError

__all__ = ["Shapes", "check_fit", "find_checkpoint", "read_safetensors"]

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each weight, by the framework's name."""


def find_checkpoint(path: str) -> Path:
    """Return a path that is a file.

    Raises:
        ConversionError: It is none.
    """
    file = Path(path)
    if not file.is_file():
        raise ConversionError(f"{'not a file' if file.exists() else 'no such checkpoint'}: {path}")
    return file


def read_safetensors(path: str, kind: Literal["numpy", "torch"], *, extra: str) -> dict[str, Any]:
    """Return the tensors in a `.safetensors` file by their names; no code in it is run.

    Args:
        path: Of the file.
        kind: What the tensors become.
        extra: What to install where safetensors is missing.

    Raises:
        ConversionError: safetensors is not installed, or the file is no such file.
    """
    try:
        library = importlib.import_module(f"safetensors.{kind}")
    except ImportError as error:
        raise ConversionError(
            f"reading it needs safetensors, which is not installed: {path}", hint=f"pip install 'onnxscope[{extra}]'"
        ) from error
    try:
        tensors: dict[str, Any] = library.load_file(path)
    except Exception as error:  # SafetensorError does not say what else it may be
        raise ConversionError(f"not a safetensors file ({one_line(error)}): {path}") from error
    return tensors


def check_fit(own: Shapes, stored: Shapes, path: str, *, optional: Collection[str] = ()) -> None:
    """Refuse a checkpoint that is not wholly the model's.

    Args:
        own: What the model has.
        stored: What the checkpoint holds.
        path: Of the checkpoint, for messages.
        optional: Names of `own` that it may lack, such as counters.

    Raises:
        ConversionError: Says how many are missing, unexpected and wrongly shaped, and names the first of each.
    """
    missing = [name for name in own if name not in stored and name not in optional]
    unexpected = [name for name in stored if name not in own]
    wrong = [name for name in own if name in stored and stored[name] != own[name]]
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, first {missing[0]!r}")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected, first '{printable(unexpected[0])}'")
    if wrong:
        shapes = f"{stored[wrong[0]]} in the file, {own[wrong[0]]} in the model"
        faults.append(f"{len(wrong)} wrongly shaped, first {wrong[0]!r}: {shapes}")
    if faults:
        raise ConversionError(
            f"the checkpoint does not fit the model ({'; '.join(faults)}): {path}",
            hint="`--arg` sets the factory's arguments, such as num_classes",
        )
