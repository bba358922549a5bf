"""Images become what a model takes: presets, layouts, runs, refusals."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
from feeding import HOPPER, NCHW, NHWC, TOKENS, levels, refusal, whole
from onnx.parser import parse_model
from PIL import Image

import onnxscope
from onnxscope.analyses.input_pictures import prepared_pictures
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.inputs.presets import Preset
from onnxscope.model.loading import load_model
from onnxscope.model.stored_model import InputSpec


@pytest.fixture
def photos(tmp_path):
    for number in (10, 2, 1):
        Image.fromarray(levels(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_an_image_in_both_layouts(photos):
    wanted = levels(2).astype(np.float32) / np.float32(255)
    first = whole(photos / "2.png", NCHW, preprocess="unit")
    np.testing.assert_array_equal(first.arrays["x"], wanted.transpose(2, 0, 1)[None])
    last = whole(str(photos / "2.png"), NHWC, preprocess="unit")
    np.testing.assert_array_equal(last.arrays["x"], wanted[None])
    for feed, layout in ((first, "nchw"), (last, "nhwc")):
        assert feed.arrays["x"].flags.c_contiguous
        assert (feed.samples, feed.record["kind"], feed.notes) == (1, "images", ())
        assert feed.record["layout"] == layout


def test_a_folder_makes_a_batch_in_natural_order(photos):
    (photos / "notes.txt").touch()
    feed = whole(photos, NHWC, preprocess="none")
    np.testing.assert_array_equal(feed.arrays["x"], np.stack([levels(number) for number in (1, 2, 10)]))
    assert feed.record["files"] == ["1.png", "2.png", "10.png"]
    assert feed.samples == 3
    assert feed.notes == (f"1 other file ignored in {photos}",)


def test_pillow_images(photos):
    images = [Image.fromarray(levels(number)) for number in (5, 6)]
    feed = whole(images, NHWC, preprocess="none")
    np.testing.assert_array_equal(feed.arrays["x"], np.stack([levels(5), levels(6)]))
    assert feed.record["files"] == []


def test_the_preset_named_goes_before_the_recorded_one():
    assert whole(HOPPER, NCHW, recorded_preset="caffe").record["preset"] == "caffe"
    assert whole(HOPPER, NCHW, preprocess="half", recorded_preset="caffe").record["preset"] == "half"


def test_no_preset_is_a_question():
    message, hint = refusal(HOPPER, NCHW)
    assert message == "which preset? The model records none, and images need one"
    assert hint.startswith("`--preprocess imagenet`, half, unit, caffe, none, letterbox, or a recipe in a JSON file; ")


def test_a_preset_recorded_in_a_model_never_opens_a_file(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("{}")
    message, hint = refusal(HOPPER, NCHW, recorded_preset=str(path))
    assert message.startswith("unknown preset ")
    assert message.endswith(": recorded in the model")
    assert hint.startswith("`--preprocess imagenet`, half, unit, caffe, none, letterbox, or a recipe")


def test_an_unknown_preset():
    assert refusal(HOPPER, NCHW, preprocess="imagnet")[0] == "unknown preset 'imagnet'"


def test_open_sizes_are_the_presets():
    feed = whole(HOPPER, [InputSpec("x", "float32", ("b", 3, "h", "w"))], preprocess="imagenet")
    assert feed.arrays["x"].shape == (1, 3, 224, 224)
    feed = whole(HOPPER, [InputSpec("x", "float32", ("b", 3, 40, "w"))], preprocess='{"size": 30}')
    assert feed.arrays["x"].shape == (1, 3, 40, 30)


def test_grey_bytes_and_half_floats():
    with Image.open(HOPPER) as image:
        grey = np.asarray(image.convert("L").resize((10, 8), Image.Resampling.BILINEAR))
    feed = whole(HOPPER, [InputSpec("x", "uint8", (1, 1, 8, 10))], preprocess="none")
    np.testing.assert_array_equal(feed.arrays["x"], grey[None, None])
    assert feed.arrays["x"].dtype == np.uint8
    feed = whole(HOPPER, [InputSpec("x", "float16", (1, 8, 10, 3))], preprocess="unit")
    assert feed.arrays["x"].dtype == np.float16
    feed = whole(HOPPER, [InputSpec("x", "bfloat16", (1, 8, 10, 3))], preprocess="unit")
    assert feed.arrays["x"].dtype.name == "bfloat16"


def test_an_input_without_a_batch_axis(photos):
    specs = [InputSpec("x", "float32", (3, 8, 10))]
    feed = whole(photos / "1.png", specs, preprocess="none")
    np.testing.assert_array_equal(feed.arrays["x"], levels(1).transpose(2, 0, 1))
    assert (feed.samples, feed.record["layout"], feed.record["inputs"][0]["channel_axis"]) == (1, "chw", 0)
    message, hint = refusal(photos, specs, preprocess="none")
    assert message == "3 images for an input without a batch axis: input 'x' float32 (3, 8, 10)"
    assert hint.startswith("give one image; the model takes x float32 (3, 8, 10)")


def test_the_layout_can_be_named():
    specs = [InputSpec("x", "float32", ("n", "a", "b", "c"))]
    message, hint = refusal(HOPPER, specs, preprocess="unit")
    assert message == "cannot tell channels-first from channels-last: input 'x' (n, a, b, c)"
    assert "--layout" in hint
    assert whole(HOPPER, specs, preprocess="unit", layout="nhwc").arrays["x"].shape == (1, 224, 224, 3)
    assert refusal(HOPPER, specs, preprocess="unit", layout="x")[0] == "unknown layout 'x'"


def test_images_fill_a_fixed_batch(photos):
    specs = [InputSpec("x", "float32", (2, 8, 10, 3))]
    feed = whole(photos, specs, preprocess="none")
    expected = np.stack([levels(number) for number in (1, 2, 10, 10)])
    np.testing.assert_array_equal(feed.arrays["x"], expected)
    assert feed.samples == 3
    assert feed.notes == ("the model's batch is fixed at 2: 1 copy of the last image added to fill it, not counted",)
    assert feed.record["inputs"][0]["shape"] == [3, 8, 10, 3]
    np.testing.assert_allclose(feed.record["inputs"][0]["mean"], expected[:3].mean((0, 1, 2)))
    runs = list(feed.runs())
    assert [run["x"].shape for run in runs] == [(2, 8, 10, 3)] * 2
    np.testing.assert_array_equal(np.concatenate([run["x"] for run in runs]), expected)
    four = whole([photos / "1.png"] * 4, specs, preprocess="none")
    assert (four.samples, len(four.arrays["x"]), four.notes) == (4, 4, ())
    few = whole(photos / "1.png", [InputSpec("x", "float32", (4, 8, 10, 3))], preprocess="none")
    assert (few.samples, len(few.arrays["x"]), len(list(few.runs()))) == (1, 4, 1)
    assert "3 copies of the last image" in few.notes[0]


def test_a_model_with_a_senseless_shape():
    assert refusal(HOPPER, [InputSpec("x", "float32", (0, 3, 8, 8))], preprocess="none")[0] == (
        "no image fits: input 'x' float32 (0, 3, 8, 8)"
    )
    message, hint = refusal(HOPPER, [InputSpec("x", "float32", (2**40, 3, 8, 8))], preprocess="none")
    assert message.startswith(f"a batch of {2**40:,} images would take {2**40 * 768:,} bytes, more than the ")
    assert hint.startswith("give fewer images; ")
    message, _ = refusal(HOPPER, [InputSpec("x", "float32", (1, 3, 2**30, 8))], preprocess="none")
    assert message.endswith(f", more than the 89,478,485 pixels that we make: {HOPPER}")


def test_inputs_that_take_no_image():
    message, hint = refusal(HOPPER, TOKENS, preprocess="none")
    assert message == "the model has 2 inputs, not one: images"
    assert hint.startswith("the model takes ids int64 (b, s), mask int64 (b, s); `-i FILE.npz` with an array of each")
    assert refusal(HOPPER, (), preprocess="none") == (
        "the model has 0 inputs, not one: images",
        "the model takes no input",
    )
    message, hint = refusal(HOPPER, [InputSpec("x", "bool", (1, 3, 8, 8))], preprocess="none")
    assert message == "no image becomes bool: input 'x'"
    assert hint.startswith("the model takes x bool (1, 3, 8, 8); `-i FILE.npy` feeds that")


def test_the_faulty_image_is_named(photos):
    (photos / "bad.jpg").write_text("no image")
    message, hint = refusal(photos, NCHW, preprocess="none")
    assert message == f"not an image: {photos / 'bad.jpg'}"
    assert hint.startswith("we read PNG, JPEG")
    grey = [InputSpec("x", "float32", (1, 1, 8, 8))]
    assert refusal(HOPPER, grey, preprocess="imagenet")[0].endswith("for an input of 1 channel")
    assert refusal(photos / "none.jpg", NCHW, preprocess="none")[0] == f"no such file: {photos / 'none.jpg'}"


def test_notes_on_images_name_the_file(tmp_path):
    Image.new("RGBA", (10, 8), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    feed = whole(tmp_path / "clear.png", NHWC, preprocess="none")
    assert not feed.arrays["x"].any()
    assert feed.notes == ("clear.png: transparent pixels laid over black",)
    feed = whole([Image.new("RGBA", (10, 8))], NHWC, preprocess="none")
    assert feed.notes == ("image 0: transparent pixels laid over black",)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_picture_keeps_its_size_where_nothing_asks_for_another(tmp_path, layout):
    pixels = np.random.default_rng(5).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    shape = (None, "h", "w", 3) if layout == "nhwc" else (None, 3, "h", "w")
    spec = InputSpec("x", "uint8", shape)
    turned = pixels if layout == "nhwc" else pixels.transpose(2, 0, 1)
    feed = whole(tmp_path / "1.png", [spec], preprocess="none")
    assert feed.arrays["x"].dtype == np.uint8
    np.testing.assert_array_equal(feed.arrays["x"], turned[None])
    half_open = InputSpec("x", "uint8", tuple(20 if side == "h" else side for side in shape))
    assert sorted(whole(tmp_path / "1.png", [half_open], preprocess="none").arrays["x"].shape) == [1, 3, 20, 29]
    Image.fromarray(pixels[:30, :40]).save(tmp_path / "2.png")
    both = whole(tmp_path, [spec], preprocess="none")
    np.testing.assert_array_equal(both.arrays["x"][0], turned)
    smaller = np.asarray(Image.fromarray(pixels[:30, :40]).resize((53, 37), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(both.arrays["x"][1], smaller if layout == "nhwc" else smaller.transpose(2, 0, 1))
    assert both.notes == ("2.png: resized to the size of the first image, for all are fed at once",)


HALVING = """<ir_version: 9, opset_import: ["": 18]>
    g (float[n, 3, h, w] x) => (float[n, 3, a, b] y) <float[4] scales = {1.0, 1.0, 4.0, 4.0}> {
        q = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (x)
        u = Resize <mode = "nearest"> (q, , scales)
        y = Concat <axis = 1> (x, u)
    }"""
ANY = """<ir_version: 9, opset_import: ["": 18]>
    g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) { y = Tanh (x) }"""


def model_of(text):
    return load_model(parse_model(text.replace("float[n, 3, a, b]", "float[n, 6, a, b]")))


@pytest.mark.parametrize(("text", "sides"), [(ANY, (37, 53)), (HALVING, (36, 52))])
def test_a_picture_keeps_its_shape_as_far_as_the_model_takes_it(text, sides, tmp_path):
    pixels = levels(3, (37, 53, 3))
    Image.fromarray(pixels).save(tmp_path / "1.png")
    fed = open_dataset(tmp_path / "1.png", model_of(text), RunOptions(preprocess="none")).whole()
    expected = np.asarray(Image.fromarray(pixels).resize(sides[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fed.arrays["x"][0], expected.transpose(2, 0, 1))
    notes = ("1.png: resized to 52 x 36: the model takes multiples of 4",)
    assert fed.notes == (() if text is ANY else notes)
    boxed = open_dataset(tmp_path / "1.png", model_of(text), RunOptions(preprocess="letterbox")).whole().arrays["x"]
    assert boxed.shape[2:] == ((37, 53) if text is ANY else (40, 56))


def test_pictures_of_several_shapes_each_keep_theirs_in_statistics(tmp_path):
    shapes = [(12, 8, 3), (7, 9, 3), (12, 8, 3), (5, 5, 3)]
    for number, shape in enumerate(shapes):
        Image.fromarray(levels(number, shape)).save(tmp_path / f"{number}.png")
    found = onnxscope.stats(model_of(ANY), tmp_path, select="op:Tanh", preprocess="unit", batch_size=3)
    assert [tap["count"] for tap in found.to_dict()["taps"]] == [4 * 3 * 224 * 224]  # what the preset says
    recipe = '{"size": null, "divisor": 255}'
    found = onnxscope.stats(model_of(ANY), tmp_path, select="op:Tanh", preprocess=recipe, batch_size=3)
    (tap,) = found.to_dict()["taps"]
    values = np.concatenate([np.tanh(levels(place, shape) / 255.0).ravel() for place, shape in enumerate(shapes)])
    assert tap["count"] == values.size
    assert tap["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert tap["std"] == pytest.approx(values.std(ddof=1), abs=1e-6)


def test_bytes_need_no_preset(photos):
    feed = whole(photos / "1.png", [InputSpec("x", "uint8", (None, "h", "w", 3))])
    np.testing.assert_array_equal(feed.arrays["x"][0], levels(1))
    assert feed.record["preset"] == "none"
    assert feed.notes == ("the model takes uint8: pictures are fed as they are, 0..255 (the preset `none`)",)
    assert refusal(photos / "1.png", [InputSpec("x", "uint8", (1, 8, 10, 3))], recorded_preset="unit")[0].startswith(
        "preset 'unit' gives fractions, and the input takes uint8"
    )


def test_four_channels_and_sixteen_bits(tmp_path):
    pixels = levels(4, (8, 10, 4))
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    feed = whole(tmp_path / "clear.png", [InputSpec("x", "float32", (1, 4, 8, 10))], preprocess="none")
    np.testing.assert_array_equal(feed.arrays["x"][0], pixels.transpose(2, 0, 1))
    deep = np.random.default_rng(1).integers(0, 65_536, (8, 10)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    feed = whole(tmp_path / "deep.png", NHWC, preprocess="unit")
    np.testing.assert_allclose(feed.arrays["x"][0], np.stack([deep / 65_535] * 3, axis=2), rtol=1e-6)
    assert feed.notes == ("deep.png: 16-bit grey values scaled to 0..255",)
    feed = whole(tmp_path / "deep.png", [InputSpec("x", "uint16", (1, 8, 10, 1))], preprocess="none")
    np.testing.assert_array_equal(feed.arrays["x"][0, :, :, 0], deep)
    assert feed.notes[1] == "deep.png: fed as 0..65535"
    feed = whole(tmp_path / "deep.png", [InputSpec("x", "uint8", (1, 8, 10, 1))])
    np.testing.assert_array_equal(feed.arrays["x"][0, :, :, 0], np.rint(deep / 257.0))
    assert feed.notes[2] == "deep.png: rounded to whole levels for uint8"


PAIR = """<ir_version: 9, opset_import: ["": 18]>
    g (float[n, 3, h, w] left, float[n, h, w, 3] right, float[n, 2] boxes, float share) => (float[n, 3, h, w] y)
    { t = Transpose <perm = [0, 3, 1, 2]> (right)  d = Sub (left, t)  y = Mul (d, share) }"""


def test_two_images_for_two_inputs_beside_arrays_and_numbers(tmp_path):
    shapes = {"a": (5, 7, 3), "b": (5, 7, 3)}
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        for place, (name, shape) in enumerate(shapes.items()):
            Image.fromarray(levels(place + 10 * (side == "right"), shape)).save(tmp_path / side / f"{name}.png")
    for place in range(2):
        np.save(tmp_path / f"boxes{place}.npy", np.full((1, 2), place, np.float32))
    recipe = '{"size": null, "divisor": 255}'
    sources = [f"left={tmp_path}/left", f"right={tmp_path}/right", f"boxes={tmp_path}/boxes*.npy", "share=0.5"]
    dataset = open_dataset(sources, load_model(parse_model(PAIR)), RunOptions(preprocess=recipe))
    assert (dataset.kind, dataset.count, dataset.name(1)) == ("images", 2, "b.png, b.png")
    assert dataset.batch_axes == {"left": 0, "right": 0, "boxes": 0, "share": None}
    for position in range(2):
        arrays, _ = dataset.load(position)
        np.testing.assert_array_equal(
            arrays["left"], (levels(position, (5, 7, 3)) / np.float32(255)).transpose(2, 0, 1)
        )
        np.testing.assert_array_equal(arrays["right"], levels(position + 10, (5, 7, 3)) / np.float32(255))
        assert (arrays["boxes"].tolist(), arrays["share"].tolist()) == ([position, position], 0.5)
    found = onnxscope.stats(load_model(parse_model(PAIR)), sources, select="op:Mul", preprocess=recipe).to_dict()
    expected = [(levels(n, (5, 7, 3)) / 255.0 - levels(n + 10, (5, 7, 3)) / 255.0) / 2 for n in range(2)]
    assert found["taps"][0]["mean"] == pytest.approx(np.mean(expected), abs=1e-7)
    assert found["input"]["files"] == ["a.png", "a.png", "boxes0.npy"]
    fed = open_dataset(
        [source.replace("*", "0") for source in sources[2:]]
        + [f"left={tmp_path}/left/a.png", f"right={tmp_path}/right/a.png"],
        load_model(parse_model(PAIR)),
        RunOptions(preprocess="unit", size="4x6"),
    ).whole()
    assert fed.arrays["left"].shape == (1, 3, 6, 4)
    assert fed.arrays["right"].shape == (1, 6, 4, 3)
    assert fed.samples == 1


def test_images_for_inputs_by_name_that_do_not_go_together(tmp_path):
    specs = [InputSpec("a", "float32", ("n", 3, "h", "w")), InputSpec("b", "float32", ("n", 3, "h", "w"))]
    one, three = tmp_path / "1.png", tmp_path / "x.npy"
    Image.fromarray(levels(1)).save(one)
    np.save(three, np.zeros((3, 3, 8, 10), np.float32))
    message, hint = refusal([str(one)], specs, preprocess="unit")
    assert message == "the model has 2 inputs, not one: images"
    assert hint.startswith("name that of each file: `-i a=FILE.png -i b=FILE.png`")
    message, hint = refusal([f"a={one}", f"b={three}"], specs, preprocess="unit")
    assert (message, hint.split(";")[0]) == (
        "the inputs have different numbers of samples: a 1, b 3",
        "give each as many",
    )
    assert refusal([f"a={one}"], specs, preprocess="unit")[0].startswith("no array for the input 'b', ")
    message, hint = refusal([f"a={one}", str(one)], specs, preprocess="unit")
    assert message == "some files are for an input by name (a=…) and others for none"
    assert refusal([f"a={one}", f"b={one}"], specs)[0].startswith("which preset?")


@pytest.mark.parametrize(
    ("size", "preset", "shape"),
    [
        ("20", "unit", (20, 20)),
        (20, "unit", (20, 20)),
        ("30x20", "unit", (20, 30)),
        ("30x20", "imagenet", (20, 30)),
        ("own", "imagenet", (37, 53)),
        ("64", "letterbox", (64, 64)),
        ("own", "half", (37, 53)),
    ],
)
def test_the_size_of_pictures_can_be_asked_for(size, preset, shape, tmp_path):
    pixels = levels(3, (37, 53, 3))
    Image.fromarray(pixels).save(tmp_path / "1.png")
    fed = open_dataset(tmp_path / "1.png", model_of(ANY), RunOptions(preprocess=preset, size=size)).whole()
    assert fed.arrays["x"].shape == (1, 3, *shape)
    asked = list(shape) if shape[0] != shape[1] else shape[0]
    assert fed.record["preset"]["size"] == (None if size == "own" else asked)
    if size == "own":
        np.testing.assert_allclose(np.asarray(prepared_pictures(fed)[0]), pixels)
    if preset == "imagenet" and size != "own":  # the same share of the picture is cut off
        assert fed.record["preset"]["shorter_side"] == round(256 * 20 / 224)


def test_a_size_that_cannot_be(tmp_path):
    Image.fromarray(levels(1)).save(tmp_path / "1.png")
    message, hint = refusal(tmp_path / "1.png", NCHW, preprocess="unit", size="64")
    assert message == "the model fixes its pictures at 10 x 8, not 64: input 'x' float32 (batch, 3, 8, 10)"
    assert hint.startswith("leave `--size` out")
    assert whole(tmp_path / "1.png", NCHW, preprocess="unit", size="10x8").arrays["x"].shape == (1, 3, 8, 10)
    for size in ("large", "0", "3x", "70000", "-3"):
        message, hint = refusal(tmp_path / "1.png", NCHW, preprocess="unit", size=size)
        assert (message, hint.split(";")[0]) == (f"no size of a picture: {size!r}", "leave `--size` out")
    notes = whole(np.zeros((1, 3, 8, 10), np.float32), NCHW, size="64").notes
    assert "the size 64 is ignored: it is for images" in notes


LINES = """<ir_version: 9, opset_import: ["": 18]>
    g (float[n, 3, h, w] x) => (float[n, 3, w] y) <int64[1] two = {2}> {
        low = MaxPool <kernel_shape = [48, 1]> (x)  [flat] y = Squeeze (low, two) }"""


def test_a_model_that_takes_one_height_says_which(tmp_path):
    """As what reads lines of writing, whose height is declared as any."""
    model = load_model(parse_model(LINES))
    Image.new("RGB", (80, 60)).save(tmp_path / "1.png")
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path / "1.png", model, RunOptions(preprocess="unit", size="own"))
    assert str(caught.value).startswith("no picture of 80 x 60 runs: Squeeze 'flat' refuses it: 1.png")
    assert caught.value.hint.startswith("`--size 320x48` runs; the model takes x float32 (n, 3, h, w)")
    open_dataset(tmp_path / "1.png", model, RunOptions(preprocess="unit", size="320x48"))
    Image.new("RGB", (80, 48)).save(tmp_path / "2.png")
    fed = open_dataset(tmp_path / "2.png", model, RunOptions(preprocess="unit", size="own")).whole()
    assert fed.arrays["x"].shape == (1, 3, 48, 80)


PROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": 40}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32}, "do_rescale": True, "rescale_factor": 0.00392156862745098,
    "do_normalize": True, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip


LONGEST = {**PROCESSOR, "do_center_crop": False, "size": {"longest_edge": 50}, "resample": 2}


@pytest.fixture
def hub(tmp_path):
    """A folder as model hubs have it: the network below, what prepares its pictures above."""
    (tmp_path / "onnx").mkdir()
    onnx.save(parse_model(ANY), tmp_path / "onnx" / "model.onnx")
    Image.fromarray(levels(3, (60, 80, 3))).save(tmp_path / "1.png")

    def fed(record, **options):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(record))
        return open_dataset(tmp_path / "1.png", load_model(tmp_path / "onnx" / "model.onnx"), RunOptions(**options))

    return fed


def test_what_lies_beside_the_model_says_how_to_prepare(hub):
    feed = hub(PROCESSOR).whole()
    resized = Image.fromarray(levels(3, (60, 80, 3))).resize((53, 40), Image.Resampling.BICUBIC)
    cut = np.asarray(resized)[4:36, 10:42]  # (53 - 32) / 2 = 10.5, which rounds to 10
    expected = (cut / 255.0 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    np.testing.assert_allclose(feed.arrays["x"][0], expected.transpose(2, 0, 1), atol=1e-6)
    assert feed.notes == ("prepared as preprocessor_config.json beside the model says",)
    assert feed.record["preset"]["mean"] == PROCESSOR["image_mean"]
    assert hub(PROCESSOR, preprocess="unit").whole().record["preset"] == "unit"


def test_a_detector_keeps_both_sides_within_its_limits(hub):
    """As DETR's processor: the shorter side to 40 unless the longer one, of 80 for 60, then went beyond 50."""
    sizes = {"shortest_edge": 40, "longest_edge": 50}
    feed = hub({**PROCESSOR, "do_center_crop": False, "size": sizes, "resample": 2, "do_pad": True}).whole()
    resized = Image.fromarray(levels(3, (60, 80, 3))).resize((50, 38), Image.Resampling.BILINEAR)  # 50 * 60 / 80 = 37.5
    expected = (np.asarray(resized) / 255.0 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    np.testing.assert_allclose(feed.arrays["x"][0], expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((480, 640), (800, 1066)),  # 800 * 640 / 480 = 1066.7
        ((640, 480), (1066, 800)),
        ((600, 1200), (666, 1333)),  # the longer side would be 1600; 1333 / 2 = 666.5, to the even one
        ((1200, 600), (1333, 666)),
        ((800, 1333), (800, 1333)),
        ((100, 100), (800, 800)),
    ],
)
def test_sides_of_a_detector_in_its_own_size(own, expected):
    assert Preset("detr", resize="shorter", shorter_side=800, longer_side=1333).target(own, None, None) == expected


