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
