"""What onnxruntime would fuse if no tap stood in between."""

from __future__ import annotations

from collections.abc import Iterable

from onnxscope.findings.kinds import Finding, listed
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.operators.table import operator_of
from onnxscope.selection.selectors import Tap

__all__ = ["find_unfused"]


def find_unfused(taps: Iterable[Tap], model: Model) -> tuple[Finding, ...]:
    """Return which taps keep onnxruntime from fusing a layer with what follows it; at most one finding.

    A value that is observed cannot disappear into a fused operator. These are, on the CPU: the output of a Conv or a
    Gemm before its activation function, and that of a Conv or ConvTranspose before what would be folded into its
    weights (BatchNormalization; for a Conv also the addition of, or multiplication by, a constant).

    Args:
        taps: What was observed.
        model: Where it was observed.
    """
    fusions = {tap.layer: fusion for tap in taps if not tap.path and (fusion := _fusion(model.main, tap.value))}
    if not fusions:
        return ()
    kinds = " and ".join(dict.fromkeys(fusions.values()))
    message = f"observed where onnxruntime would fuse {kinds}: {listed(fusions)}; "
    message += "numbers from there on may differ from the deployed model's by rounding, and the run is slower"
    return (Finding(kind="unfused", layer=next(iter(fusions)), channel=None, message=message),)


def _fusion(graph: Graph, value: str) -> str | None:
    """What onnxruntime would fuse over a value if that were not observed: `Conv with Relu`, or None."""
    reader = _only_reader(graph, value)
    node = graph.producers.get(value)
    while node is not None and not node.operator.folds and not node.operator.fuses:
        source = node.inputs[0] if node.inputs else ""
        maker = graph.producers.get(source)
        if _only_reader(graph, source) is not node or not _is_folded(graph, node, source):
            return None
        node = maker
    if node is None or reader is None or not node.is_standard:
        return None
    is_folded = reader.op_type in node.operator.folds and _is_folded(graph, reader, value)
    return f"{node.op_type} with {reader.op_type}" if is_folded or reader.op_type in node.operator.fuses else None


def _is_folded(graph: Graph, node: Node, value: str) -> bool:
    """Whether a node could be folded into the weights of the layer that makes its first input."""
    if node.op_type not in operator_of("Conv").folds or node.inputs[0] != value:
        return False
    return all(name in graph.constants for name in node.inputs[1:])


def _only_reader(graph: Graph, value: str) -> Node | None:
    readers = graph.readers.get(value, ())
    alone = len(readers) == 1 and value not in graph.outputs and readers[0].is_standard
    return readers[0] if alone else None
