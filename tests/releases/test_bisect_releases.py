"""What `bisect()` is asked, how values of every kind go to another environment and back, and two environments."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from shimmed_release import Planted, write_python

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.errors import InputError
from onnxscope.releases.bisect_releases import search_releases

HEADER = '<ir_version: 9, opset_import: ["": 19]> g '
DOUBLED = HEADER + "(float[N, 3] x) => (float[N, 3] y) { y = Add(x, x) }"
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def searched(model, feeds, plans, **options):
    environments, releases = Planted(plans), ["1.0.0", "1.1.0"]
    return search_releases(model, feeds, RunOptions(**options), environments, releases, "onnxruntime", 60.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says which releases"),
        ({"release": "1.20.1"}, "no range of releases"),
        ({"release": "1.20.1..1.21.0", "against_python": "python"}, "not both"),
        ({"python": "/nowhere/python"}, "no Python: /nowhere/python"),
        ({"release": "1.20.1..", "package": "-r"}, "no package"),
        ({"release": "1.20.1..", "run_timeout_s": 0}, "no number of seconds"),
    ],
)
def test_what_cannot_be_asked_is_told(options, message):
    with pytest.raises(InputError, match=message):
        onnxscope.bisect(onnx.parser.parse_model(DOUBLED), X, **options)


def test_the_command_ends_with_2_where_it_is_asked_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(DOUBLED), "m.onnx")
    np.save("x.npy", X)
    assert run(["bisect", "m.onnx", "-i", "x.npy"]) == 2
    assert "nothing says which releases" in capsys.readouterr().err
    assert run(["bisect", "m.onnx", "-i", "x.npy", *["--python", "python"] * 3]) == 2
    assert "too many environments" in capsys.readouterr().err


def test_two_environments_are_compared_by_their_paths(tmp_path):
    python = write_python(tmp_path / "other", {"off": {"y": 3.0}, "release": "9.8.7"})
    found = onnxscope.bisect(onnx.parser.parse_model(DOUBLED), X, against_python=python)
    assert (found.package, found.installs, found.pair[1]) == (None, 0, str(python))
    assert found.changed.versions["onnxruntime"] == "9.8.7"
    assert found.changed.first_row.entire.max_abs == 2 * 2 * X.max()  # three times the answer, less the answer


def test_what_is_random_is_undecided():
    model = onnx.parser.parse_model(HEADER + "(float[N, 3] x) => (float[N, 3] y) { y = RandomNormalLike(x) }")
    found = searched(model, X, {})
    assert (found.verdict, found[1].answers) == ("undecided", "undecided")
    assert "does not reproduce" in found[1].rows[-1].undecided


def test_weights_outside_of_the_model_are_found_by_every_release(tmp_path):
    model = onnx.parser.parse_model(HEADER + "(float[N, 3] x) => (float[N, 8] y) { [head] y = MatMul(x, w) }")
    weight = np.random.default_rng(0).normal(0, 1, (3, 8)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=0,
        all_tensors_to_one_file=True,
    )
    found = searched(tmp_path / "m.onnx", X, {"1.1.0": {"path": True}})
    assert found.verdict == "equal"
    expected = np.square(X.astype(np.float64) @ weight.astype(np.float64)).sum()
    assert found[1].rows[0].entire.reference.sum() == pytest.approx(expected, rel=1e-6)


KINDS = {
    "bfloat16": ("bfloat16[3] x) => (bfloat16[3] y) { y = Identity(x) }", np.array([1, -2, 3], ml_dtypes.bfloat16), 14),
    "float8": (
        "float8e4m3fn[3] x) => (float8e4m3fn[3] y) { y = Identity(x) }",
        np.array([1, -2, 3], ml_dtypes.float8_e4m3fn),
        14,
    ),
    "string": ("string[2] x) => (string[2] y) { y = Identity(x) }", np.array(["a", "bc"]), None),
    "sequence": (
        "float[2] x) => (seq(float[2]) s, float[2] y) { s = SequenceConstruct(x, x)  y = Neg(x) }",
        np.array([3, 4], np.float32),
        25,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind_go_there_and_come_back(kind):
    text, given, squares = KINDS[kind]
    found = searched(onnx.parser.parse_model(f"{HEADER}({text}"), {"x": given}, {}, batch_axis="none")
    assert found.verdict == "equal", found
    row = found[1].rows[-1]
    assert row.a.name == "y"
    if squares is not None:
        assert row.entire.reference.sum() == squares  # of what was fed, in the other environment
    if kind == "sequence":
        assert found[1].rows[0].entire.reference.sum() == 2 * squares
