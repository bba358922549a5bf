"""The one graph that compares two models: both, and a copy of the second that is fed with the first one's values.

    x -> A ------- a1 -------- a2 --> …          entire error of a layer: b2 - a2
      -> B ------- b1 -------- b2 --> …
    x -> B's copy  o1; a1 ---> o2; a2 --> …      its own error: o2 - a2

Every name of A is led by `a:`, every name of B by `b:`, of the copy by `o:`; weights that are the same bytes are stored
once, so that onnxruntime folds together what computes the same. The errors are reduced inside the graph, the last layer
first, as in `probes`, and only numbers leave it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxscope.errors import RunError
from onnxscope.model.graphs import walk_graphs
from onnxscope.model.loading import Model
from onnxscope.numerics.distances import Tolerance
from onnxscope.pairing.match_values import Counterpart, FedInput, shared_constants
from onnxscope.runtime.nodes import HALF_TYPES, INTEGER_TYPES, MIN_ROW, GraphWriter, opset_of

__all__ = ["Merged", "merge_models", "own_model"]

Array = NDArray[Any]
_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_LONG = frozenset({"int64", "uint64"})
_WIDE = frozenset({"int32", "uint32", *_LONG})
_WHERE_OPSET = 9


@dataclass(frozen=True)
class Merged:
    """The merged graph.

    Attributes:
        proto: With external data relative to `folder`.
        folder: Where that lies, None where there is none.
        outputs: For each counterpart the outputs with its numbers by key: `a`, `b` (sums of squares of either value),
            `shape` of the first, and `squares`, `low`, `high`, `beyond` of the difference, also led by `own_`.
    """

    proto: ModelProto
    folder: Path | None
    outputs: tuple[dict[str, str], ...]


def merge_models(
    a: Model,
    proto_a: ModelProto,
    b: Model,
    proto_b: ModelProto,
    counterparts: Sequence[Counterpart],
    inputs: Sequence[FedInput],
    *,
    fed: Sequence[Counterpart] = (),
    tolerance: Tolerance | None,
) -> Merged:
    """Build the graph that compares.

    Args:
        a: The first model.
        proto_a: Its tapped copy.
        b: The second model.
        proto_b: Its tapped copy.
        counterparts: In execution order.
        inputs: One for every input of `b`.
        fed: More values that the copy of `b` reads in place of its own; they are not measured.
        tolerance: Count the numbers beyond it.

    Raises:
        RunError: They cannot stand in one graph: their operator sets differ, the files have no folder in common, or
            values are in half precision.
    """
    if any({pair.dtype_a, pair.dtype_b} & HALF_TYPES for pair in (*counterparts, *fed)):
        # On a CPU they are computed in float32, and a probe behind them would see numbers that were never rounded.
        raise RunError("values in half precision")
    if any(map(_are_long, counterparts)) and opset_of(proto_a) < _WHERE_OPSET:
        raise RunError("integers of 64 bits below operator set 9")
    folder = _common_folder(a, b)
    proto = ModelProto(ir_version=max(proto_a.ir_version, proto_b.ir_version))
    proto.graph.name = "merged"
    _merge_opsets(proto, proto_a, proto_b)
    shared = shared_constants(a, b)
    for value in proto_a.graph.input:
        if value.name not in a.main.initializers:
            proto.graph.input.add().CopyFrom(value)
            proto.graph.input[-1].name = f"a:{value.name}"
    first, second, third = (GraphWriter(proto, prefix) for prefix in ("p:", "q:", "r:"))
    _copy_graph(proto, proto_a, lambda name: f"a:{name}", a.folder, folder)
    sources = {source.b: source for source in inputs}

    def in_b(name: str) -> str:
        return f"a:{shared[name]}" if name in shared else f"b:{name}"

    for name, source in sources.items():
        value = f"a:{source.a}"
        value = first.node("Transpose", [value], perm=list(source.permutation)) if source.permutation else value
        value = first.cast(value, source.elem_type) if source.elem_type else value
        value = first.rounded(value) if source.elem_type in _HALF else value
        proto.graph.node.append(onnx.helper.make_node("Identity", [value], [f"b:{name}"]))
    _copy_graph(proto, proto_b, in_b, b.folder, folder, left_out=shared.keys())
    read = [*counterparts, *fed]
    alone = _copy_with_replacements(proto, proto_b, b, read, in_b, sources.keys(), second)
    outputs: list[dict[str, str]] = [{} for _ in counterparts]
    for place in range(len(counterparts) - 1, -1, -1):
        pair = counterparts[place]
        numbers = outputs[place]
        stored = f"a:{pair.a}"
        left = _computable(third, stored, pair.dtype_a, pair)
        numbers["shape"] = third.node("Shape", [left])
        numbers["a"] = _squares(third, left, pair)
        for lead, value in (("", in_b(pair.b)), ("own_", alone(pair.b))):
            other = _like_a(third, value, pair, left)
            right = _computable(third, other, pair.dtype_b, pair)
            numbers |= {} if lead else {"b": _squares(third, right, pair)}
            gap = third.node("Sub", [right, left])
            gap = _exact(third, stored, other, gap) if _are_long(pair) else gap
            _append_error(third, left, gap, pair, tolerance, lead, numbers)
        for output in numbers.values():
            third.output(output)
    return Merged(proto, folder, tuple(outputs))


def own_model(
    b: Model, proto_b: ModelProto, counterparts: Sequence[Counterpart], wanted: Sequence[Counterpart]
) -> tuple[ModelProto, dict[str, Counterpart]]:
    """Build the copy of the second model that is fed with values of the first, for some of its layers.

    Returns:
        The model, whose outputs are the wanted values under their own names led by `o:`; and its inputs beside those
        of the model itself, with the counterpart whose value each takes, as the second model would hold it.
    """
    proto = ModelProto(ir_version=proto_b.ir_version)
    proto.opset_import.extend(proto_b.opset_import)
    proto.graph.name = "own"
    fed = [pair for pair in counterparts if pair.replaced]
    coded = {name: pair for pair in fed if pair.codes for name in b.main.names_of(pair.read_b)}
    replaced = {name: pair for pair in fed for name in b.main.names_of(pair.b)} | coded
    constants = b.main.constants
    used: dict[str, Counterpart] = {}

    def rename(name: str, *, reading: bool) -> str:
        if reading and name in replaced:
            used[f"fed:{name}"] = replaced[name]
            return f"{'codes' if name in coded else 'fed'}:{name}"
        return name if name in constants or name in b.main.inputs else f"o:{name}"

    decoders = frozenset(pair.b for pair in counterparts if pair.codes)
    needed = _needed(proto_b, wanted, replaced.keys(), decoders)
    for node in proto_b.graph.node:
        if any(output in needed for output in node.output):
            proto.graph.node.append(_renamed(node, rename, decoders))
    for name, pair in used.items():
        own = name.removeprefix("fed:")
        if pair.codes is not None and own in coded:
            node = onnx.helper.make_node("QuantizeLinear", [name, *pair.codes[1:]], [f"codes:{own}"])
            proto.graph.node.insert(0, node)
    reads = {name for node in proto.graph.node for name in _names_read(node)}
    proto.graph.initializer.extend(tensor for tensor in proto_b.graph.initializer if tensor.name in reads)
    for value in proto_b.graph.input:
        if value.name not in b.main.initializers:
            proto.graph.input.add().CopyFrom(value)
    for name, pair in used.items():
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(pair.dtype_b))
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, elem_type, [None] * len(pair.shape_b)))
    for pair in wanted:
        proto.graph.output.add().name = rename(pair.b, reading=False)
    return proto, used


def _needed(proto: ModelProto, wanted: Sequence[Counterpart], stops: Any, decoders: frozenset[str]) -> set[str]:
    """Values that must be computed for what is wanted, going back no further than `stops`, which `decoders` pass."""
    producers = {output: node for node in proto.graph.node for output in node.output}
    needed: set[str] = set()
    waiting = [name for pair in wanted for name in (pair.b, pair.read_b)]
    while waiting:
        name = waiting.pop()
        if name in needed or name not in producers:
            continue
        needed.add(name)
        waiting += [read for read in _names_read(producers[name]) if name in decoders or read not in stops]
    return needed


def _names_read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those inside its bodies included."""
    yield from filter(None, node.input)
    for body in _bodies(node):
        for inner in body.node:
            yield from _names_read(inner)
        yield from (value.name for value in body.output)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def _copy_graph(
    proto: ModelProto,
    source: ModelProto,
    rename: Callable[[str], str],
    old: Path | None,
    new: Path | None,
    left_out: Any = (),
) -> None:
    for tensor in source.graph.initializer:
        if tensor.name not in left_out:
            added = proto.graph.initializer.add()
            added.CopyFrom(tensor)
            added.name = rename(tensor.name)
            _rebase(added, old, new)
    for sparse in source.graph.sparse_initializer:
        proto.graph.sparse_initializer.add().CopyFrom(sparse)
        proto.graph.sparse_initializer[-1].values.name = rename(sparse.values.name)
    for node in source.graph.node:
        if node.op_type == "Constant" and len(node.output) == 1 and node.output[0] in left_out:
            continue
        copy = _renamed(node, lambda name, reading: rename(name))
        for graph in (graph for body in _bodies(copy) for graph in walk_graphs(body)):
            for tensor in graph.initializer:
                _rebase(tensor, old, new)
        proto.graph.node.append(copy)


