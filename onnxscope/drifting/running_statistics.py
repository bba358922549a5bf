"""What a model itself says of the data that it was trained on, as populations."""

from __future__ import annotations

from collections.abc import Mapping

from onnxscope.drifting.populations import Population
from onnxscope.model.loading import Model
from onnxscope.preparing.running_statistics import running_statistics

__all__ = ["running_populations"]


def running_populations(model: Model) -> Mapping[str, Population]:
    """Return mean and variance of each channel, by value: of what enters and of what leaves a BatchNormalization.

    What enters has the running mean and variance. What leaves has the bias for a mean, and the weight's share of that.
    """
    known: dict[str, Population] = {}
    for stored in running_statistics(model):
        known[stored.node.inputs[0]] = Population.known(stored.mean, stored.variance)
        known[stored.node.outputs[0]] = Population.known(stored.bias, stored.share)
    return known
