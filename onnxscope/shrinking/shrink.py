"""A model with a fault becomes the smallest that still has it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto

from onnxscope.errors import InputError
from onnxscope.model.loading import Model
from onnxscope.shrinking.case import Case, bodies, copied, tidied
from onnxscope.shrinking.faults import Bench, Fault, find_fault, is_finite
from onnxscope.shrinking.fewer_dims import shorten_sides
from onnxscope.shrinking.fewer_nodes import cut_nodes, open_bodies, simplify_nodes
from onnxscope.shrinking.fewer_pairs import cut_pairs
from onnxscope.shrinking.search import Search
from onnxscope.shrinking.simpler_values import count_original, replace_values, simplify_values
from onnxscope.shrinking.trials import Trials

__all__ = ["Limited", "Shrunk", "shrink"]

_ROUNDS = 4
_SHORT_TIMEOUT_S = 2.0  # of a trial, where a hang is looked for that was found with a longer one
_MOST_OF_TYPE = 1000  # bytes of a type that an output is declared with


@dataclass(frozen=True)
class Limited:
    """How long is searched.

    Attributes:
        trial_s: Seconds of a trial; what takes longer hangs.
        most_trials: The search ends after so many, with what it has.
        search_s: And after so many seconds.
    """

    trial_s: float = 20.0
    most_trials: int = 4000
    search_s: float = 100.0


@dataclass(frozen=True, eq=False)
class Shrunk:
    """The smallest model that was found.

    Attributes:
        fault: What is wrong with it, as with the model that it was made of.
        model: It may refer to weights in the files of the other one where these could not be replaced.
        feeds: What it is fed.
        given: What its outputs are; empty where it gives none.
        expected: What they should be, or what they are where nothing tells that; empty where neither is known.
        original_weights: How many values of weights are those of the model.
        original_inputs: How many values of inputs are those that were fed.
        trials: How many were made.
        is_complete: Whether nothing smaller was found, and the search was not cut short.
    """

    fault: Fault
    model: Model
    feeds: Mapping[str, Any]
    given: Mapping[str, Any]
    expected: Mapping[str, Any]
    original_weights: int
    original_inputs: int
    trials: int
    is_complete: bool


def shrink(
    model: Model,
    feeds: Mapping[str, Any],
    *,
    tolerances: Mapping[str, float],
    unstable: Collection[str] = (),
    fixed: Collection[str] = (),
    has_two: bool = False,
    limits: Limited | None = None,
) -> Shrunk:
    """Make a model smaller while its fault is there.

    Args:
        model: It is not changed.
        feeds: What it is fed, by input.
        tolerances: How far outputs may be off by element type, in shares of their largest magnitude.
        unstable: Outputs that are others in every run, so that no numbers are expected of them.
        fixed: Inputs and initializers whose numbers are left as they are, though fewer of them may be.
        has_two: Whether it is two models in one: the first half of the outputs are the first one's.
        limits: How long is searched.

    Raises:
        InputError: Nothing is wrong with it.
        RunError: No trials can be made.
    """
    limits = limits or Limited()
    end_s = time.monotonic() + limits.search_s
    with Trials(limits.trial_s) as trials:
        bench = Bench(trials, model.folder, model.custom_ops, tolerances, model.running)
        found = find_fault(bench, tidied(Case(_lifted(model.proto), feeds)), unstable=unstable, has_two=has_two)
        if found.fault is None:
            raise InputError(
                f"nothing is wrong that can be shrunk: {found.looked_for}: {model.name}",
                hint="feed what shows the fault",
            )
        fault, case = found.fault, found.case
        arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}
        sizes = {tensor.name: _Sized(tensor) for tensor in case.proto.graph.initializer}
        original = count_original(case, {**sizes, **arrays})  # type: ignore[dict-item]
        case = Case(case.proto, case.feeds, original)
        search = Search(bench, fault, case, model, limits.most_trials, end_s, fixed=frozenset(fixed))
        if fault.kind == "hang":
            search.timeout_s = min(_SHORT_TIMEOUT_S, limits.trial_s)
        _reduce(search, has_two=has_two)
        if fault.kind == "hang" and not fault.is_in(bench.verdict(search.case, "nothing")):
            search.case, search.timeout_s = case, None  # it was slow, and no more
            _reduce(search, has_two=has_two)
        return _result(search)


class _Sized:
    """As much of an array as tells whether it is private, without its bytes."""

    def __init__(self, tensor: TensorProto) -> None:
        import onnx

        self.size = int(np.prod(tensor.dims, dtype=np.int64))
        self.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _reduce(search: Search, *, has_two: bool) -> None:
    for _ in range(_ROUNDS):
        before = search.case
        if has_two:
            cut_pairs(search)
        else:
            cut_nodes(search)
            while open_bodies(search):
                cut_nodes(search)
        replace_values(search)
        simplify_nodes(search)
        shorten_sides(search)
        replace_values(search)
        if search.case is before or search.is_over:
            break
    simplify_values(search)
    if not has_two:
        cut_nodes(search)


def _result(search: Search) -> Shrunk:
    case, bench, fault = search.case, search.bench, search.fault
    given: Mapping[str, Any] = {}
    if fault.kind not in ("crash", "hang", "error"):
        given = bench.given(case) or {}
    expected = _expected(search, given)
    proto = copied(case.proto)
    known = bench.types(case)
    for value in proto.graph.output:
        if len(known.get(value.name, b"")) in range(1, _MOST_OF_TYPE):
            value.type.CopyFrom(TypeProto.FromString(known[value.name]))
    weights = sum(case.original.get(tensor.name, 0) for tensor in proto.graph.initializer)
    inputs = sum(case.original.get(name, 0) for name in case.feeds)
    return Shrunk(
        fault=fault,
        model=search.model.rewritten(proto),
        feeds=case.feeds,
        given=given,
        expected=expected,
        original_weights=weights,
        original_inputs=inputs,
        trials=bench.trials.count,
        is_complete=not search.is_over,
    )


def _expected(search: Search, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the outputs should be: by what they are held to, else by onnx's ReferenceEvaluator where it can tell."""
    case, bench, fault = search.case, search.bench, search.fault
    if fault.compared != "nothing":
        return bench.expected(case, fault.compared) or {}
    if fault.kind == "hang":
        return {}
    expected = bench.expected(case, "reference") or {}
    return expected if expected and all(map(is_finite, expected.values())) else given