def _copy_with_replacements(
    proto: ModelProto,
    source: ModelProto,
    b: Model,
    counterparts: Sequence[Counterpart],
    in_b: Callable[[str], str],
    inputs: Any,
    writer: GraphWriter,
) -> Callable[[str], str]:
    """Append the copy of B whose layers read A's values, and return what its values are called."""
    replaced: dict[str, str] = {}
    for pair in counterparts:
        if pair.replaced:
            value = _like_b(writer, f"a:{pair.a}", pair, in_b(pair.b))
            replaced |= dict.fromkeys(b.main.names_of(pair.b), value)
            if pair.codes is not None:
                codes = writer.node("QuantizeLinear", [value, *map(in_b, pair.codes[1:])])
                replaced |= dict.fromkeys(b.main.names_of(pair.read_b), codes)
    constants = b.main.constants

    def rename(name: str, *, reading: bool) -> str:
        if reading and name in replaced:
            return replaced[name]
        return in_b(name) if name in constants or name in inputs else f"o:{name}"

    decoders = frozenset(pair.b for pair in counterparts if pair.codes)
    needed = _needed(source, counterparts, replaced.keys(), decoders)
    for node in source.graph.node:
        if any(output in needed and output not in constants for output in node.output):
            proto.graph.node.append(_renamed(node, rename, decoders))
    return partial(rename, reading=False)


