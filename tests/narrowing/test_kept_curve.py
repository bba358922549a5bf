"""What the picture of layers in float shows, against decibels added by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import OutputError
from onnxscope.narrowing.kept_curve import kept_curves, quality_axis

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, DATA = str(FIXTURES / "digits.onnx"), str(FIXTURES / "digits.npz")


def test_the_expected_line_adds_up_the_noise_of_the_layers_that_are_left():
    found = onnxscope.sensitivity(DIGITS, DATA, formats="int8", target="45dB")
    (curve,) = kept_curves(found.layers, found.whole, found.kept)
    noises = [10 ** (-row.output.sqnr_db / 10) for row in found]  # the worst first
    gap = found.whole[0].output.sqnr_db + 10 * math.log10(sum(noises))
    for count, decibels in curve.expected:
        assert decibels == pytest.approx(gap - 10 * math.log10(sum(noises[count:])), abs=1e-6)
    assert [count for count, _ in curve.expected] == [0, 1, 2, 3]
    assert curve.measured[0] == (0, found.whole[0].output.sqnr_db)
    assert curve.chosen == len(found.kept[0].found.layers) == 1
    assert quality_axis(found.kept[0].target) == ("signal to noise of the outputs in dB", 45.0)


def test_classes_have_an_axis_of_their_own_and_nothing_is_expected_of_them():
    found = onnxscope.sensitivity(DIGITS, DATA, formats="int4", target="top1=0.9")
    (curve,) = kept_curves(found.layers, found.whole, found.kept)
    assert curve.expected == ()
    assert curve.measured[0][1] == 100 * found.whole[0].output.top1
    assert quality_axis(found.kept[0].target) == ("samples whose first class stays, in %", 90.0)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<svg")])
def test_the_command_draws_and_draws_again(tmp_path, capsys, name, start):
    command = ["sensitivity", DIGITS, "-i", DATA, "--limit", "4", "-o", str(tmp_path / name)]
    for _ in range(2):
        assert run(command) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert run([*command[:-1], str(tmp_path / "a.pdf")]) == 2
    assert "a picture is .png or .svg" in capsys.readouterr().err
    with pytest.raises(OutputError, match=r"a picture is \.png or \.svg"):
        onnxscope.sensitivity(DIGITS, DATA, limit=2).save_picture(tmp_path / "picture")
    assert [path.name for path in tmp_path.iterdir()] == [name]
