"""The page says what the model computes, the same bytes each time, and nothing in a name does harm."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import attention_models
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from pages import LIKE_SELECTORS, Parsed, called, network
from PIL import Image
from planting import HALF_INPUT, overflowing_half, scaled

from onnxscope import explain, report, stats
from onnxscope.cli.main import run
from onnxscope.comparison.compare_models import diff
from onnxscope.errors import InputError, ProfileError
from onnxscope.model.provenance import Provenance, write_provenance
from onnxscope.reporting.content import layer_views

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, SAMPLES = FIXTURES / "digits.onnx", FIXTURES / "digits.npz"
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "\x1b[31mred\x1b]0;title\x07",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }}{% raw %}",
    "../../etc/passwd",
    "n" * 100_000,
]


@pytest.fixture(scope="module")
def digits():
    return report(DIGITS, SAMPLES)


def rows(html):
    """The cells of the table of layers, by the layer's name."""
    body = html.split('<table id="table">')[1].split("</table>")[0]
    found = {}
    for row in re.findall(r"<tr data-name=.*?</tr>", body, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        texts = [re.sub(r"<[^>]+>", "", cell).strip().replace("−", "-") for cell in cells]
        found[texts[0]] = texts
    return found


def test_the_table_shows_what_an_independent_evaluator_computes(digits):
    images = np.load(SAMPLES)
    model = onnx.load(DIGITS)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    readers = {name: node for node in model.graph.node for name in node.input}
    values = {}
    for node in convolutions:
        value = node.output[0]
        while value in readers and readers[value].op_type in ("BatchNormalization", "Relu"):
            value = readers[value].output[0]
        values[node.output[0]] = value
    for value in values.values():
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    held = ReferenceEvaluator(model).run([*values.values()], {name: images[name] for name in images.files})
    found = [row for row in rows(digits.html).values() if row[1] == "Conv"]
    assert len(found) == len(convolutions) > 2
    for row, array in zip(found, held, strict=True):
        wide = array.astype(np.float64)
        for text, expected in zip(row[5:9], (wide.mean(), wide.std(ddof=1), wide.min(), wide.max()), strict=True):
            assert float(text) == pytest.approx(expected, rel=2e-3, abs=1e-6)
        assert float(row[9].removesuffix(" %")) == pytest.approx(100 * (wide == 0).mean(), abs=0.3)


def test_it_is_one_page_that_its_own_policy_allows(digits):
    page = Parsed(digits.html)
    (policy,) = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = [data for name, data in page.texts if name == tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert not page.named("link")
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.named("img"))
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"
    ]
    assert all(link["href"].startswith("#") for link in page.named("a"))


def test_the_same_input_gives_the_same_bytes(digits):
    assert report(DIGITS, SAMPLES).html == digits.html


def test_every_layer_has_a_row_a_card_and_its_weights(digits):
    page = Parsed(digits.html)
    cards = [
        attributes["id"]
        for tag, attributes in page.elements
        if tag == "section" and "card" in attributes.get("class", "")
    ]
    table = rows(digits.html)
    assert len(cards) == len(table) == digits.page.layers
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"][1:] for link in page.named("a")} <= targets
    for row in digits.content.weights:
        assert row.parameter.name in page.text


def test_without_inputs_it_shows_weights_and_costs_alone():
    made = report(DIGITS)
    assert rows(made.html)["stem.0" if "stem.0" in rows(made.html) else next(iter(rows(made.html)))][1] == "Conv"
    assert "What it was fed" not in made.html
    assert made.to_dict()["input"] is None
    assert "Histogram of weight" in made.html


def test_another_model_stands_beside_it_and_the_guilty_layer_is_named(tmp_path):
    name = next(tensor.name for tensor in onnx.load(DIGITS).graph.initializer if len(tensor.dims) == 4)
    onnx.save(scaled(DIGITS, name, 1.5), tmp_path / "other.onnx")
    made = report(DIGITS, SAMPLES, against=tmp_path / "other.onnx")
    verdicts = {row[0]: row[2] for row in rows(made.html).values() if row[1] == "Conv"}
    layer = name.removesuffix(".weight")
    assert verdicts.pop(layer) == "own error"
    assert set(verdicts.values()) == {"inherited"}
    text = Parsed(made.html).text
    assert f"the difference comes from {layer}" in text
    assert text.count("difference, at most") >= 3
    first = made.content.attention[0]
    assert (first.kind, first.weight, first.layer) == ("own_error", "bad", layer)
    assert re.fullmatch(r"has an error of its own against other\.onnx: relative 0\.\d+, the floor .+", first.message)
    stored = report(DIGITS, against=tmp_path / "other.onnx").content.attention[0]
    assert (stored.kind, stored.layer) == ("changed_weights", layer)
    assert stored.message == "holds other weights than other.onnx"


