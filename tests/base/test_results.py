"""Records in notebooks: a real kernel shows them all, and HTML of any model is small, safe and well-formed."""

from __future__ import annotations

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import onnx
import pytest
from nbclient import NotebookClient
from onnx import TensorProto, helper, numpy_helper

import onnxscope
from onnxscope.base.results import Record, facts, paragraph, picture, remarks, within
from onnxscope.converting.contract import ConversionReport

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
LIMIT = 200_000
HOSTILE = "<script>alert(1)</script>&\"'$x$\x1b[31m\u202e"

SETUP = """
import onnxscope
from onnxscope.converting.contract import ConversionReport

model, other, inputs = "digits.onnx", "digits_qdq.onnx", "digits.npz"
"""
CELLS = {
    "summary": "onnxscope.inspect(model)",
    "weights": "weights = onnxscope.weights(model); weights",
    "weight": "weights[0]",
    "features": "maps = onnxscope.features(model, inputs); maps",
    "feature": "maps[0]",
    "statistics": "stats = onnxscope.stats(model, inputs); stats",
    "tap": "stats[0]",
    "comparison": "comparison = onnxscope.diff(model, other, inputs); comparison",
    "difference": "comparison[0]",
    "equal": "onnxscope.diff(model, model, inputs)",
    "baseline": "baseline = onnxscope.snapshot(model, inputs); baseline",
    "passed": "onnxscope.check(model, baseline, inputs)",
    "failed": "onnxscope.check(other, baseline, inputs)",
    "conversion": 'ConversionReport("model.onnx", "torch 2.13.0", 20, 14, 2, ("a note",), "equal: 4 layers", True)',
}


class Markup(HTMLParser):
    """Reads markup and refuses what is not closed, or closed in the wrong order."""

    VOID = ("img", "br", "meta", "hr", "input", "link", "path")

    def __init__(self, markup):
        super().__init__()
        self.tags, self.attributes, self._open, self._texts = [], [], [], []
        self.feed(markup)
        self.close()
        assert self._open == []

    @property
    def text(self):
        return "".join(self._texts)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self._texts.append(data)


def checked(markup):
    """The markup as it was read, after everything that must hold for any record."""
    assert len(markup.encode()) < LIMIT
    read = Markup(markup)
    assert "script" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for name, value in read.attributes if name == "src")
    assert not [name for name, _ in read.attributes if name in ("href", "id")]
    assert markup.startswith('<div class="onnxscope-record"><style>')
    assert not re.search(r"url\(|@import|@font-face|https?://(?!www\.w3\.org/2000/svg)", markup)
    assert not [character for character in read.text if not character.isprintable() and character != "\n"]
    return read


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What each cell of a notebook shows as HTML, by a kernel of its own."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *CELLS.values())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "converters"), *sys.path]))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FIXTURES)}})
        client.execute()
    outputs = [cell.outputs for cell in notebook.cells[1:]]
    assert all(output.output_type == "execute_result" for each in outputs for output in each)
    return dict(zip(CELLS, [each[0].data for each in outputs], strict=True))


@pytest.fixture(scope="module")
def records():
    """The same records in this process."""
    scope: dict[str, object] = {}
    here = os.getcwd()
    os.chdir(FIXTURES)
    try:
        exec(SETUP, scope)
        made = {}
        for name, source in CELLS.items():
            *before, last = source.split("; ")
            exec("\n".join([*before, f"shown = {last}"]), scope)
            made[name] = scope["shown"]
        return made
    finally:
        os.chdir(here)


@pytest.mark.parametrize("name", CELLS)
def test_a_notebook_shows_each_record_as_html_and_as_text(shown, name):
    markup = shown[name]["text/html"]
    read = checked(markup)
    assert "table" in read.tags or name == "passed"
    assert len(shown[name]["text/plain"]) < 20_000


def test_pictures_and_histograms_stand_beside_the_numbers(shown, records):
    maps = checked(shown["features"]["text/html"])
    assert maps.tags.count("img") == sum(each.maps() is not None for each in records["features"])
    drawn = records["features"][0]
    assert ("alt", f"{len(drawn.channels)} channels of {drawn.tap.layer}") in maps.attributes
    weights = checked(shown["weights"]["text/html"])
    assert weights.tags.count("svg") == sum(each.summary.histogram is not None for each in records["weights"])
    assert checked(shown["weight"]["text/html"]).tags.count("svg") == 1
    assert checked(shown["feature"]["text/html"]).tags.count("img") == 1


