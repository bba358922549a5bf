"""Convolutions that onnxruntime's optimizer has laid out in blocks of channels, laid out plainly.

The layout belongs to the processor on which the model was optimized: blocks of 8 or 16 channels, with zeros behind the
last channel. A model is only read here where it runs: as onnxruntime reads it on this processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model, load_model
from onnxscope.runtime.session import evaluate_constants
from onnxscope.structure.rewriting import FUSED_DOMAIN

__all__ = ["BLOCKED_DOMAIN", "laid_out_plainly"]

Array = NDArray[Any]
BLOCKED_DOMAIN = "com.microsoft.nchwc"
"""Of the operators that read or write blocks of channels."""

_POOLS = frozenset({"MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"})
_KNOWN = _POOLS | {"Conv", "ReorderInput", "ReorderOutput"}


def laid_out_plainly(model: Model, graph: Graph) -> tuple[dict[int, Sequence[NodeProto]], list[TensorProto]] | None:
    """Return what stands in the place of nodes that read or write blocks, by their places, and the tensors they read.

    Args:
        model: Whose graph it is.
        graph: Where they are looked for.

    Returns:
        None where there are none, or where one of them cannot be laid out.
    """
    nodes = [node for node in graph.nodes if node.domain == BLOCKED_DOMAIN]
    if not nodes or any(node.op_type not in _KNOWN for node in nodes):
        return None
    layout = _Layout(model, graph, _block_size())
    return layout.written if all(layout.lay_out(node) for node in graph.nodes) else None


class _Layout:
    def __init__(self, model: Model, graph: Graph, block: int) -> None:
        self._model = model
        self._graph = graph
        self._block = block
        self._channels: dict[str, int] = {}  # of values in blocks, without the zeros behind the last one
        self._blocked: set[str] = set()
        self._nodes: dict[int, Sequence[NodeProto]] = {}
        self._stored: dict[str, TensorProto] = {}

    @property
    def written(self) -> tuple[dict[int, Sequence[NodeProto]], list[TensorProto]]:
        return self._nodes, list(self._stored.values())

    def lay_out(self, node: Node) -> bool:
        """Write what stands in a node's place, where that is needed; False where that cannot be done."""
        read = [name for name in node.inputs if name in self._blocked]
        if node.domain != BLOCKED_DOMAIN:
            if read:  # works on each number, wherever it is
                self._blocked.update(node.outputs)
                self._channels.update(
                    (name, self._channels[read[0]]) for name in node.outputs if read[0] in self._channels
                )
            return not read or node.operator.function is not None or node.op_type in ("Add", "Sum", "Mul")
        if node.op_type == "ReorderOutput":
            return self._write_plain(node)
        self._blocked.update(node.outputs)
        if node.op_type == "Conv":
            return self._write_convolution(node, bool(read))
        if node.op_type == "ReorderInput":
            plain = [helper.make_node("Identity", node.inputs[:1], node.outputs, name=node.name)]
            if node.attribute("channels_last"):
                plain = [
                    helper.make_node("Transpose", node.inputs[:1], node.outputs, name=node.name, perm=[0, 3, 1, 2])
                ]
            self._nodes[node.index] = plain
            return True
        self._channels.update((name, self._channels[read[0]]) for name in node.outputs[:1] if read[0] in self._channels)
        self._nodes[node.index] = [self._copy(node, "", node.inputs)]
        return True

    def _write_plain(self, node: Node) -> bool:
        op_type = "Transpose" if node.attribute("channels_last") else "Identity"
        plain = helper.make_node(op_type, node.inputs[:1], node.outputs, name=node.name)
        if op_type == "Transpose":
            plain.attribute.append(helper.make_attribute("perm", [0, 2, 3, 1]))
        self._nodes[node.index] = [plain]
        channels = int(node.attribute("channels"))
        return self._channels.get(node.inputs[0], channels) == channels

    def _write_convolution(self, node: Node, reads_blocks: bool) -> bool:
        weight, bias = (self._array(node.inputs[place] if place < len(node.inputs) else "") for place in (1, 2))
        if weight is None or weight.ndim != 4 or len(weight) % self._block:
            return False
        groups = int(node.attribute("group") or 1)
        plain = (
            self._plain(weight, by_inputs=groups == 1 or weight.shape[1] > 1) if reads_blocks else self._plain(weight)
        )
        if plain is None:
            return False
        count = self._count(plain, bias, node.outputs[0])
        read = self._channels.get(node.inputs[0], plain.shape[1]) if groups == 1 and reads_blocks else plain.shape[1]
        plain = plain[:count, :read]
        names = [node.inputs[0], self._store(node.inputs[1], plain)]
        if bias is not None:
            names.append(self._store(node.inputs[2], bias[:count]))
        elif len(node.inputs) > 3:
            names.append("")
        names += node.inputs[3:4]
        self._channels[node.outputs[0]] = count
        copy = self._copy(node, FUSED_DOMAIN, names)
        copy.op_type = "FusedConv"
        for attribute in copy.attribute:
            if attribute.name == "group" and groups > 1 and plain.shape[1] == 1:
                attribute.i = count
        self._nodes[node.index] = [copy]
        return True

    def _plain(self, weight: Array, *, by_inputs: bool = False) -> Array | None:
        """Outputs, inputs and places of a weight that is stored by blocks of outputs, and of inputs too."""
        outputs, inputs, *places = weight.shape
        block = self._block
        if not by_inputs:
            cut = weight.reshape(outputs // block, inputs, *places, block)
            return cut.transpose(0, 4, 1, 2, 3).reshape(weight.shape)
        if inputs % block:
            return None
        cut = weight.reshape(outputs // block, inputs // block, *places, block, block)
        return cut.transpose(0, 5, 1, 4, 2, 3).reshape(weight.shape)

    def _count(self, weight: Array, bias: Array | None, value: str) -> int:
        """How many outputs a convolution has: as told behind it, else without the zeros in the last block."""
        for reader in self._graph.readers.get(value, ()):
            if reader.op_type == "ReorderOutput":
                return int(reader.attribute("channels"))
        used = np.any(weight != 0, axis=(1, 2, 3))
        if bias is not None:
            used |= bias != 0
        last = len(weight) - self._block
        return last + max(1, int(np.flatnonzero(used[last:]).max(initial=-1)) + 1)

    def _array(self, name: str) -> Array | None:
        tensor = self._graph.stored(name) if name else None
        return None if tensor is None else self._model.array(tensor)

    def _store(self, name: str, values: Array) -> str:
        stored = f"{name}/plain"
        if stored not in self._stored:
            self._stored[stored] = numpy_helper.from_array(np.ascontiguousarray(values), stored)
        return stored

    @staticmethod
    def _copy(node: Node, domain: str, inputs: Sequence[str]) -> NodeProto:
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        copy.domain = domain
        copy.input[:] = inputs
        return copy


def _block_size() -> int:
    """How many channels onnxruntime puts into a block on this processor."""
    numbers = numpy_helper.from_array(np.arange(128, dtype=np.float32).reshape(1, 64, 1, 2), "x")
    graph = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=BLOCKED_DOMAIN)],
        "blocks",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numbers],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED_DOMAIN, 1)]
    model = load_model(helper.make_model(graph, opset_imports=imports, ir_version=9))
    return int(np.flatnonzero(evaluate_constants(model, ["y"])["y"].reshape(-1) == 1)[0])