def test_the_page_says_why_another_model_differs(tmp_path):
    name = next(tensor.name for tensor in onnx.load(DIGITS).graph.initializer if len(tensor.dims) == 4)
    onnx.save(scaled(DIGITS, name, 1.5), tmp_path / "other.onnx")
    made = report(DIGITS, SAMPLES, against=tmp_path / "other.onnx", explain=True)
    text = " ".join(Parsed(made.html).text.split())
    assert "Why it differs, where B is other.onnx" in text
    assert "has its W multiplied by 1.5; with A's it is equal" in text
    assert "has its <code>W</code> multiplied by 1.5" in made.html
    carried = explain(DIGITS, tmp_path / "other.onnx", SAMPLES).causes.text
    assert carried.startswith("1 of ")
    assert f"Of the outputs: {carried}" in text
    layer = made.content.reasons[0].a.layer
    part = report(DIGITS, SAMPLES, against=tmp_path / "other.onnx", explain=True, select=layer)
    assert part.content.causes is None
    with pytest.raises(InputError, match="nothing is compared on an input"):
        report(DIGITS, against=tmp_path / "other.onnx", explain=True)


def test_backticks_of_a_sentence_are_code_and_harm_nothing():
    image = np.ones((1, 3, 6, 6), np.float32)
    names = ["`<b>one</b>`", "<b>two"]
    made = report(network(names), image, against=network(names, seed=4), explain=True)
    assert "<code>&lt;b&gt;one&lt;/b&gt;</code> (" in made.html
    assert "<b>one" not in made.html
    assert "<b>two" not in made.html
    assert "&lt;b&gt;two" in made.html


def test_a_dataset_s_profile_takes_the_place_of_the_input_s_statistics(tmp_path):
    statistics = stats(DIGITS, SAMPLES, limit=16)
    statistics.profile.save(tmp_path / "p.json")
    made = report(DIGITS, profile=tmp_path / "p.json")
    assert "16 samples" in Parsed(made.html).text
    first = statistics[0]
    assert float(rows(made.html)[first.layer][5]) == pytest.approx(first.overall.mean, rel=1e-3)


def test_the_profile_of_another_model_is_refused():
    statistics = stats(FIXTURES / "digits_deployed.onnx", SAMPLES, limit=2)
    with pytest.raises(
        ProfileError, match=r"the profile is of another model, digits_deployed.onnx: digits.onnx"
    ) as caught:
        report(DIGITS, profile=statistics.profile)
    assert "onnxscope stats" in caught.value.hint


