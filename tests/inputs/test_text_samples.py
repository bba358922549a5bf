"""Text as input: which input holds what, filled up and cut, as it is, in rows; and what no text becomes."""

from __future__ import annotations

import json
import pickle

import numpy as np
import onnx
import pytest
from text_models import EMBEDDING, IDS, MASKED, WEIGHED, model_of, trained

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.batches import Fed, read_batches
from onnxscope.datasets.dataset import open_dataset, open_inputs
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.model.stored_model import InputSpec

LINES = ("A model reads text", "numbers", "what makes numbers of text is a tokenizer")
WORDS = InputSpec("words", "str", ("n",))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained().save("tokenizer.json")
    (tmp_path / "t.txt").write_text("\n".join(LINES), encoding="utf-8")
    return tmp_path


def placed(inputs=MASKED, body=WEIGHED):
    """A model beside the tokenizer."""
    onnx.save(model_of(inputs, body), "m.onnx")
    return load_model("m.onnx")


def opened(sources, model, **options):
    return open_dataset(sources, model, RunOptions(**options))


def oracle(*texts, side="right"):
    """Ids and masks as the library fills them up."""
    tokenizer = trained(side=side)
    encodings = tokenizer.encode_batch(list(texts))
    return np.array([each.ids for each in encodings]), np.array([each.attention_mask for each in encodings])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype", ["int64", "int32", "float"])
def test_texts_are_filled_up_to_the_batch(folder, side, dtype):
    trained(side=side).save("tokenizer.json")
    kinds = f"{IDS}, {dtype}[batch, seq] attention_mask".replace("int64[batch, seq] input", "int32[batch, seq] input")
    prepared = opened("t.txt", placed(kinds)).whole()
    ids, mask = oracle(*LINES, side=side)
    np.testing.assert_array_equal(prepared.arrays["input_ids"], ids)
    np.testing.assert_array_equal(prepared.arrays["attention_mask"], mask)
    assert prepared.arrays["input_ids"].dtype == np.int32
    assert prepared.arrays["attention_mask"].dtype == {"float": np.float32}.get(dtype, dtype)
    assert prepared.samples == 3


def test_types_positions_and_lengths_are_made(folder):
    inputs = f"{MASKED}, int32[batch, seq] token_type_ids, int64[batch, seq] position_ids, int64[batch] input_lengths"
    (folder / "t.jsonl").write_text('{"text": "a model", "text_pair": "a word"}\n"text"\n', encoding="utf-8")
    arrays = opened("t.jsonl", placed(inputs)).whole().arrays
    np.testing.assert_array_equal(arrays["token_type_ids"], [[0, 0, 0, 0, 1, 1, 1], [0] * 7])
    np.testing.assert_array_equal(arrays["position_ids"], [range(7)] * 2)
    np.testing.assert_array_equal(arrays["input_lengths"], [7, 3])
    np.testing.assert_array_equal(arrays["attention_mask"], [[1] * 7, [1, 1, 1, 0, 0, 0, 0]])


def test_positions_count_from_the_first_token_where_the_left_is_filled_up(folder):
    trained(side="left").save("tokenizer.json")
    model = placed(f"{MASKED}, int64[batch, seq] position_ids")
    arrays = opened(["text:numbers", "text:a model reads"], model).whole().arrays
    np.testing.assert_array_equal(arrays["position_ids"], [[0, 0, 0, 1, 2], range(5)])


def test_a_fixed_length_cuts_and_fills_up(folder):
    dataset = opened("t.txt", placed(MASKED.replace("seq", "6")))
    prepared = dataset.whole()
    tokenizer = trained(cut=6)
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]", length=6)
    ids = [each.ids for each in tokenizer.encode_batch(list(LINES))]
    np.testing.assert_array_equal(prepared.arrays["input_ids"], ids)
    assert prepared.record["text"]["max_length"] == 6
    assert "t.txt line 3: cut to 6 tokens" in prepared.notes


def test_a_fixed_batch_is_filled_up_with_copies(folder):
    prepared = opened("t.txt", placed(MASKED.replace("batch", "2"))).whole()
    assert prepared.arrays["input_ids"].shape == (4, 10)
    assert prepared.samples == 3
    assert any("2: 1 of the last text added to fill it" in note for note in prepared.notes)


def batches(dataset, **options):
    return list(read_batches(dataset, 0, dataset.count, Fed(), RunOptions(**options)))


def test_runs_fill_up_to_their_longest_and_statistics_of_inputs_do_not_count_it(folder):
    dataset = opened("t.txt", placed())
    first, second = batches(dataset, batch_size=2)
    assert (first.feeds["input_ids"].shape, second.feeds["input_ids"].shape) == ((2, 6), (1, 10))
    assert [observation.shape for observation in first.observations["input_ids"]] == [(6,), (3,)]
    again = batches(pickle.loads(pickle.dumps(dataset)), batch_size=2)
    np.testing.assert_array_equal(again[0].feeds["input_ids"], first.feeds["input_ids"])


