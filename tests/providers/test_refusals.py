"""What onnxruntime says of what it refuses, in a line."""

from __future__ import annotations

from pathlib import Path

from onnxscope.providers.refusals import ends_process, library_reason, provider_reason, reason_of


def test_a_reason_is_without_places_in_onnxruntimes_source():
    text = "[ONNXRuntimeError] : 1 : FAIL : /b/onnxruntime_src/utils.cc:295 void onnxruntime::f(int) no such node.\nx"
    assert reason_of(RuntimeError(text)) == "no such node"
    assert reason_of(RuntimeError()) == "RuntimeError"


def test_a_wrong_shape_says_which_axes():
    lines = ["[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for the following indices"]
    lines += [" index: 1 Got: 4 Expected: 3", " index: 2 Got: 5 Expected: 8", " Please fix"]
    reason = reason_of(RuntimeError("\n".join(lines)))
    assert reason.endswith("indices: index: 1 Got: 4 Expected: 3, index: 2 Got: 5 Expected: 8")


def test_a_plug_in_says_its_places_first():
    assert provider_reason(RuntimeError("Exception from src/a.cpp:12:\nno such operator.\n")) == "no such operator"
    assert provider_reason(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : refused")) == "refused"


def test_a_librarys_reason_is_without_its_path():
    path = Path("own.so")
    text = "[ONNXRuntimeError] : 1 : FAIL : Failed to load library, with error: own.so: file too short"
    assert library_reason(RuntimeError(text), path) == "file too short"
    assert library_reason(RuntimeError(), path) == "RuntimeError"


def test_a_process_that_ends_by_itself_is_told_from_one_that_is_killed():
    assert ends_process("import os; os.abort()", Path("a"))
    assert not ends_process("raise SystemExit(1)", Path("a"))
