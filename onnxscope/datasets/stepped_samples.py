"""Samples that are the steps of sequences, where outputs of a model feed its inputs: each with the states it is fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxscope.datasets.derived_samples import DerivedSamples
from onnxscope.errors import InputError
from onnxscope.inputs.array_samples import ArraySamples
from onnxscope.inputs.array_sets import ArraySets
from onnxscope.inputs.samples import Load, Samples

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["SteppedSamples", "parted"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class SteppedSamples(DerivedSamples):
    """The steps of sequences, one sequence after the other; each is a sample, fed the states that it had.

    Attributes:
        steps: The samples, as arrays.
        labels: What each step is called.
        walked: What results say of the states.
        remarks: Remarks for people.
        ids: The input that takes tokens, None where there is none.
        sequences: Of each sample, what the tokens up to it are called, of which a cache holds the last; nothing where
            that is not known.
    """

    kind = "arrays"

    steps: ArraySamples | ArraySets
    labels: tuple[str, ...]
    walked: Mapping[str, Any]
    remarks: tuple[str, ...]
    ids: str | None = None
    sequences: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def around(
        cls,
        steps: ArraySamples | ArraySets,
        data: Samples,
        labels: tuple[str, ...],
        walked: Mapping[str, Any],
        remarks: tuple[str, ...],
    ) -> SteppedSamples:
        """The steps with what is said of them; they are samples along the axes that they were opened with."""
        return cls(
            specs=steps.specs,
            count=steps.count,
            batch_axes=steps.batch_axes,
            layouts=steps.layouts,
            fixed_batch=steps.fixed_batch,
            asked_axis=steps.asked_axis if steps.asked_axis is not None else "none",
            steps=steps,
            data=data,
            labels=labels,
            walked=walked,
            remarks=remarks,
        )

    @property
    def beside_record(self) -> dict[str, Any]:
        """Which output feeds which input."""
        return {"state": dict(self.walked)}

    @property
    def beside_notes(self) -> tuple[str, ...]:
        """What was stepped."""
        return self.remarks

    def name(self, position: int) -> str:
        """The sequence's name, and the step."""
        return self.labels[position]

    def first(self, count: int) -> SteppedSamples:
        """The first steps."""
        steps, labels = self.steps.first(count), self.labels[:count]
        return replace(self, steps=steps, count=count, labels=labels, sequences=self.sequences[:count])

    def fed_to(self, specs: Sequence[InputSpec]) -> SteppedSamples:
        """The same steps, cut anew."""
        return replace(
            SteppedSamples.around(self.steps.fed_to(specs), self.data, self.labels, self.walked, self.remarks),
            ids=self.ids,
            sequences=self.sequences,
        )

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """One step."""
        return self.steps.load(position)

    def tokens(self, arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], ...]:
        """What the tokens of each step are called."""
        if self.ids is None:
            return ()
        axis = self.batch_axes[self.ids]
        rows = arrays[self.ids].reshape(1 if axis is None else arrays[self.ids].shape[axis], -1)
        named = tuple(self.data.token_names(row) for row in rows.tolist())
        return named if all(named) else ()

    def is_ragged(self, load: Load) -> bool:
        """Whether steps do not go into one run, as what is fed grows."""
        shapes = {tuple(array.shape for array in load(position)[0].values()) for position in range(self.count)}
        return self.count > 1 and (len(shapes) > 1 or not any(axis is not None for axis in self.batch_axes.values()))

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """All steps together, where they have one shape."""
        if self.is_ragged(load):
            raise InputError(
                f"{self.count} steps do not go into one run: what is fed grows from step to step",
                hint="`--step K` takes one of them; `stats` takes them all",
            )
        arrays, count, notes = self.steps.whole(load)
        return arrays, count, [*self.notes, *notes]


def parted(samples: Samples, parting: Mapping[str, Any] | None) -> Samples:
    """The same steps, with what results say of where another model parts."""
    if not isinstance(samples, SteppedSamples):
        return samples
    return replace(samples, walked={**samples.walked, "parting": parting})
