"""Statistics by token and by position are numpy's over the elements of each group, whatever the lengths and the cut."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from text_models import encoder, model_of, trained

import onnxscope
from onnxscope.base.json_files import dump_json
from onnxscope.cli.main import run
from onnxscope.errors import InputError, MergeError, ProfileError
from onnxscope.profiling.groups import position_block, position_keys
from onnxscope.profiling.profile import Profile

RNG = np.random.default_rng(22)
SAMPLES = [np.append(3, RNG.integers(4, 12, length - 1)) for length in (5, 9, 9, 14)]
SHARES = ("scores", "shares")
ROWS = ("e", "context", "hidden", "y")


def padded(side="right"):
    longest = max(map(len, SAMPLES))
    ids, kept = np.zeros((2, len(SAMPLES), longest), np.int64)
    for row, sample in enumerate(SAMPLES):
        places = slice(0, len(sample)) if side == "right" else slice(longest - len(sample), None)
        ids[row, places], kept[row, places] = sample, 1
    return {"input_ids": ids, "attention_mask": kept}


def alone():
    return [{"input_ids": sample[None], "attention_mask": np.ones((1, len(sample)), np.int64)} for sample in SAMPLES]


def places_of(proto, name, feeds=None):
    """Of every sample by itself, by onnx's own evaluator: its value with tokens (or keys) first."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    evaluator = ReferenceEvaluator(copy)
    for sample in feeds or alone():
        (value,) = evaluator.run(None, {key: sample[key] for key in evaluator.input_names})
        yield np.moveaxis(value[0], -1 if name in SHARES else 0, 0).astype(np.float64)


def expected_of(proto, name, group_of):
    """The elements of each group, by its name."""
    groups = {}
    for sample, value in zip(SAMPLES, places_of(proto, name), strict=True):
        for place, row in enumerate(value):
            groups.setdefault(group_of(place, int(sample[place])), []).append(row.reshape(-1))
    return {name: np.concatenate(rows) for name, rows in groups.items()}


def assert_the_same(rows, groups):
    assert {row.group for row in rows} == groups.keys()
    for row in rows:
        values, found = groups[row.group], row.statistics
        finite = values[np.isfinite(values)]
        assert found.count == values.size
        assert found.mean == pytest.approx(finite.mean(), rel=1e-5, abs=1e-6)
        assert found.std == pytest.approx(finite.std(ddof=1), rel=1e-5)
        assert (found.min, found.max) == pytest.approx((finite.min(), finite.max()), rel=1e-5, abs=1e-6)
        assert found.zero_fraction == (finite == 0).mean()


def grouped(inputs, by, proto=None, names=(*ROWS, *SHARES), **options):
    result = onnxscope.stats(proto or encoder(), inputs, select=[f"value:{n}" for n in names], by=by, **options)
    return result, {name: [row for row in result.groups.rows if row.name == name] for name in names}


