"""Libraries of custom operators that the user names, against plain onnxruntime with the same library."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.comparison.with_framework import FrameworkValue, compare_with_framework
from onnxscope.errors import InputError, RunError
from onnxscope.model.loading import load_model
from onnxscope.runtime.custom_libraries import holds_operator
from onnxscope.runtime.custom_operators import cut_off

extensions = pytest.importorskip("onnxruntime_extensions")
LIBRARY = Path(extensions.get_library_path()).resolve()
X = np.array([[2, 1], [1, 3]], np.float32)


def inverting(operator="Inverse", weight=2):
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17, "ai.onnx.contrib": 1]>
        g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {{1, 0, 0, {weight}}}> {{
            h = MatMul(x, w)  i = ai.onnx.contrib.{operator}(h)  y = MatMul(i, w) }}""")


def expected(weight=2):
    w = np.array([[1, 0], [0, weight]], np.float32)
    return np.linalg.inv(X @ w) @ w


@pytest.fixture
def files(tmp_path):
    path, other, data = tmp_path / "m.onnx", tmp_path / "other.onnx", tmp_path / "x.npy"
    onnx.save(inverting(), path)
    onnx.save(inverting(weight=3), other)
    np.save(data, X)
    return path, other, data


def test_every_function_runs_the_operators_of_a_library():
    model, other = inverting(), inverting(weight=3)
    maps = onnxscope.features(model, X, select="value:*", custom_ops=LIBRARY, verify=True)
    seen = {tap.tap.value: tap.data for tap in maps}
    np.testing.assert_allclose(seen["y"], expected(), rtol=1e-5)
    assert maps.unreachable == ()
    statistics = onnxscope.stats(model, X, select="value:y", custom_ops=[LIBRARY])
    assert statistics[0].overall.mean == pytest.approx(expected().mean(), rel=1e-5)
    assert onnxscope.diff(model, model, X, custom_ops=[str(LIBRARY)]).equal
    result = onnxscope.diff(model, other, X, custom_ops=LIBRARY)
    assert result.verdict == "differs"
    assert not any("two sessions" in note for note in result.notes)
    baseline = onnxscope.snapshot(model, X, custom_ops=LIBRARY)
    assert [row["max"] for row in baseline.layers][-1] == pytest.approx(float(expected().max()), rel=1e-5)
    assert onnxscope.check(model, baseline, X, custom_ops=LIBRARY).ok
    assert not onnxscope.check(other, baseline, X, custom_ops=LIBRARY).ok
    assert onnxscope.report(model, X, against=other, custom_ops=LIBRARY).content.comparison.verdict == "differs"


def test_a_framework_s_values_are_compared_through_the_operators_of_a_library():
    model = inverting()
    for name, operator in (("fc", "MatMul"), ("fc2", "MatMul")):
        node = next(node for node in model.graph.node if node.op_type == operator and not node.metadata_props)
        node.metadata_props.add(key="onnxscope.layer", value=name)
    w = np.array([[1, 0], [0, 2]], np.float32)
    calls = [FrameworkValue("fc", "Linear", X @ w), FrameworkValue("fc2", "Linear", expected().astype(np.float32))]

    def verdict(outputs, **options):
        loaded = load_model(model, **options)
        return compare_with_framework(loaded, {"x": X}, calls, outputs, framework="numpy", channels_last=True)

    right = [expected().astype(np.float32)]
    assert verdict(right, custom_ops=LIBRARY).verdict == "equal"
    assert verdict([right[0] * 1.01], custom_ops=LIBRARY).verdict == "differs"
    without = verdict(right)
    assert without.verdict == "undecided"
    assert [row.layer for row in without.undecided] == ["fc2", "y"]
    assert "`--custom-ops` names its library" in without.undecided[0].reason


def test_the_library_is_recorded():
    record = {"name": LIBRARY.name, "sha256": hashlib.sha256(LIBRARY.read_bytes()).hexdigest()}
    model = inverting()
    assert onnxscope.features(model, X, custom_ops=LIBRARY).to_dict()["model"]["custom_ops"] == [record]
    assert onnxscope.stats(model, X, custom_ops=LIBRARY).profile.to_dict()["model"]["custom_ops"] == [record]
    assert record["sha256"] in onnxscope.snapshot(model, X, custom_ops=LIBRARY).versions.values()
    assert "custom_ops" not in onnxscope.weights(model).to_dict()["model"]


