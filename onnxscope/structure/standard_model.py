"""A model in one form: what an optimizer has fused is taken apart, what an exporter wrote out is put together.

Either way the numbers are the same, so that a model and its optimized copy are compared as one model. Values that both
forms have keep their names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxscope.errors import ModelError
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.model.local_functions import inline_standard_functions
from onnxscope.runtime.constant_values import ConstantValues
from onnxscope.runtime.nodes import opset_of
from onnxscope.structure.blocked_layout import laid_out_plainly
from onnxscope.structure.fused_operators import expansion_of, factor_behind, without_factor
from onnxscope.structure.idle_nodes import (
    idle_dropout,
    merged_pad,
    source_behind,
    turned_reduction,
    unturned_softmax,
    without_negations,
)
from onnxscope.structure.known_sequences import KnownSequences
from onnxscope.structure.reshaped_sides import known_sides
from onnxscope.structure.resolved_places import resolved
from onnxscope.structure.rewriting import NodeWriter, Plan, Site, rewritten, without_left_over
from onnxscope.structure.spelled_functions import MAY_BEND, function_from
from onnxscope.structure.written_out import find_norms, is_root

__all__ = ["standard_model"]

Array = NDArray[Any]
_WIDE = frozenset({"float32", "float64"})  # in which no part of a function overflows before the function does
_WHOLE = frozenset({"int32", "int64", "bool"})
_MOST_BYTES = 1 << 30  # cut out of packed weights: what is cut lies in the model itself, which has 2 GiB at most
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def standard_model(model: Model, other: Model | None = None) -> Model:
    """Return a model with one form for what can be fused or written out; itself where it has nothing of the kind.

    Args:
        model: Not changed. The answer reads its weights from where this one does.
        other: What it is compared with, which tells whether weights that are packed were one layer's; None takes each
            part for a layer. A function that codes may cut in one of the two stays written out in both.
    """
    given = model
    model = without_negations(_written_out(model))
    for step in (
        _leave_blocks,
        _name_types,
        _fold_places,
        _open_sequences,
        _drop_idle,
        _drop_idle,  # what computes with a constant behind an idle cast
        _put_norms_together,
        partial(_put_functions_together, other=other),
        partial(_take_apart, other=other),
        partial(_take_apart, other=other),  # what the first time has left for want of a shape
        _resolve_places,
        _turn_reductions,
        _merge_pads,
    ):
        model = rewritten(model, step(model))
    return without_left_over(model, given)


def _written_out(model: Model) -> Model:
    """Write functions of ONNX in their places; none where a node leaves out what its function reads."""
    proto = inline_standard_functions(model.proto)
    if proto is None:
        return model
    try:
        return model.rewritten(proto)
    except ModelError:
        return model


def _leave_blocks(model: Model) -> Mapping[Graph, Plan]:
    plans: dict[Graph, Plan] = {}
    for graph in model.graphs.values():
        plain = laid_out_plainly(model, graph)
        if plain is not None:
            plans[graph] = Plan(nodes=plain[0], stored=plain[1])
    return plans


def _name_types(model: Model) -> Mapping[Graph, Plan]:
    """Cast to a type by its name what is cast to that of another value."""
    plans: dict[Graph, Plan] = {}
    for graph in model.graphs.values():
        for node in graph.nodes:
            is_like = node.op_type == "CastLike" and node.is_standard
            like = model.type_of(graph, node.inputs[1]) if is_like else None
            if like is not None and like.elem_type:
                cast = helper.make_node("Cast", [node.inputs[0]], list(node.outputs), name=node.name, to=like.elem_type)
                cast.attribute.extend(node.proto.attribute)
                cast.metadata_props.extend(node.proto.metadata_props)
                plans.setdefault(graph, Plan()).nodes[node.index] = [cast]
    return plans


def _fold_places(model: Model) -> Mapping[Graph, Plan]:
    """Store the axes, ranges, pads and shapes that are computed from constants, as an optimizer does."""
    plans: dict[Graph, Plan] = {}
    constants = ConstantValues(model)
    for path, graph in model.graphs.items():
        dtypes = partial(model.dtype_of, graph)
        computing = (node for node in graph.nodes if any(name not in graph.constants for name in node.outputs))
        read = dict.fromkeys(name for node in computing for name in node.inputs if name in graph.constants)
        places = [
            (name, node)
            for name in read
            if (node := graph.producers.get(name)) is not None
            and node.op_type != "Constant"
            and len(node.outputs) == 1
            and dtypes(name) in _WHOLE
        ]
        constants.prepare([name for name, _ in places], path)
        for name, node in places:
            values = constants.values(path, name) if constants.is_constant(path, name) else None
            if values is not None:
                plans.setdefault(graph, Plan()).nodes[node.index] = [_constant(node, values)]
        for node in graph.nodes:
            sides = known_sides(node, partial(model.shape_of, graph))
            if sides is not None:
                plans.setdefault(graph, Plan()).nodes[node.index] = [_constant(node, np.array(sides, np.int64))]
    return plans


def _open_sequences(model: Model) -> Mapping[Graph, Plan]:
    """Read what was put into a sequence or an optional in place of what is taken out of it."""
    plans: dict[Graph, Plan] = {}
    sequences = KnownSequences(model)
    for graph in model.graphs.values():
        for node in graph.nodes:
            plain = sequences.plain(graph, node)
            if plain is not None:
                plans.setdefault(graph, Plan()).nodes[node.index] = plain
    return plans


def _constant(node: Node, values: Array) -> NodeProto:
    value = numpy_helper.from_array(values)
    return helper.make_node("Constant", [], [node.outputs[0]], name=node.name, value=value)


def _drop_idle(model: Model) -> Mapping[Graph, Plan]:
    """Leave out what does nothing: Dropouts, Transposes into the same order, Slices of everything, idle casts."""
    plans: dict[Graph, Plan] = {}
    for graph in model.graphs.values():
        for node in graph.nodes:
            source = source_behind(model, graph, node, partial(model.dtype_of, graph), partial(model.shape_of, graph))
            if idle_dropout(model, graph, node) and node.outputs[0] not in graph.outputs:
                source = node.inputs[0]
            if source is not None:
                plan = plans.setdefault(graph, Plan())
                plan.nodes[node.index] = []
                plan.values[node.outputs[0]] = source
    return plans


def _put_norms_together(model: Model) -> Mapping[Graph, Plan]:
    plans: dict[Graph, Plan] = {}
    for graph in model.graphs.values():
        if any(is_root(node) for node in graph.nodes):
            plans[graph] = Plan(find_norms(model, graph, partial(_rank, model, graph)))
    return plans


def _put_functions_together(model: Model, other: Model | None) -> Mapping[Graph, Plan]:
    plans: dict[Graph, Plan] = {}
    may_be_cut = cache(partial(_may_be_cut, sides=[side for side in (model, other) if side is not None]))
    for graph in model.graphs.values():
        if not any(node.op_type in MAY_BEND for node in graph.nodes):
            continue
        plan = plans[graph] = Plan()
        for value in graph.readers:
            found = None if value in graph.constants else function_from(model, graph, value, factor_behind)
            if found is None or may_be_cut(found.name) or model.dtype_of(graph, value) not in _WIDE:
                continue
            if plan.nodes.keys().isdisjoint(node.index for node in found.nodes):
                plan.nodes |= {node.index: [] for node in found.nodes}
                last = found.nodes[-1]
                end = last.outputs[0] if found.product is None else f"{last.outputs[0]}/{found.name}"
                plan.nodes[last.index] = [_function(found.name, value, last, end)]
                if found.product is not None:
                    plan.nodes[found.product.index] = [without_factor(found.product, end)]
    return plans


def _may_be_cut(name: str, sides: Sequence[Model]) -> bool:
    """Whether codes are made within functions that are spelled out: they are somewhere, and nobody has it as a node."""
    nodes = [node for side in sides for graph in side.graphs.values() for node in graph.nodes]
    has_codes = any(node.op_type == "QuantizeLinear" for node in nodes)
    return has_codes and not any(node.op_type.endswith(name) for node in nodes)


def _function(name: str, value: str, last: Node, end: str) -> NodeProto:
    is_fast = name == "FastGelu"
    options = {"approximate": "tanh"} if is_fast else {}
    node = helper.make_node("Gelu" if is_fast else name, [value], [end], name=last.name, **options)
    node.metadata_props.extend(last.proto.metadata_props)
    return node


def _take_apart(model: Model, other: Model | None) -> Mapping[Graph, Plan]:
    """Write the operators that fused ones stand for in their places."""
    graphs = model.graphs.values()
    used = {value for graph in graphs for node in graph.nodes for value in (*node.inputs, *node.outputs)}
    used |= {value for graph in graphs for value in (*graph.inputs, *graph.initializers)}
    is_one_layer = _held_as_one(model, other)
    size_bytes = 0
    plans: dict[Graph, Plan] = {}
    for graph in graphs:
        for node in graph.nodes:
            site = Site(
                opset=opset_of(model.proto),
                used=used,
                layer=partial(_layer_of, model, node),
                shape=partial(model.shape_of, graph),
                dtype=partial(_dtype_of, model, graph),
                numbers=partial(_numbers_of, model, graph),
                made_by=partial(_made_by, graph),
                is_one_layer=is_one_layer,
            )
            writer = NodeWriter(node.proto, site)
            expand = expansion_of(writer)
            if expand is not None:
                expand(writer)
            size_bytes += sum(tensor.ByteSize() for tensor in writer.stored)
            if writer.nodes and not (writer.stored and size_bytes > _MOST_BYTES):
                plan = plans.setdefault(graph, Plan())
                plan.nodes |= {replaced.index: [] for replaced in writer.replaced}
                plan.nodes[node.index] = writer.nodes
                plan.stored += writer.stored
    return plans


def _held_as_one(model: Model, other: Model | None) -> Callable[[tuple[int, ...], int], bool]:
    """Return what tells which packed weights are one layer's in the other model: those of GPT-2 are, of BERT not."""

    @cache
    def counts(side: Model | None) -> Counter[tuple[int, ...]]:
        return Counter(layer.shape for layer in (() if side is None else side.layers) if layer.kind == "Linear")

    def is_one(shape: tuple[int, ...], layers: int = 0) -> bool:
        theirs = counts(other)[shape[::-1]]
        return theirs > 0 and counts(model)[shape[::-1]] - layers < theirs

    return is_one


