"""Models with states, step after step: against torch's own LSTM, and a decoder computed without a cache."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import soundfile
import torch
from stateful_models import (
    WEIGHTS,
    WORDS_OF_IT,
    decoder,
    numpy_logits,
    recurrent,
    small_tokenizer,
    torch_greedy,
    torch_logits,
)

import onnxscope
from onnxscope.base.run_options import RunOptions, read_state_pairs
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError

FRAMES = np.random.default_rng(7).normal(size=(9, 4)).astype(np.float32)
PROMPT = [3, 1, 4, 1, 5]


def by_torch(cell, frames):
    with torch.no_grad():
        outputs, _ = cell(torch.from_numpy(frames)[:, None])
    return outputs[:, 0].numpy()


def opened(model, inputs, **feeding):
    return open_dataset(inputs, onnxscope.load_model(model), RunOptions(**feeding))


def values(model, inputs, select, **feeding):
    maps = onnxscope.features(model, inputs, select=select, **feeding)
    return maps[0].data, maps


def test_an_lstm_is_stepped_over_frames():
    model, cell = recurrent()
    data, maps = values(model, FRAMES, "value:y")
    assert data.shape == (9, 6)
    assert np.abs(data - by_torch(cell, FRAMES)).max() < 1e-6
    assert "9 steps: hn feeds h, cn feeds c" in maps.notes
    assert maps.input["state"] == {
        "pairs": {"hn": "h", "cn": "c"},
        "steps": [9],
        "step": None,
        "tokens": [],
        "generated": 0,
        "first": {},
    }
    assert maps.input["batch_axes"] == {"frame": 0, "h": 1, "c": 1}


def test_statistics_count_every_step_and_states_begin_anew(tmp_path):
    model, cell = recurrent()
    for name, count in (("1.npy", 9), ("2.npy", 4)):
        np.save(tmp_path / name, FRAMES[:count])
    stats = onnxscope.stats(model, tmp_path, select="value:y", batch_size=4)
    expected = np.concatenate([by_torch(cell, FRAMES), by_torch(cell, FRAMES[:4])]).astype(np.float64)
    assert stats.profile.samples == 13
    assert stats[0].overall.count == expected.size
    assert stats[0].overall.mean == pytest.approx(expected.mean(), abs=1e-6)
    assert stats[0].overall.std == pytest.approx(expected.std(ddof=1), rel=1e-5)
    assert np.allclose(stats[0].channels.mean, expected.mean(0), atol=1e-6)


def test_pairs_are_given_found_or_left_alone():
    model, cell = recurrent()
    data, _ = values(model, FRAMES, "value:y", state={"hn": "h", "cn": "c"})
    assert np.abs(data - by_torch(cell, FRAMES)).max() < 1e-6
    everything = {"frame": FRAMES, "h": np.zeros((1, 9, 6), np.float32), "c": np.zeros((1, 9, 6), np.float32)}
    for state in (None, "none"):  # who gives the states has their word
        alone = onnxscope.features(model, everything, select="value:y", state=state, batch_axis={"frame": 0})[0].data
        first = [by_torch(cell, FRAMES[index : index + 1])[0] for index in range(9)]
        assert np.abs(alone - first).max() < 1e-6
    stepped, maps = values(model, everything, "value:y", state="auto", batch_axis={"frame": 0, "h": 1, "c": 1})
    assert np.abs(stepped - by_torch(cell, FRAMES)).max() < 1e-6
    assert maps.input["samples"] == 9
    with pytest.raises(InputError, match="the model has 3 inputs, not one"):
        opened(model, FRAMES, state="none")


def test_one_step_alone():
    model, cell = recurrent()
    data, maps = values(model, FRAMES, "value:y", step=6)
    assert np.abs(data - by_torch(cell, FRAMES)[6:7]).max() < 1e-6
    assert (maps.input["state"]["step"], maps.input["samples"]) == (6, 1)
    with pytest.raises(InputError, match="there is no step 9 among 9"):
        opened(model, FRAMES, step=9)


def test_random_frames_are_stepped_where_that_is_asked(tmp_path):
    model, _ = recurrent()
    assert opened(model, "random", limit=5).record.get("state") is None
    assert opened(model, "random", limit=5, state="auto").record["state"]["steps"] == [5]


def test_a_sound_is_stepped_by_its_windows(tmp_path):
    model, cell = recurrent(inputs=100, rate=True)
    sound = np.sin(np.arange(1000) / 9) * 0.5
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    data, maps = values(model, str(tmp_path / "a.wav"), "value:y")
    frames = sound.reshape(10, 100).astype(np.float32)
    assert np.abs(data - by_torch(cell, frames)).max() < 1e-5
    assert "10 steps: hn feeds h, cn feeds c" in maps.notes
    assert any(note.startswith("a.wav: 0.125 s of sound") for note in maps.notes)


@pytest.mark.parametrize("given", [PROMPT, [0]])
def test_a_decoder_is_stepped_over_tokens(given):
    model = onnxscope.load_model(decoder())
    dataset = opened(model, np.array([given]), state="auto")
    assert dataset.count == len(given)
    expected = torch_logits(given).numpy()
    stats = onnxscope.stats(model, np.array([given]), select="value:logits", state="auto")
    assert stats.profile.samples == len(given)
    assert stats[0].overall.mean == pytest.approx(expected.astype(np.float64).mean(), abs=1e-5)
    for step in range(len(given)):
        data, _ = values(model, np.array([given]), "value:logits", step=step)
        assert np.abs(data[0, 0] - expected[step]).max() < 1e-4
    if len(given) > 1:
        assert any("step by step its scores are" in note for note in dataset.notes)
        with pytest.raises(InputError, match="5 steps do not go into one run") as caught:
            dataset.whole()
        assert "`--step K` takes one of them" in caught.value.hint


def softmax(scores):
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def test_features_hold_all_steps_of_a_cache_that_grows():
    maps = onnxscope.features(decoder(), np.array([PROMPT]), select=["value:logits", "value:a"], state="auto")
    by_name = {tap.tap.name: tap for tap in maps}
    logits, keys, _ = numpy_logits(PROMPT)
    assert np.abs(by_name["logits"].data[:, 0] - logits).max() < 1e-4
    h = (WEIGHTS["table"][PROMPT] + WEIGHTS["places"][:5]).astype(np.float64)
    shares = by_name["a"]
    assert shares.data.shape == (5, 1, 1, 5)
    seen = [softmax(h[step] @ WEIGHTS["wq"] @ keys[: step + 1].T / 8**0.5) for step in range(5)]
    for step, expected in enumerate(seen):
        assert np.abs(shares.data[step, 0, 0, : step + 1] - expected).max() < 1e-5
        assert np.isnan(shares.data[step, 0, 0, step + 1 :]).all()
    held = np.concatenate(seen)  # what is behind the last key of a step is nothing, and no number that is not finite
    assert shares.statistics["mean"] == pytest.approx(held.mean(), abs=1e-6)
    assert shares.statistics["std"] == pytest.approx(held.std(ddof=1), rel=1e-5)
    assert (shares.statistics["nan_count"], maps.input["samples"]) == (0, 5)
    fed = {row["name"]: row for row in maps.input["inputs"]}
    assert (fed["input_ids"]["shape"], fed["input_ids"]["mean"]) == ([5, 1], [pytest.approx(np.mean(PROMPT))])
    assert fed["attention_mask"]["shape"] == [5, 5]
    past = fed["past_key_values.0.key"]
    assert (past["shape"], past["max"]) == ([5, 1, 4, 8], [pytest.approx(keys[:4].max(), abs=1e-5)])


@pytest.mark.parametrize("cache", [True, False])
def test_tokens_are_generated_as_torch_does(cache):
    model = onnxscope.load_model(decoder(cache))
    dataset = opened(model, np.array([PROMPT]), generate=7)
    expected = torch_greedy(PROMPT, 7)
    assert len(set(expected)) > 2
    assert dataset.record["state"]["tokens"] == [PROMPT + expected]
    assert dataset.record["state"]["generated"] == 7
    assert dataset.record["state"]["steps"] == [7]
    said = f"sample 0: 7 tokens generated: {' '.join(map(str, expected))}"
    assert said in dataset.notes
    arrays, _ = dataset.load(3)
    held = arrays["input_ids"].reshape(-1).tolist()
    assert held == ([PROMPT + expected][0][7:8] if cache else [*PROMPT, *expected[:3]])


def test_several_sequences_of_a_batch_with_what_fills_it_up():
    model = onnxscope.load_model(decoder())
    rows = np.array([PROMPT, [2, 7, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    given = {"input_ids": rows, "attention_mask": mask, "position_ids": np.arange(5)[None].repeat(2, 0)}
    dataset = opened(model, given, generate=4)
    assert dataset.record["state"]["tokens"] == [PROMPT + torch_greedy(PROMPT, 4), [2, 7, *torch_greedy([2, 7], 4)]]


def test_what_cannot_be_stepped_is_told():
    plain = onnxscope.load_model(recurrent()[0])
    with pytest.raises(InputError, match="no input of the model takes tokens"):
        opened(plain, FRAMES, generate=3)
    with pytest.raises(InputError, match="no output 'y2' for a state"):
        opened(plain, FRAMES, state={"y2": "h"})
    text = "g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu (x) }"
    relu = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    with pytest.raises(InputError, match="no output of the model feeds an input") as caught:
        opened(relu, np.zeros((2, 3), np.float32), state="auto")
    assert "`--state OUTPUT=INPUT` says which does" in caught.value.hint


def test_an_output_that_may_be_a_state_is_offered():
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[b, 3] x, float[b, 5] a)
        => (float[b, 3] y, float[b, 5] cell) { y = Relu (x)  cell = Relu (a) }"""
    with pytest.raises(InputError) as caught:
        opened(onnx.parser.parse_model(text), np.zeros((2, 3), np.float32))
    assert "`--state cell=a` if that output feeds it in the next step" in caught.value.hint
    assert opened(onnx.parser.parse_model(text), np.zeros((2, 3), np.float32), state={"cell": "a"}).count == 2


