"""The pictures that a model sees, and maps over them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from feeding import whole
from PIL import Image

from onnxscope.analyses.input_pictures import lay_over, prepared_pictures
from onnxscope.inputs.presets import PRESETS, Preset
from onnxscope.model.stored_model import InputSpec

RNG = np.random.default_rng(5)
NCHW = (InputSpec("x", "float32", ("batch", 3, 8, 10)),)
LAYOUTS = {
    "nchw": NCHW,
    "nhwc": (InputSpec("x", "float32", ("batch", 8, 10, 3)),),
    "fixed": (InputSpec("x", "float32", (3, 3, 8, 10)),),
}


def photo(mode="RGB"):
    return Image.fromarray(RNG.integers(0, 256, (11, 17, 3), dtype=np.uint8)).convert(mode)


def as_seen(image, preset):
    """Pillow's own resize and crop, spelled out."""
    if preset.resize == "straight":
        return image.resize((10, 8), Image.Resampling[preset.filter.upper()])
    if preset.resize == "letterbox":
        inner = np.asarray(image.resize((10, 6), Image.Resampling[preset.filter.upper()]))  # 17 x 11, by 10 / 17
        return Image.fromarray(np.pad(inner, ((1, 1), (0, 0), (0, 0)), constant_values=114))
    raw = Preset("raw", resize="crop", filter=preset.filter, size=preset.size, shorter_side=preset.shorter_side)
    return Image.fromarray(raw.apply(image, 8, 10, np.dtype(np.uint8)))


@pytest.mark.parametrize(
    "preset", [*PRESETS.values(), Preset("mine", order="BGR", divisor=3, mean=(1, 2, 3), std=(7,))]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_steps_of_every_preset_are_undone_exactly(preset, layout):
    images = [photo(), photo()]
    pictures = prepared_pictures(whole(images, LAYOUTS[layout], preprocess=json.dumps(preset.to_dict())))
    assert [picture.mode for picture in pictures] == ["RGB", "RGB"]
    for picture, image in zip(pictures, images, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(as_seen(image, preset)))


@pytest.mark.parametrize("preset", ["half", "unit", "none"])
def test_grey_pictures_and_inputs_without_a_batch_axis(preset):
    image = photo("L")
    for shape in (("b", 1, 8, 10), (1, 8, 10), (8, 10, 1)):
        (picture,) = prepared_pictures(whole(image, (InputSpec("x", "float32", shape),), preprocess=preset))
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(as_seen(image, PRESETS[preset])))


def test_half_precision_is_a_level_off_at_most():
    image = photo()
    (picture,) = prepared_pictures(whole(image, (InputSpec("x", "float16", (1, 3, 8, 10)),), preprocess="imagenet"))
    expected = np.asarray(as_seen(image, PRESETS["imagenet"])).astype(int)
    assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 1


def test_arrays_are_scaled_to_their_own_range():
    x = RNG.normal(size=(2, 3, 8, 10)).astype(np.float32)
    x[1, 0, 0, 0] = np.nan
    first, second = prepared_pictures(whole(x, NCHW))
    expected = np.rint((x[0] - x[0].min()) / (x[0].max() - x[0].min()) * 255).transpose(1, 2, 0)
    np.testing.assert_allclose(np.asarray(first), expected, atol=1)
    assert np.asarray(first).min() == 0
    assert np.asarray(first).max() == 255
    assert np.asarray(second)[0, 0, 0] == 0
    last = prepared_pictures(whole(np.moveaxis(x, 1, 3), LAYOUTS["nhwc"]))
    np.testing.assert_array_equal(np.asarray(last[0]), np.asarray(first))


def test_what_is_no_picture_has_none():
    assert prepared_pictures(whole("random", (InputSpec("x", "float32", ("b", 5, 8, 10)),))) == ()
    assert prepared_pictures(whole("random", (InputSpec("x", "int64", ("b", 7)),))) == ()
    (shown,) = prepared_pictures(whole("random", (InputSpec("x", "float32", ("b", 4, 8, 10)),)))
    assert (shown.mode, shown.size) == ("RGB", (10, 8))  # three of four channels
    assert len(prepared_pictures(whole("random", NCHW))) == 1


def test_a_map_covers_more_of_the_picture_where_it_is_larger():
    picture = Image.fromarray(np.full((300, 200, 3), 90, np.uint8))
    values = np.array([[0.0, 1.0], [0.5, 0.0]], np.float32)
    shown = np.asarray(lay_over(picture, values)).astype(int)
    assert shown.shape == (300, 200, 3)
    assert shown[0, 0].tolist() == [90, 90, 90]  # nothing covers what does not matter
    np.testing.assert_allclose(shown[0, -1], 0.3 * 90 + 0.7 * np.array([253, 231, 37]), atol=1)
    np.testing.assert_allclose(shown[-1, 0], 0.65 * 90 + 0.35 * np.array([33, 145, 140]), atol=1)
    # Half way between two values of a row lies their mean: bilinear, with pixels as areas.
    between = lay_over(picture.resize((400, 2)), np.array([[0.0, 0.8]], np.float32))
    middle = np.asarray(between)[0, 199:201].mean(axis=0)
    np.testing.assert_allclose(middle, 0.72 * 90 + 0.28 * np.array([41, 121, 142]), atol=2)


def test_small_pictures_are_enlarged_by_a_whole_factor():
    picture = Image.fromarray(RNG.integers(0, 256, (8, 6), dtype=np.uint8))
    shown = np.asarray(lay_over(picture, np.zeros((2, 2), np.float32)))
    assert shown.shape == (224, 168, 3)
    np.testing.assert_array_equal(shown[::28, ::28, 0], np.asarray(picture))
    alone = lay_over(None, np.eye(3, dtype=np.float32), cmap="magma")
    assert alone.size == (222, 222)
