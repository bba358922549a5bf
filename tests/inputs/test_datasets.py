"""Datasets: what there is, without reading it, and every sample as features() would feed it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.inputs.datasets import open_dataset
from onnxscope.inputs.feeds import prepare
from onnxscope.model.stored_model import InputSpec

RNG = np.random.default_rng(6)
PICTURE = (InputSpec("x", "float32", ("batch", 3, 16, 16)),)
PAIR = (InputSpec("a", "float32", ("batch", 4)), InputSpec("b", "int64", ("batch", 2, 3)))


@pytest.fixture
def folder(tmp_path):
    for index in range(11):
        mode, shape = (("RGB", (20, 30, 3)), ("L", (9, 9)), ("RGBA", (16, 16, 4)))[index % 3]
        Image.fromarray(RNG.integers(0, 256, shape).astype(np.uint8), mode=None).convert(mode).save(
            tmp_path / f"{index}.png"
        )
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def stacked(dataset):
    loaded = [dataset.load(position)[0] for position in range(dataset.count)]
    return {name: np.stack([each[name] for each in loaded]) for name in loaded[0]}


def test_images_are_prepared_as_features_prepares_them(folder):
    dataset = pickle.loads(pickle.dumps(open_dataset(str(folder), PICTURE, preset="unit")))
    assert (dataset.kind, dataset.count, dataset.fixed_batch) == ("images", 11, None)
    expected = prepare(str(folder), PICTURE, preset="unit")
    np.testing.assert_array_equal(stacked(dataset)["x"], expected.arrays["x"])
    assert dataset.name(10) == "10.png"
    assert dataset.notes == expected.notes[:1]
    assert dataset.record["file_count"] == 11
    assert dataset.record["files"] == ["0.png", "1.png", "2.png"]
    assert str(folder) not in str(dataset.record)
    assert "over black" in " ".join(dataset.load(2)[1])


def test_a_limit_takes_the_first(folder):
    dataset = open_dataset(str(folder), PICTURE, preset="unit", limit=4)
    assert (dataset.count, dataset.record["samples"]) == (4, 4)
    assert open_dataset("random:3", PICTURE, limit=5).count == 5
    with pytest.raises(InputError, match=r"^a limit of 0 leaves no sample$"):
        open_dataset(str(folder), PICTURE, preset="unit", limit=0)


def test_random_samples_begin_as_features_does_and_differ():
    dataset = open_dataset("random:7", PICTURE, limit=3)
    samples = stacked(dataset)["x"]
    np.testing.assert_array_equal(samples[:1], prepare("random:7", PICTURE).arrays["x"])
    assert len({sample.tobytes() for sample in samples}) == 3
    np.testing.assert_array_equal(stacked(open_dataset("random:7", PICTURE, limit=2))["x"], samples[:2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_mapped_and_compressed_ones_read(save, tmp_path):
    arrays = {"a": RNG.normal(size=(7, 4)).astype(np.float32), "b": RNG.integers(0, 9, (7, 2, 3))}
    save(tmp_path / "d.npz", **arrays)
    dataset = pickle.loads(pickle.dumps(open_dataset(str(tmp_path / "d.npz"), PAIR)))
    assert dataset.count == 7
    found = stacked(dataset)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    held, _ = dataset._whole()["a"]
    assert isinstance(held, np.memmap) == (save is np.savez)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a.astype(">f4"), lambda a: a.astype(np.float64)])
def test_arrays_in_another_form_become_what_the_model_takes(change, tmp_path):
    array = RNG.normal(size=(5, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "a.npy", change(array))
    found = stacked(open_dataset(str(tmp_path / "a.npy"), PICTURE))["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32


def test_arrays_from_memory_travel():
    array = RNG.normal(size=(5, 3, 16, 16)).astype(np.float32)
    dataset = pickle.loads(pickle.dumps(open_dataset(array, PICTURE)))
    np.testing.assert_array_equal(stacked(dataset)["x"], array)
    assert dataset.channel_axes == {"x": 1}


def test_a_fixed_batch_is_the_models_own():
    specs = (InputSpec("x", "float32", (4, 6)),)
    dataset = open_dataset(np.ones((10, 6), np.float32), specs)
    assert (dataset.count, dataset.fixed_batch) == (10, 4)


def test_arrays_without_a_common_axis_are_one_sample():
    specs = (InputSpec("x", "float32", ("n", 6)), InputSpec("t", "float32", ()))
    dataset = open_dataset({"x": np.ones((10, 6), np.float32), "t": np.float32(2)}, specs)
    assert (dataset.count, dataset.batch_axes) == (1, {"x": None, "t": None})
    assert dataset.notes == ("the arrays share no axis of samples: they are fed as they are, as one sample",)
    assert dataset.load(0)[0]["x"].shape == (10, 6)


def test_faults_are_named(tmp_path):
    with pytest.raises(InputError, match=r"^input 'x' takes float32, not int64: the array given$"):
        open_dataset(np.ones((2, 3, 16, 16), np.int64), PICTURE)
    with pytest.raises(InputError, match=r"^input 'x' takes .*, not .*: the array given$"):
        open_dataset(np.ones((2, 3, 16, 17), np.float32), PICTURE)
    with pytest.raises(InputError, match=r"^no sample along axis 0: the array given$"):
        open_dataset(np.ones((0, 3, 16, 16), np.float32), PICTURE)
    np.save(tmp_path / "a.npy", np.ones((5, 3, 16, 16), np.float32))
    travelling = pickle.dumps(open_dataset(str(tmp_path / "a.npy"), PICTURE))
    np.save(tmp_path / "a.npy", np.ones((3, 3, 16, 16), np.float32))
    with pytest.raises(InputError, match=r"^3 of 5 samples are left: .*a\.npy$"):
        pickle.loads(travelling).load(0)


def test_a_preset_with_arrays_is_ignored_with_a_note():
    dataset = open_dataset(np.ones((2, 3, 16, 16), np.float32), PICTURE, preset="unit")
    assert dataset.notes == ("preset 'unit' is ignored: presets are for images",)


def test_hostile_archives_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.ones((7, 4), np.float32), b=np.zeros((7, 2, 3), np.int64))
    content = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:200])
    with pytest.raises(InputError, match=r"^not a \.npz archive, or a broken one"):
        open_dataset(str(tmp_path / "cut.npz"), PAIR)
    (tmp_path / "moved.npz").write_bytes(content.replace(b"PK\3\4", b"PK\3\5", 1))
    with pytest.raises(InputError, match=r"^no array where the archive says that it is: 'a' in .*moved\.npz$"):
        open_dataset(str(tmp_path / "moved.npz"), PAIR)
    (tmp_path / "long.npz").write_bytes(
        content.replace(b"(7, 4)", b"(9999999, 4)"[:6].ljust(6), 1).replace(b"(9999 ", b"(9999,", 1)
    )
    with pytest.raises(InputError, match="long"):
        open_dataset(str(tmp_path / "long.npz"), PAIR)
