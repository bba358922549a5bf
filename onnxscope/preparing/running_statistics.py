"""What a model itself says of the data that it was trained on: the running statistics of its BatchNormalizations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.stored_model import StoredModel

__all__ = ["RunningStatistics", "first_running_statistics", "running_statistics"]

Floats = NDArray[np.float64]

_EPSILON = 1e-5  # ONNX's default
_CONSTANT = 1e-6  # of the median variance: what a channel that never moves decays to


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """What one BatchNormalization stores; all arrays are float64 of shape (channels,).

    Attributes:
        node: The BatchNormalization.
        mean: Of what enters.
        variance: Of what enters.
        bias: The mean of what leaves.
        share: The variance of what leaves.
    """

    node: Node
    mean: Floats
    variance: Floats
    bias: Floats
    share: Floats

    @property
    def counted(self) -> NDArray[np.bool_]:
        """The channels that say something: finite, and not constant in training."""
        finite = np.isfinite(self.mean) & np.isfinite(self.variance) & (self.variance > 0)
        least = _CONSTANT * float(np.median(self.variance[finite])) if finite.any() else 0.0
        return np.asarray(finite & (self.variance > least))

    @property
    def is_initial(self) -> bool:
        """Whether they are what frameworks begin with, so that no data was ever seen."""
        return not self.mean.any() and bool(np.all(self.variance == 1))


def running_statistics(model: StoredModel) -> Iterator[RunningStatistics]:
    """Yield what the BatchNormalizations of the main graph store, in the graph's order; none in training mode."""
    for node in model.main.nodes:
        if node.op_type != "BatchNormalization" or not node.is_standard or node.attribute("training_mode"):
            continue
        stored = [_array(model, model.main, node, place) for place in range(1, 5)]
        if any(array is None for array in stored):
            continue
        weight, bias, mean, variance = (array for array in stored if array is not None)
        epsilon = node.attribute("epsilon")
        share = weight**2 * variance / (variance + (_EPSILON if epsilon is None else float(epsilon)))
        yield RunningStatistics(node, mean, variance, bias, share)


def first_running_statistics(model: StoredModel, name: str) -> list[RunningStatistics]:
    """Return those that an input reaches through no other BatchNormalization, and that have seen data.

    Args:
        model: The model.
        name: Of the input.
    """
    stored = {entry.node: entry for entry in running_statistics(model) if not entry.is_initial and entry.counted.any()}
    first: list[RunningStatistics] = []
    reached, behind = {name}, set[str]()
    for node in model.main.nodes if stored else ():
        read = {*node.inputs, *node.captured}
        if not read.isdisjoint(behind):
            behind.update(node.outputs)
        elif node in stored and node.inputs[0] in reached:
            first.append(stored[node])
            behind.update(node.outputs)
        elif not read.isdisjoint(reached):
            reached.update(node.outputs)
        behind.discard("")
        reached.discard("")
    return first


def _array(model: StoredModel, graph: Graph, node: Node, place: int) -> Floats | None:
    tensor = graph.stored(node.inputs[place]) if place < len(node.inputs) else None
    return None if tensor is None else model.array(tensor).reshape(-1).astype(np.float64)
