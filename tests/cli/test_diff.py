"""The command `diff`: exit codes, output, messages."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from planting import scaled

from onnxscope.cli.main import run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
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
    start = "differs: the first layer that diverges is down.0; the difference comes from down.0 (relative 0.1"
    assert last.startswith(start)
    assert last.endswith("; 1 weight changed")


def test_without_an_input_it_says_so(changed, capsys):
    assert run(["diff", DIGITS, DIGITS]) == 0
    out, err = capsys.readouterr()
    assert out == "equal: 4 layers and 1 output, weights and structure only; nothing was run\n"
    assert err == "nothing was run: weights and structure alone are compared; -i names an input\n"
    assert run(["diff", DIGITS, changed, "-i", INPUT, "--weights-only", "-q"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "differs: the difference comes from down.0; 1 weight changed"
    assert err == ""


def test_json_is_the_record(changed, capsys):
    assert run(["diff", DIGITS, changed, "-i", INPUT, "--format", "json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["guilty"][0]["a"]["layer"] == "down.0"
    assert record["equal"] is False


def test_a_tolerance_forgives_what_its_numbers_allow(capsys):
    command = ["diff", DIGITS, QDQ, "-i", INPUT, "--format", "json", "--atol"]
    assert run([*command, "5"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert not any(row["differs"] for row in record["layers"])
    assert {(change["change"], change["counts"]) for change in record["weights"]} == {("quantized", False)}
    assert run([*command, "1e-3"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert ("quantized", True) in {(change["change"], change["counts"]) for change in record["weights"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DIGITS], "Missing argument 'B'"),
        ([DIGITS, "missing.onnx"], "no such file: missing.onnx"),
        ([DIGITS, DIGITS, "-i", "missing.png", "--preprocess", "none"], "missing.png"),
        ([DIGITS, DIGITS, "--rtol", "-1"], "Invalid value for '--rtol'"),
        ([DIGITS, DIGITS, "-i", INPUT, "-s", "nope"], "nothing matches the selector 'nope': digits.onnx"),
        ([DIGITS, DIGITS, "--replace", "down.0=zero"], "nothing is run, so nothing can be replaced"),
        ([DIGITS, DIGITS, "-i", INPUT, "--explain", "--replace", "down.0=zero"], "--extract take B as it is"),
    ],
)
def test_what_cannot_be_done_ends_with_2(arguments, message, capsys):
    assert run(["diff", *arguments]) == 2
    assert message in capsys.readouterr().err


def matrices(path, data, count, side):
    """A chain of matrices whose weights lie in an external file of that many bytes."""
    tensors, nodes = [], []
    for index in range(count):
        tensor = onnx.TensorProto(name=f"layer{index}.weight", data_type=onnx.TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        length = side * side * 4
        for key, value in (("location", data.name), ("offset", index * length), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"h{index}", tensor.name], [f"h{index + 1}"]))
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", side]) for name in ("h0", f"h{count}")
    ]
    graph = helper.make_graph(nodes, "big", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def private_bytes(child):
    """The largest memory of a process that no file backs, sampled until it ends."""
    largest = 0
    while child.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child.pid}/status").read_text()
            found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
            largest = max(largest, int(found[1]) * 1024 if found else 0)
        time.sleep(0.01)
    return largest


@pytest.mark.acceptance
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory by kind is read from /proc")
def test_weights_of_more_than_two_gigabytes_are_compared_in_little_memory(tmp_path):
    count, side = 33, 4096
    rng = np.random.default_rng(0)
    with open(tmp_path / "a.data", "wb") as stream:
        for _ in range(count):
            stream.write(rng.standard_normal((side, side), np.float32).data)
    assert (tmp_path / "a.data").stat().st_size > 2 << 30
    shutil.copyfile(tmp_path / "a.data", tmp_path / "b.data")
    with open(tmp_path / "b.data", "r+b") as stream:
        stream.seek(20 * side * side * 4 + 4 * (7 * side + 5))  # row 7, column 5 of the twenty-first
        stream.write(np.float32(9).tobytes())
    for name in ("a", "b"):
        matrices(tmp_path / f"{name}.onnx", tmp_path / f"{name}.data", count, side)
    command = [sys.executable, "-m", "onnxscope", "diff", "a.onnx", "b.onnx", "--weights-only", "--format", "json"]
    start = time.monotonic()
    with open(tmp_path / "out.json", "wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, cwd=tmp_path)
        largest = private_bytes(child)
    print(f"2 x 2.2 GB: {time.monotonic() - start:.0f} s, {largest / 1e6:.0f} MB that no file backs")
    assert child.returncode == 1
    record = json.loads((tmp_path / "out.json").read_text())
    (change,) = record["weights"]
    assert (change["a"], change["change"], change["channels"]) == ("layer20.weight", "changed", [5])
    assert "1 of 16,777,216 numbers" in change["message"]
    assert [pair["a"]["layer"] for pair in record["guilty"]] == ["layer20"]
    assert largest < 300e6
