"""What operators of classical machine learning have learned: told by node and attribute where it has changed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from onnxscope import check, diff, snapshot

TREE = {
    "nodes_treeids": [0] * 5,
    "nodes_nodeids": list(range(5)),
    "nodes_featureids": [0, 1, 0, 0, 0],
    "nodes_values": [0.5, -0.25, 0.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 2, 0, 0, 0],
    "nodes_falsenodeids": [4, 3, 0, 0, 0],
}
LEAVES = {"treeids": [0] * 3, "nodeids": [2, 3, 4], "ids": [0] * 3, "weights": [1.0, 2.0, 3.0]}
VECTORS = {
    "support_vectors": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "n_supports": 2,
    "coefficients": [1.0, -1.0],
    "rho": [0.25],
}
LEARNED = {
    "TreeEnsembleRegressor": {**TREE, **{f"target_{name}": told for name, told in LEAVES.items()}, "n_targets": 1},
    "TreeEnsembleClassifier": {
        **TREE,
        **{f"class_{name}": told for name, told in LEAVES.items()},
        "classlabels_int64s": [0, 1, 2],
    },
    "Scaler": {"offset": [0.1, 0.2, 0.3], "scale": [1.0, 2.0, 3.0]},
    "LinearRegressor": {"coefficients": [1.0, 2.0, 3.0], "intercepts": [0.5], "targets": 1},
    "LinearClassifier": {
        "coefficients": [1.0, 2.0, 3.0, -1.0, -2.0, -3.0],
        "intercepts": [0.5, -0.5],
        "classlabels_ints": [0, 1],
    },
    "SVMRegressor": {**VECTORS, "kernel_type": "RBF", "kernel_params": [0.5, 0.0, 3.0]},
    "Imputer": {"imputed_value_floats": [0.0, 1.0, 2.0], "replaced_value_float": 1.0},
    "OneHotEncoder": {"cats_int64s": [0, 1, 2]},
    "Binarizer": {"threshold": 0.5},
    "LabelEncoder": {"keys_floats": [0.0, 1.0], "values_floats": [3.0, 4.0], "default_float": -1.0},
}
CHANGED = [
    ("TreeEnsembleRegressor", "nodes_values"),
    ("TreeEnsembleRegressor", "target_weights"),
    ("TreeEnsembleRegressor", "nodes_featureids"),
    ("TreeEnsembleClassifier", "class_weights"),
    ("Scaler", "scale"),
    ("Scaler", "offset"),
    ("LinearRegressor", "coefficients"),
    ("LinearClassifier", "intercepts"),
    ("SVMRegressor", "support_vectors"),
    ("SVMRegressor", "rho"),
    ("Imputer", "imputed_value_floats"),
    ("Imputer", "replaced_value_float"),
    ("OneHotEncoder", "cats_int64s"),
    ("Binarizer", "threshold"),
    ("LabelEncoder", "values_floats"),
]


def estimator(op_type, attributes=None, features=3):
    """A model of one such node."""
    outputs = ["label", "y"] if op_type.endswith("Classifier") else ["y"]
    learned = LEARNED[op_type] if attributes is None else attributes
    node = helper.make_node(op_type, ["x"], outputs, domain="ai.onnx.ml", name="learned", **learned)
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])]
    kinds = {"label": TensorProto.INT64, "y": TensorProto.FLOAT}
    made = [helper.make_tensor_value_info(name, kinds[name], None) for name in outputs]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([node], "g", given, made)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def with_one_changed(model, name):
    """The model with the first number of an attribute another one."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (stored,) = (stored for stored in copy.graph.node[0].attribute if stored.name == name)
    if stored.type == AttributeProto.FLOAT:
        stored.f += 0.125
    elif stored.type == AttributeProto.INTS:
        stored.ints[0] += 1
    else:
        stored.floats[0] += 0.125
    return copy


@pytest.mark.parametrize("op_type", LEARNED)
def test_equal_copies_are_equal(op_type):
    model = estimator(op_type)
    assert diff(model, estimator(op_type)).equal
    assert check(estimator(op_type), snapshot(model)).findings == ()


@pytest.mark.parametrize(("op_type", "name"), CHANGED)
def test_one_number_is_told_by_node_and_attribute(op_type, name):
    model = estimator(op_type)
    changed = with_one_changed(model, name)
    result = diff(model, changed)
    (change,) = result.structure
    assert (result.verdict, change.counts) == ("differs", True)
    assert change.message.startswith(f"ai.onnx.ml.{op_type} learned: {name} ")
    (finding,) = check(changed, snapshot(model)).findings
    assert f"ai.onnx.ml.{op_type}: {name} " in finding.message


def test_it_differs_also_where_the_data_do_not_show_it():
    model = estimator("TreeEnsembleRegressor")
    changed = with_one_changed(model, "target_weights")  # a leaf for what is below
    above = np.full((4, 3), 2, np.float32)
    result = diff(model, changed, above)
    assert (result.outputs[0].differs, result.verdict) == (False, "differs")


def test_of_many_numbers_the_first_that_changed_is_told():
    many = {"coefficients": [float(number) for number in range(500)], "intercepts": [0.5], "targets": 1}
    model = estimator("LinearRegressor", many, 500)
    many = many | {"coefficients": [number + 0.5 * (number in (123, 400)) for number in many["coefficients"]]}
    (change,) = diff(model, estimator("LinearRegressor", many, 500)).structure
    assert change.message.endswith("; 2 of 500 numbers, the first at 123: 123 became 123.5")
    assert "coefficients 500 values (" in change.message
