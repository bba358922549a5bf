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
    from onnxscope.activation_maps import ClassActivation, class_activation
    from onnxscope.analysis import analyze
    from onnxscope.baseline import Baseline, snapshot
    from onnxscope.checking import Check, Deviation, check
    from onnxscope.comparison import compare
    from onnxscope.dataset_statistics import DatasetStatistics
    from onnxscope.differences import Comparison, LayerDifference
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
    from onnxscope.feature_maps import FeatureMap, FeatureMaps, features
    from onnxscope.inspection import ModelSummary, inspect
    from onnxscope.model import Model, load_model
    from onnxscope.profile import Profile
    from onnxscope.rendering import save_features, save_weights
    from onnxscope.reporting import Report, report
    from onnxscope.settings import Settings
    from onnxscope.weight_statistics import WeightRecord, WeightStatistics, weights

_MODULES = {
    "activation_maps": ("ClassActivation", "class_activation"),
    "analysis": ("analyze",),
    "baseline": ("Baseline", "snapshot"),
    "checking": ("Check", "Deviation", "check"),
    "comparison": ("compare",),
    "dataset_statistics": ("DatasetStatistics",),
    "differences": ("Comparison", "LayerDifference"),
    "feature_maps": ("FeatureMap", "FeatureMaps", "features"),
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
    "inspection": ("ModelSummary", "inspect"),
    "model": ("Model", "load_model"),
    "weight_statistics": ("WeightRecord", "WeightStatistics", "weights"),
    "profile": ("Profile",),
    "settings": ("Settings",),
    "rendering": ("save_features", "save_weights"),
    "reporting": ("Report", "report"),
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
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
