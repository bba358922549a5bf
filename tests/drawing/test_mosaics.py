"""Mosaics: against matplotlib's own colours, errors by their words."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import Normalize
from PIL import Image

from onnxscope.drawing.mosaics import (
    coarsened,
    colour_table,
    encode_png,
    kernels,
    labelled,
    mosaic,
    reduced,
    strips,
    thinned,
)
from onnxscope.errors import InputError

GAP = 4


def cells(image, columns, shape, count):
    """The cells of a mosaic, one pixel for each element: their RGBA colours, shape (count, height, width, 4)."""
    pixels = np.asarray(image.convert("RGBA"))
    rows = -(-count // columns)
    height, width = ((pixels.shape[i] + GAP) // n - GAP for i, n in ((0, rows), (1, columns)))
    found = []
    for number in range(count):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        cell = pixels[top : top + height, left : left + width]
        small = cell[:: height // shape[0], :: width // shape[1]]
        enlarged = small.repeat(height // shape[0], 0).repeat(width // shape[1], 1)
        np.testing.assert_array_equal(cell, enlarged)
        found.append(small)
    return np.stack(found)


def reopened(image):
    return Image.open(io.BytesIO(encode_png(image)))


@pytest.mark.parametrize("cmap", ["viridis", "magma", "gray"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "bool"])
def test_each_map_has_the_colours_of_imshow(cmap, dtype):
    maps = (np.random.default_rng(0).standard_normal((7, 5, 6)) * 40).astype(dtype)
    found = cells(reopened(mosaic(maps, cmap=cmap)), 4, (5, 6), 7)
    colours = matplotlib.colormaps[cmap]
    for number, values in enumerate(maps.astype(np.float64)):
        levels = Normalize(values.min(), values.max())(values)
        expected = colours(levels, bytes=True)
        expected[levels >= 255 / 256] = colours(254, bytes=True)  # the highest colour gives way to transparency
        np.testing.assert_array_equal(found[number], expected)


@pytest.mark.parametrize(
    ("count", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (1, 4)), (12, (3, 4)), (13, (4, 4))]
)
def test_maps_lie_four_to_a_row(count, grid):
    image = mosaic(np.random.default_rng(1).random((count, 7, 7)), cell_px=224)
    assert image.size == (grid[1] * 228 - GAP, grid[0] * 228 - GAP)
    assert image.mode == "P"


@pytest.mark.parametrize(
    ("shape", "cell"),
    [
        ((13, 13), (221, 221)),
        ((112, 112), (224, 224)),
        ((224, 224), (224, 224)),
        ((300, 200), (300, 200)),
        ((1, 100), (8, 200)),
        ((5, 1), (220, 44)),
        ((1, 1000), (8, 1000)),
        ((2100, 70), (700, 24)),
    ],
)
def test_maps_are_enlarged_by_integers(shape, cell):
    image = mosaic(np.random.default_rng(2).random((2, *shape)), cell_px=224)
    assert image.size == (2 * cell[1] + GAP, cell[0])


def test_gaps_missing_cells_and_nan_are_transparent_and_infinities_take_the_ends():
    maps = np.random.default_rng(3).random((5, 4, 4))
    maps[0, 0, 0], maps[0, 0, 1], maps[0, 0, 2] = math.nan, math.inf, -math.inf
    maps[1] = 3.5
    maps[2] = math.nan
    image = reopened(mosaic(maps, cell_px=224))
    found = cells(image, 4, (4, 4), 5)
    table = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)
    assert found[0, 0, 0, 3] == 0
    np.testing.assert_array_equal(found[0, 0, 1], table[254])
    np.testing.assert_array_equal(found[0, 0, 2], table[0])
    assert (found[1] == table[0]).all()  # as imshow shows a constant
    assert (found[2, ..., 3] == 0).all()
    assert (found[3:, ..., 3] == 255).all()
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha[224:228] == 0).all()
    assert (alpha[:, 224:228] == 0).all()
    assert (alpha[228:, 228:] == 0).all()


def test_extreme_ranges_do_not_overflow():
    found = cells(mosaic(np.array([[[-1.7e308, 0, 1.7e308]]])), 1, (1, 3), 1)[0, 0]
    table = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)
    np.testing.assert_array_equal(found, table[[0, 128, 254]])


def test_pictures_stay_of_a_size_that_opens():
    for shape in ((3000, 2, 2), (64, 1000, 1000), (1, 9000, 5000), (2, 1, 100_000)):
        width, height = mosaic(np.zeros(shape, np.float16)).size
        assert width * height < 20_000_000
    width, height = mosaic(np.zeros((3000, 2, 2))).size
    assert 1 <= width / height < 2.5


def test_a_picture_has_the_same_bytes_each_time_and_changes_nothing():
    maps = np.random.default_rng(4).random((3, 9, 9), dtype=np.float32)
    before = maps.copy()
    assert encode_png(mosaic(maps)) == encode_png(mosaic(maps))
    np.testing.assert_array_equal(maps, before)
    levels = [np.asarray(Image.open(io.BytesIO(encode_png(mosaic(maps), level=level)))) for level in (0, 3, 9)]
    np.testing.assert_array_equal(levels[0], levels[1])
    np.testing.assert_array_equal(levels[0], levels[2])


def test_kernels_of_three_channels_are_shown_in_colour():
    weights = np.random.default_rng(5).standard_normal((96, 3, 11, 11)).astype(np.float32)
    weights[1, 0, 0, 0] = math.nan
    image = reopened(kernels(weights))
    assert image.mode == "RGBA"
    assert image.size == (12 * 59 - GAP, 8 * 59 - GAP)
    found = cells(image, 12, (11, 11), 96)
    for number in (0, 95):
        kernel = weights[number].astype(np.float64)
        expected = (kernel - kernel.min()) / (kernel.max() - kernel.min()) * 255
        assert np.abs(found[number, ..., :3] - expected.transpose(1, 2, 0)).max() <= 0.5 + 1e-6
    assert found[1, 0, 0, 3] == 0
    assert (found[1].reshape(-1, 4)[1:, 3] == 255).all()


def test_kernels_of_one_channel_are_a_mosaic():
    weights = np.random.default_rng(6).standard_normal((32, 1, 3, 3))
    found = cells(kernels(weights), 8, (3, 3), 32)
    np.testing.assert_array_equal(found, cells(mosaic(weights[:, 0], columns=8), 8, (3, 3), 32))


def test_viridis_is_matplotlibs_and_needs_no_matplotlib():
    expected = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    np.testing.assert_array_equal(colour_table("viridis"), expected)
    np.testing.assert_array_equal(
        colour_table("twilight")[::85], matplotlib.colormaps["twilight"](np.linspace(0, 1, 4), bytes=True)[:, :3]
    )
    program = (
        "import sys, numpy; from onnxscope.drawing.svg_charts import *; from onnxscope.drawing.mosaics import *;"
        "encode_png(mosaic(numpy.ones((2, 3, 3))));"
        "histogram_svg('w', [0., 1.], [3]); sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_faults_are_named():
    with pytest.raises(InputError, match=r"^no colour map named 'virdis\\x1b'$") as caught:
        mosaic(np.ones((1, 2, 2)), cmap="virdis\x1b")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("closest names: viridis")
    with pytest.raises(InputError, match=r"at least one element: an array of shape \(2, 0, 3\)$"):
        mosaic(np.ones((2, 0, 3)))
    with pytest.raises(InputError, match=r"^not \(kernels, 1 or 3, height, width\): weights of shape \(8, 2, 3, 3\)$"):
        kernels(np.ones((8, 2, 3, 3)))


@pytest.mark.parametrize(("shape", "size"), [((3, 9, 9), (9, 9)), ((2, 112, 56), (37, 18)), ((1, 5, 400), (1, 40))])
def test_large_maps_are_averaged_over_squares(shape, size):
    maps = np.random.default_rng(11).random(shape)
    small = reduced(maps, 40)
    assert small.shape == (shape[0], *size)
    down, across = shape[1] // size[0], shape[2] // size[1]
    assert small[0, -1, -1] == pytest.approx(
        maps[0, (size[0] - 1) * down : size[0] * down, (size[1] - 1) * across : size[1] * across].mean()
    )


def test_squares_with_infinities_of_both_signs_are_averaged_to_nan():
    maps = np.ones((1, 4, 4), np.float32)
    maps[0, 0, :2] = np.inf, -np.inf
    means = reduced(maps, 2)
    assert np.isnan(means[0, 0, 0])
    assert (means.reshape(-1)[1:] == 1).all()


def test_a_coarse_mosaic_has_fifteen_colours_and_clear_gaps():
    maps = np.linspace(0, 1, 2 * 16 * 16).reshape(2, 16, 16)
    fine = mosaic(maps, cell_px=16, gap_px=1)
    coarse = coarsened(fine)
    assert coarse.size == fine.size == (33, 16)
    assert len(encode_png(coarse)) < len(encode_png(fine)) / 2
    there, here = (np.asarray(image.convert("RGBA")) for image in (coarse, fine))
    assert (there[:, 16, 3] == 0).all()
    assert len(np.unique(there[:, :16, :3].reshape(-1, 3), axis=0)) == 15
    assert np.abs(there[..., :3].astype(int) - here[..., :3])[:, :16].max() < 24


def test_strips_have_a_row_each_and_a_pixel_a_number():
    numbers = np.array([0.0, 0.5, 1.0, np.nan])
    image = strips([(numbers, 0.0, 1.0), (numbers, 0.0, 2.0)])
    assert image.size == (4, 2)
    assert np.asarray(image).tolist() == [[0, 16, 31, 32], [0, 8, 16, 32]]
    assert np.asarray(image.convert("RGBA"))[:, 3, 3].tolist() == [0, 0]


def test_a_table_is_enlarged_and_shrunk_to_either_side_by_itself():
    wide = np.arange(2 * 40, dtype=np.float64).reshape(1, 2, 40)
    np.testing.assert_array_equal(reduced(wide, 10, square=False), wide.reshape(1, 2, 10, 4).mean(axis=3))
    image = mosaic(wide, cell_px=160, square=False)
    assert (image.width, image.height) == (160, 20)  # a row is no thicker than a sixteenth of the side
    assert thinned(np.zeros((1, 2, 5000)), square=False).shape == (1, 2, 1000)
    assert thinned(np.zeros((1, 2, 5000))).shape == (1, 1, 1000)


def test_letters_leave_the_maps_as_they_are():
    image = mosaic(np.arange(600.0).reshape(1, 20, 30), cell_px=120)
    drawn = labelled(image, "query", "key", "heads 0")
    place = drawn.width - image.width, 0
    np.testing.assert_array_equal(np.asarray(drawn.crop((*place, drawn.width, image.height))), np.asarray(image))
    assert drawn.getpalette() == image.getpalette()
    assert drawn.info["transparency"] == 255


def test_what_is_written_below_a_narrow_picture_is_not_cut():
    def letters(words, room):
        wide = labelled(mosaic(np.zeros((1, 2, room))), "a", words, "").convert("RGBA")
        foot = np.asarray(wide)[-18:]
        return int((foot[..., 3] > 0).sum())

    for words in ("time", "key", "channel", "million mmm", "illicit fill"):
        assert letters(words, 1) == letters(words, 400), words
