"""Samples that are random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis, read_length
from onnxscope.base.text import printable, shape_text
from onnxscope.errors import InputError
from onnxscope.inputs.random_inputs import Fitting, at_length, random_feeds, sequence_dims
from onnxscope.inputs.samples import Load, Samples, find_batching, find_layouts, join_samples, sample_count

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["RandomSamples"]

Array = NDArray[Any]

_OF_LENGTHS = 1  # behind a seed and a position, so that lengths are drawn apart from numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomSamples(Samples):
    """Random numbers.

    Attributes:
        seed: Of the first sample, together with its position of every other.
        bounds: For whole numbers: see `random_feeds`.
        fitting: Sizes and numbers with which the model runs.
        remarks: For people, on how these were found.
        is_counted: Whether somebody has asked for so many samples, so that all of them are fed at once too.
        lengths: The shortest and the longest sequence, each sample's another; None where `fitting` says all sizes.
        sequences: The open dimensions that are that long.
    """

    kind = "random"

    seed: int
    bounds: Mapping[str, tuple[int, int]] | None
    fitting: Fitting
    remarks: tuple[str, ...] = ()
    is_counted: bool = False
    lengths: tuple[int, int] | None = None
    sequences: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        seed: int,
        specs: Sequence[InputSpec],
        bounds: Mapping[str, tuple[int, int]] | None,
        count: int | None,
        batch_axis: BatchAxis = None,
        fitting: Fitting | None = None,
        *,
        samples: int | None = None,
        length: str | int | None = None,
    ) -> RandomSamples:
        """Make the first sample, to learn its shapes.

        Args:
            seed: Of the first sample.
            specs: The inputs.
            bounds: As for `random_feeds`.
            count: How many samples; None for as many as a batch has that was given its size, otherwise one.
            batch_axis: As in `RunOptions`.
            fitting: What is known to run; None to find it out.
            samples: How many of them somebody asks for, at most `count`.
            length: Of sequences: see `read_length`.

        Raises:
            InputError: No random numbers fit the inputs, or no dimension is a sequence's.
        """
        remarks: list[str] = []
        if fitting is None:
            from onnxscope.inputs.random_sizes import find_fitting  # and with it onnx, which arrays do not need

            fitting, remarks = find_fitting(specs, seed, bounds)
        lengths = None if length is None else read_length(length)
        sequences = () if lengths is None else sequence_dims(specs, fitting)
        if lengths is not None:
            _try_lengths(specs, seed, bounds, fitting, sequences, lengths)
            fitting = at_length(specs, fitting, sequences, lengths[0])
        shapes = {name: array.shape for name, array in random_feeds(specs, seed, bounds, fitting).items()}
        batch_axes, fixed, _ = find_batching(specs, shapes, batch_axis)
        for name, axis in batch_axes.items():
            if axis is not None and not shapes[name][axis]:
                raise InputError(
                    f"the input '{printable(name)}' has no samples: its shape is {shape_text(shapes[name])}"
                )
        if samples is not None:
            count = samples if count is None else min(samples, count)
        return cls(
            specs=tuple(specs),
            count=(_given_batch(specs, batch_axes) or 1) if count is None else count,
            batch_axes=batch_axes,
            layouts=find_layouts(specs, shapes, batch_axes),
            fixed_batch=fixed,
            asked_axis=batch_axis,
            seed=seed,
            bounds=bounds,
            fitting=fitting,
            remarks=tuple(remarks),
            is_counted=samples is not None,
            lengths=lengths,
            sequences=sequences,
        )

    @property
    def record(self) -> dict[str, Any]:
        """The seed, and how long sequences are."""
        record = {"preset": None, "layout": None, "random_seed": self.seed}
        return record if self.lengths is None else {**record, "length": self._length_text}

    @property
    def _length_text(self) -> str:
        assert self.lengths is not None
        return "..".join(map(str, dict.fromkeys(self.lengths)))

    @property
    def dims(self) -> Mapping[str, int]:
        """Sizes that were given, or found."""
        return {name: size for name, size in self.fitting.dims.items() if name not in self.sequences}

    def fed_to(self, specs: Sequence[InputSpec]) -> RandomSamples:
        """As many samples for other inputs."""
        return self._opened(specs, self.asked_axis)

    def as_one_sample(self) -> RandomSamples:
        """As many, each of them made without an axis of samples."""
        return self._opened(self.specs, "none")

    def _opened(self, specs: Sequence[InputSpec], axis: BatchAxis) -> RandomSamples:
        opened = RandomSamples.open(self.seed, specs, self.bounds, self.count, axis, self.fitting)
        return replace(opened, is_counted=self.is_counted, lengths=self.lengths, sequences=self.sequences)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Make one sample."""
        fitting = self.fitting
        if self.lengths is not None:
            drawn = np.random.default_rng([self.seed, position, _OF_LENGTHS]).integers(*self.lengths, endpoint=True)
            fitting = at_length(self.specs, fitting, self.sequences, int(drawn))
        made = random_feeds(self.specs, self.seed if position == 0 else [self.seed, position], self.bounds, fitting)
        axes = self.batch_axes
        return {name: array if axes[name] is None else array.take(0, axes[name]) for name, array in made.items()}, []

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """What one run takes, or all samples where somebody asks for so many."""
        if self.is_counted or self.lengths is not None:
            return join_samples([load(position) for position in range(self.count)], self)
        arrays = random_feeds(self.specs, self.seed, self.bounds, self.fitting)
        return arrays, sample_count(arrays, self.batch_axes), []


def _try_lengths(
    specs: Sequence[InputSpec],
    seed: int,
    bounds: Mapping[str, tuple[int, int]] | None,
    fitting: Fitting,
    sequences: tuple[str, ...],
    lengths: tuple[int, int],
) -> None:
    """Refuse lengths with which the model does not run, before thousands of samples are made."""
    from onnxscope.inputs.trial_runs import refusal_of

    for length in dict.fromkeys(lengths):
        feeds = random_feeds(specs, seed, bounds, at_length(specs, fitting, sequences, length))
        refused = refusal_of(specs, feeds)
        if refused is not None:
            shown = ", ".join(map(printable, sequences))
            raise InputError(
                f"no random sequence of length {length} runs: {refused.called} refuses it ({shown} is {length})",
                hint="leave `--length` out, and one that runs is found; `--dim NAME=SIZE` sets other sizes",
            )


def _given_batch(specs: Sequence[InputSpec], batch_axes: Mapping[str, int | None]) -> int | None:
    """The size that was given to the axis of samples, None where that is the model's own or open."""
    for spec in specs:
        axis = batch_axes[spec.name]
        declared = () if spec.model is None else spec.model.declared_inputs
        shapes = [own.shape for own in declared if own.name == spec.name]
        if axis is not None and spec.shape and shapes and shapes[0] and not isinstance(shapes[0][axis], int):
            size = spec.shape[axis]
            return size if isinstance(size, int) else None
    return None
