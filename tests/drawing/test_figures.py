"""Figures of matplotlib: they show the numbers that were given, and are written whatever their titles hold."""

from __future__ import annotations

import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from onnxscope.base.files import CHART
from onnxscope.drawing.figures import (
    Curve,
    curve_figure,
    feature_figure,
    figure_bytes,
    histogram_figure,
    histogram_png,
)
from onnxscope.errors import InputError
from onnxscope.numerics.tensor_summary import describe


def histogram_of(values):
    histogram = describe(np.asarray(values)).histogram
    return histogram.edges, histogram.counts


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


def test_maps_of_another_shape_are_an_error():
    with pytest.raises(InputError, match=r"at least one element: an array of shape \(4,\)$"):
        feature_figure(np.ones(4), [0], "fc")


def test_a_curve_has_its_points_and_the_chosen_one_a_ring():
    curves = [
        Curve("int8", ((0, 30.0), (1, 36.0)), ((0, 30.0), (1, 35.5)), chosen=1),
        Curve("int4", (), ((0, 12.0),)),
    ]
    figure = curve_figure(curves, "net", ("layers in float", "dB"), target=33.0)
    (axes,) = figure.axes
    drawn = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert [(0, 30.0), (1, 36.0)] in drawn
    assert [(0, 30.0), (1, 35.5)] in drawn
    assert [(1, 35.5)] in drawn
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["int8", "int4", "expected"]
    assert axes.get_ylim()[0] < 12 < 36 < axes.get_ylim()[1]


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_figure_is_the_same_bytes_twice_and_says_who_made_it(form):
    figures = [curve_figure([Curve("a", (), ((0, 1.0),))], "t", ("x", "y")) for _ in range(2)]
    one, other = (figure_bytes(figure, form, made_by="onnxscope") for figure in figures)
    assert one == other
    assert CHART.start.match(one)
    assert not CHART.start.match(figure_bytes(figures[0], form))
    if form == "svg":
        assert ElementTree.fromstring(one).tag.endswith("svg")
