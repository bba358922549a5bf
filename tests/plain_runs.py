"""What plain onnxruntime gives for a model, without optimization, and how far two models are apart by that."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import ModelProto
from small_networks import Network


def outputs_of(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """By plain onnxruntime, which computes node by node; a map's values as they come."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    fed = feeds if feeds.keys() == set(names) else dict(zip(names, feeds.values(), strict=True))
    results = session.run(None, fed)
    return [
        np.array([list(row.values()) for row in result]) if isinstance(result, list) else np.asarray(result)
        for result in results
    ]


def distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The largest difference of an element, over the largest element of its output."""
    largest = 0.0
    for left, right in zip(a, b, strict=True):
        if left.size != right.size or left.dtype != right.dtype:
            return np.inf
        left, right = left.reshape(-1), right.reshape(-1)  # the same numbers with another side of 1 are the same
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0)
        scale = np.abs(left.astype(np.float64)).max(initial=0) or 1.0
        largest = max(largest, np.inf if np.isnan(gap) else gap / scale)
    return largest


class Oracle:
    """What plain onnxruntime says of copies of one network."""

    def __init__(self, network: Network) -> None:
        self._feeds = network.feeds
        self._outputs = outputs_of(network.model, network.feeds)
        self.rounding = 1e-2 if any(value.dtype == np.float16 for value in self._outputs) else 1e-5

    def distance(self, model: ModelProto) -> float:
        return distance(self._outputs, outputs_of(model, self._feeds))

    def runs(self, model: ModelProto) -> bool:
        """Whether onnxruntime can run a copy on the data."""
        try:
            self.distance(model)
        except Exception:
            return False
        return True

    def moves(self, model: ModelProto) -> bool:
        """Whether the outputs are others, by more than rounding can make; not so where it does not run."""
        try:
            return self.distance(model) > 100 * self.rounding or not np.isfinite(self.distance(model))
        except Exception:
            return False
