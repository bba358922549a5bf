"""The commands `snapshot` and `check`, and what they write for CI."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import onnx
import pytest
from planting import scaled

from onnxscope.baseline import snapshot
from onnxscope.checking import Check, Deviation
from onnxscope.cli import run
from onnxscope.gate_formats import github_annotations, junit, markdown

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
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
    return Check("bad\x1b<b>&.onnx", taken, taken, findings(50), tuple(f"layer{i}" for i in range(60)), ())


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


def test_annotations_are_the_nine_worst_and_a_count(some):
    lines = list(github_annotations(some, "a,b:c.json"))
    assert len(lines) == 10
    assert lines[0] == (
        "::error file=a%2Cb%3Ac.json,title=bad\\x1b<b>&.onnx%3A layer49::layer49, mean: moved by 100 %25\\nx:49,"
    )
    assert "41 more findings" in lines[-1]


def test_junit_lists_every_layer_and_survives_any_name(some):
    suite = ElementTree.fromstring(junit(some))[0]
    assert len(suite) == 61
    assert suite.get("failures") == "50"
    assert "\x1b" not in suite.get("name")


def test_a_summary_stays_below_what_github_takes(some):
    many = Check(some.name, some.baseline, some.found, findings(30_000), (), ())
    text = markdown(many)
    assert len(text.encode()) <= 900_000
    assert text.rstrip().endswith(" more")
    assert "<b>" not in text
