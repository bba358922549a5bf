"""The names that sources give: keys, members, columns, fields of rows, files for inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper

from onnxscope.errors import InputError
from onnxscope.inputs.given_names import names_given
from onnxscope.inputs.sources import NamedFiles, WrittenText
from onnxscope.model.stored_model import InputSpec

SPECS = [
    InputSpec("ids", "int64", ("b", "s")),
    InputSpec("state", "float32", (1, "b", 4)),
    InputSpec("age", "float32", ("b", 1)),
]


def safetensors(path, **arrays):
    header, start = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values()))


def test_what_names_its_inputs_and_what_names_none(tmp_path):
    array = np.ones((1, 2), np.float32)
    np.savez(tmp_path / "a.npz", ids=array, more=array)
    np.save(tmp_path / "a.npy", array)
    safetensors(tmp_path / "a.safetensors", state=array)
    (tmp_path / "a.csv").write_text("state,age,name\n1,2,3\n")
    (tmp_path / "a.jsonl").write_text('\n{"ids": [1], "state": [2], "note": "x"}\n{"age": 3}\n')
    (tmp_path / "text.jsonl").write_text('{"text": "state"}\n')
    (tmp_path / "a.txt").write_text("ids state age\n")
    named = {
        "a.npz": {"ids", "more"},
        "a.npy": set(),
        "a.safetensors": {"state"},
        "a.csv": {"age"},  # no column is of three axes
        "a.jsonl": {"ids", "state"},
        "text.jsonl": set(),
        "a.txt": set(),
    }
    for file, names in named.items():
        assert names_given([str(tmp_path / file)], SPECS) == names, file
    assert names_given([NamedFiles({"ids": "x.npy", "state": "0"})], SPECS) == {"ids", "state"}
    assert names_given([{"ids": array}, {"age": array}], SPECS) == {"ids", "age"}
    assert names_given([array, WrittenText("ids")], SPECS) == set()


def test_a_folder_with_a_file_for_each_input_names_all(tmp_path):
    tensor = numpy_helper.from_array(np.ones(2, np.float32)).SerializeToString()
    for count, named in ((1, set()), (2, set()), (3, {"ids", "state", "age"})):
        (tmp_path / f"input_{count - 1}.pb").write_bytes(tensor)
        assert names_given([str(tmp_path)], SPECS) == named


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"not a \.npz archive, or a broken one"):
        names_given([str(tmp_path / "a.npz")], SPECS)
