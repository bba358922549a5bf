"""Who says how data becomes numbers, in which order, and where it is looked for."""

from __future__ import annotations

from onnxscope.readers.ways_said import file_beside, first_said


def never():
    raise AssertionError("nobody should have looked")


def test_what_is_asked_for_goes_before_what_is_recorded_and_that_before_what_lies_beside():
    assert first_said(lambda: 1, never, never) == (1, "asked")
    assert first_said(None, lambda: 2, never) == (2, "recorded")
    assert first_said(None, None, lambda: 3) == (3, "beside")
    assert first_said(None, lambda: None, lambda: 3) == (3, "beside")
    assert first_said(None, lambda: None, lambda: None) == (None, None)


def test_a_file_is_looked_for_above_a_folder_called_onnx_alone(tmp_path):
    for name in ("onnx", "ONNX", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "x.json").write_text("{}")
    assert file_beside(None, "x.json") is None
    assert file_beside(tmp_path, "x.json") == tmp_path / "x.json"
    assert file_beside(tmp_path / "onnx", "x.json") == tmp_path / "x.json"
    assert file_beside(str(tmp_path / "ONNX"), "x.json") == tmp_path / "x.json"
    assert file_beside(tmp_path / "other", "x.json") is None
    (tmp_path / "onnx" / "x.json").write_text("{}")
    assert file_beside(tmp_path / "onnx", "x.json") == tmp_path / "onnx" / "x.json"
