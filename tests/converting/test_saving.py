"""A model is written whole or not at all, in two files where one cannot hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxscope.converting.saving import save_model
from onnxscope.errors import OutputError


def _weights() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    rng = np.random.default_rng(0)
    for index, size in enumerate((1000, 3, 2000)):
        array = rng.standard_normal(size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"w{index}"))
    return model


def test_small_models_are_one_file(tmp_path):
    assert not save_model(_weights(), str(tmp_path / "m.onnx"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == _weights().SerializeToString(deterministic=True)


def test_large_models_are_two_files_that_load_as_one(tmp_path):
    assert save_model(_weights(), str(tmp_path / "m.onnx"), limit_bytes=5000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert [t.data_location == t.EXTERNAL for t in bare.graph.initializer] == [True, False, True]
    loaded = onnx.load(tmp_path / "m.onnx")
    for stored, expected in zip(loaded.graph.initializer, _weights().graph.initializer, strict=True):
        assert stored.raw_data == expected.raw_data
    assert all(int(e.value) % 4096 == 0 for t in bare.graph.initializer for e in t.external_data if e.key == "offset")


@pytest.mark.parametrize("blocked", ["m.onnx", "m.onnx.data"])
def test_two_files_are_written_both_or_neither(tmp_path, blocked):
    (tmp_path / blocked).mkdir()  # a folder cannot be replaced by a file
    (tmp_path / blocked / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="cannot write"):
        save_model(_weights(), str(tmp_path / "m.onnx"), limit_bytes=5000)
    assert [p.name for p in tmp_path.iterdir()] == [blocked]
    assert [p.name for p in Path(tmp_path, blocked).iterdir()] == ["mine.txt"]
