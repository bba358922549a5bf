"""A baseline names what is random or carries state, and a check what is so now."""

from __future__ import annotations

import json

import pytest
from unstable_models import X, dropping, noisy, quiet

import onnxscope
from onnxscope.errors import BaselineError
from onnxscope.gate.baseline import Baseline
from onnxscope.gate.unstable_records import notes_on_change

MESSAGE = "Dropout drop1 is in training mode: random; it reaches 2 of 3 layers and the output y; "
MESSAGE += "onnxruntime's optimizer drops it unless it is observed"


@pytest.mark.parametrize("inputs", [None, X])
def test_a_baseline_names_them_and_is_read_back(inputs, tmp_path):
    baseline = onnxscope.snapshot(dropping(), inputs)
    assert baseline.to_dict()["unstable"] == [{"kind": "random", "layer": "drop1", "message": MESSAGE}]
    baseline.save(tmp_path / "baseline.json")
    assert Baseline.load(tmp_path / "baseline.json") == baseline
    assert onnxscope.check(dropping(), tmp_path / "baseline.json", inputs).notes[-1] == MESSAGE


def test_a_baseline_of_a_model_without_any_says_nothing():
    baseline = onnxscope.snapshot(quiet(), X)
    assert "unstable" not in baseline.to_dict()
    assert onnxscope.check(quiet(), baseline, X).notes == ()


def test_what_is_new_or_gone_is_said():
    assert onnxscope.check(dropping(), onnxscope.snapshot(quiet())).notes == (f"not so in the baseline: {MESSAGE}",)
    assert onnxscope.check(quiet(), onnxscope.snapshot(dropping())).notes == (f"in the baseline alone: {MESSAGE}",)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "baseline.json"
    onnxscope.snapshot(noisy()).save(path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [row["kind"] for row in record["unstable"]] == ["stateful", "random", "random"]
    record["unstable"][1] = "random"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(BaselineError, match="no list of objects 'unstable'"):
        Baseline.load(path)
    record["unstable"][1:] = [{"kind": "random", "layer": "noise"}]
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(BaselineError, match=r"no text 'message' in unstable\[1\]"):
        Baseline.load(path)


def test_many_are_counted():
    rows = [{"kind": "random", "layer": "l", "message": f"node {number}"} for number in range(9)]
    notes = notes_on_change(rows, rows)
    assert notes == [*(f"node {number}" for number in range(5)), "4 more nodes are random or stateful, or were"]