def test_the_summary_says_what_the_model_is(shown, records):
    text = checked(shown["summary"]["text/html"]).text
    for _, line in records["summary"].facts():
        assert line in text


def test_a_comparison_says_its_verdict_and_which_layer_is_to_blame(shown, records):
    comparison = records["comparison"]
    read = checked(shown["comparison"]["text/html"])
    assert comparison.summary() in read.text
    assert ("class", "bad") in read.attributes
    assert "most is lost in" in read.text  # of a quantized partner all layers differ: they are ranked
    equal = checked(shown["equal"]["text/html"])
    assert ("class", "good") in equal.attributes
    assert "most is lost in" not in equal.text


def test_a_check_says_its_verdict_once(shown, records):
    assert checked(shown["passed"]["text/html"]).text.count("as the baseline says") == 1
    failed = checked(shown["failed"]["text/html"])
    assert failed.text.count(records["failed"].summary()) == 1
    assert ("class", "bad") in failed.attributes


@pytest.mark.parametrize("name", CELLS)
def test_every_record_is_ready_for_strict_json(records, name):
    text = json.dumps(records[name].to_dict(), allow_nan=False)
    assert json.loads(text) == json.loads(json.dumps(records[name].to_dict()))


@pytest.mark.parametrize("name", CELLS)
def test_every_record_becomes_a_frame_with_the_numbers_of_the_json(records, name):
    record = records[name]
    frame = record.to_frame()
    stored = record.to_dict()
    rows = [row for key in record.frame_keys for row in stored[key]] or ([] if record.frame_keys else [stored])
    assert len(frame) == len(rows)
    for place, row in enumerate(rows):
        for key, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert frame[key][place] == value  # the same float, not a shortened one
            elif isinstance(value, str):
                assert frame[key][place] == value


def test_records_in_a_record_get_columns_and_lists_per_bin_do_not(records):
    weights = records["weights"].to_frame()
    assert list(weights.columns[:4]) == ["name", "layer", "role", "initializer"]
    assert not [column for column in weights.columns if "." in column]
    assert weights["std"].dtype == np.float64
    statistics = records["statistics"].to_frame()
    assert statistics["quantiles.0.5"].dtype == np.float64
    comparison = records["comparison"].to_frame()
    assert {"a.layer", "b.layer", "relative_l2", "own_relative_l2"} <= set(comparison.columns)
    assert len(comparison) == len(records["comparison"].layers) + len(records["comparison"].outputs)
    assert records["conversion"].to_frame()["opset"][0] == 20


