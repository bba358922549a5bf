"""The parts of both models that end at values that differ, and what the second one's are fed of the first one's."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.layer_difference import LayerDifference, size_of
from onnxscope.comparison.result import Comparison
from onnxscope.extracting.chosen_part import Part, part_before
from onnxscope.extracting.guilty_parts import as_second
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, open_session

__all__ = ["FedPart", "Sample", "blamed_rows", "fed_values", "find_parts"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FedPart:
    """What computes one value of both models that differs, from values that were compared, or from inputs.

    Attributes:
        row: Of the comparison.
        values: What ends the parts: the row's values, or what leaves the nodes around the bodies in which they lie.
        first: The first model's part.
        second: The second's.
        shared: The first model's value for each value of the second that other layers give.
    """

    row: LayerDifference
    values: tuple[str, str]
    first: Part
    second: Part
    shared: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Sample:
    """What a part is fed in one batch, and what it should give.

    Attributes:
        feeds: The first model's values, as the second would hold them.
        expected: The first model's value.
    """

    feeds: Mapping[str, Array]
    expected: Array


def blamed_rows(comparison: Comparison) -> list[LayerDifference]:
    """Return the rows with a difference of their own, in execution order; of few bits those that lose most first.

    Of those that have another shape, the first alone: what is behind it may have its own from there.
    """
    rows: list[LayerDifference] = []
    seen: set[tuple[str, str]] = set()
    has_other_shape = False
    for row in (*comparison.layers, *comparison.outputs):
        if not row.is_guilty or (row.a.name, row.b.name) in seen:
            continue
        if row.own is None or row.incomparable:
            if has_other_shape:
                continue
            has_other_shape = True
        seen.add((row.a.name, row.b.name))
        rows.append(row)
    if comparison.is_ranked:
        rows.sort(key=lambda row: -size_of(row.own))
    return rows


def find_parts(comparison: Comparison, row: LayerDifference, a: Model, b: Model) -> FedPart | None:
    """Return the parts of both models that end with a row's values; None where one is no node's of the file.

    Of values in bodies they end with what leaves the nodes around them.
    """
    values = _leaving((a, b), (row.a.compared, row.b.compared))
    if values is None:
        return None
    shared = {
        other.b.compared: other.a.compared
        for other in comparison.layers
        if other.entire is not None
        and other.b.compared not in (row.b.compared, values[1])
        and other.a.compared in a.main.producers
        and other.b.compared in b.main.producers
    }
    first = part_before(a, values[0], [name for name in shared.values() if name != values[0]])
    return FedPart(row, values, first, part_before(b, values[1], shared), shared)


def _leaving(models: tuple[Model, Model], names: tuple[str, str]) -> tuple[str, str] | None:
    """The values of both main graphs that hold two values, or that their bodies' owners give in the same place."""
    if all(name in model.main.producers for model, name in zip(models, names, strict=True)):
        return names
    owners = [_owner(model, name) for model, name in zip(models, names, strict=True)]
    if owners[0] is None or owners[1] is None or owners[0].op_type != owners[1].op_type:
        return None
    pairs = zip(owners[0].outputs, owners[1].outputs, strict=False)
    both = [pair for pair in pairs if all(pair)]
    needed = [pair for pair in both if pair[0] in models[0].main.needed and pair[1] in models[1].main.needed]
    return next(iter(needed or both), None)


def _owner(model: Model, name: str) -> Node | None:
    """The node of the main graph in a body of which a value is computed."""
    path = next((path for path, graph in model.graphs.items() if path and name in graph.producers), None)
    if path is None:
        return None
    return next((node for node in model.main.nodes if node.index == path[0].node_index), None)


def fed_values(
    models: tuple[Model, Model], parts: Iterable[FedPart], feed: CommonFeed, threads: int
) -> Generator[list[Sample]]:
    """Yield, for every batch, what each part is fed, and what it should give.

    Args:
        models: Both.
        parts: Of both.
        feed: What both are fed; the caller's to close.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
    """
    listed = list(parts)
    wanted: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for part in listed:
        wanted[1].update(dict.fromkeys(part.second.inputs))
        partners = [part.shared[name] for name in part.second.inputs if name in part.shared]
        wanted[0].update(dict.fromkeys([*partners, part.values[0]]))
    sessions = [_observing(model, names, threads) for model, names in zip(models, wanted, strict=True)]
    for batch in feed.batches():
        fed = batch.feeds, feed.of_second(batch.feeds)
        first, second = (
            _run(session, feeds, names) for session, feeds, names in zip(sessions, fed, wanted, strict=True)
        )
        samples = []
        for part in listed:
            own = {name: second[name] for name in part.second.inputs}
            feeds, _ = as_second(models, part.row, part.shared, first, own, fed[1])
            samples.append(Sample(feeds, np.asarray(first[part.values[0]])))
        yield samples


def _observing(model: Model, names: Iterable[str], threads: int) -> Session:
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.output.extend(
        ValueInfoProto(name=name) for name in names if name in model.main.producers and name not in model.main.outputs
    )
    return open_session(model, proto, threads=threads)


def _run(session: Session, feeds: Mapping[str, Array], names: Iterable[str]) -> dict[str, Any]:
    computed = [name for name in names if name not in feeds]
    return {**{name: feeds[name] for name in names if name in feeds}, **session.run(feeds, computed)}
