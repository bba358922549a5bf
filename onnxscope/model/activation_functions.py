"""Where a layer's own output is, and where the activation function that follows it ends.

`pre` is the layer's own output, with its bias where that is a separate Add. `post` is what leaves the activation
function behind it, looking through bias, BatchNorm and layout. Activation functions may be one operator (Relu) or
written out in several (`x * Sigmoid(x)`, Gelu by Erf): any closed group of elementwise operators that reads only the
layer's value and constants counts as one.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet

import numpy as np
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from onnxscope.model.graphs import Graph, Node

__all__ = ["activation_after", "activation_group", "following", "is_activation", "own_output"]

_REAL = frozenset({"Cast", "Sub", "Mul", "DequantizeLinear"})  # what makes real numbers of integers
_LONGEST_ACTIVATION = 16  # Gelu written out with Tanh takes eight operators


def is_activation(node: Node) -> bool:
    """Whether a node by itself is an activation function."""
    return node.operator.function == "bends"


def own_output(graph: Graph, node: Node) -> str:
    """Return the value that a layer computes: its first output, or that plus its bias where that is a separate Add.

    The Add is a bias when it is the value's only reader (through a Transpose or a Reshape at most) and its other
    operand is a constant of more than one element. What makes real numbers of a node's integers belongs to its output.
    """
    value = node.outputs[0]
    if _has_bias(node) or not node.operator.separate_bias:
        return value
    gives_integers = any(not codes.scales for codes in node.operator.codes.values())
    carried = value
    while True:
        reader = _only_reader(graph, carried)
        if reader is None:
            return value
        if reader.operator.kind == "Add" and _is_known(reader):
            operands = [name for place, name in enumerate(reader.inputs) if place not in reader.operator.control]
            other = next((name for name in operands if name != carried), "")
            return reader.outputs[0] if other in graph.constants and not _is_scalar(graph, other) else value
        if gives_integers and _finishes(graph, reader, carried) and reader.op_type in _REAL:
            carried = reader.outputs[0]
            if reader.op_type != "Cast":
                value = carried
            continue
        if reader.operator.passes_on not in ("permuted", "same") or not reader.is_standard:
            return value
        carried = reader.outputs[0]


def following(graph: Graph, node: Node) -> tuple[str, tuple[Node, ...]]:
    """Return what leaves a layer before its activation function, and the nodes behind it that finish its work.

    These are arithmetic with constants (bias, BatchNorm, scales) and quantization, through layout, as long as each
    value has one reader. Codes may have several: then what makes real numbers of them is the last.
    """
    value = inner = node.outputs[0]
    done: list[Node] = []
    passed: list[Node] = []
    is_shared = False
    while True:
        reader = None if is_shared else _only_reader(graph, value)
        if reader is None or not _finishes(graph, reader, value):
            return inner, tuple(done)
        is_shared = len(graph.readers_of(value)) > 1
        value = reader.outputs[0]
        passed.append(reader)
        if reader.operator.behind_layer == "part":
            inner = value
            done += passed
            passed = []


def activation_after(graph: Graph, value: str) -> str | None:
    """Return what leaves the activation function that follows `value`, or None where none follows."""
    while True:
        group = activation_group(graph, value)
        if group is not None:
            return group[-1].outputs[0]
        readers = graph.readers_of(value)
        if len(readers) != 1 or not _finishes(graph, readers[0], value):
            return None
        value = readers[0].outputs[0]


def activation_group(graph: Graph, value: str) -> list[Node] | None:
    """Return the shortest closed elementwise group with a nonlinearity that reads a value, in execution order.

    Numbers may be cast on the way, or quantized and dequantized.
    """
    unread: dict[str, set[Node]] = {value: set(graph.readers_of(value))}
    bends: set[str] = set()
    done: set[Node] = set()
    same = {value}  # and what the same numbers are called behind casts and quantization
    while len([node for node in done if not _carries(node)]) < _LONGEST_ACTIVATION:
        pending = {node for nodes in unread.values() for node in nodes}
        if not pending:
            return None
        node = min(pending, key=graph.position)
        if not _is_elementwise(graph, node, unread.keys(), bent=bool(bends)):
            return None
        done.add(node)
        if is_activation(node) or _clips(graph, node, same):
            bends.add(node.operator.kind)
        for name in set(graph.inputs_of(node)) & unread.keys():
            unread[name].discard(node)
        output = node.outputs[0]
        if _carries(node) and graph.inputs_of(node)[0] in same:
            same.add(output)
        unread[output] = set(graph.readers_of(output)) - done
        # What nothing in the group reads is where it ends: two functions of one value are two ends, not one.
        read = {name for member in done for name in graph.inputs_of(member)}
        still_open = [name for name, readers in unread.items() if readers or name not in read]
        if bends and still_open == [output] and not _carries(node):
            # Relu(x) + x is a connection that skips the Relu; only Snake, x + sin(x)**2, is made in this way.
            is_sum = node.operator.kind in ("Add", "Sum")
            if is_sum and not same.isdisjoint(graph.inputs_of(node)) and not bends & {"Sin", "Cos"}:
                return None
            return sorted(done, key=graph.position) + _scaled(graph, node, same)
    return None


def _carries(node: Node) -> bool:
    """Whether a node only casts numbers, or makes codes of them or numbers of codes."""
    operator = node.operator
    return node.is_standard and (
        operator.passes_on in ("same", "cast", "dequantized") or node.op_type == "QuantizeLinear"
    )


def _clips(graph: Graph, node: Node, same: AbstractSet[str]) -> bool:
    """Whether codes of `x + constant` have none below 0: quantizers leave out the Relu or Clip that was there."""
    shifted = graph.producers.get(graph.inputs_of(node)[0])
    if node.op_type != "QuantizeLinear" or shifted is None or shifted.operator.kind != "Add":
        return False
    lowest = graph.stored(node.inputs[2]) if len(node.inputs) > 2 else None
    if same.isdisjoint(graph.inputs_of(shifted)) or lowest is None or uses_external_data(lowest):
        return False
    zero = numpy_helper.to_array(lowest)
    return zero.dtype.kind in "iu" and bool(np.all(zero == np.iinfo(zero.dtype).min))


def _carried_from(graph: Graph, value: str) -> str:
    """Where a value comes from that is cast, or quantized and dequantized."""
    producer = graph.producers.get(value)
    while producer is not None and _carries(producer):
        value = graph.inputs_of(producer)[0]
        producer = graph.producers.get(value)
    return value


def _scaled(graph: Graph, node: Node, same: AbstractSet[str]) -> list[Node]:
    """The constant factor that completes `value * gate`, with what leads to it; nothing where the gate needs none.

    `x * (1 + erf(..)) * 0.5` is Gelu, and `x * clip(x + 3, 0, 6) / 6` HardSwish, only with the factor behind them.
    """
    factors = [name for place, name in enumerate(graph.inputs_of(node)) if place not in node.operator.control]
    gates = [graph.producers.get(_carried_from(graph, name)) for name in factors if name not in same]
    if node.operator.kind != "Mul" or len(gates) == len(factors):
        return []
    if not {gate.operator.kind for gate in gates if gate is not None} & {"Add", "Clip", "Min", "Max"}:
        return []
    reader, value, between = _only_reader(graph, node.outputs[0]), node.outputs[0], list[Node]()
    while reader is not None and _carries(reader):
        between.append(reader)
        value = reader.outputs[0]
        reader = _only_reader(graph, value)
    if reader is None or reader.operator.kind not in ("Mul", "Div") or not _is_known(reader):
        return []
    operands = [name for place, name in enumerate(graph.inputs_of(reader)) if place not in reader.operator.control]
    scales = [name in graph.constants and _is_scalar(graph, name) for name in operands if name != value]
    return [*between, reader] if scales == [True] else []


def _is_elementwise(graph: Graph, node: Node, group: Collection[str], *, bent: bool) -> bool:
    if node.operator.function is None and not _carries(node):
        return False
    if node.captured or len([name for name in node.outputs if name]) != 1:
        return False
    for name in graph.inputs_of(node):
        if not name or name in group:
            continue
        if name not in graph.constants:
            return False
        # PRelu has a weight; Keras writes its own as relu(x) - slope * relu(-x), with a slope per channel.
        may_be_row = bool(node.operator.roles) or _carries(node) or (bent and node.op_type == "Mul")
        if not may_be_row and not _is_scalar(graph, name):
            return False
    return True


def _finishes(graph: Graph, reader: Node, value: str) -> bool:
    """Whether a node only finishes a layer's work, with constants or the scale of what its codes were multiplied with.

    An Add of two activations is no bias.
    """
    if reader.operator.behind_layer is None or not _is_known(reader):
        return False
    others = [name for name in graph.inputs_of(reader) if name and name != value and name not in graph.constants]
    return not others or (reader.op_type == "Mul" and all(_is_scale(graph, name) for name in others))


def _is_known(node: Node) -> bool:
    """Whether a node is one of ONNX's own, or the same of codes, and not another domain's of that name."""
    return node.is_standard or node.operator.gives_codes is not None


def _is_scale(graph: Graph, value: str) -> bool:
    """Whether a value is the scale that DynamicQuantizeLinear gives, or a product of it with constants."""
    node = graph.producers.get(value)
    if node is None:
        return False
    if node.op_type == "DynamicQuantizeLinear":
        return node.outputs[1:2] == (value,)
    if node.op_type == "Mul" and node.is_standard:
        return all(name in graph.constants or _is_scale(graph, name) for name in node.inputs)
    return False


def _has_bias(node: Node) -> bool:
    position = node.operator.bias_position
    return position is not None and len(node.inputs) > position and bool(node.inputs[position])


def _is_scalar(graph: Graph, name: str) -> bool:
    """Whether a constant is known to have one element; computed ones of unknown shape count as scalars."""
    tensor = graph.stored(name)
    if tensor is not None:
        return list(tensor.dims) == [1] * len(tensor.dims)
    declared = graph.types.get(name)
    if declared is not None and declared.shape is not None:
        return all(dim == 1 for dim in declared.shape)
    node = graph.producers.get(name)
    sources = [source for source in node.inputs if source] if node is not None else []
    return all(_is_scalar(graph, source) for source in sources)


def _only_reader(graph: Graph, value: str) -> Node | None:
    """The one node that reads a value; of several that read codes, the one that makes real numbers of them."""
    readers = graph.readers_of(value)
    return readers[0] if len(readers) == 1 else graph.decoder_of(value)
