"""Sequences run step after step: what each step is fed, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from stateful_models import decoder, recurrent, torch_greedy, torch_logits

import onnxscope
from onnxscope.errors import InputError
from onnxscope.model.stored_model import InputSpec
from onnxscope.stepping import walk
from onnxscope.stepping.states import find_states
from onnxscope.stepping.token_feeds import made_of_tokens, masks_tokens, token_input
from onnxscope.stepping.walk import Walker


def spec(name, *shape, dtype="int64"):
    return InputSpec(name, dtype, shape)


def walker(proto, pairs=None):
    model = onnxscope.load_model(proto)
    return Walker(model, find_states(model.inputs, model.outputs, pairs))


def test_each_step_of_a_decoder_is_fed_one_token_more():
    tokens = [3, 1, 4]
    steps = walker(decoder()).over_tokens(tokens, {}).steps
    for past, (feeds, token) in enumerate(zip(steps, tokens, strict=True)):
        assert feeds["input_ids"].tolist() == [[token]]
        assert feeds["attention_mask"].tolist() == [[1] * (past + 1)]
        assert feeds["position_ids"].tolist() == [[past]]
        assert feeds["past_key_values.0.key"].shape == (1, 1, past, 8)


def test_steps_are_held_to_one_run_over_everything():
    walked = walker(decoder()).over_tokens([3, 1, 4, 1], {})
    apart, largest = walked.apart
    assert apart < 1e-4
    assert largest == pytest.approx(float(torch_logits([3, 1, 4, 1]).abs().max()), rel=1e-5)
    # A position that counts from 0 in every step is another model: what is held to what has to see it.
    broken = decoder()
    for node in broken.graph.node:
        if node.output[0] == "p":
            node.input[1] = "first_place"
    broken.graph.node.insert(0, onnx.helper.make_node("Sub", ["position_ids", "position_ids"], ["first_place"]))
    for node in broken.graph.node:
        if node.output[0] == "k0":
            node.input[0] = "seen"
    broken.graph.node.insert(
        [node.output[0] for node in broken.graph.node].index("k0"),
        onnx.helper.make_node("CumSum", ["h", "along"], ["seen"]),
    )
    broken.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "along"))
    apart, largest = walker(broken).over_tokens([3, 1, 4, 1], {}).apart
    assert apart > 1e-2 * largest


def test_positions_and_masks_that_are_given_count_on():
    beside = {"position_ids": np.array([[5, 6, 7]]), "attention_mask": np.array([[0, 1, 1]])}
    steps = walker(decoder()).over_tokens([3, 1, 4], beside, generate=3).steps
    assert [feeds["position_ids"].tolist() for feeds in steps] == [[[5, 6, 7]], [[8]], [[9]]]
    assert [feeds["attention_mask"].tolist() for feeds in steps] == [[[0, 1, 1]], [[0, 1, 1, 1]], [[0, 1, 1, 1, 1]]]


def test_one_token_is_generated_by_one_run():
    walked = walker(decoder()).over_tokens([2, 7], {}, generate=1)
    assert (len(walked.steps), walked.generated) == (1, 1)
    assert list(walked.tokens) == [2, 7, *torch_greedy([2, 7], 1)]


def test_which_input_takes_tokens():
    ids, mask = spec("input_ids", "b", "s"), spec("attention_mask", "b", "t")
    positions, types = spec("position_ids", "b", "s"), spec("token_type_ids", "b", "s")
    assert token_input([mask, positions, types, ids]) == ids
    assert token_input([spec("x", "b", "s")]).name == "x"
    assert token_input([spec("x", "b", 5)]) is None
    assert token_input([spec("left_ids", "b", "s"), spec("right_ids", "b", "s")]) is None
    assert [made_of_tokens(one) for one in (mask, positions, types, ids)] == [True, True, True, False]
    assert made_of_tokens(spec("use_cache_branch", 1, dtype="bool"))
    assert masks_tokens(mask, [ids, mask])
    assert not masks_tokens(ids, [ids, mask])
    memory = spec("memory", "b", "t", 9, dtype="float32")
    assert not masks_tokens(mask, [ids, mask, memory])


def test_what_does_not_step_is_refused(monkeypatch):
    model, _ = recurrent()
    two = {"frame": np.zeros((2, 4), np.float32)}
    one = {"frame": np.zeros((1, 4), np.float32)}
    with pytest.raises(onnxscope.OnnxscopeError):
        walker(model).over_frames([two])
    monkeypatch.setattr(walk, "_BUDGET_BYTES", 100)
    with pytest.raises(InputError, match="the states of all steps take more than 0 GiB") as caught:
        walker(model).over_frames([one] * 9)
    assert "`--limit` fewer steps" in caught.value.hint


def test_a_state_that_does_not_fit_the_next_step_is_told():
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[b, 3] x, float[n, 3] h) => (float[m, 3] hn) { hn = Concat <axis = 0> (x, h) }"""
    with pytest.raises(InputError, match=r"the output 'hn' of \(2, 3\) does not feed the input 'h' of \(1, 3\)"):
        walker(onnx.parser.parse_model(text)).over_frames([{"x": np.zeros((1, 3), np.float32)}])


def test_a_decoder_without_scores_generates_nothing():
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (int64[b, s] ids) => (int64[b, s] y, float[b] z)
        <float[1] one = {1.0}> { y = Identity (ids)  z = Identity (one) }"""
    model = onnxscope.load_model(onnx.parser.parse_model(text))
    with pytest.raises(InputError, match=r"no output is logits of \(batch, sequence, tokens\), to generate from: y, z"):
        Walker(model, ()).over_tokens([1, 2], {}, generate=2)
