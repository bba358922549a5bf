"""What inputs hold by their names: one table, and all who ask it answer alike."""

from __future__ import annotations

import pytest

from onnxscope.inputs.random_inputs import Fitting, random_feeds
from onnxscope.model.stored_model import InputSpec
from onnxscope.selection.input_roles import counts_what_is_fed, is_called, stem_of_lengths
from onnxscope.selection.padding_masks import find_padding_masks
from onnxscope.selection.token_inputs import token_parts
from onnxscope.stepping.token_feeds import made_of_tokens, masks_tokens, token_input

MASKS = ("attention_mask", "mask", "src_mask", "attentionmask", "input_mask:0", "mask.1", "seqmask", "attentionMask")
POSITIONS = ("position_ids", "input_pos", "pos", "cache_position", "pos_ids")
TYPES = ("token_type_ids", "segment_ids", "input_type_ids", "type", "tokentype_ids")
LENGTHS = ("src_len", "input_lengths", "seqlens", "x_lens", "seqlens:0", "sequence_length")


def ids(name="input_ids"):
    return InputSpec(name, "int64", ("batch", "seq"))


def beside(name, dtype="int64", shape=("batch", "seq")):
    return InputSpec(name, dtype, shape)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_one_wherever_it_is_asked_for(name):
    mask = beside(name)
    assert is_called(name, "mask")
    assert token_parts([ids(), mask]) == {"input_ids": "ids", name: "mask"}
    assert [found.name for found in find_padding_masks([ids(), mask])] == [name]
    assert masks_tokens(mask, [ids(), mask])
    assert made_of_tokens(mask)
    assert random_feeds([ids(), mask], 3)[name].tolist() == [[1] * 8]


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_are_ones_wherever_they_are_asked_for(name):
    positions = beside(name)
    assert token_parts([ids(), positions])[name] == "positions"
    assert made_of_tokens(positions)
    assert token_input([ids(), positions]) == ids()
    assert random_feeds([ids(), positions], fitting=Fitting(is_ordered=True))[name].tolist() == [list(range(8))]


@pytest.mark.parametrize("name", TYPES)
def test_types_are_no_tokens(name):
    types = beside(name)
    assert token_parts([ids(), types]) == {"input_ids": "ids", name: "types"}
    assert made_of_tokens(types)
    assert token_input([types, ids("x")]).name == "x"


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_count_what_is_fed(name):
    lengths = beside(name, shape=("batch",))
    frames = InputSpec("x", "float32", ("batch", "time", 4))
    assert counts_what_is_fed(name)
    assert token_parts([ids(), lengths])[name] == "length"
    assert [mask.says for mask in find_padding_masks([frames, lengths])] == ["lengths"]
    assert random_feeds([frames, lengths], fitting=Fitting(is_ordered=True))[name].tolist() == [8]


@pytest.mark.parametrize("name", ["max_length", "min_len", "past_seq_len", "past_lengths"])
def test_limits_and_what_is_past_say_nothing_of_what_is_fed(name):
    frames = InputSpec("x", "float32", ("batch", "time", 4))
    assert find_padding_masks([frames, beside(name, shape=("batch",))]) == ()


@pytest.mark.parametrize("name", ["head_mask", "has_mask", "mask_token_id", "pixel_mask", "causal_mask"])
def test_a_mask_of_something_else_leaves_no_position_out(name):
    assert find_padding_masks([ids(), beside(name)]) == ()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("masked_lm", "mask"),
        ("unmask", "mask"),
        ("composite", "positions"),
        ("prototype", "types"),
        ("length_scale", "lengths"),
        ("lengths_penalty", "lengths"),
        ("lenient", "lengths"),
        ("grid", "ids"),
        ("admin", "limit"),
        ("monkey", "cache"),
    ],
)
def test_a_part_of_a_word_says_nothing(name, role):
    assert not is_called(name, role)


def test_what_lengths_are_of():
    stems = {"src_lengths": "src", "input_lengths": "", "lens.1": "", "text_seq_len": "text", "length_scale": None}
    assert {name: stem_of_lengths(name) for name in stems} == stems


def test_what_a_decoder_remembers_is_no_image():
    from onnxscope.inputs.samples import find_layouts

    image, cache = InputSpec("pixels", "float32", (1, 3, 8, 8)), InputSpec("layer.0.key", "float32", (1, 3, 8, 8))
    shapes = {spec.name: spec.shape for spec in (image, cache)}
    assert list(find_layouts([image, cache], shapes, {"pixels": 0, "layer.0.key": 0})) == ["pixels"]
