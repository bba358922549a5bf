"""Durations of what onnxruntime ran, summed up by the layers of the model: `share_out`.

A row is a layer that owns weights with all that finishes its work, or another node. Where one node that is run stands
for several layers, the one that multiplies and adds most has its time, and the others are in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxscope.model.graphs import Node
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.selection.costs import Costs
from onnxscope.timing.profile_events import Call, ModelRun
from onnxscope.timing.run_graph import RunNode

__all__ = ["Owner", "Shares", "execution_order", "is_run_of", "owners_of", "share_out"]

_NAMED = 3  # of what a provider has taken as a whole
Owner = Node | str
"""Whose time it is: the node of a layer, another node, or in words a part that a provider has taken as a whole."""


@dataclass(eq=False)
class Shares:
    """What was measured, by whose it is.

    Attributes:
        microseconds: Of a run, the median of all runs, summed over the nodes that are run.
        calls: How many calls a run has, likewise.
        in_use_bytes: The most that onnxruntime's arena held while it ran, in the first run; nothing where nobody says.
        unknown_us: Of what belongs to no node of the model.
        unknown_calls: How many calls these are.
        least_us: The median of the shortest call.
        peak_bytes: The most that onnxruntime's arena held in any run, None where nobody says.
        outside_us: Of a run, what no node took: the median of all runs.
    """

    microseconds: dict[Owner, float] = field(default_factory=dict)
    calls: dict[Owner, float] = field(default_factory=dict)
    in_use_bytes: dict[Owner, int] = field(default_factory=dict)
    unknown_us: float = 0.0
    unknown_calls: float = 0.0
    least_us: float = 0.0
    peak_bytes: int | None = None
    outside_us: float = 0.0


def owners_of(model: Model, covers: Mapping[RunNode, Sequence[Node]], costs: Costs) -> dict[RunNode, Owner]:
    """Say whose time each node that is run takes; those that stand for nothing of the model are left out."""
    weighted = set(model.names.weighted)
    order = {node: place for place, node in enumerate(execution_order(model))}
    heads = {part: layer.node for layer in model.layers for part in _parts(model, layer)}
    owners: dict[RunNode, Owner] = {}
    for node, originals in covers.items():
        layers = [original for original in originals if original in weighted]
        if node.taken and len(layers) > 1:
            owners[node] = _part(model, layers)
            continue
        finished = [heads[original] for original in originals if original in heads]
        if layers:
            owners[node] = max(layers, key=lambda layer: (costs.of(layer) or 0, -order[layer]))
        elif finished:
            owners[node] = max(finished, key=order.__getitem__)
        elif originals:
            last = max(originals, key=lambda original: (costs.of(original) or 0, order[original]))
            owners[node] = _reader(model, last, weighted)
    return owners


def execution_order(model: Model) -> list[Node]:
    """All nodes of the model, in execution order within their graphs."""
    return [node for graph in model.graphs.values() for node in graph.nodes]


def share_out(
    runs: Sequence[ModelRun], warm_up: int, nodes: Sequence[RunNode], owners: Mapping[RunNode, Owner]
) -> Shares:
    """Sum up what was measured.

    Args:
        runs: All runs of a profile, each with as many calls as there are nodes.
        warm_up: How many of the first count for memory alone.
        nodes: Of the main graph.
        owners: Whose time each node that is run takes.
    """
    totals: list[dict[RunNode, tuple[int, int]]] = []
    shares = Shares()
    outside = []
    for place, run in enumerate(runs):
        spent: dict[RunNode, tuple[int, int]] = {}
        _add(run.calls, nodes, spent, shares, owners if place == 0 else None)
        if place >= warm_up:
            totals.append(spent)
            outside.append(run.duration_us - sum(call.duration_us for call in run.calls))
    everything = dict.fromkeys(node for spent in totals for node in spent)
    least = []
    for node in everything:
        took = statistics.median(spent.get(node, (0, 0))[0] for spent in totals)
        calls = statistics.median(spent.get(node, (0, 0))[1] for spent in totals)
        owner = owners.get(node)
        if owner is None:
            shares.unknown_us += took
            shares.unknown_calls += calls
        else:
            shares.microseconds[owner] = shares.microseconds.get(owner, 0.0) + took
            shares.calls[owner] = shares.calls.get(owner, 0.0) + calls
        least += [took / calls] if calls else []
    shares.least_us = min(least, default=0.0)
    shares.outside_us = statistics.median(outside) if outside else 0.0
    return shares


def _add(
    calls: Sequence[Call],
    nodes: Sequence[RunNode],
    spent: dict[RunNode, tuple[int, int]],
    shares: Shares,
    owners: Mapping[RunNode, Owner] | None,
) -> None:
    """Add what each node took itself; what ran in its bodies is theirs, where it is known which nodes these are."""
    for call, node in zip(calls, nodes, strict=True):
        own_us = call.duration_us
        for inside in call.bodies:
            body = next((body for body in node.bodies.values() if is_run_of(inside, body)), None)
            if body is not None:
                own_us -= sum(one.duration_us for one in inside)
                _add(inside, body, spent, shares, owners)
        before_us, count = spent.get(node, (0, 0))
        spent[node] = before_us + max(own_us, 0), count + 1
        if call.peak_bytes is not None:
            shares.peak_bytes = max(shares.peak_bytes or 0, call.peak_bytes)
        owner = None if owners is None else owners.get(node)
        if owner is not None and call.in_use_bytes is not None:
            shares.in_use_bytes[owner] = max(shares.in_use_bytes.get(owner, 0), call.in_use_bytes)


def is_run_of(calls: Sequence[Call], nodes: Sequence[RunNode]) -> bool:
    """Whether these calls are those of these nodes, by number and operators."""
    return len(calls) == len(nodes) and all(
        call.op_type in ("", node.op_type) for call, node in zip(calls, nodes, strict=True)
    )


def _parts(model: Model, layer: Layer) -> list[Node]:
    """The nodes of a layer: those absorbed into it, and its activation function, up to the value that leaves it."""
    graph = model.graphs[layer.path]
    parts = dict.fromkeys(layer.parts)
    waiting = [layer.value] if layer.activated else []
    while waiting:
        producer = graph.producers.get(waiting.pop())
        if producer is not None and producer not in parts:
            parts[producer] = None
            waiting += [value for value in producer.inputs if value != layer.inner and value not in graph.constants]
    return list(parts)


def _part(model: Model, layers: Sequence[Node]) -> str:
    names = [model.names.layers[layer] for layer in layers]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}, as a whole"


def _reader(model: Model, node: Node, weighted: set[Node]) -> Node:
    """The node itself; the layer that reads it, where it only makes a weight of what is stored."""
    graph = model.graphs[node.path]
    made = node
    while made.outputs and made.outputs[0] in graph.constants:
        readers = graph.readers.get(made.outputs[0], ())
        if len(readers) != 1:
            return node
        made = readers[0]
        if made in weighted:
            return made
    return node