def test_a_longest_edge_alone_keeps_the_proportions(hub):
    feed = hub(LONGEST).whole()
    resized = Image.fromarray(levels(3, (60, 80, 3))).resize((50, 38), Image.Resampling.BILINEAR)  # 37.5, rounded up
    expected = (np.asarray(resized) / 255.0 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    np.testing.assert_allclose(feed.arrays["x"][0], expected.transpose(2, 0, 1), atol=1e-6)


def test_a_longest_edge_is_what_segment_anything_makes_of_it():
    """Held to that processor's own rule in exact fractions: each side times the scale, halves up, enlarged too."""
    for own in ((480, 640), (640, 480), (100, 100), (37, 1000), (600, 31), (1023, 1025), (1, 3), (75, 101)):
        for edge in (64, 333, 1024):
            scale = Fraction(edge, max(own))
            expected = tuple(max(1, math.floor(side * scale + Fraction(1, 2))) for side in own)
            assert Preset("sam", resize="longer", longer_side=edge).target(own, None, None) == expected
    assert Preset("sam", resize="longer", longer_side=9).target((50, 100), 20, None) == (20, 40)


@pytest.mark.parametrize(
    ("changed", "recipe"),
    [
        ({}, {"resize": "crop", "size": (32, 32), "shorter_side": 40, "filter": "bicubic"}),
        ({"size": 40, "crop_size": 32}, {"resize": "crop", "size": (32, 32), "shorter_side": 40}),
        ({"do_center_crop": False}, {"resize": "shorter", "shorter_side": 40}),
        (
            {"do_center_crop": False, "size": {"shortest_edge": 40, "longest_edge": 50}},
            {"resize": "shorter", "shorter_side": 40, "longer_side": 50},
        ),
        (
            {"do_center_crop": None, "size": 40, "max_size": 50},
            {"resize": "shorter", "shorter_side": 40, "longer_side": 50},
        ),
        (
            {
                "do_center_crop": False,
                "size": {"longest_edge": 50},
                "do_pad": False,
                "pad_size": {"height": 9, "width": 9},
            },
            {"resize": "longer", "longer_side": 50},
        ),
        ({"do_center_crop": False, "size": {"height": 20, "width": 30}}, {"size": (20, 30), "resize": "straight"}),
        ({"do_center_crop": False, "size": 20}, {"size": (20, 20), "resize": "straight"}),
        ({"do_center_crop": False, "do_resize": False}, {"size": None, "resize": "straight"}),
        ({"do_center_crop": None, "crop_pct": 0.8}, {"resize": "crop", "size": 40, "shorter_side": 50}),
        ({"do_normalize": False}, {"mean": (0.0,), "std": (1.0,), "divisor": 255.0}),
        ({"do_rescale": False}, {"divisor": 1.0, "mean": (0.48, 0.46, 0.41)}),
        ({"resample": 0, "do_flip_channel_order": True}, {"filter": "nearest", "order": "BGR"}),
        ({"rescale_factor": 1 / 127.5}, {"divisor": 127.5}),
    ],
)
def test_each_field_of_an_image_processor(hub, changed, recipe):
    feed = hub({**PROCESSOR, **changed}).whole()
    assert feed.preset.name == "preprocessor_config.json"
    assert {key: getattr(feed.preset, key) for key in recipe} == recipe


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ([], "no image processor's configuration: "),
        ({**PROCESSOR, "max_pixels": 9}, "'max_pixels' is a step that a recipe does not have: "),
        ({**PROCESSOR, "size": {"shortest_edge": 9, "longest_edge": 20}}, "no image processor's configuration ("),
        ({**PROCESSOR, "size": {"longest_edge": 20}}, "no image processor's configuration (ValueError('a crop of what"),
        ({**LONGEST, "patch_size": 16}, "no image processor's configuration (ValueError(\"a longest edge with 'patch"),
        (
            {**LONGEST, "image_processor_type": "TvpImageProcessor"},
            "no image processor's configuration (ValueError('a lo",
        ),
        ({**LONGEST, "pad_size": {"height": 32, "width": 32}}, "'pad_size' is a step that a recipe does not have: "),
        ({**PROCESSOR, "size": {"height": "9", "width": 9}}, "no image processor's configuration ("),
        ({**PROCESSOR, "resample": 9}, "no image processor's configuration ("),
        ({**PROCESSOR, "rescale_factor": 0}, "no image processor's configuration ("),
        ({**PROCESSOR, "image_mean": "x"}, "'mean' is \"x\", not numbers that float32 holds"),
        ({**PROCESSOR, "image_std": [0, 1, 1]}, "'std' is [0, 1, 1], not numbers other than 0"),
        ({"feature_size": 80, "sampling_rate": 16_000}, "which preset?"),
    ],
)
def test_what_an_image_processor_may_not_say(hub, record, fault):
    with pytest.raises(InputError) as caught:
        hub(record)
    assert str(caught.value).startswith(fault)
    assert "`--preprocess imagenet`" in caught.value.hint
