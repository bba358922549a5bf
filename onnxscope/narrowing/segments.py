"""A model in segments: each begins with what others gave, so that a change is followed from where it is made.

    x -> Conv -> Relu -> Conv -> Add -> y          at h, k:    x -> Conv -> h    h -> Relu, Conv -> k    h, k -> … -> y
           h              k

Every node is in the first segment that needs it, and every value that a later one reads leaves its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, evaluate_constants, open_session
from onnxscope.runtime.tap_outputs import unused_prefix

__all__ = ["OperandPlace", "Segment", "Segments", "cut_at"]

Array = NDArray[Any]
OperandPlace = tuple[Node, int]
"""A node, and which of its inputs."""
_SMALL_WORK = 1e7  # multiply-adds of a sample


@dataclass(frozen=True, eq=False)
class Segment:
    """Some nodes of the main graph.

    Attributes:
        nodes: In execution order, without those that compute constants.
        inputs: What they read that none of them computes, without constants.
        outputs: What others read of them, or the model gives.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut_at(graph: Graph, values: Iterable[str]) -> tuple[Segment, ...]:
    """Cut what the outputs of a graph need at some of its values.

    Args:
        graph: The main graph of a model.
        values: Where segments end.

    Returns:
        In an order in which they can be run.
    """
    cuts = [value for value in dict.fromkeys(values) if value in graph.producers and value not in graph.constants]
    cuts.sort(key=lambda value: graph.position(graph.producers[value]))
    taken: dict[Node, int] = {}
    groups: list[list[Node]] = []
    for goal in (*((value,) for value in cuts), graph.outputs):
        found = _behind(graph, goal, taken)
        if found:
            taken.update(dict.fromkeys(found, len(groups)))
            groups.append(sorted(found, key=graph.position))
    wanted = {*cuts, *graph.outputs}
    for node, place in taken.items():
        wanted.update(
            name for name in _read(node) if name in graph.producers and taken.get(graph.producers[name]) != place
        )
    segments = []
    for nodes in groups:
        made = [name for node in nodes for name in node.outputs if name]
        read = dict.fromkeys(name for node in nodes for name in _read(node))
        inside = {*made, *graph.constants}
        outputs = tuple(name for name in made if name in wanted)
        segments.append(Segment(tuple(nodes), tuple(name for name in read if name not in inside), outputs))
    return tuple(segments)


def _behind(graph: Graph, goal: Iterable[str], taken: Collection[Node]) -> set[Node]:
    """The nodes that compute values, without those that are taken and those of constants."""
    found: set[Node] = set()
    waiting = list(goal)
    while waiting:
        name = waiting.pop()
        node = graph.producers.get(name)
        if node is not None and node not in found and node not in taken and name not in graph.constants:
            found.add(node)
            waiting += _read(node)
    return found


def _read(node: Node) -> list[str]:
    return [name for name in (*node.inputs, *node.captured) if name]