def test_a_model_keeps_its_library_and_travels_with_it(files):
    loaded = load_model(files[0], custom_ops=[LIBRARY, LIBRARY])
    assert loaded.custom_ops == (LIBRARY,)
    assert load_model(files[0]).custom_ops == ()
    plain = load_model(inverting())
    assert load_model(plain, custom_ops=LIBRARY).custom_ops == (LIBRARY,)
    assert plain.custom_ops == ()
    assert list(cut_off(plain)) == ["i", "y"]
    for model in (loaded, load_model(plain, custom_ops=LIBRARY)):
        assert pickle.loads(pickle.dumps(model)).custom_ops == (LIBRARY,)
        assert cut_off(model) == {}


def test_what_the_library_does_not_hold_is_still_cut_off():
    model = load_model(inverting("Nothing"), custom_ops=LIBRARY)
    assert set(cut_off(model).values()) == {"ai.onnx.contrib.Nothing"}
    maps = onnxscope.features(model, X, select="value:*")
    assert [tap.tap.value for tap in maps] == ["x", "h"]
    held = {name: holds_operator((LIBRARY,), "ai.onnx.contrib", name, 1) for name in ("Inverse", "NegPos", "Nothing")}
    assert held == {"Inverse": True, "NegPos": True, "Nothing": False}


def test_every_command_takes_a_library(files, tmp_path, capsys):
    path, other, data = map(str, files)
    baseline, library = str(tmp_path / "b.json"), ["--custom-ops", str(LIBRARY)]
    assert run(["features", path, "-i", data, "-o", str(tmp_path / "f"), "-s", "value:y", *library]) == 0
    assert run(["stats", path, "-i", data, "-o", str(tmp_path / "p.json"), "-s", "value:y", *library]) == 0
    assert run(["diff", path, path, "-i", data, *library]) == 0
    assert run(["diff", path, other, "-i", data, *library]) == 1
    assert run(["snapshot", path, "-i", data, "-o", baseline, *library]) == 0
    assert run(["check", path, "--baseline", baseline, "-i", data, *library]) == 0
    assert run(["check", other, "--baseline", baseline, "-i", data, *library]) == 1
    assert run(["report", path, "-i", data, "-o", str(tmp_path / "r.html"), *library]) == 0
    assert run(["weights", path, *library]) == 0
    capsys.readouterr()


def test_without_the_library_what_needs_none_works_and_the_rest_names_the_option(files, tmp_path, capsys):
    path, other, data = map(str, files)
    baseline = str(tmp_path / "b.json")
    assert run(["inspect", path]) == 0
    assert run(["weights", path]) == 0
    assert run(["snapshot", path, "-o", baseline]) == 0
    assert run(["check", path, "--baseline", baseline]) == 0
    assert run(["check", other, "--baseline", baseline]) == 1
    assert run(["diff", path, path, "--weights-only"]) == 0
    assert run(["diff", path, other, "--weights-only"]) == 1
    capsys.readouterr()
    assert run(["stats", path, "-i", data, "-o", str(tmp_path / "p.json"), "-s", "value:y"]) in (0, 2)
    assert "`--custom-ops` names its library" in capsys.readouterr().err
    assert run(["diff", path, path, "-i", data, "--format", "json"]) == 1
    assert "`--custom-ops` names its library" in json.loads(capsys.readouterr().out)["undecided"][0]["reason"]


def test_a_path_that_is_no_library_is_one_clear_error(files, tmp_path, capsys):
    path, _, data = map(str, files)
    text = tmp_path / "text.so"
    text.write_text("no library")
    cut = tmp_path / "cut.so"
    cut.write_bytes(LIBRARY.read_bytes()[:4096])
    fifo = tmp_path / "fifo.so"
    os.mkfifo(fifo)
    for file, message in (
        (tmp_path / "gone.so", "no such file"),
        (tmp_path, "not a regular file"),
        (fifo, "not a regular file"),
        (text, "not a library of custom operators"),
        (cut, "not a library of custom operators"),
        ("zero\0byte", "cannot read"),
    ):
        with pytest.raises((InputError, RunError), match=message):
            onnxscope.features(path, data, custom_ops=file)
        if "\0" not in str(file):
            assert run(["diff", path, path, "-i", data, "--custom-ops", str(file)]) == 2
            error = capsys.readouterr().err
            assert error.count("onnxscope: error:") == 1
            assert message in error


def test_a_library_of_something_else_is_named(files):
    import onnxruntime.capi.onnxruntime_pybind11_state as binding

    with pytest.raises(RunError, match="not a library of custom operators"):
        onnxscope.features(files[0], X, custom_ops=binding.__file__)


def test_plain_onnxruntime_gives_the_same():
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(LIBRARY))
    (y,) = onnxruntime.InferenceSession(inverting().SerializeToString(), options).run(None, {"x": X})
    maps = onnxscope.features(inverting(), X, select="value:y", custom_ops=LIBRARY)
    np.testing.assert_array_equal(maps[0].data, y)
