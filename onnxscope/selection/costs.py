"""What a model costs: how often each node multiplies and adds, and what a cache takes for a token."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import onnx

from onnxscope.base.shapes import LARGEST_DIM, computed_size
from onnxscope.errors import InputError
from onnxscope.model.channel_axes import weight_axis
from onnxscope.model.encodings import FEW_BITS, encoding_of
from onnxscope.model.graphs import Graph, Node, Step, ValueType, declared_types
from onnxscope.model.layer_names import Operand
from onnxscope.model.loading import Model
from onnxscope.selection.known_shapes import known_shapes
from onnxscope.selection.sizes import bind_sizes, infer_sizes

__all__ = ["Costs"]

_Shape = tuple[int | str | None, ...]
_Types = Mapping[tuple[Step, ...], Mapping[str, ValueType]]


class Costs:
    """The multiply-accumulates of a model's nodes, for given sizes of its symbolic dimensions.

    They are those of one sample: a first axis of the inputs that is symbolic, and has no given size, counts as 1, and
    one of a fixed size is divided by. Where a size is given for it, they are those of one run. Biases are left out, and
    a body counts once.

    Attributes:
        dims: The sizes of symbolic dimensions, by name.
    """

    def __init__(self, model: Model, dims: Mapping[str, int] | None = None) -> None:
        """Bind sizes to symbolic dimensions, which are called by their names, or as `INPUT:AXIS`.

        Raises:
            InputError: The model has no dimension of such a name, or a size is no whole number above 0.
        """
        self._model = model
        places = {
            f"{spec.name}:{axis}": dim
            for spec in model.declared_inputs
            for axis, dim in enumerate(spec.shape or ())
            if isinstance(dim, str)
        }
        self._given = {places.get(name, name): size for name, size in (dims or {}).items()}
        self.dims = {**_first_axes(model), **self._given}
        symbols = _symbols(model)
        for name, size in self._given.items():
            if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= LARGEST_DIM:
                raise InputError(f"the size of a dimension is a whole number above 0, not {size!r}: {name!r}")
            if name not in symbols:
                hint = f"it has {', '.join(sorted(symbols))}" if symbols else "all its sizes are fixed"
                raise InputError(f"no dimension is called {name!r}: {model.name}", hint=hint)

    @property
    def open_dims(self) -> tuple[str, ...]:
        """The inputs' symbolic dimensions of unknown size: by name, or as `INPUT:AXIS` where that is no word."""
        return tuple(
            dict.fromkeys(
                dim if re.fullmatch(r"[\w.-]+", dim) else f"{spec.name}:{axis}"
                for spec in self._model.declared_inputs
                for axis, dim in enumerate(spec.shape or ())
                if isinstance(dim, str) and self._size(dim) is None
            )
        )

    def shape(self, path: tuple[Step, ...], value: str) -> _Shape | None:
        """The shape of a visible value of the graph at `path`, None where its rank is not known."""
        known = self._type(path, value)
        return None if known is None else known.shape

    def value_bytes(self, path: tuple[Step, ...], value: str) -> int | None:
        """What a value takes in one run, None where a size is not known."""
        known = self._type(path, value)
        sizes = [None] if known is None or known.shape is None else [self._size(dim) for dim in known.shape]
        if known is None or not known.elem_type or known.elem_type == onnx.TensorProto.STRING or None in sizes:
            return None
        bits = FEW_BITS.get(known.elem_type) or _element_bytes(known.elem_type) * 8
        return -(-math.prod(filter(None, sizes)) * bits // 8) if 0 not in sizes else 0

    def _type(self, path: tuple[Step, ...], value: str) -> ValueType | None:
        while True:
            known = self._declared.get(path, {}).get(value)
            if known is None or known.shape is None or not all(isinstance(dim, int) for dim in known.shape):
                known = self._inferred.get(path, {}).get(value) or known
            if known is not None or not path:
                return known
            path = path[:-1]

    def counts(self, node: Node) -> bool:
        """Whether a node multiplies and adds: a layer that does, attention, or a product of two activations."""
        row = node.operator
        if not node.outputs or (row.cost is None and row.attends is None):
            return False
        weight = self._weight(node)
        return weight is not None or row.attends is not None or (row.cost == "product" and not row.integers)

    def of(self, node: Node) -> int | None:
        """How often a node multiplies and adds for a sample; None where a size is not known, or it does not."""
        if not self.counts(node):
            return None
        return self._of.setdefault(node, self._per_sample(node))

    @cached_property
    def _of(self) -> dict[Node, int | None]:
        return {}

    def cache_bytes(self) -> int | None:
        """What the key-value cache takes for each further token of one sequence; None where it has none of known size.

        A cache is an input that an attention operator takes as such, or that is put before new values by a Concat
        which makes an output.
        """
        total = 0
        for spec in self._model.declared_inputs:
            axes = self._cache_axes(spec.name)
            if axes is None or spec.shape is None:
                continue
            sizes = [self._size(dim) for place, dim in enumerate(spec.shape) if place not in axes]
            if not all(sizes) or max(axes) >= len(spec.shape):
                return None
            total += math.prod(filter(None, sizes)) * _element_bytes(self._model.main.types[spec.name].elem_type)
        return total or None

    def _cache_axes(self, name: str) -> tuple[int, int] | None:
        """The axes of sequences and of tokens of an input that is a cache."""
        main = self._model.main
        for reader in main.readers.get(name, ()):
            attends = reader.operator.attends
            places = () if attends is None else attends.cache
            if any(reader.inputs[place : place + 1] == (name,) for place in places):
                return (1, 3) if len(places) == 1 else (0, 2)  # one holds keys and values along its first axis
            shape = main.types[name].shape
            if (
                reader.op_type == "Concat"
                and reader.inputs[0] == name
                and shape is not None
                and _makes_output(main, reader)
            ):
                axis = int(reader.attribute("axis") or 0) % max(len(shape), 1)
                return (0, axis) if axis else None
        return None

    @cached_property
    def _declared(self) -> _Types:
        proto = onnx.ModelProto()
        proto.CopyFrom(self._model.proto)
        bind_sizes(proto.graph, self._size)
        graphs: _Types = {(): declared_types(proto.graph)}
        return {**{path: graph.types for path, graph in self._model.graphs.items()}, **graphs}

    @cached_property
    def _inferred(self) -> _Types:
        inferred = infer_sizes(self._model, self._size)
        return {path: self._completed(graph, inferred.get(path, {})) for path, graph in self._model.graphs.items()}

    def _completed(self, graph: Graph, inferred: Mapping[str, ValueType]) -> Mapping[str, ValueType]:
        """The types of a graph, with the shapes behind operators that onnx does not know."""
        types = {**self._declared[graph.path], **inferred}
        for value, shape in known_shapes(self._model, graph, types).items():
            known = types.get(value)
            if known is None or known.shape is None:
                types[value] = ValueType(None, shape, 0, "tensor") if known is None else replace(known, shape=shape)
        return types

    def _size(self, dim: int | str | None) -> int | None:
        if dim is None or isinstance(dim, int):
            return dim
        if not dim:
            return 1  # the first axis of an input, without a name
        if dim in self.dims:
            return self.dims[dim]
        return computed_size(dim, self.dims)

    @cached_property
    def _samples(self) -> int:
        """Samples of a run whose number the model fixes."""
        for name in (spec.name for spec in self._model.declared_inputs if spec.shape):
            shape = self._model.main.types[name].shape or ()
            readers = self._model.main.readers.get(name, ())
            axis = int(any(node.operator.cost == "recurrent" and not node.attribute("layout") for node in readers))
            size = shape[axis] if axis < len(shape) else None
            return size if isinstance(size, int) and size > 0 else 1
        return 1

    def _per_sample(self, node: Node) -> int | None:
        total, attended = 0, 0
        row, weight = node.operator, self._weight(node)
        if row.cost is not None:
            counted = self._of_weight(node, weight) if weight is not None else self._of_product(node)
            if counted is None:
                return None
            total = counted
        if row.attends is not None:
            scores = self._of_attention(node)
            if scores is None:
                return None
            attended = scores
        return (total + attended) // self._samples if (total + attended) % self._samples == 0 else total + attended

    def _weight(self, node: Node) -> Operand | None:
        operands = self._model.names.operands(node)
        return next((operand for operand in operands if operand.role.startswith("weight") and operand.origin), None)

    def _numbers(self, operand: Operand) -> tuple[int, ...]:
        """The shape of a weight as it is stored, of its real numbers where these are packed."""
        graph = self._model.graphs[operand.node.path]
        encoding = encoding_of(graph, operand)
        tensor = graph.stored(operand.origin.value) if operand.origin else None
        return encoding.shape if encoding else tuple(tensor.dims) if tensor is not None else ()

    def _known(self, node: Node, place: int) -> tuple[int, ...] | None:
        """The sizes of an operand, or of the output where `place` is -1."""
        value = node.outputs[0] if place < 0 else node.inputs[place] if place < len(node.inputs) else ""
        shape = self.shape(node.path, value) if value else None
        sizes = [self._size(dim) for dim in shape or ()]
        return tuple(size for size in sizes if size is not None) if shape is not None and None not in sizes else None

    def _of_weight(self, node: Node, operand: Operand) -> int | None:
        """Every number of a weight is used once for each place: of the output, or of what is spread or read in turn."""
        dims, origin, cost = self._numbers(operand), operand.origin, node.operator.cost
        if cost == "recurrent":
            read = self._known(node, 0)
            used = [self._numbers(one) for one in self._model.names.operands(node) if one.role.startswith("weight")]
            return None if read is None or len(read) < 3 else read[0] * read[1] * sum(map(math.prod, used))
        if origin is None or origin.permutation is None or not dims:
            return self._of_product(node) if cost == "product" else None
        if node.operator.attends is not None:  # a projection into queries, keys and values
            sizes, channels = self._known(node, 0), dims[0]
        elif cost == "spreading":
            sizes, channels = self._known(node, 0), dims[origin.permutation[0] if origin.permutation else 0]
        else:
            axis, _ = weight_axis(operand, len(dims))
            if axis is None or (cost == "product" and len(dims) != 2):
                return self._of_product(node) if cost == "product" else None
            sizes, channels = self._known(node, -1), dims[axis]
        if sizes is None or not channels or math.prod(sizes) % channels:
            return None
        return math.prod(sizes) // channels * math.prod(dims)

    def _of_product(self, node: Node) -> int | None:
        """A product of two matrices, or of two stacks of them: each number made takes one for each that is summed."""
        made, left = self._known(node, -1), self._known(node, 0)
        if made is None or not left:
            return None
        summed = left[-2] if node.attribute("transA") and len(left) > 1 else left[-1]
        return math.prod(made) * summed

    def _of_attention(self, node: Node) -> int | None:
        """Each query with each key, and each score with each value, whatever a mask leaves out."""
        attends = node.operator.attends
        assert attends is not None
        read = [self._known(node, place) for place in (attends.query, attends.key, attends.value)]
        query = read[0]
        if query is None or len(query) < 3:
            return None
        heads = int(node.attribute("q_num_heads") or node.attribute("num_heads") or 0)
        fewer = int(node.attribute("kv_num_heads") or heads)
        rows, tokens = query[0], query[-2]
        stacked = query[1] if len(query) == 4 else 1
        key, value = _sides(read[1]), _sides(read[2])
        if attends.is_projected:  # the query is the layer's input, and its weight makes all three
            made, widths = self._known(node, -1), node.attribute("qkv_hidden_sizes")
            value_width = made[-1] if made else 0
            width = widths[1] if widths else value_width
            length = tokens
        elif key is None and heads:  # query, key and value lie in one operand
            width = value_width = query[-1] * heads // (heads + 2 * fewer)
            length = tokens
        elif key is not None and len(query) == 4:
            width, length = query[1] * query[3], key[0]
            value_width = stacked * (value[1] if value else key[1])
        elif key is not None:
            width, length = query[-1], key[0]
            value_width = (value[1] if value else key[1]) * (heads // fewer if fewer else 1)
        else:
            return None
        behind = self._cached(node)
        return None if behind is None or not width else rows * tokens * (length + behind) * (width + value_width)

    def _cached(self, node: Node) -> int | None:
        """How many tokens the cache of an attention operator holds; None where that is not known."""
        attends = node.operator.attends
        place = attends.cache[0] if attends is not None and attends.cache else len(node.inputs)
        if not "".join(node.inputs[place : place + 1]):
            return 0
        sizes = self.shape(node.path, node.inputs[place])
        axis = 3 if attends is not None and len(attends.cache) == 1 else 2
        return self._size(sizes[axis]) if sizes is not None and len(sizes) > axis else None


def _element_bytes(elem_type: int) -> int:
    return onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize


def _sides(shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    """Tokens and width of keys or values."""
    return (shape[-2], shape[-1]) if shape is not None and len(shape) in (3, 4) else None


def _makes_output(graph: Graph, node: Node) -> bool:
    return any(output in graph.outputs for output in node.outputs)


def _first_axes(model: Model) -> dict[str, int]:
    """One, for each symbolic first axis of an input."""
    firsts: Any = (spec.shape[0] for spec in model.declared_inputs if spec.shape)
    return {name: 1 for name in firsts if isinstance(name, str)}


def _symbols(model: Model) -> set[str]:
    shapes = (known.shape or () for graph in model.graphs.values() for known in graph.types.values())
    return {dim for shape in shapes for dim in shape if isinstance(dim, str) and dim}
