"""Which tokens lie in a cache, by what each step finds in it."""

from __future__ import annotations

import numpy as np

from onnxscope.model.stored_model import InputSpec
from onnxscope.stepping.held_tokens import names_held
from onnxscope.stepping.states import State
from onnxscope.stepping.walk import Walk

CALLED = ("a", "b", "c", "d")
FIXED = State(InputSpec("past", "float32", (1, 1, 3, 2)), "present", 0, grows=False, length_axis=2)
GROWING = State(InputSpec("past", "float32", (1, 1, "past", 2)), "present", 0, grows=True, length_axis=2)


def steps(*held, tokens=1):
    """Steps that find so many numbers, one a position, in their cache."""
    caches = [np.repeat(np.array(numbers, np.float32)[None, None, :, None], 2, 3) for numbers in held]
    return Walk(tuple({"ids": np.zeros((1, tokens)), "past": cache} for cache in caches))


def test_a_cache_that_moves_on_holds_the_last_tokens():
    walk = steps([0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3])
    assert names_held(walk, CALLED, "ids", [FIXED]) == tuple(("", "", "", *CALLED[:count]) for count in (1, 2, 3, 4))


def test_one_that_is_written_elsewhere_or_was_never_seen_to_move_has_no_names():
    assert names_held(steps([0, 0, 0], [1, 0, 0], [1, 2, 0]), CALLED, "ids", [FIXED]) == ((),) * 3
    assert names_held(steps([0, 0, 0], [0, 0, 0]), CALLED, "ids", [FIXED]) == ((),) * 2
    assert names_held(steps([0, 0, 0]), CALLED, "ids", [FIXED]) == ((),)


def test_several_tokens_move_it_on_by_as_many():
    walk = steps([0, 0, 0], [0, 1, 2], [2, 3, 4], tokens=2)
    assert names_held(walk, CALLED, "ids", [FIXED])[1] == ("", "", "", *CALLED)
    assert names_held(steps([1, 2, 3], [2, 3, 4], tokens=2), CALLED, "ids", [FIXED]) == ((),) * 2


def test_one_that_grows_holds_all_and_other_states_hold_nobody_knows_what():
    walk = steps([], [1], [1, 2])
    expected = (("a",), ("a", "b"), ("a", "b", "c"))
    assert names_held(walk, CALLED, "ids", [GROWING]) == expected
    assert names_held(walk, (), "ids", [GROWING]) == ((),) * 3
    cell = State(InputSpec("past", "float32", (1, 2)), "next", 0, grows=False)
    assert names_held(walk, CALLED, "ids", [GROWING, cell]) == ((),) * 3
