"""The commands: exit codes, what goes to stdout and what to stderr, every message that a user can meet."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from compared_models import KIND_INPUT, KINDS_OF_OUTPUT, with_output

from onnxscope.cli.main import cli, run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = str(FIXTURES / "digits.onnx")
IMAGES = str(FIXTURES / "digits.npz")


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments):
        code = run(list(arguments))
        return (code, *capsys.readouterr())

    return run_command


def assert_refused(answer, message, hint=None):
    code, out, err = answer
    lines = err.splitlines()
    assert code == 2
    assert out == ""
    assert lines[0] == f"onnxscope: error: {message}"
    assert len(lines) == (2 if hint else 1)
    if hint:
        assert lines[1] == f"hint: {hint}"


def test_the_program_alone_prints_its_help(call):
    code, out, err = call()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: onnxscope [OPTIONS] COMMAND [ARGS]...\n")
    assert "\n  inspect " in err
    assert err == call("--help")[1]


def test_inspect(call):
    code, out, err = call("inspect", DIGITS)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("digits.onnx: ")
    assert "stem.0" in out


def test_weights_in_every_format(call):
    code, out, _ = call("weights", DIGITS, "--format", "json", "--bins", "7")
    assert code == 0
    assert len(json.loads(out)["weights"][0]["histogram"]["counts"]) == 7
    _, out, _ = call("weights", DIGITS, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["parameter"] == "stem.0.weight"
    assert float(rows[0]["min"]) < 0
    _, out, _ = call("weights", DIGITS, "--format", "md")
    assert "| stem.0.weight |" in out
    code, out, err = call("weights", DIGITS)
    assert "stem.0.weight" in out
    assert "2 parameters are not in the file, the first block.1.num_batches_tracked: counter" in err
    assert "\x1b" not in out


def test_weights_pictures(call, tmp_path):
    code, _, err = call("weights", DIGITS, "-o", "w", "--select", "stem.0")
    assert code == 0
    assert err == "2 histograms and weights.json are in w\n"
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == [
        *("000_kernels_stem.0.weight.png", "001_stem.0.weight.svg", "002_stem.0.bias.svg", "weights.json")
    ]


def test_features(call, tmp_path):
    code, out, err = call("features", DIGITS, "-i", IMAGES, "-o", "f", "--arrays", "--verify", "--format", "json")
    assert code == 0
    record = json.loads(out)
    assert record == json.loads((tmp_path / "f" / "features.json").read_text(encoding="utf-8"))
    assert record["tapping"]["relative"] < 1e-5
    assert "3 pictures and features.json are in f" in err
    with np.load(tmp_path / "f" / "features.npz") as archive:
        assert archive["relu"].shape == (64, 16, 8, 8)


def test_quiet_says_nothing(call):
    _, _, err = call("features", DIGITS, "-i", "random", "-o", "f", "-q")
    assert err == ""


def test_random_input_says_that_it_is_random(call):
    _, out, err = call("features", DIGITS, "-i", "random:3", "-o", "f")
    assert "random" in err
    assert "random numbers" in out


def test_doctor(call):
    code, out, _ = call("doctor", "--format", "json")
    found = json.loads(out)["found"]
    assert code == 0
    assert found["onnxruntime"] == version("onnxruntime")
    assert "CPUExecutionProvider" in found["execution providers"]


@pytest.mark.parametrize("kind", KINDS_OF_OUTPUT)
def test_an_output_of_any_kind_ends_no_command(kind, call):
    np.save("x.npy", KIND_INPUT)
    for name, k in (("a.onnx", 2.0), ("b.onnx", 3.0)):
        onnx.save(with_output(kind, k), name)
    for command, expected in {
        "diff a.onnx a.onnx": 0,
        "diff a.onnx b.onnx": 1,  # a stored number is another, whether it shows or not
        "stats a.onnx --select value:* -o p.json": 0,
        "features a.onnx --select value:* -o pictures --arrays --verify": 0,
        "report a.onnx --against b.onnx --select value:* -o r.html": 0,
        "snapshot a.onnx -o s.json": 0,
        "check a.onnx --baseline s.json": 0,
        "check b.onnx --baseline s.json": 1,
    }.items():
        code, _, err = call(*command.split(), "-i", "x.npy")
        assert (command, code) == (command, expected), err
        assert "error" not in err


def test_a_missing_file(call):
    assert_refused(call("inspect", "nowhere.onnx"), "no such file: nowhere.onnx", "check the path")


def test_a_text_file(call, tmp_path):
    (tmp_path / "notes.onnx").write_text("this is no model\n" * 9)
    code, out, err = call("weights", "notes.onnx")
    assert (code, out) == (2, "")
    assert err.startswith("onnxscope: error: not an ONNX model (")
    assert err.splitlines()[1] == "hint: give a file that an ONNX exporter wrote"


def test_an_unknown_selector_lists_the_closest(call):
    assert_refused(
        call("features", DIGITS, "-i", "random", "-o", "f", "--select", "stem.9"),
        "nothing matches the selector 'stem.9': digits.onnx",
        "closest names: stem.1, stem.0, stem, stem.0.bias; `onnxscope inspect digits.onnx` lists the layers",
    )
    assert not Path("f").exists()


def test_a_wrong_input_name(call, tmp_path):
    np.savez(tmp_path / "wrong.npz", digit=np.zeros((1, 1, 8, 8), np.float32))
    code, _, err = call("features", DIGITS, "-i", "wrong.npz", "-o", "f")
    assert code == 2
    assert "'digit'" in err
    assert "digits" in err.splitlines()[1]


def test_an_image_that_is_none(call, tmp_path):
    (tmp_path / "photo.jpg").write_text("no picture")
    code, _, err = call("features", DIGITS, "-i", "photo.jpg", "-o", "f", "--preprocess", "unit")
    assert code == 2
    assert "photo.jpg" in err.splitlines()[0]
    assert len(err.splitlines()) <= 2


def test_an_unknown_preset(call, tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    code, _, err = call("features", DIGITS, "-i", "photo.png", "-o", "f", "--preprocess", "imagnet")
    assert code == 2
    assert "'imagnet'" in err
    assert "`--preprocess half`, unit, none, letterbox" in err  # of those that fit one channel


def test_a_preset_has_to_be_named(call, tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    code, _, err = call("features", DIGITS, "-i", "photo.png", "-o", "f")
    assert code == 2
    assert "--preprocess" in err


def test_an_unknown_colour_map_costs_no_run(call):
    code, _, err = call("features", DIGITS, "-i", "random", "-o", "f", "--cmap", "virids")
    assert code == 2
    assert "virids" in err.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message", "command"),
    [
        (["weights"], "Missing argument 'MODEL'", "onnxscope weights"),
        (["frobnicate"], "No such command 'frobnicate'", "onnxscope"),
        (["inspect", "m", "--bins", "3"], "No such option '--bins'", "onnxscope inspect"),
        (["convert", "torch", "alexnet", "-o", "m", "--arg", "x"], "not a K=V: 'x'", "onnxscope convert"),
        (["convert", "torch", "alexnet", "-o", "m", "--input-shape", "1,a"], "not a shape: '1,a'", "onnxscope convert"),
    ],
)
def test_usage_errors_end_with_2(call, arguments, message, command):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"onnxscope: error: {message}")
    assert second == f"hint: `{command} --help` shows how it is used"


def test_an_unknown_framework(call):
    assert_refused(
        call("convert", "jax", "net", "-o", "m.onnx"),
        "no converter for 'jax': net",
        "installed converters: tensorflow, torch",
    )


def test_an_unexpected_fault_is_one_line_and_debug_shows_it(call, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("onnxscope.analyses.inspection.inspect", broken)
    assert_refused(
        call("inspect", DIGITS),
        "unexpected RuntimeError: first line",
        "this is a fault of onnxscope; --debug shows where",
    )
    with pytest.raises(RuntimeError):
        run(["inspect", DIGITS, "--debug"])


def test_a_folder_that_cannot_be_written(call, tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, err = call("features", DIGITS, "-i", "random", "-o", "taken")
    assert code == 2
    assert err.splitlines()[-1].startswith("onnxscope: error: cannot make the folder (")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: onnxscope {name}")
    for option in ("--format", "--quiet", "--debug"):
        assert option in out


def test_version(call):
    code, out, _ = call("--version")
    assert code == 0
    assert out.startswith("onnxscope, version ")


def test_shell_completion_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "onnxscope"],
        env={**os.environ, "_ONNXSCOPE_COMPLETE": "bash_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_onnxscope_completion" in done.stdout


def test_every_command_that_runs_a_model_takes_the_axis_of_samples():
    options = {
        name: {option for part in command.params for option in part.opts} for name, command in cli.commands.items()
    }
    running = {name for name, names in options.items() if "--input" in names}
    assert running >= {"features", "stats", "diff", "snapshot", "check", "report"}
    assert [name for name in sorted(running) if "--batch-axis" not in options[name]] == []
