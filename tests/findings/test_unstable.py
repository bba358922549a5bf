"""Random and stateful nodes as findings: in statistics, in a profile's file, and in what deserves attention."""

from __future__ import annotations

import json

import onnxruntime
import pytest
from unstable_models import X, dropping, noisy, quiet

import onnxscope
from onnxscope.errors import ProfileError
from onnxscope.findings.unstable import find_unstable_layers
from onnxscope.model.loading import load_model
from onnxscope.profiling.profile import Profile

MESSAGE = "Dropout drop1 is in training mode: random; it reaches 2 of 3 layers and the output y; "
MESSAGE += "onnxruntime's optimizer drops it unless it is observed"


def test_each_node_is_a_finding():
    (finding,) = find_unstable_layers(load_model(dropping()))
    assert finding.to_dict() == {"kind": "random", "layer": "drop1", "channel": None, "message": MESSAGE}
    kinds = [finding.kind for finding in find_unstable_layers(load_model(noisy()))]
    assert kinds == ["stateful", "random", "random"]
    assert find_unstable_layers(load_model(quiet())) == ()


def test_statistics_name_them_also_after_a_profile_is_merged_and_read_back(tmp_path):
    statistics = onnxscope.stats(dropping(), X, output=tmp_path / "whole.json")
    assert [finding.message for finding in statistics.findings if finding.kind == "random"] == [MESSAGE]
    loaded = Profile.load(tmp_path / "whole.json")
    assert loaded.unstable == statistics.profile.unstable
    assert loaded.to_dict()["unstable"] == [{"kind": "random", "layer": "drop1", "message": MESSAGE}]
    empty = onnxscope.stats(quiet(), X, output=tmp_path / "quiet.json")
    assert empty.profile.unstable == ()
    assert not {"random", "stateful"} & {finding.kind for finding in empty.findings}


def test_a_file_without_them_is_read_and_a_wrong_one_is_refused(tmp_path):
    path = tmp_path / "profile.json"
    onnxscope.stats(dropping(), X, output=path)
    record = json.loads(path.read_text(encoding="utf-8"))
    record["unstable"][0]["kind"] = "odd"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"the kind 'odd' in unstable\[0\]"):
        Profile.load(path)
    del record["unstable"]
    path.write_text(json.dumps(record), encoding="utf-8")
    assert Profile.load(path).unstable == ()


def test_a_report_names_them_once_with_and_without_inputs():
    for inputs in (None, X):
        attention = onnxscope.report(dropping(), inputs).content.attention
        assert [remark.message for remark in attention if remark.kind == "random"] == [MESSAGE]
        assert {remark.weight for remark in attention if remark.kind == "random"} == {"warn"}
        kinds = {remark.kind for remark in onnxscope.report(quiet(), inputs).content.attention}
        assert not kinds & {"random", "stateful"}


def test_the_models_are_what_these_tests_take_them_for():
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(dropping().SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [session.run(["y"], {"x": X})[0] for _ in range(5)]
    assert any((run != runs[0]).any() for run in runs)
    session = onnxruntime.InferenceSession(quiet().SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(["y"], {"x": X})[0] for _ in range(5)]
    assert all((run == runs[0]).all() for run in runs)
