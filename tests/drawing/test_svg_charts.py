"""Charts in SVG: as XML, with bars and labels that say what the counts are."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxscope.drawing.svg_charts import histogram_svg, sparkline_svg
from onnxscope.numerics.tensor_summary import describe

SVG = "{http://www.w3.org/2000/svg}"


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
    histogram = describe(np.random.default_rng(7).standard_normal(100_000) * 0.02).histogram
    caption = "mean 9.77e-05  std 0.02  min -0.0899  max 0.0789"
    svg = histogram_svg("features.0.weight", histogram.edges, histogram.counts, caption=caption)
    assert len(svg.encode()) <= 1500


def test_a_sparkline_shows_every_bin_that_is_not_empty():
    root = ET.fromstring(sparkline_svg([1, 0, 1000, 500]))
    assert root.get("viewBox") == "0 0 4 24"
    assert root[0].get("d") == "M0.5 24v-1M2.5 24v-24M3.5 24v-12"
    many = sparkline_svg([1] * 10_000)
    assert len(many) < 1000
    assert ET.fromstring(many)[0].get("d").count("M") == 60
    assert ET.fromstring(sparkline_svg([0, 0]))[0].get("d") == ""
