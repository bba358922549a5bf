"""Who says how pictures, sounds and texts become numbers: whoever asks, else the model, else what lies beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

__all__ = ["file_beside", "first_said"]

_Way = TypeVar("_Way")
_ONNX_FOLDER = "onnx"


def first_said(
    asked: Callable[[], _Way] | None, recorded: Callable[[], _Way | None] | None, beside: Callable[[], _Way | None]
) -> tuple[_Way | None, Literal["asked", "recorded", "beside"] | None]:
    """Return the first way that is said, and by whom; None twice where nobody says any.

    Args:
        asked: Reads what somebody asks for; None where nobody does.
        recorded: Reads what the model records, None where that is of something else; None where it records nothing.
        beside: Reads what lies beside the model's file, None where nothing does.
    """
    if asked is not None:
        return asked(), "asked"
    way = None if recorded is None else recorded()
    if way is not None:
        return way, "recorded"
    way = beside()
    return way, None if way is None else "beside"


def file_beside(folder: str | os.PathLike[str] | None, name: str) -> Path | None:
    """Return the path of a file in a model's folder, or in the one above a folder that is called `onnx`, as on hubs.

    Args:
        folder: The model's; None for a model from memory, which has nothing beside it.
        name: The file's name.
    """
    if folder is None:
        return None
    own = Path(folder)
    above = [own.parent] if own.name.casefold() == _ONNX_FOLDER else []
    return next((each / name for each in (own, *above) if (each / name).is_file()), None)
