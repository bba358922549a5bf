"""A pilot: what taps look like in the first run, values kept or computed, and the noise of a model against itself."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from compared_models import TWO, WEIGHTS, X, parsed
from onnx.reference import ReferenceEvaluator

from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.comparison.pilot import Pilot, run_pilots
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.model.selectors import Tap
from onnxscope.runtime.session import Session

MANY = 512 << 20


def taps_at(*values, path=()):
    return [Tap(value, value, path, "", "", None, None, (0,)) for value in values]


def opened(model, taps, budget=MANY):
    return Pilot(model, taps, memory_budget_bytes=budget, threads=1)


def feed_of(model, inputs, batch_size=8):
    return open_common_feed((model, model), inputs, RunOptions(batch_size=batch_size))


@pytest.fixture
def runs(monkeypatch):
    """How many samples each run of a session was fed, and the sessions that were opened."""
    counted = {"sessions": 0, "samples": []}
    open_session, run_session = Session.__init__, Session.run

    def opening(session, *args, **options):
        counted["sessions"] += 1
        open_session(session, *args, **options)

    def running(session, feeds, outputs=None):
        counted["samples"].append(len(next(iter(feeds.values()))))
        return run_session(session, feeds, outputs)

    monkeypatch.setattr(Session, "__init__", opening)
    monkeypatch.setattr(Session, "run", running)
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
    assert (pilot.shapes, pilot.dtypes["h"]) == ({"h": (2, 3)}, "float32")
    assert pilot.reasons == {"t": "not a tensor of numbers", "v": "not executed on this input"}


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
    assert pilot.reasons == {"next": "its shape changes from one iteration to the next"}
    assert pilot.shapes == {"h": (2,)}
    np.testing.assert_array_equal(pilot.values(["h"])["h"], -x)


def test_values_of_the_first_run_are_kept_and_others_are_computed(runs):
    model = load_model(parsed(TWO, **WEIGHTS))
    (expected,) = ReferenceEvaluator(parsed(TWO, **WEIGHTS)).run(["y"], {"x": X})
    pilot = opened(model, taps_at("r", "y"))
    assert pilot.expected_bytes({"x": X}) == 4 * (3 * 4 * 36 + 3 * 5)
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
    assert pilot.reasons == {"v": "not executed on this input"}
    pilot.run({"x": np.ones((2, 5), np.float32), "c": np.array(False)})
    assert (pilot.reasons, pilot.shapes) == ({}, {"y": (2, 5), "v": (2, 5)})
    np.testing.assert_array_equal(pilot.values(["y"])["y"], -np.ones((2, 5)))


def test_values_beyond_the_budget_are_not_kept():
    model = load_model(parsed(TWO, **WEIGHTS))
    pilot, kept = opened(model, taps_at("r", "y"), budget=1), opened(model, taps_at("r", "y"))
    for opened_pilot in (pilot, kept):
        opened_pilot.run({"x": X})
    assert pilot.shapes == kept.shapes == {"r": (3, 4, 6, 6), "y": (3, 5)}
    np.testing.assert_array_equal(pilot.values(["r"])["r"], kept.values(["r"])["r"])
    axes = {"r": 1, "y": 1}
    apart, together = pilot.noise(axes), kept.noise(axes)
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
    noise = pilot.noise({"r": 1})["r"]
    assert noise.relative_l2 == pytest.approx(np.linalg.norm(right - left) / np.linalg.norm(left), rel=1e-6)


def test_of_large_values_two_samples_are_run(runs, monkeypatch):
    model = load_model(parsed(TWO, **WEIGHTS))
    run_pilots([opened(model, taps_at("r"))], feed_of(model, X))
    assert runs["samples"] == [3]
    monkeypatch.setattr("onnxscope.comparison.pilot._SMALL_BYTES", 1)
    first, second = opened(model, taps_at("r")), opened(model, taps_at("r"))
    fed = run_pilots([first, second], feed_of(model, X))
    assert runs["samples"] == [3, 2, 2]
    np.testing.assert_array_equal(fed["x"], X[:2])
    assert first.shapes == second.shapes == {"r": (2, 4, 6, 6)}
    fixed = load_model(parsed(TWO.replace("batch", "3"), **WEIGHTS))
    run_pilots([opened(fixed, taps_at("r"))], feed_of(fixed, X))
    assert runs["samples"] == [3, 2, 2, 3]


def test_a_model_that_needs_all_its_samples_gets_them(runs, monkeypatch):
    monkeypatch.setattr("onnxscope.comparison.pilot._SMALL_BYTES", 1)
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 4] x) => (float[batch, 4] y) { h = Neg(x)  y = Add(h, w) }"""
    model = load_model(parsed(text, w=np.ones((3, 4), np.float32)))
    pilot = opened(model, taps_at("h"))
    run_pilots([pilot], feed_of(model, np.zeros((3, 4), np.float32)))
    assert (pilot.shapes, runs["samples"]) == ({"h": (3, 4)}, [2, 3])
    broken = load_model(parsed(text, w=np.ones((5, 4), np.float32)))
    with pytest.raises(RunError, match="onnxruntime cannot run the model"):
        run_pilots([opened(broken, taps_at("h"))], feed_of(broken, np.zeros((3, 4), np.float32)))
