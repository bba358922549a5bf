"""A dataset says what it is, hands out samples one at a time or all at once, and decodes an image once."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from feeding import HOPPER, NCHW, levels, opened, stacked, whole
from onnx import helper
from onnx.parser import parse_model
from PIL import Image

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.inputs import image_samples
from onnxscope.inputs.presets import Preset
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import Provenance, write_provenance
from onnxscope.model.stored_model import InputSpec

RNG = np.random.default_rng(6)
PICTURE = (InputSpec("x", "float32", ("batch", 3, 16, 16)),)


@pytest.fixture
def photos(tmp_path):
    for number in (10, 2, 1):
        Image.fromarray(levels(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_the_record_of_images_holds_the_prepared_tensor(photos):
    feed = whole([photos / "1.png", photos / "2.png"], NCHW, preprocess="half")
    tensor = feed.arrays["x"].astype(np.float64)
    (entry,) = feed.record["inputs"]
    assert {key: value for key, value in feed.record.items() if key != "inputs"} == {
        "kind": "images",
        "files": ["1.png", "2.png"],
        "file_count": 2,
        "names_sha256": hashlib.sha256(b"\0".join([b"1.png", b"2.png", b""])).hexdigest(),
        "samples": 2,
        "preset": "half",
        "layout": "nchw",
        "random_seed": None,
        "batch_axes": {"x": 0},
        "dims": {},
    }
    assert (entry["name"], entry["shape"], entry["dtype"], entry["channel_axis"]) == ("x", [2, 3, 8, 10], "float32", 1)
    np.testing.assert_allclose(entry["mean"], tensor.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(entry["std"], tensor.std((0, 2, 3), ddof=1), rtol=1e-12)
    assert entry["min"] == tensor.min((0, 2, 3)).tolist()
    assert entry["max"] == tensor.max((0, 2, 3)).tolist()
    json.dumps(feed.record, allow_nan=False)


def test_a_recipe_is_recorded_whole():
    recipe = '{"name": "imagenet", "divisor": 127.5, "mean": 1}'
    record = whole(HOPPER, NCHW, preprocess=recipe).record
    expected = Preset("imagenet", divisor=127.5, mean=(1.0,)).to_dict()
    assert record["preset"] == expected
    assert whole(HOPPER, NCHW, recorded_preset=recipe).record["preset"] == expected


def test_arrays_need_neither_onnx_nor_pillow(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2, np.float32))
    program = f"""
