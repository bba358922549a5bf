"""Normalizations that an exporter wrote out in elementwise operators, each put together as the one operator that it is.

onnxruntime puts the same operators together when it runs them, so that this takes nothing from what a run would show.
Half precision is left as it is: there the parts may overflow where the operator does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["find_norms", "is_root"]

Array = NDArray[Any]
_WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_BY_CHANNEL = 21  # the operator set from which on scale and shift of groups are those of channels


@dataclass
class _Found:
    """A normalization: its operands, and the nodes that it is written out in, the last of them last."""

    value: str
    axes: list[int]
    epsilon: float
    centred: bool
    nodes: list[Node]
    weights: list[str]


def is_root(node: Node) -> bool:
    """Whether a node may stand in the middle of a normalization."""
    return node.op_type == "Sqrt" and node.is_standard


def find_norms(model: Model, graph: Graph, rank: Callable[[str], int | None]) -> dict[int, Sequence[NodeProto]]:
    """Return what stands in the place of the nodes of normalizations that are written out, by their stored places.

    Args:
        model: Whose graph it is.
        graph: Where they are looked for.
        rank: Of a value, where it is known.
    """
    written: dict[int, Sequence[NodeProto]] = {}
    for root in filter(is_root, graph.nodes):
        found = _LastAxes(model, graph, rank).match(root)
        whole = _Groups(model, graph).match(root) if found is None else (found.nodes, _operator(found))
        if whole is not None and written.keys().isdisjoint(node.index for node in whole[0]):
            written |= {node.index: [] for node in whole[0]}
            written[whole[0][-1].index] = [whole[1]]
    return written


def _operator(found: _Found) -> NodeProto:
    last = found.nodes[-1]
    stash: dict[str, Any] = {} if found.centred else {"stash_type": 1}
    node = helper.make_node(
        "LayerNormalization" if found.centred else "SimplifiedLayerNormalization",
        [found.value, *found.weights],
        [last.outputs[0]],
        name=last.name,
        axis=-len(found.axes),
        epsilon=found.epsilon,
        **stash,
    )
    node.metadata_props.extend(last.proto.metadata_props)
    return node


class _Reader:
    """Reads what stands around a square root."""

    def __init__(self, model: Model, graph: Graph) -> None:
        self._model = model
        self._graph = graph

    def _made_by(self, value: str, op_type: str) -> Node | None:
        node = self._graph.producers.get(value)
        return node if node is not None and node.op_type == op_type and node.is_standard else None

    def _only_reader(self, node: Node) -> Node | None:
        readers = self._graph.readers.get(node.outputs[0], ())
        return readers[0] if len(readers) == 1 and readers[0].is_standard else None

    def _axes(self, mean: Node) -> list[int] | None:
        """The axes of a mean that keeps them."""
        axes = mean.attribute("axes")
        if axes is None and len(mean.inputs) > 1:
            numbers = self._numbers(mean.inputs[1])
            axes = None if numbers is None else numbers.ravel().tolist()
        return sorted(map(int, axes)) if axes and mean.attribute("keepdims") in (None, 1) else None

    def _number(self, value: str) -> float | None:
        cast = self._made_by(value, "Cast")
        numbers = self._numbers(value if cast is None else cast.inputs[0])
        return float(numbers.ravel()[0]) if numbers is not None and numbers.size == 1 else None

    def _numbers(self, value: str) -> Array | None:
        tensor = self._graph.stored(value)
        if tensor is not None:
            return self._model.array(tensor) if tensor.data_type != TensorProto.STRING else None
        node = self._made_by(value, "Constant")
        names = ("value_float", "value_floats", "value_int", "value_ints")
        literals = [] if node is None else [node.attribute(name) for name in names]
        return next((np.array(literal) for literal in literals if literal is not None), None)

    def _whole_numbers(self, value: str) -> list[int] | None:
        numbers = self._numbers(value)
        return [int(n) for n in numbers.ravel()] if numbers is not None and numbers.dtype.kind in "iu" else None


class _LastAxes(_Reader):
    """A LayerNormalization, or one that does not centre."""

    def __init__(self, model: Model, graph: Graph, rank: Callable[[str], int | None]) -> None:
        super().__init__(model, graph)
        self._rank = rank

    def match(self, root: Node) -> _Found | None:
        """The normalization around a square root."""
        variance = self._variance(root)
        if variance is None:
            return None
        nodes, deviation, axes, epsilon = variance
        quotient = self._quotient(root, nodes)
        if quotient is None:
            return None
        centred = self._centre(deviation, axes, nodes)
        other = centred if quotient == deviation else self._centre(quotient, axes, nodes)
        if centred != other or (centred is None and quotient != deviation):
            return None
        value = deviation if centred is None else centred
        weights = self._weights(nodes, len(axes), shifts=centred is not None)
        is_last = self._are_last(value, axes)
        if not weights or not is_last or not self._is_closed(nodes):
            return None
        return _Found(value, axes, epsilon, centred is not None, nodes, weights)

    def _variance(self, root: Node) -> tuple[list[Node], str, list[int], float] | None:
        """`sqrt(mean(d ** 2) + epsilon)`: its nodes, `d`, the axes and epsilon."""
        total = self._made_by(root.inputs[0], "Add")
        if total is None:
            return None
        for name, other in (total.inputs, reversed(total.inputs)):
            epsilon = self._number(other)
            mean = self._made_by(name, "ReduceMean")
            axes = None if mean is None else self._axes(mean)
            if epsilon is None or mean is None or axes is None:
                continue
            square = self._graph.producers.get(mean.inputs[0])
            if square is None or square.op_type not in ("Pow", "Mul"):
                return None
            base, second = square.inputs
            if (square.op_type == "Pow" and self._number(second) != 2) or (square.op_type == "Mul" and base != second):
                return None
            return [root, total, mean, square], base, axes, epsilon
        return None

    def _quotient(self, root: Node, nodes: list[Node]) -> str | None:
        """What is divided by the root; the nodes of the division are added."""
        reader = self._only_reader(root)
        if reader is None:
            return None
        if reader.op_type == "Div" and reader.inputs[1] == root.outputs[0]:
            if self._number(reader.inputs[0]) != 1:
                nodes.append(reader)
                return str(reader.inputs[0])
        elif reader.op_type != "Reciprocal":
            return None
        product = self._only_reader(reader)  # of 1 / root
        if product is None or product.op_type != "Mul":
            return None
        nodes += [reader, product]
        others = [name for name in product.inputs if name != reader.outputs[0]]
        return others[0] if len(others) == 1 else None

    def _centre(self, value: str, axes: list[int], nodes: list[Node]) -> str | None:
        """`x` where a value is `x - mean(x)`, whose nodes are added."""
        difference = self._made_by(value, "Sub")
        mean = None if difference is None else self._made_by(difference.inputs[1], "ReduceMean")
        if difference is None or mean is None or mean.inputs[0] != difference.inputs[0] or self._axes(mean) != axes:
            return None
        known = {node.outputs[0] for node in nodes}
        nodes[:0] = [node for node in (mean, difference) if node.outputs[0] not in known]
        return str(mean.inputs[0])

    def _weights(self, nodes: list[Node], rank: int, *, shifts: bool) -> list[str]:
        """Names of scale and shift, whose nodes are added."""
        weights: list[str] = []
        for op_type in ("Mul", "Add") if shifts else ("Mul",):
            reader = self._only_reader(nodes[-1])
            if reader is None or reader.op_type != op_type:
                break
            others = [name for name in reader.inputs if name != nodes[-1].outputs[0]]
            tensor = self._graph.stored(others[0]) if len(others) == 1 else None
            if tensor is None or len(tensor.dims) != rank or tensor.data_type not in _WIDE:
                break
            nodes.append(reader)
            weights += others
        return weights

    def _are_last(self, value: str, axes: list[int]) -> bool:
        rank = self._rank(value) if any(axis >= 0 for axis in axes) else 0
        if rank is None:
            return False
        places = sorted(axis - rank if axis >= 0 else axis for axis in axes)
        return places == list(range(-len(axes), 0))

    def _is_closed(self, nodes: list[Node]) -> bool:
        """Whether nothing else reads what stands between."""
        return self._graph.leaving(nodes) == list(nodes[-1].outputs)


class _Groups(_Reader):
    """A GroupNormalization, as the function that onnx defines it by: onnxruntime has no kernel for it on a CPU."""

    def __init__(self, model: Model, graph: Graph) -> None:
        super().__init__(model, graph)
        self._nodes: list[Node] = []

    def match(self, root: Node) -> tuple[list[Node], NodeProto] | None:
        """`reshape((v - mean) / root * scale + shift)`, where `v` has a row for each group."""
        self._nodes = [root]
        rows = self._rows(root)
        grouped = None if rows is None else self._made_by(rows[0], "Reshape")
        source = None if grouped is None else self._made_by(grouped.inputs[0], "Reshape")
        if rows is None or grouped is None or source is None or self._whole_numbers(grouped.inputs[1]) != [0, 0, -1]:
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
                if reader.inputs[0] != last.outputs[0] or not (is_whole or self._whole_numbers(reader.inputs[1])):
                    return None
            else:
                weights += [name for name in reader.inputs if name != last.outputs[0]]
        rows_of_weights = [row for name in weights if (row := self._row(name)) is not None]
        return rows_of_weights if len(rows_of_weights) == 2 else None

    def _row(self, name: str) -> str | None:
        """The row that a scale or a shift of shape (1, k, 1) is made of."""
        node = self._made_by(name, "Reshape")
        return node.inputs[0] if node is not None and self._whole_numbers(node.inputs[1]) == [1, -1, 1] else None

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
        numbers = self._whole_numbers(shape)
        node = self._made_by(shape, "Concat")
        if numbers is None and node is not None and len(node.inputs) > 1:
            numbers = [0, *(self._whole_numbers(node.inputs[1]) or [])]
        return numbers[1] if numbers is not None and len(numbers) > 1 and numbers[1] > 0 else None

    def _is_over_rows(self, mean: Node) -> bool:
        return self._axes(mean) == [2]
