"""Tokens for a decoder with a key-value cache that nobody gives: one run over all of them, against numpy."""

from __future__ import annotations

import json
import pickle

import numpy as np
import onnx
import pytest
from stateful_models import decoder, numpy_logits, small_tokenizer

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError

TEXTS = {"one two three four five": [2, 3, 4, 5, 6], "nine no": [10, 12], "ten seven seven": [11, 8, 8]}
SELECT = "value:logits"


@pytest.fixture
def folder(tmp_path):
    onnx.save(decoder(), tmp_path / "decoder.onnx")
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS))
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def opened(proto, inputs, **feeding):
    return open_dataset(inputs, onnxscope.load_model(proto), RunOptions(**feeding))


def logits(tokens):
    return numpy_logits(tokens)[0]


def test_a_text_is_one_run_from_an_empty_cache(folder):
    maps = onnxscope.features(folder / "decoder.onnx", "text:one two three four five", select=SELECT)
    assert np.abs(maps[0].data[0] - logits([2, 3, 4, 5, 6])).max() < 1e-4
    assert maps.input["tokens"] == ["one", "two", "three", "four", "five"]
    assert (maps.input["kind"], maps.input["samples"]) == ("text", 1)
    assert maps.input["state"]["pairs"] == {
        "present.0.key": "past_key_values.0.key",
        "present.0.value": "past_key_values.0.value",
    }
    assert (maps.input["state"]["steps"], maps.input["state"]["tokens"]) == ([], [])
    fed = {row["name"]: row["shape"] for row in maps.input["inputs"]}
    assert fed["past_key_values.0.key"] == [1, 1, 0, 8]
    assert fed["attention_mask"] == fed["position_ids"] == fed["input_ids"] == [1, 5]
    said = "one run over all tokens, 2 inputs of the cache empty: `--state auto` steps over them one by one"
    assert said in maps.notes


def test_texts_that_fill_each_other_up_give_what_each_gives_alone(folder):
    stats = onnxscope.stats(folder / "decoder.onnx", folder / "lines.txt", select=SELECT)
    expected = np.concatenate([logits(tokens) for tokens in TEXTS.values()])
    assert stats.profile.samples == 3
    assert stats[0].overall.count == expected.size
    assert stats[0].overall.mean == pytest.approx(expected.mean(), abs=1e-4)
    assert stats[0].overall.std == pytest.approx(expected.std(ddof=1), rel=1e-5)
    maps = onnxscope.features(folder / "decoder.onnx", folder / "lines.txt", select=SELECT)
    for row, (data, tokens) in enumerate(zip(maps[0].data, TEXTS.values(), strict=True)):
        assert np.abs(data[: len(tokens)] - logits(tokens)).max() < 1e-4, row


def test_ids_in_rows_and_arrays_are_fed_alike(folder):
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in TEXTS.values()))
    model = onnxscope.load_model(folder / "decoder.onnx")
    expected = open_dataset(str(folder / "lines.txt"), model, RunOptions())
    pairs = [np.array([ids]) for ids in TEXTS.values()]
    for given in (str(rows), pairs, [{"input_ids": ids} for ids in pairs]):
        dataset = open_dataset(given, model, RunOptions())
        for place, ids in enumerate(TEXTS.values()):
            one, other = dataset.load(place)[0], expected.load(place)[0]
            assert one["input_ids"].reshape(-1).tolist() == ids
            assert all(np.array_equal(one[name].reshape(other[name].shape), other[name]) for name in other)
    array = opened(decoder(), np.array([[2, 3], [10, 12]]))
    assert array.whole().arrays["past_key_values.0.value"].shape == (2, 1, 0, 8)
    data = onnxscope.features(decoder(), np.array([[2, 3], [10, 12]]), select=SELECT)[0].data
    assert np.abs(data - [logits([2, 3]), logits([10, 12])]).max() < 1e-4
    with pytest.raises(InputError, match="whole numbers from 0 to 12, and 13 is none of them"):
        opened(decoder(), np.array([[2, 13]])).whole()


