"""Models that packages ship, fed what people have: a photograph, writing, a table, and random numbers.

The packages are fetched when the proof runs (`make acceptance`); nothing of them is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
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


def line_of_writing(path: Path) -> Path:
    """One line of red on white, 320 x 48, as a detector of text cuts it out."""
    picture = Image.new("RGB", (320, 48), "white")
    font = ImageFont.truetype(str(FONT), 32)
    ImageDraw.Draw(picture).text((8, 6), "The quick brown", (180, 30, 30), font)
    picture.save(path / "line.png")
    return path / "line.png"


def of_line(path: Path) -> Feeds:
    return {"x": scaled(Image.open(line_of_writing(path)), 0.5, 0.5)[:, ::-1].copy()}  # BGR, as OpenCV reads it


PARAGRAPH = (
    b"import os\n\n# The longest name in a folder.\ndef longest(folder):\n    return max(os.listdir(folder), key=len)\n"
)


def content(path: Path) -> Path:
    """A paragraph as the numbers of its bytes: 1024 from its start and from its end, 256 for what is missing."""
    start, end = PARAGRAPH.lstrip(), PARAGRAPH.rstrip()
    codes = [*start, *[256] * (1024 - len(start)), *[256] * (1024 - len(end)), *end]
    np.save(path / "content.npy", np.array([codes], np.int32))
    return path / "content.npy"


def of_content(path: Path) -> Feeds:
    return {"bytes": np.load(content(path))}


def sine_sweep(path: Path) -> Path:
    time = np.arange(24_000) / 16_000
    soundfile.write(path / "sweep.wav", 0.4 * np.sin(2 * np.pi * (200 + 600 * time) * time), 16_000, subtype="FLOAT")
    return path / "sweep.wav"


HALF = json.dumps({"size": None, "divisor": 255, "mean": 0.5, "std": 0.5})


@dataclass(frozen=True)
class Fed:
    """A packaged model with data that its user has.

    Attributes:
        package: Its package.
        path: In the wheel.
        data: Makes what `-i` names.
        options: What the user says of it.
        by_hand: What it becomes, by Pillow and numpy; None where a model is stepped, which is proved elsewhere.
    """

    package: str
    path: str
    data: Callable[[Path], Path]
    options: tuple[str, ...]
    by_hand: Callable[[Path], Feeds] | None


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
    "a recogniser of text": Fed(
        "rapidocr-onnxruntime",
        f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx",
        line_of_writing,
        ("--preprocess", json.dumps({"size": None, "order": "BGR", "divisor": 255, "mean": 0.5, "std": 0.5})),
        of_line,
    ),
    "a teller of file types": Fed("magika", "magika/models/standard_v3_3/model.onnx", content, (), of_content),
    "a voice model": Fed(
        "silero-vad",
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        sine_sweep,
        ("--preprocess", json.dumps({"features": "wave", "rate": 16_000, "length": 576, "context": 64})),
        None,
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
    if case.by_hand is None:
        return
    fed = ["-i", str(case.data(tmp_path)), *case.options, "--recipe", "none"]
    assert run(["features", "m.onnx", *fed, "-s", "value:*", "-o", "all", "--arrays"]) == 0
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(names, case.by_hand(tmp_path)), strict=True))
    with open("all/features.npz", "rb") as stream:
        found = read_npz(stream, "features.npz", lambda members: {key: key for key in members})
    for output in names:
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-4)


# The own recogniser of the package, whose other parts need much that is not installed. OpenCV has nothing to do for a
# picture as high as the model takes it, to which the stand-in holds it.
RECOGNISE = """
import importlib, json, sys, types
import numpy as np
from PIL import Image
package, picture = sys.argv[1:]
def module(name, **holds):
    made = sys.modules[name] = types.ModuleType(name)
    made.__dict__.update(holds)
    return made
def resize(image, size):
    assert image.shape[1::-1] == tuple(size)
    return image
root = f"{package}/rapidocr_onnxruntime"
module("cv2", resize=resize)
module("rapidocr_onnxruntime", __path__=[root])
utils = module("rapidocr_onnxruntime.utils", __path__=[f"{root}/utils"], read_yaml=None)
utils.OrtInferSession = importlib.import_module("rapidocr_onnxruntime.utils.infer_engine").OrtInferSession
Recogniser = importlib.import_module("rapidocr_onnxruntime.ch_ppocr_rec.text_recognize").TextRecognizer
model = f"{root}/models/ch_PP-OCRv4_rec_infer.onnx"
recogniser = Recogniser({"model_path": model, "rec_batch_num": 6, "rec_img_shape": [3, 48, 320]})
run, made = recogniser.session, []
recogniser.session = lambda array: made.append(run(array)) or made[-1]
(((text, _),), _) = recogniser(np.asarray(Image.open(picture))[:, :, ::-1])
np.save("own.npy", made[0][0])
print(text)
"""
TELL = """
import sys
sys.path.insert(0, sys.argv[1])
from magika import Magika
told = Magika().identify_bytes(open(sys.argv[2], "rb").read())
print(told.dl.label, told.score)
"""


def told_by(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def output_of(name: str, tmp_path: Path, wheels: Wheels) -> np.ndarray:
    """The first output of a model that is fed as a user feeds it."""
    case = FED[name]
    onnx.save(wheels.model(Shipped(case.package, case.path, dict)), "m.onnx")
    output = onnx.load("m.onnx").graph.output[0].name
    command = ["features", "m.onnx", "-i", str(case.data(tmp_path)), *case.options, "-q", "-o", "all", "--arrays"]
    assert run([*command, "-s", f"value:{output}"]) == 0
    with open("all/features.npz", "rb") as stream:
        return np.asarray(read_npz(stream, "features.npz", lambda members: {key: key for key in members})[output])


@pytest.mark.acceptance
def test_a_recogniser_of_text_gives_what_its_package_gives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wheels = Wheels(tmp_path)
    found = output_of("a recogniser of text", tmp_path, wheels)
    text = told_by(RECOGNISE, wheels.unpacked("rapidocr-onnxruntime"), line_of_writing(tmp_path))
    assert text.replace(" ", "").strip() == "Thequickbrown"
    np.testing.assert_allclose(found, np.load("own.npy"), rtol=1e-4, atol=1e-6)


@pytest.mark.acceptance
def test_a_teller_of_file_types_gives_what_its_package_gives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wheels = Wheels(tmp_path)
    found = output_of("a teller of file types", tmp_path, wheels)[0]
    (tmp_path / "paragraph").write_bytes(PARAGRAPH)
    package = wheels.unpacked("magika")
    label, score = told_by(TELL, package, tmp_path / "paragraph").split()
    labels = json.loads((package / "magika/models/standard_v3_3/config.min.json").read_text())["target_labels_space"]
    assert (labels[int(found.argmax())], label) == ("python", "python")
    assert abs(float(found.max()) - float(score)) < 1e-5


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
