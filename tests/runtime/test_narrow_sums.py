"""Layers whose sums of products of 8-bit codes are too large for 16 bits, where onnxruntime adds them up in these."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantized_copies import model, quantized

from onnxscope import check, diff, snapshot
from onnxscope.model.loading import load_model
from onnxscope.runtime import narrow_sums

FORMS = ("dynamic", "QDQ", "QOperator")


def array(*shape):
    return np.random.default_rng(4).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=FORMS)
def pair(request, tmp_path):
    """A float model and its copy with weights of 7 bits, and what it is fed."""
    node = helper.make_node
    nodes = [node("MatMul", ["x", "W"], ["m"], "fc1"), node("MatMul", ["m", "V"], ["y"], "fc2")]
    made = model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, {"W": array(16, 8), "V": array(8, 4)})
    x = array(8, 16)
    return *quantized(made, x, tmp_path, request.param, per_channel=False), x


def doubled(path):
    """A copy whose weights take 8 bits for the same numbers."""
    copy = onnx.load(path)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim == 2:
            tensor.CopyFrom(
                numpy_helper.from_array((values.astype(np.int32) * 2).clip(-127, 127).astype(np.int8), tensor.name)
            )
        if tensor.name in ("W_scale", "V_scale"):
            tensor.CopyFrom(numpy_helper.from_array(values / 2, tensor.name))
    return copy


def test_the_processor_is_asked_and_not_guessed():
    rng = np.random.default_rng(2)
    codes, weight = rng.integers(128, 256, (32, 128)).astype(np.uint8), rng.integers(80, 128, (128, 32)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [32, 128])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [32, 32])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"a": codes})[0]
    is_exact = np.array_equal(found, codes.astype(np.int64) @ weight.astype(np.int64))
    assert narrow_sums.sums_saturate() is not is_exact


def test_layers_with_weights_of_8_bits_are_counted_where_sums_saturate(pair, monkeypatch):
    source, target, x = pair
    wide = doubled(target)
    monkeypatch.setattr(narrow_sums, "sums_saturate", lambda: True)
    (remark,) = narrow_sums.remarks_on_narrow_sums(load_model(wide))
    assert "2 layers may overflow" in remark
    for none in (source, target):
        assert narrow_sums.remarks_on_narrow_sums(load_model(none)) == ()
    assert f"the second model: {remark}" in diff(source, wide, x).notes
    assert f"both models: {remark}" in diff(wide, wide, x).notes
    baseline = snapshot(wide, x)
    assert remark in baseline.notes
    assert remark in check(wide, baseline, x).notes
    for without_data in (diff(source, wide).notes, snapshot(wide).notes):
        assert not any("VNNI" in note for note in without_data)


def test_nothing_is_said_where_sums_are_whole(pair, monkeypatch):
    monkeypatch.setattr(narrow_sums, "sums_saturate", lambda: False)
    _, target, _ = pair
    assert narrow_sums.remarks_on_narrow_sums(load_model(doubled(target))) == ()


@pytest.mark.parametrize("layer", ["conv", "fc"])
def test_a_bias_of_another_scale_than_the_optimizer_takes_is_told_or_seen(layer, tmp_path):
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "W", "b"], ["c"], "conv"),
        node("Flatten", ["c"], ["f"], "flat"),
        node("Gemm", ["f", "V", "d"], ["y"], "fc"),
    ]
    stored = {"W": array(4, 3, 2, 2), "b": array(4), "V": array(36, 5), "d": array(5)}
    made, x = model(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 5]}, stored), array(6, 3, 4, 4)
    source, target = quantized(made, x, tmp_path, "QDQ", per_channel=True)
    assert not any("a bias is stored" in note for note in diff(source, target, x).notes)
    changed = onnx.load(target)
    name = f"{'b' if layer == 'conv' else 'd'}_quantized_scale"
    tensor = next(one for one in changed.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(4), name))
    onnx.save(changed, tmp_path / "changed.onnx")
    result = diff(source, tmp_path / "changed.onnx", x)
    told = [note for note in result.notes if "a bias is stored" in note]
    assert (len(told), result.costly[0].a.layer == layer) == ((0, True) if layer == "conv" else (1, False))
    start = (
        "the second model: a bias is stored with another scale than the product of those of input and weight, in fc: "
    )
    assert all(note.startswith(start) for note in told)
    changes = {}
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        sessions = [onnxruntime.InferenceSession(path, options) for path in (target, tmp_path / "changed.onnx")]
        first, second = (session.run(None, {"x": x})[0] for session in sessions)
        changes[level] = float(np.abs(first - second).max())
    assert changes["ORT_DISABLE_ALL"] > 1
    assert (changes["ORT_ENABLE_ALL"] > 1) == (layer == "conv")
