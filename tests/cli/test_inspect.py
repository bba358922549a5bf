"""The command `inspect`: sizes of dimensions."""

from __future__ import annotations

import json

import onnx.parser
import pytest

from onnxscope.cli.main import run


@pytest.fixture
def path(tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[batch, seq, 2] x) => (float[batch, seq, seq] y)
        { t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, t) }""")
    onnx.save(model, tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


def test_dimensions_are_given_by_name(path, capsys):
    assert run(["inspect", path, "--dim", "batch=2", "--dim", "seq=5", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["costs"]["multiply_accumulates"] == 2 * 5 * 5 * 2
    assert run(["inspect", path, "--dim", "seq=5"]) == 0
    shown = capsys.readouterr().out
    assert "multiply-adds 50 with batch=1, seq=5; 50 of them in products of two activations" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [("seq", "not NAME=SIZE: 'seq'"), ("seq=x", "not NAME=SIZE"), ("sequ=4", "no dimension is called 'sequ'")],
)
def test_a_dimension_that_is_none_is_an_error(path, text, message, capsys):
    assert run(["inspect", path, "--dim", text]) == 2
    assert message in capsys.readouterr().err
