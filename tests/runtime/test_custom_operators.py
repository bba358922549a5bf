"""Operators that onnxruntime does not know: what lies before them is looked at, the rest is named with the reason."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.runtime.custom_operators import cut_off, without_unknown
from onnxscope.runtime.session import evaluate_constants, open_session

REASON = "it depends on my.ops.{}, an operator that onnxruntime does not know; `--custom-ops` names its library"
X = np.array([[1, -2], [-3, 4]], np.float32)


def custom():
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "my.ops": 1, "com.microsoft": 1]>
        g (float[N, 2] x, bool c) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] v = {5, 6, 7, 8}> {
            h = MatMul(x, w)  r = Relu(h)  f = com.microsoft.FusedMatMul(r, w)
            packed = my.ops.Pack(v)  t = my.ops.Thing(r)  d = MatMul(t, v)  e = MatMul(r, packed)
            i = If (c) <then_branch = a () => (float[N, 2] p) { n = Neg(r)  p = my.ops.Thing(n) },
                        else_branch = b () => (float[N, 2] q) { q = Abs(r) }>
            k = If (c) <then_branch = a2 () => (float[N, 2] p2) { p2 = Neg(f) },
                        else_branch = b2 () => (float[N, 2] q2) { q2 = Abs(f) }>
            s = Add(d, e)  y = Add(s, i) }""")


@pytest.fixture
def files(tmp_path):
    path, data = tmp_path / "m.onnx", tmp_path / "x.npz"
    onnx.save(custom(), path)
    np.savez(data, x=X, c=np.array(True))
    return path, data


def test_what_depends_on_an_unknown_operator_is_told_with_its_name():
    thing, pack = "my.ops.Thing", "my.ops.Pack"
    assert cut_off(load_model(custom())) == {
        "packed": pack, "t": thing, "d": thing, "e": pack, "i": thing, "s": thing, "y": thing
    }  # fmt: skip


def test_values_before_an_unknown_operator_are_looked_at(files):
    path, data = files
    maps = onnxscope.features(path, data, select="value:*")
    seen = {tap.tap.value: tap.data for tap in maps}
    h = X @ np.array([[1, 2], [3, 4]], np.float32)
    f = np.maximum(h, 0) @ np.array([[1, 2], [3, 4]], np.float32)
    assert seen.keys() == {"x", "c", "h", "r", "f", "k", "p2"}
    for value, expected in {"h": h, "r": np.maximum(h, 0), "f": f, "k": -f, "p2": -f}.items():
        np.testing.assert_array_equal(seen[value], expected)
    missed = {tap.name: tap.reason for tap in maps.unreachable}
    cut = {**dict.fromkeys(("t", "d", "i", "s", "y", "n", "p", "q"), "Thing"), "packed": "Pack", "e": "Pack"}
    reasons = {name: REASON.format(operator) for name, operator in cut.items()}
    assert {name: reason for name, reason in missed.items() if name != "q2"} == reasons


@pytest.mark.parametrize("command", ["inspect", "weights", "features", "stats", "report", "snapshot"])
def test_every_command_shows_what_it_can(files, command, tmp_path, capsys):
    path, data = files
    arguments = [] if command == "inspect" else ["-o", str(tmp_path / "out")]
    arguments += [] if command in ("inspect", "weights") else ["-i", str(data)]
    assert run([command, str(path), *arguments]) == 0
    if command == "weights":
        rows = onnxscope.weights(path)
        assert {row.parameter.name: row.summary.overall.max for row in rows} == {"w": 4, "v": 8}
        capsys.readouterr()
        assert run(["weights", str(path), "--format", "json"]) == 0
        assert "computed by Pack, not stored" in {
            row["reason"] for row in json.loads(capsys.readouterr().out)["absent"]
        }


def test_weights_are_compared_and_checked(files, tmp_path):
    path, _ = files
    changed = custom()
    changed.graph.initializer[1].float_data[0] = 50
    onnx.save(changed, tmp_path / "other.onnx")
    baseline = str(tmp_path / "b.json")
    assert run(["snapshot", str(path), "-o", baseline]) == 0
    for model, code in ((path, 0), (tmp_path / "other.onnx", 1)):
        assert run(["diff", str(path), str(model), "--weights-only"]) == code
        assert run(["check", str(model), "--baseline", baseline]) == code


def test_an_operand_that_an_unknown_operator_computes_is_no_constant_to_read():
    with pytest.raises(RunError, match=r"packed cannot be computed \(it depends on my.ops.Pack"):
        evaluate_constants(load_model(custom()), ["packed"])


def test_a_model_of_which_nothing_is_left_is_not_run():
    model = load_model(custom())
    with pytest.raises(RunError, match=r"every output: it depends on my.ops"):
        open_session(model)


def test_a_model_of_known_operators_is_run_as_it_is():
    proto = custom()
    del proto.graph.node[3:]
    del proto.graph.output[:]
    proto.graph.output.add().name = "f"
    model = load_model(proto)
    assert without_unknown(model, model.proto) is model.proto
    misspelled = custom()
    misspelled.graph.node[0].op_type = "MatMull"  # of ONNX's own domain: a broken model, not a custom operator
    with pytest.raises(RunError, match="MatMull"):
        onnxscope.features(misspelled, {"x": X, "c": np.array(True)}, select="value:r")