def test_what_is_written_of_states_is_read():
    assert read_state_pairs(["stateN=state", "hn=h,cn=c"]) == {"stateN": "state", "hn": "h", "cn": "c"}
    assert (read_state_pairs([]), read_state_pairs(["none"]), read_state_pairs(["auto"])) == (None, "none", "auto")
    for wrong in (["x"], ["=h"], ["hn="], ["hn=h", "hn=c"], ["hn=h", "cn=h"], ["none", "hn=h"]):
        with pytest.raises(InputError, match="no state: ") as caught:
            read_state_pairs(wrong)
        assert "OUTPUT=INPUT" in caught.value.hint
    for options in ({"state": "any"}, {"generate": 0}, {"step": -1}):
        with pytest.raises(InputError):
            RunOptions(**options)


def test_the_command_takes_the_same(tmp_path, capsys):
    onnx.save(decoder(), tmp_path / "decoder.onnx")
    np.save(tmp_path / "ids.npy", np.array([PROMPT]))
    line = ["stats", str(tmp_path / "decoder.onnx"), "-i", str(tmp_path / "ids.npy"), "--generate", "3"]
    pairs = ["--state", "present.0.key=past_key_values.0.key,present.0.value=past_key_values.0.value"]
    assert run([*line, *pairs, "-s", "value:logits", "--format", "json", "-o", str(tmp_path / "p.json")]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)["input"]["state"]
    assert record["tokens"] == [PROMPT + torch_greedy(PROMPT, 3)]
    assert "sample 0: 3 tokens generated: " in printed.err


