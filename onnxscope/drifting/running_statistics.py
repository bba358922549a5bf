"""What a model itself says of the data that it was trained on: the running statistics of its BatchNormalizations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxscope.drifting.populations import Population
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["running_populations"]

_EPSILON = 1e-5  # ONNX's default


def running_populations(model: Model) -> Mapping[str, Population]:
    """Return mean and variance of each channel, by value: of what enters and of what leaves a BatchNormalization.

    What enters has the running mean and variance. What leaves has the bias for a mean, and the weight's share of that.
    """
    graph = model.graphs[()]
    known: dict[str, Population] = {}
    for node in graph.nodes:
        if node.op_type != "BatchNormalization" or not node.is_standard or node.attribute("training_mode"):
            continue
        stored = [_array(model, graph, node, place) for place in range(1, 5)]
        if len(node.inputs) < 5 or any(array is None for array in stored):
            continue
        weight, bias, mean, variance = (array for array in stored if array is not None)
        epsilon = node.attribute("epsilon")
        share = weight**2 * variance / (variance + (_EPSILON if epsilon is None else float(epsilon)))
        known[node.inputs[0]] = Population.known(mean, variance)
        known[node.outputs[0]] = Population.known(bias, share)
    return known


def _array(model: Model, graph: Graph, node: Node, place: int) -> NDArray[np.float64] | None:
    tensor = graph.stored(node.inputs[place]) if place < len(node.inputs) else None
    return None if tensor is None else model.array(tensor).reshape(-1).astype(np.float64)
