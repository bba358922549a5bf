"""The fixture `onnx_snapshot`, by running pytest inside pytest, alone and with two workers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from planting import scaled

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
INPUT = FIXTURES / "digits.npz"
TESTS = f"""
import pytest
MODEL, INPUT = "model.onnx", {str(INPUT)!r}

def test_export(onnx_snapshot):
    onnx_snapshot.check(MODEL, INPUT)

@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_weights(onnx_snapshot, name):
    onnx_snapshot.check(MODEL)

def test_two(onnx_snapshot):
    onnx_snapshot.check(MODEL, name="one")
    onnx_snapshot.check(MODEL, INPUT, name="two", limit=5)

class TestOne:
    def test_export(self, onnx_snapshot):
        onnx_snapshot.check(MODEL)
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "test_models.py").write_text(TESTS)
    (tmp_path / "model.onnx").write_bytes((FIXTURES / "digits.onnx").read_bytes())
    return tmp_path


def pytest_in(folder, *arguments):
    """The outcomes of a run of pytest, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    counts = dict(reversed(found) for found in re.findall(r"(\d+) (passed|failed|error)", done.stdout.splitlines()[-1]))
    return {kind: int(count) for kind, count in counts.items()}, done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_a_baseline_is_missing_written_kept_and_refused(project, workers):
    counts, out = pytest_in(project, *workers)
    assert counts == {"failed": 5}
    assert "no baseline (no such file: " in out
    assert "`pytest --onnxscope-update` writes it" in out
    assert pytest_in(project, "--onnxscope-update", *workers)[0] == {"passed": 5}
    written = sorted(path.name for path in (project / "__onnxscope__").iterdir())
    assert len(written) == 6
    assert {f"test_models.{name}.json" for name in ("test_export", "test_two.one", "TestOne.test_export")} < set(
        written
    )
    assert pytest_in(project, *workers)[0] == {"passed": 5}
    onnx.save(scaled(project / "model.onnx", "down.0.weight", 1.1), project / "model.onnx")
    counts, out = pytest_in(project, *workers)
    assert counts == {"failed": 5}
    assert "first in down.0" in out
    assert "its weights have changed" in out
    assert "if this is intended, `pytest --onnxscope-update` accepts it" in out
    assert "Traceback" not in out
    assert pytest_in(project, "--onnxscope-update", *workers)[0] == {"passed": 5}
    assert pytest_in(project, *workers)[0] == {"passed": 5}


def test_a_baseline_of_another_version_is_written_anew_when_asked(tmp_path):
    (tmp_path / "test_models.py").write_text("def test_export(onnx_snapshot):\n    onnx_snapshot.check('model.onnx')\n")
    (tmp_path / "model.onnx").write_bytes((FIXTURES / "digits.onnx").read_bytes())
    (tmp_path / "__onnxscope__").mkdir()
    (tmp_path / "__onnxscope__" / "test_models.test_export.json").write_text('{"schema": "onnxscope.baseline/0"}')
    counts, out = pytest_in(tmp_path)
    assert counts == {"failed": 1}
    assert "no baseline (the schema 'onnxscope.baseline/0' is not" in out
    assert pytest_in(tmp_path, "--onnxscope-update")[0] == {"passed": 1}
    assert pytest_in(tmp_path)[0] == {"passed": 1}


def test_inputs_that_a_test_no_longer_gives_are_said(tmp_path):
    test = tmp_path / "test_models.py"
    (tmp_path / "model.onnx").write_bytes((FIXTURES / "digits.onnx").read_bytes())
    test.write_text(f"def test_export(onnx_snapshot):\n    onnx_snapshot.check('model.onnx', {str(INPUT)!r})\n")
    assert pytest_in(tmp_path, "--onnxscope-update")[0] == {"passed": 1}
    test.write_text("def test_export(onnx_snapshot):\n    onnx_snapshot.check('model.onnx')\n")
    counts, out = pytest_in(tmp_path)
    assert counts == {"passed": 1}
    assert "UserWarning: test_models.test_export.json: nothing was run: structure and weights alone are checked" in out


def test_the_plugin_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, pytest; before = set(sys.modules); import onnxscope.gate.pytest_plugin; "
        "print({name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "onnx", "onnxruntime", "click", "matplotlib", "PIL", "torch"} & ast.literal_eval(out)
