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

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
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
    assert counts == {"failed": 4}
    assert "no baseline " in out
    assert "`pytest --onnxscope-update` writes it" in out
    assert pytest_in(project, "--onnxscope-update", *workers)[0] == {"passed": 4}
    written = sorted(path.name for path in (project / "__onnxscope__").iterdir())
    assert len(written) == 5
    assert {"test_models.test_export.json", "test_models.test_two.one.json"} < set(written)
    assert pytest_in(project, *workers)[0] == {"passed": 4}
    onnx.save(scaled(project / "model.onnx", "down.0.weight", 1.1), project / "model.onnx")
    counts, out = pytest_in(project, *workers)
    assert counts == {"failed": 4}
    assert "first in down.0" in out
    assert "its weights have changed" in out
    assert "if this is intended, `pytest --onnxscope-update` accepts it" in out
    assert "Traceback" not in out
    assert pytest_in(project, "--onnxscope-update", *workers)[0] == {"passed": 4}
    assert pytest_in(project, *workers)[0] == {"passed": 4}


def test_the_plugin_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, pytest; before = set(sys.modules); import onnxscope.pytest_plugin; "
        "print({name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "onnx", "onnxruntime", "click", "matplotlib", "PIL", "torch"} & ast.literal_eval(out)
