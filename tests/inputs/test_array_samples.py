"""Arrays from files and from memory: as they are, or cut into samples."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from feeding import NCHW, TOKENS, levels, opened, refusal, stacked, whole

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_inputs
from onnxscope.errors import InputError
from onnxscope.model.stored_model import InputSpec

RNG = np.random.default_rng(6)
PICTURE = (InputSpec("x", "float32", ("batch", 3, 16, 16)),)
PAIR = (InputSpec("a", "float32", ("batch", 4)), InputSpec("b", "int64", ("batch", 2, 3)))


def test_an_npy(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 10))
    np.save(tmp_path / "a.npy", array)
    feed = whole(tmp_path / "a.npy", NCHW, preprocess="imagenet")
    np.testing.assert_array_equal(feed.arrays["x"], array.astype(np.float32))
    assert feed.notes == (
        "preset 'imagenet' is ignored: presets are for images and sounds",
        f"{tmp_path / 'a.npy'}: float64 made float32 for input 'x'",
    )
    assert (feed.record["kind"], feed.samples, feed.record["files"]) == ("arrays", 2, ["a.npy"])
    assert (feed.record["preset"], feed.record["layout"]) == (None, None)
    assert feed.record["inputs"][0]["channel_axis"] == 1
    assert len(feed.record["inputs"][0]["mean"]) == 3
    assert whole(tmp_path / "a.npy", NCHW, recorded_preset="imagenet").record["preset"] is None


def test_an_npz(tmp_path):
    arrays = {"mask": np.ones((2, 5), np.int64), "ids": np.arange(10).reshape(2, 5)}
    np.savez(tmp_path / "a.npz", **arrays)
    feed = whole(tmp_path / "a.npz", TOKENS)
    assert list(feed.arrays) == ["ids", "mask"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(feed.arrays[name], array)
    assert feed.samples == 2
    assert [entry["channel_axis"] for entry in feed.record["inputs"]] == [None, None]
    assert feed.record["inputs"][0]["mean"] == [4.5]
    np.savez(tmp_path / "b.npz", np.ones((1, 3, 8, 10), np.float32))
    assert whole(tmp_path / "b.npz", NCHW).samples == 1


def test_array_files_that_do_not_fit(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 10, 3), np.float32))
    message, hint = refusal(tmp_path / "a.npy", NCHW)
    assert message == f"input 'x' takes (batch, 3, 8, 10), not (1, 8, 10, 3): {tmp_path / 'a.npy'}"
    assert "channels-last" in hint
    assert refusal(tmp_path / "a.npy", TOKENS)[0] == f"the model has 2 inputs, not one: {tmp_path / 'a.npy'}"
    np.savez(tmp_path / "a.npz", ids=np.zeros((1, 2), np.int64), masc=np.zeros((1, 2), np.int64))
    message, hint = refusal(tmp_path / "a.npz", TOKENS)
    assert message == f"the model has no input 'masc': {tmp_path / 'a.npz'}"
    assert hint.startswith("closest names: mask; the model takes ids int64 (b, s), mask int64 (b, s); ")
    os.mkfifo(tmp_path / "b.npy")
    assert refusal(tmp_path / "b.npy", NCHW)[0] == f"not a regular file: {tmp_path / 'b.npy'}"


def test_arrays_from_the_library():
    array = levels(0, (2, 3, 8, 10)).astype(np.float32)
    for given in (array, [array], {"x": array}):
        feed = whole(given, NCHW)
        np.testing.assert_array_equal(feed.arrays["x"], array)
        assert not np.shares_memory(feed.arrays["x"], array)
        assert feed.record["files"] == []
    assert whole([[1, 2], [3, 4]], [InputSpec("n", "int64", None)]).arrays["n"].tolist() == [[1, 2], [3, 4]]
    assert refusal({"y": array}, NCHW)[0] == "the model has no input 'y': the arrays given"
    assert refusal({}, NCHW)[0] == "no array for the input 'x', float32 (batch, 3, 8, 10): the arrays given"
    assert refusal({"x": None}, NCHW)[0] == "an array of Python objects (NoneType): array 'x'"
    assert refusal(np.zeros(3, np.float32), NCHW)[0] == "input 'x' takes (batch, 3, 8, 10), not (3,): the array given"
    assert whole({}, ()).arrays == {}


def test_an_unshared_first_axis_counts_no_samples():
    specs = [InputSpec("a", "int64", (None,)), InputSpec("b", "int64", ())]
    assert whole({"a": np.arange(3), "b": np.array(1)}, specs).samples is None
    assert whole({"a": np.arange(3), "b": np.array(1)}, specs).arrays["b"].shape == ()


def test_runs_of_several_inputs():
    specs = [InputSpec("a", "int64", (2, "s")), InputSpec("b", "int64", ("n",))]
    feed = whole({"a": np.arange(12).reshape(6, 2), "b": np.arange(6)}, specs)
    runs = list(feed.runs())
    assert [run["b"].tolist() for run in runs] == [[0, 1], [2, 3], [4, 5]]
    assert runs[1]["a"].tolist() == [[4, 5], [6, 7]]
    assert (feed.samples, len(list(whole("random", specs).runs()))) == (6, 1)
    message, hint = refusal({"a": np.zeros((6, 2), np.int64), "b": np.zeros(1, np.int64)}, specs)
    assert message == "6 samples go in runs of 2, and (1,) does not: input 'b' int64 (n,)"
    assert hint.startswith("give every input the same number of samples along axis 0, or one run at a time")
    mixed = [InputSpec("a", "int64", (2,)), InputSpec("b", "int64", (3,))]
    message, _ = refusal({"a": np.zeros(6, np.int64), "b": np.zeros(6, np.int64)}, mixed)
    assert message == "6 samples go in runs of 2, and (6,) does not: input 'b' int64 (3,)"
    scalar = [InputSpec("a", "int64", (2,)), InputSpec("b", "int64", ())]
    message, _ = refusal({"a": np.zeros(4, np.int64), "b": np.array(0)}, scalar)
    assert message == "4 samples go in runs of 2, and () does not: input 'b' int64 ()"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_mapped_and_compressed_ones_read(save, tmp_path):
    arrays = {"a": RNG.normal(size=(7, 4)).astype(np.float32), "b": RNG.integers(0, 9, (7, 2, 3))}
    save(tmp_path / "d.npz", **arrays)
    dataset = pickle.loads(pickle.dumps(opened(str(tmp_path / "d.npz"), PAIR)))
    assert dataset.count == 7
    found = stacked(dataset)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    held, _ = dataset._samples._arrays()["a"]
    assert isinstance(held, np.memmap) == (save is np.savez)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a.astype(">f4"), lambda a: a.astype(np.float64)])
def test_arrays_in_another_form_become_what_the_model_takes(change, tmp_path):
    array = RNG.normal(size=(5, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "a.npy", change(array))
    found = stacked(opened(str(tmp_path / "a.npy"), PICTURE))["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32


def test_arrays_from_memory_travel():
    array = RNG.normal(size=(5, 3, 16, 16)).astype(np.float32)
    dataset = pickle.loads(pickle.dumps(opened(array, PICTURE)))
    np.testing.assert_array_equal(stacked(dataset)["x"], array)
    assert dataset.channel_axes == {"x": 1}


def test_a_fixed_batch_is_the_models_own():
    specs = (InputSpec("x", "float32", (4, 6)),)
    dataset = opened(np.ones((10, 6), np.float32), specs)
    assert (dataset.count, dataset.fixed_batch) == (10, 4)


def test_arrays_without_a_common_axis_are_one_sample():
    specs = (InputSpec("x", "float32", ("n", 6)), InputSpec("t", "float32", ()))
    dataset = opened({"x": np.ones((10, 6), np.float32), "t": np.float32(2)}, specs)
    assert (dataset.count, dataset.batch_axes) == (1, {"x": None, "t": None})
    assert dataset.notes == ("the arrays share no axis of samples: they are fed as they are, as one sample",)
    assert dataset.load(0)[0]["x"].shape == (10, 6)


def test_faults_are_named(tmp_path):
    with pytest.raises(InputError, match=r"^input 'x' takes float32, not int64: the array given$"):
        opened(np.ones((2, 3, 16, 16), np.int64), PICTURE)
    with pytest.raises(InputError, match=r"^input 'x' takes .*, not .*: the array given$"):
        opened(np.ones((2, 3, 16, 17), np.float32), PICTURE)
    with pytest.raises(InputError, match=r"^no sample along axis 0: the array given$"):
        opened(np.ones((0, 3, 16, 16), np.float32), PICTURE)
    np.save(tmp_path / "a.npy", np.ones((5, 3, 16, 16), np.float32))
    travelling = pickle.dumps(opened(str(tmp_path / "a.npy"), PICTURE))
    np.save(tmp_path / "a.npy", np.ones((3, 3, 16, 16), np.float32))
    with pytest.raises(InputError, match=r"^3 of 5 samples are left: .*a\.npy$"):
        pickle.loads(travelling).load(0)


def test_a_preset_with_arrays_is_ignored_with_a_note():
    dataset = opened(np.ones((2, 3, 16, 16), np.float32), PICTURE, preprocess="unit")
    assert dataset.notes == ("preset 'unit' is ignored: presets are for images and sounds",)


def test_hostile_archives_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.ones((7, 4), np.float32), b=np.zeros((7, 2, 3), np.int64))
    content = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:200])
    with pytest.raises(InputError, match=r"^not a \.npz archive, or a broken one"):
        opened(str(tmp_path / "cut.npz"), PAIR)
    (tmp_path / "moved.npz").write_bytes(content.replace(b"PK\3\4", b"PK\3\5", 1))
    with pytest.raises(InputError, match=r"^no array where the archive says that it is: 'a' in .*moved\.npz$"):
        opened(str(tmp_path / "moved.npz"), PAIR)
    (tmp_path / "long.npz").write_bytes(
        content.replace(b"(7, 4)", b"(9999999, 4)"[:6].ljust(6), 1).replace(b"(9999 ", b"(9999,", 1)
    )
    with pytest.raises(InputError, match="long"):
        opened(str(tmp_path / "long.npz"), PAIR)


def test_a_damaged_archive_is_noticed_where_it_is_fed_at_once(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 8, 10), np.float32))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1  # a number, which its checksum alone tells
    (tmp_path / "a.npz").write_bytes(content)
    dataset = opened(str(tmp_path / "a.npz"), NCHW)
    assert dataset.count == 2
    with pytest.raises(InputError, match=r"Bad CRC-32 for file 'x\.npy'"):
        dataset.whole()


def test_runs_and_answers_are_cut_and_joined_along_the_axis_of_samples():
    specs = [InputSpec("a", "float32", (5, 2, 4)), InputSpec("b", "float32", (2,)), InputSpec("c", "float32", (3,))]
    a, b, c = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 6, 4), (6,), (3,)))
    axes = {"a": 1, "b": 0}
    feed = open_inputs({"a": a, "b": b, "c": c}, specs, RunOptions(batch_axis=axes)).whole()
    runs = list(feed.runs())
    assert feed.samples == 6
    assert len(runs) == 3
    for place, run in enumerate(runs):
        np.testing.assert_array_equal(run["a"], a[:, 2 * place : 2 * place + 2])
        np.testing.assert_array_equal(run["b"], b[2 * place : 2 * place + 2])
        np.testing.assert_array_equal(run["c"], c)
    np.testing.assert_array_equal(feed.joined([run["a"] for run in runs]), a)
    np.testing.assert_array_equal(feed.joined([run["b"] for run in runs]), b)
    np.testing.assert_array_equal(feed.joined([run["a"].transpose(2, 0, 1) for run in runs]), a.transpose(2, 0, 1))
    square = [run["a"][:2] for run in runs]  # two axes are as long as a run, and the caller knows which it is
    np.testing.assert_array_equal(feed.joined([part.swapaxes(0, 1) for part in square], 0), a[:2].swapaxes(0, 1))
    assert feed.joined([7, 8, 9]) == 7
    with pytest.raises(InputError, match="5 samples do not fill runs of 2, the model's fixed batch"):
        open_inputs(a[:, :5], specs[:1], RunOptions(batch_axis=1)).whole()
