"""A part that shows a fault, made as small as it can be: `extract(..., shrink=True)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from onnxscope.base.text import counted
from onnxscope.errors import InputError
from onnxscope.extracting.chosen_part import Part
from onnxscope.extracting.recorded_values import TOLERANCES, Recorded, record_values, types_of
from onnxscope.extracting.standalone import standalone
from onnxscope.model.loading import Model
from onnxscope.model.tensors import every_tensor
from onnxscope.runtime.session import open_session
from onnxscope.runtime.unstable_nodes import unstable_values
from onnxscope.shrinking.case import Case, with_outputs
from onnxscope.shrinking.faults import Fault
from onnxscope.shrinking.shrink import Limited, Shrunk, shrink

__all__ = ["Shrinking", "layers_of", "reaching_values", "shrink_part", "size_bytes", "whole_model"]

_ROUNDED: Mapping[str, float] = {"float16": 5e-2, "float32": 5e-2, "float64": 5e-2, "int8": 2 / 127, "uint8": 2 / 255}
"""How far outputs may be off where kernels round to codes, in which one step is no fault."""


@dataclass(frozen=True)
class Shrinking:
    """What was made smaller, and what is wrong with it.

    Attributes:
        fault: What is wrong, with the part that it was made of as with what it became.
        nodes_before: Of the part.
        nodes: Of what it became.
        bytes_before: The part as a file would take.
        bytes: What it became takes.
        original_weights: How many numbers of its weights are those of the part: without them the fault is gone.
        original_inputs: How many numbers of its inputs are those that reached the part.
        trials: How many models were run.
        is_complete: Whether the search ended by itself, and was not cut short.
    """

    fault: Fault
    nodes_before: int
    nodes: int
    bytes_before: int
    bytes: int
    original_weights: int
    original_inputs: int
    trials: int
    is_complete: bool

    def __str__(self) -> str:
        before, after = (
            f"{counted(nodes, 'node')} and {size:,} bytes"
            for nodes, size in ((self.nodes_before, self.bytes_before), (self.nodes, self.bytes))
        )
        return f"{self.fault}; {before} became {after}"

    @property
    def notes(self) -> list[str]:
        """Remarks for people."""
        notes = []
        if self.original_weights or self.original_inputs:
            kinds = ((self.original_weights, "weights"), (self.original_inputs, "inputs"))
            kept = " and ".join(f"{counted(count, 'number')} of the {kind}" for count, kind in kinds if count)
            why = "they are what differs" if self.fault.kind == "models" else "with others the fault is gone"
            notes.append(f"not replaced: {kept}; {why}")
        if not self.is_complete:
            notes.append(f"the search was ended after {self.trials:,} trials: shrink the result again")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "fault": self.fault.kind,
            "text": str(self.fault),
            "nodes_before": self.nodes_before,
            "nodes": self.nodes,
            "bytes_before": self.bytes_before,
            "bytes": self.bytes,
            "original_weights": self.original_weights,
            "original_inputs": self.original_inputs,
            "trials": self.trials,
            "complete": self.is_complete,
        }


def whole_model(model: Model) -> Part:
    """Return all that a model computes, constants included, as a part.

    Raises:
        InputError: It computes nothing.
    """
    graph = model.main
    outputs = tuple(value for value in graph.outputs if value in graph.producers)
    if not outputs:
        raise InputError(f"nothing is computed, so there is nothing to shrink: {model.name}")
    read = dict.fromkeys(value for node in graph.nodes for value in (*filter(None, node.inputs), *node.captured))
    inputs = (value for value in read if value not in graph.producers and value not in graph.constants)
    return Part((), tuple(graph.nodes), tuple(inputs), outputs)


def reaching_values(model: Model, part: Part, feeds: Mapping[str, Any], *, threads: int = 0) -> dict[str, Recorded]:
    """Return what reaches a part; the part itself, which may crash or hang, is not run where it lies in the main graph.

    Args:
        model: Whose part.
        part: Which nodes.
        feeds: What the model is fed.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Raises:
        InputError: The body that holds the part did not run on this input.
        RunError: onnxruntime fails, or a value cannot be handed out.
    """
    if part.path:
        return record_values(model, Part(part.path, part.nodes, part.inputs, ()), feeds, threads=threads)
    computed = [name for name in part.inputs if name not in feeds]
    values = {name: feeds[name] for name in part.inputs if name in feeds}
    if computed:
        before = with_outputs(Case(model.proto, feeds), computed)
        values |= open_session(model, before.proto, threads=threads).run(before.feeds)
    return {name: values[name] for name in part.inputs}


def shrink_part(
    model: Model, part: Part, values: Mapping[str, Recorded], limits: Limited | None = None
) -> tuple[Shrunk, Shrinking]:
    """Make a part smaller while its fault is there.

    Args:
        model: Whose part.
        part: Which nodes.
        values: Of its inputs.
        limits: How long is searched.

    Raises:
        InputError: Nothing is wrong with it.
        RunError: No trials can be made.
    """
    types = types_of(model, Part(part.path, part.nodes, part.inputs, ()), values)
    alone = model.rewritten(standalone(model, part, types))
    unstable = unstable_values(alone)
    tolerances = {**TOLERANCES, **_ROUNDED} if _has_codes(alone) else TOLERANCES
    shrunk = shrink(alone, values, tolerances=tolerances, unstable=unstable, limits=limits)
    shrinking = Shrinking(
        fault=shrunk.fault,
        nodes_before=len(part.nodes),
        nodes=len(shrunk.model.main.nodes),
        bytes_before=size_bytes(alone),
        bytes=size_bytes(shrunk.model),
        original_weights=shrunk.original_weights,
        original_inputs=shrunk.original_inputs,
        trials=shrunk.trials,
        is_complete=shrunk.is_complete,
    )
    return shrunk, shrinking


def layers_of(model: Model, shrunk: Model) -> tuple[str, ...]:
    """The layers of a model that what it became is made of."""
    names = {
        output: model.names.layers[node]
        for graph in model.graphs.values()
        for node in graph.nodes
        for output in node.outputs
        if output
    }
    outputs = [output for node in shrunk.main.nodes for output in node.outputs if output in names]
    return tuple(dict.fromkeys(names[output] for output in outputs))


def _has_codes(model: Model) -> bool:
    """Whether something rounds to codes of few bits."""
    kinds = (node.op_type for graph in model.graphs.values() for node in graph.nodes)
    return any("Quantize" in kind or "QLinear" in kind or kind.endswith("Integer") for kind in kinds)


def size_bytes(model: Model) -> int:
    """What a model takes as one file."""
    outside = (tensor for tensor in every_tensor(model.proto) if tensor.data_location == TensorProto.EXTERNAL)
    return int(model.proto.ByteSize() + sum(map(model.storage.stored_bytes, outside)))
