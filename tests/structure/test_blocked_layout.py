"""Copies that onnxruntime saves in blocks of channels, against the models that they were made of."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from compared_models import parsed
from onnx import numpy_helper

from onnxscope import diff
from onnxscope.model.loading import load_model
from onnxscope.structure.blocked_layout import BLOCKED_DOMAIN
from onnxscope.structure.standard_model import standard_model

RNG = np.random.default_rng(37)
FED = {"x": RNG.standard_normal((2, 3, 10, 10)).astype(np.float32)}


def normal(*shape):
    return (RNG.standard_normal(shape) / 3).astype(np.float32)


FIRST = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a)"
NETS = {
    "two convolutions": (
        f"{FIRST} y = Conv(r, v)",
        {"w": normal(32, 3, 3, 3), "b": normal(32), "v": normal(16, 32, 1, 1)},
    ),
    "channels that fill no block": (
        f"{FIRST} c = Conv(r, v, d) y = LeakyRelu<alpha = 0.2>(c)",
        {"w": normal(12, 3, 3, 3), "b": normal(12), "v": normal(20, 12, 3, 3), "d": normal(20)},
    ),
    "each channel for itself": (
        f"{FIRST} c = Conv<group = 32>(r, g) y = Conv(c, v)",
        {"w": normal(32, 3, 3, 3), "b": normal(32), "g": normal(32, 1, 3, 3), "v": normal(16, 32, 1, 1)},
    ),
    "a sum": (
        f"{FIRST} c = Conv(r, u) s = Add(c, r) t = Relu(s) y = Conv(t, v)",
        {"w": normal(32, 3, 3, 3), "b": normal(32), "u": normal(32, 32, 1, 1), "v": normal(16, 32, 1, 1)},
    ),
    "pools": (
        f"{FIRST} p = MaxPool<kernel_shape = [2, 2]>(r) c = Conv(p, v) q = AveragePool<kernel_shape = [2, 2]>(c) "
        "y = GlobalAveragePool(q)",
        {"w": normal(32, 3, 3, 3), "b": normal(32), "v": normal(16, 32, 3, 3)},
    ),
    "a written-out function": (
        f"{FIRST} c = Conv(r, v) s = Sigmoid(c) m = Mul(c, s) y = Conv(m, u)",
        {"w": normal(32, 3, 3, 3), "b": normal(32), "v": normal(32, 32, 1, 1), "u": normal(16, 32, 1, 1)},
    ),
}


def net(name):
    nodes, stored = NETS[name]
    return parsed(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[n, 3, 10, 10] x) => (float[n, c, h, w] y) {{ {nodes} }}',
        **stored,
    )


def laid_out(model, folder):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "all.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    copy = onnx.load(folder / "all.onnx")
    if not any(node.domain == BLOCKED_DOMAIN for node in copy.graph.node):
        pytest.skip("onnxruntime lays nothing out in blocks on this processor")
    return copy


def run(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, FED)[0]


@pytest.mark.parametrize("name", NETS)
def test_a_copy_in_blocks_of_channels_has_the_layers_of_the_model(name, tmp_path):
    model = net(name)
    copy = laid_out(model, tmp_path)
    plain = standard_model(load_model(copy)).proto
    assert not any(node.domain == BLOCKED_DOMAIN for node in plain.graph.node)
    np.testing.assert_allclose(run(model), run(plain), atol=1e-4)
    for a, b in ((model, copy), (copy, model)):
        result = diff(a, b, FED)
        assert (result.verdict, result.guilty, result.only_a, result.only_b) == ("equal", (), (), ())


@pytest.mark.parametrize("name", NETS)
def test_a_change_before_the_layout_is_found(name, tmp_path):
    model = net(name)
    copy = laid_out(model, tmp_path)
    for tensor in model.graph.initializer:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        (same,) = (each for each in changed.graph.initializer if each.name == tensor.name)
        values = numpy_helper.to_array(same).copy()
        values.flat[-1] += np.float32(0.5)
        same.CopyFrom(numpy_helper.from_array(values, same.name))
        result = diff(changed, copy, FED)
        assert result.verdict == "differs"
        assert len(result.guilty) == 1
        assert [change.max_abs for change in result.weights if change.counts] == [pytest.approx(0.5, rel=1e-5)]


def test_a_layout_that_is_not_known_is_left_alone(tmp_path):
    copy = laid_out(net("pools"), tmp_path)
    (pool,) = (node for node in copy.graph.node if node.op_type == "MaxPool")
    pool.op_type = "Upsample"
    kept = standard_model(load_model(copy)).proto
    assert [node.op_type for node in kept.graph.node if node.domain == BLOCKED_DOMAIN].count("Conv") == 2
