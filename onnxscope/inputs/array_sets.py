"""Samples that are arrays of several sources, one after the other; their shapes may differ."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis
from onnxscope.base.text import counted
from onnxscope.inputs.array_samples import ArraySamples
from onnxscope.inputs.samples import Load, Samples, join_samples
from onnxscope.readers.sound_recipes import SoundRecipe

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["ArraySets"]

Array = NDArray[Any]

_KEPT_BYTES = 256 << 20  # of sounds that are read; those beyond it are read again for each of their samples
_NOTED = 3  # sources whose notes are told


@dataclass(frozen=True, eq=False, kw_only=True)
class ArraySets(Samples):
    """Arrays of several files, mappings or array-likes; each gives as many samples as it would give alone.

    Attributes:
        parts: The samples of each source, in order.
    """

    kind = "arrays"

    parts: tuple[ArraySamples, ...]

    @classmethod
    def open(
        cls,
        entries: Sequence[Any],
        specs: Sequence[InputSpec],
        batch_axis: BatchAxis = None,
        recipe: SoundRecipe | None = None,
    ) -> ArraySets:
        """Map or take the arrays of every source, and check a sample of each.

        Raises:
            InputError: They cannot be read, or do not fit the inputs.
        """
        parts: list[ArraySamples] = []
        free_bytes = _KEPT_BYTES
        for entry in entries:
            part = ArraySamples.open(entry, specs, batch_axis, recipe)
            free_bytes -= part.held_bytes
            parts.append(part if free_bytes >= 0 else part.forgotten())
        return cls._of(parts)

    @classmethod
    def _of(cls, parts: Sequence[ArraySamples]) -> ArraySets:
        if any(part.batch_axes != parts[0].batch_axes for part in parts):
            # Where one source is a sample by itself, all are.
            parts = [part.as_one_sample() for part in parts]
        first = parts[0]
        return cls(
            specs=first.specs,
            count=sum(part.count for part in parts),
            batch_axes=first.batch_axes,
            layouts=first.layouts,
            fixed_batch=first.fixed_batch,
            asked_axis=first.asked_axis,
            parts=tuple(parts),
        )

    @property
    def files(self) -> list[str]:
        """The files of all sources."""
        return list(itertools.chain.from_iterable(part.files for part in self.parts))

    @property
    def names(self) -> list[str]:
        """The names of all files."""
        return list(itertools.chain.from_iterable(part.names for part in self.parts))

    @property
    def record(self) -> dict[str, Any]:
        """That of the sources, with the rates of all sounds."""
        records = [part.record for part in self.parts]
        rates = [record["sound"] for record in records if "sound" in record]
        if not rates:
            return records[0]
        merged = {key: sorted({rate for of in rates for rate in of[key]}) for key in rates[0]}
        return {**next(record for record in records if "sound" in record), "sound": merged}

    @property
    def notes(self) -> list[str]:
        """Says what a source is, where it is one sample, and what is not fed."""
        if not any(axis is not None for axis in self.batch_axes.values()):
            return [f"each of the {len(self.parts)} sources of arrays is one sample"]
        notes = list(dict.fromkeys(note for part in self.parts[:_NOTED] for note in part.notes))
        more = len(self.parts) - _NOTED
        return [*notes, f"and so on for {counted(more, 'more source')}"] if notes and more > 0 else notes

    def name(self, position: int) -> str:
        """The file's name, with the position in it where it has several samples."""
        part, place = self._place(position)
        if not part.names:
            return super().name(position)
        called = ", ".join(part.names)
        return called if part.count == 1 else f"{called} {part.name(place)}"

    def first(self, count: int) -> ArraySets:
        """The first samples alone."""
        parts: list[ArraySamples] = []
        for part in self.parts:
            taken = min(part.count, count - sum(taken.count for taken in parts))
            if taken:
                parts.append(part.first(taken))
        return replace(self, parts=tuple(parts), count=count)

    def fed_to(self, specs: Sequence[InputSpec]) -> ArraySets:
        """The same arrays, cut anew."""
        return ArraySets._of([part.fed_to(specs) for part in self.parts])

    def as_one_sample(self) -> ArraySets:
        """The same, each source a sample."""
        return ArraySets._of([part.as_one_sample() for part in self.parts])

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Take one sample out of its source."""
        part, place = self._place(position)
        return part.load(place)

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """All samples put together, where they have one shape."""
        arrays, count, notes = join_samples([load(position) for position in range(self.count)], self)
        return arrays, count, [*(self.notes if "sound" in self.record else ()), *notes]

    def _place(self, position: int) -> tuple[ArraySamples, int]:
        index = bisect.bisect_right(self._ends, position)
        return self.parts[index], position - (self._ends[index - 1] if index else 0)

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(part.count for part in self.parts))
