"""What a step over tokens is fed: the tokens, and whatever follows from how many there are and were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.selection.input_roles import is_called
from onnxscope.stepping.states import State

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = [
    "Place",
    "made_of_tokens",
    "masks_tokens",
    "one_token_input",
    "takes_one_token",
    "token_input",
    "tokens_fed",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where a step is in its sequence.

    Attributes:
        past: How many of the tokens have been fed before.
        before: How many positions the first states hold that these tokens come after.
        room: How many positions the states have now, with or without anything in them; None where none are counted.
    """

    past: int = 0
    before: int = 0
    room: int | None = None

    @property
    def unused(self) -> int:
        """How many positions of the states hold nothing; less than 0 where they have forgotten some."""
        return 0 if self.room is None else self.room - self.before - self.past


def token_input(specs: Iterable[InputSpec]) -> InputSpec | None:
    """Return the input of (batch, sequence) token ids, None where there is no single one."""
    whole = [
        spec
        for spec in specs
        if spec.dtype in ("int64", "int32")
        and spec.shape is not None
        and len(spec.shape) == 2
        and not isinstance(spec.shape[1], int)
        and not _follows_tokens(spec)
    ]
    whole = [spec for spec in whole if not is_called(spec.name, "types")] or whole
    for role in ("ids", "text"):
        named = [spec for spec in whole if is_called(spec.name, role)]
        if len(named) == 1:
            return named[0]
    return whole[0] if len(whole) == 1 else None


def masks_tokens(spec: InputSpec, specs: Iterable[InputSpec]) -> bool:
    """Whether an input is a mask of (batch, tokens), and not one over what another of the inputs has as many of."""
    shape = spec.shape or ()
    if not is_called(spec.name, "mask") or len(shape) != 2:
        return False
    others = (other.shape or () for other in specs if "float" in other.dtype)
    return not isinstance(shape[1], str) or not any(shape[1] in other for other in others)


def made_of_tokens(spec: InputSpec) -> bool:
    """Whether an input can be made of how many tokens there are: masks, positions, types, lengths, and flags."""
    flag = spec.dtype == "bool" and len(spec.shape or ()) < 2
    types = spec.dtype in ("int64", "int32") and is_called(spec.name, "types")
    return _follows_tokens(spec) or flag or types or _counts_tokens(spec)


def one_token_input(specs: Iterable[InputSpec], states: Sequence[State]) -> InputSpec | None:
    """Return the input of ids that has room for one token of each sample, None where there is no single one."""
    single = [
        spec
        for spec in specs
        if spec.dtype in ("int64", "int32")
        and len(spec.shape or ()) in (1, 2)
        and takes_one_token(spec, states)
        and is_called(spec.name, "ids")
        and not made_of_tokens(spec)
    ]
    return single[0] if len(single) == 1 else None


def takes_one_token(ids: InputSpec, states: Sequence[State]) -> bool:
    """Whether an input of tokens has room for one of each sample, so that a model with states is fed them singly."""
    shape = ids.shape or ()
    if len(shape) != 1:
        return bool(states) and shape[-1:] == (1,)
    return any(shape[0] in (1, (state.input.shape or ())[state.batch_axis]) for state in states)


def tokens_fed(
    specs: Sequence[InputSpec], ids: InputSpec, tokens: Sequence[int], place: Place, beside: Mapping[str, Array]
) -> dict[str, Array]:
    """Return what one step is fed beside states, for one sample.

    Args:
        specs: The inputs that are no states.
        ids: The one of them that takes tokens.
        tokens: All of them, with those that have been fed before.
        place: Where the step is.
        beside: What is given for other inputs: masks over what came before and over tokens, of which there may be more
            than are given; positions; anything else as it is fed.
    """
    total, new = len(tokens), len(tokens) - place.past
    feeds = {}
    for spec in specs:
        dtype, rank = np.dtype(spec.dtype), len(spec.shape or ())
        if spec.name == ids.name:
            feeds[spec.name] = np.array(tokens[place.past :], dtype).reshape((1,) * (rank - 1) + (-1,))
        elif masks_tokens(spec, specs):
            feeds[spec.name] = _mask(beside.get(spec.name, np.ones((1, 0), dtype)), place, total)
        elif is_called(spec.name, "positions") and rank:
            given = beside.get(spec.name, np.zeros(0, dtype)).reshape(-1)[:total]
            after = int(given[-1]) + 1 if given.size else place.before
            counted = np.arange(after, after + total - given.size, dtype=dtype)
            along = np.concatenate([given, counted])[place.past :]
            feeds[spec.name] = along.reshape((1,) * (rank - 1) + (-1,))
        elif _counts_tokens(spec):
            shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape or ()]
            feeds[spec.name] = np.full(shape, _number_of_tokens(spec, place, new), dtype)
        elif spec.name in beside:
            array = beside[spec.name]
            along_tokens = rank == 2 and (spec.shape or ())[1] == (ids.shape or (0,))[-1]
            feeds[spec.name] = array[:, place.past : total] if along_tokens else array
        elif is_called(spec.name, "types"):
            feeds[spec.name] = np.zeros((1, new), dtype)
        elif spec.dtype == "bool" and not is_called(spec.name, "mask"):
            feeds[spec.name] = np.full([1] * rank, place.before + place.past > 0)  # use_cache_branch
    return feeds


def _number_of_tokens(spec: InputSpec, place: Place, new: int) -> int:
    """Return what an input that counts tokens says, in a step of so many new ones."""
    past = place.before + place.past
    name = spec.name.lower()
    if is_called(name, "past") and "total" not in name:
        return past
    counted = past + new if "total" in name or place.room is not None else new
    # onnxruntime's GroupQueryAttention counts keys without the last one.
    return counted - ("seqlens_k" in name)


def _mask(given: Array, place: Place, total: int) -> Array:
    """A mask over what the states have room for and over new tokens; over these alone where no state counts any."""
    counted = given[:, : place.before + total]
    more = np.ones((1, place.before + total - counted.shape[1]), given.dtype)
    marks = np.concatenate([counted, more], axis=1)
    if place.room is None:
        return marks[:, place.past :]
    # What a cache of a fixed size has no token for yet comes first: it moves on by one with each.
    unused = np.zeros((1, max(place.unused, 0)), given.dtype)
    return np.concatenate([unused, marks[:, max(-place.unused, 0) :]], axis=1)


def _follows_tokens(spec: InputSpec) -> bool:
    """Whether an input says nothing but how many tokens there are: a mask, or positions."""
    return bool(spec.shape) and (is_called(spec.name, "mask") or is_called(spec.name, "positions"))


def _counts_tokens(spec: InputSpec) -> bool:
    """Whether an input is a whole number for each sample that counts tokens."""
    shape = spec.shape
    alone = shape is not None and (len(shape) < 2 or (len(shape) == 2 and shape[1] == 1))
    counts = is_called(spec.name, "lengths") and not is_called(spec.name, "limit")
    return alone and counts and spec.dtype in ("int64", "int32")
