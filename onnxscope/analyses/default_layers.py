"""What is not looked at where nothing is selected, and how to see it."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscope.base.text import counted, printable
from onnxscope.model.loading import Model

__all__ = ["remarks_on_default"]


def remarks_on_default(model: Model, selectors: Sequence[str]) -> tuple[str, ...]:
    """Return a remark on the layers that `select_taps` leaves out where nothing is selected, none where it does not."""
    layers = [node for node in model.names.weighted if node.operator.cost]
    others = [model.names.layers[node] for node in layers if not node.operator.is_convolution]
    nodes = (node for graph in model.graphs.values() for node in graph.nodes)
    if selectors or not others or not any(node.operator.is_convolution for node in nodes):
        return ()
    count = counted(len(others), "layer with weights is", "layers with weights are")
    name = printable(others[-1])
    return (f"{count} left out, since convolutions are looked at unless `--select` says otherwise: `-s {name}`",)
