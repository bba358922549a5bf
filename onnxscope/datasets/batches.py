"""Batches read ahead: samples are decoded and prepared in threads, so that onnxruntime does not wait for them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import Dataset
from onnxscope.errors import InputError
from onnxscope.inputs.teaching import also
from onnxscope.numerics.sample_moments import Observation, observe_array, sample_steps

__all__ = ["Batch", "Fed", "few_samples", "read_batches"]

Array = NDArray[Any]
_SKIP = "`--on-error skip` leaves such samples out, and counts them"
_NAMED = 5  # broken samples that a message names
_WAITING = 3  # batches, of samples that wait for others of their shape


@dataclass(frozen=True, eq=False)
class Batch:
    """What one run is fed.

    Attributes:
        feeds: By input name. Where the model's batch is fixed, copies of the last sample fill it up.
        positions: Of the real samples in the dataset, ascending.
        observations: By input name, statistics of each real sample's prepared tensor; strings have none.
        padded: Whether copies follow the real samples.
    """

    feeds: dict[str, Array]
    positions: tuple[int, ...]
    observations: dict[str, list[Observation]]
    padded: bool


@dataclass
class Fed:
    """What is learned about the samples while they are read.

    Attributes:
        skipped: Position, name and fault of each sample that could not be read.
        remarks: How many samples each remark is about.
        content: Sum, modulo 2**256, of a SHA-256 over position and prepared tensors of every sample.
    """

    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    content: int = 0


@dataclass(frozen=True, eq=False)
class _Sample:
    position: int
    arrays: dict[str, Array]
    remarks: Sequence[str]
    digest: int
    observations: dict[str, Observation]


def read_batches(
    dataset: Dataset,
    start: int,
    stop: int,
    fed: Fed,
    options: RunOptions,
) -> Generator[Batch]:
    """Yield batches of the samples from `start` up to `stop`, in order; those that do not fit together go apart.

    Samples that cannot be read leave no gap: batches fill up with those behind them. At most two batches and as many
    samples as there are threads are held at a time, and where shapes differ two batches more, which wait for others of
    their shape.

    Args:
        dataset: Where the samples come from.
        start: Position of the first sample.
        stop: Position behind the last one.
        fed: Is filled in while batches are taken.
        options: Samples of a batch where the model does not fix it; whether unreadable samples are left out or all
            that were found so far are named; and how many threads decode, 0 for one per core.

    Raises:
        InputError: A sample cannot be read, and none is to be left out.
    """
    size = dataset.fixed_batch or options.batch_size
    threads = options.threads or os.cpu_count() or 1
    waiting: deque[Future[_Sample | tuple[int, InputError]]] = deque()
    positions = iter(range(start, stop))
    groups: list[list[_Sample]] = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="onnxscope-decode")
    try:
        while True:
            while len(waiting) < size + threads and (position := next(positions, None)) is not None:
                waiting.append(pool.submit(_load, dataset, position))
            if not waiting:
                break
            answer = waiting.popleft().result()
            if isinstance(answer, tuple):
                if options.on_error == "fail":
                    raise _all_broken(dataset, answer, waiting)
                fed.skipped.append((answer[0], dataset.name(answer[0]), str(answer[1])))
                continue
            ready = _join(dataset, groups, answer)
            fed.remarks.update(dict.fromkeys(answer.remarks, 1))
            fed.content = (fed.content + answer.digest) % (1 << 256)
            if len(ready) < size and sum(map(len, groups)) < size * _WAITING:
                continue
            full = max(groups, key=len)  # the first of those that are as long
            groups.remove(full)
            yield _batch(dataset, full)
        yield from (_batch(dataset, group) for group in groups)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def few_samples(dataset: Dataset, feeds: Mapping[str, Array], count: int = 2) -> Mapping[str, Array]:
    """Return only the first so many samples of a batch, where no model fixes how many there are."""
    axes = dataset.batch_axes
    lengths = {feeds[name].shape[axis] for name, axis in axes.items() if axis is not None}
    if dataset.fixed_batch is not None or not lengths or max(lengths) <= count:
        return feeds
    return {
        name: array if (axis := axes[name]) is None else array[(slice(None),) * axis + (slice(count),)]
        for name, array in feeds.items()
    }


def _load(dataset: Dataset, position: int) -> _Sample | tuple[int, InputError]:
    try:
        arrays, remarks = dataset.load(position)
    except InputError as error:
        return position, error
    digest = hashlib.sha256(position.to_bytes(8, "little"))
    observations = {}
    for name, array in arrays.items():
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode(errors="surrogateescape"))
        digest.update("\0".join(map(str, array.reshape(-1))).encode() if array.dtype.kind in "UO" else array.tobytes())
        if array.dtype.kind not in "UOSc":
            batched = dataset.batch_axes[name] is not None
            axis = dataset.channel_axes[name]
            channel = axis if axis is None or not batched else axis - 1
            array = dataset.counted(name, array, arrays)
            observations[name] = observe_array(array, None, channel, steps=sample_steps(array.shape, None, channel))
    return _Sample(position, arrays, remarks, int.from_bytes(digest.digest(), "little"), observations)


def _join(dataset: Dataset, groups: list[list[_Sample]], sample: _Sample) -> list[_Sample]:
    """Put a sample to those that it goes together with, and return all of them; shapes may differ from one to the next.

    Images of a model that takes any size need not fit together, nor do texts of one without a mask.
    """
    for group in groups:
        if dataset.go_together(group[0].arrays, sample.arrays):
            group.append(sample)
            return group
    groups.append([sample])
    return groups[-1]


def _batch(dataset: Dataset, samples: Sequence[_Sample]) -> Batch:
    length = dataset.fixed_batch or len(samples)
    filled = [*samples, *[samples[-1]] * (length - len(samples))]
    feeds = dataset.together([sample.arrays for sample in filled])
    observations = {name: [sample.observations[name] for sample in samples] for name in samples[0].observations}
    return Batch(feeds, tuple(sample.position for sample in samples), observations, len(filled) > len(samples))


def _all_broken(
    dataset: Dataset, first: tuple[int, InputError], waiting: Sequence[Future[_Sample | tuple[int, InputError]]]
) -> InputError:
    """One error that names every broken sample that is known by now."""
    answers = [future.result() for future in waiting]
    broken = [first, *(answer for answer in answers if isinstance(answer, tuple))]
    if len(broken) == 1:
        return first[1] if dataset.count == 1 else also(first[1], _SKIP)
    named = "; ".join(str(error) for _, error in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return InputError(
        f"{len(broken)} samples cannot be read so far: {named}{more}",
        hint=_SKIP if len(broken) < dataset.count else first[1].hint,
    )
