"""Keras's own initializers count as untrained, in the layouts of its kernels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("tensorflow")
from converters.tensorflow_helpers import keras

from onnxscope.analyses.weight_statistics import weights
from onnxscope.findings.of_weights import find_in_weights
from onnxscope.model.loading import load_model


def found(kernels):
    """Findings in a model that holds kernels as the converter stores them: a Conv reads its own through a Transpose."""
    nodes, tensors = [], []
    for number, kernel in enumerate(kernels):
        name = f"layer{number}"
        tensors.append(numpy_helper.from_array(kernel, f"{name}/kernel"))
        tensors.append(numpy_helper.from_array(np.zeros(kernel.shape[-1], np.float32), f"{name}/bias"))
        if kernel.ndim == 2:
            nodes.append(helper.make_node("Gemm", ["x", f"{name}/kernel", f"{name}/bias"], [f"{name}/y"], name=name))
            continue
        nodes.append(helper.make_node("Transpose", [f"{name}/kernel"], [f"{name}/turned"], perm=[3, 2, 0, 1]))
        nodes.append(helper.make_node("Conv", ["x", f"{name}/turned", f"{name}/bias"], [f"{name}/y"], name=name))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    return find_in_weights(weights(model), model)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("GlorotUniform", "uniform within sqrt(6 / (fan_in + fan_out))"),
        ("GlorotNormal", "truncated normal with a deviation of sqrt(2 / (fan_in + fan_out))"),
        ("HeUniform", "uniform within sqrt(6 / fan_in)"),
        ("HeNormal", "truncated normal with a deviation of sqrt(2 / fan_in)"),
        ("LecunUniform", "uniform within sqrt(3 / fan_in)"),
        ("LecunNormal", "truncated normal with a deviation of sqrt(1 / fan_in)"),
    ],
)
def test_initializers_of_keras(kind, name):
    shapes = ((5, 5, 3, 24), (3, 3, 24, 40), (1, 1, 40, 64), (64, 50))
    kernels = []
    for seed, shape in enumerate(shapes):
        kernels.append(np.asarray(getattr(keras.initializers, kind)(seed=seed)(shape, dtype="float32")))
    (finding,) = found(kernels)
    assert finding.kind == "untrained_weights"
    assert " in 4 of 4 layers " in finding.message
    assert name in finding.message
    rng = np.random.default_rng(2)
    trained = [kernel + rng.normal(0, 0.05 * kernel.std(), kernel.shape).astype(np.float32) for kernel in kernels]
    assert found(trained) == ()
