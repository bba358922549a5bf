"""Nodes that do not give the same for the same input: random ones, and those that carry state from run to run.

What onnxruntime does (1.32, CPU): an operator that draws numbers goes on drawing from run to run of a session, with a
`seed` too. With one, every session draws the same sequence: its first runs agree, and two runs of one session do not.
Without one, another process draws another sequence. Most Dropouts are dropped by the optimizer, in training mode too;
with a tap on its output, or without optimization, such a one is random. BatchNormalization in training mode normalizes
by the batch that it is given, and keeps its moving statistics in memory that the next run reads, so that even what it
normalizes may move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from onnx import TensorProto

from onnxscope.base.text import counted, printable
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import Model
from onnxscope.operators.operator import Training
from onnxscope.runtime.dependents import KNOWN_DOMAINS, Dependents, told_apart
from onnxscope.runtime.nodes import opset_of

__all__ = ["UnstableNode", "find_unstable", "remarks_on_unstable", "unstable_values"]

_HANDING_ON = frozenset({"same", "cast", "permuted", "reshaped"})
_NO_REAL_NUMBERS = frozenset({TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128})
_LISTED = 5


@dataclass(frozen=True, eq=False)
class UnstableNode:
    """A node that does not give the same for the same input.

    Attributes:
        operator: Its operator, such as `Dropout`.
        name: As stored, or its operator and first output where it has none.
        layer: The layer that it belongs to, as the source framework called it.
        gives: Its outputs, empty names where it leaves one out.
        path: The steps that lead to its graph, empty in the main graph.
        owners: The nodes whose bodies it is in, outermost first.
        kind: `random`, or `stateful` where runs before it, or the other samples of a batch, make a difference.
        trains: Whether it is training mode that makes it so.
        condition: The value that switches training mode on, where that is known only when the model runs.
        seed: Its seed, None where it has none.
        left_out: Whether onnxruntime's optimizer drops it, so that it is random only where it is tapped or nothing is
            optimized.
        layers: Names of the layers that depend on it.
        layers_reached: How many those are: a layer that is called twice counts twice.
        layers_all: How many layers the model has.
        outputs: The model's outputs that depend on it.
    """

    operator: str
    name: str
    layer: str
    gives: tuple[str, ...]
    path: tuple[Step, ...]
    owners: tuple[str, ...]
    kind: Literal["random", "stateful"]
    trains: bool
    condition: str | None
    seed: float | None
    left_out: bool
    layers: tuple[str, ...]
    layers_reached: int
    layers_all: int
    outputs: tuple[str, ...]
    _dependents: Dependents = field(repr=False)
    _place: int = field(repr=False)

    @cached_property
    def touched(self) -> Mapping[tuple[Step, ...], frozenset[str]]:
        """The values that depend on it, by the path of their graph."""
        return self._dependents.of(self._place)

    @property
    def subject(self) -> str:
        """Its operator and name, and which body it is in."""
        name = printable(self.name)
        subject = name if name.startswith(f"{self.operator}(") else f"{self.operator} {name}"
        return f"{subject} in a body of {printable(self.owners[-1])}" if self.owners else subject

    @property
    def reason(self) -> str:
        """Why it does not give the same, behind `subject`."""
        does = "is in training mode" if self.trains else "draws other numbers in every run"
        if self.condition is not None:
            does += f" where {printable(self.condition)} is true"
        if self.kind == "stateful":
            does += ", normalizing by the batch at hand"
        if self.seed is not None:
            does += f", the same sequence in every session (seed {self.seed:g})"
        return f"{does}: {self.kind}"

    @property
    def message(self) -> str:
        """What it is, and how far that reaches."""
        reached = []
        if self.layers_all:
            some = f"{self.layers_reached:,}" if self.layers_reached else "none"
            reached.append(f"{some} of {counted(self.layers_all, 'layer')}")
        names = ", ".join(map(printable, self.outputs[:_LISTED]))
        more = f" and {len(self.outputs) - _LISTED:,} more" if len(self.outputs) > _LISTED else ""
        noun = "output" if len(self.outputs) == 1 else "outputs"
        reached.append(f"the {noun} {names}{more}" if self.outputs else "no output")
        message = f"{self.subject} {self.reason}; it reaches {' and '.join(reached)}"
        return f"{message}; onnxruntime's optimizer drops it unless it is observed" if self.left_out else message

    def to_dict(self) -> dict[str, Any]:
        """The record that results carry."""
        return {
            "kind": self.kind,
            "op_type": self.operator,
            "name": self.name,
            "layer": self.layer,
            "inside": list(self.owners),
            "condition": self.condition,
            "seed": self.seed,
            "left_out": self.left_out,
            "layers": list(self.layers),
            "outputs": list(self.outputs),
            "message": self.message,
        }


def find_unstable(model: Model) -> tuple[UnstableNode, ...]:
    """Return the nodes of a model that do not give the same for the same input, those of bodies included."""
    opset = opset_of(model.proto)
    modes = [
        (graph, node, mode)
        for graph in model.graphs.values()
        for node in graph.nodes
        if node.domain in KNOWN_DOMAINS and (mode := _mode(model, graph, node, opset)) is not None
    ]
    if not modes:
        return ()
    dependents = Dependents(model.graphs, [node for _, node, _ in modes])
    unstable = []
    reach: dict[int, tuple[list[str], tuple[str, ...]]] = {}
    for place, (graph, node, mode) in enumerate(modes):
        alike = told_apart(place)
        if alike not in reach:
            layers = [layer.name for layer in model.layers if dependents.reaches(place, layer.path, layer.value)]
            reach[alike] = layers, tuple(name for name in model.main.outputs if dependents.reaches(place, (), name))
        layers, outputs = reach[alike]
        training, seed = node.operator.training, node.attribute("seed")
        unstable.append(
            UnstableNode(
                operator=node.op_type,
                name=node.label,
                layer=model.names.layers[node],
                gives=tuple(node.outputs),
                path=node.path,
                owners=_owners(model, graph),
                kind="random" if training is None else training.gives,
                trains=training is not None,
                condition=mode or None,
                seed=float(seed) if isinstance(seed, (int, float)) and math.isfinite(seed) else None,
                left_out=training is not None and training.left_out and node.is_standard and _is_left_out(graph, node),
                layers=tuple(dict.fromkeys(layers)),
                layers_reached=len(layers),
                layers_all=len(model.layers),
                outputs=outputs,
                _dependents=dependents,
                _place=place,
            )
        )
    return tuple(unstable)


def unstable_values(model: Model) -> Mapping[str, str]:
    """Return the values that are not the same in every run on the same input, each with the reason.

    Values of bodies are there under their own names. So is what depends on a Dropout that onnxruntime drops
    (`UnstableNode.left_out`): a tap on it, or a session without optimization, makes it random. What a condition alone
    makes unstable (`UnstableNode.condition`) is not: whether it holds is known when the model runs.
    """
    reasons: dict[str, str] = {}
    unstable = find_unstable(model)
    certain = [place for place, node in enumerate(unstable) if node.condition is None]
    if certain:
        sentences = [f"depends on {node.subject}, which {node.reason}" for node in unstable]
        reasons |= {name: sentences[place] for name, place in unstable[0]._dependents.first(certain)}
    return reasons


def remarks_on_unstable(model: Model) -> tuple[str, ...]:
    """Return a remark for each of the first nodes that do not give the same for the same input, and how many follow."""
    unstable = find_unstable(model)
    remarks = [node.message for node in unstable[:_LISTED]]
    if len(unstable) > _LISTED:
        more = counted(len(unstable) - _LISTED, "more node is", "more nodes are")
        remarks.append(f"{more} random or stateful; `onnxscope inspect` lists them")
    return tuple(remarks)


def _mode(model: Model, graph: Graph, node: Node, opset: int) -> str | None:
    """None for a node that gives the same for the same input; else the value that it depends on whether, or ''."""
    training = node.operator.training
    if training is None:
        return "" if node.operator.is_random else None
    if node.is_standard and opset < 7:
        switched = not node.attribute("is_test")
        return "" if switched and not _drops_nothing(model, graph, node, training) else None
    if node.is_standard and opset < training.since:
        return "" if training.by_outputs and sum(map(bool, node.outputs)) > 1 else None
    if training.operand is None:
        return "" if node.attribute("training_mode") else None
    operand = _operand(node, training.operand)
    if not operand or _drops_nothing(model, graph, node, training):
        return None
    number = _stored_number(model, graph, operand)
    return operand if number is None else ("" if number else None)


def _is_left_out(graph: Graph, node: Node) -> bool:
    """Whether onnxruntime drops a node that `Training.left_out` is about."""
    if not node.outputs or not node.inputs or node.outputs[0] in graph.outputs:
        return False
    if any(output in graph.readers or output in graph.outputs for output in filter(None, node.outputs[1:])):
        return False
    maker = graph.producers.get(node.inputs[0])
    computed = any(name in graph.producers and name not in graph.constants for name in node.inputs[1:])
    return maker is not None and maker.op_type != "Constant" and not computed


def _drops_nothing(model: Model, graph: Graph, node: Node, training: Training) -> bool:
    """Whether the share that is dropped is 0: an attribute before operator set 12, then an operand."""
    if training.ratio is None:
        return False
    ratio = _operand(node, training.ratio)
    return (_stored_number(model, graph, ratio) if ratio else node.attribute("ratio")) == 0


def _operand(node: Node, position: int) -> str:
    return node.inputs[position] if position < len(node.inputs) else ""


def _stored_number(model: Model, graph: Graph, name: str) -> float | None:
    """The one number that a value holds, where it is stored or only handed on from where it is stored."""
    within: Graph | None = graph
    while within is not None:
        if within.path and name in within.inputs:
            return None
        if name in within.initializers:
            return _only_number(model, within.initializers[name])
        node = within.producers.get(name)
        if node is None:
            within = within.parent
            continue
        if not node.is_standard:
            return None
        if node.op_type == "Constant":
            return _constant(model, node)
        if node.operator.passes_on not in _HANDING_ON or not node.inputs:
            return None
        name = node.inputs[0]
    return None


def _constant(model: Model, node: Node) -> float | None:
    for attribute in ("value_int", "value_float", "value_ints", "value_floats"):
        value = node.attribute(attribute)
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else None
        if isinstance(value, (int, float)):
            return float(value)
    tensor = node.attribute("value")
    return _only_number(model, tensor) if isinstance(tensor, TensorProto) else None


def _only_number(model: Model, tensor: TensorProto) -> float | None:
    if math.prod(tensor.dims) != 1 or tensor.data_type in _NO_REAL_NUMBERS:
        return None
    return float(model.array(tensor).reshape(-1)[0])


def _owners(model: Model, graph: Graph) -> tuple[str, ...]:
    owners: list[str] = []
    within: Graph | None = graph
    while within is not None and within.path:
        owners.append(within.owner)
        within = within.parent
    return tuple(reversed(owners))