class Segments:
    """The segments of one model, each in a session that is opened once.

    Attributes:
        model: Whose they are.
        parts: In the order in which they are run.
        work: What each of them does, as a share of all.
        total_work: What all of them do for a sample, in the unit that was given.
        passes: Of how many samples, over the share of the model that was run for them, so far.
    """

    def __init__(
        self,
        model: Model,
        values: Iterable[str],
        open_operands: Iterable[OperandPlace],
        work_of: Callable[[Node], float],
        threads: int,
        *,
        optimize: bool = True,
    ) -> None:
        """Cut; nothing is opened yet.

        Args:
            model: It is not changed.
            values: Where segments end.
            open_operands: What nodes may be fed in place of what they read: weights, and values.
            work_of: What a node does, in any unit.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime, but for small models.
            optimize: Whether onnxruntime may fuse, which it does in another way where a model is cut between codes.
        """
        self.model = model
        self.parts = cut_at(model.main, values)
        self.total_work = sum(work_of(node) for part in self.parts for node in part.nodes) or 1.0
        self.work = [sum(map(work_of, part.nodes)) / self.total_work for part in self.parts]
        self.passes = 0.0
        # Each session has threads of its own, which wait busily for the next run: small models take ten times as long.
        self._threads = threads or (1 if self.total_work < _SMALL_WORK else 0)
        self._optimize = optimize
        self._prefix = unused_prefix(model)
        self._inputs = {spec.name for spec in model.inputs}
        self._open: dict[int, list[OperandPlace]] = {}
        homes = {node: place for place, part in enumerate(self.parts) for node in part.nodes}
        for node, position in open_operands:
            self._open.setdefault(homes[node], []).append((node, position))
        self._sessions: dict[tuple[int, bool], Session] = {}

    def run(self, feeds: Mapping[str, Array], samples: int) -> dict[str, Array]:
        """Run the whole model.

        Args:
            feeds: What the model is fed.
            samples: How many samples that are.

        Returns:
            The model's inputs, and what leaves every segment, by name.

        Raises:
            InputError: A value between segments is no tensor.
            RunError: onnxruntime fails.
        """
        values: dict[str, Array] = dict(feeds)
        for place, part in enumerate(self.parts):
            self.passes += self.work[place] * samples
            fed = {name: values[name] for name in part.inputs}
            values |= self._session(place, fed, {}).run(fed)
        return values

    def rerun(
        self,
        clean: Mapping[str, Array],
        samples: int,
        *,
        operands: Mapping[OperandPlace, Array | Callable[[Array], Array]] | None = None,
        injected: Mapping[str, Array] | None = None,
        replaced: Mapping[str, Callable[[Array], Array]] | None = None,
        until: str | None = None,
    ) -> dict[str, Array]:
        """Run what a change reaches.

        Args:
            clean: What `run` returned.
            samples: How many samples that are.
            operands: What nodes are fed in place of an open operand: an array, or what a function makes of the value.
            injected: Values that are given.
            replaced: Functions that make what goes on of a value that leaves a segment, or of an input.
            until: Run no further than the segment that gives this value.

        Returns:
            The values that were changed, by name.

        Raises:
            RunError: onnxruntime fails.
        """
        operands, injected, replaced = operands or {}, injected or {}, replaced or {}
        changed = {name: make(clean[name]) for name, make in replaced.items() if name in self._inputs} | dict(injected)
        for place, part in enumerate(self.parts):
            here = {operand: operands[operand] for operand in self._open.get(place, ()) if operand in operands}
            touched = any(name in replaced for name in part.outputs)
            if here or any(name in changed for name in part.inputs):
                self.passes += self.work[place] * samples
                fed = {name: changed.get(name, clean[name]) for name in part.inputs}
                outputs = self._session(place, fed, here).run(self._fed(place, fed, here))
            else:
                outputs = {name: clean[name] for name in part.outputs if name in replaced} if touched else {}
            for name, value in outputs.items():
                if name not in injected:
                    changed[name] = replaced[name](value) if name in replaced else value
            if until is not None and until in part.outputs:
                break
        return changed

    def share_behind(self, nodes: Collection[Node], values: Collection[str]) -> float:
        """What `rerun` runs of the model, as a share of its work.

        Args:
            nodes: Whose open operands are changed.
            values: What is replaced.
        """
        share, changed = 0.0, self._inputs.intersection(values)
        for place, part in enumerate(self.parts):
            here = any(node in nodes for node, _ in self._open.get(place, ()))
            if here or not changed.isdisjoint(part.inputs):
                share += self.work[place]
                changed.update(part.outputs)
            else:
                changed.update(name for name in part.outputs if name in values)
        return share

    def _fed(self, place: int, fed: Mapping[str, Array], here: Mapping[OperandPlace, Any]) -> dict[str, Array]:
        """What a session with open operands is fed: all of them, those that are not changed too."""
        feeds = dict(fed)
        for node, position in self._open[place] if here else ():
            given = here.get((node, position))
            name = node.inputs[position]
            if given is None or callable(given):
                own = fed[name] if name in fed else self._constant(name)
                given = own if given is None else given(own)
            feeds[self._name(place, node, position)] = given
        return feeds

    def _constant(self, name: str) -> Array:
        tensor = self.model.main.stored(name)
        return self.model.array(tensor) if tensor is not None else evaluate_constants(self.model, [name])[name]

    def _name(self, place: int, node: Node, position: int) -> str:
        return f"{self._prefix}operand_{self._open[place].index((node, position))}"

    def _session(self, place: int, fed: Mapping[str, Array], here: Mapping[OperandPlace, Any]) -> Session:
        """The session of a segment, or the one whose open operands are inputs."""
        key = place, bool(here)
        if key not in self._sessions:
            opened = self._fed(place, fed, here)
            renamed = {
                (node, position): self._name(place, node, position)
                for node, position in (self._open[place] if here else ())
            }
            proto = _proto_of(self.model, self.parts[place], opened, renamed)
            self._sessions[key] = open_session(self.model, proto, threads=self._threads, optimize=self._optimize)
        return self._sessions[key]


def _proto_of(model: Model, part: Segment, fed: Mapping[str, Array], renamed: Mapping[OperandPlace, str]) -> ModelProto:
    """Build the model of a segment, whose weights stay where they are."""
    graph, source = model.main, model.proto
    proto = ModelProto(ir_version=source.ir_version)
    proto.opset_import.extend(source.opset_import)
    proto.functions.extend(source.functions)
    proto.graph.name = "segment"
    copies = []
    for node in part.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node.proto)
        for position in range(len(copy.input)):
            copy.input[position] = renamed.get((node, position), copy.input[position])
        copies.append(copy)
    read = {name for node, copy in zip(part.nodes, copies, strict=True) for name in (*copy.input, *node.captured)}
    behind = graph.behind(name for name in read if name in graph.constants)
    computing = {graph.producers[name] for name in behind if name in graph.producers}
    proto.graph.node.extend(node.proto for node in sorted(computing, key=graph.position))
    proto.graph.node.extend(copies)
    proto.graph.initializer.extend(graph.initializers[name] for name in behind if name in graph.initializers)
    stored = {tensor.values.name: tensor for tensor in source.graph.sparse_initializer}
    proto.graph.sparse_initializer.extend(stored[name] for name in behind if name in stored)
    weights = {name for (node, position), name in renamed.items() if node.inputs[position] in graph.constants}
    for name, value in fed.items():
        if not isinstance(value, np.ndarray):
            raise InputError(f"no tensor lies between two layers: {printable(name)!r} of {model.name}")
        # Providers have kernels for weights of a known shape alone; of activations the number of samples varies.
        shape = list(value.shape) if name in weights else [None] * value.ndim
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, _elem_type(value), shape))
    for name in part.outputs:
        proto.graph.output.add().name = name
    return proto


def _elem_type(array: Array) -> int:
    if array.dtype.kind in "OUS":
        return int(onnx.TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