def test_without_a_mask_texts_go_with_others_of_their_length(folder):
    dataset = opened(["text:a", "text:a model", "text:the model", "text:of"], placed(IDS, EMBEDDING))
    found = batches(dataset)
    assert [batch.positions for batch in found] == [(0, 3), (1, 2)]
    assert "the model has no mask: texts go into batches with others of as many tokens" in dataset.notes
    with pytest.raises(InputError, match="4 texts of different lengths do not go into one run") as caught:
        dataset.whole()
    assert "use `stats`" in caught.value.hint


def test_rows_may_hold_ids_and_what_is_missing_is_made(folder):
    rows = [{"input_ids": [2, 7, 3]}, {"input_ids": [2, 3], "attention_mask": [1, 0]}]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    arrays = opened("t.jsonl", placed()).whole().arrays
    np.testing.assert_array_equal(arrays["input_ids"], [[2, 7, 3], [2, 3, 0]])
    np.testing.assert_array_equal(arrays["attention_mask"], [[1, 1, 1], [1, 0, 0]])


def test_rows_feed_models_of_columns(tmp_path):
    specs = (InputSpec("age", "float32", (None, 1)), InputSpec("name", "str", (None, 1)))
    path = tmp_path / "t.jsonl"
    path.write_text('{"age": 3, "name": "ann"}\n{"age": 4.5, "name": "ben", "label": 1}\n', encoding="utf-8")
    arrays = open_inputs(str(path), specs, RunOptions()).whole().arrays
    np.testing.assert_array_equal(arrays["age"], np.array([[3], [4.5]], np.float32))
    assert arrays["name"].tolist() == [["ann"], ["ben"]]


@pytest.mark.parametrize(("shape", "given"), [(("n",), LINES), (("n", 1), LINES), ((), LINES[:1])])
def test_a_model_of_strings_takes_lines_as_they_are(tmp_path, shape, given):
    path = tmp_path / "t.txt"
    path.write_text("\n".join(given), encoding="utf-8")
    prepared = open_inputs(str(path), [InputSpec("words", "str", shape)], RunOptions()).whole()
    assert prepared.arrays["words"].reshape(-1).tolist() == list(given)
    assert prepared.record["kind"] == "text"
    assert prepared.record["text"]["tokenizer"] is None


def test_the_way_of_preparing_is_recorded_and_said(folder):
    dataset = opened("t.txt", placed())
    record = dataset.record["text"]
    assert record["tokenizer"] == "tokenizer.json"
    assert record["padding"] == {"id": 1, "side": "right"}
    assert dataset.notes[1].startswith("text becomes ids by tokenizer.json beside the model, sha256 ")
    assert dataset.notes[1].endswith(record["tokenizer_sha256"][:12])
    assert dataset.name(1) == "t.txt line 2"
    assert dataset.name(2) == "t.txt line 3"
    written = [opened(f"text:{text}", placed()).record["text"]["written_sha256"] for text in ("a", "b", "a")]
    assert written[0] == written[2] != written[1]


def test_a_tokenizer_lies_above_a_folder_called_onnx(folder):
    (folder / "onnx").mkdir()
    onnx.save(model_of(MASKED, WEIGHED), "onnx/m.onnx")
    assert opened("t.txt", load_model("onnx/m.onnx")).count == 3
    (folder / "other").mkdir()
    onnx.save(model_of(MASKED, WEIGHED), "other/m.onnx")
    with pytest.raises(InputError, match="no tokenizer makes text into 'input_ids'"):
        opened("t.txt", load_model("other/m.onnx"))


def refusal(sources, model):
    with pytest.raises(InputError) as caught:
        opened(sources, model).whole()
    assert "\n" not in str(caught.value) + caught.value.hint
    return str(caught.value), caught.value.hint


def test_what_no_text_becomes_is_named(folder):
    model = placed(f"{MASKED}, int64[batch, tgt] decoder_input_ids, float[batch, 3] features")
    fault, hint = refusal("t.txt", model)
    assert fault == (
        "no text becomes decoder_input_ids int64 (batch, tgt), features float32 (batch, 3): line 1 of t.txt"
    )
    assert "a line of a .jsonl can hold all inputs as numbers" in hint


def test_a_missing_tokenizer_is_asked_for(folder):
    (folder / "tokenizer.json").unlink()
    fault, hint = refusal("text:hello", placed())
    assert fault == "no tokenizer makes text into 'input_ids': the text given"
    assert "`--tokenizer tokenizer.json` names the model's" in hint


