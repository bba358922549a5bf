"""The layers of a model that can be narrowed: what each reads, what it multiplies by, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.model.activation_functions import activation_after, own_output
from onnxscope.model.channel_axes import weight_axis
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.layer_names import Operand
from onnxscope.model.loading import Model
from onnxscope.runtime.stored_values import read_operand
from onnxscope.runtime.tap_outputs import Unreachable
from onnxscope.selection.selectors import select_layers

__all__ = ["NarrowedLayer", "Of", "Weight", "as_fed", "find_narrowed_layers"]

Array = NDArray[Any]
Of = Literal["weights", "activations", "both"]


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that a layer multiplies by.

    Attributes:
        position: Which of the node's inputs it is.
        values: Real numbers, as the node sees them.
        channel_axis: That of the output channels, None where it is not known.
    """

    position: int
    values: Array
    channel_axis: int | None


@dataclass(frozen=True, eq=False)
class NarrowedLayer:
    """A layer of the main graph that can be narrowed.

    Attributes:
        layer: What the source framework called it.
        node: The node that owns the weights.
        own: Its own output value, before an activation function.
        value: What leaves it, behind the activation function.
        operands: Its weights, unread.
    """

    layer: str
    node: Node
    own: str
    value: str
    operands: tuple[Operand, ...]

    @property
    def data(self) -> str:
        """The value that it works on."""
        weights = {operand.position for operand in self.operands}
        return next(name for place, name in enumerate(self.node.inputs) if name and place not in weights)

    def weights(self, model: Model) -> tuple[Weight, ...]:
        """Read the weights; the arrays are not to be changed.

        Raises:
            RunError: One is computed from what is stored, and onnxruntime cannot do that.
        """
        return tuple(
            Weight(operand.position, read_operand(model, operand), _channel_axis(operand, model))
            for operand in self.operands
        )


def find_narrowed_layers(
    model: Model, selectors: Sequence[str]
) -> tuple[tuple[NarrowedLayer, ...], tuple[Unreachable, ...]]:
    """Find the layers that multiply by a stored weight of floating-point numbers with two axes or more.

    Args:
        model: Whose layers.
        selectors: None at all choose every such layer.

    Returns:
        Layers in execution order; and what was chosen but cannot be narrowed, with the reason.

    Raises:
        InputError: No layer can be narrowed.
        SelectorError: A selector matches nothing.
    """
    graph, layers, missed = model.main, [], []
    seen: set[Node] = set()
    for node, taps in select_layers(model, selectors, at="pre"):
        name = taps[0].layer
        if node is None or node in seen:
            continue
        seen.add(node)
        operands = tuple(operand for operand in model.names.operands(node) if operand.role.startswith("weight"))
        reason = _reason_against(model, node, operands)
        if reason is None:
            own = own_output(graph, node)
            value = activation_after(graph, node.outputs[0]) or own
            weighty = tuple(operand for operand in operands if _is_matrix(model, graph, operand))
            layers.append(NarrowedLayer(name, node, own, value, weighty))
        elif selectors or (node.path and operands):
            missed.append(Unreachable(taps[0].name, reason))
    if not layers:
        raise InputError(
            f"no layer multiplies by a stored matrix of floating-point numbers: {printable(model.name)}",
            hint="; ".join(f"{printable(each.name)}: {each.reason}" for each in missed[:3]) or None,
        )
    layers.sort(key=lambda layer: graph.position(layer.node))
    return tuple(layers), tuple(missed)


def _reason_against(model: Model, node: Node, operands: Sequence[Operand]) -> str | None:
    """Why a node cannot be narrowed, None where it can."""
    if node.path:
        return f"it lies in the body of {node.path[-1].attribute}"
    graph = model.main
    if not any(_is_matrix(model, graph, operand) for operand in operands):
        return "it has no stored weight of floating-point numbers with two axes or more"
    if graph.needed.isdisjoint(node.outputs):
        return "no output depends on it"
    if node.outputs[0] in graph.constants:
        return "it depends on no input"
    return None


def _is_matrix(model: Model, graph: Graph, operand: Operand) -> bool:
    name = operand.node.inputs[operand.position]
    if operand.origin is None or name not in graph.constants:
        return False
    tensor = graph.stored(operand.origin.value)
    if tensor is None:
        return False
    if operand.origin.dequantized is None:
        rank, dtype = len(tensor.dims), graph.types.get(operand.origin.value)
        kind = dtype.dtype if dtype is not None else model.dtype_of(graph, operand.origin.value)
        kind = kind or model.array(tensor).dtype.name
    else:
        rank, kind = len(tensor.dims), "float32"
    return rank >= 2 and "float" in kind and "float8" not in kind and "float4" not in kind


def _channel_axis(operand: Operand, model: Model) -> int | None:
    """The axis of the output channels in what the node sees."""
    assert operand.origin is not None
    tensor = model.main.stored(operand.origin.value)
    assert tensor is not None
    axis, _ = weight_axis(operand, len(tensor.dims))
    order = operand.origin.permutation
    return axis if axis is None or not order else order.index(axis)


def as_fed(values: Array, like: Array) -> Array:
    """Real numbers in the element type of what they stand for."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype(like.dtype))