@pytest.mark.parametrize("inputs", [padded(), padded("left"), alone()], ids=["right", "left", "apart"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_positions_are_numpy_s_with_and_without_padding(inputs, batch_size):
    _, rows = grouped(inputs, "position", batch_size=batch_size)
    for name, found in rows.items():
        assert [row.first for row in found] == list(range(14))
        assert_the_same(found, expected_of(encoder(), name, lambda place, _: str(place)))


@pytest.mark.parametrize("inputs", [padded(), padded("left"), alone()], ids=["right", "left", "apart"])
def test_tokens_are_numpy_s_with_and_without_padding(inputs):
    _, rows = grouped(inputs, "token:3,7", batch_size=3)
    names = {3: "3", 7: "7"}
    for name, found in rows.items():
        assert [row.token for row in found] == [None, 3, 7]
        assert_the_same(found, expected_of(encoder(), name, lambda _, token: names.get(token, "other tokens")))


def test_without_a_tokenizer_the_most_frequent_ids_have_groups():
    result, rows = grouped(padded(), "token", names=["y"])
    met, counts = np.unique(np.concatenate(SAMPLES), return_counts=True)
    frequent = sorted(met[np.lexsort((met, -counts))][:8].tolist())
    assert [row.token for row in rows["y"]] == [None, *frequent]  # 0 fills up, and does not count
    assert result.profile.grouping.others == "other tokens"


def test_text_is_told_by_the_special_tokens_of_its_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    trained().save(str(path))
    (tmp_path / "notes.txt").write_text("a model reads text\nwhat makes numbers of text is a tokenizer\n")
    result, rows = grouped(str(tmp_path / "notes.txt"), "token", tokenizer=path, names=["e", "y"])
    labels = [row.group for row in rows["y"]]
    assert labels[0] == "ordinary tokens"
    assert "[CLS]" in labels
    assert "[PAD]" not in labels
    ids = [row for row in rows["y"] if row.group == "[CLS]"]
    assert [row.statistics.count for row in ids] == [2 * 4]  # one in each of two texts, by four channels
    assert result.groups.to_dict()["by"] == "token"


def test_a_token_can_be_named_by_its_text(tmp_path):
    path = tmp_path / "tokenizer.json"
    trained().save(str(path))
    _, rows = grouped("text:a model reads text", "token:model,text", tokenizer=path, names=["y"])
    assert sorted(row.group for row in rows["y"]) == ["model", "other tokens", "text"]
    with pytest.raises(InputError, match="no token is 'zebra': --by token:zebra"):
        grouped("text:a model", "token:zebra", tokenizer=path, names=["y"])


def test_without_a_mask_every_position_counts():
    _, rows = grouped(padded(), "position", mask="none", names=["y"])
    assert {row.statistics.count for row in rows["y"]} == {len(SAMPLES) * 4}


def test_far_positions_share_blocks_that_no_length_moves():
    keys = position_keys(300)
    assert keys[:36].tolist() == [*range(32), 32, 32, 32, 32]
    assert sorted(set(keys[256:].tolist())) == [256, 288]
    for key in set(keys.tolist()):
        first, last = position_block(key)
        assert (keys == key).sum() == min(last, 299) - first + 1
    assert np.array_equal(position_keys(40), keys[:40])
    long = {"input_ids": np.arange(80).reshape(2, 40) % 60, "attention_mask": np.ones((2, 40), np.int64)}
    _, rows = grouped(long, "position", names=["e"])
    assert [row.group for row in rows["e"]][-2:] == ["32-35", "36-39"]
    (value,) = [row.statistics for row in rows["e"] if row.group == "36-39"]
    found = np.concatenate(
        [
            v[36:40].ravel()
            for v in places_of(
                encoder(), "e", [{key: array[i : i + 1] for key, array in long.items()} for i in range(2)]
            )
        ]
    )
    assert (value.count, value.mean) == (found.size, pytest.approx(found.mean(), rel=1e-5, abs=1e-7))


def test_workers_shards_and_files_change_no_byte(tmp_path):
    many = {name: np.tile(array, (12, 1)) for name, array in padded().items()}
    one, _ = grouped(many, "position", batch_size=1, names=["y", "shares"])
    two, _ = grouped(many, "position", batch_size=1, names=["y", "shares"], workers=2)
    assert len(many["input_ids"]) > 2 * 16  # several shards
    assert dump_json(one.profile.to_dict()) == dump_json(two.profile.to_dict())
    one.profile.save(tmp_path / "p.json")
    again = onnxscope.DatasetStatistics.load(tmp_path / "p.json")
    assert again.to_dict() == one.to_dict()
    assert again.groups.to_dict() == one.groups.to_dict()
    stored = json.loads((tmp_path / "p.json").read_text())
    stored["grouping"]["by"] = "colour"
    (tmp_path / "p.json").write_text(json.dumps(stored))
    with pytest.raises(ProfileError, match="statistics by 'colour'"):
        Profile.load(tmp_path / "p.json")


def test_profiles_by_other_tokens_do_not_merge():
    one, two = (grouped(padded(), by, names=["y"])[0].profile for by in ("token:3", "token:4"))
    with pytest.raises(MergeError, match="made in different ways: by"):
        one.merge(two)


def test_a_value_without_tokens_is_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(encoder(), "m.onnx")
    np.savez("ids.npz", **padded())
    command = ["stats", "m.onnx", "-i", "ids.npz", "-o", "p.json", "-s", "value:y", "-s", "value:pooled"]
    assert run([*command, "--by", "position"]) == 0
    shown = capsys.readouterr()
    assert "by position: 14 groups" in shown.out
    assert "no axis of tokens that are known in 1 tap: pooled" in shown.err
    assert run([*command, "--by", "position", "--format", "csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "layer,operator,group,count,mean,std,min,max,zeros"
    assert len(rows) == 15
    assert run([*command, "--by", "position", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ungrouped"] == ["pooled"]
    assert record["groups"][3]["first"] == record["groups"][3]["last"] == 3
    frame = onnxscope.stats("m.onnx", padded(), select=["value:y"], by="position").to_frame()
    assert frame["first"].tolist() == list(range(14))


def test_what_cannot_be_told_apart_is_said():
    with pytest.raises(InputError, match="by token or by position, not by 'colour'"):
        grouped(padded(), "colour", names=["y"])
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 4, 3] x) => (float[n, 4, 3] y) { y = Relu (x) }'
    proto = onnx.parser.parse_model(text)
    with pytest.raises(InputError, match="no input holds ids of tokens: x float32"):
        grouped(np.ones((2, 4, 3), np.float32), "token", proto, names=["y"])
    _, rows = grouped(np.ones((2, 4, 3), np.float32), "position", proto, names=["y"])
    assert [(row.group, row.statistics.count) for row in rows["y"]] == [(str(place), 6) for place in range(4)]


def test_samples_and_tokens_that_lie_in_one_axis_are_told_apart():
    body = """e = Gather (table, input_ids)  wide = Constant <value_ints = [-1, 4]> ()  flat = Reshape (e, wide)
        z = Relu (flat)  n = Shape (input_ids)  four = Constant <value_ints = [4]> ()
        shape = Concat <axis = 0> (n, four)  y = Reshape (z, shape)"""
    same = {"input_ids": np.stack([SAMPLES[1], SAMPLES[2]])}
    proto = model_of("int64[batch, seq] input_ids", body)
    for by in ("position", "token:3"):
        _, rows = grouped(same, by, proto, names=["flat", "e"])
        assert [row.statistics for row in rows["flat"]] == [row.statistics for row in rows["e"]]
        assert len(rows["e"]) == (9 if by == "position" else 2)