def _renamed(node: NodeProto, rename: Callable[..., str], decoders: frozenset[str] = frozenset()) -> NodeProto:
    """A node with new names; one that only decodes what it reads, for a value in `decoders`, reads its own model."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    reading = decoders.isdisjoint(node.output)
    for place, name in enumerate(node.input):
        copy.input[place] = rename(name, reading=reading) if name else ""
    for place, name in enumerate(node.output):
        copy.output[place] = rename(name, reading=False) if name else ""
    for body in _bodies(copy):
        del body.value_info[:]
        inner = [_renamed(inner_node, rename) for inner_node in body.node]
        del body.node[:]
        body.node.extend(inner)
        for value in body.input:
            value.name = rename(value.name, reading=False)
        for value in body.output:
            value.name = rename(value.name, reading=True)
        for tensor in body.initializer:
            tensor.name = rename(tensor.name, reading=False)
        for sparse in body.sparse_initializer:
            sparse.values.name = rename(sparse.values.name, reading=False)
    return copy


def _append_error(
    writer: GraphWriter,
    left: str,
    gap: str,
    pair: Counterpart,
    tolerance: Tolerance | None,
    lead: str,
    numbers: dict[str, str],
) -> None:
    numbers[f"{lead}squares"] = _squares(writer, gap, pair)
    numbers[f"{lead}low"] = writer.reduce("ReduceMin", gap, pair.reduced)
    numbers[f"{lead}high"] = writer.reduce("ReduceMax", gap, pair.reduced)
    if tolerance is not None:
        dtype = _computed_in(pair)
        allowed = writer.node("Abs", [left])
        for kind, number in (("Mul", tolerance.rtol), ("Add", tolerance.atol)):
            allowed = writer.node(kind, [allowed, writer.array(np.array(number, dtype))])
        outside = writer.cast(writer.node("Greater", [writer.node("Abs", [gap]), allowed]), TensorProto.INT64)
        numbers[f"{lead}beyond"] = writer.reduce("ReduceSum", outside, tuple(range(len(pair.shape_a))))


def _squares(writer: GraphWriter, value: str, pair: Counterpart) -> str:
    # Mul and ReduceSum are vectorized and ReduceSumSquare is not: half the time, for one value more in memory.
    squared = writer.node("Mul", [value, value])
    axes = pair.reduced
    in_rows = len(axes) > 1 and pair.shape_a[axes[-1]] >= MIN_ROW
    return (writer.reduce_rows if in_rows else writer.reduce)("ReduceSum", squared, axes)


def _computed_in(pair: Counterpart) -> str:
    """numpy's name of the element type in which two values are compared; float32 would make long integers equal."""
    wide = pair.dtype_a == "float64" or not _WIDE.isdisjoint((pair.dtype_a, pair.dtype_b))
    return "float64" if wide else "float32"


