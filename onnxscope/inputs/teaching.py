"""Errors that teach: what a model takes, and which command comes nearest to what was given.

A hint names commands between backquotes: `-i …` stands in the place of what was given, `--option …` beside it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxscope.base.shapes import takes_text
from onnxscope.base.text import MAX_HINT
from onnxscope.errors import InputError

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["also", "teaching"]

# A command without placeholders for what nobody knows, as NAME=SIZE is; or one less something.
_COMMAND = re.compile(r"`(?:-i|--(?!state|on-error)[a-z-]+|onnxscope) (?![^`]*(?:[A-Z]{4,}(?!\.)|…))|leave `--")
_OF_STEPS = ("--state", "--step", "steps count")  # the model takes what was given, step after step


def also(error: InputError, step: str | None) -> InputError:
    """Return the error with one step more, behind those that its hint has."""
    error.hint = "; ".join(part for part in (error.hint, step) if part) or None
    return error


@contextlib.contextmanager
def teaching(
    specs: Sequence[InputSpec], bounds: Mapping[str, tuple[int, int]] | None = None, *, offer_random: bool = True
) -> Iterator[None]:
    """Have whatever cannot be fed say what the model takes, and which command comes nearest to what was given.

    Args:
        specs: The model's inputs.
        bounds: Ranges of whole numbers, by input.
        offer_random: Whether random numbers were not what was given.
    """
    try:
        yield
    except InputError as error:
        given = error.hint or ""
        if any(word in given for word in _OF_STEPS) and not given.startswith("leave `"):
            raise
        if not specs or takes_text(specs) in given or "the model takes" in given:
            wanted = ""
        else:
            wanted = f"the model takes {takes_text(specs, bounds, room=MAX_HINT - len(given) - 90)}"
        nearest = "" if not specs or _COMMAND.search(given) else _nearest(specs, offer_random=offer_random)
        for steps in ((given, wanted, nearest), (given, wanted), (given, nearest), (given,), (wanted, nearest)):
            shown = "; ".join(filter(None, steps))
            if len(shown) <= MAX_HINT:
                error.hint = shown or None
                break
        raise


def _nearest(specs: Sequence[InputSpec], *, offer_random: bool) -> str:
    """Commands that work, for inputs that files of arrays or random numbers feed."""
    kinds = [_kind(spec) for spec in specs]
    if None in kinds:
        return "no file holds that; `onnxscope inspect MODEL` needs none"
    feeds = "`-i FILE.npy` feeds that" if len(specs) == 1 else "`-i FILE.npz` with an array of each name feeds that"
    can_be_random = offer_random and all(spec.shape is not None for spec in specs) and "U" not in kinds
    return f"{feeds}, `-i random` needs no data" if can_be_random else feeds


def _kind(spec: InputSpec) -> str | None:
    """The kind of numpy's type of an input, None of a sequence and the like."""
    try:
        return np.dtype(spec.dtype).kind
    except TypeError:
        return None
