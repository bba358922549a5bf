"""Rows about the operators of classical machine learning (`ai.onnx.ml`), whose numbers lie in attributes."""

from __future__ import annotations

from onnxscope.operators.operator import Operator

__all__ = ["MACHINE_LEARNING"]

_SPLITS = {
    **{f"nodes_values{kind}": "thresholds" for kind in ("", "_as_tensor")},
    **{f"base_values{kind}": "base values" for kind in ("", "_as_tensor")},
}
_CLASSES = {f"class_weights{kind}": "leaf weights" for kind in ("", "_as_tensor")}
_TARGETS = {f"target_weights{kind}": "leaf weights" for kind in ("", "_as_tensor")}
_LEAVES = {"nodes_splits": "thresholds", "leaf_weights": "leaf weights"}
_LINEAR = {"coefficients": "coefficients", "intercepts": "intercepts"}
_VECTORS = {"coefficients": "coefficients", "support_vectors": "support vectors", "rho": "intercepts"}
_CALIBRATED = {**_VECTORS, "prob_a": "calibration", "prob_b": "calibration"}

MACHINE_LEARNING = (
    Operator("TreeEnsembleClassifier", holds={**_SPLITS, **_CLASSES}, keeps_axes=False),
    Operator("TreeEnsembleRegressor", holds={**_SPLITS, **_TARGETS}, keeps_axes=False),
    Operator("TreeEnsemble", holds=_LEAVES, keeps_axes=False),
    Operator("LinearClassifier", holds=_LINEAR, keeps_axes=False),
    Operator("LinearRegressor", holds=_LINEAR, keeps_axes=False),
    Operator("SVMClassifier", holds=_CALIBRATED, keeps_axes=False),
    Operator("SVMRegressor", holds=_VECTORS, keeps_axes=False),
    Operator("Scaler", holds={"scale": "scale", "offset": "offset"}),
    Operator("Normalizer"),
)
