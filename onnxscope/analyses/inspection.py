"""What a model says about itself, without running it, and where asked what takes the time of a run: `inspect()`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from onnx import TensorProto

from onnxscope.analyses.estimators import describe_estimator
from onnxscope.analyses.model_summary import CostRecord, LayerRecord, ModelSummary
from onnxscope.analyses.odd_numbers import Odd, find_odd_numbers
from onnxscope.base import option_types
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.errors import InputError
from onnxscope.model.encodings import encoding_of
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.runtime.unstable_nodes import find_unstable
from onnxscope.selection.costs import Costs
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.known_shapes import known_shapes
from onnxscope.selection.selectors import At, select_layers
from onnxscope.selection.sizes import name_sizes
from onnxscope.timing.layer_times import Timing
from onnxscope.timing.time_model import REPEATS, time_model

__all__ = ["inspect", "run_inspect"]

_Shapes = Mapping[tuple[Step, ...], Mapping[str, tuple[int | str | None, ...]]]


@option_types.checked
def inspect(
    model: Any,
    inputs: Any = None,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    dims: Mapping[str, int] | None = None,
    time: bool = False,
    repeats: int = REPEATS,
    threads: int = 0,
    custom_ops: CustomOps = (),
    **feeding: Unpack[FeedingOptions],
) -> ModelSummary:
    """Describe a model, without running it where no time is asked for.

    Its weights are looked at for NaN and infinities alone, up to 256 MB.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: What it is run on where time is measured, as for `features`.
        select: Selectors; none lists every layer that owns weights.
        at: Whether the value of a selected layer is the one after (`post`) or before (`pre`) its activation function.
        dims: Sizes of open dimensions, by name or as `INPUT:AXIS`, for shapes, multiply-adds and bytes.
        time: Whether the model is run, to say what each layer takes.
        repeats: How many runs are measured, after two that are not; the median counts.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        feeding: How what is given becomes the model's inputs, where it is run: see `FeedingOptions`.

    Raises:
        ModelError: The model cannot be read.
        InputError: It has no such dimension; or it is to be run, and the inputs do not fit; or they are given where
            it is not.
        SelectorError: A selector matches nothing.
        RunError: onnxruntime fails.
    """
    if not time:
        if inputs is not None:
            raise InputError("nothing is run, so nothing can be fed", hint="`time=True` runs the model on its inputs")
        loaded, sizes = name_sizes(load_model(model, custom_ops=custom_ops), dims or {})
        return run_inspect(loaded, select=select, at=at, dims=sizes)
    if inputs is None:
        raise InputError("nothing is fed, so nothing takes time", hint="name an input; `random` will do")
    options = RunOptions(**feeding, threads=threads)
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    timing = time_model(loaded, inputs, options, repeats=repeats)
    return run_inspect(loaded, select=select, at=at, dims=name_sizes(loaded, dims or {})[1], timing=timing)


def run_inspect(
    loaded: Model,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    dims: Mapping[str, int] | None = None,
    read: bool = True,
    timing: Timing | None = None,
) -> ModelSummary:
    """Describe a model without running it; see `inspect`.

    Args:
        loaded: The model.
        select: As for `inspect`.
        at: As for `inspect`.
        dims: As for `inspect`.
        read: Whether weights are looked at for what is not finite.
        timing: What takes the time of a run of this model; None where that was not measured.

    Raises:
        InputError: The model has no such dimension.
        SelectorError: A selector matches nothing.
    """
    selectors = [select] if isinstance(select, str) else list(select)
    declared: list[tuple[Node | None, LayerRecord]] = []
    if selectors:
        for node, (tap,) in select_layers(loaded, selectors, at=at):
            layer = _layer(loaded, tap.layer, tap.op_type, tap.value, loaded.graphs[tap.path], node)
            declared.append((node, layer))
    else:
        for node in loaded.names.weighted:
            value = next(filter(None, node.outputs), "")
            layer = _layer(loaded, loaded.names.layers[node], node.op_type, value, loaded.graphs[node.path], node)
            declared.append((node, layer))
    costs = Costs(loaded, dims)
    shapes: _Shapes = {}
    if any(layer.shape is None for _, layer in declared):
        shapes = {
            path: known_shapes(loaded, graph, loaded.types.get(path, graph.types))
            for path, graph in loaded.graphs.items()
        }
    layers = [_completed(loaded, node, layer, costs, shapes, bound=bool(dims)) for node, layer in declared]
    if read:
        layers = _with_odd_numbers(loaded, [node for node, _ in declared], layers)
    if timing is not None:
        layers = [_timed(layer, node, timing) for (node, _), layer in zip(declared, layers, strict=True)]
    nodes = [node for graph in loaded.graphs.values() for node in graph.nodes]
    return ModelSummary(
        model=loaded.to_dict(),
        inputs=loaded.declared_inputs,
        outputs=loaded.outputs,
        layers=tuple(layers),
        operators=dict(sorted(Counter(node.op_type for node in nodes).items(), key=lambda item: (-item[1], item[0]))),
        nodes=len(nodes),
        bodies=len(loaded.graphs) - 1,
        inlined_functions=loaded.inlined_functions,
        parameters=loaded.stored_count,
        parameter_bytes=loaded.stored_bytes,
        unstable=find_unstable(loaded),
        costs=_costs(loaded, costs, nodes),
        timing=timing,
    )


def _timed(layer: LayerRecord, node: Node | None, timing: Timing) -> LayerRecord:
    """The record with what its node takes of a run, or whose time holds that."""
    time = None if node is None else timing.of(node)
    holder = None if node is None or time is not None else timing.holder(node)
    return replace(layer, time=time, timed_in=None if holder is None else holder.layer)


def _completed(
    model: Model, node: Node | None, layer: LayerRecord, costs: Costs, shapes: _Shapes, *, bound: bool
) -> LayerRecord:
    """The record with the shape that was inferred, or that is bound to sizes, and the cost that follows from it."""
    graph = model.main if node is None else model.graphs[node.path]
    shape = shapes.get(graph.path, {}).get(layer.value) if layer.shape is None else layer.shape
    sizes = costs.shape(graph.path, layer.value)
    return replace(
        layer,
        shape=sizes if bound and sizes is not None else shape,
        multiply_accumulates=None if node is None else costs.of(node),
        output_bytes=costs.value_bytes(graph.path, layer.value),
    )


def _costs(model: Model, costs: Costs, nodes: Sequence[Node]) -> CostRecord:
    """What all nodes cost together."""
    weighted = set(model.names.weighted)
    found = [(node, costs.of(node)) for node in nodes if costs.counts(node)]
    return CostRecord(
        dims=costs.dims,
        multiply_accumulates=sum(cost or 0 for _, cost in found),
        between_values=sum(cost or 0 for node, cost in found if node not in weighted),
        known=sum(cost is not None for _, cost in found),
        nodes=len(found),
        open_dims=costs.open_dims,
        cache_bytes_per_token=costs.cache_bytes(),
    )


def _with_odd_numbers(model: Model, nodes: Sequence[Node | None], layers: Sequence[LayerRecord]) -> list[LayerRecord]:
    """The records with what is not finite in the tensors of each node."""
    stored = [[] if node is None else list(_stored(model, node).values()) for node in nodes]
    counts = find_odd_numbers(model, (tensor for tensors in stored for tensor in tensors))

    def total(tensors: Sequence[TensorProto]) -> tuple[int | None, int | None]:
        odd: list[Odd] = [counts[id(tensor)] for tensor in tensors if id(tensor) in counts]
        if len(odd) < len(tensors):
            return None, None
        return sum(nan for nan, _ in odd), sum(inf for _, inf in odd)

    totals = [total(tensors) for tensors in stored]
    return [replace(layer, nan_count=nan, inf_count=inf) for layer, (nan, inf) in zip(layers, totals, strict=True)]


def _stored(model: Model, node: Node) -> dict[str, TensorProto]:
    """The stored tensors that a node uses, by name."""
    graph = model.graphs[node.path]
    values = [operand.origin.value for operand in model.names.operands(node) if operand.origin is not None]
    tensors = {value: graph.stored(value) for value in values}
    return {value: tensor for value, tensor in tensors.items() if tensor is not None}


def _layer(model: Model, layer: str, op_type: str, value: str, graph: Graph, node: Node | None) -> LayerRecord:
    declared = graph.types.get(value)
    stored = {} if node is None else _stored(model, node)
    sizes = {name: math.prod(tensor.dims) for name, tensor in stored.items()}
    bits = []
    for operand in model.names.operands(node) if node is not None else ():
        encoding = encoding_of(graph, operand)
        if encoding is not None and operand.origin is not None:
            sizes[operand.origin.value] = math.prod(encoding.shape)
            bits += [encoding.bits] if operand.role.startswith("weight") else []
    estimator = None if node is None else describe_estimator(node)
    return LayerRecord(
        layer=layer,
        op_type=op_type,
        value=value,
        shape=declared.shape if declared else None,
        parameters=sum(sizes.values()) + (sum(estimator.numbers.values()) if estimator else 0),
        size_bytes=sum(model.storage.stored_bytes(tensor) for tensor in stored.values())
        + (estimator.size_bytes if estimator else 0),
        bits=min(bits, default=None),
        estimator=estimator,
    )
