"""A pilot: what taps look like in the first run, values kept or computed, and the noise of a model against itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.parser
import pytest
from compared_models import TWO, WEIGHTS, X, parsed
from onnx.reference import ReferenceEvaluator

from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.floors import own_noise
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import open_session
from onnxscope.selection.selectors import Tap

MANY = 512 << 20


def taps_at(*values, path=()):
    return [Tap(value, value, path, "", "", None, None, (0,)) for value in values]


def opened(model, taps, budget=MANY):
    return Pilot(model, taps, RunOptions(memory_budget_bytes=budget, threads=1))


def named(by_tap):
    return {tap.value: fact for tap, fact in by_tap.items()}


@pytest.fixture
def runs(monkeypatch):
    """How many sessions a pilot opened, and how many samples each of their runs was fed."""
    counted = {"sessions": 0, "samples": []}

    def opening(model, proto, **options):
        session = open_session(model, proto, **options)
        run = session.run

        def running(feeds, outputs=None):
            counted["samples"].append(len(next(iter(feeds.values()))))
            return run(feeds, outputs)

        counted["sessions"] += 1
        monkeypatch.setattr(session, "run", running)
        return session

    monkeypatch.setattr("onnxscope.runtime.pilot.open_session", opening)
    return counted


def test_what_taps_look_like_and_why_some_hold_no_numbers():
    model = load_model(
        onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2, N] x, bool c) => (float[2, N] y) {
            h = Neg(x)
            t = Cast<to = 8>(h)
            y = If(c) <then_branch = a () => (float[2, N] u) { u = Abs(x) },
                       else_branch = e () => (float[2, N] v) { v = Neg(x) }>
        }""")
    )
    branch = next(path for path in model.graphs if path and path[-1].attribute == "else_branch")
    pilot = opened(model, [*taps_at("h", "t"), *taps_at("v", path=branch)])
    pilot.run({"x": np.zeros((2, 3), np.float32), "c": np.array(True)})
    assert named(pilot.shapes) == {"h": (2, 3)}
    assert named(pilot.kinds) == {"h": "float32", "t": "string", "v": "float32"}
    assert named(pilot.reasons) == {"t": "not a tensor of numbers", "v": "not executed on this input"}


def test_a_value_in_a_body_that_breaks_the_run_is_left_out_and_named():
    model = load_model(
        onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2] x, int64 n) => (float[K] y) <bool go = {1}> {
            h = Neg(x)
            y = Loop(n, go, h) <body = b (int64 i, bool c, float[K] s) => (bool more, float[L] next) {
                more = Identity(c)
                next = Concat<axis = 0>(s, s)
            }>
        }""")
    )
    body = next(path for path in model.graphs if path)
    pilot = opened(model, [*taps_at("h"), *taps_at("next", path=body)])
    x = np.array([1, -2], np.float32)
    pilot.run({"x": x, "n": np.array(3)})
    assert named(pilot.reasons) == {"next": "its shape changes from one iteration to the next"}
    assert named(pilot.shapes) == {"h": (2,)}
    np.testing.assert_array_equal(pilot.values(["h"])["h"], -x)


def test_values_of_the_first_run_are_kept_and_others_are_computed(runs):
    model = load_model(parsed(TWO, **WEIGHTS))
    (expected,) = ReferenceEvaluator(parsed(TWO, **WEIGHTS)).run(["y"], {"x": X})
    pilot = opened(model, taps_at("r", "y"))
    pilot.run({"x": X})
    np.testing.assert_allclose(pilot.values(["y"])["y"], expected, rtol=1e-5)
    np.testing.assert_allclose(pilot.values(["y"], {"x": X})["y"], expected, rtol=1e-5)
    assert runs == {"sessions": 1, "samples": [3]}
    np.testing.assert_allclose(pilot.values(["y"], {"x": X[:1]})["y"], expected[:1], rtol=1e-5)
    assert runs == {"sessions": 1, "samples": [3, 1]}
    pilot.close()
    np.testing.assert_allclose(pilot.values(["y"], {"x": X})["y"], expected, rtol=1e-5)
    assert runs == {"sessions": 2, "samples": [3, 1, 3]}


def test_another_first_run_forgets_the_one_before():
    model = load_model(
        onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2, N] x, bool c) => (float[2, N] y) {
            y = If(c) <then_branch = a () => (float[2, N] u) { u = Abs(x) },
                       else_branch = e () => (float[2, N] v) { v = Neg(x) }>
        }""")
    )
    branch = next(path for path in model.graphs if path and path[-1].attribute == "else_branch")
    pilot = opened(model, [*taps_at("y"), *taps_at("v", path=branch)])
    pilot.run({"x": np.ones((2, 3), np.float32), "c": np.array(True)})
    assert named(pilot.reasons) == {"v": "not executed on this input"}
    pilot.run({"x": np.ones((2, 5), np.float32), "c": np.array(False)})
    assert (named(pilot.reasons), named(pilot.shapes)) == ({}, {"y": (2, 5), "v": (2, 5)})
    np.testing.assert_array_equal(pilot.values(["y"])["y"], -np.ones((2, 5)))


