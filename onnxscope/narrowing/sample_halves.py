"""The samples of a dataset, in batches: those that ranges are from, and those that errors are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.batches import few_samples
from onnxscope.datasets.dataset import Dataset
from onnxscope.inputs.samples import axis_of_samples
from onnxscope.model.loading import Model
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.sample_axes import start_on_samples

__all__ = ["Batches", "SampleBatch", "batches_of", "halves", "on_samples", "spread"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """What one run is fed.

    Attributes:
        feeds: By input name; copies of the last sample fill up a fixed batch.
        samples: How many of the samples are real.
        fed: How many there are with the copies.
        axes: Where samples lie in the inputs.
    """

    feeds: dict[str, Array]
    samples: int
    fed: int
    axes: Mapping[str, int | None]

    def real(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return values of the run without what belongs to copies."""
        if self.samples == self.fed:
            return dict(values)
        kept = {}
        for name, value in values.items():
            axis = axis_of_samples(value.shape, self.fed, self.axes) if isinstance(value, np.ndarray) else None
            kept[name] = value if axis is None else np.take(value, range(self.samples), axis)
        return kept


@dataclass(frozen=True)
class Batches:
    """Batches of samples, which are read again for every walk over them.

    Attributes:
        dataset: Whose.
        positions: Which samples.
        size: Samples of a batch, where the model does not fix it.
    """

    dataset: Dataset
    positions: Sequence[int]
    size: int

    def __iter__(self) -> Iterator[SampleBatch]:
        return batches_of(self.dataset, self.positions, self.size)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.positions)

    def spread(self, count: int) -> Batches:
        """So many of the samples, from all over them."""
        return Batches(self.dataset, spread(self.positions, count), self.size)


def spread(positions: Sequence[int], count: int) -> Sequence[int]:
    """Return so many positions from all over the given ones, all of them where there are no more."""
    if count >= len(positions):
        return positions
    return [positions[place * len(positions) // count] for place in range(count)]


def on_samples(model: Model, dataset: Dataset, options: RunOptions) -> Dataset:
    """Return a dataset as it has to be cut for a model: arrays may be one sample as a whole.

    Raises:
        InputError: A sample cannot be read.
        RunError: onnxruntime fails.
    """
    if dataset.count < 2:
        return dataset
    first = next(batches_of(dataset, range(min(options.batch_size, dataset.count)), options.batch_size)).feeds
    return start_on_samples(Pilot(model, (), options), dataset, first, few_samples(dataset, first))


def halves(count: int) -> tuple[range, range]:
    """Return which samples ranges are from, and which ones errors are measured on: every other one.

    Datasets are often in the order of their classes. A single sample has to do for both.
    """
    return (range(0, count, 2), range(1, count, 2)) if count > 1 else (range(count), range(count))


def batches_of(dataset: Dataset, positions: Sequence[int], size: int) -> Iterator[SampleBatch]:
    """Yield batches of samples, in order; a batch ends where the next sample does not go with it.

    Raises:
        InputError: A sample cannot be read.
    """
    size = dataset.fixed_batch or size
    held: list[dict[str, Array]] = []
    for position in positions:
        sample = dataset.load(position)[0]
        if held and (len(held) == size or not dataset.go_together(held[0], sample)):
            yield _batch(dataset, held)
            held = []
        held.append(sample)
    if held:
        yield _batch(dataset, held)


def _batch(dataset: Dataset, samples: list[dict[str, Array]]) -> SampleBatch:
    fed = dataset.fixed_batch or len(samples)
    filled = [*samples, *[samples[-1]] * (fed - len(samples))]
    return SampleBatch(dataset.together(filled), len(samples), fed, dataset.batch_axes)
