"""Nodes that are appended: each reduction against numpy, in every spelling that operator sets have had for it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxscope.runtime.nodes import GraphWriter

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
