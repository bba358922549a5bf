"""See what is inside an ONNX model: layers, weights, feature maps.

    import onnxscope

    print(onnxscope.inspect("model.onnx"))
    weights = onnxscope.weights("model.onnx")
    maps = onnxscope.features("model.onnx", "photo.jpg", select="layer1.*")
    stats = onnxscope.analyze("model.onnx", "images/")
    print(onnxscope.compare("model.onnx", "other.onnx", "photo.jpg"))

Names resolve on first use, so that importing the package loads neither onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxscope._version import __version__

if TYPE_CHECKING:
    from onnxscope.analyses.activation_maps import ClassActivation, class_activation
    from onnxscope.analyses.feature_maps import FeatureMap, FeatureMaps, features
    from onnxscope.analyses.folders import save_features, save_weights
    from onnxscope.analyses.inspection import ModelSummary, inspect
    from onnxscope.analyses.weight_statistics import WeightRecord, WeightStatistics, weights
    from onnxscope.comparison.compare_models import compare
    from onnxscope.comparison.result import Comparison, LayerDifference
    from onnxscope.errors import (
        BaselineError,
        ConversionError,
        InputError,
        MergeError,
        MissingDependencyError,
        ModelError,
        OnnxscopeError,
        OutputError,
        ProfileError,
        RunError,
        SelectorError,
    )
    from onnxscope.gate.baseline import Baseline, snapshot
    from onnxscope.gate.checking import Check, Deviation, check
    from onnxscope.gate.settings import Settings
    from onnxscope.model.loading import Model, load_model
    from onnxscope.profiling.analysis import analyze
    from onnxscope.profiling.dataset_statistics import DatasetStatistics
    from onnxscope.profiling.profile import Profile
    from onnxscope.reporting.overlays import write_node_data
    from onnxscope.reporting.reports import Report, report

_MODULES = {
    "analyses.activation_maps": ("ClassActivation", "class_activation"),
    "profiling.analysis": ("analyze",),
    "gate.baseline": ("Baseline", "snapshot"),
    "gate.checking": ("Check", "Deviation", "check"),
    "comparison.compare_models": ("compare",),
    "profiling.dataset_statistics": ("DatasetStatistics",),
    "comparison.result": ("Comparison", "LayerDifference"),
    "analyses.feature_maps": ("FeatureMap", "FeatureMaps", "features"),
    "errors": (
        "BaselineError",
        "ConversionError",
        "InputError",
        "MergeError",
        "MissingDependencyError",
        "ModelError",
        "OnnxscopeError",
        "OutputError",
        "ProfileError",
        "RunError",
        "SelectorError",
    ),
    "analyses.inspection": ("ModelSummary", "inspect"),
    "model.loading": ("Model", "load_model"),
    "reporting.overlays": ("write_node_data",),
    "analyses.weight_statistics": ("WeightRecord", "WeightStatistics", "weights"),
    "profiling.profile": ("Profile",),
    "gate.settings": ("Settings",),
    "analyses.folders": ("save_features", "save_weights"),
    "reporting.reports": ("Report", "report"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Baseline",
    "BaselineError",
    "Check",
    "ClassActivation",
    "Comparison",
    "ConversionError",
    "DatasetStatistics",
    "Deviation",
    "FeatureMap",
    "FeatureMaps",
    "InputError",
    "LayerDifference",
    "MergeError",
    "MissingDependencyError",
    "Model",
    "ModelError",
    "ModelSummary",
    "OnnxscopeError",
    "OutputError",
    "Profile",
    "ProfileError",
    "Report",
    "RunError",
    "SelectorError",
    "Settings",
    "WeightRecord",
    "WeightStatistics",
    "__version__",
    "analyze",
    "check",
    "class_activation",
    "compare",
    "features",
    "inspect",
    "load_model",
    "report",
    "save_features",
    "save_weights",
    "snapshot",
    "weights",
    "write_node_data",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
