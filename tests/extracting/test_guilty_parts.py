"""The guilty layer of two models: the second is fed with the first one's values, and held to what the first gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.extracting.guilty_parts import extract_guilty

RNG = np.random.default_rng(3)
FIRST, SECOND = (RNG.standard_normal(shape).astype(np.float32) for shape in ((5, 4), (3, 5)))
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
CHANNELS_FIRST = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y) {
        [first] a = Conv(x, w)  [first_relu] r = Relu(a)
        [second] y = Conv(r, v)
    }"""
CHANNELS_LAST = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y) {
        t = Transpose <perm = [0, 2, 3, 1]> (x)
        [first] a = MatMul(t, w)  [first_relu] r = Relu(a)
        [second] b = MatMul(r, v)
        y = Transpose <perm = [0, 3, 1, 2]> (b)
    }"""
BODY = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2, 4] x, int64 n) => (float[2, 4] y) <bool go = {1}> {
        y = Loop(n, go, x) <body = b (int64 i, bool c, float[2, 4] s) => (bool more, float[2, 4] next) {
            more = Identity(c)
            [inner] m = MatMul(s, w)
            next = Tanh(m)
        }>
    }"""


def network(text, **weights):
    model = onnx.parser.parse_model(text)
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


def guilty(a, b):
    models = onnxscope.load_model(a), onnxscope.load_model(b)
    feeds = {"x": X}
    return extract_guilty(onnxscope.diff(*models, feeds), *models, feeds, RunOptions())


def conv(values, weight):
    return np.einsum("nchw,oc->nohw", values.astype(np.float64), weight.astype(np.float64))


@pytest.mark.parametrize("layout", ["first", "last"])
def test_the_second_model_is_fed_with_the_first_one_s_values(layout):
    """Its first layer is a little off as well, which reaches neither part."""
    a = network(CHANNELS_FIRST, w=FIRST[:, :, None, None], v=SECOND[:, :, None, None])
    first, second = 1.001 * FIRST, SECOND.copy()
    second[1, 2] += 0.1
    if layout == "first":
        b = network(CHANNELS_FIRST, w=first[:, :, None, None], v=second[:, :, None, None])
    else:
        b = network(CHANNELS_LAST, w=first.T, v=second.T)
    reference, changed = guilty(a, b)
    assert reference.reproduces
    assert (reference.fed, changed.fed) == ("model", "other")
    assert [part.layers for part in (reference, changed)] == [("second",), ("second",)]
    reached = np.maximum(conv(X, FIRST), 0)
    given = conv(reached, SECOND)
    np.testing.assert_allclose(reference.inputs[0].value, reached, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reference.outputs[0].value, given, rtol=1e-5, atol=1e-5)
    order = (0, 2, 3, 1) if layout == "last" else (0, 1, 2, 3)
    np.testing.assert_array_equal(changed.inputs[0].value, reference.inputs[0].value.transpose(order))
    np.testing.assert_array_equal(
        np.sort(changed.outputs[0].value, axis=None), np.sort(reference.outputs[0].value, axis=None)
    )
    assert not changed.reproduces
    assert changed.outputs[0].max_abs == pytest.approx(np.abs(conv(reached, second) - given).max(), rel=1e-4)
    assert f"{changed.outputs[0].name!r} is not what the other model gave" in changed.notes


def test_where_nothing_is_guilty_nothing_is_extracted():
    a = network(CHANNELS_FIRST, w=FIRST[:, :, None, None], v=SECOND[:, :, None, None])
    assert guilty(a, a) is None


def test_the_command_writes_both_and_keeps_its_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    onnx.save(network(CHANNELS_FIRST, w=FIRST[:, :, None, None], v=SECOND[:, :, None, None]), "a.onnx")
    onnx.save(network(CHANNELS_FIRST, w=FIRST[:, :, None, None], v=2 * SECOND[:, :, None, None]), "b.onnx")
    given = ["-i", "x.npy", "--extract", "parts"]
    assert run(["diff", "a.onnx", "b.onnx", *given]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "the guilty layer (second) of both is in parts/a and parts/b"
    loaded = [numpy_helper.to_array(onnx.load_tensor(f"parts/{side}/test_data_set_0/input_0.pb")) for side in "ab"]
    np.testing.assert_array_equal(*loaded)
    assert all(Path("parts", side, "reproduce.py").is_file() for side in "ab")
    assert run(["diff", "a.onnx", "a.onnx", *given]) == 0
    assert "no layer adds a difference of its own, so none is extracted" in capsys.readouterr().err
    assert run(["diff", "a.onnx", "b.onnx", "--extract", "parts"]) == 2
    assert "--extract needs what the models are fed: -i" in capsys.readouterr().err


def test_a_guilty_layer_of_a_body_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    square = RNG.standard_normal((4, 4)).astype(np.float32)
    np.savez("x.npz", x=X[0, :2, 0, :4], n=np.array(1))
    onnx.save(network(BODY, w=square), "a.onnx")
    onnx.save(network(BODY, w=-square), "b.onnx")
    assert run(["diff", "a.onnx", "b.onnx", "-i", "x.npz", "--extract", "parts"]) == 1
    assert "the guilty layer is not extracted: inner lies in a body" in capsys.readouterr().err
    assert not Path("parts").exists()
