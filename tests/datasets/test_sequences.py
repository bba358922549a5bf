"""What sources name decides what is stepped: a mistake is told as it would be of a model without states."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from stateful_models import decoder, recurrent, torch_greedy

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError

FRAMES = np.random.default_rng(7).normal(size=(9, 4)).astype(np.float32)
IDS = np.array([[3, 1, 4]])
BROKEN = {
    "f.npy": b"\x93NUMPY\x01",
    "f.npz": b"PK\x03\x04",
    "f.wav": b"RIFF",
    "f.safetensors": b"\x09",
    "f.parquet": b"P",
}


def without_states(proto):
    """The same model with states that are no inputs any more."""
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    for name in ("h", "c"):
        plain.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 6), np.float32), name))
    kept = [value for value in plain.graph.input if value.name not in ("h", "c")]
    del plain.graph.input[:]
    plain.graph.input.extend(kept)
    return plain


def opened(proto, inputs, **feeding):
    return open_dataset(inputs, onnxscope.load_model(proto), RunOptions(**feeding))


def refusal(proto, inputs, **feeding):
    with pytest.raises(InputError) as caught:
        opened(proto, inputs, **feeding).whole()
    return str(caught.value), caught.value.hint


MISTAKES = [
    (FRAMES[:, :3], {}, "input 'frame' takes (batch, 4), not (9, 3)"),
    (FRAMES[0], {}, "input 'frame' takes (batch, 4), not (4,)"),
    (FRAMES.astype(np.int64), {}, "input 'frame' takes float32, not int64"),
    (FRAMES[:0], {}, "no sample along axis 0"),
    ({"fram": FRAMES}, {}, "the model has no input 'fram'"),
    ({"frame": FRAMES, "what": FRAMES}, {}, "the model has no input 'what'"),
    ({"frame": FRAMES[:, :3]}, {}, "input 'frame' takes (batch, 4), not (9, 3)"),
    ([FRAMES, FRAMES[:, :3]], {}, "input 'frame' takes (batch, 4), not (9, 3)"),
    (FRAMES, {"batch_axis": 7}, "input 'frame' has no axis 7 for a batch"),
    ("gone.npy", {}, "no such file: gone.npy"),
    ("text:one two", {}, "no text becomes frame float32 (batch, 4)"),
    ("wrong.npz", {}, "the model has no input 'frames': wrong.npz"),
    ("narrow.npz", {}, "input 'frame' takes (batch, 4), not (9, 3)"),
    ("narrow.csv", {}, "input 'frame' takes 4 columns, and 3 are there"),
    ("rows.jsonl", {}, "line 1 of rows.jsonl"),
    *((name, {}, name) for name in BROKEN),
]


@pytest.mark.parametrize(("given", "feeding", "said"), MISTAKES, ids=[str(place) for place in range(len(MISTAKES))])
def test_a_mistake_is_told_as_of_a_model_without_states(given, feeding, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("wrong.npz", frames=FRAMES)
    np.savez("narrow.npz", frame=FRAMES[:, :3])
    (tmp_path / "narrow.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"frame": [1, 2, 3]}) + "\n")
    for name, content in BROKEN.items():
        (tmp_path / name).write_bytes(content)
    stepped, _ = recurrent()
    told = refusal(stepped, given, **feeding)
    assert said in told[0]
    assert told == refusal(without_states(stepped), given, **feeding)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_ids": IDS.astype(np.int32)}, "input 'input_ids' takes int64, not int32"),
        (
            {"attention_mask": np.ones((1, 3, 1), np.int64)},
            "input 'attention_mask' takes (batch, total), not (1, ",
        ),
        ({"position_ids": np.ones((1, 3), np.float32)}, "input 'position_ids' takes int64, not float32"),
        ({"input_ids": IDS * 9}, "input 'input_ids' takes whole numbers from 0 to 12, and 36 is none of them"),
        ({"past": IDS}, "the model has no input 'past'"),
    ],
)
def test_so_is_one_of_what_a_decoder_is_given(change, said):
    given = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "position_ids": np.arange(3)[None]} | change
    told = [refusal(decoder(cache), given, generate=None if not cache else 1) for cache in (True, False)]
    assert said in told[0][0]
    assert told[0][0].rpartition(": ")[0] == told[1][0].rpartition(": ")[0]


def test_who_names_a_state_gives_everything(tmp_path):
    model, _ = recurrent()
    np.savez(tmp_path / "some.npz", frame=FRAMES, h=np.zeros((1, 9, 6), np.float32))
    for given in (tmp_path / "some.npz", {"frame": FRAMES, "h": np.zeros((1, 9, 6), np.float32)}):
        said, hint = refusal(model, given)
        assert said.startswith("no array for the input 'c', float32 (1, batch, 6): ")
        assert hint.endswith("; `--state auto` steps over the other inputs, from what states are given")
    said, hint = refusal(model, {"frame": FRAMES[:, :3], "h": np.zeros((1, 9, 6), np.float32)})
    assert said.startswith("no array for the input 'c', float32 (1, batch, 6): ")
    assert "--state" not in hint  # nor could that step over frames of three numbers


def test_a_state_is_offered_only_where_the_rest_would_do():
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[b, 3] x, float[b, 5] a)
        => (float[b, 3] y, float[b, 5] cell) { y = Relu (x)  cell = Relu (a) }"""
    model = onnx.parser.parse_model(text)
    three = np.zeros((2, 3), np.float32)
    offer = "`--state cell=a` if that output feeds it in the next step"
    for given, is_offered in (
        (three, True),
        ({"x": three}, True),
        (three[:, :2], False),
        ({"y": three}, False),
        ({"x": three, "a": three}, False),
    ):
        _, hint = refusal(model, given)
        assert (offer in hint) == is_offered, given


