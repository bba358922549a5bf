"""The command `stats`: exit codes, output, messages, progress."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from planting import HALF_INPUT, overflowing_half

from onnxscope.cli.main import run
from onnxscope.profiling.profile import Profile

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL, INPUT = str(FIXTURES / "digits.onnx"), str(FIXTURES / "digits.npz")


def test_it_prints_a_table_and_writes_the_profile(tmp_path, capsys):
    assert run(["stats", MODEL, "-i", INPUT, "-o", str(tmp_path / "p.json")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("digits.onnx over 64 samples: 3 taps\n")
    assert "the profile is in" in err
    assert "peak memory" in err
    assert Profile.load(tmp_path / "p.json").samples == 64


def test_json_is_the_record(tmp_path, capsys):
    arguments = ["stats", MODEL, "-i", INPUT, "-o", str(tmp_path / "p.json"), "--format", "json", "-q", "--limit", "9"]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["samples"] == 9
    assert err == ""


def test_infinities_of_half_precision_are_said(tmp_path, capsys):
    onnx.save(overflowing_half(), tmp_path / "half.onnx")
    np.save(tmp_path / "x.npy", HALF_INPUT)
    paths = [str(tmp_path / name) for name in ("half.onnx", "x.npy", "p.json")]
    assert run(["stats", paths[0], "-i", paths[1], "-o", paths[2]]) == 0
    out, _ = capsys.readouterr()
    assert "Conv_1" in next(line for line in out.splitlines() if "infinities" in line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "dask"], f"no engine 'dask': {MODEL}\nhint: installed engines: local, ray"),
        (["--ray-address", "auto"], f"the local engine has no address: auto: {MODEL}\nhint: add `--engine ray`"),
        (["--workers", "0"], "Invalid value for '--workers'"),
        (["-o", "/nonexistent/p.json"], "cannot write (No such file or directory): /nonexistent/p.json"),
        (["--on-error", "maybe"], "Invalid value for '--on-error'"),
    ],
)
def test_what_cannot_be_done_ends_with_2(arguments, message, tmp_path, capsys):
    assert run(["stats", MODEL, "-i", INPUT, "-o", str(tmp_path / "p.json"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_broken_images_are_named_and_counted(tmp_path, capsys):
    for index in range(8):
        Image.fromarray(np.full((8, 8, 4), index, np.uint8)).save(tmp_path / f"{index}.png")
    for index in (2, 3, 4, 5, 6):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    command = ["stats", MODEL, "-i", str(tmp_path), "--preprocess", "none", "-o", str(tmp_path / "p.json")]
    assert run(command) == 2
    err = capsys.readouterr().err
    assert "samples cannot be read so far: " in err
    assert err.endswith("hint: `--on-error skip` leaves such samples out, and counts them\n")
    assert run([*command, "--on-error", "skip"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("digits.onnx over 3 samples, 5 skipped: 3 taps\n")
    assert "skipped sample 2, 2.png: " in err
    assert f"skipped 2 more samples; all of them are in {tmp_path / 'p.json'}" in err
    assert "3 samples: " in err


SLOW = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever runs the tests may ignore it
from onnxscope.profiling.shards import ShardWorker
from onnxscope.cli.main import main
work = ShardWorker.__call__
def slow(self, shard):
    time.sleep(float(os.environ["PAUSE_S"]) if shard.start else 0)
    return work(self, shard)
ShardWorker.__call__ = slow
main(sys.argv[1:])
"""


def test_ctrl_c_says_how_to_go_on(tmp_path):
    output = tmp_path / "p.json"
    command = [sys.executable, "-c", SLOW, "stats", MODEL, "-i", INPUT, "-o", str(output), "--batch-size", "1"]
    slow, fast = ({**os.environ, "PAUSE_S": seconds} for seconds in ("60", "0"))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slow)
    while not Path(f"{output}.partial").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert out == ""
    assert err == (
        f"onnxscope: error: interrupted; what is known so far is in {output}.partial\n"
        "hint: the same command with `--resume` goes on from there\n"
    )
    subprocess.run([*command, "--resume"], check=True, capture_output=True, env=fast)
    assert Profile.load(output).samples == 64


def test_progress_is_shown_on_a_terminal_only(tmp_path):
    command = [sys.executable, "-m", "onnxscope", "stats", MODEL, "-i", INPUT, "-o", str(tmp_path / "p.json")]
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not piece:
            break
        shown += piece
    assert child.wait() == 0
    os.close(ours)
    assert b"64 of 64 samples, " in shown
    assert b" a second" in shown
    silent = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a second" not in silent.stderr
