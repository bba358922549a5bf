"""Nodes that do not give the same for the same input, as findings."""

from __future__ import annotations

from onnxscope.findings.kinds import Finding
from onnxscope.model.loading import Model
from onnxscope.runtime.unstable_nodes import find_unstable

__all__ = ["find_unstable_layers"]


def find_unstable_layers(model: Model) -> tuple[Finding, ...]:
    """Return a finding for each node that is random or carries state; see `find_unstable`."""
    return tuple(
        Finding(kind=node.kind, layer=node.layer, channel=None, message=node.message) for node in find_unstable(model)
    )
