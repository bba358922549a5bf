"""Values inside control flow, and values without statistics, by way of features()."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from nested_models import GROWING

from onnxscope.analyses.feature_maps import features


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
