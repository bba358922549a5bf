"""Batches: order, padding, broken samples, reading ahead, digests."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from feeding import opened
from PIL import Image

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.batches import Fed, read_batches
from onnxscope.datasets.dataset import Dataset
from onnxscope.errors import InputError
from onnxscope.model.stored_model import InputSpec

RNG = np.random.default_rng(8)
ROWS = (InputSpec("x", "float32", ("batch", 3)),)
DATA = RNG.normal(size=(10, 3)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    for index in range(12):
        Image.fromarray(RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / f"{index:02d}.png")
    for index in (3, 4, 9):
        (tmp_path / f"{index:02d}.png").write_bytes(b"no picture")
    return tmp_path


def picture(batch):
    return (InputSpec("x", "float32", (batch, 3, 16, 16)),)


def batches(dataset, start=0, stop=None, fed=None, **options):
    fed = Fed() if fed is None else fed
    stop = dataset.count if stop is None else stop
    return list(read_batches(dataset, start, stop, fed, RunOptions(batch_size=4, **options)))


def test_batches_follow_the_order_of_the_data():
    found = batches(opened(DATA, ROWS), 1, 10)
    assert [batch.positions for batch in found] == [(1, 2, 3, 4), (5, 6, 7, 8), (9,)]
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in found]), DATA[1:])
    assert not any(batch.padded for batch in found)


@pytest.mark.parametrize("fixed", [1, 4])
def test_a_fixed_batch_is_filled_with_copies(fixed):
    found = batches(opened(DATA, (InputSpec("x", "float32", (fixed, 3)),)))
    assert {len(batch.feeds["x"]) for batch in found} == {fixed}
    assert [position for batch in found for position in batch.positions] == list(range(10))
    assert found[-1].padded == (fixed == 4)
    np.testing.assert_array_equal(found[-1].feeds["x"][-1], DATA[9])
    assert len(found[-1].observations["x"]) == (1 if fixed == 1 else 2)


def test_broken_samples_are_skipped_and_batches_fill_up(folder):
    fed = Fed()
    found = batches(opened(str(folder), picture("n"), preprocess="unit"), fed=fed, on_error="skip")
    assert [batch.positions for batch in found] == [(0, 1, 2, 5), (6, 7, 8, 10), (11,)]
    assert [(position, name) for position, name, _ in fed.skipped] == [(3, "03.png"), (4, "04.png"), (9, "09.png")]
    assert fed.skipped[0][2].endswith("03.png")


def test_broken_samples_are_named_together(folder):
    with pytest.raises(InputError, match=r"^2 samples cannot be read so far: .*03\.png; .*04\.png$") as caught:
        batches(opened(str(folder), picture("n"), preprocess="unit"), threads=1)
    assert caught.value.hint == "`--on-error skip` leaves such samples out, and counts them"
    with pytest.raises(InputError, match=r"09\.png$"):
        batches(opened(str(folder), picture("n"), preprocess="unit"), 5, 12)


def test_statistics_of_the_input_are_those_of_the_prepared_tensor(folder):
    (batch, *_) = batches(opened(str(folder), picture("n"), preprocess="unit"), 0, 3)
    for index, observation in enumerate(batch.observations["x"]):
        wide = batch.feeds["x"][index].astype(np.float64)
        np.testing.assert_allclose(observation.moments.mean[0], wide.mean(axis=(1, 2)), rtol=1e-12)
        np.testing.assert_array_equal(observation.moments.max[0], wide.max(axis=(1, 2)))


def test_the_digest_does_not_depend_on_the_cut():
    dataset = opened(DATA, ROWS)
    digests = []
    for cuts in ((0, 10), (0, 3, 10), (0, 1, 2, 9, 10)):
        total = 0
        for start, stop in itertools.pairwise(cuts):
            fed = Fed()
            batches(dataset, start, stop, fed)
            total = (total + fed.content) % 2**256
        digests.append(total)
    assert len(set(digests)) == 1
    other = Fed()
    batches(opened(DATA[::-1].copy(), ROWS), fed=other)
    assert other.content != digests[0]


def test_remarks_are_counted(tmp_path):
    for index in range(5):
        Image.fromarray(RNG.integers(0, 256, (16, 16, 4)).astype(np.uint8)).save(tmp_path / f"{index}.png")
    fed = Fed()
    batches(opened(str(tmp_path), picture("n"), preprocess="unit"), fed=fed)
    assert list(fed.remarks.values()) == [5]
    assert "black" in next(iter(fed.remarks))


def test_images_of_several_sizes_make_runs_of_their_own(tmp_path):
    for index, side in enumerate((8, 8, 9, 9, 9)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / f"{index}.png")

    class Sizes(Dataset):
        def load(self, position):
            side = 8 if position < 2 else 9
            return {"x": np.zeros((3, side, side), np.float32)}, []

    dataset = opened(str(tmp_path), (InputSpec("x", "float32", ("n", 3, "h", "w")),), preprocess="unit")
    dataset.__class__ = Sizes
    assert [batch.positions for batch in batches(dataset)] == [(0, 1), (2, 3, 4)]


def test_only_a_little_is_read_ahead_and_threads_end():
    dataset = opened("random", ROWS, limit=1000)
    loaded = []
    original = dataset.load
    dataset.load = lambda position: loaded.append(position) or original(position)
    reader = read_batches(dataset, 0, 1000, Fed(), RunOptions(batch_size=4, threads=2))
    next(reader)
    assert len(loaded) <= 4 + 4 + 2
    reader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("onnxscope-decode")]
