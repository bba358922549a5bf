"""The commands `snapshot` and `check`, and what they write for CI."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest
import xmlschema
from planting import scaled

from onnxscope.cli.main import run
from onnxscope.errors import BaselineError
from onnxscope.gate.baseline import snapshot
from onnxscope.gate.check_result import Check, Deviation
from onnxscope.gate.ci_formats import Outcome, github_annotations, junit, markdown

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
DIGITS, INPUT = str(FIXTURES / "digits.onnx"), str(FIXTURES / "digits.npz")


@pytest.fixture
def changed(tmp_path):
    onnx.save(scaled(DIGITS, "down.0.weight", 1.1), tmp_path / "changed.onnx")
    return str(tmp_path / "changed.onnx")


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # away from any pyproject.toml
    assert run(["snapshot", DIGITS, "-i", INPUT, "-o", "b.json", "-q"]) == 0
    return str(tmp_path / "b.json")


def findings(count):
    return tuple(Deviation(f"layer{i}", "mean", 0.0, float(i), 0.5, f"moved by 100 %\nx:{i},") for i in range(count))


@pytest.fixture(scope="module")
def some():
    taken = snapshot(DIGITS)
    check = Check("bad\x1b<b>&.onnx", taken, taken, findings(50), tuple(f"layer{i}" for i in range(60)), 0, ())
    return Outcome(check.name, "a,b:c.json", check)


@pytest.fixture
def models(tmp_path, monkeypatch, changed):
    """Three models beside each other: as its baseline says, changed, without a baseline."""
    monkeypatch.chdir(tmp_path)
    for name, source in (("a/same.onnx", DIGITS), ("b/changed.onnx", changed), ("b/new.onnx", DIGITS)):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(Path(source).read_bytes())
    for name in ("a/same", "b/changed"):
        assert run(["snapshot", DIGITS, "-o", f"{name}.onnxscope.json", "-q"]) == 0
    return ["a/same.onnx", "b/changed.onnx", "b/new.onnx"]


@pytest.fixture(scope="module")
def junit_schema():
    path = ROOT / ".venv" / "junit-10.xsd"
    if not path.exists() and not os.environ.get("CI"):
        pytest.skip("no .venv/junit-10.xsd; `make .venv/junit-10.xsd` fetches it")
    return xmlschema.XMLSchema(str(path), allow="local")


def test_a_snapshot_says_where_it_is(tmp_path, capsys):
    assert run(["snapshot", DIGITS, "-i", INPUT, "-o", str(tmp_path / "b.json")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("4 layers, 14 weights: 64 samples\n")
    assert err.startswith(f"the baseline is in {tmp_path / 'b.json'}, ")
    assert run(["snapshot", DIGITS, "-o", str(tmp_path / "c.json")]) == 0
    assert "nothing was run: the baseline holds structure and weights alone" in capsys.readouterr().err


def test_a_model_within_its_tolerances_ends_with_0(baseline, capsys):
    capsys.readouterr()
    assert run(["check", DIGITS, "--baseline", baseline, "-i", INPUT]) == 0
    assert capsys.readouterr() == ("digits.onnx: as the baseline says: 4 layers, 14 weights\n", "")


def test_a_changed_model_ends_with_1_until_the_baseline_is_updated(baseline, changed, tmp_path, capsys):
    arguments = ["check", changed, "--baseline", baseline, "-i", INPUT]
    reports = ["--junit", str(tmp_path / "r.xml"), "--markdown", str(tmp_path / "r.md")]
    capsys.readouterr()
    assert run([*arguments, *reports]) == 1
    out, err = capsys.readouterr()
    assert "first in down.0" in out.splitlines()[0]
    assert err == "if this is intended, the same command with `--update` accepts it\n"
    suite = ElementTree.parse(tmp_path / "r.xml").getroot()[0]
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["down.0", "classifier.2"]
    assert (suite.get("tests"), suite.get("failures")) == ("5", "2")
    assert "| down\\.0 |" in (tmp_path / "r.md").read_text() or "| down.0 |" in (tmp_path / "r.md").read_text()
    assert run([*arguments, "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["schema"], record["ok"]) == ("onnxscope.check/1", False)
    assert list(record["findings"][0]) == ["layer", "statistic", "expected", "found", "tolerance", "message"]
    assert run([*arguments, "--update"]) == 0
    assert "the baseline is rewritten" in capsys.readouterr().err
    assert run(arguments) == 0


def test_github_gets_annotations_and_a_summary(baseline, changed, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    capsys.readouterr()
    assert run(["check", changed, "--baseline", baseline, "-i", INPUT, "--github", "-q"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::error ")]
    assert 0 < len(lines) <= 10
    assert lines[0].startswith(f"::error file={baseline},title=changed.onnx%3A down.0::down.0, ")
    assert (tmp_path / "summary.md").read_text().startswith("## ❌ onnxscope check\n")


def test_settings_come_from_pyproject_or_a_named_file(baseline, changed, tmp_path, capsys):
    arguments = ["check", changed, "--baseline", baseline, "-i", INPUT]
    (tmp_path / "pyproject.toml").write_text('[tool.onnxscope]\nignore = ["down.0", "classifier.2"]\n')
    assert run(arguments) == 0
    (tmp_path / "strict.toml").write_text("tolerance = 1e-6\n")
    assert run([*arguments, "--config", str(tmp_path / "strict.toml")]) == 1


def test_a_missing_baseline_says_how_to_make_one(capsys, tmp_path):
    assert run(["check", DIGITS, "--baseline", str(tmp_path / "b.json"), "-i", INPUT]) == 2
    err = capsys.readouterr().err
    assert err == (
        f"onnxscope: error: no such baseline: {tmp_path / 'b.json'}\n"
        f"hint: `onnxscope snapshot {DIGITS} -i {INPUT} -o {tmp_path / 'b.json'}`\n"
    )


def test_every_model_is_checked_whatever_becomes_of_the_others(models, capsys):
    capsys.readouterr()
    assert run(["check", models[1], models[0]]) == 1
    out, err = capsys.readouterr()
    assert "b/changed.onnx: 1 finding, first in down.0\n" in out
    assert out.endswith("a/same.onnx: as the baseline says: 4 layers, 14 weights\n")
    assert err == "if this is intended, the same command with `--update` accepts it\n"
    assert run(["check", models[2], *models[:2]]) == 2
    out, err = capsys.readouterr()
    assert "first in down.0" in out
    assert err.startswith(
        "onnxscope: error: no such baseline: b/new.onnxscope.json\n"
        "hint: `onnxscope snapshot b/new.onnx -o b/new.onnxscope.json`\n"
    )
    assert run(["check", "missing.onnx", models[0]]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("onnxscope: error: no such file: missing.onnx\n")
    assert out.startswith("a/same.onnx: as the baseline says")
    assert run(["check", *models[:2], "--update"]) == 0
    assert run(["check", *models[:2]]) == 0


def test_several_models_are_one_document(models, capsys):
    capsys.readouterr()
    assert run(["check", *models, "--format", "json"]) == 2
    record = json.loads(capsys.readouterr().out)
    assert list(record) == ["schema", "ok", "checks", "errors"]
    assert (record["schema"], record["ok"]) == ("onnxscope.checks/1", False)
    assert [(each["model"], each["ok"]) for each in record["checks"]] == [
        ("a/same.onnx", True),
        ("b/changed.onnx", False),
    ]
    assert record["errors"] == [{"model": "b/new.onnx", "message": "no such baseline: b/new.onnxscope.json"}]
    assert run(["check", *models, "--format", "csv"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model,layer,statistic,expected,found,tolerance,what it means"
    assert lines[1].startswith("a/same.onnx,,verdict,,equal,,")
    assert lines[2].startswith("b/changed.onnx,down.0,weight down.0.weight,")
    assert lines[3].startswith("b/changed.onnx,,verdict,,differs,,")
    assert lines[4:] == ["b/new.onnx,,,,,,error: no such baseline: b/new.onnxscope.json"]


def test_a_named_baseline_is_of_one_model(models, capsys):
    assert run(["check", *models, "--baseline", "b.json"]) == 2
    assert "error: --baseline is of one MODEL; several have theirs beside them\n" in capsys.readouterr().err


def test_an_update_without_inputs_keeps_what_was_said_of_activations(baseline, capsys):
    before = Path(baseline).read_bytes()
    assert run(["check", DIGITS, "--baseline", baseline, "--update"]) == 2
    assert capsys.readouterr().err == (
        f"onnxscope: error: an update without inputs would drop what the baseline says of activations: {baseline}\n"
        f"hint: name them: `onnxscope check {DIGITS} --baseline {baseline} -i INPUT --update`\n"
    )
    assert Path(baseline).read_bytes() == before


def test_github_obeys_no_name_of_a_layer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(DIGITS)
    for tensor in model.graph.initializer:
        if tensor.name == "down.0.weight":
            changed = onnx.numpy_helper.to_array(tensor) + np.float32(1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, "::add-mask::o.weight"))
    for node in model.graph.node:
        node.input[:] = ["::add-mask::o.weight" if name == "down.0.weight" else name for name in node.input]
    del model.metadata_props[:]
    onnx.save(model, "m.onnx")
    assert run(["snapshot", DIGITS, "-o", "m.onnxscope.json", "-q"]) == 0
    capsys.readouterr()
    assert run(["check", "m.onnx", "--github", "-q"]) == 1
    first, *shown = capsys.readouterr().out.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert len(token) == 32
    assert any(line.startswith("\\x3a:add-mask::") for line in shown[: shown.index(f"::{token}::")])
    assert not any(line.startswith("::") for line in shown[: shown.index(f"::{token}::")])
    assert all(line.startswith("::error ") for line in shown[shown.index(f"::{token}::") + 1 :])


def test_annotations_are_the_nine_worst_and_a_count(some):
    lines = list(github_annotations([some]))
    assert len(lines) == 10
    assert lines[0] == (
        "::error file=a%2Cb%3Ac.json,title=bad\\x1b<b>&.onnx%3A layer49::layer49, mean: moved by 100 %25\\nx:49,"
    )
    assert lines[-1] == ("::error file=a%2Cb%3Ac.json,title=41 more findings::the job summary lists all of them")


def test_what_could_not_be_checked_is_annotated_first(some):
    error = BaselineError("no such baseline: m\n.json", hint="`onnxscope snapshot`")
    lines = list(github_annotations([some, Outcome("m.onnx", "m.json", error)]))
    assert len(lines) == 10
    assert lines[0] == ("::error file=m.json,title=m.onnx::no such baseline: m\\n.json%0Ahint: `onnxscope snapshot`")


def test_junit_lists_every_layer_and_survives_any_name(some):
    suite = ElementTree.fromstring(junit([some]))[0]
    assert len(suite) == 61
    assert suite.get("failures") == "50"
    assert "\x1b" not in suite.get("name")


def test_junit_is_what_its_schema_says(junit_schema, some, models, tmp_path):
    assert run(["check", models[0], "--junit", str(tmp_path / "same.xml")]) == 0
    assert run(["check", *models, "--junit", str(tmp_path / "all.xml")]) == 2
    (tmp_path / "bad.xml").write_text(junit([some]), encoding="utf-8")
    hostile = Check("\x00\ud800\uffff\x85]]>&<\"'\n", *[some.result.found] * 2, findings(1), ("\x0b\x7f", "]]>"), 0, ())
    error = BaselineError("\x00]]>", hint="\x1b")
    (tmp_path / "hostile.xml").write_text(
        junit([Outcome(hostile.name, "", hostile), Outcome("\x00", "", error)]), encoding="utf-8"
    )
    for name in ("same", "all", "bad", "hostile"):
        junit_schema.validate(str(tmp_path / f"{name}.xml"))
    suites = ElementTree.parse(tmp_path / "all.xml").getroot()
    assert [[suite.get(key) for key in ("name", "tests", "failures", "errors")] for suite in suites] == [
        ["onnxscope check a/same.onnx", "5", "0", "0"],
        ["onnxscope check b/changed.onnx", "5", "1", "0"],
        ["onnxscope check b/new.onnx", "1", "0", "1"],
    ]
    assert suites.find(".//error").get("type") == "BaselineError"
    assert "hint: `onnxscope snapshot b/new.onnx" in suites.find(".//error").text
    with pytest.raises(xmlschema.XMLSchemaValidationError):  # the schema is not one that takes everything
        junit_schema.validate('<testsuites><testsuite name="a"/></testsuites>')


def test_a_summary_names_every_model_and_shows_what_was_found(models, tmp_path):
    assert run(["check", *models, "--markdown", str(tmp_path / "all.md")]) == 2
    text = (tmp_path / "all.md").read_text(encoding="utf-8")
    assert text.startswith(
        "## ❌ onnxscope check\n\n| model | what was found |\n|---|---|\n| a/same.onnx | as the baseline"
    )
    assert "| b/new.onnx | error: no such baseline: b/new.onnxscope.json |\n\n**b/changed.onnx: 1 finding" in text


def test_a_summary_stays_below_what_github_takes(some):
    many = Check(some.name, some.result.baseline, some.result.found, findings(8_000), (), 0, ())
    text = markdown([Outcome(some.name, some.baseline, many)] * 3)
    assert len(text.encode()) <= 900_000
    assert text.rstrip().endswith(" more")
    assert "<b>" not in text


def test_a_profile_is_the_reference_of_today_s_data(baseline, capsys, tmp_path):
    pixels = np.load(INPUT)["digits"]
    np.save("today.npy", 1 - pixels)
    assert run(["stats", DIGITS, "-i", INPUT, "-o", "p.json", "-q"]) == 0
    capsys.readouterr()
    assert run(["check", DIGITS, "--baseline", baseline, "--profile", "p.json", "-i", INPUT]) == 0
    assert "as the baseline says" in capsys.readouterr().out
    told = ["check", DIGITS, "--baseline", baseline, "--profile", "p.json", "-i", "today.npy", "--junit", "j.xml"]
    assert run([*told, "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert (found[0]["layer"], found[0]["statistic"]) == ("digits", "drift")
    assert "the mean moves by" in Path("j.xml").read_text()
    assert run([*told, "--threshold", "100"]) == 0
    assert run(["check", DIGITS, "--baseline", baseline, "--profile", "p.json"]) == 2
    assert "--profile goes with one MODEL and -i" in capsys.readouterr().err
    assert run(["check", DIGITS, "--baseline", baseline, "--threshold", "0.1"]) == 2
    assert "--threshold is of --profile" in capsys.readouterr().err
