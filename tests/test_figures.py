"""Pictures: mosaics against matplotlib's own colours, SVG as XML, errors by their words."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import Normalize
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.figures import (
    coarsened,
    colour_table,
    encode_png,
    feature_figure,
    histogram_figure,
    histogram_png,
    histogram_svg,
    kernels,
    mosaic,
    reduced,
    sparkline_svg,
    strips,
)
from onnxscope.summaries import describe

GAP = 4
SVG = "{http://www.w3.org/2000/svg}"


def histogram_of(values):
    histogram = describe(np.asarray(values)).histogram
    return histogram.edges, histogram.counts


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
        "import sys, numpy; from onnxscope.figures import *; encode_png(mosaic(numpy.ones((2, 3, 3))));"
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
    with pytest.raises(InputError, match=r"at least one element: an array of shape \(4,\)$"):
        feature_figure(np.ones(4), [0], "fc")
    with pytest.raises(InputError, match=r"^not \(kernels, 1 or 3, height, width\): weights of shape \(8, 2, 3, 3\)$"):
        kernels(np.ones((8, 2, 3, 3)))


def test_bars_are_as_high_as_their_counts():
    root = ET.fromstring(histogram_svg("w", [0.0, 1.0, 2.0, 3.0, 4.0], [10, 0, 1_000_000, 250_000]))
    bars = root.findall(f"{SVG}path")[-1].get("d")
    assert bars == "M0.5 0v1M2.5 0v128M3.5 0v32"  # ten in a million is seen, nothing is not


def test_thousands_of_bins_still_fill_the_plot():
    root = ET.fromstring(histogram_svg("w", [*range(10_001)], [1] * 10_000))
    across = float(root.findall(f"{SVG}path")[-1].get("transform").removeprefix("matrix(").split()[0])
    assert across * 10_000 == pytest.approx(300)


def test_long_labels_stay_inside_the_picture_and_apart():
    root = ET.fromstring(histogram_svg("w", [1e15, 1e15 + 20], [1]))
    places = [float(label.get("x")) for label in next(root.iter(f"{SVG}g")).find(f"{SVG}g")]
    width = 6 * len("1000000000000010")
    assert len(places) >= 2
    assert places[0] >= width / 2
    assert places[-1] <= 360 - width / 2
    assert np.diff(places).min() > width


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.09, 0.08, ["-0.05", "0.00", "0.05"]),
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1e-9, 6.1e-6, ["2e-6", "4e-6", "6e-6"]),
        (-128.0, 127.0, ["-100", "0", "100"]),
        (-2e30, 1e30, ["-2e30", "-1e30", "0", "1e30"]),
    ],
)
def test_axis_labels_are_round_numbers(low, high, expected):
    labels = texts(histogram_svg("w", [low, high], [7]))
    assert labels[: len(expected)] == expected


def test_counts_are_labelled_in_thousands_and_millions():
    assert texts(histogram_svg("w", [0.0, 1.0], [3]))[6:-1] == ["0", "1", "2", "3"]
    assert texts(histogram_svg("w", [0.0, 1.0], [2330]))[6:-1] == ["0", "1k", "2k"]
    assert texts(histogram_svg("w", [0.0, 1.0], [8_000_000]))[6:-1] == ["0", "2M", "4M", "6M", "8M"]


@given(
    st.floats(-1.7e308, 1.7e308),
    st.floats(-1.7e308, 1.7e308),
    st.text(st.characters(exclude_categories=())),
    st.lists(st.integers(0, 10**12), min_size=1, max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_any_range_and_any_title_give_valid_xml_and_true_labels(one, other, title, counts):
    low, high = min(one, other), max(one, other)
    if low == high:
        high = math.nextafter(low, math.inf)
    edges = [low] * len(counts) + [high]
    svg = histogram_svg(title, edges, counts, caption=title)
    root = ET.fromstring(svg.encode("utf-8"))
    shown = "".join(root.itertext())
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
    labels = [*next(group for group in root.iter(f"{SVG}g") if group.get("text-anchor") == "middle")]
    for label in labels:
        assert low <= float(label.text) <= high or math.isclose(float(label.text), low, rel_tol=1e-9)
        assert (float(label.text) == 0) == (set(label.text) <= {"0", "."})
    assert len({e.text for e in labels}) == len(labels)


def test_a_long_title_is_shortened_in_the_middle_and_whole_in_the_tool_tip():
    title = "encoder.layers.11.attention.self.query_key_value.dense.<lora_A>.weight"
    root = ET.fromstring(histogram_svg(title, [0.0, 1.0], [1]))
    assert root.find(f"{SVG}title").text == title
    shown = root.findall(f"{SVG}text")[-1].text
    assert len(shown) <= 44
    assert shown.startswith("encoder.layers.11.att")
    assert shown.endswith(".<lora_A>.weight")


def test_an_svg_of_fifty_bins_is_small():
    edges, counts = histogram_of(np.random.default_rng(7).standard_normal(100_000) * 0.02)
    svg = histogram_svg("features.0.weight", edges, counts, caption="mean 9.77e-05  std 0.02  min -0.0899  max 0.0789")
    assert len(svg.encode()) <= 1500


@pytest.mark.parametrize("title", ["features.0.weight", "a$b_{c$ \u8a9e \x1b[31m", "", "x" * 300])
def test_a_histogram_png_opens_whatever_its_title(title):
    edges, counts = histogram_of(np.arange(100.0))
    png = histogram_png(title, edges, counts, caption="mean $49_5")
    assert Image.open(io.BytesIO(png)).size == (640, 400)
    assert png == histogram_png(title, edges, counts, caption="mean $49_5")


def test_a_histogram_figure_draws_the_counts():
    edges, counts = histogram_of(np.random.default_rng(8).random(1000))
    (patch,) = histogram_figure("w", edges, counts).axes[0].patches
    drawn = patch.get_data()
    np.testing.assert_array_equal(drawn.values, counts)
    np.testing.assert_array_equal(drawn.edges, edges)


def test_a_feature_figure_shows_scaled_maps_under_their_numbers():
    maps = np.random.default_rng(9).standard_normal((6, 5, 5)).astype(np.float32)
    maps[0, 0, 0] = math.inf
    figure = feature_figure(maps, [3, 1, 4, 15, 9, 2], "layer1 $x_")
    assert [axes.get_title() for axes in figure.axes] == [f"channel {n}" for n in (3, 1, 4, 15, 9, 2)] + ["", ""]
    assert figure.get_suptitle() == "layer1 $x_"
    shown = figure.axes[5].images[0].get_array()
    expected = (maps[5] - maps[5].min()) / (maps[5].max() - maps[5].min())
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    figure.savefig(io.BytesIO(), format="png")


def test_a_map_keeps_its_own_pixels_in_a_pdf():
    stream = io.BytesIO()
    feature_figure(np.random.default_rng(10).random((1, 13, 17)), [0], "conv").savefig(stream, format="pdf")
    assert b"/Width 17" in stream.getvalue()
    assert b"/Height 13" in stream.getvalue()


@pytest.mark.parametrize(("shape", "size"), [((3, 9, 9), (9, 9)), ((2, 112, 56), (37, 18)), ((1, 5, 400), (1, 40))])
def test_large_maps_are_averaged_over_squares(shape, size):
    maps = np.random.default_rng(11).random(shape)
    small = reduced(maps, 40)
    assert small.shape == (shape[0], *size)
    down, across = shape[1] // size[0], shape[2] // size[1]
    assert small[0, -1, -1] == pytest.approx(
        maps[0, (size[0] - 1) * down : size[0] * down, (size[1] - 1) * across : size[1] * across].mean()
    )


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


def test_a_sparkline_shows_every_bin_that_is_not_empty():
    root = ET.fromstring(sparkline_svg([1, 0, 1000, 500]))
    assert root.get("viewBox") == "0 0 4 24"
    assert root[0].get("d") == "M0.5 24v-1M2.5 24v-24M3.5 24v-12"
    many = sparkline_svg([1] * 10_000)
    assert len(many) < 1000
    assert ET.fromstring(many)[0].get("d").count("M") == 60
    assert ET.fromstring(sparkline_svg([0, 0]))[0].get("d") == ""


def test_squares_with_infinities_of_both_signs_are_averaged_to_nan():
    maps = np.ones((1, 4, 4), np.float32)
    maps[0, 0, :2] = np.inf, -np.inf
    means = reduced(maps, 2)
    assert np.isnan(means[0, 0, 0])
    assert (means.reshape(-1)[1:] == 1).all()