def test_values_beyond_the_budget_are_not_kept():
    model = load_model(parsed(TWO, **WEIGHTS))
    pilot, kept = opened(model, taps_at("r", "y"), budget=1), opened(model, taps_at("r", "y"))
    for opened_pilot in (pilot, kept):
        opened_pilot.run({"x": X})
    assert named(pilot.shapes) == named(kept.shapes) == {"r": (3, 4, 6, 6), "y": (3, 5)}
    np.testing.assert_array_equal(pilot.values(["r"])["r"], kept.values(["r"])["r"])
    axes = {"r": 1, "y": 1}
    apart, together = own_noise(pilot, axes), own_noise(kept, axes)
    assert {name: noise.relative_l2 for name, noise in apart.items()} == {
        name: noise.relative_l2 for name, noise in together.items()
    }


def test_the_noise_is_that_of_onnxruntime_with_and_without_its_optimizations():
    import onnxruntime

    rng = np.random.default_rng(3)
    text = TWO.replace("(float[batch, 5] y)", "(float[batch, 5] y, float[batch, 4, 6, 6] r)")
    weights = WEIGHTS | {"w1": rng.standard_normal((4, 3, 3, 3), np.float32)}
    model = parsed(text, **weights)
    values = []
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        values.append(onnxruntime.InferenceSession(model.SerializeToString(), options).run(["r"], {"x": X})[0])
    left, right = (value.astype(np.float64) for value in values)
    pilot = opened(load_model(model), taps_at("r", "y"))
    pilot.run({"x": X})
    noise = own_noise(pilot, {"r": 1})["r"]
    assert noise.relative_l2 == pytest.approx(np.linalg.norm(right - left) / np.linalg.norm(left), rel=1e-6)


def test_a_whole_batch_is_run_where_its_values_are_small(runs, monkeypatch):
    model = load_model(parsed(TWO, **WEIGHTS))
    whole, few = {"x": X}, {"x": X[:2]}
    opened(model, taps_at("r")).start(whole, few)
    assert runs["samples"] == [3]
    monkeypatch.setattr("onnxscope.runtime.pilot._SMALL_BYTES", 1)
    pilot = opened(model, taps_at("r"))
    pilot.start(whole, few)
    assert runs["samples"] == [3, 2]
    assert pilot.feeds is few
    assert named(pilot.shapes) == {"r": (2, 4, 6, 6)}


def test_a_model_that_needs_all_its_samples_gets_them(runs, monkeypatch):
    monkeypatch.setattr("onnxscope.runtime.pilot._SMALL_BYTES", 1)
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 4] x) => (float[batch, 4] y) { h = Neg(x)  y = Add(h, w) }"""
    whole, few = ({"x": np.zeros((count, 4), np.float32)} for count in (3, 2))
    pilot = opened(load_model(parsed(text, w=np.ones((3, 4), np.float32))), taps_at("h"))
    pilot.start(whole, few)
    assert (named(pilot.shapes), runs["samples"]) == ({"h": (3, 4)}, [2, 3])
    broken = load_model(parsed(text, w=np.ones((5, 4), np.float32)))
    with pytest.raises(RunError, match="onnxruntime cannot run the model"):
        opened(broken, taps_at("h")).start(whole, few)


def test_other_shapes_leave_the_first_run_as_it_was(runs):
    model = load_model(parsed(TWO, **WEIGHTS))
    pilot = opened(model, taps_at("r", "y"))
    pilot.run({"x": X})
    assert named(pilot.shapes_of({"x": X[:1]})) == {"r": (1, 4, 6, 6), "y": (1, 5)}
    assert named(pilot.shapes) == {"r": (3, 4, 6, 6), "y": (3, 5)}
    np.testing.assert_array_equal(pilot.values(["y"])["y"], pilot.values(["y"], {"x": X})["y"])
    assert runs == {"sessions": 1, "samples": [3, 1]}


def test_taps_of_one_value_and_names_of_others_are_told_apart():
    model = load_model(parsed(TWO, **WEIGHTS))
    (r,), (y,) = taps_at("r"), taps_at("y")
    confusing = [r, replace(r, name="y"), replace(y, name="0")]
    pilot = opened(model, confusing)
    pilot.run({"x": X})
    assert [pilot.outputs[tap] for tap in confusing] == ["r", "r", "y"]
    assert [pilot.shapes[tap] for tap in confusing] == [(3, 4, 6, 6), (3, 4, 6, 6), (3, 5)]
