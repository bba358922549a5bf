"""States that begin with what somebody gives: against numpy from the same first values."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from stateful_models import decoder, numpy_logits, numpy_lstm, recurrent

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError

GENERATOR = np.random.default_rng(3)
FRAMES = GENERATOR.normal(size=(5, 4)).astype(np.float32)
H, C = GENERATOR.normal(size=(2, 1, 1, 6)).astype(np.float32)
TOKENS = [3, 1, 4, 1, 5, 9, 2]


def opened(proto, inputs, **feeding):
    return open_dataset(inputs, onnxscope.load_model(proto), RunOptions(**feeding))


def outputs(proto, inputs, select="value:y", **feeding):
    maps = onnxscope.features(proto, inputs, select=select, **feeding)
    return maps[0].data, maps


def test_an_lstm_goes_on_from_files(tmp_path):
    model, cell = recurrent()
    for name, array in {"frames": FRAMES, "h0": H, "c0": C}.items():
        np.save(tmp_path / f"{name}.npy", array)
    given = [f"frame={tmp_path}/frames.npy", f"h={tmp_path}/h0.npy", f"c={tmp_path}/c0.npy"]
    data, maps = outputs(model, given, state="auto")
    assert np.abs(data - numpy_lstm(cell, FRAMES, H[0, 0], C[0, 0])).max() < 1e-6
    assert maps.input["state"]["first"] == {
        "h": {"files": ["h0.npy"], "shape": [1, 1, 6]},
        "c": {"files": ["c0.npy"], "shape": [1, 1, 6]},
    }
    assert maps.input["files"] == ["frames.npy", "h0.npy", "c0.npy"]
    assert "states begin with h as h0.npy, c as c0.npy" in maps.notes


def test_a_state_that_nothing_is_said_of_begins_with_zeros(tmp_path):
    model, cell = recurrent()
    np.savez(tmp_path / "begin.npz", frame=FRAMES, c=C)
    expected = numpy_lstm(cell, FRAMES, np.zeros(6), C[0, 0])
    for given in (tmp_path / "begin.npz", {"frame": FRAMES, "c": C}):
        data, maps = outputs(model, given, state={"hn": "h", "cn": "c"})
        assert np.abs(data - expected).max() < 1e-6
    assert maps.input["state"]["first"] == {"c": {"files": [], "shape": [1, 1, 6]}}
    assert "states begin with c as it was given" in maps.notes


def test_a_number_fills_a_state(tmp_path):
    model, cell = recurrent()
    np.save(tmp_path / "frames.npy", FRAMES)
    data, _ = outputs(model, [f"frame={tmp_path}/frames.npy", "h=0.5"], state="auto")
    assert np.abs(data - numpy_lstm(cell, FRAMES, np.full(6, 0.5), np.zeros(6))).max() < 1e-6


def test_of_what_every_step_is_given_the_first_counts():
    model, cell = recurrent()
    states = GENERATOR.normal(size=(2, 1, 5, 6)).astype(np.float32)
    data, _ = outputs(model, {"frame": FRAMES, "h": states[0], "c": states[1]}, state="auto")
    assert np.abs(data - numpy_lstm(cell, FRAMES, states[0, 0, 0], states[1, 0, 0])).max() < 1e-6


def test_each_source_begins_with_its_own(tmp_path):
    model, cell = recurrent()
    given = [{"frame": FRAMES, "h": H, "c": C}, {"frame": FRAMES[:2], "h": -H, "c": C}]
    data = np.concatenate([opened(model, given, state="auto").load(place)[0]["h"] for place in (0, 5)])
    assert np.array_equal(data, np.concatenate([H[:, 0], -H[:, 0]]))
    stats = onnxscope.stats(model, given, select="value:y", state="auto")
    expected = [numpy_lstm(cell, FRAMES, H[0, 0], C[0, 0]), numpy_lstm(cell, FRAMES[:2], -H[0, 0], C[0, 0])]
    assert np.allclose(stats[0].channels.mean, np.concatenate(expected).mean(0), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_come_after_what_a_cache_holds(rows):
    _, keys, values = numpy_logits(TOKENS[:4])
    cache = {
        f"past_key_values.0.{part}": array[None, None].astype(np.float32).repeat(rows, 0)
        for part, array in (("key", keys), ("value", values))
    }
    ids = np.array([TOKENS[4:], [TOKENS[4], 7, 7]])[:rows]
    dataset = opened(decoder(), {"input_ids": ids, **cache}, state="auto")
    assert dataset.count == 3 * rows
    for row, tokens in enumerate(ids.tolist()):
        expected, _, _ = numpy_logits([*TOKENS[:4], *tokens])
        for step in range(3):
            fed, _ = dataset.load(3 * row + step)
            assert fed["attention_mask"].tolist() == [1] * (5 + step)
            assert fed["position_ids"].tolist() == [4 + step]
        for step in range(3):
            data, _ = outputs(decoder(), {"input_ids": ids, **cache}, "value:logits", state="auto", step=step)
            assert np.abs(data[row, 0] - expected[4 + step]).max() < 1e-4


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"h": H[0]}, "input 'h' takes (1, batch, 6), not (1, 6)"),
        ({"h": H[..., :5]}, "input 'h' takes (1, batch, 6), not (1, 1, 5)"),
        ({"h": H.astype(np.int64)}, "input 'h' takes float32, not int64"),
        ({"h": H.repeat(2, 1)}, "the first value of the state 'h' is of (1, 2, 6), not of one sample"),
        ({"g": H}, "the model has no input 'g': the arrays given"),
    ],
)
def test_a_first_value_that_is_none_is_told(first, said):
    with pytest.raises(InputError) as caught:
        opened(recurrent()[0], {"frame": FRAMES, **first}, state="auto")
    assert said in str(caught.value)
    assert caught.value.hint


def test_rows_of_text_hold_no_states(tmp_path):
    row = {"input_ids": [1, 2], "past_key_values.0.key": [[[0.0] * 8]]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"the first value of the state .* stands in rows of text") as caught:
        opened(decoder(), tmp_path / "rows.jsonl", state="auto")
    assert caught.value.hint.startswith("give arrays: a .npz of all inputs, or NAME=FILE for each; ")


def test_the_command_takes_the_same(tmp_path, capsys):
    model, cell = recurrent()
    onnx.save(model, tmp_path / "cell.onnx")
    for name, array in {"frames": FRAMES, "h0": H}.items():
        np.save(tmp_path / f"{name}.npy", array)
    line = f"-i frame={tmp_path}/frames.npy -i h={tmp_path}/h0.npy --state auto -s value:y --format json".split()
    assert run(["stats", str(tmp_path / "cell.onnx"), *line, "-o", str(tmp_path / "p.json")]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    expected = numpy_lstm(cell, FRAMES, H[0, 0], np.zeros(6))
    assert record["taps"][0]["mean"] == pytest.approx(expected.mean(), abs=1e-6)
    assert record["input"]["state"]["first"] == {"h": {"files": ["h0.npy"], "shape": [1, 1, 6]}}
    assert "states begin with h as h0.npy" in printed.err