def _lifted(proto: ModelProto) -> ModelProto:
    """A copy whose constants, those of bodies too where names allow, are initializers of the main graph."""
    lifted = copied(proto)
    taken = {value for node in lifted.graph.node for value in node.output}
    taken.update(tensor.name for tensor in lifted.graph.initializer)
    kept = []
    for node in lifted.graph.node:
        tensor = _constant(node)
        if tensor is None:
            kept.append(node)
        else:
            lifted.graph.initializer.append(tensor)
    nodes = []
    for node in kept:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        for body in bodies(copy):
            _lift_body(body, lifted, taken)
    del lifted.graph.node[:]
    lifted.graph.node.extend(nodes)
    return lifted


def _lift_body(body: Any, lifted: ModelProto, taken: set[str]) -> None:
    ends = {value.name for value in body.output}
    kept = []
    for node in body.node:
        tensor = _constant(node)
        if tensor is None or tensor.name in taken or tensor.name in ends:
            kept.append(node)
        else:
            taken.add(tensor.name)
            lifted.graph.initializer.append(tensor)
    stored = [tensor for tensor in body.initializer if tensor.name in taken or tensor.name in ends]
    for tensor in body.initializer:
        if tensor.name not in taken and tensor.name not in ends:
            taken.add(tensor.name)
            lifted.graph.initializer.append(tensor)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    rest = [TensorProto.FromString(tensor.SerializeToString()) for tensor in stored]
    del body.node[:]
    del body.initializer[:]
    body.node.extend(copies)
    body.initializer.extend(rest)
    for node in body.node:
        for inner in bodies(node):
            _lift_body(inner, lifted, taken)


def _constant(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant, None where it is none or holds something else."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    tensor = TensorProto()
    if attribute.type == AttributeProto.TENSOR:
        tensor.CopyFrom(attribute.t)
    elif attribute.type == AttributeProto.INT:
        tensor = TensorProto(data_type=7, int64_data=[attribute.i])
    elif attribute.type == AttributeProto.INTS:
        tensor = TensorProto(data_type=7, dims=[len(attribute.ints)], int64_data=attribute.ints)
    elif attribute.type == AttributeProto.FLOAT:
        tensor = TensorProto(data_type=1, float_data=[attribute.f])
    elif attribute.type == AttributeProto.FLOATS:
        tensor = TensorProto(data_type=1, dims=[len(attribute.floats)], float_data=attribute.floats)
    else:
        return None
    tensor.name = node.output[0]
    return tensor
