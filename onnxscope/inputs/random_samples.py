"""Samples that are random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis
from onnxscope.base.text import printable, shape_text
from onnxscope.errors import InputError
from onnxscope.inputs.random_inputs import Fitting, random_feeds
from onnxscope.inputs.samples import Load, Samples, find_batching, find_layouts, sample_count

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["RandomSamples"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomSamples(Samples):
    """Random numbers.

    Attributes:
        seed: Of the first sample, together with its position of every other.
        bounds: For whole numbers: see `random_feeds`.
        fitting: Sizes and numbers with which the model runs.
        remarks: For people, on how these were found.
    """

    kind = "random"

    seed: int
    bounds: Mapping[str, tuple[int, int]] | None
    fitting: Fitting
    remarks: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        seed: int,
        specs: Sequence[InputSpec],
        bounds: Mapping[str, tuple[int, int]] | None,
        count: int | None,
        batch_axis: BatchAxis = None,
        fitting: Fitting | None = None,
    ) -> RandomSamples:
        """Make the first sample, to learn its shapes.

        Args:
            seed: Of the first sample.
            specs: The inputs.
            bounds: As for `random_feeds`.
            count: How many samples; None for as many as a batch has that was given its size, otherwise one.
            batch_axis: As in `RunOptions`.
            fitting: What is known to run; None to find it out.

        Raises:
            InputError: No random numbers fit the inputs.
        """
        remarks: list[str] = []
        if fitting is None:
            from onnxscope.inputs.random_sizes import find_fitting  # and with it onnx, which arrays do not need

            fitting, remarks = find_fitting(specs, seed, bounds)
        shapes = {name: array.shape for name, array in random_feeds(specs, seed, bounds, fitting).items()}
        batch_axes, fixed, _ = find_batching(specs, shapes, batch_axis)
        for name, axis in batch_axes.items():
            if axis is not None and not shapes[name][axis]:
                raise InputError(
                    f"the input '{printable(name)}' has no samples: its shape is {shape_text(shapes[name])}"
                )
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
        )

    @property
    def record(self) -> dict[str, Any]:
        """The seed."""
        return {"preset": None, "layout": None, "random_seed": self.seed}

    @property
    def dims(self) -> Mapping[str, int]:
        """Sizes that were given, or found."""
        return self.fitting.dims

    def fed_to(self, specs: Sequence[InputSpec]) -> RandomSamples:
        """As many samples for other inputs."""
        return RandomSamples.open(self.seed, specs, self.bounds, self.count, self.asked_axis, self.fitting)

    def as_one_sample(self) -> RandomSamples:
        """As many, each of them made without an axis of samples."""
        return RandomSamples.open(self.seed, self.specs, self.bounds, self.count, "none", self.fitting)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Make one sample."""
        made = random_feeds(
            self.specs, self.seed if position == 0 else [self.seed, position], self.bounds, self.fitting
        )
        axes = self.batch_axes
        return {name: array if axes[name] is None else array.take(0, axes[name]) for name, array in made.items()}, []

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """What one run takes."""
        arrays = random_feeds(self.specs, self.seed, self.bounds, self.fitting)
        return arrays, sample_count(arrays, self.batch_axes), []


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
