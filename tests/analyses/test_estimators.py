"""Trees, linear models and support vectors: held against scikit-learn, and against what was written by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxscope
from onnxscope.cli.main import run


def model_of(op_type, outputs=("y",), features=4, version=3, **attributes):
    node = helper.make_node(op_type, ["x"], list(outputs), domain="ai.onnx.ml", name="model", **attributes)
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    if op_type.endswith("Classifier"):
        made[0].type.tensor_type.elem_type = TensorProto.INT64
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(helper.make_graph([node], "g", [x], made), opset_imports=opsets, ir_version=9)


def forest_model(forest):
    """scikit-learn's regression trees as one node."""
    lists = {
        name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    leaves = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        for place in range(tree.node_count):
            leaf = tree.children_left[place] < 0
            row = (
                number,
                place,
                0 if leaf else int(tree.feature[place]),
                0.0 if leaf else float(tree.threshold[place]),
                "LEAF" if leaf else "BRANCH_LEQ",
                0 if leaf else int(tree.children_left[place]),
                0 if leaf else int(tree.children_right[place]),
            )
            for name, number_or_word in zip(lists, row, strict=True):
                lists[name].append(number_or_word)
            if leaf:
                weight = float(tree.value[place].ravel()[0]) / len(forest.estimators_)
                for name, number_or_word in zip(leaves, (number, place, 0, weight), strict=True):
                    leaves[name].append(number_or_word)
    attributes = {f"nodes_{name}": values for name, values in lists.items()}
    attributes |= {f"target_{name}": values for name, values in leaves.items()}
    return model_of("TreeEnsembleRegressor", features=6, n_targets=1, **attributes)


def test_a_forest_is_what_scikit_learn_says_of_it():
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype(np.float32)
    target = x[:, 1] * 2 - x[:, 4] ** 2  # the other features may be used too
    forest = ensemble.RandomForestRegressor(7, max_depth=5, random_state=0).fit(x, target)
    model = forest_model(forest)
    trees = [estimator.tree_ for estimator in forest.estimators_]
    thresholds = np.concatenate([tree.threshold[tree.children_left >= 0] for tree in trees])
    used = set(np.concatenate([tree.feature[tree.children_left >= 0] for tree in trees]))
    (layer,) = onnxscope.inspect(model).layers
    found = layer.estimator
    assert (found.trees, found.depth) == (7, max(tree.max_depth for tree in trees))
    assert (found.leaves, found.features) == (sum(tree.n_leaves for tree in trees), len(used))
    assert found.ranges["thresholds"] == pytest.approx((thresholds.min(), thresholds.max()), rel=1e-6)
    assert found.numbers["leaf weights"] == found.leaves
    assert layer.parameters == thresholds.size + found.leaves


def test_trees_of_the_newest_operator():
    model = model_of(
        "TreeEnsemble",
        version=5,
        n_targets=1,
        tree_roots=[0, 2],
        nodes_featureids=[3, 1, 0],
        nodes_modes=helper.make_tensor("m", TensorProto.UINT8, (3,), [0, 0, 0]),
        nodes_splits=helper.make_tensor("s", TensorProto.FLOAT, (3,), [0.5, -2.0, 7.0]),
        nodes_truenodeids=[1, 0, 3],
        nodes_trueleafs=[0, 1, 1],
        nodes_falsenodeids=[2, 1, 4],
        nodes_falseleafs=[1, 1, 1],
        leaf_targetids=[0] * 5,
        leaf_weights=helper.make_tensor("w", TensorProto.FLOAT, (5,), [1, 2, 3, 4, 5]),
    )
    found = onnxscope.inspect(model).layers[0].estimator
    assert (found.trees, found.depth, found.leaves, found.features) == (2, 2, 5, 3)
    assert found.ranges == {"thresholds": (-2.0, 7.0), "leaf weights": (1.0, 5.0)}


LINEAR = {"coefficients": [0.5, -1.5, 2.0, 0.0], "intercepts": [0.25]}


@pytest.mark.parametrize(
    ("model", "numbers", "ranges"),
    [
        (
            model_of("LinearRegressor", **LINEAR),
            {"coefficients": 4, "intercepts": 1},
            {"coefficients": (-1.5, 2.0), "intercepts": (0.25, 0.25)},
        ),
        (
            model_of("LinearClassifier", outputs=("label", "y"), classlabels_ints=[0, 1], **LINEAR),
            {"coefficients": 4, "intercepts": 1},
            {"coefficients": (-1.5, 2.0), "intercepts": (0.25, 0.25)},
        ),
        (
            model_of("Scaler", scale=[2.0, 4.0, 8.0, 1.0], offset=[0.0]),
            {"scale": 4, "offset": 1},
            {"scale": (1.0, 8.0), "offset": (0.0, 0.0)},
        ),
        (
            model_of(
                "SVMRegressor", support_vectors=[1.0, 2.0, 3.0, -4.0], coefficients=[1.0], rho=[0.5], n_supports=1
            ),
            {"coefficients": 1, "support vectors": 4, "intercepts": 1},
            {"coefficients": (1.0, 1.0), "support vectors": (-4.0, 3.0), "intercepts": (0.5, 0.5)},
        ),
    ],
)
def test_linear_models_have_coefficients(model, numbers, ranges):
    (layer,) = onnxscope.inspect(model).layers
    assert (layer.layer, layer.estimator.trees) == ("model", None)
    assert layer.estimator.numbers == numbers
    assert layer.estimator.ranges == ranges
    assert (layer.parameters, layer.size_bytes) == (sum(numbers.values()), 4 * sum(numbers.values()))


def test_every_command_sees_the_layer(tmp_path, capsys):
    model = model_of("LinearRegressor", **LINEAR)
    onnx.save(model, tmp_path / "m.onnx")
    assert run(["inspect", str(tmp_path / "m.onnx")]) == 0
    shown = capsys.readouterr().out
    assert "\n1 layer\n" in shown
    assert "4 coefficients -1.5 to 2, 1 intercepts 0.25 to 0.25" in shown
    left = {(other.size, other.reason) for other in onnxscope.weights(model).left_out}
    assert left == {(4, "in the attribute coefficients"), (1, "in the attribute intercepts")}
    vectors = model_of("SVMRegressor", support_vectors=[1.0] * 4, coefficients=[1.0], rho=[0.5], n_supports=1)
    left = {other.reason for other in onnxscope.weights(vectors).left_out}
    assert {"support vectors, in the attribute support_vectors", "intercepts, in the attribute rho"} <= left
    x = np.ones((3, 4), np.float32)
    assert [tap.tap.layer for tap in onnxscope.features(model, x).taps] == ["model"]
    assert "LinearRegressor" in onnxscope.report(model, x).html


@pytest.mark.parametrize("children", [[0, 0], [1, 9]])
def test_trees_that_do_not_hang_together_have_no_depth(children):
    model = model_of(
        "TreeEnsembleRegressor",
        n_targets=1,
        nodes_treeids=[0, 0],
        nodes_nodeids=[0, 1],
        nodes_featureids=[0, 0],
        nodes_values=[1.0, 2.0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ"],
        nodes_truenodeids=children,
        nodes_falsenodeids=[1, 0],
        target_treeids=[0],
        target_nodeids=[0],
        target_ids=[0],
        target_weights=[1.0],
    )
    found = onnxscope.inspect(model).layers[0].estimator
    assert found.trees is None or found.depth <= 3
