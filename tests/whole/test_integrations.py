"""The GitHub Action and the pre-commit hook: their files are well formed, and what they run is run here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import onnx
import pytest
import yaml
from planting import scaled

from onnxscope.cli.main import run
from onnxscope.gate.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
DIGITS, INPUT = str(ROOT / "fixtures" / "digits.onnx"), str(ROOT / "fixtures" / "digits.npz")
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
SCRIPTS = {step["id"]: step["run"] for step in STEPS if "run" in step}
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))


def add_model(path, source=DIGITS, baseline_of=DIGITS):
    """A model, and beside it the baseline of what it should be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Path(source).read_bytes())
    if baseline_of is not None:
        assert run(["snapshot", baseline_of, "-o", str(path.with_suffix(".onnxscope.json")), "-q"]) == 0


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with models that are what they should be, one that is not, and one without a baseline."""
    monkeypatch.chdir(tmp_path)
    onnx.save(scaled(DIGITS, "down.0.weight", 1.1), tmp_path / "changed")
    add_model("good/one.onnx")
    add_model("good/deep/a name.onnx")
    add_model("bad/changed.onnx", source="changed")
    add_model("bad/new.onnx", baseline_of=None)
    return tmp_path


def bash(script, folder, **variables):
    """Run a step's script as GitHub does; its exit code, what it printed, and its outputs."""
    runner = folder / "runner"
    runner.mkdir(exist_ok=True)
    (runner / "script.sh").write_text(script, encoding="utf-8")
    output = runner / "output"
    output.write_text("")
    files = {"RUNNER_TEMP": runner, "GITHUB_OUTPUT": output, "GITHUB_STEP_SUMMARY": runner / "summary"}
    environment = os.environ | {name: str(value) for name, value in (files | variables).items()}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(runner / "script.sh")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done, dict(line.split("=", 1) for line in output.read_text().splitlines())


def check_step(folder, **inputs):
    variables = dict.fromkeys(("MODELS", "BASELINE", "INPUT", "CONFIG", "ARGS"), "") | inputs
    return bash(SCRIPTS["check"], folder, PYTHON=sys.executable, **variables)


def suites(outputs):
    root = ElementTree.parse(Path(outputs["reports"]) / "junit.xml").getroot()
    return {suite.get("name"): (suite.get("failures"), suite.get("errors")) for suite in root}


def test_the_action_is_what_github_takes():
    assert isinstance(ACTION["name"], str)
    assert isinstance(ACTION["description"], str)
    assert ACTION["runs"]["using"] == "composite"
    for each in ACTION["inputs"].values():
        assert each["description"]
        assert isinstance(each.get("default"), str) is not each.get("required", False)
    for step in STEPS:
        assert ("run" in step) is not ("uses" in step)
        if "run" in step:
            assert step["shell"] == "bash"
        else:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
    assert "always()" in STEPS[-1]["if"]


def test_no_input_reaches_a_script_but_through_its_environment():
    for step in STEPS:
        if "run" in step:
            assert "${{" not in step["run"]
            named = set(re.findall(r"\$\{?([A-Z_]+)", step["run"]))
            given = set(step["env"]) | {"RUNNER_TEMP", "GITHUB_OUTPUT", "GITHUB_ACTION_PATH"}
            assert named <= given
            assert set(step["env"]) <= named | {"PIP_CACHE_DIR"}


def test_every_reference_of_the_action_leads_somewhere():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(ACTION["inputs"])
    places = {step["id"]: place for place, step in enumerate(STEPS) if "id" in step}
    for place, step in enumerate(STEPS):
        for target, output in re.findall(r"steps\.(\w+)\.outputs\.([a-z-]+)", yaml.safe_dump(step)):
            assert places[target] < place
            if target in SCRIPTS:
                assert f'echo "{output}=' in SCRIPTS[target]
            else:
                assert (target, output) in {("python", "python-path"), ("python", "python-version")}
    assert ACTION["outputs"]["reports"]["value"] == "${{ steps.check.outputs.reports }}"