@pytest.mark.parametrize("asked", [{"state": "auto"}, {"step": 1}])
def test_a_text_is_stepped_where_that_is_asked_for(folder, asked):
    model = onnxscope.load_model(folder / "decoder.onnx")
    dataset = open_dataset(str(folder / "lines.txt"), model, RunOptions(**asked))
    assert dataset.record["state"]["steps"] == [5, 2, 3]
    assert dataset.record["state"]["tokens"] == list(TEXTS.values())
    assert dataset.count == (10 if "state" in asked else 3)
    assert dataset.name(1) == f"lines.txt line {1 if 'state' in asked else 2} step 1"


EXTRA = """<ir_version: 10, opset_import: ["": 21]>
    g (int64[b, s] input_ids, bool[1] use_cache_branch, int32[b] seqlens_k, int32 total_sequence_length,
        float[b, 2, past, 4] past_key_0) => (float[b, s] y, float[b, 2, total, 4] present_key_0) {
        y = Cast <to = 1> (input_ids)  present_key_0 = Identity (past_key_0)
        flag = Not (use_cache_branch)  k = Neg (seqlens_k)  t = Neg (total_sequence_length) }"""


def test_flags_and_lengths_are_of_nothing_before_and_all_tokens_now(folder):
    dataset = open_dataset(
        str(folder / "lines.txt"),
        onnxscope.load_model(onnx.parser.parse_model(EXTRA)),
        RunOptions(tokenizer=str(folder / "tokenizer.json")),
    )
    arrays = [dataset.load(place)[0] for place in range(3)]
    assert [sample["use_cache_branch"].tolist() for sample in arrays] == [[False]] * 3
    assert [int(sample["seqlens_k"]) for sample in arrays] == [4, 1, 2]
    assert [int(sample["total_sequence_length"]) for sample in arrays] == [5, 2, 3]
    assert [sample["past_key_0"].shape for sample in arrays] == [(2, 0, 4)] * 3
    together = dataset.together([arrays[0], arrays[0]])
    assert together["past_key_0"].shape == (2, 2, 0, 4)
    assert together["seqlens_k"].tolist() == [4, 4]
    assert together["total_sequence_length"].tolist() == 5
    assert not dataset.go_together(arrays[0], arrays[1])  # no mask tells what would fill them up


def test_it_travels_and_is_cut(folder):
    dataset = open_dataset(
        str(folder / "lines.txt"), onnxscope.load_model(folder / "decoder.onnx"), RunOptions(limit=2)
    )
    again = pickle.loads(pickle.dumps(dataset)).first(1)
    assert (again.count, again.kind, again.name(0)) == (1, "text", "lines.txt line 1")
    assert again.load(0)[0]["input_ids"].tolist() == [2, 3, 4, 5, 6]
    assert [name.rpartition("/")[2] for name in dataset.files] == ["lines.txt", "tokenizer.json"]


def test_an_input_that_no_tokens_tell_is_named(folder):
    proto = decoder()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("temperature", 1, ["batch", 1]))
    with pytest.raises(InputError, match=r"no text becomes temperature float32 \(batch, 1\): line 1 of ") as caught:
        opened(proto, str(folder / "lines.txt"), tokenizer=str(folder / "tokenizer.json"))
    assert "a line of a .jsonl can hold all inputs as numbers" in caught.value.hint


def test_the_commands_take_a_text(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    line = "decoder.onnx -i lines.txt -o p.json -s value:logits --format json"
    assert run(["stats", *line.split()]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    expected = np.concatenate([logits(tokens) for tokens in TEXTS.values()])
    assert record["taps"][0]["mean"] == pytest.approx(expected.mean(), abs=1e-4)
    assert "one run over all tokens, 2 inputs of the cache empty" in printed.err
    assert run(["snapshot", "decoder.onnx", "-i", "lines.txt", "-o", "b.json"]) == 0
    assert run(["check", "decoder.onnx", "--baseline", "b.json", "-i", "lines.txt"]) == 0
    assert run(["diff", "decoder.onnx", "decoder.onnx", "-i", "lines.txt"]) == 0
    assert run(["check", "decoder.onnx", "--baseline", "b.json", "-i", "lines.txt", "--state", "auto"]) == 2
    assert "these inputs are not those of the baseline: " in capsys.readouterr().err
