"""Two networks of which one is explained as the other with an edit: their weights, and the copy that the edit mends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

import onnxscope


def network(text: str, stored: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model as text, with those of the stored arrays that its nodes read."""
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(stored[name], name) for name in stored if name in read)
    return model


def mended(a: onnx.ModelProto, b: onnx.ModelProto, x: np.ndarray, path: Path, *, atol: float = 1e-5) -> list[str]:
    """The texts of why `b` is another; the mended copy has to be `a` by plain onnxruntime."""
    result = onnxscope.explain(a, b, x, mend=path)
    assert result.mended is not None, result.explanations
    assert result.mended.equal
    expected, copy = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0] for model in (a, onnx.load(path))
    )
    np.testing.assert_allclose(copy, expected, rtol=1e-4, atol=atol)
    return [each.text for each in result.explanations]
