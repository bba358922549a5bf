"""Shapes that exporters put together from constants are computed by numpy as onnxruntime does, and open no session."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from opened_sessions import watch_sessions

from onnxscope.model.loading import load_model
from onnxscope.runtime.constant_values import ConstantValues, array_text

SHAPES = [
    "y = Reshape(a, two)",
    "y = Concat<axis = 0>(a, b)",
    "y = Cast<to = 6>(a)",
    "y = Cast<to = 1>(a)",
    "y = Cast<to = 9>(a)",
    "y = Cast<to = 7>(f)",
    "u = Unsqueeze(a, zero) y = Squeeze(u, zero)",
    "u = Unsqueeze(a, zero) y = Squeeze(u)",
    "y = Unsqueeze(s, zero)",
    "y = Gather<axis = 0>(a, s)",
    "y = Gather(a, last)",
    "y = Slice(a, zero, two_ends)",
    "y = Slice(a, last, low, zero, last)",
    "g = Gather(a, s) u = Unsqueeze(g, zero) c = Concat<axis = 0>(u, last, b) y = Cast<to = 7>(c)",
]
CONSTANTS = """
    a = Constant<value_ints = [4, 1, 3, 2]>()
    b = Constant<value_ints = [5, 6]>()
    f = Constant<value_floats = [1.7, -1.7, 2.5]>()
    s = Constant<value_int = 2>()
    zero = Constant<value_ints = [0]>()
    two = Constant<value_ints = [2, -1]>()
    two_ends = Constant<value_ints = [9]>()
    last = Constant<value_ints = [-1]>()
    low = Constant<value_ints = [-100]>()"""


def model_of(nodes, opset=17):
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N] x) => (int64[n] y) {{ {CONSTANTS} {nodes} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("elem_type")
    return model


def answer_of(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    tensor_type = model.graph.output[0].type.tensor_type
    tensor_type.ClearField("shape")
    tensor_type.elem_type = tensor_type.elem_type or onnx.TensorProto.INT64
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": np.zeros(1, np.float32)})[0]


@pytest.mark.parametrize("nodes", SHAPES)
def test_numpy_gives_what_onnxruntime_does_without_a_session(monkeypatch, nodes):
    expected = answer_of(model_of(nodes))
    sessions = watch_sessions(monkeypatch)
    constants = ConstantValues(load_model(model_of(nodes)))
    constants.prepare(["y"])
    assert constants.text((), "y") == array_text(expected)
    assert sessions == []


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Slice<starts = [1], ends = [3]>(a)",
        "u = Unsqueeze<axes = [0]>(a) y = Squeeze<axes = [0]>(u)",
    ],
)
def test_attributes_of_earlier_operator_sets_count(monkeypatch, nodes):
    stored = CONSTANTS.splitlines()[1].replace("value_ints = [4, 1, 3, 2]", "value = int64[4] {4, 1, 3, 2}")
    text = f'<ir_version: 6, opset_import: ["": 9]> g (float[N] x) => (int64[n] y) {{ {stored} {nodes} }}'
    expected = answer_of(onnx.parser.parse_model(text))
    sessions = watch_sessions(monkeypatch)
    constants = ConstantValues(load_model(onnx.parser.parse_model(text)))
    assert constants.text((), "y") == array_text(expected)
    assert sessions == []


@pytest.mark.parametrize("nodes", ["y = Gather(a, b)", "y = Reshape(a, b)", "y = Concat<axis = 1>(a, b)"])
def test_what_onnxruntime_refuses_is_no_constant(nodes):
    constants = ConstantValues(load_model(model_of(nodes)))
    assert constants.text((), "y") is None


def test_what_numpy_does_not_know_is_still_computed(monkeypatch):
    sessions = watch_sessions(monkeypatch)
    constants = ConstantValues(load_model(model_of("y = Mul(a, s)")))
    assert constants.text((), "y") == array_text(np.array([8, 2, 6, 4]))
    assert len(sessions) == 1


def test_a_long_chain_is_no_deep_stack():
    chain = "".join(f"v{place} = Reshape({f'v{place - 1}' if place else 'a'}, two_ends_) " for place in range(3000))
    nodes = f"two_ends_ = Constant<value_ints = [4]>() {chain} y = Identity(v2999)"
    assert ConstantValues(load_model(model_of(nodes))).text((), "y") == array_text(np.array([4, 1, 3, 2]))