def test_a_step_of_what_is_not_stepped_is_refused():
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[b, 3] x) => (float[b, 3] y) { y = Relu (x) }"""
    said, hint = refusal(onnx.parser.parse_model(text), np.zeros((2, 3), np.float32), step=1)
    assert said == "there is no step 1: the model is not run step after step"
    way = "leave `--step` out, or `--state OUTPUT=INPUT` says which output feeds which input in the next step"
    assert hint == f"{way}; the model takes x float32 (b, 3)"


def test_random_numbers_for_a_model_of_nothing_but_states_are_refused():
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[b, 3] x) => (float[b, 3] y) { y = Relu (x) }"""
    for given in ("random", np.zeros((2, 3), np.float32)):
        said, hint = refusal(onnx.parser.parse_model(text), given, state={"y": "x"})
        assert said == "every input of the model is a state: there is nothing to step over"
        assert hint == "leave `--state` out, or name fewer of them; the model takes x float32 (b, 3)"


def test_test_data_of_onnx_is_of_every_input_or_of_those_that_are_no_states(tmp_path):
    model, _ = recurrent()
    arrays = [FRAMES[:1], np.ones((1, 1, 6), np.float32), np.ones((1, 1, 6), np.float32)]
    for count in (1, 3):
        folder = tmp_path / f"test_data_set_{count}"
        folder.mkdir()
        for place, array in enumerate(arrays[:count]):
            (folder / f"input_{place}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
        dataset = opened(model, folder)
        assert ("state" in dataset.record) == (count == 1)
        assert np.array_equal(dataset.whole().arrays["h"], np.full((1, 1, 6), count == 3, np.float32))


def test_random_tokens_are_of_a_whole_decoder():
    dataset = opened(decoder(), "random", generate=3)
    tokens = dataset.record["state"]["tokens"][0]
    assert dataset.record["state"]["steps"] == [3]
    assert dataset.load(0)[0]["past_key_values.0.key"].shape == (1, 0, 8)
    assert tokens[-3:] == torch_greedy(tokens[:-3], 3)


def test_a_step_that_is_not_there_is_told_alone():
    said, hint = refusal(recurrent()[0], FRAMES, step=99)
    assert (said, hint) == ("there is no step 99 among 9", "steps count from 0: `--step 8` is the last")