def _made_by(graph: Graph, value: str) -> Node | None:
    is_read_once = len(graph.readers_of(value)) == 1 and value not in graph.outputs
    return graph.producers.get(value) if is_read_once else None


def _layer_of(model: Model, node: Node) -> str:
    return model.names.layers[node]


def _dtype_of(model: Model, graph: Graph, value: str) -> str:
    """The element type of a value; where it is unknown, the one that most of the stored numbers have."""
    known = model.dtype_of(graph, value)
    if known is not None:
        return known
    sizes: Counter[int] = Counter()
    for tensor in model.main.initializers.values():
        sizes[tensor.data_type] += math.prod(tensor.dims)
    kind = next((kind for kind, _ in sizes.most_common() if kind in _FLOATS), TensorProto.FLOAT)
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name


def _numbers_of(model: Model, graph: Graph, value: str) -> Array | None:
    tensor = graph.stored(value)
    return None if tensor is None else model.array(tensor)


def _resolve_places(model: Model) -> Mapping[Graph, Plan]:
    """Say axes, ranges and pads in plain numbers, and store rows of numbers where weights are stored."""
    plans: dict[Graph, Plan] = {}
    constants = ConstantValues(model)
    for graph in model.graphs.values():
        for node in graph.nodes:
            row = None if graph.path else _stored_row(graph, node)
            if row is not None:
                plan = plans.setdefault(graph, Plan())
                plan.nodes[node.index] = []
                plan.stored.append(row)
                continue
            written = resolved(model, graph, node, _targets_of(model, graph, constants))
            if written is not None:
                plans.setdefault(graph, Plan()).nodes[node.index] = written
    return plans


