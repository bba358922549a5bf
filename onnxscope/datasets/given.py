"""What somebody gave, gathered once, and opened as samples for all inputs of a model or for some."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.array_samples import ArraySamples
from onnxscope.inputs.array_sets import ArraySets
from onnxscope.inputs.given_names import names_given
from onnxscope.inputs.image_samples import ImageSamples, preset_for
from onnxscope.inputs.named_samples import NamedSamples
from onnxscope.inputs.random_samples import RandomSamples
from onnxscope.inputs.samples import Samples
from onnxscope.inputs.sounds import load_recipe, recipe_of_sounds
from onnxscope.inputs.sources import Kind, NamedFiles, files_behind, gather, is_sound, open_input, tensor_files
from onnxscope.inputs.text_samples import TextSamples
from onnxscope.readers.tokenizer_files import tokenizer_beside

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["Given"]

Array = NDArray[Any]
Bounds = Mapping[str, tuple[int, int]] | None


@dataclass(frozen=True, eq=False)
class Given:
    """The sources, sorted out.

    Attributes:
        kind: Of all of them.
        entries: As `gather` returns them.
        notes: Remarks for people.
    """

    kind: Kind
    entries: tuple[Any, ...]
    notes: tuple[str, ...]

    @classmethod
    def gathered(cls, sources: Any) -> Given:
        """Sort out what was given; an iterator is used up.

        Raises:
            InputError: As `gather`.
        """
        kind, entries, notes = gather(sources)
        return cls(kind, tuple(entries), tuple(notes))

    def names(self, specs: Sequence[InputSpec]) -> frozenset[str]:
        """The names of inputs that the sources say themselves; what is random is of every input.

        A file that cannot be read says none: that is told when it is opened.
        """
        if self.kind == "random":
            return frozenset(spec.name for spec in specs)
        try:
            return names_given(self.entries, specs)
        except InputError:
            return frozenset()

    @property
    def is_one_array(self) -> bool:
        """Whether each source is an array that says of no input that it is of that one, nor is one of several."""
        return self.kind == "arrays" and not any(
            isinstance(entry, Mapping | NamedFiles)
            or (isinstance(entry, str) and (is_sound(entry) or (os.path.isdir(entry) and bool(tensor_files(entry)))))
            for entry in self.entries
        )

    def arrays(self, spec: InputSpec) -> list[tuple[Array | float, str | None]]:
        """What each source gives an input whose name it says: an array as it is or a number, and the file's name.

        Raises:
            InputError: It cannot be read, or is not what the input takes.
        """
        return [self._array(entry, spec) for entry in self.entries]

    def _array(self, entry: Any, spec: InputSpec) -> tuple[Array | float, str | None]:
        number = entry.number(spec.name) if isinstance(entry, NamedFiles) else None
        if number is not None:
            return number, None
        files = files_behind(
            [NamedFiles({spec.name: entry.paths[spec.name]})] if isinstance(entry, NamedFiles) else [entry]
        )
        samples = ArraySamples.open(entry, [spec], "none")
        return samples.load(0)[0][spec.name], printable(os.path.basename(files[0])) if files else None

    def open(
        self, specs: Sequence[InputSpec], options: RunOptions, recorded_preset: str | None, bounds: Bounds
    ) -> tuple[Samples, list[str]]:
        """Open the samples for these inputs; what is given for others of the model by name is left alone.

        Args:
            specs: The inputs.
            options: How they are fed.
            recorded_preset: What the model's converter recorded.
            bounds: Of random whole numbers.

        Returns:
            The samples, and remarks for people.

        Raises:
            InputError: They do not exist, cannot be read, or do not fit.
        """
        entries, notes = list(self.entries), list(self.notes)
        if self.kind == "images":
            samples, remarks = _open_images(entries, specs, options, recorded_preset)
            return samples, [*notes, *remarks]
        recipe = recipe_of_sounds(files_behind(entries), options.preprocess, recorded_preset, specs)
        if options.preprocess is not None and recipe is None:
            chosen = load_recipe(options.preprocess)
            notes.append(f"preset {chosen.name!r} is ignored: presets are for images and sounds")
        if options.size is not None:
            notes.append(f"the size {printable(str(options.size))} is ignored: it is for images")
        if self.kind == "random":
            asked: dict[str, Any] = {"samples": options.samples, "length": options.length}
            random = RandomSamples.open(entries[0], specs, bounds, options.limit, options.batch_axis, **asked)
            return random, [*notes, f"the input is random (seed {entries[0]}), no real data", *random.remarks]
        for name, value in {"samples": options.samples, "length": options.length}.items():
            if value is not None:
                notes.append(f"`--{name} {value}` is ignored: it is for random input")
        opened: TextSamples | ArraySamples | ArraySets
        if self.kind == "text":
            model = next((spec.model for spec in specs if spec.model is not None), None)
            beside = None if model is None else tokenizer_beside(model.folder)
            opened = TextSamples.open(entries, specs, options.tokenizer, beside)
        elif len(entries) == 1:
            opened = ArraySamples.open(entries[0], specs, options.batch_axis, recipe)
        else:
            opened = ArraySets.open(entries, specs, options.batch_axis, recipe)
        if not isinstance(opened, TextSamples) and len(specs) > 1:
            from onnxscope.inputs.trial_runs import refuse_conflict  # and with it onnx, which one array does not need

            for part in opened.parts if isinstance(opened, ArraySets) else (opened,):
                refuse_conflict(part)
        return opened.first(min(opened.count, options.limit or opened.count)), notes


def _open_images(
    entries: Sequence[Any], specs: Sequence[InputSpec], options: RunOptions, recorded_preset: str | None
) -> tuple[Samples, list[str]]:
    missing = [path for path in files_behind(entries) if not os.path.exists(path)]
    if missing:  # a name misspelt is no matter of presets
        open_input(missing[0]).close()
    if isinstance(entries[0], NamedFiles):
        return NamedSamples.open(entries[: options.limit], specs, options, recorded_preset)
    try:
        preset, remarks = preset_for(specs, options, recorded_preset)
    except InputError as error:
        if options.preprocess is None and recorded_preset is None and error.hint and str(error).startswith("which"):
            from onnxscope.preparing.preset_hint import preset_hint  # what runs the model is loaded where it is needed

            error.hint = preset_hint(specs, entries, options, error.hint)
        raise
    return ImageSamples.open(entries[: options.limit], specs, preset, options.layout), remarks
