"""A `.safetensors` file as a model of weights alone; whatever a header may say is checked first."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import onnxscope
from onnxscope.checkpoints.checkpoint import load_checkpoint, load_weights
from onnxscope.cli.main import run
from onnxscope.errors import ModelError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def written(path, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def row(first=0, last=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_statistics_are_those_of_the_arrays_in_the_file():
    arrays = safetensors.numpy.load_file(FIXTURES / "digits.safetensors")
    statistics = onnxscope.weights(FIXTURES / "digits.safetensors")
    assert {row.parameter.name for row in statistics} == set(arrays)
    assert not statistics.absent
    assert not statistics.left_out
    for row in statistics:
        wide = arrays[row.parameter.name].astype(np.float64)
        overall = row.summary.overall
        assert row.parameter.shape == wide.shape
        assert row.parameter.layer == ""
        assert (overall.min, overall.max) == (wide.min(), wide.max())
        assert overall.mean == pytest.approx(wide.mean(), rel=1e-6)
        assert overall.std is None if wide.size < 2 else overall.std == pytest.approx(wide.std(ddof=1), rel=1e-6)
        counts, _ = np.histogram(wide, 50)
        assert list(row.summary.histogram.counts) == counts.tolist()


def test_every_element_type_and_the_order_of_numbers(tmp_path):
    rng = np.random.default_rng(0)
    kinds = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16, np.float64]
    kinds += [np.int8, np.int16, np.int64, np.uint8]
    arrays = {
        f"layer.{place}.w": rng.normal(0, 20, (3, 5)).astype(np.int64).astype(kind) for place, kind in enumerate(kinds)
    }
    arrays |= {"layer.10.w": np.array([True, False]), "empty": np.zeros((0, 3), np.float32), "one": np.array(3.0)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    statistics = onnxscope.weights(str(tmp_path / "a.safetensors"))
    names = [row.parameter.name for row in statistics]
    assert names == ["empty", *(f"layer.{place}.w" for place in range(len(kinds))), "layer.10.w", "one"]
    for row in statistics:
        wide = arrays[row.parameter.name].astype(np.float64)
        assert row.summary.overall.count == wide.size
        if wide.size:
            assert row.summary.overall.max == wide.max()


def test_numbers_of_less_than_a_byte(tmp_path):
    written(tmp_path / "a.safetensors", {"q": row(0, 2, "F4", (4,))}, bytes([0x21, 0x43]))
    [found] = onnxscope.weights(tmp_path / "a.safetensors")
    assert (found.summary.overall.min, found.summary.overall.max) == (0.5, 2.0)  # codes 1 to 4 of e2m1


def test_a_selection_and_complex_numbers(tmp_path):
    written(tmp_path / "a.safetensors", {"z": row(0, 8, "C64", (1,)), "w": row(8, 16)}, bytes(16))
    statistics = onnxscope.weights(tmp_path / "a.safetensors")
    assert [found.parameter.name for found in statistics] == ["w"]
    assert statistics.absent == (("z", "complex numbers"),)
    chosen = onnxscope.weights(FIXTURES / "digits.safetensors", select="block.1.*")
    assert len(chosen) == 5


def test_links_of_a_hub_and_other_processes(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    safetensors.numpy.save_file({"w": np.arange(3.0)}, tmp_path / "blobs" / "0af3")
    link = tmp_path / "snapshots" / "model.safetensors"
    os.symlink("../blobs/0af3", link)
    checkpoint = load_weights(link)
    assert checkpoint.name == "model.safetensors"
    again = pickle.loads(pickle.dumps(checkpoint))
    assert again.digest == checkpoint.digest
    assert again.array(again.main.initializers["w"]).tolist() == [0, 1, 2]


HOSTILE = {
    "nothing but a length": (b"", b"", 5, "not a .safetensors file"),
    "a huge header": (b"{}", b"", 1 << 40, "not a .safetensors file"),
    "no JSON": (b"{]", b"", None, "not a .safetensors file"),
    "a list": (b"[1, 2]", b"", None, "not a .safetensors file"),
    "deep": (b"[" * 100_000, b"", None, "not a .safetensors file"),
    "a number for a row": ({"w": 3}, b"", None, "'w'"),
    "beyond the end": ({"w": row(0, 8)}, bytes(7), None, "no such place"),
    "before the start": ({"w": row(-8, 0)}, bytes(8), None, "no such place"),
    "backwards": ({"w": row(8, 0)}, bytes(8), None, "do not take"),
    "overlapping": ({"v": row(0, 8), "w": row(4, 12)}, bytes(12), None, "'v' and 'w' lie in one another"),
    "one place twice": ({"v": row(0, 8), "w": row(0, 8)}, bytes(8), None, "lie in one another"),
    "an unknown type": ({"w": row(0, 8, "F31")}, bytes(8), None, "unknown element type 'F31'"),
    "a type that is a list": ({"w": row(0, 8, ["F32"])}, bytes(8), None, "unknown element type"),
    "the wrong type": ({"w": row(0, 8, "F64")}, bytes(8), None, "do not take 8 bytes"),
    "more numbers than bytes": ({"w": row(0, 8, shape=(1 << 40, 1 << 40))}, bytes(8), None, "do not take"),
    "a side beyond 64 bits": ({"w": row(0, 0, shape=(1 << 70, 0))}, b"", None, "w"),
    "a fraction": ({"w": row(0, 8, shape=(2.0,))}, bytes(8), None, "no such place"),
    "half a pair": (b'{"\\ud800": ' + json.dumps(row()).encode() + b"}", bytes(8), None, "safetensors"),
    "a name twice": (b'{"w": 1, "w": 2}', b"", None, "stands in it twice"),
    "no name": ({"": row()}, bytes(8), None, "empty name"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, capfd, case):
    header, data, length, message = HOSTILE[case]
    path = written(tmp_path / "a.safetensors", header, data, length=length)
    with pytest.raises(ModelError, match=re.escape(message)):
        load_checkpoint(path)
    assert run(["weights", str(path)]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("hint")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_broken_header_is_never_a_traceback(tmp_path):
    content = (FIXTURES / "digits.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    rng, messages = np.random.default_rng(7), []
    for _ in range(150):
        broken = bytearray(content)
        for place in rng.integers(0, end, rng.integers(1, 4)):
            broken[place] = rng.choice(list(b'0123456789[]{},:"F\\\x00\xff'))
        path = tmp_path / "a.safetensors"
        path.write_bytes(bytes(broken[: rng.integers(1, len(content))]) if rng.random() < 0.3 else bytes(broken))
        try:
            assert load_checkpoint(path).parameters is not None
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 75
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("name", ["model.pth", "model.PT", "pytorch_model.bin"])
def test_a_pickle_is_refused(tmp_path, capfd, name):
    (tmp_path / name).write_bytes(b"anything")
    for command in (["weights"], ["diff", str(FIXTURES / "digits.onnx")]):
        assert run([*command, str(tmp_path / name)]) == 2
        lines = capfd.readouterr().err.splitlines()
        assert lines[0].startswith("onnxscope: error: a pickle, which is code and is not read: ")
        assert "safetensors.torch.save_file" in lines[1]


def test_other_commands_say_which_take_a_checkpoint(capfd):
    assert run(["inspect", str(FIXTURES / "digits.safetensors")]) == 2
    assert "hint: `weights` and `diff` take checkpoints" in capfd.readouterr().err


def test_the_command_takes_a_checkpoint(capsys):
    assert run(["weights", str(FIXTURES / "digits.safetensors"), "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["weights"]) == 16
    assert record["model"]["name"] == "digits.safetensors"
