"""A model against what numpy, as its framework, computes for the same layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxscope.comparison.with_framework import FrameworkValue, compare_with_framework, name_inputs
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 4), np.float32)
WEIGHTS = {
    "first.weight": RNG.standard_normal((4, 6), np.float32),
    "first.bias": RNG.standard_normal(6, np.float32),
    "second.weight": RNG.standard_normal((6, 3), np.float32),
    "second.bias": RNG.standard_normal(3, np.float32),
}
SCALE = np.linspace(0.5, 2, 6, dtype=np.float32)  # of a BatchNorm behind `first`, where there is one


def network(**weights):
    """Two layers called `first` and `second`, with ReLU between them."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 4] x) => (float[N, 3] y) { a = Gemm(x, v, b)  r = Relu(a)  y = Gemm(r, w, c) }""")
    for name, place in zip(WEIGHTS, ("v", "b", "w", "c"), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array({**WEIGHTS, **weights}[name], name))
        for node in model.graph.node:
            node.input[:] = [name if value == place else value for value in node.input]
    for node, layer in zip(model.graph.node, ("first", "", "second"), strict=True):
        if layer:
            node.metadata_props.add(key="onnxscope.layer", value=layer)
    return model


def computed(*, normalized=False):
    """What the layers return, in float64: the calls, and the network's output."""
    exact = {name: value.astype(np.float64) for name, value in WEIGHTS.items()}
    first = X @ exact["first.weight"] + exact["first.bias"]
    norm = first * SCALE if normalized else first
    second = np.maximum(norm, 0) @ exact["second.weight"] + exact["second.bias"]
    calls = [FrameworkValue(layer="first", kind="Linear", array=first.astype(np.float32))]
    if normalized:
        norm_call = FrameworkValue("norm", "BatchNorm1d", norm.astype(np.float32), source="first")
        calls.append(norm_call)
    calls.append(FrameworkValue(layer="second", kind="Linear", array=second.astype(np.float32)))
    return calls, second.astype(np.float32)


def compare(model, calls, output):
    return compare_with_framework(model, {"x": X}, calls, [output], framework="numpy", channels_last=True)


def test_a_model_that_computes_the_same_is_equal():
    result = compare(network(), *computed())
    assert result.equal, repr(result)
    assert [(row.a.layer, row.b.layer, row.op_type) for row in result] == [
        ("first", "first", "Linear"),
        ("second", "second", "Linear"),
    ]
    assert [(row.b.name, row.op_type) for row in result.outputs] == [("y", "Output")]
    assert (result.a, result.samples, result.only_a) == ({"name": "numpy"}, 8, ())


def test_the_layer_that_is_off_has_the_error_of_its_own():
    moved = WEIGHTS["first.weight"] * np.float32(1.1)
    result = compare(network(**{"first.weight": moved}), *computed())
    assert [row.a.layer for row in result.guilty] == ["first"]
    first, second = result
    expected = np.linalg.norm(X.astype(np.float64) @ (moved.astype(np.float64) - WEIGHTS["first.weight"]))
    expected /= np.linalg.norm(X.astype(np.float64) @ WEIGHTS["first.weight"] + WEIGHTS["first.bias"])
    assert first.entire.relative_l2 == pytest.approx(expected, rel=1e-5)
    assert second.differs
    assert second.own.relative_l2 < 1e-6  # fed with numpy's values it computes the same


def test_a_batch_norm_that_was_folded_is_compared_with_the_layer_it_went_into():
    folded = {name: WEIGHTS[name] * SCALE for name in ("first.weight", "first.bias")}
    calls, output = computed(normalized=True)
    result = compare(network(**folded), calls, output)
    assert result.equal, repr(result)
    assert [(row.a.layer, row.b.layer) for row in result] == [("norm", "first"), ("second", "second")]
    assert result.only_a == ()
    result = compare(network(), calls, output)
    assert [row.a.layer for row in result.guilty] == ["norm"]


def test_layers_that_names_do_not_find_are_paired_by_their_values():
    model = network()
    for node in model.graph.node:
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        for node in model.graph.node:
            node.input[:] = [tensor.name.replace(".", "_") if value == tensor.name else value for value in node.input]
        tensor.name = tensor.name.replace(".", "_")
    calls, output = computed()
    renamed = [FrameworkValue(f"other.{call.layer}", call.kind, call.array) for call in calls]
    result = compare(model, renamed, output)
    assert [(row.a.layer, row.b.name) for row in result] == [("other.first", "a"), ("other.second", "y")]
    assert result.equal, repr(result)


def test_a_layer_whose_value_is_nowhere_is_unaligned_and_another_shape_is_said():
    calls, output = computed()
    calls.append(FrameworkValue(layer="gone", kind="Linear", array=RNG.standard_normal((8, 5), np.float32)))
    result = compare(network(), calls, output)
    assert result.only_a == (("gone", "Linear"),)
    assert not result.equal
    (row,) = compare(network(), computed()[0], output[:, :2]).outputs
    assert row.reason == "shape [8, 2] against [8, 3]"
    assert row.differs


def test_inputs_get_the_model_s_names_and_have_to_be_as_many():
    model = load_model(network())
    assert name_inputs(model, [X]) == {"x": X}
    with pytest.raises(InputError, match=r"^2 inputs for the 1 of the model: "):
        name_inputs(model, [X, X])