def test_a_large_page_says_what_it_leaves_out(tmp_path):
    model = network([f"block{n // 10}.layer{n}" for n in range(60)], side=32)
    inputs = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    whole = report(model, inputs)
    assert whole.page.left_out == ()
    size = len(whole.html.encode())
    smaller = report(model, inputs, max_bytes=size // 2)
    assert len(smaller.html.encode()) <= size // 2
    assert "feature maps of" in smaller.page.left_out[0]
    assert "The feature maps are left out" in smaller.html
    assert len(rows(smaller.html)) == 60
    smallest = report(model, inputs, max_bytes=150_000)
    assert len(smallest.html.encode()) <= 150_000
    assert re.match(r"the page shows the first \d+ of 60 layers", smallest.page.left_out[0])


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_do_no_harm(name, tmp_path, capsys):
    onnx.save(network([name, f"{name} again"]), tmp_path / "m.onnx")
    path = tmp_path / "m.html"
    code = run(
        ["report", str(tmp_path / "m.onnx"), "-i", "random", "-o", str(path), "--against", str(tmp_path / "m.onnx")]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "\x1b" not in captured.out + captured.err
    html = path.read_text(encoding="utf-8")
    page = Parsed(html)
    assert len(page.named("script")) == 1
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert all(link["href"].startswith("#") for link in page.named("a"))
    assert all(image["src"].startswith("data:image/png") for image in page.named("img"))
    assert not set("\x1b\x07") & set(html)
    assert len(html) < 600_000
    assert "49" not in page.text.split("Layers")[0] or "{{ 7" in page.text


def test_a_wish_that_cannot_be_met_is_an_error(tmp_path):
    with pytest.raises(InputError, match="EigenCAM knows no classes"):
        report(DIGITS, SAMPLES, target=3)


def test_overlays_for_the_graph_s_viewer_hold_the_same_numbers(tmp_path, capsys):
    arguments = ["report", str(DIGITS), "-i", str(SAMPLES), "-o", str(tmp_path / "r.html"), "--node-data"]
    assert run([*arguments, str(tmp_path / "overlays")]) == 0
    assert re.search(r"\d+ overlays for Model Explorer are in ", capsys.readouterr().err)
    (graph,) = json.loads((tmp_path / "overlays" / "onnxscope_activation_mean.json").read_text()).values()
    shown = sorted(each["value"] for each in graph["results"].values())
    expected = sorted(tap.overall.mean for tap in stats(DIGITS, SAMPLES))
    assert shown == pytest.approx(expected)


def test_the_command_shows_what_deserves_attention(tmp_path, capsys):
    path = tmp_path / "r.html"
    assert run(["report", str(DIGITS), "-i", str(SAMPLES), "-o", str(path), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert '"schema": "onnxscope.report/1"' in captured.out
    assert f"the page is in {path}" in captured.err
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run(["report", str(DIGITS), "-o", str(tmp_path / "missing" / "r.html")]) == 2
    assert "cannot write (No such file or directory)" in capsys.readouterr().err


def test_the_command_says_the_verdict_of_a_comparison(tmp_path, capsys):
    onnx.save(network(["first", "second"]), tmp_path / "a.onnx")
    onnx.save(network(["first", "second"]), tmp_path / "same.onnx")
    model = network(["first", "second"])
    changed = onnx.numpy_helper.to_array(model.graph.initializer[0]) + np.float32(1)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(changed, model.graph.initializer[0].name))
    onnx.save(model, tmp_path / "other.onnx")
    for name, verdict in (("same", r"equal: \d+ layers"), ("other", "the first layer that diverges is first")):
        page = str(tmp_path / f"{name}.html")
        against = str(tmp_path / f"{name}.onnx")
        assert run(["report", str(tmp_path / "a.onnx"), "-i", "random", "-o", page, "--against", against]) == 0
        assert re.search(rf"against {name}\.onnx: .*{verdict}", capsys.readouterr().err)


def test_arrays_of_many_samples_are_held_for_the_first_six_alone():
    model = network(["first", "second"])
    inputs = np.random.default_rng(0).normal(size=(40, 3, 6, 6)).astype(np.float32)
    made = report(model, inputs)
    assert {tap.data.shape[0] for tap in made.content.maps} == {6}
    assert made.content.statistics.profile.samples == 40
    assert len(made.content.sights) == 6
    text = Parsed(made.html).text
    assert "pictures show the first 6 of 40 samples, statistics all of them" in text
    assert "of the input shown; the numbers are of 40 samples" in text
    again = report(model, inputs[:6])
    assert np.array_equal(again.content.maps[1].data, made.content.maps[1].data)
    assert "of the input shown" not in again.html


def test_a_fixed_batch_is_cut_where_a_run_ends(tmp_path):
    model = network(["first"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    np.savez(tmp_path / "many.npz", image=np.zeros((20, 3, 6, 6), np.float32))
    made = report(model, tmp_path / "many.npz")
    assert made.content.maps[0].data.shape[0] == 8
    assert len(made.content.sights) == 6


BRANCHES = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 4, 4] x, bool c) => (float[N, 2, M, K] y)
    <float[2, 3, 1, 1] in_then = {1, 1, 1, 1, 1, 1}, float[2, 3, 1, 1] in_else = {2, 2, 2, 2, 2, 2}> {
        y = If (c) <
            then_branch = t () => (float[N, 2, M, K] a) { a = Conv(x, in_then) },
            else_branch = e () => (float[N, 2, M, K] b) { b = Conv(x, in_else) }
        >
    }"""


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_shows_its_own_numbers_and_the_other_one_none(taken):
    model = onnx.parser.parse_model(BRANCHES)
    for graph in (attribute.g for attribute in model.graph.node[0].attribute):
        graph.node[0].name = "/branch/Conv"
    inputs = {"x": np.ones((1, 3, 4, 4), np.float32), "c": np.array(taken)}
    made = report(model, inputs, against=model)
    cards = {}
    for card in made.html.split('<section class="card"')[1:]:
        cards[re.search(r'value <code title="([^"]*)"', card)[1]] = card
    assert cards.keys() == {"a", "b"}
    ran, idle = (cards["a"], cards["b"]) if taken else (cards["b"], cards["a"])
    assert f"<dt>mean</dt><dd>{3 if taken else 6}</dd>" in ran
    assert "Activation" not in idle
    assert 'second model: <span class="v-equal">equal' in ran
    assert 'second model: <span class="v-not-measured">not measured' in idle
    for value, weight in (("a", "in_then"), ("b", "in_else")):
        assert re.findall(r'<h4 title="([^"]*)"', cards[value]) == [weight]
    assert not [note for note in made.content.notes if "side by side" in note]


def test_a_layer_called_twice_shows_each_call_and_its_weights_in_both():
    model = network(["first", "second"], channels=3)
    first, second = (node for node in model.graph.node if node.op_type == "Conv")
    second.input[1] = first.input[1]
    first.name, second.name = "/first/Conv", "/first/Conv_1"
    del model.graph.initializer[1]
    made = report(model, np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32), at="pre")
    values = {tap.tap.name: tap.statistics["mean"] for tap in made.content.maps}
    cards = made.html.split('<section class="card"')[1:]
    assert len(cards) == len(values) == 2
    for card, (name, mean) in zip(cards, values.items(), strict=True):
        assert f'value <code title="{name}"' in card
        assert f"<dd>{mean:.4g}</dd>".replace("-", "−") in card
        assert "weight of first" in card


def oriented(names, scale=1.0):
    """The chain of `network`, fed and giving N, H, W, C."""
    model = network(names)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(scale), tensor.name))
    graph = model.graph
    last = graph.output[0].name
    for node in graph.node:
        node.input[:] = ["turned" if name == "image" else name for name in node.input]
    graph.node.insert(0, onnx.helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]))
    graph.node.append(onnx.helper.make_node("Transpose", [last], ["out"], perm=[0, 2, 3, 1]))
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", 1, ["N", 6, 6, 3]))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("out", 1, ["N", 6, 6, 8]))
    onnx.checker.check_model(model)
    return model


def test_a_model_of_the_other_layout_stands_beside_it():
    inputs = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    made = report(network(["first", "second"]), inputs, against=oriented(["first", "second"], 1.5))
    assert len(made.content.others) == 2
    for mine, theirs in made.content.others.values():
        assert mine.data.shape == theirs.data.shape
    first = next(iter(made.content.others.values()))
    assert np.allclose(first[1].data, 1.5 * first[0].data, atol=1e-5)
    assert Parsed(made.html).text.count("difference, at most") == 4


def test_the_second_model_is_shown_what_the_first_one_saw():
    models = []
    for preset in ("imagenet", "unit"):
        model = network(["first"])
        provenance = Provenance(framework="torch", version="", mode="faithful", source="m", preprocess=preset)
        onnx.helper.set_model_props(model, write_provenance(provenance))
        models.append(model)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    made = report(models[0], image, against=models[1])
    assert "the models record two presets, imagenet and unit: the first is used" in made.content.notes
    (pair,) = made.content.others.values()
    assert np.array_equal(pair[0].data, pair[1].data)


def test_layers_that_nothing_was_run_through_are_not_called_equal():
    made = report(network(["first", "second"]), against=network(["first", "second"], seed=4))
    assert {row[2] for row in rows(made.html).values()} == {"not measured"}
    assert "Nothing stands out" not in made.html


def test_chosen_layers_leave_the_cost_of_the_model_alone():
    model = network(["first", "second"])
    whole = Parsed(report(model).html).text
    chosen = Parsed(report(model, select="second").html).text
    (cost,) = re.findall(r"Multiply-adds\s+(\S+ k per sample)", whole)
    assert cost == f"{(3 + 8) * 8 * 9 * 36 / 1000:.3g} k per sample"
    assert cost in chosen


def test_the_costs_are_those_of_the_sizes_that_were_fed():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[batch, seq, 4] x) => (float[batch, seq, seq] y)
        <float[4, 4] w = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}> {
        h = MatMul (x, w)  t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (h, t) }""")
    fed = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)
    assert f"{10 * 16 + 10 * 10 * 4} per sample (seq 10)" in Parsed(report(model, fed).html).text
    assert "known for 0 of 2 layers" in Parsed(report(model).html).text


def test_layers_that_a_page_leaves_out_are_not_linked():
    model = network([f"layer{n}" for n in range(60)])
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        values[2] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    made = report(model, max_bytes=120_000)
    assert len(made.html.encode()) <= 120_000
    page = Parsed(made.html)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"][1:] for link in page.named("a")} <= targets
    assert "layer59" in page.text


def test_a_small_page_rather_loses_photographs_than_layers():
    inputs = np.random.default_rng(0).normal(size=(6, 3, 64, 64)).astype(np.float32)
    made = report(network(["first", "second"], side=64), inputs, max_bytes=60_000)
    assert len(made.html.encode()) <= 60_000
    assert made.page.layers == 2
    assert made.page.left_out[0] == "the pictures of 6 of 6 inputs are left out: the page would be too large"


def test_infinities_of_both_signs_make_no_warning():
    model = network(["first"], side=300)
    inputs = np.zeros((1, 3, 300, 300), np.float32)
    inputs[0, :, ::7, ::5], inputs[0, :, ::7, 1::5] = np.inf, -np.inf
    made = report(model, inputs, select="value:image")
    assert "infinite" in Parsed(made.html).text


def test_infinities_of_half_precision_deserve_attention():
    made = report(overflowing_half(), HALF_INPUT)
    kinds = {"non_finite", "does_not_fit"}
    assert {(each.kind, each.layer) for each in made.content.attention} == {(kind, "Conv_1") for kind in kinds}
    assert [float(row[8]) <= 65504 for row in rows(made.html).values()] == [True] * 3


def test_long_names_are_cut_in_every_sentence():
    name = "n" * 100_000
    models = [network([name, f"{name} again"], seed=seed) for seed in (3, 4)]
    for tensor in models[0].graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        values[:, 0, 0, 0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    made = report(models[0], np.ones((2, 3, 6, 6), np.float32), against=models[1], cam_layer=None)
    assert "non_finite_weight" in {each.kind for each in made.content.attention}
    assert max(map(len, re.findall("n+", made.html))) <= 2000


def test_sheets_of_very_many_channels_are_said_to_be_left_out():
    made = report(network(["first"], channels=4100), np.ones((1, 3, 6, 6), np.float32))
    assert made.page.left_out == ("sheets of all channels of 1 layer are left out: more than 4,096 each",)
    assert made.table().title == "chain: 1 layer, 1 remark"
    assert ">1 layer</p>" in made.html


@pytest.mark.parametrize("name", LIKE_SELECTORS)
def test_values_called_like_selectors_stand_side_by_side(name):
    model = called(name)
    made = report(model, np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32), against=model)
    assert not [note for note in made.content.notes if "side by side" in note]
    assert set(made.content.others) == {name, "a0"}
    for value, (mine, theirs) in made.content.others.items():
        assert mine.tap.value == theirs.tap.value == value
        assert np.array_equal(mine.data, theirs.data)


@pytest.mark.parametrize("with_data", [True, False])
def test_a_page_compares_models_in_the_form_in_which_diff_does(with_data):
    written = "e = Erf(s) f = Add(e, one) g = Mul(c, f) a = Mul(g, part)"
    models = []
    for nodes in (f"s = Div(c, root) {written}", "a = Gelu(c)"):
        model = onnx.parser.parse_model(f"""
            <ir_version: 9, opset_import: ["": 20]> g (float[n, 3, 6, 6] x) => (float[n, 4, 4, 4] y)
            <float one = {{1.0}}, float part = {{0.5}}, float root = {{1.4142135381698608}}>
            {{ c = Conv(x, w) {nodes} y = Conv(a, v) }}""")
        for name, shape in (("w", (5, 3, 3, 3)), ("v", (4, 5, 1, 1))):
            values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        models.append(model)
    inputs = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32) if with_data else None
    for first, second in (models, models[::-1]):
        assert diff(first, second, inputs).equal
        made = report(first, inputs, against=second)
        assert made.content.comparison is not None
        assert made.content.comparison.equal
        if with_data:
            assert all(row.entire.max_abs < 1e-5 for row in made.content.comparison.layers)
    changed = next(tensor for tensor in first.graph.initializer if tensor.name == "v")
    changed.raw_data = np.ones((4, 5, 1, 1), np.float32).tobytes()
    assert not report(first, inputs, against=second).content.comparison.equal


def test_what_one_node_of_the_other_model_stands_for_has_a_card_of_its_own():
    made = report(attention_models.unfused(), attention_models.FED, against=attention_models.fused())
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", made.html))
    assert "compared at r against a" in text
    assert text.count("inside Attention Attention_0") >= 3  # query, key and value
    (view,) = (view for view in layer_views(made.content) if view.value == "r")
    assert (view.op_type, view.difference.verdict) == ("Attention", "equal")