def test_two_decoders_part_at_a_step_by_a_token_in_a_layer():
    other = WEIGHTS["wv"] + np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32) * 0.5
    own, changed = torch_greedy(PROMPT, 8), torch_greedy(PROMPT, 8, wv=other)
    step = next(step for step in range(8) if own[step] != changed[step])
    prompts = iter([np.array([PROMPT])])
    compared = onnxscope.diff(decoder(), decoder(wv=other), prompts, generate=8)
    parting = {"sequence": 0, "step": step, "a": own[step], "b": changed[step]}
    assert compared.input["state"]["parting"] == parting
    said = f"the models part at step {step}: the first says token {own[step]}, the second {changed[step]}; "
    assert any(note.startswith(said) for note in compared.notes)
    assert compared.verdict == "differs"
    assert compared.first_divergence.a.name == "v0"
    assert compared.samples == 8
    alone = onnxscope.diff(decoder(), decoder(wv=other), np.array([PROMPT]), generate=8, step=step)
    assert (alone.samples, alone.first_divergence.a.name) == (1, "v0")
    same = onnxscope.diff(decoder(), decoder(), np.array([PROMPT]), generate=8)
    assert same.verdict == "equal"
    assert same.input["state"]["parting"] is None
    assert "both models generate the same 8 tokens" in same.notes


