"""Models that packages ship, fed what people have: a photograph, writing, a table, and random numbers.

The packages are fetched when the proof runs (`make acceptance`); nothing of them is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime
import pytest
from packaged_models import SHIPPED, Shipped, Wheels
from PIL import Image, ImageDraw, ImageFont

from onnxscope.cli.main import run
from onnxscope.readers.npy import read_npz

FIGURES = Path(matplotlib.get_data_path())
PHOTOGRAPH = FIGURES / "sample_data" / "grace_hopper.jpg"
FONT = FIGURES / "fonts" / "ttf" / "DejaVuSans.ttf"
Feeds = dict[str, np.ndarray]


def writing(path: Path) -> Path:
    """Two lines of black on white, 320 x 96."""
    picture = Image.new("RGB", (320, 96), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(str(FONT), 28)
    for line, text in enumerate(("The quick brown", "fox jumps over")):
        draw.text((8, 8 + 44 * line), text, "black", font)
    picture.save(path / "writing.png")
    return path / "writing.png"


def table(path: Path) -> Path:
    rows = np.random.default_rng(3).normal(size=(5, 261)).round(4)
    names = ",".join(f"c{column}" for column in range(261))
    np.savetxt(path / "rows.csv", rows, delimiter=",", header=names, comments="")
    return path / "rows.csv"


def of_table(path: Path) -> Feeds:
    return {"X": np.loadtxt(table(path), delimiter=",", skiprows=1)}


def scaled(picture: Image.Image, mean: float, std: float) -> np.ndarray:
    return ((np.asarray(picture) / 255.0 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)


def of_writing(path: Path) -> Feeds:
    return {"x": scaled(Image.open(writing(path)), 0.5, 0.5)}


def of_boxed_photograph(_: Path) -> Feeds:
    """512 x 600 by 320 / 600, on a square of grey."""
    inner = np.asarray(Image.open(PHOTOGRAPH).convert("RGB").resize((273, 320), Image.Resampling.BILINEAR))
    boxed = np.pad(inner, ((0, 0), (23, 24), (0, 0)), constant_values=114)
    return {"images": (boxed / 255.0).transpose(2, 0, 1)[None].astype(np.float32)}


HALF = json.dumps({"size": None, "divisor": 255, "mean": 0.5, "std": 0.5})


@dataclass(frozen=True)
class Fed:
    """A packaged model with data that its user has.

    Attributes:
        package: Its package.
        path: In the wheel.
        data: Makes what `-i` names.
        options: What the user says of it.
        by_hand: What it becomes, by Pillow and numpy.
    """

    package: str
    path: str
    data: Callable[[Path], Path]
    options: tuple[str, ...]
    by_hand: Callable[[Path], Feeds]


_OCR = "rapidocr_onnxruntime/models"
FED = {
    "a detector of text": Fed(
        "rapidocr-onnxruntime",
        f"{_OCR}/ch_PP-OCRv4_det_infer.onnx",
        writing,
        ("--preprocess", HALF, "--size", "own"),
        of_writing,
    ),
    "a detector of objects": Fed(
        "nudenet",
        "nudenet/320n.onnx",
        lambda _: PHOTOGRAPH,
        ("--preprocess", "letterbox", "--size", "320"),
        of_boxed_photograph,
    ),
    "trees": Fed("atspm-detector", "atspm_detector/weights/phase_lgbm_v5_s0.onnx", table, (), of_table),
}


def commands(*fed: str) -> list[list[str]]:
    return [
        ["recipe", "m.onnx", *fed],
        ["inspect", "m.onnx"],
        ["weights", "m.onnx", "-o", "weights"],
        ["features", "m.onnx", *fed, "-o", "features"],
        ["stats", "m.onnx", *fed, "-o", "profile.json"],
        ["snapshot", "m.onnx", *fed, "-o", "m.onnxscope.json"],
        ["check", "m.onnx", *fed],
        ["diff", "m.onnx", "m.onnx", *fed],
        ["report", "m.onnx", *fed, "-o", "page.html"],
    ]


@pytest.mark.acceptance
@pytest.mark.parametrize("name", FED)
def test_every_command_takes_what_a_user_has(name, tmp_path, monkeypatch, capsys):
    case = FED[name]
    monkeypatch.chdir(tmp_path)
    onnx.save(Wheels(tmp_path).model(Shipped(case.package, case.path, dict)), "m.onnx")
    for fed in (["-i", str(case.data(tmp_path)), *case.options], ["-i", "random:2"]):
        for command in commands(*fed):
            assert run([*command, "-q", *(["--force"] if "-o" in command else [])]) == 0, (command, capsys.readouterr())
        capsys.readouterr()
    fed = ["-i", str(case.data(tmp_path)), *case.options, "--recipe", "none"]
    assert run(["features", "m.onnx", *fed, "-s", "value:*", "-o", "all", "--arrays"]) == 0
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(names, case.by_hand(tmp_path)), strict=True))
    with open("all/features.npz", "rb") as stream:
        found = read_npz(stream, "features.npz", lambda members: {key: key for key in members})
    for output in names:
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-4)


@pytest.mark.acceptance
def test_every_command_takes_random_numbers(tmp_path, monkeypatch, capsys):
    wheels, faults = Wheels(tmp_path), []
    monkeypatch.chdir(tmp_path)
    for shipped in SHIPPED:
        onnx.save(wheels.model(shipped), "m.onnx")
        for command in commands("-i", "random"):
            code = run([*command, "-q", *(["--force"] if "-o" in command else [])])
            shown = capsys.readouterr()
            # Noise on a network of coarse codes may not reproduce, which is no fault: `diff` and `check` say so.
            if code not in ((0, 1) if command[0] in ("diff", "check") else (0,)):
                faults.append(f"{shipped.name}: {command[0]}: {shown.err[-300:]}")
    print(*faults, sep="\n")
    assert faults == []
