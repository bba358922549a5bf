"""Changes of a whole model for the proofs of verdicts: what means the same in other words, and one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

HANDED_ON = {"Identity", "Cast", "DequantizeLinear", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Slice", "Concat"}
LEAST_WEIGHTS = 16  # entries, from which on a stored tensor is taken for a weight, below for a constant


def copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all bodies in it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, of bodies and functions too, always in the same order."""
    for graph in graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            yield from (inner for body in bodies(node) for graph in graphs(body) for inner in graph.node)


def names_read(node: NodeProto) -> set[str]:
    """What a node reads, its bodies' captured values among them."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        for graph in graphs(body):
            names |= {name for inner in graph.node for name in inner.input}
            names |= {value.name for value in graph.output}
    return names


# What means the same


def rewritten(model: ModelProto, rng: np.random.Generator, *, interface: bool = False) -> ModelProto:
    """A copy with nodes and initializers in another valid order, and with other names for them and for all values.

    Args:
        model: Stays as it is.
        rng: Draws the order.
        interface: Whether inputs and outputs get other names too.
    """
    copy = copied(model)
    kept = set() if interface else {value.name for value in (*model.graph.input, *model.graph.output)}
    _Rewriting(kept, rng).graph(copy.graph)
    for function in copy.functions:
        _Rewriting({*function.input, *function.output}, rng).nodes(function)
    return copy


class _Rewriting:
    """Other names in one scope of names."""

    def __init__(self, kept: set[str], rng: np.random.Generator) -> None:
        self._names = {name: name for name in ("", *kept)}
        self._rng = rng

    def graph(self, graph: GraphProto) -> None:
        self.nodes(graph)
        order = self._rng.permutation(len(graph.initializer))
        tensors = [TensorProto.FromString(graph.initializer[place].SerializeToString()) for place in order]
        del graph.initializer[:], graph.value_info[:], graph.quantization_annotation[:]
        graph.initializer.extend(tensors)
        for named in (*graph.initializer, *graph.input, *graph.output):
            named.name = self._renamed(named.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = self._renamed(sparse.values.name)

    def nodes(self, owner: Any) -> None:
        ordered = [NodeProto.FromString(node.SerializeToString()) for node in self._reordered(list(owner.node))]
        del owner.node[:]
        owner.node.extend(ordered)
        for node in owner.node:
            for body in bodies(node):
                self.graph(body)
            node.input[:] = [self._renamed(name) for name in node.input]
            node.output[:] = [self._renamed(name) for name in node.output]
            node.name = f"n{self._rng.integers(1 << 30)}"
            del node.metadata_props[:]

    def _renamed(self, name: str) -> str:
        return self._names.setdefault(name, f"v{len(self._names)}_{self._rng.integers(1 << 30)}")

    def _reordered(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """Each behind what it reads."""
        made = {name for node in nodes for name in node.output if name}
        waiting = [(node, names_read(node) & made) for node in nodes]
        ordered: list[NodeProto] = []
        there: set[str] = set()
        while waiting:
            ready = [place for place, (_, needed) in enumerate(waiting) if needed <= there]
            node, _ = waiting.pop(ready[self._rng.integers(len(ready))])
            ordered.append(node)
            there |= {name for name in node.output if name}
        return ordered


def optimized(model: ModelProto, level: str, folder: Path) -> ModelProto:
    """The copy that onnxruntime saves at a level, such as `BASIC`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(folder / f"{level}.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / f"{level}.onnx")


def with_copies(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """A copy in which what some nodes read goes through an Identity or a Dropout in inference mode."""
    copy = copied(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for place, node in enumerate(nodes):
        if node.op_type != "Constant" and node.input and node.input[0] and rng.random() < 0.5:
            kind = "Identity" if rng.random() < 0.5 or not _reads_floats(model, node) else "Dropout"
            copy.graph.node.append(helper.make_node(kind, [node.input[0]], [f"copy {place}"]))
            node.input[0] = f"copy {place}"
        copy.graph.node.append(node)
    return copy


def _reads_floats(model: ModelProto, node: NodeProto) -> bool:
    """Whether a node is one of those that read floating-point numbers first, whatever the model."""
    return node.op_type in ("Conv", "Gemm", "Relu", "LeakyRelu", "Softmax", "LayerNormalization", "Sigmoid", "Flatten")


def with_constant_nodes(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """A copy whose initializers, of the main graph, are Constant nodes."""
    copy = copied(model)
    tensors, nodes = list(copy.graph.initializer), list(copy.graph.node)
    del copy.graph.initializer[:], copy.graph.node[:]
    for place in rng.permutation(len(tensors)):
        tensor = tensors[place]
        copy.graph.node.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    copy.graph.node.extend(nodes)
    return copy


def with_newer_operators(model: ModelProto, rng: np.random.Generator) -> ModelProto | None:
    """A copy in a newer operator set, as onnx converts it; None where it does not."""
    import onnx.version_converter

    domains = {entry.domain: entry.version for entry in model.opset_import}
    if model.functions or domains[""] > 19 or len(domains) > 1:
        return None
    return onnx.version_converter.convert_version(model, 20)


# One thing changed


@dataclass(frozen=True)
class Change:
    """A copy with one thing changed, and what somebody who looks for it would call the place.

    Attributes:
        model: The copy.
        what: In words.
        places: Names of the initializer, and of the nodes that read it with what they give; one of them, or the layer
            that owns one of them, has to be named.
    """

    model: ModelProto
    what: str
    places: frozenset[str]


def stored_tensors(model: ModelProto) -> list[tuple[str, TensorProto]]:
    """What some node reads: initializers and Constant nodes of every graph and function, by the name of the value."""
    read = {name for node in nodes_of(model) for name in node.input}
    stored = [(tensor.name, tensor) for graph in graphs(model.graph) for tensor in graph.initializer]
    stored += [
        (node.output[0], attribute.t)
        for node in nodes_of(model)
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.type == AttributeProto.TENSOR
    ]
    return [(name, tensor) for name, tensor in stored if name in read]


def with_numbers(
    model: ModelProto,
    rng: np.random.Generator,
    fits: Callable[[np.ndarray], bool],
    change: Callable[[np.ndarray], None],
) -> Change | None:
    """One stored tensor that fits, drawn, with its numbers changed in place; None where there is none."""
    copy = copied(model)
    candidates = [
        (name, tensor)
        for name, tensor in stored_tensors(copy)
        if tensor.data_type not in (TensorProto.STRING, TensorProto.UNDEFINED) and fits(numpy_helper.to_array(tensor))
    ]
    if not candidates:
        return None
    name, tensor = candidates[rng.integers(len(candidates))]
    before = numpy_helper.to_array(tensor)
    values = before.copy()
    change(values)
    assert before.tobytes() != values.tobytes()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return Change(copy, f"{name} {list(values.shape)}", frozenset({name, *_readers(copy, name)}))


def _readers(model: ModelProto, name: str) -> Iterator[str]:
    """Who reads a value, through what only hands numbers on."""
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop()
        for node in nodes_of(model):
            if value in node.input:
                yield from (text for text in (node.name, *node.output) if text)
                if node.op_type in HANDED_ON:
                    waiting += [output for output in node.output if output not in seen]
                    seen |= set(node.output)


def is_weight(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and values.size >= LEAST_WEIGHTS and bool(np.any(values))


def is_constant(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and 0 < values.size < LEAST_WEIGHTS


def moved_entry(rng: np.random.Generator) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        flat = values.reshape(-1)
        place = rng.integers(flat.size)
        finite = np.abs(values[np.isfinite(values)]).astype(np.float64)
        flat[place] = values.dtype.type(min(float(flat[place]) + finite.max(initial=0.5) + 0.5, 6e4))

    return change


def negated_entry(rng: np.random.Generator) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        flat = values.reshape(-1)
        (places,) = np.nonzero(flat)
        place = places[rng.integers(len(places))]
        flat[place] = -flat[place]

    return change


def flipped_bit(rng: np.random.Generator, bit_of: Callable[[int], int]) -> Callable[[np.ndarray], None]:
    """Flip one bit of one entry, the one that is told for the width of the type."""

    def change(values: np.ndarray) -> None:
        width = {2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize]
        bits = values.reshape(-1).view(width)
        (places,) = np.nonzero(values.reshape(-1))
        bits[places[rng.integers(len(places))]] ^= width(1 << bit_of(values.dtype.itemsize))

    return change


def other_attributes(node: NodeProto) -> Iterator[AttributeProto]:
    """Attributes of a node, each with another value."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:  # a function's caller gives it
            continue
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.INT:
            yield helper.make_attribute(attribute.name, value + 1 if value <= 0 else value - 1)
        elif attribute.type == AttributeProto.FLOAT:
            yield helper.make_attribute(attribute.name, value * 2 + 0.5)
        elif attribute.type == AttributeProto.INTS and value:
            yield helper.make_attribute(attribute.name, [*value[:-1], value[-1] + 1])
            yield helper.make_attribute(attribute.name, value[::-1])
        elif attribute.type == AttributeProto.FLOATS and value:
            yield helper.make_attribute(attribute.name, [value[0] * 2 + 0.5, *value[1:]])


def with_attribute(model: ModelProto, rng: np.random.Generator, moves: Callable[[ModelProto], bool]) -> Change | None:
    """One attribute changed, drawn among those whose change moves the outputs; None where no drawn one does."""
    places = [place for place, node in enumerate(nodes_of(model)) if node.op_type != "Constant" and node.attribute]
    for place in rng.permutation(places)[:30]:
        node = list(nodes_of(model))[place]
        for other in other_attributes(node):
            copy = copied(model)
            changed = list(nodes_of(copy))[place]
            next(stored for stored in changed.attribute if stored.name == other.name).CopyFrom(other)
            if moves(copy):
                places_named = frozenset(text for text in (node.name, *node.output) if text)
                return Change(copy, f"{node.op_type} {other.name}", places_named)
    return None


def _behind_a_value(
    model: ModelProto,
    rng: np.random.Generator,
    moves: Callable[[ModelProto], bool],
    make: Callable[[str], list[NodeProto]],
) -> Change | None:
    """Nodes put behind a drawn value of the main graph, the last of which gives `changed`."""
    values = [node.output[0] for node in model.graph.node if node.op_type != "Constant"]
    for place in rng.permutation(len(values)):
        value, copy = values[place], copied(model)
        nodes = list(copy.graph.node)
        del copy.graph.node[:]
        for node in nodes:
            made_here = value in node.output
            if made_here:
                node.output[list(node.output).index(value)] = "the value"
            copy.graph.node.append(node)
            if made_here:
                copy.graph.node.extend(make("the value"))
                copy.graph.node[-1].output[0] = value
        if moves(copy):
            return Change(copy, f"behind {value}", frozenset({value}))
    return None


def with_random_node(model: ModelProto, rng: np.random.Generator, moves: Callable[[ModelProto], bool]) -> Change | None:
    def make(value: str) -> list[NodeProto]:
        noise = helper.make_node("RandomNormalLike", [value], ["the noise"], scale=0.3)
        return [noise, helper.make_node("Add", [value, "the noise"], ["changed"])]

    return _behind_a_value(model, rng, moves, make)


def with_training_dropout(
    model: ModelProto, rng: np.random.Generator, moves: Callable[[ModelProto], bool]
) -> Change | None:
    def make(value: str) -> list[NodeProto]:
        ratio = helper.make_node("Constant", [], ["the ratio"], value=numpy_helper.from_array(np.float32(0.4)))
        mode = helper.make_node("Constant", [], ["the mode"], value=numpy_helper.from_array(np.bool_(True)))
        return [ratio, mode, helper.make_node("Dropout", [value, "the ratio", "the mode"], ["changed"])]

    return _behind_a_value(model, rng, moves, make)


def with_another_sign(
    model: ModelProto, rng: np.random.Generator, moves: Callable[[ModelProto], bool]
) -> Change | None:
    """A Neg behind a value."""
    return _behind_a_value(model, rng, moves, lambda value: [helper.make_node("Neg", [value], ["changed"])])
