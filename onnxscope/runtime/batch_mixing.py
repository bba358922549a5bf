"""What a graph says of the first axis of its inputs: an operator that mixes it shows that it counts no samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxscope.base.text import printable
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["mixed_first_axis", "quantizes_batches", "random_values", "shape_values"]

_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_ALONG = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "CumSum": None, "ArgMax": 0, "ArgMin": 0, "TopK": -1}
_QUANTIZING = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"})
_UNKNOWN = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Shape", "Size", "NonZero", "If", "Loop"})


def mixed_first_axis(model: Model) -> str | None:
    """Say which node combines what lies along the first axis of the inputs, None where none is known to.

    The axis is followed from the inputs as far as it keeps a place that is known; models that move it away, compute
    and move it back are judged by what they compute in between.
    """
    graph = model.main
    places = {spec.name: 0 for spec in model.inputs if spec.shape and not isinstance(spec.shape[0], int)}
    ranks = {spec.name: len(spec.shape) for spec in model.inputs if spec.shape is not None}
    for node in graph.nodes:
        reads = [name for name in node.inputs if name in places]
        if not reads or not node.is_standard:
            continue
        if _mixes(model, graph, node, places, ranks):
            return f"{node.op_type} '{printable(node.label)}' works along it"
        for output in filter(None, node.outputs[:1]):
            place = _place_behind(node, reads[0], places[reads[0]], ranks.get(reads[0]))
            if place is not None:
                places[output] = place
                ranks[output] = max(ranks.get(name, 0) for name in reads)
    return _left_by_outputs(model)


def random_values(graph: Graph) -> frozenset[str]:
    """Return the values of a graph that random numbers reach."""
    reached: set[str] = set()
    for node in graph.nodes:
        trained = node.op_type == "Dropout" and len(node.inputs) > 2 and bool(node.inputs[2])
        inner = _operators_within(node.proto)
        if (
            node.operator.is_random
            or trained
            or any(name.startswith("Random") or name in ("Bernoulli", "Multinomial") for name in inner)
            or reached.intersection((*node.inputs, *node.captured))
        ):
            reached.update(filter(None, node.outputs))
    return frozenset(reached)


def shape_values(graph: Graph) -> frozenset[str]:
    """Return the values of a graph that shapes alone make: of more samples they are others, and mix none."""
    of_shapes: set[str] = set()
    for node in graph.nodes:
        read = [name for name in (*node.inputs, *node.captured) if name and name not in graph.constants]
        if node.op_type in ("Shape", "Size") or (read and of_shapes.issuperset(read)):
            of_shapes.update(filter(None, node.outputs))
    return frozenset(of_shapes)


def quantizes_batches(model: Model) -> bool:
    """Whether scales are computed from what is fed, a batch at a time: samples then share their rounding."""
    return any(node.op_type in _QUANTIZING for node in model.main.nodes)


def _operators_within(proto: Any) -> set[str]:
    """The operators of a node's bodies."""
    names: set[str] = set()
    for attribute in proto.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in body.node:
                names |= {inner.op_type} | _operators_within(inner)
    return names


def _mixes(model: Model, graph: Graph, node: Node, places: Mapping[str, int], ranks: Mapping[str, int]) -> bool:
    first = node.inputs[0]
    place, rank = places.get(first), ranks.get(first, 0)
    if node.op_type == "MatMul":
        right = node.inputs[1]
        contracts_right = right in places and places[right] == max(ranks.get(right, 0) - 2, 0)
        return contracts_right or (place is not None and place == rank - 1)
    if node.op_type == "Gemm":
        right = node.inputs[1]
        kept = 1 if node.attribute("transA") else 0
        return (place is not None and place != kept) or (
            right in places and places[right] == (1 if node.attribute("transB") else 0)
        )
    if place is None:
        return False
    if node.op_type in _RECURRENT:
        return place == (1 if node.attribute("layout") else 0)
    if node.op_type == "BatchNormalization":
        return bool(node.attribute("training_mode")) and place == 0
    if node.op_type.startswith("Reduce"):
        axes = _axes(model, graph, node)
        none_kept = not axes and not node.attribute("noop_with_empty_axes")
        return none_kept or place in [axis % rank for axis in axes if rank]
    if node.op_type in _ALONG and rank:
        axis = node.attribute("axis")
        if node.op_type == "CumSum":
            axis = _whole_number(model, graph, node.inputs[1])
        axis = _ALONG[node.op_type] if axis is None else axis
        return axis is not None and axis % rank == place
    return False


def _place_behind(node: Node, read: str, place: int, rank: int | None) -> int | None:
    """Where the axis is in a node's first output, None where it is not known."""
    if node.op_type in _UNKNOWN:
        return None
    if node.op_type == "Transpose":
        order = node.axis_order(None) or node.axis_order(rank)  # the rank is a guess
        return None if order is None or place not in order else order.index(place)
    if node.op_type.startswith("Reduce") and node.attribute("keepdims") not in (None, 1) and place:
        return None
    if node.op_type in _RECURRENT:
        return None
    if node.op_type in ("MatMul", "Gemm") and read != node.inputs[0]:
        return None
    return place


def _axes(model: Model, graph: Graph, node: Node) -> list[int]:
    axes = node.attribute("axes")
    if axes is not None:
        return list(axes)
    stored = graph.stored(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    return [] if stored is None else [int(axis) for axis in model.array(stored).reshape(-1)]


def _whole_number(model: Model, graph: Graph, name: str) -> int | None:
    stored = graph.stored(name)
    return None if stored is None else int(model.array(stored).reshape(-1)[0])


def _left_by_outputs(model: Model) -> str | None:
    """Whether the outputs have shapes, and none of them has a symbol of the inputs' first axes."""
    symbols = {spec.shape[0] for spec in model.inputs if spec.shape and isinstance(spec.shape[0], str)}
    shapes: Sequence[Any] = [spec.shape for spec in model.outputs]
    if not symbols or any(shape is None or None in shape for shape in shapes):
        return None
    kept = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    # Exporters may give an output a symbol of its own.
    return None if kept else f"no output has {', '.join(map(repr, sorted(map(str, symbols))))}"
