"""What inputs hold, as their names say it: one table for all who feed a model."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["InputRole", "counts_what_is_fed", "is_called", "stem_of_lengths"]

InputRole = Literal[
    "mask", "padding mask", "other mask", "positions", "types", "lengths", "limit", "ids", "text", "cache", "past"
]
"""What an input may hold.

`mask` says which positions count; a `padding mask` which ones do not, where it is of truth values; an `other mask` is
none of positions. `lengths` say how many positions count; a `limit` is a number of positions that says nothing of
those that are fed. `text` is what may be ids where nothing is called `ids`. A `cache` is what a decoder remembers, or a
flag that turns it on, and `past` whatever counts or holds what was before.
"""

# A word begins and ends where no letter is; names are in lower case, and exporters add `.1` or `:0` to them.
_NAMES: dict[InputRole, re.Pattern[str]] = {
    "mask": re.compile(r"(?:^|[^a-z])(?:attention|input|padding|pad|token|sequence|seq|valid)?mask(?:$|[^a-z])"),
    "padding mask": re.compile(r"pad(?:ding)?_?mask(?:$|[^a-z])"),
    "other mask": re.compile(r"head|causal|pixel|label|prompt|position|has_mask|mask[^a-z]+[a-z]"),
    "positions": re.compile(r"position|pos_ids|(?:^|[^a-z])pos(?:$|[^a-z])"),
    "types": re.compile(r"segment|type_ids|token_?type|(?:^|[^a-z])types?(?:$|[^a-z])"),
    "lengths": re.compile(r"length(?!s?_?(?:scale|penalty|ratio|factor))|seq_?len|lens?(?:$|[^a-z])"),
    "limit": re.compile(r"(?:^|[^a-z])(?:max|min)(?:$|imum|[^a-z])"),
    "ids": re.compile(r"(?:^|[^a-z])ids?(?:$|[^a-z])|input_?ids|token|prefix"),
    "text": re.compile(r"(?:^|[^a-z])(?:ids?|tokens?|input|text|words?|sequence|src|source|x)(?:$|[^a-z0-9])|inputids"),
    "cache": re.compile(r"past|cache|(?:^|[^a-z])(?:key|value|k|v)(?:$|[^a-z])"),
    "past": re.compile(r"past"),
}
_STEM = re.compile(r"(.*?)_?(?:input_|seq_|sequence_)?(?:lengths?|lens?)[^a-z]*")


def is_called(name: str, role: InputRole) -> bool:
    """Whether an input's name says that it holds this."""
    return _NAMES[role].search(name.lower()) is not None


def counts_what_is_fed(name: str) -> bool:
    """Whether an input's name ends as that of lengths does; limits, and lengths of what is past, are others."""
    return stem_of_lengths(name) is not None and not is_called(name, "limit") and not is_called(name, "past")


def stem_of_lengths(name: str) -> str | None:
    """Return what lengths are of by their name, `src` for `src_lengths`; None where the name ends otherwise."""
    match = _STEM.fullmatch(name.lower())
    return match[1] if match else None
