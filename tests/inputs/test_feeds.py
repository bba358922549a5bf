"""From what the user gives to what the model is fed: kinds, presets, layouts, runs, records, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.inputs.feeds import Preset, cut, prepare
from onnxscope.model.stored_model import InputSpec

HOPPER = os.path.join(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
NCHW = (InputSpec("x", "float32", ("batch", 3, 8, 10)),)
NHWC = (InputSpec("x", "float32", (None, 8, 10, 3)),)
TOKENS = (InputSpec("ids", "int64", ("b", "s")), InputSpec("mask", "int64", ("b", "s")))


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        prepare(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def levels(seed, shape=(8, 10, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photos(tmp_path):
    for number in (10, 2, 1):
        Image.fromarray(levels(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_an_image_in_both_layouts(photos):
    wanted = levels(2).astype(np.float32) / np.float32(255)
    first = prepare(photos / "2.png", NCHW, preset="unit")
    np.testing.assert_array_equal(first.arrays["x"], wanted.transpose(2, 0, 1)[None])
    last = prepare(str(photos / "2.png"), NHWC, preset="unit")
    np.testing.assert_array_equal(last.arrays["x"], wanted[None])
    for feeds, layout in ((first, "nchw"), (last, "nhwc")):
        assert feeds.arrays["x"].flags.c_contiguous
        assert (feeds.samples, feeds.kind, feeds.notes) == (1, "images", ())
        assert feeds.record["layout"] == layout


def test_a_folder_makes_a_batch_in_natural_order(photos):
    (photos / "notes.txt").touch()
    feeds = prepare(photos, NHWC, preset="none")
    np.testing.assert_array_equal(feeds.arrays["x"], np.stack([levels(number) for number in (1, 2, 10)]))
    assert feeds.record["files"] == ["1.png", "2.png", "10.png"]
    assert feeds.samples == 3
    assert feeds.notes == (f"1 other file ignored in {photos}",)


def test_pillow_images(photos):
    images = [Image.fromarray(levels(number)) for number in (5, 6)]
    feeds = prepare(images, NHWC, preset="none")
    np.testing.assert_array_equal(feeds.arrays["x"], np.stack([levels(5), levels(6)]))
    assert feeds.record["files"] == []


def test_the_record_of_images_holds_the_prepared_tensor(photos):
    feeds = prepare([photos / "1.png", photos / "2.png"], NCHW, preset="half")
    tensor = feeds.arrays["x"].astype(np.float64)
    (entry,) = feeds.record["inputs"]
    assert {key: value for key, value in feeds.record.items() if key != "inputs"} == {
        "kind": "images",
        "files": ["1.png", "2.png"],
        "preset": "half",
        "layout": "nchw",
        "random_seed": None,
    }
    assert (entry["name"], entry["shape"], entry["dtype"], entry["channel_axis"]) == ("x", [2, 3, 8, 10], "float32", 1)
    np.testing.assert_allclose(entry["mean"], tensor.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(entry["std"], tensor.std((0, 2, 3), ddof=1), rtol=1e-12)
    assert entry["min"] == tensor.min((0, 2, 3)).tolist()
    assert entry["max"] == tensor.max((0, 2, 3)).tolist()
    json.dumps(feeds.record, allow_nan=False)


def test_a_recipe_is_recorded_whole():
    recipe = '{"name": "imagenet", "divisor": 127.5, "mean": 1}'
    record = prepare(HOPPER, NCHW, preset=recipe).record
    expected = Preset("imagenet", divisor=127.5, mean=(1.0,)).to_dict()
    assert record["preset"] == expected
    assert prepare(HOPPER, NCHW, recorded_preset=recipe).record["preset"] == expected


def test_the_preset_named_goes_before_the_recorded_one():
    assert prepare(HOPPER, NCHW, recorded_preset="caffe").record["preset"] == "caffe"
    assert prepare(HOPPER, NCHW, preset="half", recorded_preset="caffe").record["preset"] == "half"


def test_no_preset_is_a_question():
    message, hint = refusal(HOPPER, NCHW)
    assert message == "which preset? The model records none, and images need one"
    assert hint == "name it with `--preprocess`: imagenet, half, unit, caffe, none, or a JSON file with a recipe"


def test_a_preset_recorded_in_a_model_never_opens_a_file(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("{}")
    message, hint = refusal(HOPPER, NCHW, recorded_preset=str(path))
    assert message.startswith("unknown preset ")
    assert message.endswith(": recorded in the model")
    assert hint == "name one with `--preprocess`: imagenet, half, unit, caffe, none"


def test_an_unknown_preset():
    assert refusal(HOPPER, NCHW, preset="imagnet")[0] == "unknown preset 'imagnet'"


def test_open_sizes_are_the_presets():
    feeds = prepare(HOPPER, [InputSpec("x", "float32", ("b", 3, "h", "w"))], preset="imagenet")
    assert feeds.arrays["x"].shape == (1, 3, 224, 224)
    feeds = prepare(HOPPER, [InputSpec("x", "float32", ("b", 3, 40, "w"))], preset='{"size": 30}')
    assert feeds.arrays["x"].shape == (1, 3, 40, 30)


def test_grey_bytes_and_half_floats():
    with Image.open(HOPPER) as image:
        grey = np.asarray(image.convert("L").resize((10, 8), Image.Resampling.BILINEAR))
    feeds = prepare(HOPPER, [InputSpec("x", "uint8", (1, 1, 8, 10))], preset="none")
    np.testing.assert_array_equal(feeds.arrays["x"], grey[None, None])
    assert feeds.arrays["x"].dtype == np.uint8
    feeds = prepare(HOPPER, [InputSpec("x", "float16", (1, 8, 10, 3))], preset="unit")
    assert feeds.arrays["x"].dtype == np.float16
    feeds = prepare(HOPPER, [InputSpec("x", "bfloat16", (1, 8, 10, 3))], preset="unit")
    assert feeds.arrays["x"].dtype.name == "bfloat16"


def test_an_input_without_a_batch_axis(photos):
    specs = [InputSpec("x", "float32", (3, 8, 10))]
    feeds = prepare(photos / "1.png", specs, preset="none")
    np.testing.assert_array_equal(feeds.arrays["x"], levels(1).transpose(2, 0, 1))
    assert (feeds.samples, feeds.record["layout"], feeds.record["inputs"][0]["channel_axis"]) == (1, "chw", 0)
    message, hint = refusal(photos, specs, preset="none")
    assert message == "3 images for an input without a batch axis: input 'x' float32 (3, 8, 10)"
    assert hint == "give one image"


def test_the_layout_can_be_named():
    specs = [InputSpec("x", "float32", ("n", "a", "b", "c"))]
    message, hint = refusal(HOPPER, specs, preset="unit")
    assert message == "cannot tell channels-first from channels-last: input 'x' (n, a, b, c)"
    assert "--layout" in hint
    assert prepare(HOPPER, specs, preset="unit", layout="nhwc").arrays["x"].shape == (1, 224, 224, 3)
    assert refusal(HOPPER, specs, preset="unit", layout="x")[0] == "unknown layout 'x'"


def test_images_fill_a_fixed_batch(photos):
    specs = [InputSpec("x", "float32", (2, 8, 10, 3))]
    feeds = prepare(photos, specs, preset="none")
    expected = np.stack([levels(number) for number in (1, 2, 10, 10)])
    np.testing.assert_array_equal(feeds.arrays["x"], expected)
    assert feeds.samples == 3
    assert feeds.notes == ("the model's batch is fixed at 2: 1 copy of the last image added to fill it, not counted",)
    assert feeds.record["inputs"][0]["shape"] == [3, 8, 10, 3]
    np.testing.assert_allclose(feeds.record["inputs"][0]["mean"], expected[:3].mean((0, 1, 2)))
    runs = list(cut(feeds, specs))
    assert [run["x"].shape for run in runs] == [(2, 8, 10, 3)] * 2
    np.testing.assert_array_equal(np.concatenate([run["x"] for run in runs]), expected)
    whole = prepare([photos / "1.png"] * 4, specs, preset="none")
    assert (whole.samples, len(whole.arrays["x"]), whole.notes) == (4, 4, ())
    few = prepare(photos / "1.png", [InputSpec("x", "float32", (4, 8, 10, 3))], preset="none")
    assert (few.samples, len(few.arrays["x"]), len(list(cut(few, NHWC)))) == (1, 4, 1)
    assert "3 copies of the last image" in few.notes[0]


def test_a_model_with_a_senseless_shape():
    assert refusal(HOPPER, [InputSpec("x", "float32", (0, 3, 8, 8))], preset="none")[0] == (
        "no image fits: input 'x' float32 (0, 3, 8, 8)"
    )
    message, hint = refusal(HOPPER, [InputSpec("x", "float32", (2**40, 3, 8, 8))], preset="none")
    assert message.startswith(f"a batch of {2**40:,} images would take {2**40 * 768:,} bytes, more than the ")
    assert hint == "give fewer images"
    message, _ = refusal(HOPPER, [InputSpec("x", "float32", (1, 3, 2**30, 8))], preset="none")
    assert message.endswith(f", more than the 89,478,485 pixels that we make: {HOPPER}")


def test_inputs_that_take_no_image():
    message, hint = refusal(HOPPER, TOKENS, preset="none")
    assert message == "the model has 2 inputs, not one: images"
    assert hint == "give a .npz with one array for each of: ids int64 (b, s), mask int64 (b, s)"
    assert refusal(HOPPER, (), preset="none") == ("the model has 0 inputs, not one: images", "the model takes no input")
    message, hint = refusal(HOPPER, [InputSpec("x", "bool", (1, 3, 8, 8))], preset="none")
    assert (message, hint) == ("no image becomes bool: input 'x'", "give a .npy file")


def test_the_faulty_image_is_named(photos):
    (photos / "bad.jpg").write_text("no image")
    message, hint = refusal(photos, NCHW, preset="none")
    assert message == f"not an image: {photos / 'bad.jpg'}"
    assert hint.startswith("we read PNG, JPEG")
    grey = [InputSpec("x", "float32", (1, 1, 8, 8))]
    assert refusal(HOPPER, grey, preset="imagenet")[0].endswith(f"for an input of 1 channel: {HOPPER}")
    assert refusal(photos / "none.jpg", NCHW, preset="none")[0] == f"no such file: {photos / 'none.jpg'}"


def test_notes_on_images_name_the_file(tmp_path):
    Image.new("RGBA", (10, 8), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    feeds = prepare(tmp_path / "clear.png", NHWC, preset="none")
    assert not feeds.arrays["x"].any()
    assert feeds.notes == ("clear.png: transparent pixels laid over black",)
    feeds = prepare([Image.new("RGBA", (10, 8))], NHWC, preset="none")
    assert feeds.notes == ("image 0: transparent pixels laid over black",)


def test_an_npy(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 10))
    np.save(tmp_path / "a.npy", array)
    feeds = prepare(tmp_path / "a.npy", NCHW, preset="imagenet")
    np.testing.assert_array_equal(feeds.arrays["x"], array.astype(np.float32))
    assert feeds.notes == (
        "preset 'imagenet' is ignored: presets are for images",
        f"{tmp_path / 'a.npy'}: float64 made float32 for input 'x'",
    )
    assert (feeds.kind, feeds.samples, feeds.record["files"]) == ("arrays", 2, ["a.npy"])
    assert (feeds.record["preset"], feeds.record["layout"]) == (None, None)
    assert feeds.record["inputs"][0]["channel_axis"] == 1
    assert len(feeds.record["inputs"][0]["mean"]) == 3
    assert prepare(tmp_path / "a.npy", NCHW, recorded_preset="imagenet").record["preset"] is None


def test_an_npz(tmp_path):
    arrays = {"mask": np.ones((2, 5), np.int64), "ids": np.arange(10).reshape(2, 5)}
    np.savez(tmp_path / "a.npz", **arrays)
    feeds = prepare(tmp_path / "a.npz", TOKENS)
    assert list(feeds.arrays) == ["ids", "mask"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(feeds.arrays[name], array)
    assert feeds.samples == 2
    assert [entry["channel_axis"] for entry in feeds.record["inputs"]] == [None, None]
    assert feeds.record["inputs"][0]["mean"] == [4.5]
    np.savez(tmp_path / "b.npz", np.ones((1, 3, 8, 10), np.float32))
    assert prepare(tmp_path / "b.npz", NCHW).samples == 1


def test_array_files_that_do_not_fit(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 10, 3), np.float32))
    message, hint = refusal(tmp_path / "a.npy", NCHW)
    assert message == f"input 'x' takes (batch, 3, 8, 10), not (1, 8, 10, 3): {tmp_path / 'a.npy'}"
    assert "channels-last" in hint
    assert refusal(tmp_path / "a.npy", TOKENS)[0] == f"the model has 2 inputs, not one: {tmp_path / 'a.npy'}"
    np.savez(tmp_path / "a.npz", ids=np.zeros((1, 2), np.int64), masc=np.zeros((1, 2), np.int64))
    message, hint = refusal(tmp_path / "a.npz", TOKENS)
    assert message == f"the model has no input 'masc': {tmp_path / 'a.npz'}"
    assert hint == "closest names: mask"
    os.mkfifo(tmp_path / "b.npy")
    assert refusal(tmp_path / "b.npy", NCHW)[0] == f"not a regular file: {tmp_path / 'b.npy'}"


def test_arrays_from_the_library():
    array = levels(0, (2, 3, 8, 10)).astype(np.float32)
    for given in (array, [array], {"x": array}):
        feeds = prepare(given, NCHW)
        np.testing.assert_array_equal(feeds.arrays["x"], array)
        assert not np.shares_memory(feeds.arrays["x"], array)
        assert feeds.record["files"] == []
    assert prepare([[1, 2], [3, 4]], [InputSpec("n", "int64", None)]).arrays["n"].tolist() == [[1, 2], [3, 4]]
    assert refusal({"y": array}, NCHW)[0] == "the model has no input 'y': the arrays given"
    assert refusal({}, NCHW)[0] == "no array for the input 'x': the arrays given"
    assert refusal({"x": None}, NCHW)[0] == "an array of Python objects (NoneType): array 'x'"
    assert refusal(np.zeros(3, np.float32), NCHW)[0] == "input 'x' takes (batch, 3, 8, 10), not (3,): the array given"
    assert prepare({}, ()).arrays == {}


def test_an_unshared_first_axis_counts_no_samples():
    specs = [InputSpec("a", "int64", (None,)), InputSpec("b", "int64", ())]
    assert prepare({"a": np.arange(3), "b": np.array(1)}, specs).samples is None
    assert prepare({"a": np.arange(3), "b": np.array(1)}, specs).arrays["b"].shape == ()


def test_runs_of_several_inputs():
    specs = [InputSpec("a", "int64", (2, "s")), InputSpec("b", "int64", ("n",))]
    feeds = prepare({"a": np.arange(12).reshape(6, 2), "b": np.arange(6)}, specs)
    runs = list(cut(feeds, specs))
    assert [run["b"].tolist() for run in runs] == [[0, 1], [2, 3], [4, 5]]
    assert runs[1]["a"].tolist() == [[4, 5], [6, 7]]
    assert (feeds.samples, len(list(cut(prepare("random", specs), specs)))) == (6, 1)
    message, hint = refusal({"a": np.zeros((6, 2), np.int64), "b": np.zeros(1, np.int64)}, specs)
    assert message == "6 samples go in runs of 2, and (1,) does not: input 'b' int64 (n,)"
    assert hint == "give every input the same number of samples along axis 0, or one run at a time"
    mixed = [InputSpec("a", "int64", (2,)), InputSpec("b", "int64", (3,))]
    message, _ = refusal({"a": np.zeros(6, np.int64), "b": np.zeros(6, np.int64)}, mixed)
    assert message == "6 samples go in runs of 2, and (6,) does not: input 'b' int64 (3,)"
    scalar = [InputSpec("a", "int64", (2,)), InputSpec("b", "int64", ())]
    message, _ = refusal({"a": np.zeros(4, np.int64), "b": np.array(0)}, scalar)
    assert message == "4 samples go in runs of 2, and () does not: input 'b' int64 ()"


def test_random_says_that_it_is_random():
    feeds = prepare("random:7", TOKENS, preset="unit", bounds={"ids": (10, 20)})
    assert feeds.kind == feeds.record["kind"] == "random"
    assert feeds.record["random_seed"] == 7
    assert feeds.notes == (
        "preset 'unit' is ignored: presets are for images",
        "the input is random (seed 7), no real data",
    )
    assert feeds.arrays["ids"].min() >= 10
    assert (feeds.arrays["mask"] == 1).all()
    again = prepare("random:7", TOKENS, bounds={"ids": (10, 20)})
    assert again.arrays["ids"].tobytes() == feeds.arrays["ids"].tobytes()


def test_arrays_need_neither_onnx_nor_pillow(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2, np.float32))
    program = f"""
import sys
from types import SimpleNamespace
from onnxscope.inputs.feeds import prepare
specs = [SimpleNamespace(name="x", dtype="float32", shape=(2,))]
assert prepare({str(tmp_path / "a.npy")!r}, specs).samples == 2
print(*sorted({{"onnx", "onnxruntime", "PIL", "torch", "tensorflow", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
