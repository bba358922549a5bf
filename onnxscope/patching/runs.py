"""What a model is fed, run by run, as often as it is asked for: patching looks before it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.batches import Fed, read_batches
from onnxscope.datasets.dataset import Dataset
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.inputs.samples import sample_count, some_samples

__all__ = ["Run", "Runs", "runs_of_dataset", "runs_of_prepared"]

Array = NDArray[Any]
Runs = Callable[[], Iterator["Run"]]
"""Yields all runs from the first one, every time that it is called."""


@dataclass(frozen=True, eq=False)
class Run:
    """What one run is fed.

    Attributes:
        feeds: By input name.
        fed: How many samples they hold, those that only fill up included; None where no input has an axis of samples.
        real: How many of these are real; they come first.
    """

    feeds: Mapping[str, Array]
    fed: int | None
    real: int | None

    def cut(self, value: Array, axis: int | None = 0) -> Array:
        """Return what a value holds of the real samples; all of it where samples do not lie along the axis."""
        has_samples = axis is not None and value.ndim > axis and value.shape[axis] == self.fed
        return np.asarray(some_samples(value, axis, 0, self.real)) if has_samples else value


def runs_of_dataset(dataset: Dataset, options: RunOptions) -> Runs:
    """Return the batches of a dataset, as an analysis of it reads them."""

    def runs() -> Iterator[Run]:
        with contextlib.closing(read_batches(dataset, 0, dataset.count, Fed(), options)) as batches:
            for batch in batches:
                fed = sample_count(batch.feeds, dataset.batch_axes)
                yield Run(batch.feeds, fed, None if fed is None else len(batch.positions))

    return runs


def runs_of_prepared(prepared: PreparedInput) -> Runs:
    """Return the runs of everything that is fed at once."""

    def runs() -> Iterator[Run]:
        start = 0
        for feeds in prepared.runs():
            fed = sample_count(feeds, prepared.batch_axes)
            yield Run(feeds, fed, None if fed is None else min(fed, (prepared.samples or 0) - start))
            start += fed or 0

    return runs