import sys
from types import SimpleNamespace
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_inputs
specs = [SimpleNamespace(name="x", dtype="float32", shape=(2,), model=None)]
assert open_inputs({str(tmp_path / "a.npy")!r}, specs, RunOptions()).whole().samples == 2
print(*sorted({{"onnx", "onnxruntime", "PIL", "torch", "tensorflow", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.fixture
def folder(tmp_path):
    for index in range(11):
        mode, shape = (("RGB", (20, 30, 3)), ("L", (9, 9)), ("RGBA", (16, 16, 4)))[index % 3]
        Image.fromarray(RNG.integers(0, 256, shape).astype(np.uint8), mode=None).convert(mode).save(
            tmp_path / f"{index}.png"
        )
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


def test_images_are_prepared_as_features_prepares_them(folder):
    dataset = pickle.loads(pickle.dumps(opened(str(folder), PICTURE, preprocess="unit")))
    assert (dataset.kind, dataset.count, dataset.fixed_batch) == ("images", 11, None)
    expected = whole(str(folder), PICTURE, preprocess="unit")
    np.testing.assert_array_equal(stacked(dataset)["x"], expected.arrays["x"])
    assert dataset.name(10) == "10.png"
    assert dataset.notes == expected.notes[:1]
    assert dataset.record["file_count"] == 11
    assert dataset.record["files"] == ["0.png", "1.png", "2.png"]
    assert str(folder) not in str(dataset.record)
    assert "over black" in " ".join(dataset.load(2)[1])


def test_a_limit_takes_the_first(folder):
    dataset = opened(str(folder), PICTURE, preprocess="unit", limit=4)
    assert (dataset.count, dataset.record["samples"]) == (4, 4)
    assert opened("random:3", PICTURE, limit=5).count == 5
    with pytest.raises(InputError, match=r"^a limit of 0 leaves no sample$"):
        opened(str(folder), PICTURE, preprocess="unit", limit=0)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded, in order."""
    names = []
    read_image = image_samples.read_image

    def counting(stream, where, colour):
        names.append(where.rsplit("/", 1)[-1])
        return read_image(stream, where, colour)

    monkeypatch.setattr(image_samples, "read_image", counting)
    return names


@pytest.mark.parametrize("sources", ["folder", "random:3", np.ones((5, 3, 16, 16), np.float32)])
def test_one_record_whether_samples_are_fed_in_batches_or_at_once(sources, folder):
    sources = str(folder) if isinstance(sources, str) and sources == "folder" else sources
    dataset = opened(sources, PICTURE, preprocess="unit")
    record, at_once = dataset.record, dataset.whole().record
    assert list(record) == list(at_once)
    differing = {key for key in record if record[key] != at_once[key]}
    assert differing <= {"files", "inputs", "batch_axes"}
    assert record["batch_axes"] == {"x": 0}
    assert at_once["batch_axes"] == {"x": 0 if dataset.kind == "images" else None}  # one run takes the arrays
    assert at_once["files"][:3] == record["files"]
    assert len(at_once["files"]) == record["file_count"]
    assert record["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 16, 16]}]
    assert at_once["inputs"][0]["shape"] == [dataset.count, 3, 16, 16]


def test_an_image_that_is_kept_is_not_decoded_again(folder, decoded):
    dataset = opened(str(folder), PICTURE, preprocess="unit", keep_bytes=1 << 20)
    first, everything = dataset.first(6), dataset.whole()
    np.testing.assert_array_equal(first.whole().arrays["x"], everything.arrays["x"][:6])
    np.testing.assert_array_equal(stacked(dataset)["x"], everything.arrays["x"])
    fixed = dataset.fed_to((InputSpec("x", "float32", (4, 3, 16, 16)),))
    assert fixed.fixed_batch == 4
    np.testing.assert_array_equal(fixed.whole().arrays["x"][:11], everything.arrays["x"])
    assert decoded == [f"{index}.png" for index in range(11)]
    assert fixed.load(2)[1] == dataset.load(2)[1] == ["transparent pixels laid over black"]


def test_no_more_is_kept_than_the_budget_holds_and_nothing_travels(folder, decoded):
    dataset = opened(str(folder), PICTURE, preprocess="unit", keep_bytes=4 * 3 * 16 * 16 * 4)
    before = stacked(dataset)["x"]
    decoded.clear()
    np.testing.assert_array_equal(stacked(dataset)["x"], before)
    assert decoded == [f"{index}.png" for index in range(4, 11)]
    decoded.clear()
    travelled = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 4 * 3 * 16 * 16 * 4
    np.testing.assert_array_equal(stacked(travelled)["x"], before)
    stacked(travelled)
    assert len(decoded) == 22


def test_the_first_samples_of_arrays_and_of_random_numbers(tmp_path):
    array = RNG.normal(size=(5, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    for source in (array, str(tmp_path / "a.npy")):
        feed = opened(source, PICTURE).first(2).whole()
        np.testing.assert_array_equal(feed.arrays["x"], array[:2])
        assert not np.shares_memory(feed.arrays["x"], array)
        assert (feed.samples, feed.record["samples"]) == (2, 2)
    dataset = opened("random", PICTURE, limit=3)
    assert dataset.first(9) is dataset
    np.testing.assert_array_equal(stacked(dataset.first(2))["x"], stacked(dataset)["x"][:2])


def test_an_opened_dataset_is_taken_as_it_is(folder):
    dataset = opened(str(folder), PICTURE, preprocess="unit")
    assert opened(dataset, PICTURE) is dataset
    assert opened(dataset, PICTURE, limit=4).count == 4
    with pytest.raises(InputError, match=r"^the dataset was opened for other inputs: float32 \(batch, 3, 16, 16\)$"):
        opened(dataset, NCHW)


def test_it_is_opened_with_what_a_model_takes_and_records(folder):
    model = parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (int64[N, 2] ids) => (float[N, 2, 1] y) <float[3, 1] table = {1, 2, 3}> { y = Gather(table, ids) }"""
    )
    arrays = open_dataset("random", load_model(model), RunOptions(limit=40))
    assert set(np.unique(stacked(arrays)["ids"])) == {0, 1, 2}
    model = parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3, 16, 16] x) => (float[N, 3, 16, 16] y) { y = Relu(x) }"""
    )
    helper.set_model_props(model, write_provenance(Provenance("torch", "2", "faithful", "net", "unit")))
    assert open_dataset(str(folder), load_model(model), RunOptions()).record["preset"] == "unit"


@pytest.mark.parametrize("paths", [["missing.jpg"], ["there.png", "missing.png"]])
def test_an_image_that_is_not_there_is_no_matter_of_presets(tmp_path, paths):
    Image.new("RGB", (4, 4)).save(tmp_path / "there.png")
    with pytest.raises(InputError, match=r"^no such file: .*missing"):
        opened_paths([str(tmp_path / path) for path in paths])
    with pytest.raises(InputError, match="which preset"):
        opened_paths([str(tmp_path / "there.png")])


def opened_paths(paths):
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }'
    return open_dataset(paths, load_model(parse_model(text)), RunOptions())