def test_without_pandas_the_error_says_what_to_install(records, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(onnxscope.MissingDependencyError, match=r"^pandas is not installed$") as caught:
        records["weights"].to_frame()
    assert caught.value.hint == "pip install pandas, or 'onnxscope[frames]'"


def hostile_model(layers, name):
    """A chain of convolutions whose names hold markup, on maps with two spatial axes."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number in range(layers):
        kernel = (rng.standard_normal((16, 16 if number else 1, 1, 1)) / 4).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"{number}.{name}.weight"))
        nodes.append(
            helper.make_node("Conv", [last, weights[-1].name], [f"{number}.{name}.out"], name=f"{number}.{name}")
        )
        last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 24, 24])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 16, 24, 24])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("layers", "name"), [(3, HOSTILE), (120, HOSTILE), (4, "<&'\"" * 25_000), (120, "&" * 300)])
def test_any_model_is_shown_small_safe_and_well_formed(layers, name):
    model = hostile_model(layers, name)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    kernel = numpy_helper.to_array(other.graph.initializer[-1]) * np.float32(1.5)
    other.graph.initializer[-1].CopyFrom(numpy_helper.from_array(kernel, other.graph.initializer[-1].name))
    values = np.random.default_rng(1).random((1, 1, 24, 24), dtype=np.float32)
    maps = onnxscope.features(model, values)
    weights = onnxscope.weights(model)
    baseline = onnxscope.snapshot(model)
    comparison = onnxscope.diff(model, other, values)
    for record in (
        *(onnxscope.inspect(model), maps, maps[0], weights, weights[0], onnxscope.stats(model, values)),
        *(comparison, comparison[-1], baseline, onnxscope.check(other, baseline)),
        ConversionReport(name, name, 20, 1, 1, (name,) * 9, name, False),
    ):
        read = checked(record._repr_html_())
        if layers > 100 and isinstance(record, type(weights)):
            left_out = re.search(r"… and (\d+) more rows: see to_dict\(\)", read.text)
            assert read.tags.count("tr") - 1 + int(left_out[1]) == layers


def test_hostile_names_do_not_break_figures(tmp_path):
    model = hostile_model(2, "$x_{$<script>" + "\x07" + "m" * 100_000)
    values = np.ones((1, 1, 24, 24), np.float32)
    figures = [
        onnxscope.features(model, values)[0].plot(),
        onnxscope.weights(model)[0].plot(),
        onnxscope.stats(model, values).plot(),
    ]
    for number, figure in enumerate(figures):
        for form in ("png", "pdf", "svg"):
            figure.savefig(tmp_path / f"{number}.{form}")
            assert (tmp_path / f"{number}.{form}").stat().st_size < 500_000


def test_a_feature_map_is_drawn_as_three_rows_of_four_under_the_name_of_its_layer(records):
    figure = records["feature"].plot()
    assert figure.get_suptitle() == records["feature"].tap.layer
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (3, 4)
    assert not any(axes.axison for axes in figure.axes)


def test_a_weight_is_drawn_as_fifty_bins_with_its_statistics_below(records, tmp_path):
    figure = records["weight"].plot()
    (axes,) = figure.axes
    assert len(axes.patches[0].get_data().values) == 50
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("value", "elements")
    overall = records["weight"].summary.overall
    assert f"mean {overall.mean:.5g}" in figure.get_supxlabel()
    figure.savefig(tmp_path / "w.pdf")
    assert b"/FontFile" in (tmp_path / "w.pdf").read_bytes() or b"/Type3" in (tmp_path / "w.pdf").read_bytes()


def test_markup_of_parts_is_escaped_and_bounded():
    assert paragraph("<b>" * 1000, "bad").startswith('<p class="bad">&lt;b&gt;')
    assert len(paragraph("<b>" * 1000)) < 6 * 600 + 20
    assert paragraph("a") == "<p>a</p>"
    assert len(remarks(["note"] * 9)) == 6
    assert remarks(["note"] * 9)[-1] == '<p class="muted">4 more remarks</p>'
    assert remarks(["note"] * 5)[-1] == '<p class="muted">note</p>'
    assert picture(b"\x89PNG", '"<x>').startswith('<img alt="&quot;&lt;x&gt;" src="data:image/png;base64,iVBORw==')
    table = facts("<t>", [("size", "<1>")])
    assert table == (
        "<table><caption>&lt;t&gt;</caption><tbody><tr><th>size</th><td>&lt;1&gt;</td></tr></tbody></table>"
    )
    taken = []
    assert within((taken.append(n) or "x" * n for n in (3, 4, 5, 6)), 8) == ["xxx", "xxxx"]
    assert taken == [3, 4, 5]


def test_the_style_is_scoped_and_knows_light_and_dark():
    style = (ROOT / "onnxscope" / "base" / "results.css").read_text(encoding="utf-8")
    rules = re.sub(r"/\*.*?\*/|@media[^{]*\{|\}\s*\}", "", style, flags=re.DOTALL)
    selectors = [selector for rule in re.findall(r"([^{}]+)\{", rules) for selector in re.split(r",(?![^(]*\))", rule)]
    assert all(".onnxscope-record" in selector for selector in selectors)
    assert "<" not in style
    for token in ("#1f2937", "#5b6676", "#d7dce3", "#15181d", "prefers-color-scheme:dark", "vscode-dark", "jp-theme"):
        assert token in style


def test_every_public_record_with_a_table_is_a_record():
    for name in onnxscope.__all__:
        value = getattr(onnxscope, name)
        if isinstance(value, type) and (hasattr(value, "table") or hasattr(value, "plot")):
            assert issubclass(value, Record), name
