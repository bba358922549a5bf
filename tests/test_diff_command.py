"""The command `diff`: exit codes, output, messages."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from planting import scaled

from onnxscope.cli import run

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
DIGITS, DEPLOYED, QDQ, INPUT = (
    str(FIXTURES / name) for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx", "digits.npz")
)


@pytest.fixture
def changed(tmp_path):
    onnx.save(scaled(DIGITS, "down.0.weight", 1.1), tmp_path / "changed.onnx")
    return str(tmp_path / "changed.onnx")


def test_equal_models_end_with_0(capsys):
    assert run(["diff", DIGITS, DEPLOYED, "-i", INPUT]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("digits.onnx against digits_deployed.onnx: 4 layers aligned\n")
    assert out.endswith("equal: 4 layers and 1 output\n")
    assert "block.0.weight = block.0.weight x block.1.weight / sqrt(block.1.running_var + 1e-05)" in out
    assert err == ""


def test_different_models_end_with_1_and_name_the_layer(changed, capsys):
    assert run(["diff", DIGITS, changed, "-i", INPUT]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    start = "differ: the first layer that diverges is down.0; the difference comes from down.0 (relative 0.1"
    assert last.startswith(start)
    assert last.endswith("; 1 weight changed")


def test_without_an_input_it_says_so(changed, capsys):
    assert run(["diff", DIGITS, DIGITS]) == 0
    out, err = capsys.readouterr()
    assert out == "equal: 4 layers and 1 output, weights and structure only; nothing was run\n"
    assert err == "nothing was run: weights and structure alone are compared; -i names an input\n"
    assert run(["diff", DIGITS, changed, "-i", INPUT, "--weights-only", "-q"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "differ: the difference comes from down.0; 1 weight changed"
    assert err == ""


def test_json_is_the_record(changed, capsys):
    assert run(["diff", DIGITS, changed, "-i", INPUT, "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["guilty"][0]["a"]["layer"] == "down.0"
    assert record["equal"] is False


def test_a_tolerance_forgives_what_its_numbers_allow(capsys):
    assert run(["diff", DIGITS, QDQ, "-i", INPUT, "--atol", "5", "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert not any(row["differs"] for row in record["layers"])
    assert {change["change"] for change in record["weights"]} == {"quantized"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DIGITS], "Missing argument 'B'"),
        ([DIGITS, "missing.onnx"], "no such file: missing.onnx"),
        ([DIGITS, DIGITS, "-i", "missing.png", "--preprocess", "none"], "missing.png"),
        ([DIGITS, DIGITS, "--rtol", "-1"], "Invalid value for '--rtol'"),
        ([DIGITS, DIGITS, "-i", INPUT, "-s", "nope"], "nothing matches the selector 'nope': digits.onnx"),
    ],
)
def test_what_cannot_be_done_ends_with_2(arguments, message, capsys):
    assert run(["diff", *arguments]) == 2
    assert message in capsys.readouterr().err
