"""Which Keras layer each operation of a trace, and then each node of a graph, belongs to.

TensorFlow's scopes carry a call counter (`conv2d_1_2/...` may be the second call of `conv2d_1` or of `conv2d`), so
they cannot be read back. We note instead, while the model is traced, which operations each layer's call has made.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import onnx
import tensorflow as tf

from onnxscope.model.provenance import LAYER_KEY

__all__ = [
    "CallRecorder",
    "LayerIndex",
    "layer_of_path",
    "node_layers",
    "own_layers",
    "record_layers",
]

_COUNTER = re.compile(r"__\d+$")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
# What tf2onnx puts in front of an operation to suit its operands; anything else computes something of its own.
_SHAPING = frozenset(
    {"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def layer_of_path(path: str, model_name: str) -> str:
    """Return a variable's layer: its path without the variable and without the model's own scope."""
    scopes = path.split("/")[:-1]
    return "/".join(scopes[1:] if scopes and scopes[0] == model_name else scopes)


class CallRecorder:
    """While it is entered, notes the operations that each layer adds to the graph being traced.

    Attributes:
        layers: Operation to layer, for the operations made inside a layer's call; the innermost layer counts.
    """

    def __init__(self, model: Any, name_of: Callable[[Any], str]) -> None:
        """Prepare to record `model`; `name_of` gives the layer of a variable."""
        self.layers: dict[str, str] = {}
        self._model = model
        self._owners = own_layers(model, name_of)
        self._stack: list[tuple[Any, str]] = []  # the layers being called, and their names
        self._graph: Any = None

    def __enter__(self) -> CallRecorder:
        self._graph = tf.compat.v1.get_default_graph()
        self._layer_call = keras.layers.Layer.__call__
        self._operation_call = keras.Operation.__call__
        keras.layers.Layer.__call__ = self._wrap(self._layer_call, lambda operation: operation is not self._model)
        keras.Operation.__call__ = self._wrap(self._operation_call, self._is_step)
        return self

    def __exit__(self, *_: object) -> None:
        keras.layers.Layer.__call__ = self._layer_call
        keras.Operation.__call__ = self._operation_call

    def _wrap(self, call: Any, applies: Callable[[Any], bool]) -> Any:
        @functools.wraps(call)
        def recorded(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if not applies(operation):
                return call(operation, *args, **kwargs)
            parent = self._stack[-1][1] + "/" if self._stack else ""
            layer = self._owners.get(id(operation), f"{parent}{operation.name}")
            before = len(self._graph.get_operations())
            self._stack.append((operation, layer))
            try:
                return call(operation, *args, **kwargs)
            finally:
                self._stack.pop()
                for made in self._graph.get_operations()[before:]:
                    self.layers.setdefault(made.name, layer)

        return recorded

    def _is_step(self, operation: Any) -> bool:
        """Return whether it is a function of `keras.ops` used in a functional model: a step that is no layer."""
        container = self._stack[-1][0] if self._stack else self._model
        return isinstance(container, keras.Model) and not isinstance(operation, keras.layers.Layer)


def own_layers(model: Any, name_of: Callable[[Any], str]) -> dict[int, str]:
    """Return by id the name, by its variables' path, of every layer that owns variables itself."""
    owners: dict[int, str] = {}
    for layer in model._flatten_layers():
        inner = {id(v) for child in layer._flatten_layers(include_self=False) for v in child.weights}
        own = [v for v in layer.weights if id(v) not in inner]
        if own and layer is not model:
            owners[id(layer)] = name_of(own[0])
    return owners