def test_the_action_accepts_models_that_are_what_their_baselines_say(repository):
    done, outputs = check_step(repository, MODELS="good/one.onnx\n\n  good/deep/*.onnx\n")
    assert done.returncode == 0, done.stderr
    assert suites(outputs) == {
        "onnxscope check one.onnx": ("0", "0"),
        "onnxscope check deep/a name.onnx": ("0", "0"),
    }
    summary = (repository / "runner" / "summary").read_text(encoding="utf-8")
    assert summary.startswith("## ✅ onnxscope check\n")
    assert (Path(outputs["reports"]) / "summary.md").read_text(encoding="utf-8") == summary


def test_the_action_checks_every_model_before_it_fails(repository):
    done, outputs = check_step(repository, MODELS="bad/changed.onnx\n**/one.onnx")
    assert done.returncode == 1
    assert suites(outputs) == {
        "onnxscope check bad/changed.onnx": ("1", "0"),
        "onnxscope check good/one.onnx": ("0", "0"),
    }
    done, outputs = check_step(repository, MODELS="nothing/*.onnx\nbad/*.onnx\n**/one.onnx")
    assert done.returncode == 2
    assert suites(outputs) == {
        "onnxscope check nothing/*.onnx": ("0", "1"),
        "onnxscope check bad/changed.onnx": ("1", "0"),
        "onnxscope check bad/new.onnx": ("0", "1"),
        "onnxscope check good/one.onnx": ("0", "0"),
    }
    assert "onnxscope: error: no such file: nothing/*.onnx\n" in done.stderr
    assert "hint: `onnxscope snapshot bad/new.onnx -o bad/new.onnxscope.json`\n" in done.stderr
    annotations = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert len(annotations) == 3
    assert annotations[-1].startswith("::error file=bad/changed.onnxscope.json,title=bad/changed.onnx%3A down.0::")


def test_the_action_passes_on_baseline_inputs_settings_and_options(repository):
    assert run(["snapshot", DIGITS, "-i", INPUT, "--limit", "5", "-o", "of five.json", "-q"]) == 0
    (repository / "loose.toml").write_text('ignore = ["down.0", "classifier.2"]\n')
    given = {"BASELINE": "of five.json", "INPUT": INPUT, "ARGS": "--limit=5\n--batch-size=5\n"}
    done, _ = check_step(repository, MODELS="good/one.onnx", **given)
    assert done.returncode == 0, done.stderr
    assert check_step(repository, MODELS="bad/changed.onnx", **given)[0].returncode == 1
    assert check_step(repository, MODELS="bad/changed.onnx", CONFIG="loose.toml", **given)[0].returncode == 0
    done, _ = check_step(repository, MODELS="good/one.onnx", **(given | {"ARGS": "--limit=4"}))
    assert done.returncode == 2
    assert "samples 5 became 4" in done.stderr


@pytest.mark.parametrize("name", ["MODELS", "BASELINE", "INPUT", "CONFIG", "ARGS"])
def test_the_action_runs_no_input_as_code(tmp_path, name):
    hostile = '$(touch pwned) `touch pwned`; touch pwned #"\n--help; touch pwned'
    done, _ = check_step(tmp_path, **({"MODELS": "m.onnx"} | {name: hostile}))
    assert done.returncode == 2
    assert not (tmp_path / "pwned").exists()


