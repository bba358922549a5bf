"""Samples for several inputs by name, of which some are images: each input's own, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.array_samples import ArraySamples, match_files
from onnxscope.inputs.array_sets import ArraySets
from onnxscope.inputs.image_samples import ImageSamples, preset_for
from onnxscope.inputs.presets import Preset
from onnxscope.inputs.samples import Load, Samples
from onnxscope.inputs.sources import NamedFiles, holds_image

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["NamedSamples"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class NamedSamples(Samples):
    """Images for one or several inputs, and arrays or numbers for others.

    Attributes:
        parts: The samples of each input, in the order of the inputs.
    """

    kind = "images"

    parts: Mapping[str, Samples]

    @classmethod
    def open(
        cls, entries: Sequence[NamedFiles], specs: Sequence[InputSpec], options: RunOptions, recorded: str | None
    ) -> tuple[NamedSamples, list[str]]:
        """Open what each input is given.

        Args:
            entries: The files of one sample after the other.
            specs: The inputs.
            options: Their preset, size, layout and axis of samples count.
            recorded: The preset that the model records.

        Returns:
            The samples, and notes for people.

        Raises:
            InputError: A name is no input, an input has no file, or what is given does not become it.
        """
        match_files(entries[0], specs)
        parts: dict[str, Samples] = {}
        notes: list[str] = []
        for spec in specs:
            files = [entry.paths[spec.name] for entry in entries]
            if holds_image(files[0]):
                preset, remarks = preset_for([spec], options, recorded)
                notes += [remark for remark in remarks if remark not in notes]
                parts[spec.name] = ImageSamples.open(files, [spec], preset, options.layout)
                continue
            named = [NamedFiles({spec.name: file}) for file in files]
            parts[spec.name] = (
                ArraySamples.open(named[0], [spec], options.batch_axis)
                if len(named) == 1
                else ArraySets.open(named, [spec], options.batch_axis)
            )
        return cls._of(parts, specs), notes

    @classmethod
    def _of(cls, parts: Mapping[str, Samples], specs: Sequence[InputSpec]) -> NamedSamples:
        counts = {name: part.count for name, part in parts.items()}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{printable(name)} {count}" for name, count in counts.items())
            raise InputError(f"the inputs have different numbers of samples: {shown}", hint="give each as many")
        fixed = {part.fixed_batch for part in parts.values()} - {None}
        if len(fixed) > 1:
            shown = " and ".join(str(batch) for batch in fixed)
            raise InputError(f"inputs of a fixed batch of {shown} samples do not go together")
        images = [part for part in parts.values() if isinstance(part, ImageSamples)]
        return cls(
            specs=tuple(specs),
            count=min(counts.values()),
            batch_axes={name: part.batch_axes[name] for name, part in parts.items()},
            layouts={name: axes for part in [*images, *parts.values()] for name, axes in part.layouts.items()},
            fixed_batch=next(iter(fixed), None),
            parts=parts,
        )

    @property
    def preset(self) -> Preset:
        """How the images are prepared."""
        return next(part.preset for part in self.parts.values() if isinstance(part, ImageSamples))

    @property
    def files(self) -> list[str]:
        """The files of all inputs."""
        return list(itertools.chain.from_iterable(part.files for part in self.parts.values()))

    @property
    def names(self) -> list[str]:
        """The names of all files, sample by sample."""
        by_input = [part.names for part in self.parts.values()]
        together = itertools.zip_longest(*by_input)
        return [name for names in together for name in names if name is not None]

    @property
    def record(self) -> dict[str, Any]:
        """The preset and the layout of the first input that takes images."""
        return next(part.record for part in self.parts.values() if isinstance(part, ImageSamples))

    @property
    def notes(self) -> list[str]:
        """Remarks on arrays."""
        return [note for part in self.parts.values() for note in part.notes if "no axis of samples" not in note]

    def name(self, position: int) -> str:
        """The names of the sample's images."""
        return ", ".join(part.name(position) for part in self.parts.values() if isinstance(part, ImageSamples))

    def first(self, count: int) -> NamedSamples:
        """The first samples alone."""
        parts = {name: part.first(min(count, part.count)) for name, part in self.parts.items()}
        return replace(self, parts=parts, count=count)

    def fed_to(self, specs: Sequence[InputSpec]) -> NamedSamples:
        """The same samples."""
        return NamedSamples._of({spec.name: self.parts[spec.name].fed_to([spec]) for spec in specs}, specs)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Read and prepare one sample of every input."""
        arrays: dict[str, Array] = {}
        notes: list[str] = []
        for name, part in self.parts.items():
            loaded, remarks = part.load(position)
            arrays |= loaded
            notes += [f"{printable(name)}: {remark}" for remark in remarks]
        return arrays, notes

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """Everything at once, each input's by itself."""
        arrays: dict[str, Array] = {}
        counts: list[int | None] = []
        notes: list[str] = []
        for part in self.parts.values():
            made, count, remarks = part.whole(part.load)
            arrays |= made
            counts.append(count)
            notes += [remark for remark in remarks if remark not in notes]
        return arrays, next((count for count in counts if count is not None), None), notes
