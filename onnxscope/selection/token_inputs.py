"""What the inputs of a model hold of a sequence of tokens, by their names, types and ranks: ids, masks, positions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxscope.selection.input_roles import is_called

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["TokenPart", "id_inputs", "token_parts"]

TokenPart = Literal["text", "ids", "mask", "types", "positions", "length"]

_DECODER = re.compile(r"decoder|target|tgt|label")


def token_parts(specs: Sequence[InputSpec]) -> dict[str, TokenPart]:
    """Return what each input holds of one text, by its name; those that hold something else are left out.

    Ids are the whole numbers of one or two axes that are called so, or else the first ones that are nothing else. What
    a decoder is fed beside a text, no text tells.
    """
    parts: dict[str, TokenPart] = {}
    whole = []
    strings = [spec for spec in specs if _kind(spec) == "U"]
    for spec in specs:
        name, rank = spec.name.lower(), None if spec.shape is None else len(spec.shape)
        kind = _kind(spec)
        if kind == "U":
            parts |= {spec.name: "text"} if len(strings) == 1 else {}
        elif _DECODER.search(name) or rank not in (None, 1, 2):
            continue
        elif is_called(name, "mask") and kind in "iubf":
            parts[spec.name] = "mask"
        elif kind not in "iu":
            continue
        elif is_called(name, "types"):
            parts[spec.name] = "types"
        elif is_called(name, "positions"):
            parts[spec.name] = "positions"
        elif is_called(name, "lengths"):
            parts[spec.name] = "length"
        else:
            whole.append(spec)
    named = [spec for spec in whole if is_called(spec.name, "text")]
    for spec in (named or whole)[:1]:
        parts[spec.name] = "ids"
    return parts


def id_inputs(specs: Sequence[InputSpec], batch_axes: Mapping[str, int | None]) -> tuple[str, ...]:
    """Return the inputs that hold ids of tokens, one for each place of a sample: those of a text and of a decoder.

    Args:
        specs: All inputs.
        batch_axes: By name, their axes of samples, None where there is none.
    """
    parts = token_parts(specs)
    found = []
    for spec in specs:
        name = spec.name.lower()
        of_decoder = _kind(spec) in "iu" and _DECODER.search(name) and re.search(r"(?:^|_)(?:ids|tokens?)$", name)
        places = None if spec.shape is None else len(spec.shape) - (batch_axes.get(spec.name) is not None)
        if places == 1 and (parts.get(spec.name) == "ids" or of_decoder):
            found.append(spec.name)
    return tuple(found)


def _kind(spec: InputSpec) -> str:
    """numpy's letter of an input's type; `?` for a sequence and the like."""
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        return "?"
    return "f" if "float" in dtype.name else dtype.kind
