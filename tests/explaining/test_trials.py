"""An edit mends what brings an error down to rounding from far above, and where enough numbers were off."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.explaining.edits import Edit, set_attribute
from onnxscope.explaining.fed_parts import fed_values, find_parts
from onnxscope.explaining.trials import Trial
from onnxscope.model.loading import load_model

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def network(alpha):
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 18]>
        net (float[N, 8] x) => (float[N, 8] y) {{ a = MatMul(x, w) y = LeakyRelu <alpha = {alpha}> (a) }}""")
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    return load_model(model)


def trial_of(first, second, x=X):
    a, b = network(first), network(second)
    comparison = onnxscope.diff(a, b, x)
    part = find_parts(comparison, comparison.layers[0], a, b)
    with contextlib.closing(open_common_feed((a, b), x, RunOptions())) as feed:
        ((sample,),) = fed_values((a, b), [part], feed, 1)
    return Trial((a, b), part, sample, 1), sample, b.main.nodes[-1]


def tried(trial, node, value):
    return trial.run([Edit(node, "attribute", "alpha", 0.0, value, set_attribute("alpha", value, 1))])


def test_an_edit_mends_only_what_it_brings_down_to_rounding():
    trial, sample, node = trial_of(0.2, 0.01)
    assert trial.is_at_fault
    assert trial.tells
    right, near = tried(trial, node, 0.2), tried(trial, node, 0.19)
    assert trial.mends(right)
    assert trial.holds_for(right, sample)
    assert right.relative < 1e-6 < near.relative < trial.before.relative
    assert not trial.mends(near)
    assert trial.mends(near, leaves_rounding=True)  # a twentieth of the error, as codes would leave it
    assert trial.count == 2


def test_what_onnxruntime_refuses_mends_nothing():
    trial, sample, node = trial_of(0.2, 0.01)
    refused = trial.run([Edit(node, "attribute", "alpha", 0.0, "x", set_attribute("alpha", "x", 3))])
    assert refused.relative is None
    assert not trial.mends(refused)
    assert not trial.holds_for(refused, sample)


def test_a_part_that_is_equal_is_not_at_fault():
    assert not trial_of(0.2, 0.2)[0].is_at_fault


@pytest.mark.parametrize(("count", "tells"), [(1, False), (8, True)])
def test_few_numbers_that_are_off_tell_nothing(count, tells):
    x = np.abs(X[:1])
    x[0, :count] *= -1
    assert trial_of(0.2, 0.01, x)[0].tells is tells
