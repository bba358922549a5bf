"""See what is inside an ONNX model: layers, weights, feature maps.

    import onnxscope

    onnxscope.convert("torch", "net.py:make", "model.onnx")
    print(onnxscope.inspect("model.onnx"))
    weights = onnxscope.weights("model.onnx")
    maps = onnxscope.features("model.onnx", "photo.jpg", select="layer1.*")
    stats = onnxscope.stats("model.onnx", "images/")
    print(onnxscope.diff("model.onnx", "other.onnx", "photo.jpg"))
    onnxscope.recipe("model.onnx", "photo.jpg", preprocess="imagenet").save()

Names resolve on first use, so that importing the package loads neither onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from onnxscope._version import __version__ as __version__

# The public names stand once, in the stub that editors read.
_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_MODULE_OF = {
    name: module
    for module, names in re.findall(r"^from (\S+) import (\([^)]*\)|.*)", _STUB, re.MULTILINE)
    for name in re.findall(r"(\w+) as", names)
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
