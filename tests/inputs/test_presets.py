"""Presets against torch, Keras and torchvision's published arithmetic; recipes in JSON; refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files

import jsonschema
import matplotlib
import numpy as np
import pytest
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.inputs.presets import PRESETS, Preset, load_preset

HOPPER = os.path.join(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
FLOAT = np.dtype(np.float32)


@pytest.fixture(scope="module")
def photo():
    with Image.open(HOPPER) as image:
        return image.convert("RGB")


def noise(width, height, mode="RGB"):
    bands = 3 if mode == "RGB" else 1
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels if bands == 3 else pixels[:, :, 0])


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def test_imagenet_is_torchvisions_arithmetic_bit_for_bit(photo):
    torch = pytest.importorskip("torch")
    assert photo.size == (512, 600)
    resized = photo.resize((256, int(256 * 600 / 512)), Image.Resampling.BILINEAR)
    top, left = int(round((300 - 224) / 2.0)), int(round((256 - 224) / 2.0))  # noqa: RUF046
    tensor = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[:, top : top + 224, left : left + 224]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = tensor.float().div(255).sub(mean).div(std)
    found = PRESETS["imagenet"].apply(photo, None, None, FLOAT)
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.transpose(2, 0, 1), expected.numpy())


@pytest.mark.parametrize(("name", "mode"), [("imagenet", "bilinear"), ("unit", "bicubic")])
def test_the_resize_is_within_a_grey_level_of_torchs_antialiased_one(photo, name, mode):
    torch = pytest.importorskip("torch")
    size = (300, 256) if name == "imagenet" else (224, 224)
    # On uint8, because both round and cut at 0 and 255 between the two passes.
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, size=size, mode=mode, antialias=True, align_corners=False)
    expected = resized[0].permute(1, 2, 0).numpy().astype(np.float32)
    if name == "imagenet":
        expected = expected[38:262, 16:240]
    preset = Preset("raw", resize=PRESETS[name].resize, filter=PRESETS[name].filter)
    found = preset.apply(photo, 224, 224, FLOAT)
    assert np.abs(found - expected).max() <= 1.0
    assert np.mean(found != expected) < 0.02


def test_half_caffe_and_unit_are_keras_preprocessing(photo, tmp_path):
    pytest.importorskip("keras")
    straight = {name: photo.resize((224, 224), Image.Resampling[name.upper()]) for name in ("bilinear", "bicubic")}
    np.savez(tmp_path / "in.npz", **{name: np.array(image) for name, image in straight.items()})
    program = """
import sys, numpy as np
from keras.applications.imagenet_utils import preprocess_input
from keras.utils import img_to_array, load_img
pixels = np.load(sys.argv[1])
loaded = load_img(sys.argv[3], target_size=(224, 224), interpolation="bicubic")
np.savez(sys.argv[2], half=preprocess_input(pixels["bilinear"].astype("float32"), mode="tf"),
         caffe=preprocess_input(pixels["bicubic"].astype("float32"), mode="caffe"), unit=img_to_array(loaded) / 255)
