"""The layers of a model as a comparison sees them, and how they follow each other.

A layer is a node that owns weights, together with what only finishes its work: a bias, a BatchNorm, a scale, the
quantization of its result, and the activation function behind it. The nodes in between (pooling, Add, Reshape) belong
to the layer that reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxscope.model.activation_functions import activation_after, following
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.layer_names import Names

__all__ = ["Layer", "find_layers", "signatures"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of one model.

    Attributes:
        name: As the source framework called it.
        call: How many layers before it have the same name: a layer called twice is there twice.
        kind: Its operator, the same word for all that compute the same (`Linear` for Gemm and MatMul).
        node: The node that owns the weight.
        parts: That node and those absorbed into the layer, in execution order.
        norm: The absorbed BatchNormalization, or None.
        inner: The value before the activation function, after bias, BatchNorm and quantization.
        value: What leaves the layer.
        activated: Whether an activation function stands between the two, or a quantization, which clips as one does.
        quantized: Whether what leaves the layer is quantized.
        shape: The weight's shape with the outputs first, without trailing ones; empty where it is not known.
        before: Indices of the layers whose values reach it, ascending.
    """

    name: str
    call: int
    kind: str
    node: Node
    parts: tuple[Node, ...]
    norm: Node | None
    inner: str
    value: str
    activated: bool
    quantized: bool
    shape: tuple[int, ...]
    before: tuple[int, ...]

    def is_needed_in(self, graph: Graph) -> bool:
        """Whether an output of its graph depends on it."""
        return not graph.needed.isdisjoint(self.node.outputs)

    @property
    def path(self) -> tuple[Step, ...]:
        """The steps that lead to its graph, empty in the main graph."""
        return self.node.path

    @property
    def values(self) -> frozenset[str]:
        """Every value of the layer, in its graph, up to what leaves it."""
        outputs = (output for part in self.parts for output in part.outputs if output)
        return frozenset((*outputs, self.inner, self.value))


def find_layers(names: Names) -> tuple[Layer, ...]:
    """Return the layers of a model, those of its bodies included, in execution order."""
    layers: list[Layer] = []
    calls: dict[str, int] = {}
    for graph in names.graphs.values():
        spans = _spans(names, graph)
        behind = _reaching(graph, spans)
        offset = len(layers)
        for span in spans:
            node, name = span.node, names.layers[span.node]
            norms = (part for part in span.parts if part.op_type == "BatchNormalization" and part is not node)
            calls[name] = calls.get(name, -1) + 1
            layers.append(
                Layer(
                    name=name,
                    call=calls[name],
                    kind=node.operator.kind,
                    node=node,
                    parts=span.parts,
                    norm=next(norms, None),
                    inner=span.inner,
                    value=span.value,
                    activated=span.quantized or span.value != span.inner,
                    quantized=span.quantized,
                    shape=_weight_shape(names, node),
                    before=tuple(offset + index for index in sorted(behind[node])),
                )
            )
    return tuple(layers)


def signatures(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """Return for each layer two digests: of everything before it, itself included, and of everything behind it.

    References:
        Weisfeiler and Leman, "The reduction of a graph to canonical form", 1968: labels refined by those of neighbours.
    """
    forward: list[str] = []
    for layer in layers:
        forward.append(_digest(layer, (forward[index] for index in layer.before)))
    after: list[list[int]] = [[] for _ in layers]
    for place, layer in enumerate(layers):
        for index in layer.before:
            after[index].append(place)
    backward = [""] * len(layers)
    for place in range(len(layers) - 1, -1, -1):
        backward[place] = _digest(layers[place], (backward[index] for index in after[place]))
    return list(zip(forward, backward, strict=True))


@dataclass(frozen=True, eq=False)
class _Span:
    """Which nodes and values of a graph a layer takes; the attributes are those of `Layer`."""

    node: Node
    parts: tuple[Node, ...]
    inner: str
    value: str
    quantized: bool


def _spans(names: Names, graph: Graph) -> list[_Span]:
    spans: list[_Span] = []
    absorbed: set[Node] = set()
    values: set[str] = set()
    for node in graph.nodes:
        if node in absorbed or not names.owns_weights(node) or node.outputs[0] in values or not node.outputs[0]:
            continue
        if graph.repeats(node):
            continue
        inner, parts = following(graph, node)
        end = activation_after(graph, node.outputs[0])
        value = inner if end is None or graph.producers[end] in parts else _rounded(graph, end)
        quantized = value != end if end is not None and value != inner else _is_quantized((node, *parts))
        if end is not None:
            values.add(end)
            if names.owns_weights(graph.producers[end]) and graph.producers[end] not in parts:
                parts = (*parts, graph.producers[end])  # PRelu
        spans.append(_Span(node=node, parts=(node, *parts), inner=inner, value=value, quantized=quantized))
        absorbed.update(parts)
        values.add(value)
    return spans


def _is_quantized(parts: Sequence[Node]) -> bool:
    return any(part.op_type == "DequantizeLinear" or part.operator.gives_codes is not None for part in parts)


def _rounded(graph: Graph, value: str) -> str:
    """What leaves the quantization that follows a value, or the value itself where none follows."""
    readers = graph.readers_of(value)
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        return value
    readers = graph.readers_of(readers[0].outputs[0])
    return readers[0].outputs[0] if len(readers) == 1 and readers[0].op_type == "DequantizeLinear" else value


def _reaching(graph: Graph, spans: Sequence[_Span]) -> dict[Node, frozenset[int]]:
    """For each layer's node, which of the layers reach it through no other layer."""
    ends = {value: index for index, span in enumerate(spans) for value in (span.inner, span.value)}
    heads = {span.node for span in spans}
    inside = {part: index for index, span in enumerate(spans) for part in span.parts}
    reach: dict[str, frozenset[int]] = {}
    behind: dict[Node, frozenset[int]] = {}
    none: frozenset[int] = frozenset()
    for node in graph.nodes:
        arriving = none.union(*(reach.get(name, none) for name in (*node.inputs, *node.captured)))
        if node in heads:
            behind[node] = arriving
        for output in node.outputs:
            first = graph.repeated.get(output, output)
            index = ends.get(first, inside.get(graph.producers[first] if first else node))
            reach[output] = arriving if index is None else frozenset((index,))
    return behind


def _weight_shape(names: Names, node: Node) -> tuple[int, ...]:
    """The shape of a layer's weight as its operator sees it, outputs first, without trailing ones."""
    for operand in names.operands(node):
        if operand.role != "weight" or operand.origin is None:
            continue
        stored = names.graphs[node.path].stored(operand.origin.value)
        if stored is None or operand.origin.permutation is None:
            return ()
        order = operand.origin.permutation
        dims = [stored.dims[axis] for axis in order] if order else list(stored.dims)
        if node.operator.weight in ("gemm", "matmul") and len(dims) == 2 and not node.attribute("transB"):
            dims.reverse()
        while len(dims) > 2 and dims[-1] == 1:
            dims.pop()
        return tuple(dims)
    return ()


def _digest(layer: Layer, neighbours: Iterable[str]) -> str:
    text = f"{layer.kind} {layer.shape} {sorted(neighbours)}"
    return hashlib.sha256(text.encode()).hexdigest()
