"""Writes nodes in the place of another: `NodeWriter`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxscope.model.graphs import Node, attribute_value
from onnxscope.model.provenance import LAYER_KEY

__all__ = ["FUSED_DOMAIN", "NodeWriter", "Site"]

Array = NDArray[Any]

FUSED_DOMAIN = "com.microsoft"
"""Of the operators that onnxruntime's optimizer makes up."""


@dataclass(frozen=True)
class Site:
    """What is known around a node in whose place others are written.

    Attributes:
        opset: Of ONNX's own operators.
        used: Names of values that are taken; those that are made up are added.
        layer: Returns what the node's layer is called.
        shape: Of a value, where it is known.
        dtype: Returns numpy's name of the element type of a value, or the model's own where it is not known.
        numbers: Returns a stored tensor's values, None for other values.
        made_by: Returns the node that makes a value which is read here alone, None for other values.
        is_one_layer: Whether the other model holds a weight of some shape as that of one layer, for each that is packed
            so in this one; a second argument of 1 says that it is one layer's here too.
    """

    opset: int
    used: set[str]
    layer: Callable[[], str]
    shape: Callable[[str], Sequence[int | str | None] | None]
    dtype: Callable[[str], str]
    numbers: Callable[[str], Array | None]
    made_by: Callable[[str], Node | None]
    is_one_layer: Callable[[tuple[int, ...], int], bool]


class NodeWriter:
    """Writes nodes in the place of a fused one, which keeps its name and its outputs for the last of them.

    Attributes:
        fused: The node in whose place the others stand.
        site: What is known around it.
        nodes: What was written; nothing where the node stands for itself.
        stored: Tensors that these read.
        replaced: Nodes in front of the fused one in whose place they stand too.
    """

    def __init__(self, fused: NodeProto, site: Site) -> None:
        """Begin.

        Args:
            fused: Not to be changed.
            site: Of that node.
        """
        self.fused = fused
        self.site = site
        self.nodes: list[NodeProto] = []
        self.stored: list[TensorProto] = []
        self.replaced: list[Node] = []

    def rank(self, value: str) -> int | None:
        """How many axes a value has, where that is known."""
        shape = self.site.shape(value)
        return None if shape is None else len(shape)

    def input(self, place: int) -> str:
        """The name of one of the fused node's operands, empty where it is left out."""
        return self.fused.input[place] if place < len(self.fused.input) else ""

    def output(self, place: int) -> str:
        """The name of one of the fused node's outputs, empty where it is left out."""
        return self.fused.output[place] if place < len(self.fused.output) else ""

    def attributes(self, *left_out: str) -> dict[str, Any]:
        """The fused node's attributes, but for some."""
        return {stored.name: attribute_value(stored) for stored in self.fused.attribute if stored.name not in left_out}

    def add(self, op_type: str, inputs: Iterable[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        """Write a node and return its first output, which has a new name where none is given."""
        named = list(outputs) if outputs and outputs[0] else [self._value(op_type), *outputs[1:]]
        node = helper.make_node(op_type, list(inputs), named, domain=domain, **attributes)
        ends = named[0] == self.fused.output[0]
        node.name = self.fused.name if ends or not self.fused.name else f"{self.fused.name}/{op_type}"
        node.metadata_props.extend(self.fused.metadata_props)
        self.nodes.append(node)
        return named[0]

    def store(self, name: str, values: Array) -> str:
        """Store a tensor, under its name where that is free, and return what it is called."""
        stored = self._free(name)
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(values), stored))
        return stored

    def call(self, layer: str, start: int) -> None:
        """Name the layer of the nodes that were written from a place on."""
        for node in self.nodes[start:]:
            del node.metadata_props[:]
            node.metadata_props.add(key=LAYER_KEY, value=layer)

    def integers(self, *values: int) -> str:
        """Write a Constant of a row of integers."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.array(values, np.int64)))

    def scalar(self, value: int) -> str:
        """Write a Constant of one integer, without axes."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.array(value, np.int64)))

    def with_axis(self, op_type: str, value: str, axis: int, *outputs: str) -> str:
        """Write Squeeze or Unsqueeze, which take their axes as an attribute before operator set 13."""
        if self.site.opset < 13:
            return self.add(op_type, [value], *outputs, axes=[axis])
        return self.add(op_type, [value, self.integers(axis)], *outputs)

    def number(self, value: float) -> str:
        """Write a Constant of one number, of the element type that the fused node reads."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.site.dtype(self.input(0))))
        return self.add("Constant", [], value=helper.make_tensor("", kind, (), [value]))

    def function(self, op_type: str, value: str, parameters: Mapping[str, float]) -> None:
        """Write the activation function that gives the fused node's output."""
        if op_type == "Clip" and self.site.opset >= 11:
            limits = [self.number(parameters[side]) if side in parameters else "" for side in ("min", "max")]
            self.add(op_type, [value, *limits], self.output(0))
        else:
            self.add(op_type, [value], self.output(0), **dict[str, Any](parameters))

    def _value(self, word: str) -> str:
        return self._free(f"{next(filter(None, self.fused.output))}/{word}")

    def _free(self, base: str) -> str:
        name, number = base, 2
        while name in self.site.used:
            name, number = f"{base}_{number}", number + 1
        self.site.used.add(name)
        return name
