"""Which outputs feed which inputs: found by name, type and shape, or given."""

from __future__ import annotations

import pytest

from onnxscope.errors import InputError
from onnxscope.model.stored_model import InputSpec
from onnxscope.stepping.states import find_states, first_states, possible_state


def spec(name, *shape, dtype="float32"):
    return InputSpec(name, dtype, shape)


def found(inputs, outputs, pairs=None):
    return {state.output: state.input.name for state in find_states(inputs, outputs, pairs)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("c0", "cn"),
        ("h_0", "h_n"),
        ("state", "new_state"),
        ("state_in", "state_out"),
        ("in_state", "out_state"),
        ("hidden", "hidden_out"),
        ("prev_hidden", "next_hidden"),
        ("cached_len_3", "new_cached_len_3"),
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.11.decoder.value", "present.11.decoder.value"),
        ("past_0", "present_0"),
        ("cache_k", "cache_k_out"),
        ("rnnState", "rnnStateOut"),
    ],
)
def test_names_that_belong_together(before, after):
    inputs = [spec("x", "batch", 5), spec(before, 2, "batch", 7)]
    others = [spec("y", "batch", 5), spec("state_of_others", 2, "batch", 9), spec("scores", 2, "batch", 7)]
    assert found(inputs, [*others, spec(after, 2, "batch", 7)]) == {after: before}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (spec("input_1", 1, 3, 8, 8), spec("output_1", 1, 3, 8, 8)),
        (spec("image_in", 1, 3, 8, 8), spec("image_out", 1, 3, 8, 8)),
        (spec("state", 2, 1, 7), spec("stateN", 2, 1, 8)),
        (spec("state", 2, 1, 7), spec("stateN", 2, 1, 7, dtype="float64")),
        (spec("state", 2, 1, 7), spec("stateN", 2, 7)),
        (spec("past.0.key", 1, 2, "past", 7), spec("present.0.value", 1, 2, "total", 7)),
        (spec("past.0.key", 1, 2, "past", 7), spec("present.1.key", 1, 2, "total", 7)),
    ],
)
def test_names_that_do_not(before, after):
    assert found([spec("x", "batch", 5), before], [after]) == {}


def test_a_model_that_takes_nothing_else_has_no_states():
    assert found([spec("state", 1, 4)], [spec("stateN", 1, 4)]) == {}
    assert found([spec("x", 1), spec("h", 1, 4)], [spec("hn", 1, 4), spec("h_out", 1, 4)]) == {}


def test_what_states_are_at_first():
    inputs = [
        spec("ids", "batch", "seq", dtype="int64"),
        spec("past_key_values.0.key", "batch", 4, "past_sequence_length", 16),
        spec("past_key_values.1.key", None, 4, None, 16),
        spec("state", 2, None, 128),
        spec("hidden", 1, 1, 32),
        spec("cached_len", 3, "batch", dtype="int64"),
    ]
    outputs = [
        spec("present.0.key", "batch", 4, "total", 16),
        spec("present.1.key", None, None, None, None),
        spec("stateN", None, None, None),
        spec("hidden_out", 1, 1, 32),
        spec("new_cached_len", 3, "batch", dtype="int64"),
    ]
    states = find_states(inputs, outputs)
    arrays = first_states(states)
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "past_key_values.0.key": ((1, 4, 0, 16), "float32"),
        "past_key_values.1.key": ((1, 4, 0, 16), "float32"),
        "state": ((2, 1, 128), "float32"),
        "hidden": ((1, 1, 32), "float32"),
        "cached_len": ((3, 1), "int64"),
    }
    assert not any(array.any() for array in arrays.values())
    assert {state.input.name: (state.batch_axis, state.grows) for state in states} == {
        "past_key_values.0.key": (0, True),
        "past_key_values.1.key": (0, True),
        "state": (1, False),
        "hidden": (1, False),
        "cached_len": (1, False),
    }


def test_pairs_that_are_given():
    inputs = [spec("x", 1, 5), spec("a", 1, 4), spec("b", 1, 4)]
    outputs = [spec("p", 1, 4), spec("q", 1, 4), spec("r", 1, 9)]
    assert found(inputs, outputs, {"q": "a", "p": "b"}) == {"q": "a", "p": "b"}
    with pytest.raises(InputError, match="the model has no output 'pp' for a state") as caught:
        found(inputs, outputs, {"pp": "a"})
    assert caught.value.hint == "`--state OUTPUT=INPUT`; the nearest outputs: p"
    with pytest.raises(InputError, match="the model has no input 'aa' for a state"):
        found(inputs, outputs, {"p": "aa"})
    with pytest.raises(InputError, match="the output 'r' does not fit the input 'a'"):
        found(inputs, outputs, {"r": "a"})


@pytest.mark.parametrize(
    ("inputs", "outputs", "offered"),
    [
        ([spec("x", "b", 3), spec("a", "b", 5)], [spec("cell", "b", 5)], ("cell", "a")),
        ([spec("x", "b", 3), spec("lstm1", "b", 5)], [spec("z", "b", 5)], ("z", "lstm1")),
        ([spec("x", "b", 3), spec("prevState", 1, 5)], [spec("z", 1, 5)], ("z", "prevState")),
        ([spec("x", "b", 3), spec("c0", 1, "b", 5)], [spec("z", 1, "b", 5)], ("z", "c0")),
        ([spec("ids", "b", "s"), spec("past", "b", 2, "p", 4)], [spec("kv", "b", 2, "p", 4)], ("kv", "past")),
        # pictures, and what only spells like a state
        ([spec("left", "b", 3, 8, 8), spec("right", "b", 3, 8, 8)], [spec("disparity", "b", 3, 8, 8)], None),
        ([spec("image", "b", 3, "h", "w"), spec("hidden", "b", 3, "h", "w")], [spec("y", "b", 3, "h", "w")], None),
        ([spec("x", "b", 3), spec("excellent", "b", 5)], [spec("status", "b", 5)], None),
        # of which the next step would not take what the last one gave, or nobody knows which
        ([spec("ids", "b", "s"), spec("hidden_states", "b", "s", 4)], [spec("y", "b", "s", 4)], None),
        ([spec("x", "b", 3), spec("cell", "b", 5)], [spec("y", "b", 5), spec("z", "b", 5)], None),
        ([spec("x", "b", 3), spec("cell", "b", 5)], [spec("y", "b", 5, dtype="float16")], None),
        ([spec("cell", "b", 5), spec("x", "b", 3)], [spec("y", "b", 5)], None),
    ],
)
def test_what_may_be_a_state(inputs, outputs, offered):
    assert possible_state(inputs, outputs) == offered