def test_ids_beyond_the_table_of_the_model_are_told(folder):
    tokenizer = trained()
    tokenizer.add_tokens([f"more{number}" for number in range(40)])
    tokenizer.save("tokenizer.json")
    fault, hint = refusal("text:more39", placed())
    assert "input 'input_ids' takes whole numbers from 0 to 63" in fault
    assert "they index a table of the model: the vocabulary may be that of another" in hint


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"input_ids": [1, 2.5]}', "input 'input_ids' takes int64, not float64: line 1 of t.jsonl"),
        ('{"input_ids": ["a"]}', "input 'input_ids' takes int64, not "),
        ('{"input_ids": [[1, 2]]}', "input 'input_ids' takes (batch, seq), not (1, 1, 2): line 1 of t.jsonl"),
        ('{"input_ids": [[1], [1, 2]]}', "no array of numbers or of strings for 'input_ids': line 1 of t.jsonl"),
        ('{"input_ids": {}}', "no array of numbers or of strings for 'input_ids': line 1 of t.jsonl"),
        ('{"input_ids": []}', "no array of numbers or of strings for 'input_ids': line 1 of t.jsonl"),
        ('{"attention_mask": [1, 1]}', "no text becomes input_ids int64 (batch, seq): line 1 of t.jsonl"),
        ('{"input_ids": [1e300]}', "input 'input_ids' takes int64, not float64: line 1 of t.jsonl"),
        ('{"input_ids": [99999999999999999999]}', "line 1 of t.jsonl"),
    ],
)
def test_rows_that_do_not_fit_are_told_with_their_line(folder, row, fault):
    (folder / "t.jsonl").write_text(row, encoding="utf-8")
    assert fault in refusal("t.jsonl", placed())[0]
    with pytest.raises(InputError):
        open_inputs("t.jsonl", [WORDS], RunOptions())


def test_empty_texts_and_mixtures_are_told(folder):
    assert refusal("text:  ", placed())[0] == "a text with nothing in it: text:"
    assert refusal(["t.txt", "random"], placed())[0] == "inputs of different kinds do not mix: random and text"


def test_folders_and_globs_of_text(folder):
    (folder / "texts").mkdir()
    for number in (10, 2):
        (folder / "texts" / f"{number}.txt").write_text(f"model {number}\n", encoding="utf-8")
    for source in ("texts", "texts/*.txt"):
        dataset = opened(source, placed())
        assert [dataset.name(place) for place in range(dataset.count)] == ["2.txt line 1", "10.txt line 1"]
    assert opened("t.txt", placed(), limit=2).count == 2


def test_a_tokenizer_that_is_named_is_taken(folder, monkeypatch, capsys):
    placed()
    trained(side="left").save("other.json")
    assert (
        run(["features", "m.onnx", "-i", "t.txt", "-o", "out", "--tokenizer", "other.json", "--select", "value:y"]) == 0
    )
    captured = capsys.readouterr()
    assert "text becomes ids by other.json, sha256 " in captured.err
    record = json.loads((folder / "out" / "features.json").read_text(encoding="utf-8"))["input"]
    assert record["text"]["padding"] == {"id": 1, "side": "left"}
    maps = onnxscope.features("m.onnx", ["text:a model", "text:numbers"], tokenizer="other.json", select="value:y")
    assert maps.input["samples"] == 2
    assert maps.input["inputs"][0]["shape"] == [2, 4]


def test_a_tokenizer_is_never_written_over(folder, capsys):
    placed()
    before = (folder / "tokenizer.json").read_bytes()
    for name, more in (("tokenizer.json", []), ("other.json", ["--tokenizer", "other.json"])):
        (folder / "other.json").write_bytes(before)
        assert run(["stats", "m.onnx", "-i", "t.txt", "-o", name, "--force", *more]) == 2
        assert run(["snapshot", "m.onnx", "-i", "t.txt", "-o", name, "--force", *more]) == 2
        assert (folder / name).read_bytes() == before
    assert "tokenizer.json" in capsys.readouterr().err


def test_one_worker_and_several_give_the_same_bytes(folder):
    model = placed()
    texts = [f"text:{' '.join(LINES[2].split()[: 1 + number % 7])}" for number in range(100)]
    for workers in (1, 3):
        onnxscope.stats(model, texts, batch_size=2, workers=workers, output=f"{workers}.json")
    assert (folder / "1.json").read_bytes() == (folder / "3.json").read_bytes()


def test_a_check_says_that_the_tokenizer_is_another(folder):
    model = placed()
    onnxscope.snapshot(model, "t.txt").save("b.json")
    assert onnxscope.check(model, "b.json", "t.txt").findings == ()
    trained(pads=("[PAD]", "[UNK]", "[CLS]", "[SEP]")).save("tokenizer.json")
    with pytest.raises(InputError, match=r"these inputs are not those of the baseline: text .*tokenizer_sha256"):
        onnxscope.check(model, "b.json", "t.txt")
