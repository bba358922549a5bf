"""A small network with two convolutions, and what it gives by numpy in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

_TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
  c1 = Conv<pads=[1, 1, 1, 1]>(x, w1, b1)
  r1 = Relu(c1)
  c2 = Conv<pads=[1, 1, 1, 1]>(r1, w2, b2)
  r2 = Relu(c2)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  y = Gemm(f, w3, b3)
}
"""
_SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (24, 16, 3, 3), "b2": (24,), "w3": (24, 5), "b3": (5,)}
X = np.random.default_rng(3).standard_normal((4, 3, 8, 8)).astype(np.float32)


def small_network():
    """The network, with seeded weights."""
    rng = np.random.default_rng(7)
    model = onnx.parser.parse_model(_TEXT)
    for name, shape in _SHAPES.items():
        scale = np.sqrt(np.prod(shape[1:])) if len(shape) > 2 else 1.0
        weights = (rng.standard_normal(shape) / scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    return model


def expected(name):
    """What a value holds by onnx's own reference."""
    model = small_network()
    del model.graph.output[:]
    model.graph.output.add().name = name
    return ReferenceEvaluator(model).run(None, {"x": X})[0]
