"""The layers of one model, what reads their weights, and taps at their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.model.activation_functions import activation_after
from onnxscope.model.encodings import codes_scale
from onnxscope.model.graphs import Node, Step
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.pairing.layer_weights import LayerWeights
from onnxscope.runtime.constant_values import ConstantValues
from onnxscope.selection.selectors import At, Tap
from onnxscope.structure.attributes import default_of, schema_of
from onnxscope.structure.node_records import WEIGHT, NodeRecord, node_records
from onnxscope.structure.rewriting import inside_of
from onnxscope.structure.surroundings import surroundings

__all__ = ["ModelLayers", "values_alike"]

Array = NDArray[Any]


class ModelLayers:
    """The layers of one model, and what reads their weights.

    Attributes:
        model: Whose layers they are.
        layers: In execution order.
        weights: Reads the weights of a layer.
    """

    def __init__(self, model: Model, given: Model | None = None) -> None:
        """List them.

        Args:
            model: In the form in which it is compared.
            given: As it was given, where that is another form.
        """
        self.model = model
        self._given = model if given is None else given
        self.layers = model.layers
        self.weights = LayerWeights(model)

    def run_as(self, model: Model) -> ModelLayers:
        """The same layers, of a copy of their model that computes more; see `onnxscope.patching`."""
        other = object.__new__(ModelLayers)
        other.__dict__.update(self.__dict__)
        other.model = model
        return other

    @cached_property
    def records(self) -> tuple[NodeRecord, ...]:
        """A record for every node that an output depends on."""
        return node_records(self.model, lambda operand: WEIGHT if self.weights.lists(operand) else None)

    @cached_property
    def _constants(self) -> ConstantValues:
        return ConstantValues(self.model)

    def numbers(self, record: NodeRecord, name: str) -> Array | None:
        """The real numbers of a node that are stored as a constant operand or an attribute; None of anything else."""
        if name in record.held:
            return _real(self._constants.array(*record.held[name]))
        return None if record.node is None else self.attribute(record.node, name)

    def is_made_by_layer(self, record: NodeRecord, name: str) -> bool:
        """Whether a constant operand is what a layer makes of constants, as a table does of known places."""
        if name not in record.held:
            return False
        path, value = record.held[name]
        graph = self.model.graphs[path]
        made = graph.producers.get(value)
        while made is not None and not any(made in layer.parts for layer in self.layers):
            is_rounded = made.operator.passes_on is not None or made.op_type == "QuantizeLinear"
            made = graph.producers.get(made.inputs[0]) if is_rounded else None
        return made is not None

    def attribute(self, node: Node, name: str) -> Array | None:
        """The real numbers of a node's attribute, its default where it is left out; None where it has no such ones."""
        value = node.attribute(name)
        if value is None:
            domain = node.domain if not node.is_standard else ""
            value = default_of(schema_of(node.op_type, domain), name)
        if isinstance(value, TensorProto):
            return _real(self.model.array(value)) if value.data_type not in (0, TensorProto.STRING) else None
        numbers = value if isinstance(value, list) else [value]
        return np.array(value, np.float32) if all(isinstance(number, float) for number in numbers) else None

    @cached_property
    def places(self) -> Mapping[Node, int]:
        """Where the records of nodes are."""
        return {record.node: place for place, record in enumerate(self.records) if record.node is not None}

    @cached_property
    def _surroundings(self) -> list[tuple[str, str]]:
        return surroundings(self.records)

    def surroundings(self, layer: Layer) -> tuple[str, str] | None:
        """Digests of everything before a layer and behind it, node by node; None where no output depends on it."""
        place = self.places.get(layer.node)
        return None if place is None else self._surroundings[place]

    def before(self, layer: Layer) -> list[Layer]:
        """The layers that a layer reads."""
        return [self.layers[index] for index in layer.before]

    def is_rounded(self, layer: Layer) -> bool:
        """Whether what leaves a layer is quantized, whoever reads it."""
        graph = self.model.graphs[layer.path]
        readers = graph.readers_of(layer.value)
        while len(readers) == 1 and readers[0].operator.passes_on == "same":
            readers = graph.readers_of(readers[0].outputs[0])
        return layer.quantized or any(reader.op_type == "QuantizeLinear" for reader in readers)

    def is_bent(self, layer: Layer) -> bool:
        """Whether an activation function follows a layer, if only behind what gives its value another shape."""
        graph, value = self.model.graphs[layer.path], layer.value
        while not layer.activated:
            readers = graph.readers_of(value)
            if len(readers) != 1 or readers[0].operator.passes_on not in ("reshaped", "permuted", "same"):
                break
            value = readers[0].outputs[0]
        return layer.activated or activation_after(graph, value) is not None

    def between(self, values: Iterable[str], last: str) -> set[Node]:
        """Nodes of the main graph behind the latest of some values that come before another one, up to that one's."""
        graph = self.model.main
        node = graph.producers.get(last)
        if node is None:
            return set()
        end = graph.position(node)
        ends = (graph.position(made) for value in values if (made := graph.producers.get(value)) is not None)
        start = max((place for place in ends if place < end), default=-1)
        return set(graph.nodes[start + 1 : end + 1])

    def before_rounding(self, layer: Layer) -> str:
        """What leaves a layer before it is quantized."""
        graph, value = self.model.graphs[layer.path], layer.value
        while graph.producers[value].op_type in ("QuantizeLinear", "DequantizeLinear"):
            value = graph.producers[value].inputs[0]
        return value

    def tap(self, layer: Layer, value: str, name: str, at: At | None = None) -> Tap:
        """A tap at a layer's value."""
        return Tap(
            name=name,
            value=value,
            path=layer.path,
            layer=layer.name,
            op_type=layer.node.op_type,
            at=at,
            channel_axis=self.axis(layer.path, value),
            order=(0,),
            scale=codes_scale(self.model.graphs[layer.path], value),
        )

    def fused(self, layer: Layer, value: str) -> str | None:
        """In words, the fused node of the given model that a layer, or its value, is part of; None where none is."""
        made = self.model.graphs[layer.path].producers.get(value)
        found = (inside_of(node.proto) for node in (layer.node, made) if node is not None)
        inside = next((told for told in found if told is not None and told[0] in self._given_operators), None)
        if inside is None or layer.path:
            return None
        op_type = inside[0].rpartition(".")[2]
        if value in self._given.main.producers:
            return f"fused ({op_type}): compared at {value}"
        return f"inside {op_type} {inside[1]}"

    @cached_property
    def _given_operators(self) -> frozenset[str]:
        """Those of the given model with their domains: a function that is put together may be none of them."""
        return frozenset(f"{node.domain}.{node.op_type}".lstrip(".") for node in self._given.main.nodes)

    def output_tap(self, value: str, name: str) -> Tap:
        """A tap at one of the model's outputs."""
        return self.value_tap(value, name, value, "Output")

    def value_tap(self, value: str, name: str, layer: str, op_type: str) -> Tap:
        """A tap at a value of the main graph that is no layer's, shown as `layer` and `op_type`."""
        return Tap(
            name=name,
            value=value,
            path=(),
            layer=layer,
            op_type=op_type,
            at=None,
            channel_axis=self.axis((), value),
            order=(0,),
        )

    def axis(self, path: tuple[Step, ...], value: str) -> int | None:
        """The channel axis, as far as operators tell it."""
        return self.model.channel_axes(path).get(value)


def values_alike(sides: Sequence[ModelLayers], layers: Sequence[Layer]) -> list[str]:
    """The values at which two paired layers do the same: behind what both have, before what one of them alone has."""
    if layers[0].quantized != layers[1].quantized:
        both = list(zip(sides, layers, strict=True))
        if all(side.is_rounded(layer) for side, layer in both):  # one that is dequantized in several ways
            return [side.before_rounding(layer) for side, layer in both]
    activated = layers[0].activated == layers[1].activated
    return [layer.value if activated else layer.inner for layer in layers]


def _real(values: Array) -> Array | None:
    return values if values.dtype.name.startswith(("float", "bfloat")) else None
