"""Nodes that are appended: each reduction against numpy, in every spelling that operator sets have had for it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.model.loading import load_model
from onnxscope.runtime.nodes import GraphWriter, with_unique_names

REDUCTIONS = {
    "ReduceMin": np.min,
    "ReduceMax": np.max,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda array, **options: np.sum(array * array, **options),
}


@pytest.mark.parametrize("opset", [10, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), ()),
        ((5,), (0,)),
        ((1,), (0,)),
        ((5,), ()),
        ((2, 3), ()),
        ((2, 3), (0,)),
        ((2, 3, 4), (0, 2)),
        ((2, 3), (0, 1)),
    ],
)
def test_a_reduction_is_that_of_numpy_also_over_no_axes(opset, dtype, shape, axes):
    elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = onnx.helper.make_tensor_value_info("x", elem_type, shape)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([], "g", [value], []), opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
    )
    writer = GraphWriter(model, "p:")
    for kind in REDUCTIONS:
        writer.output(writer.node("Identity", [writer.reduce(kind, "x", axes)]))
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    for reduction, array in zip(REDUCTIONS.values(), found, strict=True):
        expected = reduction(x, axis=axes, keepdims=True)
        assert array.shape == expected.shape
        np.testing.assert_allclose(array, expected, rtol=1e-6)


def repeated_names():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N] x, bool c) => (float[N] y, float[N] z) {
            h = Neg(x)  k = Abs(h)  m = Exp(k)
            y = If (c) <then_branch = t () => (float[N] p) { o = Sin(m)  p = Cos(o) },
                        else_branch = e () => (float[N] q) { q = Identity(m) }>
            z = Relu(h) }""")
    for node, name in zip(model.graph.node, ("same", "same", "same_2", "", "same"), strict=True):
        node.name = name
    for node in model.graph.node[3].attribute[0].g.node:
        node.name = "inner"
    return model


def test_nodes_of_one_name_get_names_of_their_own_and_nothing_else_changes():
    model = repeated_names()
    stored = model.SerializeToString()
    unique = with_unique_names(model)
    assert model.SerializeToString() == stored
    assert [node.name for node in unique.graph.node] == ["same", "same_3", "same_2", "", "same_4"]
    assert [node.name for node in unique.graph.node[3].attribute[0].g.node] == ["inner", "inner_2"]
    assert with_unique_names(unique) is unique
    for side in (model, unique):
        for node in (*side.graph.node, *side.graph.node[3].attribute[0].g.node):
            node.ClearField("name")
    assert model.SerializeToString() == unique.SerializeToString()


def test_a_model_whose_nodes_share_names_is_run_and_shown_under_them(tmp_path):
    path, data = tmp_path / "m.onnx", tmp_path / "x.npz"
    onnx.save(repeated_names(), path)
    x = np.array([-1.5, 0.25], np.float32)
    np.savez(data, x=x, c=np.array(True))
    with pytest.raises(Exception, match="same node name"):
        onnxruntime.InferenceSession(path)
    maps = onnxscope.features(path, data, select="value:m")
    np.testing.assert_allclose(maps[0].data, np.exp(np.abs(x)), rtol=1e-6)
    for command in ("stats", "report", "snapshot"):
        assert run([command, str(path), "-i", str(data), "-o", str(tmp_path / command)]) == 0
    assert run(["diff", str(path), str(path), "-i", str(data)]) == 0
    assert load_model(path).main.nodes[1].name == "same"