def _are_long(pair: Counterpart) -> bool:
    """Whether both values are integers, and float64 may round one of them."""
    kinds = {pair.dtype_a, pair.dtype_b}
    return not _LONG.isdisjoint(kinds) and kinds <= INTEGER_TYPES


def _exact(writer: GraphWriter, left: str, right: str, gap: str) -> str:
    """The difference of integers before they are rounded, which is taken modulo 2**64, where `gap` says it is small."""
    sides = [writer.cast(value, TensorProto.INT64) for value in (right, left)]
    small = writer.cast(writer.node("Sub", sides), TensorProto.DOUBLE)
    is_large = writer.node("Greater", [writer.node("Abs", [gap]), writer.array(np.array(2.0**53))])
    return writer.node("Where", [is_large, gap, small])


def _computable(writer: GraphWriter, value: str, dtype: str, pair: Counterpart) -> str:
    computed_in = _computed_in(pair)
    if dtype == computed_in:
        return value
    return writer.cast(value, TensorProto.DOUBLE if computed_in == "float64" else TensorProto.FLOAT)


def _like_a(writer: GraphWriter, value: str, pair: Counterpart, left: str) -> str:
    if pair.permutation:
        value = writer.node("Transpose", [value], perm=list(pair.permutation))
    if pair.reshaped:
        value = writer.node("Reshape", [value, writer.node("Shape", [left])])
    return value


def _like_b(writer: GraphWriter, value: str, pair: Counterpart, model: str) -> str:
    """A value of A as B would hold it; `model` is B's own, for its shape."""
    if pair.reshaped:
        order = pair.permutation or tuple(range(len(pair.shape_b)))
        sides = writer.node("Shape", [model])
        if pair.permutation:
            sides = writer.node("Gather", [sides, writer.integers(order)])
        value = writer.node("Reshape", [value, sides])
    if pair.permutation:
        value = writer.node("Transpose", [value], perm=np.argsort(pair.permutation).tolist())
    if pair.dtype_a != pair.dtype_b:
        value = writer.cast(value, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(pair.dtype_b)))
    return value


def _merge_opsets(proto: ModelProto, first: ModelProto, second: ModelProto) -> None:
    versions: dict[str, int] = {}
    for entry in (*first.opset_import, *second.opset_import):
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise RunError(f"two operator sets {domain or 'ai.onnx'}: {versions[domain]} and {entry.version}")
    for domain, version in versions.items():
        proto.opset_import.add(domain=domain, version=version)


def _common_folder(a: Model, b: Model) -> Path | None:
    folders = [str(model.folder) for model in (a, b) if model.folder is not None]
    try:
        return Path(os.path.commonpath(folders)) if folders else None
    except ValueError as error:  # two drives of Windows
        raise RunError("the two models have no folder in common") from error


def _rebase(tensor: TensorProto, old: Path | None, new: Path | None) -> None:
    """Make the location of external data relative to another folder, above its own."""
    if tensor.data_location == TensorProto.EXTERNAL and old is not None and new is not None and old != new:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = os.path.relpath(old / entry.value, new)
