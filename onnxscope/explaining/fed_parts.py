"""The parts of both models that end at values that differ, and what the second one's are fed of the first one's."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxscope.comparison.common_feed import CommonFeed
from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.result import Comparison
from onnxscope.extracting.chosen_part import Part, part_before
from onnxscope.extracting.guilty_parts import as_second
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, open_session

__all__ = ["FedPart", "Sample", "blamed_rows", "fed_values", "find_parts"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FedPart:
    """What computes one value of both models that differs, from values that were compared, or from inputs.

    Attributes:
        row: Of the comparison.
        first: The first model's part.
        second: The second's.
        shared: The first model's value for each value of the second that other layers give.
    """

    row: LayerDifference
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
    """Return the rows with a difference of their own, in execution order.

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
    return rows


def find_parts(comparison: Comparison, row: LayerDifference, a: Model, b: Model) -> FedPart | None:
    """Return the parts of both models that end with a row's values; None where one lies in a body, or is no node's."""
    if row.a.name not in a.main.producers or row.b.name not in b.main.producers:
        return None
    shared = {
        other.b.name: other.a.name
        for other in comparison.layers
        if other.entire is not None
        and other.b.name != row.b.name
        and other.a.name in a.main.producers
        and other.b.name in b.main.producers
    }
    first = part_before(a, row.a.name, [name for name in shared.values() if name != row.a.name])
    return FedPart(row, first, part_before(b, row.b.name, shared), shared)


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
        wanted[0].update(dict.fromkeys([*partners, part.row.a.name]))
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
            samples.append(Sample(feeds, np.asarray(first[part.row.a.name])))
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
