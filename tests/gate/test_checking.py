"""Baselines and checks: a re-export is accepted, every fault is refused, and the file can be reviewed."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pages import LIKE_SELECTORS, called
from placed_models import STEP_INPUT, branch_input, branch_weights, branching, other_order, unrolled
from planting import HALF_INPUT, KINDS, Plot, overflowing_half, possible, raw_values

from onnxscope import BaselineError, InputError, Settings, check, diff, snapshot, stats
from onnxscope.gate.baseline import Baseline

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, QDQ, INPUT = (str(FIXTURES / name) for name in ("digits.onnx", "digits_qdq.onnx", "digits.npz"))
LAYERS = ["stem.0", "block.0", "down.0", "classifier.2"]


@pytest.fixture(scope="module")
def baseline():
    return snapshot(DIGITS, INPUT)


def renamed_and_reordered(path):
    """The same model with its anonymous values renamed and its nodes in another valid order."""
    model = onnx.load(path)
    kept = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name and name not in kept:
                    names[place] = f"anonymous_{name}"
    del model.graph.value_info[:]
    nodes = list(model.graph.node)
    random.Random(3).shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    tensors = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return model


def test_a_baseline_can_be_reviewed_and_read_back(baseline, tmp_path):
    path = tmp_path / "b.json"
    baseline.save(path)
    assert Baseline.load(path) == baseline
    lines = path.read_text().splitlines()
    assert path.stat().st_size < 10_000
    for name in LAYERS:
        (line,) = (line for line in lines if f'"layer": "{name}", "call"' in line)
        assert json.loads(line.strip().rstrip(","))["noise"] > 0
    assert "4 layers, 14 weights: 64 samples" in repr(baseline)


def test_its_numbers_are_those_of_numpy(baseline):
    import onnxruntime

    model = onnx.load(DIGITS)
    session = onnxruntime.InferenceSession(DIGITS)
    (images,) = (np.load(INPUT)[name] for name in np.load(INPUT).files if np.load(INPUT)[name].ndim == 4)
    scores = session.run(None, {model.graph.input[0].name: images})[0].astype(np.float64)
    row = baseline.layers[-1]
    unit = scores.std(ddof=1)
    for key, number in (("mean", scores.mean()), ("std", unit), ("min", scores.min()), ("max", scores.max())):
        assert row[key] == pytest.approx(number, abs=2e-6 * unit)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for weight in baseline.weights:
        values = stored[weight["name"]].astype(np.float64)
        assert weight["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert weight["max"] == pytest.approx(values.max(), rel=1e-6)


def test_infinities_of_half_precision_stand_in_it():
    model = overflowing_half()
    rows = snapshot(model, HALF_INPUT).layers
    raw = raw_values(model, "aby", {"x": HALF_INPUT})
    assert [row["inf_count"] for row in rows] == [np.isinf(values).sum() for values in raw]
    assert rows[1]["inf_count"] > 5000
    for row, values in zip(rows, raw, strict=True):
        finite = values[np.isfinite(values)]
        assert (row["min"], row["max"]) == (finite.min(), finite.max())


def test_another_order_of_nodes_and_other_anonymous_names_change_nothing(baseline, tmp_path):
    again = snapshot(renamed_and_reordered(DIGITS), INPUT)
    assert again.to_dict() == baseline.to_dict()


def test_a_re_export_is_accepted(baseline):
    result = check(renamed_and_reordered(DIGITS), baseline, INPUT, threads=1)
    assert result.ok
    assert result.summary() == "as the baseline says: 4 layers, 14 weights"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_planted_fault_is_refused(baseline, kind):
    plot, rng = Plot(DIGITS), np.random.default_rng(4)
    layer = [layer for layer in plot.layers if possible(kind, layer)][-1]
    kind(plot, layer, rng)
    result = check(plot.model, baseline, INPUT)
    assert not result.ok
    found = next(finding.layer for finding in result.findings if finding.layer)
    assert found == layer.name
    assert not check(plot.model, snapshot(DIGITS)).ok


def test_findings_say_how_much_and_what_it_means(baseline):
    model = onnx.load(DIGITS)
    tensor = next(each for each in model.graph.initializer if each.name == "block.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    findings = check(model, baseline, INPUT).findings
    assert findings[0].layer == "block.0"
    assert "times the tolerance; its weights have changed" in findings[0].message
    assert any(each.layer == "down.0" and "probably follows from block.0" in each.message for each in findings)
    assert not any(each.layer == "stem.0" for each in findings)
    lines = check(model, baseline, INPUT).table().csv().splitlines()[1:]
    for line, finding in zip(lines, findings, strict=True):
        if isinstance(finding.found, float):  # every digit, and no quote before a minus
            assert f",{finding.expected!r},{finding.found!r}," in line
    assert any(isinstance(finding.found, float) and finding.found < 0 for finding in findings)
    weight = next(each for each in findings if each.statistic == "weight block.0.weight")
    assert "std 0.068815 became 0.075696" in weight.message


def test_weights_in_another_order_are_told_before_what_follows_from_them(baseline):
    model = onnx.load(DIGITS)
    tensor = next(each for each in model.graph.initializer if each.name == "stem.0.weight")
    values = numpy_helper.to_array(tensor)[::-1]  # the layer's own statistics stay as they are
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    bias = next(each for each in model.graph.initializer if each.name == "stem.0.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[::-1].copy(), bias.name))
    findings = check(model, baseline, INPUT).findings
    assert [(each.layer, each.statistic) for each in findings[:2]] == [
        ("stem.0", "weight stem.0.bias"),
        ("stem.0", "weight stem.0.weight"),
    ]
    assert findings[0].message == "the same statistics: single numbers, or their order"
    assert findings[2].layer == "block.0"
    assert findings[2].message.endswith("probably follows from stem.0")


def test_moved_padding_is_told_by_its_attribute(baseline):
    model = onnx.load(DIGITS)
    conv = [node for node in model.graph.node if node.op_type == "Conv"][1]
    next(each for each in conv.attribute if each.name == "pads").ints[:] = [2, 2, 0, 0]
    first, *others = check(model, baseline, INPUT).findings
    assert (first.layer, first.statistic) == ("block.0", "attributes")
    assert others[0].message.endswith("its structure has changed")


def test_settings_forgive(baseline):
    model = onnx.load(DIGITS)
    tensor = next(each for each in model.graph.initializer if each.name == "classifier.2.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1e-3), tensor.name))
    result = check(model, baseline, INPUT)
    assert {finding.layer for finding in result.findings} == {"classifier.2"}
    loose = check(model, baseline, INPUT, settings=Settings(tolerances={"classifier.*": 1e-2}))
    assert [finding.statistic for finding in loose.findings] == ["weight classifier.2.bias"]
    assert check(model, baseline, INPUT, settings=Settings(ignore=("classifier.2",))).ok


def test_other_inputs_are_no_check(baseline, tmp_path):
    images = next(np.load(INPUT)[name] for name in np.load(INPUT).files if np.load(INPUT)[name].ndim == 4)
    with pytest.raises(InputError, match="these inputs are not those of the baseline: ") as caught:
        check(DIGITS, baseline, images[:5])
    assert "samples 64 became 5" in str(caught.value)
    assert "--update" in caught.value.hint
    with pytest.raises(InputError, match="the same names with other numbers in them"):
        check(DIGITS, replace(baseline, input={**baseline.input, "files": []}), images + 1)


def test_without_inputs_structure_and_weights_are_checked(baseline):
    result = check(DIGITS, baseline)
    assert result.ok
    assert "nothing was run" in result.notes[0]
    assert not check(QDQ, baseline).ok
    assert "activations are not checked" in check(DIGITS, snapshot(DIGITS), INPUT).notes[0]


def test_an_update_keeps_the_lines_of_what_has_not_changed(baseline):
    moved = [dict(row) for row in baseline.layers]
    moved[0]["mean"] += 1e-8
    old = replace(baseline, layers=tuple(moved))
    model = onnx.load(DIGITS)
    tensor = next(each for each in model.graph.initializer if each.name == "classifier.2.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
    merged = check(model, old, INPUT).merged()
    assert merged.layers[:3] == old.layers[:3]
    assert merged.layers[3] != old.layers[3]
    assert check(model, merged, INPUT).ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(schema="onnxscope.baseline/0"), "the schema 'onnxscope.baseline/0' is not"),
        (lambda record: record.pop("schema"), "no schema in it"),
        (lambda record: record.pop("layers"), "the baseline has no layers"),
        (lambda record: record["layers"][1].pop("mean"), r"the baseline has no mean in layers\[1\]"),
        (lambda record: record["layers"][1].update(call="x"), r"the baseline has no call in layers\[1\]"),
        (lambda record: record["weights"].append(3), "the baseline has no list of objects 'weights'"),
        (lambda record: record["layers"][0].update(shape=["x"]), r"a shape that is no shape in layers\[0\]"),
        (lambda record: record.update(input={}), "an input without its digest"),
        (lambda record: record.update(model={}), "the baseline has no list 'inputs' in model"),
        (lambda record: record["model"].update(outputs=[None]), "no list of objects 'outputs'"),
        (lambda record: record["model"]["inputs"][0].pop("dtype"), r"the baseline has no dtype in inputs\[0\]"),
        (lambda record: record["model"]["outputs"][0].update(shape=[[]]), r"that is no shape in outputs\[0\]"),
    ],
)
def test_a_damaged_file_is_an_error(baseline, tmp_path, change, message):
    record = json.loads(json.dumps(baseline.to_dict()))
    change(record)
    (tmp_path / "b.json").write_text(json.dumps(record))
    with pytest.raises(BaselineError, match=message):
        Baseline.load(tmp_path / "b.json")


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"schema": 3}', '{"schema": NaN}', "[" * 100_000])
def test_a_file_that_is_no_baseline_is_an_error(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BaselineError, match=r"b\.json"):
        Baseline.load(tmp_path / "b.json")
    with pytest.raises(BaselineError, match="no such file"):
        Baseline.load(tmp_path / "missing.json")


@pytest.mark.parametrize("name", LIKE_SELECTORS)
def test_a_value_called_like_a_selector_has_its_numbers(name):
    model = called(name)
    image = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    taken = snapshot(model, image)
    first, second = (numpy_helper.to_array(tensor)[:, :, 0, 0].astype(np.float64) for tensor in model.graph.initializer)
    held = np.einsum("oc,nchw->nohw", first, image)
    expected = {"first": held, "second": np.einsum("oc,nchw->nohw", second, held)}
    rows = {row["layer"]: row for row in taken.layers}
    for layer, values in expected.items():
        assert rows[layer]["shape"] == [None, 8, 6, 6]
        assert rows[layer]["mean"] == pytest.approx(values.mean(), rel=1e-4)
        assert rows[layer]["max"] == pytest.approx(values.max(), rel=1e-4)


def test_a_baseline_says_of_its_input_what_other_results_say(baseline):
    record = diff(DIGITS, DIGITS, INPUT).to_dict()["input"]
    assert list(baseline.input.items())[:-1] == list(record.items())
    assert re.fullmatch(r"[0-9a-f]{64}", baseline.input["content"])


@pytest.mark.parametrize("inputs", [None, STEP_INPUT], ids=["without data", "with data"])
@pytest.mark.parametrize("names", [True, False])
def test_time_steps_in_another_order_are_no_change_and_one_that_changed_is_named(names, inputs, tmp_path):
    baseline = snapshot(unrolled(names=names), inputs)
    order = (3, 1, 5, 0, 2, 4)
    again = snapshot(unrolled(order, names=names), inputs)
    for taken, path in ((baseline, "a.json"), (again, "b.json")):
        taken.save(tmp_path / path)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert check(unrolled(order, names=names), Baseline.load(tmp_path / "a.json"), inputs).ok
    changed = check(unrolled(order, names=names, changed=2), baseline, inputs)
    assert {finding.statistic for finding in changed.findings} >= {"weight odd"}
    if inputs is not None:
        moved = [finding for finding in changed.findings if finding.statistic == "mean" and finding.layer != "y"]
        assert len(moved) == 1


@pytest.mark.parametrize("way", [None, (True, True), (False, False)])
@pytest.mark.parametrize("named", [True, False])
def test_branches_in_the_other_order_are_no_change_and_exchanged_ones_are(named, way):
    inputs = None if way is None else branch_input(*way)
    baseline = snapshot(branching(named=named), inputs)
    assert check(other_order(branching(named=named)), baseline, inputs).ok
    for exchanged in ({"wd": "we", "we": "wd"}, {"wa": "wc", "wc": "wa"}):
        other = other_order(branching(named=named, **branch_weights(**exchanged)))
        findings = check(other, baseline, inputs).findings
        assert len([finding for finding in findings if finding.statistic.startswith("weight ")]) == 2
        assert not any("the same weights" in finding.message for finding in findings)


def test_inputs_are_held_to_a_profile_of_earlier_data(baseline):
    pixels = np.load(INPUT)["digits"]
    earlier = stats(DIGITS, pixels, select="op:Relu").profile
    assert check(DIGITS, baseline, pixels[::-1].copy(), profile=earlier).ok
    found = check(DIGITS, baseline, 1 - pixels, profile=earlier, threshold=0.5)
    assert found.verdict == "differs"
    assert {finding.statistic for finding in found.findings} == {"drift"}
    first = found.findings[0]
    assert (first.layer, first.tolerance) == ("digits", 0.5)
    x, y = pixels.astype(np.float64), 1 - pixels.astype(np.float64)
    shift = (y.mean() - x.mean()) / x.std(ddof=1)
    assert f"the mean moves by {shift:.3g} deviations" in first.message
    assert check(DIGITS, baseline, 1 - pixels, profile=earlier, threshold=100).ok
    few = check(DIGITS, baseline, pixels[:4], profile=stats(DIGITS, pixels[:4]).profile)
    assert few.verdict == "undecided"
    assert "too few samples to tell" in few.findings[0].message
    with pytest.raises(InputError, match="no inputs to hold to the profile"):
        check(DIGITS, baseline, profile=earlier)
