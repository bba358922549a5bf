"""What the inputs of a model hold of a sequence of tokens, by their names, types and ranks: ids, masks, positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["TokenPart", "is_mask_name", "token_parts"]

TokenPart = Literal["text", "ids", "mask", "types", "positions", "length"]

_MASK = re.compile(r"(?:^|[^a-z])mask(?:$|[^a-z])")
_TYPES = re.compile(r"token_?type|segment|type_ids")
_POSITIONS = re.compile(r"position|pos_ids")
_LENGTHS = re.compile(r"length|(?:^|[^a-z])lens?(?:$|[^a-z])")
_IDS = re.compile(r"(?:^|[^a-z])(?:ids?|tokens?|input|text|words?|sequence|src|source|x)(?:$|[^a-z0-9])")
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
        elif is_mask_name(name) and kind in "iubf":
            parts[spec.name] = "mask"
        elif kind not in "iu":
            continue
        elif _TYPES.search(name):
            parts[spec.name] = "types"
        elif _POSITIONS.search(name):
            parts[spec.name] = "positions"
        elif _LENGTHS.search(name):
            parts[spec.name] = "length"
        else:
            whole.append(spec)
    named = [spec for spec in whole if _IDS.search(spec.name.lower())]
    for spec in (named or whole)[:1]:
        parts[spec.name] = "ids"
    return parts


def is_mask_name(name: str) -> bool:
    """Whether an input is called a mask."""
    return _MASK.search(name.lower()) is not None


def _kind(spec: InputSpec) -> str:
    """numpy's letter of an input's type; `?` for a sequence and the like."""
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        return "?"
    return "f" if "float" in dtype.name else dtype.kind