class LayerIndex:
    """Looks up the layer of an operation by a node's name, which may have grown a suffix or a scope."""

    def __init__(self, operations: Mapping[str, str]) -> None:
        """Index `operations`, name to layer."""
        self._operations = operations
        inside: dict[str, set[str]] = {}
        for name, layer in operations.items():
            inside.setdefault(name.rpartition("/")[0], set()).add(layer)
        self._scopes = {scope: next(iter(layers)) for scope, layers in inside.items() if scope and len(layers) == 1}

    def find(self, node_name: str) -> str | None:
        """Return the layer, or None where the name does not tell."""
        if node_name in self._operations:
            return self._operations[node_name]
        name = _COUNTER.sub("", node_name)
        if "/" not in name:
            return None  # tf2onnx's own `Reshape__437` says nothing about an operation called `Reshape`
        while name:
            layer = self._operations.get(name) or self._scopes.get(name)
            if layer:
                return layer
            name = name.rpartition("/")[0]
        return None


def node_layers(graph: onnx.GraphProto, index: LayerIndex, weights: Mapping[str, str]) -> list[str | None]:
    """Return the layer of each node of `graph`, None where it cannot be told.

    Args:
        graph: Only its own nodes; those inside control flow are in the layer of the node that holds them.
        index: Of the operations.
        weights: Initializer (or graph input that will become one) to the layer of its parameter.
    """
    computed = _weights_only(graph, weights)
    constants = {tensor.name for tensor in graph.initializer} - set(weights)
    layers: list[str | None] = []
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS and node.input[1] in constants:
            # A folded BatchNorm gives the convolution its own name, but the kernel keeps that of its layer.
            layers.append(index.find(node.input[1].partition(":")[0]) or index.find(node.name))
            continue
        used = {weights.get(name) or computed.get(name) for name in node.input} - {None}
        by_weight = next(iter(used)) if len(used) == 1 else None
        only = bool(used) and all(name in computed for name in node.output)
        layers.append((by_weight if only else None) or index.find(node.name) or by_weight)
    return _fill_between(graph.node, layers)


def record_layers(graph: onnx.GraphProto, layers: Sequence[str | None]) -> None:
    """Write each node's layer into its metadata, and into that of the nodes inside it."""
    for node, layer in zip(graph.node, layers, strict=True):
        if not layer:
            continue
        node.metadata_props.add(key=LAYER_KEY, value=layer)
        for inner in _inner_graphs(node):
            record_layers(inner, [layer] * len(inner.node))


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def _weights_only(graph: onnx.GraphProto, weights: Mapping[str, str]) -> dict[str, str]:
    """Return the values computed from one layer's weights and constants alone, such as a transposed kernel."""
    constants = {tensor.name for tensor in graph.initializer} - set(weights)
    computed: dict[str, str] = {}
    for node in graph.node:
        known = [weights.get(name) or computed.get(name) for name in node.input if name not in constants]
        if known and None not in known and len(set(known)) == 1:
            computed.update((name, known[0] or "") for name in node.output)
    return computed


def _fill_between(nodes: Sequence[onnx.NodeProto], layers: list[str | None]) -> list[str | None]:
    """Give an unnamed node the one layer that both feeds and reads it; one that only shapes, the one that reads it."""
    producers = {name: index for index, node in enumerate(nodes) for name in node.output}
    before = [[producers[name] for name in node.input if name in producers] for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for index, sources in enumerate(before):
        for source in sources:
            after[source].append(index)
    shaping = [node.op_type in _SHAPING for node in nodes]
    above = _nearest(range(len(nodes)), before, layers, shaping)
    below = _nearest(reversed(range(len(nodes))), after, layers, shaping)
    filled = list(layers)
    for index, layer in enumerate(layers):
        if layer is None:
            common = above[index] & below[index]
            candidates = below[index] if shaping[index] and len(common) != 1 else common
            filled[index] = next(iter(candidates)) if len(candidates) == 1 else None
    return filled


def _nearest(
    order: Iterable[int], links: list[list[int]], layers: list[str | None], shaping: list[bool]
) -> dict[int, set[str]]:
    """Return the known layers nearest to each node along `links`, which lead to nodes earlier in `order`.

    The way there leads through unnamed nodes that only shape.
    """
    reached: dict[int, set[str]] = {}
    for index in order:
        reached[index] = set()
        for linked in links[index]:
            layer = layers[linked]
            reached[index] |= {layer} if layer else reached[linked] if shaping[linked] else set()
    return reached
