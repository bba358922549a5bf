"""The page says what each layer takes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxscope import report
from onnxscope.cli.main import run
from onnxscope.errors import InputError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, DEPLOYED = FIXTURES / "digits.onnx", FIXTURES / "digits_deployed.onnx"


def test_the_page_shows_times_beside_the_layers(capsys):
    made = report(DIGITS, "random", against=DEPLOYED, cam=None, time=True, repeats=1)
    table = made.html.split('<table id="table">')[1].split("</table>")[0]
    assert "<span>ms</span>" in table
    assert "<span>times faster</span>" in table
    assert ">in block.0</td>" in table  # the normalization that is fused into it
    assert "ms a run, median of 1: " in made.html
    times = made.content.comparison.times
    assert f"digits_deployed.onnx: {times.text.partition(': ')[2][:4]}" in made.html
    with pytest.raises(InputError, match="nothing is fed, so nothing takes time"):
        report(DIGITS, time=True)
    assert run(["report", str(DIGITS), "--time", "-o", "never.html"]) == 2
    assert "--time needs what the model is fed" in capsys.readouterr().err
