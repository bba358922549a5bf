"""What both converters say about checkpoints."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import safetensors.numpy

from onnxscope.converting.checkpoints import check_fit, find_checkpoint, read_safetensors
from onnxscope.errors import ConversionError


def test_a_checkpoint_is_a_file(tmp_path):
    (tmp_path / "w.pth").write_text("anything")
    assert find_checkpoint(str(tmp_path / "w.pth")) == tmp_path / "w.pth"
    with pytest.raises(ConversionError, match=r"^not a file: "):
        find_checkpoint(str(tmp_path))
    with pytest.raises(ConversionError, match=r"^no such checkpoint: .*v\.pth$"):
        find_checkpoint(str(tmp_path / "v.pth"))


def test_safetensors_are_read_by_name(tmp_path):
    path = str(tmp_path / "w.safetensors")
    stored = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], np.int64)}
    safetensors.numpy.save_file(stored, path)
    read = read_safetensors(path, "numpy", extra="made")
    assert read.keys() == stored.keys()
    for name, array in stored.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_what_is_no_safetensors_is_said(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_text("these are no weights")
    with pytest.raises(ConversionError, match=rf"^not a safetensors file \(SafetensorError: .*\): {path}$"):
        read_safetensors(str(path), "numpy", extra="made")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ConversionError, match=r"^reading it needs safetensors, which is not installed: ") as caught:
        read_safetensors(str(path), "numpy", extra="made")
    assert caught.value.hint == "pip install 'onnxscope[made]'"


def test_a_checkpoint_that_is_the_model_s_fits():
    check_fit({"a": (2,), "steps": ()}, {"a": (2,)}, "w.pth", optional={"steps"})


def test_everything_that_does_not_fit_is_counted_and_the_first_named():
    own = {"a": (2,), "b": (3,), "c": (4,), "d": (5, 6), "steps": ()}
    stored = {"b": (3,), "c": (9,), "d": (6, 5), "x\x1b": (1,)}
    with pytest.raises(ConversionError) as caught:
        check_fit(own, stored, "w.pth", optional={"steps"})
    assert str(caught.value) == (
        "the checkpoint does not fit the model (1 missing, first 'a'; 1 unexpected, first 'x\\x1b'; "
        "2 wrongly shaped, first 'c': (9,) in the file, (4,) in the model): w.pth"
    )
    assert "num_classes" in caught.value.hint
    with pytest.raises(ConversionError, match=r"\(1 missing, first 'steps'\)"):
        check_fit({"steps": ()}, {}, "w.pth")
