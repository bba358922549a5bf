"""LayerComparison: how much is opened and run for a comparison, and what it hands out beside the result."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx.utils
import pytest
from compared_models import CHANNELS_LAST, DEPLOYED, DIGITS, INPUT, TWO, WEIGHTS, X, floors_of, parsed
from onnx.reference import ReferenceEvaluator
from opened_sessions import watch_sessions

from onnxscope import diff
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.comparison.layer_comparison import LayerComparison
from onnxscope.comparison.model_layers import ModelLayers
from onnxscope.model.loading import load_model
from onnxscope.runtime.pilot import Pilot


@pytest.fixture
def sessions(monkeypatch):
    return watch_sessions(monkeypatch)


def runs(sessions):
    """Of what each session is, and how many runs it made."""
    return [(session.where, session.runs) for session in sessions]


# A pilot on two samples runs them, each alone, and again for the noise; on a whole batch also three samples together.
@pytest.mark.parametrize(("small_bytes", "pilot_runs"), [(1, 1 + 2 + 1), (1 << 30, 1 + 1 + 3 + 1)])
def test_a_comparison_opens_four_sessions_and_runs_its_graph_once_a_batch(
    sessions, monkeypatch, small_bytes, pilot_runs
):
    monkeypatch.setattr("onnxscope.runtime.pilot._SMALL_BYTES", small_bytes)
    assert diff(DIGITS, DEPLOYED, INPUT, batch_size=8, limit=20).equal
    pilots = [("digits.onnx", pilot_runs), ("digits_deployed.onnx", 1), ("digits.onnx", 1)]
    assert runs(sessions) == [*pilots, ("digits.onnx and digits_deployed.onnx", 3)]


def test_the_noise_of_a_model_takes_two_sessions_and_no_weight(sessions, monkeypatch):
    monkeypatch.setattr("onnxscope.comparison.layer_weights.LayerWeights.read", None)
    assert floors_of(load_model(DIGITS), INPUT, RunOptions(limit=20))
    assert runs(sessions) == [("digits.onnx", 6), ("digits.onnx", 1)]


def test_structure_and_weights_alone_open_nothing(sessions):
    assert diff(DIGITS, DEPLOYED).equal
    assert sessions == []


def opened(*models):
    return tuple(ModelLayers(load_model(model)) for model in models)


def feed_of(sides, inputs, batch_size=8):
    models = tuple(side.model for side in sides)
    return open_common_feed(models, inputs, RunOptions(batch_size=batch_size))


def test_floors_are_those_of_the_rows():
    sides = opened(DIGITS, DEPLOYED)
    compared = LayerComparison(sides, feed_of(sides, INPUT), RunOptions()).run()
    rows = (*compared.comparison.layers, *compared.comparison.outputs)
    assert floors_of(load_model(DIGITS), INPUT, RunOptions()) == {row.a.name: row.floor for row in rows}
    assert compared.side_by_side == ()


def test_both_models_values_are_handed_out_with_the_axes_of_the_first(sessions):
    a = parsed(TWO, **WEIGHTS)
    b = parsed(
        CHANNELS_LAST,
        kernel=np.ascontiguousarray(WEIGHTS["w1"].transpose(2, 3, 1, 0)),
        dense=np.ascontiguousarray(WEIGHTS["w2"].T),
        bias=WEIGHTS["b2"],
        axes=np.array([1, 2]),
    )
    sides = opened(a, b)
    comparison = LayerComparison(sides, feed_of(sides, X), RunOptions())
    shown = [{"x": X}, {"x": 2 * X[:1]}]
    pilot = Pilot(sides[0].model, comparison.taps, RunOptions())
    pilot.run(shown[0])
    compared = comparison.run(pilot, shown)
    assert compared.comparison.equal
    assert len(sessions) == 4  # no more than without
    whole = ReferenceEvaluator(onnx.utils.Extractor(onnx.shape_inference.infer_shapes(a)).extract_model(["x"], ["r"]))
    for fed, values in zip((X, 2 * X[:1]), compared.side_by_side, strict=True):
        (expected,) = whole.run(["r"], {"x": fed})
        for value in values[0]:
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