"""
    files = [str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), HOPPER]
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, *files], check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as expected:
        for name in ("caffe", "unit"):
            np.testing.assert_array_equal(PRESETS[name].apply(photo, None, None, FLOAT), expected[name])
        # Keras divides by 127.5 and subtracts 1: the same to the last digit or two.
        np.testing.assert_allclose(PRESETS["half"].apply(photo, None, None, FLOAT), expected["half"], atol=2e-7)


def test_none_keeps_the_levels(photo):
    image = noise(20, 10)
    found = PRESETS["none"].apply(image, 10, 20, np.dtype(np.uint8))
    np.testing.assert_array_equal(found, np.asarray(image))
    assert found.dtype == np.uint8
    assert PRESETS["none"].apply(photo, None, None, FLOAT).shape == (photo.height, photo.width, 3)


@pytest.mark.parametrize(
    ("size", "target", "full", "corner"),
    [
        # image (width, height), target (height, width), size before the crop (width, height), left and top
        ((512, 600), (224, 224), (256, 300), (16, 38)),
        ((600, 512), (224, 224), (300, 256), (38, 16)),
        ((500, 375), (224, 224), (341, 256), (58, 16)),  # round(58.5) is 58, as torchvision has it
        ((97, 65), (299, 299), (510, 342), (106, 22)),  # 299 * 256 / 224 = 341.7
        ((64, 64), (32, 32), (37, 37), (2, 2)),  # 36.6; round(2.5) is 2
        ((300, 200), (112, 224), (256, 170), (16, 29)),  # box 256 x 128, covered by the width
        ((300, 100), (112, 224), (384, 128), (80, 8)),  # covered by the height
    ],
)
def test_crop_geometry(size, target, full, corner):
    image = noise(*size)
    (left, top), (height, width) = corner, target
    resized = image.resize(full, Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[top : top + height, left : left + width]
    found = Preset("crop", resize="crop").apply(image, height, width, np.dtype(np.uint8))
    np.testing.assert_array_equal(found, expected)


def test_order_comes_before_the_mean():
    image = Image.new("RGB", (2, 2), (10, 20, 30))
    found = Preset("bgr", order="BGR", mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0)).apply(image, 2, 2, FLOAT)
    np.testing.assert_array_equal(found[0, 0], [29, 9, 1.75])


def test_a_grey_image_has_one_channel():
    image = noise(8, 8, "L")
    found = PRESETS["half"].apply(image, 8, 8, FLOAT)
    np.testing.assert_allclose(found[:, :, 0], (np.asarray(image) / 255.0 - 0.5) / 0.5, atol=2e-7)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floating_types(photo, dtype):
    levels = np.asarray(photo.resize((224, 224), Image.Resampling.BICUBIC)).astype(np.float64)
    found = PRESETS["unit"].apply(photo, None, None, np.dtype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, levels / 255, rtol=1e-3 if dtype == "float16" else 1e-15)


def test_integers_take_whole_levels_only(photo):
    message, hint = refusal(PRESETS["imagenet"].apply, photo, 4, 4, np.dtype(np.uint8))
    assert message == "preset 'imagenet' gives fractions, and the input takes uint8"
    assert hint == "`--preprocess none`, or a recipe in a JSON file"
    message, _ = refusal(PRESETS["none"].apply, photo, 4, 4, np.dtype(np.int8))
    assert message == "preset 'none' gives 0..255, and the input takes int8"


def test_three_means_for_one_channel_are_refused():
    message, hint = refusal(PRESETS["imagenet"].apply, noise(8, 8, "L"), 8, 8, FLOAT)
    assert message == "preset 'imagenet' has 3 means or deviations for an input of 1 channel"
    assert hint == "`--preprocess half`, unit, none, letterbox, or a recipe in a JSON file"


def test_an_image_of_one_row_is_not_blown_up():
    message, hint = refusal(PRESETS["imagenet"].apply, Image.new("RGB", (60_000, 1)), 224, 224, FLOAT)
    assert message == "the image would be resized to 15,360,000 x 256, more than the 89,478,485 pixels that we make"
    assert hint == "make its proportions more like the model's input"
    message, _ = refusal(PRESETS["none"].apply, noise(2, 2), 60_000, 60_000, FLOAT)
    assert message.startswith("the image would be resized to 60,000 x 60,000")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_own_json(name):
    assert load_preset(name) is PRESETS[name]
    assert load_preset(json.dumps(PRESETS[name].to_dict())) == PRESETS[name]
    assert load_preset(PRESETS[name]) is PRESETS[name]


def test_a_recipe_from_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"resize": "crop", "size": 96, "shorter_side": 100, "divisor": 2, "mean": 3, "std": [1, 2, 4]}')
    expected = Preset("mine", resize="crop", size=96, shorter_side=100, divisor=2.0, mean=(3.0,), std=(1.0, 2.0, 4.0))
    assert load_preset(path) == load_preset(str(path)) == expected
    assert load_preset("{}") == Preset("custom")
    image = Image.new("RGB", (200, 100), (8, 10, 12))
    np.testing.assert_array_equal(expected.apply(image, None, None, FLOAT), np.tile([1.0, 1.0, 0.75], (96, 96, 1)))


def test_an_unknown_preset_lists_the_known_ones():
    message, hint = refusal(load_preset, "imagnet")
    assert message == "unknown preset 'imagnet'"
    assert hint == "one of imagenet, half, unit, caffe, none, letterbox, or a JSON file with a recipe"
    assert refusal(load_preset, "a\x1b[2J")[0] == r"unknown preset 'a\x1b[2J'"


def test_a_preset_may_be_forbidden_to_read_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("{}")
    assert refusal(load_preset, str(path), files=False)[0].startswith("unknown preset ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"mean": ', "not a recipe in JSON (Expecting value: line 1 column 10 (char 9)): the recipe"),
        ('{"mean": NaN}', "not a recipe in JSON (NaN is no number): the recipe"),
        ('{"mean": 1, "mean": 2}', "not a recipe in JSON (a key occurs twice): the recipe"),
        ('{"mean": ' + "[" * 100_000, "not a recipe in JSON (nested too deeply): the recipe"),
        ('{"maen": 1}', "unknown key 'maen' in a recipe: the recipe"),
        (
            '{"shorter_side": 9}',
            '\'shorter_side\' without "resize": "crop" or "resize": "shorter" in a recipe: the recipe',
        ),
        (
            '{"resize": "crop", "size": 300}',
            "'shorter_side' 256 is less than 'size' 300 in a recipe: the recipe",
        ),
        ('{"resize": "longer"}', '"resize": "longer" without \'longer_side\' in a recipe: the recipe'),
        ('{"name": ""}', "'name' is \"\", not a text of 1 to 60 characters: the recipe"),
        ('{"resize": "fit"}', "'resize' is \"fit\", not one of straight, crop, letterbox, shorter, longer: the recipe"),
        ('{"resize": []}', "'resize' is [], not one of straight, crop, letterbox, shorter, longer: the recipe"),
        (
            '{"filter": "area"}',
            "'filter' is \"area\", not one of nearest, box, bilinear, hamming, bicubic, lanczos: the recipe",
        ),
        ('{"order": "rgb"}', "'order' is \"rgb\", not one of RGB, BGR: the recipe"),
        ('{"size": 0}', "'size' is 0, not a whole number from 1 to 65535: the recipe"),
        ('{"size": true}', "'size' is true, not a whole number from 1 to 65535: the recipe"),
        ('{"divisor": 0}', "'divisor' is 0, not a number other than 0 that float32 holds: the recipe"),
        ('{"divisor": "255"}', "'divisor' is \"255\", not a number other than 0 that float32 holds: the recipe"),
        ('{"mean": [1, 2]}', "'mean' is [1, 2], not numbers that float32 holds, one, three or four: the recipe"),
        ('{"mean": 1e999}', "'mean' is Infinity, not numbers that float32 holds, one, three or four: the recipe"),
        (
            '{"std": [1, 0, 1]}',
            "'std' is [1, 0, 1], not numbers other than 0 that float32 holds, one, three or four: the recipe",
        ),
        (
            '{"std": 1e-60}',
            "'std' is 1e-60, not numbers other than 0 that float32 holds, one, three or four: the recipe",
        ),
    ],
)
def test_a_bad_recipe_is_refused(text, fault):
    assert refusal(load_preset, text)[0] == fault


def test_an_unknown_key_is_told_the_known_ones():
    _, hint = refusal(load_preset, '{"maen": 1}')
    assert hint == "its keys: name, resize, filter, size, shorter_side, longer_side, pad, order, divisor, mean, std"


def test_a_huge_number_is_shown_in_short():
    message, _ = refusal(load_preset, '{"mean": 1' + "0" * 400 + "}")
    assert message == f"'mean' is 1{'0' * 56}..., not numbers that float32 holds, one, three or four: the recipe"


def test_a_recipe_file_that_is_none(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("[1]")
    assert refusal(load_preset, path)[0] == f"not a recipe in JSON (no object): {path}"
    path.write_bytes(b"\xff\xfe\xff")
    assert refusal(load_preset, path)[0] == f"not a recipe in JSON (no UTF-8 text): {path}"
    path.write_bytes(b" " * 65_537)
    assert refusal(load_preset, path)[0] == f"65,537 bytes are more than the 65,536 that we read: {path}"
    assert refusal(load_preset, tmp_path / "absent.json")[0] == f"no such file: {tmp_path / 'absent.json'}"


@pytest.mark.parametrize(("width", "height"), [(40, 25), (25, 40), (33, 100), (7, 3), (64, 48)])
def test_a_letterbox_is_what_detectors_are_fed(width, height):
    """As large as goes into the target, in the middle, with grey around it; against numpy alone."""
    image = noise(width, height)
    found = PRESETS["letterbox"].apply(image, 48, 64, FLOAT)
    ratio = min(48 / height, 64 / width)
    inner_width, inner_height = round(width * ratio), round(height * ratio)
    left, right = int(round((64 - inner_width) / 2 - 0.1)), int(round((64 - inner_width) / 2 + 0.1))  # noqa: RUF046
    top, bottom = int(round((48 - inner_height) / 2 - 0.1)), int(round((48 - inner_height) / 2 + 0.1))  # noqa: RUF046
    inner = np.asarray(image.resize((inner_width, inner_height), Image.Resampling.BILINEAR))
    expected = np.pad(inner, ((top, bottom), (left, right), (0, 0)), constant_values=114)
    assert expected.shape == (48, 64, 3)
    np.testing.assert_array_equal(found, expected.astype(np.float32) / np.float32(255))


def test_a_letterbox_of_no_size_pads_up_to_a_multiple():
    image = noise(40, 25)
    found = load_preset('{"resize": "letterbox", "size": null, "pad": 7}').apply(image, None, None, FLOAT, 32)
    np.testing.assert_array_equal(found, np.pad(np.asarray(image), ((3, 4), (12, 12), (0, 0)), constant_values=7))


@pytest.mark.parametrize(
    ("recipe", "own", "given", "multiple", "expected"),
    [
        ('{"size": null}', (75, 100), (None, None), 1, (75, 100)),
        ('{"size": null}', (75, 100), (None, None), 32, (64, 96)),
        ('{"size": null}', (5, 100), (None, None), 32, (32, 96)),
        ('{"size": null}', (75, 100), (48, None), 1, (48, 64)),
        ('{"size": null}', (75, 100), (None, 50), 1, (38, 50)),
        ('{"size": [30, 40]}', (75, 100), (None, None), 32, (30, 40)),
        ('{"size": [30, 40]}', (75, 100), (None, 8), 1, (30, 8)),
        ('{"resize": "shorter", "shorter_side": 50}', (75, 101), (None, None), 1, (50, 67)),
        ('{"resize": "shorter", "shorter_side": 50}', (75, 101), (20, 30), 1, (20, 30)),
    ],
)
def test_what_a_model_leaves_open_follows_the_picture(recipe, own, given, multiple, expected):
    preset = load_preset(recipe)
    assert preset.target(own, *given, multiple) == expected
    assert preset.apply(noise(own[1], own[0]), *given, FLOAT, multiple).shape == (*expected, 3)


def test_fractions_of_levels_stay():
    """What 16 bits hold: the resized numbers themselves where they are real, whole numbers where the input is."""
    values = np.random.default_rng(1).integers(0, 65_536, (6, 8))
    channel = Image.fromarray((values / 257).astype(np.float32))
    found = PRESETS["unit"].apply((channel,) * 3, 6, 8, FLOAT)
    np.testing.assert_allclose(found, np.stack([values / 65_535] * 3, axis=2), rtol=1e-6)
    np.testing.assert_array_equal(PRESETS["none"].apply((channel,), 6, 8, np.dtype(np.uint16))[:, :, 0], values)
    narrow = PRESETS["none"].apply((channel,), 6, 8, np.dtype(np.uint8))[:, :, 0]
    np.testing.assert_array_equal(narrow, np.rint(values / 257))


def test_four_numbers_for_four_channels():
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 40))
    preset = Preset("four", order="BGR", mean=(1.0, 2.0, 3.0, 4.0), std=(1.0, 1.0, 1.0, 2.0))
    np.testing.assert_array_equal(preset.apply(image, 2, 2, FLOAT)[0, 0], [29, 18, 7, 18])
    assert np.asarray(preset.restore(preset.apply(image, 2, 2, FLOAT)))[0, 0].tolist() == [10, 20, 30]
    message, _ = refusal(PRESETS["imagenet"].apply, image, 2, 2, FLOAT)
    assert message == "preset 'imagenet' has 3 means or deviations for an input of 4 channels"


@pytest.mark.parametrize("schema", ["features", "profile", "baseline"])
@pytest.mark.parametrize(
    "preset",
    [
        *PRESETS.values(),
        PRESETS["unit"].sized("3x4"),
        Preset("short", resize="shorter", filter="box"),
        Preset("long", resize="longer", longer_side=9),
    ],
)
def test_a_recipe_is_what_the_schemas_say(preset, schema):
    text = (files("onnxscope") / f"schemas/{schema}.json").read_text()
    jsonschema.validate(preset.to_dict(), json.loads(text)["$defs"]["recipe"])
