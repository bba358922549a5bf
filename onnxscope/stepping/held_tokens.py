"""What the positions of caches are called, step by step, where the tokens have names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxscope.stepping.states import State
from onnxscope.stepping.walk import Walk

__all__ = ["names_held"]


def names_held(walk: Walk, names: Sequence[str], ids: str, states: Sequence[State]) -> tuple[tuple[str, ...], ...]:
    """Name the tokens that each step has seen, of which the last lie in the keys of an attention.

    A cache of a fixed size has empty names in front, for what it has no token for yet; one that does not move on by as
    many positions as a step has tokens holds them elsewhere, and none is named.

    Args:
        walk: The steps of one sequence, from caches of nothing.
        names: Of its tokens; none where they have none.
        ids: The input of tokens.
        states: The model's.

    Returns:
        For each step the names, nothing where they are not known.
    """
    fixed = [state for state in states if not state.grows and state.length_axis is not None]
    unknown = [state for state in states if not state.grows and state.length_axis is None]
    counts = [step[ids].size for step in walk.steps]
    if not names or unknown or not all(_moves_on(walk, state, counts) for state in fixed):
        return ((),) * len(walk.steps)
    room = max((walk.steps[0][state.input.name].shape[state.length_axis or 0] for state in fixed), default=0)
    seen = np.cumsum(counts) if states else counts  # without states each step has all of them
    return tuple((*[""] * room, *names[: int(upto)]) for upto in seen)


def _moves_on(walk: Walk, state: State, counts: Sequence[int]) -> bool:
    """Whether each step has pushed what a cache held to the front, which only several steps show."""
    axis = state.length_axis or 0
    held = [np.moveaxis(step[state.input.name], axis, 0) for step in walk.steps]
    kept = [len(held[0]) - min(count, len(held[0])) for count in counts]
    return len(held) > 1 and all(
        np.array_equal(after[:left], before[len(before) - left :]) and after[left:].any()
        for before, after, left in zip(held, held[1:], kept, strict=False)
    )
