"""A GroupNormalization that is written out as the function that onnx defines it by, put together again.

onnxruntime has no kernel for the operator on a CPU, and saves the function in its place.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import NodeProto, helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["find_group_norm"]

_BY_CHANNEL = 21  # the operator set from which on scale and shift are those of channels, not of groups


def find_group_norm(model: Model, graph: Graph, root: Node) -> tuple[list[Node], NodeProto] | None:
    """Return the nodes around a square root that are a normalization over groups, the last of them last, and its node.

    None where there is none.
    """
    return _Reader(model, graph).read(root)


class _Reader:
    def __init__(self, model: Model, graph: Graph) -> None:
        self._model = model
        self._graph = graph
        self._nodes: list[Node] = []

    def read(self, root: Node) -> tuple[list[Node], NodeProto] | None:
        """`reshape((v - mean) / root * scale + shift)`, where `v` has a row for each group."""
        self._nodes = [root]
        rows = self._rows(root)
        grouped = None if rows is None else self._made_by(rows[0], "Reshape")
        source = None if grouped is None else self._made_by(grouped.inputs[0], "Reshape")
        if rows is None or grouped is None or source is None or self._numbers(grouped.inputs[1]) != [0, 0, -1]:
            return None
        self._nodes += [grouped, source]
        value, groups = source.inputs[0], self._groups(source.inputs[1])
        weights = self._weights(root, value, by_channel=(self._model.opsets.get("ai.onnx") or 1) >= _BY_CHANNEL)
        last = self._nodes[-1]
        if groups is None or weights is None or self._graph.leaving(self._nodes) != list(last.outputs):
            return None
        norm = helper.make_node(
            "GroupNormalization",
            [value, *weights],
            [last.outputs[0]],
            name=last.name,
            num_groups=groups,
            epsilon=rows[1],
        )
        norm.metadata_props.extend(last.proto.metadata_props)
        return [*self._only_for(self._nodes, {value, *weights}), *self._nodes], norm

    def _rows(self, root: Node) -> tuple[str, float] | None:
        """`v` and epsilon of `sqrt(mean(v * v) - mean(v) * mean(v) + epsilon)`."""
        total = self._made_by(root.inputs[0], "Add")
        for name, other in () if total is None else (total.inputs, reversed(total.inputs)):
            variance, epsilon = self._made_by(name, "Sub"), self._number(other)
            if total is None or variance is None or epsilon is None:
                continue
            squares, square = self._made_by(variance.inputs[0], "ReduceMean"), self._made_by(variance.inputs[1], "Mul")
            product = None if squares is None else self._made_by(squares.inputs[0], "Mul")
            mean = None if square is None else self._made_by(square.inputs[0], "ReduceMean")
            if squares is None or square is None or product is None or mean is None:
                return None
            value = mean.inputs[0]
            is_square = list(product.inputs) == [value, value] and square.inputs[0] == square.inputs[1]
            if not is_square or not self._is_over_rows(squares) or not self._is_over_rows(mean):
                return None
            self._nodes = [*self._nodes, total, variance, squares, square, product, mean]
            return str(value), epsilon
        return None

    def _weights(self, root: Node, value: str, *, by_channel: bool) -> list[str] | None:
        """Names of scale and shift behind the division; the nodes from there on are added."""
        division = self._only_reader(root)
        deviation = None if division is None else self._made_by(division.inputs[0], "Sub")
        mean, rows = self._nodes[6], self._nodes[6].inputs[0]
        if division is None or division.op_type != "Div" or deviation is None:
            return None
        if list(deviation.inputs) != [rows, mean.outputs[0]]:
            return None
        self._nodes += [deviation, division]
        weights = []
        for kind in (*(("Reshape", "Reshape") if by_channel else ()), "Mul", "Add", "Reshape"):
            last = self._nodes[-1]
            reader = self._only_reader(last)
            if reader is None or reader.op_type != kind:
                return None
            self._nodes.append(reader)
            if kind == "Reshape":
                shape = self._made_by(reader.inputs[1], "Shape")
                is_whole = shape is not None and shape.inputs[0] == value and not shape.attribute("start")
                if reader.inputs[0] != last.outputs[0] or not (is_whole or self._numbers(reader.inputs[1])):
                    return None
            else:
                weights += [name for name in reader.inputs if name != last.outputs[0]]
        rows_of_weights = [row for name in weights if (row := self._row(name)) is not None]
        return rows_of_weights if len(rows_of_weights) == 2 else None

    def _row(self, name: str) -> str | None:
        """The row that a scale or a shift of shape (1, k, 1) is made of."""
        node = self._made_by(name, "Reshape") if name in self._graph.constants else None
        return node.inputs[0] if node is not None and self._numbers(node.inputs[1]) == [1, -1, 1] else None

    def _only_for(self, nodes: Collection[Node], kept: Collection[str]) -> list[Node]:
        """Nodes in front of these that nothing else reads, up to values that are kept."""
        inside: set[Node] = set(nodes)
        found: list[Node] = []
        waiting = [name for node in nodes for name in node.inputs if name not in kept]
        while waiting:
            node = self._graph.producers.get(waiting.pop())
            if node is None or node in inside or any(name in self._graph.outputs for name in node.outputs):
                continue
            if all(reader in inside for name in node.outputs for reader in self._graph.readers.get(name, ())):
                inside.add(node)
                found.append(node)
                waiting += [name for name in node.inputs if name not in kept]
        return found

    def _groups(self, shape: str) -> int | None:
        """The second side of what a Reshape leads to."""
        numbers = self._numbers(shape)
        node = self._made_by(shape, "Concat")
        if numbers is None and node is not None and len(node.inputs) > 1:
            numbers = [0, *(self._numbers(node.inputs[1]) or [])]
        return numbers[1] if numbers is not None and len(numbers) > 1 and numbers[1] > 0 else None

    def _is_over_rows(self, mean: Node) -> bool:
        axes = mean.attribute("axes") or (self._numbers(mean.inputs[1]) if len(mean.inputs) > 1 else None)
        return axes == [2] and mean.attribute("keepdims") in (None, 1)

    def _made_by(self, value: str, op_type: str) -> Node | None:
        node = self._graph.producers.get(value)
        return node if node is not None and node.op_type == op_type and node.is_standard else None

    def _only_reader(self, node: Node) -> Node | None:
        readers = self._graph.readers.get(node.outputs[0], ())
        return readers[0] if len(readers) == 1 and readers[0].is_standard else None

    def _numbers(self, value: str) -> list[int] | None:
        tensor = self._graph.stored(value)
        numbers = None if tensor is None else self._model.array(tensor)
        return (
            [int(number) for number in numbers.ravel()] if numbers is not None and numbers.dtype.kind in "iu" else None
        )

    def _number(self, value: str) -> float | None:
        cast = self._made_by(value, "Cast")
        tensor = self._graph.stored(value if cast is None else cast.inputs[0])
        return float(self._model.array(tensor).ravel()[0]) if tensor is not None and np.prod(tensor.dims) == 1 else None
