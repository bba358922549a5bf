"""Values inside control flow, and values without statistics, by way of features()."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from nested_models import GROWING

import onnxscope
from onnxscope.analyses.feature_maps import features
from onnxscope.cli.main import run
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.runtime.tapped_runs import TapShapes
from onnxscope.selection.selectors import select_taps


def parsed(text):
    return onnx.parser.parse_model(text)


LOOP = """
    <ir_version: 10, opset_import: ["": 21]>
    net (float[2] x, int64 n) => (float[2] y) <bool go = {1}> {
        y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool more, float[2] next) {
            more = Identity(c)
            next = Add(s, s)
        }>
    }"""


def test_values_of_both_branches_and_the_one_not_executed():
    model = parsed("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2] x, bool c) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] u) { d = Add(x, x) u = Neg(d) },
                       else_branch = e () => (float[2] v) { s = Mul(x, x) v = Abs(s) }>
        }""")
    x = np.array([1, -3], np.float32)
    for taken, reached, missed, expected in ((True, "d", "s", x + x), (False, "s", "d", x * x)):
        maps = features(model, {"x": x, "c": np.array(taken)}, select=["value:d", "value:s"])
        assert [tap.tap.name for tap in maps] == [reached]
        np.testing.assert_array_equal(maps[0].data, expected)
        branch = "else_branch" if taken else "then_branch"
        assert [(each.name, each.reason) for each in maps.unreachable] == [
            (missed, f"the {branch} that holds it was not executed on this input")
        ]


def test_a_value_of_a_loop_is_stacked_per_iteration():
    x = np.array([1, 2], np.float32)
    tap = features(parsed(LOOP), {"x": x, "n": np.array(3)}, select="value:next")[0]
    np.testing.assert_array_equal(tap.data, [x * 2, x * 4, x * 8])


def test_a_loop_without_an_iteration_is_said():
    maps = features(parsed(LOOP), {"x": np.ones(2, np.float32), "n": np.array(0)}, select=["value:next", "value:y"])
    assert [tap.tap.name for tap in maps] == ["y"]
    assert maps.unreachable[0].reason == "the loop that holds it made no iteration on this input"


def test_a_shape_that_changes_in_a_loop_is_said_and_the_rest_survives():
    feeds = {"x": np.ones(1, np.float32), "n": np.array(3)}
    maps = features(parsed(GROWING), feeds, select=["value:next", "value:steady", "value:y"])
    held = {tap.tap.name: tap.data for tap in maps}
    np.testing.assert_array_equal(held["steady"], [0, 1, 2])
    assert held["y"].shape == (8,)
    assert [(each.name, each.reason) for each in maps.unreachable] == [
        ("next", "its shape changes from one iteration to the next")
    ]


def test_nested_bodies():
    model = parsed("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2] x, bool c, int64 n) => (float[2] y) <bool go = {1}> {
            y = If(c) <
                then_branch = t () => (float[2] u) {
                    u = Loop(n, go, x) <body = b (int64 i, bool k, float[2] s) => (bool more, float[2] next) {
                        more = Identity(k)
                        inner = Neg(s)
                        next = Add(s, inner)
                    }>
                },
                else_branch = e () => (float[2] v) { v = Abs(x) }>
        }""")
    x = np.array([1, 2], np.float32)
    feeds = {"x": x, "c": np.array(True), "n": np.array(2)}
    tap = features(model, feeds, select="value:inner")[0]
    np.testing.assert_array_equal(tap.data, [-x, [0, 0]])


def test_strings_and_sequences_are_listed_with_the_reason():
    model = parsed("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2] x) => (float[4] y) {
            text = Cast<to = 8>(x)
            pair = SequenceConstruct(x, x)
            y = ConcatFromSequence<axis = 0>(pair)
        }""")
    maps = features(model, np.ones(2, np.float32), select=["value:text", "value:pair", "value:y"])
    assert {each.name: each.reason for each in maps.unreachable} == {
        "text": "strings have no statistics",
        "pair": "a sequence, not a tensor",
    }


UNDECLARED = """
    <ir_version: 9, opset_import: ["": 17, "ai.onnx.ml": 3]>
    net (float[N, 4] x) => (float[a, b] y) {
        h = Relu(x)  s = SplitToSequence<axis=1>(h)  z = SequenceConstruct(h, h)
        m = ai.onnx.ml.ZipMap<classlabels_strings=["a", "b", "c", "d"]>(h)
        i = Constant<value = int64 {0}>()  k = SequenceAt(s, i)  n = NonZero(h)  y = Add(k, h) }"""


def test_taps_without_a_shape_are_left_out_where_the_model_does_not_declare_that_they_have_none():
    model = load_model(onnx.parser.parse_model(UNDECLARED))
    x = np.array([[1, -2, 3, -4]], np.float32)
    taps = select_taps(model, ["value:*"])
    shapes = {tap.value: shape for tap, shape in TapShapes(model, taps).of({"x": x}).items()}
    assert shapes == {"x": (1, 4), "h": (1, 4), "i": (), "k": (1, 1), "n": (2, 2), "y": (1, 4)}
    broken = onnx.parser.parse_model(UNDECLARED.replace("Relu(x)", "MatMul(x, y)").replace("Add(k, h)", "Unheard(k)"))
    broken.graph.node[0].input[1] = "x"
    with pytest.raises(RunError, match="Unheard"):
        TapShapes(load_model(broken), taps)


@pytest.mark.parametrize("command", ["features", "stats", "report"])
def test_every_command_reaches_the_tensors_beside_sequences_of_no_declared_type(command, tmp_path, capsys):
    path, data = tmp_path / "m.onnx", tmp_path / "x.npy"
    onnx.save(onnx.parser.parse_model(UNDECLARED), path)
    np.save(data, np.array([[1, -2, 3, -4], [5, 6, -7, 8]], np.float32))
    arguments = [command, str(path), "-i", str(data), "--select", "value:*", "-o", str(tmp_path / "out")]
    assert run([*arguments, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    unreachable = {missed["name"]: missed["reason"] for missed in record["unreachable"]}
    assert unreachable == dict.fromkeys(("s", "z", "m"), "a sequence, not a tensor")
    if command == "stats":
        statistics = onnxscope.stats(path, data, select=["value:k", "value:n"])
        assert [tap.state.moments.max.max() for tap in statistics] == [5, 3]