def _stored_row(graph: Graph, node: Node) -> TensorProto | None:
    """Return a Constant of several numbers as onnxruntime stores it when it saves a model; None for other nodes."""
    if node.op_type != "Constant" or not node.is_standard or node.outputs[0] in graph.outputs:
        return None
    tensor = graph.stored(node.outputs[0])
    literals = node.attribute("value_floats")
    if tensor is None and literals is not None:
        tensor = numpy_helper.from_array(np.array(literals, np.float32))
    if tensor is None or len(tensor.dims) != 1 or tensor.dims[0] < 2 or tensor.data_type not in _FLOATS:
        return None
    row = TensorProto()
    row.CopyFrom(tensor)
    row.name = node.outputs[0]
    return row


def _turn_reductions(model: Model) -> Mapping[Graph, Plan]:
    """Let a reduction read what a Transpose turns, where the axes that are left keep their order."""
    plans: dict[Graph, Plan] = {}
    for graph in model.graphs.values():
        turned: dict[Node, set[Node]] = {}
        for node in graph.nodes:
            found = turned_reduction(model, graph, node)
            if found is not None:
                plans.setdefault(graph, Plan()).nodes[node.index] = found[1]
                turned.setdefault(found[0], set()).add(node)
        for turn, nodes in turned.items():
            if set(graph.readers.get(turn.outputs[0], ())) == nodes and turn.outputs[0] not in graph.outputs:
                plans[graph].nodes[turn.index] = []
        for node in graph.nodes:
            unturned = unturned_softmax(model, graph, node)
            if unturned is not None:
                plans.setdefault(graph, Plan()).nodes |= {unturned[0].index: [], node.index: [unturned[1]]}
    return plans


def _merge_pads(model: Model) -> Mapping[Graph, Plan]:
    """Let a convolution or a pool pad for itself."""
    plans: dict[Graph, Plan] = {}
    for graph in model.graphs.values():
        for node in graph.nodes:
            merged = merged_pad(model, graph, node)
            if merged is not None:
                reader, proto = merged
                plan = plans.setdefault(graph, Plan())
                plan.nodes |= {node.index: [], reader.index: [proto]}
                plan.values[node.outputs[0]] = node.inputs[0]
    return plans


def _rank(model: Model, graph: Graph, value: str) -> int | None:
    shape = model.shape_of(graph, value)
    return None if shape is None else len(shape)


def _targets_of(
    model: Model, graph: Graph, constants: ConstantValues
) -> Callable[[str], Sequence[int | str | None] | None]:
    """Shapes, with the sides that a Reshape leads to where neither the file nor inference tells them."""
    known = partial(model.shape_of, graph)

    def shape(value: str) -> Sequence[int | str | None] | None:
        sides = known(value)
        node = graph.producers.get(value)
        is_open = sides is None or all(side is None for side in sides)
        if node is None or node.op_type != "Reshape" or len(node.inputs) < 2 or not is_open:
            return sides
        target = constants.sides(graph.path, node.inputs[1])
        return sides if target is None else [side if side is not None and side > 0 else None for side in target]

    return shape
