"""Pictures, prepared in all ways that are tried, are run as one batch as far as the values go that tell them apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxscope.inputs.arrays import element_type
from onnxscope.inputs.image_samples import ImageSamples
from onnxscope.model.loading import Model
from onnxscope.preparing.candidates import Candidate
from onnxscope.runtime.session import Session, open_session

__all__ = ["open_part", "prepared_in_all_ways", "run_pictures"]

Array = NDArray[Any]
_RUN = 8
_RUN_BYTES = 64 << 20


def prepared_in_all_ways(samples: ImageSamples, candidates: Sequence[Candidate]) -> Iterator[list[Array]]:
    """Yield for each picture what each candidate makes of it, an array as the model takes it without its batch axis.

    Each picture is decoded once, and resized once for each way to resize.

    Raises:
        InputError: A picture cannot be read.
    """
    (spec,) = samples.specs
    dtype = element_type(spec)
    ways = list(dict.fromkeys(candidate.resizing for candidate in candidates))
    for position in range(samples.count):
        resized = dict(zip(ways, samples.levels(position, ways), strict=True))
        yield [samples.placed(candidate.preset.numbers(resized[candidate.resizing], dtype)) for candidate in candidates]


def open_part(model: Model, values: Sequence[str], *, threads: int = 0) -> Session:
    """Open a session over as much of a model as some values of its main graph need.

    Raises:
        RunError: onnxruntime refuses it.
    """
    graph = model.main
    needed = graph.behind(values)
    proto = ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "part"
    proto.graph.input.extend(
        value for value in model.proto.graph.input if value.name in needed and value.name not in graph.initializers
    )
    proto.graph.initializer.extend(graph.initializers[name] for name in needed if name in graph.initializers)
    nodes = {graph.producers[name] for name in needed if name in graph.producers}
    proto.graph.node.extend(node.proto for node in sorted(nodes, key=graph.position))
    for value in dict.fromkeys(values):
        proto.graph.output.add().name = value
    return open_session(model, proto, threads=threads)


def run_pictures(
    session: Session,
    samples: ImageSamples,
    pictures: Sequence[Array],
    reduce: Callable[[Mapping[str, Any]], Any],
) -> list[Any]:
    """Run pictures, several at a time where they have one shape and each gives its own share of every value.

    Args:
        session: Of the model, or of a part of it.
        samples: How the model takes pictures.
        pictures: Without the batch axis.
        reduce: What is kept of the values by name that one picture gave, with an axis of one sample in front where
            there is one.

    Returns:
        What was kept of each picture.

    Raises:
        RunError: onnxruntime fails.
    """
    (spec,) = samples.specs
    kept: list[Any] = []
    for _, same in itertools.groupby(pictures, key=lambda picture: picture.shape):
        group = list(same)
        length = samples.fixed_batch or max(1, min(_RUN, _RUN_BYTES // max(1, group[0].nbytes)))
        if samples.axes.batch_axis is None:
            kept += [reduce(session.run({spec.name: picture})) for picture in group]
            continue
        for start in range(0, len(group), length):
            kept += _run_together(session, spec.name, group[start : start + length], samples.fixed_batch, reduce)
    return kept


def _run_together(
    session: Session,
    name: str,
    pictures: Sequence[Array],
    fixed: int | None,
    reduce: Callable[[Mapping[str, Any]], Any],
) -> list[Any]:
    count = fixed or len(pictures)
    filled = [*pictures, *[pictures[-1]] * (count - len(pictures))]
    values = session.run({name: np.stack(filled)})
    if all(isinstance(value, np.ndarray) and value.ndim and value.shape[0] == count for value in values.values()):
        return [
            reduce({key: value[place : place + 1] for key, value in values.items()}) for place in range(len(pictures))
        ]
    # Samples do not lie along the first axis, so that they are told apart by runs of their own, or of copies.
    alone = [session.run({name: np.stack([picture] * (fixed or 1))}) for picture in pictures]
    return [reduce(values) for values in alone]