def test_the_action_installs_what_belongs_to_it(tmp_path):
    """With a python that only records how it was called."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        '#!/bin/sh\necho "$@" >> calls\n'
        'case "$2" in venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";; *) cat >> requirements;; esac\n'
    )
    stand_in.chmod(0o755)
    given = {"PYTHON": stand_in, "GITHUB_ACTION_PATH": ROOT, "REQUIREMENTS": "numpy<3\n$(touch pwned)"}
    done, outputs = bash(SCRIPTS["install"], tmp_path, **given)
    assert done.returncode == 0, done.stderr
    assert outputs == {"python": str(tmp_path / "runner" / "onnxscope" / "bin" / "python")}
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"-m venv {tmp_path / 'runner' / 'onnxscope'}",
        f"-m pip --disable-pip-version-check install {ROOT} -r /dev/stdin",
    ]
    assert (tmp_path / "requirements").read_text() == "numpy<3\n$(touch pwned)\n"
    given["PYTHON"] = sys.executable
    keys = [bash(SCRIPTS["key"], tmp_path, **given, **more)[1]["key"] for more in ({}, {"OTHER": "1"})]
    given["REQUIREMENTS"] = ""
    keys.append(bash(SCRIPTS["key"], tmp_path, **given)[1]["key"])
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert keys[0] == keys[1] != keys[2]


def test_the_guide_names_what_there_is(tmp_path):
    text = (ROOT / "docs" / "howto" / "ci.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)`", text, re.MULTILINE) == list(ACTION["inputs"])
    blocks = {language: re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for language in ("yaml", "toml")}
    workflow, hooks, gitlab = map(yaml.safe_load, blocks["yaml"])
    (used,) = (step for step in workflow["jobs"]["models"]["steps"] if "/onnxscope@" in step.get("uses", ""))
    assert set(used["with"]) <= set(ACTION["inputs"])
    assert hooks["repos"][0]["hooks"] == [{"id": HOOK["id"]}]
    (command,) = (line for line in gitlab["models"]["script"] if line.startswith("onnxscope "))
    assert f"$ {command}" in text  # and test_docs.py runs it
    (table,) = blocks["toml"]
    (tmp_path / "pyproject.toml").write_text(table)
    assert read_settings(tmp_path / "pyproject.toml").tolerance_of("layer4.0") == 1e-3


def test_the_hook_is_what_pre_commit_takes():
    assert set(HOOK) == {"id", "name", "description", "entry", "language", "files", "require_serial"}
    assert (HOOK["id"], HOOK["language"], HOOK["require_serial"]) == ("onnxscope-check", "python", True)
    names = ("a.onnx", "models/a b.onnx", "a.onnx.data", "a.onnxscope.json", "onnx")
    assert [bool(re.search(HOOK["files"], name)) for name in names] == [True, True, False, False, False]


def test_the_hook_holds_every_staged_model_to_the_baseline_beside_it(repository, capsys):
    program, *arguments = shlex.split(HOOK["entry"])
    assert program == "onnxscope"
    capsys.readouterr()
    assert run([*arguments, "good/one.onnx", "good/deep/a name.onnx"]) == 0
    assert run([*arguments, "good/one.onnx", "bad/changed.onnx"]) == 1
    assert "changed.onnx: 1 finding, first in down.0\n" in capsys.readouterr().out
    assert run([*arguments, "bad/new.onnx", "good/one.onnx"]) == 2
    out, err = capsys.readouterr()
    assert out.endswith("good/one.onnx: as the baseline says: 4 layers, 14 weights\n")
    assert "hint: `onnxscope snapshot bad/new.onnx -o bad/new.onnxscope.json`\n" in err


def test_the_hook_says_what_it_cannot_check_without_inputs(repository, capsys):
    assert run(["snapshot", DIGITS, "-i", INPUT, "-o", "good/one.onnxscope.json", "-q"]) == 0
    capsys.readouterr()
    remark = "nothing was run: structure and weights alone are checked; -i names the baseline's input\n"
    arguments = shlex.split(HOOK["entry"])[1:]
    assert run([*arguments, "good/one.onnx"]) == 0
    assert capsys.readouterr().err == remark
    assert run([*arguments, "good/one.onnx", "good/deep/a name.onnx"]) == 0
    assert capsys.readouterr().err == f"one.onnx: {remark}"
