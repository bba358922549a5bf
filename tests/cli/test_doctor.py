"""The command `doctor` of a model: how its pictures must be prepared."""

from __future__ import annotations

import json
import shlex

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxscope.cli.main import run

# The running statistics are those of pixels 0..255 of the picture below, divided by 255, in BGR.
MODEL = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 16, 16] x) => (float[N, 3, 16, 16] y)
    <float[3] one = {1, 1, 1}, float[3] zero = {0, 0, 0}, float[3] mean = {0.5, 0.3, 0.15},
     float[3] variance = {0.083, 0.03, 0.0075}>
    { y = BatchNormalization(x, one, zero, mean, variance) }"""


@pytest.fixture
def folder(tmp_path):
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    for place in range(4):
        pixels = random.integers(0, 256, (16, 16, 3)) * [0.3, 0.6, 1.0]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{place}.png")
    return tmp_path


def test_the_recipes_are_ranked_and_the_next_command_works(folder, capsys):
    assert run(["doctor", str(folder / "m.onnx"), "-i", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "m.onnx, 4 pictures: `--preprocess '{" in out.splitlines()[0]
    assert out.splitlines()[0].endswith("(sure)")
    assert out.splitlines()[3].split()[:2] == ["unit", "BGR"]
    command = shlex.split(err.strip().splitlines()[-1].split("`")[1])
    assert command[:2] == ["onnxscope", "recipe"]
    assert run([*command[1:], "-q"]) == 0
    recorded = json.loads((folder / "m.recipe.json").read_text())["feeding"]["preprocess"]
    assert (recorded["order"], recorded["divisor"]) == ("BGR", 255)


def test_the_right_output_decides(folder, capsys):
    pixels = np.stack([np.asarray(Image.open(folder / f"{place}.png")) for place in range(4)]).astype(np.float64)
    values = pixels.transpose(0, 3, 1, 2) / 127.5 - 1
    mean, variance = (np.array(row)[:, None, None] for row in ([0.5, 0.3, 0.15], [0.083, 0.03, 0.0075]))
    np.save(folder / "right.npy", (values - mean) / np.sqrt(variance + 1e-5))
    asked = ["doctor", str(folder / "m.onnx"), "-i", str(folder / "*.png"), "--expect", str(folder / "right.npy")]
    assert run([*asked, "--format", "json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["preprocess"], record["sureness"], record["by"]) == ("half", "sure", "outputs")
    assert record["recipes"][0]["distance"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-i", "photo.jpg"], "pictures, and no model that takes them", "`onnxscope doctor MODEL -i photo.jpg`"),
        (["m.onnx"], "nothing to try on the model: m.onnx", "`onnxscope doctor m.onnx -i photo.jpg`"),
        (["m.onnx", "-i", "0.png", "--expect", "no.npy"], "no such file: no.npy", ""),
        (["m.onnx", "-i", "random"], "only pictures are prepared, and these are random", "`-i photo.jpg`"),
    ],
)
def test_what_cannot_be_done_is_said(folder, monkeypatch, capsys, arguments, message, hint):
    monkeypatch.chdir(folder)
    assert run(["doctor", *arguments]) == 2
    err = capsys.readouterr().err
    assert f"onnxscope: error: {message}" in err
    assert hint in err


def test_images_without_a_preset_are_told_the_best_one(folder, capsys):
    assert run(["features", str(folder / "m.onnx"), "-i", str(folder), "-o", str(folder / "maps")]) == 2
    fault, hint = capsys.readouterr().err.splitlines()
    assert fault.startswith("onnxscope: error: which preset?")
    assert hint.startswith("hint: `--preprocess '{")
    assert "by its running statistics (sure), else `--preprocess imagenet`" in hint
    steps = json.loads(shlex.split(hint.split("`")[1])[1])
    assert steps["order"] == "BGR"
    assert steps["divisor"] == 255


def test_a_report_tells_of_a_preparation_that_is_clearly_not_the_best(folder, capsys):
    asked = ["report", str(folder / "m.onnx"), "-i", str(folder), "-o", str(folder / "page.html"), "--format", "json"]
    assert run([*asked, "-q", "--preprocess", "none"]) == 0
    told = {row["kind"]: row["message"] for row in json.loads(capsys.readouterr().out)["attention"]}
    assert "prepared with none, what enters the first BatchNormalization is" in told["input_range"]
    right = '{"order": "BGR", "divisor": 255}'
    assert run([*asked, "-q", "--force", "--preprocess", right]) == 0
    kinds = {row["kind"] for row in json.loads(capsys.readouterr().out)["attention"]}
    assert kinds.isdisjoint({"input_range", "input_order"})