@pytest.mark.parametrize(("weight", "row", "layer"), [("table", 4, "Gather_0"), ("places", 3, "Gather_1")])
def test_the_first_step_whose_values_part_is_named(weight, row, layer):
    """By numpy the caches of the first model are fed to both, so that a step parts by its own token and place alone."""
    tokens = [3, 1, 4, 1, 5]
    other = WEIGHTS[weight].copy()
    other[row] += 1
    held = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    changed = {**held, weight: other.astype(np.float64)}
    own = [set_of["table"][tokens] + set_of["places"][: len(tokens)] for set_of in (held, changed)]
    parted = [step for step in range(len(tokens)) if np.abs(own[0][step] - own[1][step]).max() > 1e-6]
    assert parted
    compared = onnxscope.diff(decoder(), decoder(**{weight: other}), np.array([tokens]), state="auto")
    said = f"values part first in sample 0 step {parted[0]}, at {layer}; the states of the first model are fed to both"
    assert compared.notes[-1] == said
    alone = onnxscope.diff(decoder(), decoder(**{weight: other}), np.array([tokens]), state="auto", step=parted[0])
    assert alone.first_divergence.a.layer == layer
    assert not any("part first" in note for note in alone.notes)


def test_no_step_is_named_where_nothing_parts():
    for model, options in ((decoder(), {"state": "auto"}), (decoder(wv=WEIGHTS["wv"] * 2), {"generate": 2})):
        notes = onnxscope.diff(decoder(), model, np.array([[3, 1, 4]]), **options).notes
        assert not any("part first" in note for note in notes)


def test_a_baseline_of_steps_is_checked_on_the_same_steps():
    model, _ = recurrent()
    baseline = onnxscope.snapshot(model, FRAMES)
    assert onnxscope.check(model, baseline, FRAMES).verdict == "equal"
    with pytest.raises(InputError, match=r"these inputs are not those of the baseline: .*state ") as caught:
        onnxscope.check(model, baseline, FRAMES, step=3)
    assert "the baseline's inputs" in caught.value.hint


def test_generated_tokens_are_called_as_the_tokenizer_calls_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(decoder(), "decoder.onnx")
    small_tokenizer().save("tokenizer.json")
    line = "-i lines.txt --generate 4 -s value:a -s value:h -o out --format json"
    (tmp_path / "lines.txt").write_text("two four nine")
    given, expected = [3, 5, 10], torch_greedy([3, 5, 10], 4)
    called = [WORDS_OF_IT[token] for token in (*given, *expected)]
    assert run(["features", "decoder.onnx", *line.split()]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)["input"]
    assert record["state"]["tokens"] == [given + expected]
    assert record["state"]["names"] == [called]
    assert f"lines.txt line 1: 4 tokens generated: {' '.join(called[3:])}" in printed.err
    for step, (fed, keys) in enumerate([(called[:3], 3), ([called[3]], 4), ([called[4]], 5), ([called[5]], 6)]):
        maps = onnxscope.features("decoder.onnx", "lines.txt", select="value:a", generate=4, step=step)
        assert maps.input["tokens"] == fed
        assert maps[0].data.shape[-1] == keys
        assert maps[0].caption().endswith(": " + " ".join(fed))
        assert maps[0]._names(1) == tuple(called[:keys])
    maps = onnxscope.features("decoder.onnx", "lines.txt", select="value:a", generate=4, sample=1)
    assert maps[0].maps().shape == (1, 1, 4)  # without what was put behind this step
    assert (maps[0]._names(0), maps[0]._names(1)) == ((called[3],), tuple(called[:4]))
    assert maps[0].image().size[0] > maps[0].image().size[1]
    assert maps[0].plot().axes
