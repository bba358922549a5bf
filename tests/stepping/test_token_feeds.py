"""What follows from how many tokens a step has and what was before."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.model.stored_model import InputSpec
from onnxscope.stepping.states import State, find_states
from onnxscope.stepping.token_feeds import Place, takes_one_token, tokens_fed

IDS = InputSpec("input_ids", "int64", ("b", "s"))
MASK = InputSpec("attention_mask", "int64", ("b", "t"))
POSITIONS = InputSpec("position_ids", "int64", ("b", "s"))


def fed(spec, tokens, place, ids=IDS, **beside):
    return tokens_fed([ids, spec], ids, tokens, place, beside)[spec.name].tolist()


def test_a_mask_goes_over_past_and_present():
    assert fed(MASK, [5, 6, 7], Place(2, 0, 2)) == [[1, 1, 1]]
    assert fed(MASK, [5, 6, 7], Place(2, 4, 6)) == [[1] * 7]
    assert fed(MASK, [5, 6, 7], Place(2, 0, 2), attention_mask=np.array([[0, 1]])) == [[0, 1, 1]]


def test_a_mask_says_what_of_a_cache_of_fixed_size_holds_something():
    assert fed(MASK, [5, 6], Place(0, 0, 4)) == [[0, 0, 0, 0, 1, 1]]
    assert fed(MASK, [5, 6, 7], Place(2, 0, 4)) == [[0, 0, 1, 1, 1]]
    assert fed(MASK, [5] * 7, Place(6, 0, 4)) == [[1] * 5]  # two are forgotten


def test_a_mask_is_of_new_tokens_alone_where_no_state_counts_positions():
    assert fed(MASK, [5, 6, 7], Place(2)) == [[1]]
    assert fed(MASK, [5, 6, 7], Place(0), attention_mask=np.array([[1, 0, 1]])) == [[1, 0, 1]]


def test_positions_come_after_what_the_first_states_hold():
    assert fed(POSITIONS, [5, 6, 7], Place(0, 4, 4)) == [[4, 5, 6]]
    assert fed(POSITIONS, [5, 6, 7], Place(2, 4, 6)) == [[6]]
    assert fed(InputSpec("cache_position", "int64", ("s",)), [5, 6], Place(1, 0, 1)) == [1]


@pytest.mark.parametrize(
    ("name", "number"),
    [("total_sequence_length", 3), ("past_seq_len", 2), ("seqlens_k", 2), ("sequence_length", 3), ("total_len", 3)],
)
def test_lengths_count_what_they_are_of(name, number):
    assert fed(InputSpec(name, "int32", ("b",)), [5, 6, 7], Place(2, 0, 2)) == [number]
    assert fed(InputSpec(name, "int32", ()), [5, 6, 7], Place(2, 0, 2)) == number


def test_lengths_are_of_what_is_fed_where_no_state_counts_positions():
    assert fed(InputSpec("lengths", "int64", ("b", 1)), [5, 6, 7], Place(2)) == [[1]]


def test_what_takes_tokens_singly():
    state = State(InputSpec("h", "float32", (1, "b", 6)), "hn", 1, False)
    for shape, singly in ((("b", 1), True), ((1,), True), (("b",), True), (("s",), False), (("b", "s"), False)):
        ids = InputSpec("ids", "int64", shape)
        assert takes_one_token(ids, [state]) == singly
        assert not takes_one_token(ids, [])
    assert fed(POSITIONS, [5, 6, 7], Place(2), ids=InputSpec("ids", "int64", ("b",))) == [[2]]


def test_where_a_cache_has_its_positions():
    def axis(*shape, name="past_key_values.0.key"):
        past = InputSpec(name, "float32", shape)
        present = InputSpec(name.replace("past_key_values", "present"), "float32", shape)
        return find_states([IDS, past], [present], {present.name: name})[0].length_axis

    assert axis("b", 2, "past", 8) == 2
    assert axis("b", "past_length", 2, 8) == 1
    assert axis("b", 2, 16, 8) == 2
    assert axis("b", 6, name="past_key_values.0.state") is None
