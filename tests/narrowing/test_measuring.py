"""What a narrowed layer does to the outputs, against onnxruntime on a model whose weight was replaced."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.narrowing.formats import FORMATS, find_formats
from onnxscope.narrowing.measuring import measure_rows, predict_rows
from onnxscope.narrowing.narrowed_layers import find_narrowed_layers
from onnxscope.narrowing.narrowed_runs import NarrowedRuns
from onnxscope.narrowing.sample_halves import batches_of, halves, on_samples

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = FIXTURES / "digits.onnx"
DATA = np.load(FIXTURES / "digits.npz")["digits"]


def opened(of="weights", scheme=None):
    model, options = onnxscope.load_model(DIGITS), RunOptions()
    dataset = on_samples(model, open_dataset({"digits": DATA}, model, options), options)
    layers, missed = find_narrowed_layers(model, [])
    assert not missed
    return NarrowedRuns(model, layers, of=of, scheme=scheme, threads=1), dataset


def run(proto, names):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return [value.astype(np.float64) for value in session.run(names, {"digits": DATA})]


def ratio_db(clean, changed):
    return 10 * math.log10(np.square(clean).sum() / np.square(changed - clean).sum())


def test_the_segments_give_what_the_whole_model_gives():
    runs, _ = opened()
    values = runs.segments.run({"digits": DATA}, len(DATA))
    np.testing.assert_allclose(values["output"], run(onnx.load(DIGITS), ["output"])[0], atol=1e-4)
    assert runs.segments.passes == pytest.approx(len(DATA))


def test_a_layer_in_eight_bits_is_one_whose_initializer_was_replaced():
    runs, dataset = opened()
    proto, form = onnx.load(DIGITS), FORMATS["int8"]
    batches = list(batches_of(dataset, range(dataset.count), 24))
    effects = measure_rows(runs, batches, [(layer, form) for layer in runs.layers])
    for layer in runs.layers:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        (stored,) = (one for one in copy.graph.initializer if one.name == layer.node.inputs[1])
        weight = onnx.numpy_helper.to_array(stored)
        scale = np.abs(weight).max() / 127
        stored.CopyFrom(onnx.numpy_helper.from_array(np.round(weight / scale) * scale, stored.name))
        clean, changed = (run(one, ["output", layer.own]) for one in (proto, copy))
        found = effects[layer, form]
        assert found.output.sqnr_db == pytest.approx(ratio_db(clean[0], changed[0]), abs=0.05)
        assert found.own.sqnr_db == pytest.approx(ratio_db(clean[1], changed[1]), abs=0.05)


def test_the_gain_of_the_last_layer_is_one_and_its_prediction_is_exact():
    runs, dataset = opened()
    batches = list(batches_of(dataset, range(dataset.count), 64))
    forms = find_formats("int8,fp8,bfloat16")
    gains, predicted = predict_rows(runs, batches, forms)
    measured = measure_rows(runs, batches, list(predicted))
    last = runs.layers[-1]
    assert gains[last].ratio == pytest.approx(1.0)
    for form in forms:
        assert predicted[last, form].output.sqnr_db == pytest.approx(measured[last, form].output.sqnr_db, abs=1e-3)
        assert not predicted[last, form].measured
        assert measured[last, form].measured


def test_a_weight_that_the_format_holds_loses_nothing():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {127, -3, 0, 64}> { y = MatMul(x, w) }""")
    loaded, options = onnxscope.load_model(model), RunOptions()
    dataset = open_dataset(np.ones((3, 2), np.float32), loaded, options)
    runs = NarrowedRuns(loaded, find_narrowed_layers(loaded, [])[0], of="weights", scheme=None, threads=1)
    row = runs.layers[0], FORMATS["int8"]
    assert measure_rows(runs, batches_of(dataset, range(3), 3), [row])[row].output.sqnr_db is None


def test_the_samples_that_errors_are_from_clip_what_the_others_did_not_hold():
    runs, dataset = opened(of="activations")
    ranges, errors = halves(dataset.count)
    runs.observe(list(batches_of(dataset, ranges, 16)), list(batches_of(dataset, errors, 16)), "minmax")
    (output,) = run(onnx.load(DIGITS), ["output"])
    found, half = runs.ranges["output"], output[ranges.start :: 2]
    assert (found.low, found.high) == pytest.approx((half.min(), half.max()), rel=1e-4)
    beyond = output[1::2] - output[1::2].clip(half.min(), half.max())
    assert found.clipped_power == pytest.approx(np.square(beyond).mean(), rel=1e-2)
    assert runs.must_run(runs.layers[-1], FORMATS["int8"], found.clipped_power)
