"""Samples that are arrays along axis 0, in memory or in a file, and as they are where they share no such axis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis
from onnxscope.base.shapes import shape_text, spec_text
from onnxscope.base.text import as_typed, counted, printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import check_shape, fit_array, match_names, only_input, to_array
from onnxscope.inputs.samples import (
    BatchAxes,
    Load,
    Samples,
    find_batching,
    find_layouts,
    run_length,
    sample_count,
    some_samples,
)
from onnxscope.inputs.sounds import (
    describe_sounds,
    fed_rate,
    full,
    hear,
    refuse_other_rate,
    sound_record,
    tells_rate,
)
from onnxscope.inputs.sources import NamedFiles, files_behind, is_sound, open_input, suffix_of, tensor_files
from onnxscope.inputs.table_files import TABLE_SUFFIXES, read_table, unused_columns
from onnxscope.inputs.teaching import also
from onnxscope.readers.npy import map_npy, map_npz, read_npy, read_npz
from onnxscope.readers.sound_recipes import SoundRecipe
from onnxscope.readers.tensor_files import map_safetensors, read_pb

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["ArraySamples", "match_files"]

Array = NDArray[Any]

_NAMED = 3  # inputs whose files a hint names


@dataclass(frozen=True, eq=False, kw_only=True)
class ArraySamples(Samples):
    """Arrays along axis 0: a file's are mapped, so that only what is asked for is read.

    Attributes:
        entry: A path, files by input, an array-like, or a mapping of array-likes.
        opened: Each input's array with its place for messages; empty where they have travelled to another process,
            which maps the file again.
        recipe: How sounds become numbers, None where nobody says so.
        is_kept: Whether arrays that have been opened again are kept.
    """

    kind = "arrays"

    entry: Any
    opened: dict[str, tuple[Array, str]] = field(repr=False)
    recipe: SoundRecipe | None = None
    is_kept: bool = True

    @classmethod
    def open(
        cls,
        entry: Any,
        specs: Sequence[InputSpec],
        batch_axis: BatchAxis = None,
        recipe: SoundRecipe | None = None,
    ) -> ArraySamples:
        """Map or take the arrays, and check one sample.

        Raises:
            InputError: They cannot be read, or do not fit the inputs.
        """
        opened = _open_arrays(entry, specs, recipe, mapped=True)
        samples = cls._of(entry, specs, opened, batch_axis, recipe)
        for spec in specs:
            array, where = samples.opened[spec.name]
            axis = samples.batch_axes[spec.name]
            check_shape(array.shape, _of_any_count(spec, axis), where, any_count=axis is not None)
        if not samples.count:
            raise InputError(f"no sample along axis 0: {next(iter(samples.opened.values()))[1]}")
        samples.load(0)  # a wrong element type should not wait for the first run
        return samples

    @classmethod
    def _of(
        cls,
        entry: Any,
        specs: Sequence[InputSpec],
        opened: dict[str, tuple[Array, str]],
        asked: BatchAxis,
        recipe: SoundRecipe | None,
    ) -> ArraySamples:
        shapes = {name: array.shape for name, (array, _) in opened.items()}
        batch_axes, fixed, count = find_batching(specs, shapes, asked)
        return cls(
            specs=tuple(specs),
            count=count,
            batch_axes=batch_axes,
            layouts=find_layouts(specs, shapes, batch_axes),
            fixed_batch=fixed,
            asked_axis=asked,
            entry=entry,
            opened=opened,
            recipe=recipe,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "opened": {} if self._is_stored else self.opened}

    @property
    def _is_stored(self) -> bool:
        """Whether the arrays are in files that can be opened again."""
        return isinstance(self.entry, (str, NamedFiles))

    @property
    def files(self) -> list[str]:
        """The file, or those behind mapped arrays."""
        return files_behind([self.entry])

    @property
    def held_bytes(self) -> int:
        """What sounds take in memory, which are no mapped files."""
        return sum(array.nbytes for array, _ in self.opened.values()) if self._sounds else 0

    def forgotten(self) -> ArraySamples:
        """The same, read again whenever it is asked for."""
        return replace(self, opened={}, is_kept=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the arrays as they were given, by input."""
        return {name: array.shape for name, (array, _) in self._arrays().items()}

    @property
    def names(self) -> list[str]:
        """The file's name, or those of all inputs."""
        if isinstance(self.entry, NamedFiles):
            entry = self.entry
            return [
                f"{printable(name)}={path}" if entry.number(name) is not None else printable(os.path.basename(path))
                for name, path in entry.paths.items()
            ]
        return [printable(os.path.basename(self.entry.rstrip(os.sep)))] if isinstance(self.entry, str) else []

    @property
    def record(self) -> dict[str, Any]:
        """The recipe of sounds, and their rates."""
        if not self._sounds:
            return super().record
        preset = None if self.recipe is None else self.recipe.record
        return {**super().record, "preset": preset, "sound": sound_record(self._sounds, self.recipe)}

    @property
    def _sounds(self) -> list[str]:
        return [path for path in self.files if is_sound(path)] if self._is_stored else []

    @property
    def notes(self) -> list[str]:
        """Says where there is no axis of samples, what columns of a table are not fed, and at what rate a sound is."""
        if isinstance(self.entry, str) and suffix_of(self.entry) in TABLE_SUFFIXES:
            with open_input(self.entry) as stream:
                unused = unused_columns(stream, printable(self.entry), self.specs)
            return [f"{counted(len(unused), 'column')} of the table not fed: {', '.join(unused[:5])}"] if unused else []
        if self._sounds:
            return describe_sounds(self._sounds, self.recipe, self.specs)
        if self.asked_axis is not None or any(axis is not None for axis in self.batch_axes.values()):
            return []
        return ["the arrays share no axis of samples: they are fed as they are, as one sample"]

    def fed_to(self, specs: Sequence[InputSpec]) -> ArraySamples:
        """The same arrays, cut anew."""
        samples = ArraySamples._of(self.entry, specs, self._arrays(), self.asked_axis, self.recipe)
        return samples.first(min(self.count, samples.count))

    def as_one_sample(self) -> ArraySamples:
        """All of the arrays together, with no axis of samples."""
        return ArraySamples._of(self.entry, self.specs, self._arrays(), "none", self.recipe)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Take one sample out of every array."""
        arrays, notes = {}, []
        for spec in self.specs:
            array, where = self._arrays()[spec.name]
            axis = self.batch_axes[spec.name]
            array = some_samples(array, axis, position, position + 1)
            fitted, remarks = fit_array(array, _of_any_count(spec, axis), where, any_count=axis is not None)
            notes += [remark.removeprefix(f"{where}: ") for remark in remarks]
            if axis is not None:
                fitted = np.ascontiguousarray(fitted.take(0, axis)) if axis else fitted[0]
            arrays[spec.name] = fitted
        return arrays, notes

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """The arrays as they are."""
        given = self._arrays()
        everything = all(
            axis is None or given[name][0].shape[axis] == self.count for name, axis in self.batch_axes.items()
        )
        read = self._is_stored and everything
        if read:  # not copied from the mapping: reading also compares an archive's checksums
            given = _open_arrays(self.entry, self.specs, self.recipe, mapped=False)
        arrays, notes = {}, describe_sounds(self._sounds, self.recipe, self.specs)
        for spec in self.specs:
            array, where = given[spec.name]
            axis = self.batch_axes[spec.name]
            array = some_samples(array, axis, 0, self.count)
            fitted = array if read else np.array(array, order="C")
            arrays[spec.name], remarks = fit_array(fitted, _of_any_count(spec, axis), where)
            notes += remarks
        undivided = self.asked_axis is None and not any(axis is not None for axis in self.batch_axes.values())
        _check_runs(arrays, self.specs, dict.fromkeys(self.batch_axes, 0) if undivided else self.batch_axes)
        return arrays, sample_count(arrays, self.batch_axes), notes

    def _arrays(self) -> dict[str, tuple[Array, str]]:
        if self.opened:
            return self.opened
        opened = _open_arrays(self.entry, self.specs, self.recipe, mapped=True)
        for name, (array, where) in opened.items():
            axis = self.batch_axes[name]
            if axis is not None and array.shape[axis] < self.count:
                raise InputError(f"{array.shape[axis]} of {self.count} samples are left: {where}")
        if self.is_kept:
            self.opened.update(opened)
        return opened


def match_files(files: NamedFiles, specs: Sequence[InputSpec], recipe: SoundRecipe | None = None) -> dict[str, str]:
    """Return, by input, the name that its file was given.

    Raises:
        InputError: As for `match_names`; or an input is told another rate than that of the sound for another.
    """
    try:
        inputs = match_names(files.paths, specs, "the files named")
    except InputError as error:
        lacking = [spec for spec in specs if spec.name not in files.paths]
        if len(lacking) + len(files.paths) > len(specs) or len(specs) > _NAMED:
            raise
        sounds = [path for name, path in files.paths.items() if files.number(name) is None and is_sound(path)]
        words = [f"{name}={path}" for name, path in files.paths.items()]
        for spec in lacking:
            number = fed_rate(sounds[0], recipe) if sounds and tells_rate(spec.name) else 1
            words.append(f"{spec.name}={'FILE.npy' if spec.shape != () else number}")
        raise also(error, f"`{' '.join(f'-i {as_typed(word)}' for word in words)}` names all") from None
    refuse_other_rate(files, recipe)
    return inputs


def _of_any_count(spec: InputSpec, axis: int | None) -> InputSpec:
    """The input with any number of samples along an axis that is not the first, which has rules of its own."""
    if not axis or spec.shape is None or axis >= len(spec.shape):
        return spec
    return replace(spec, shape=(*spec.shape[:axis], None, *spec.shape[axis + 1 :]))


def _open_arrays(
    entry: Any, specs: Sequence[InputSpec], recipe: SoundRecipe | None, *, mapped: bool
) -> dict[str, tuple[Array, str]]:
    """Map, read or take each input's array, with its place for messages."""
    if isinstance(entry, NamedFiles):
        inputs = match_files(entry, specs, recipe)
        by_name = {spec.name: spec for spec in specs}
        opened: dict[str, tuple[Array, str]] = {}
        sizes: dict[str, int] = {}
        for name, key in inputs.items():
            if entry.number(key) is None:
                opened |= _open_file(entry.paths[key], [by_name[name]], recipe, mapped=mapped, alone=True)
                sides = zip(by_name[name].shape or (), opened[name][0].shape, strict=False)
                sizes |= {dim: size for dim, size in sides if isinstance(dim, str)}
        for name, key in inputs.items():
            if name not in opened:
                where = f"{printable(key)}={entry.paths[key]}"
                opened[name] = (full(by_name[name], entry.paths[key], sizes), where)
        return opened
    if isinstance(entry, str):
        if os.path.isdir(entry):
            return _open_test_data(entry, specs)
        return _open_file(entry, specs, recipe, mapped=mapped)
    if isinstance(entry, Mapping):
        values = {str(key): value for key, value in entry.items()}
        inputs = match_names(values, specs, "the arrays given")
        for name, value in values.items():
            if isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.lexists(value)):
                file = printable(os.fsdecode(value))
                raise InputError(
                    f"no array, but the name of a file: array {name!r}", hint=f"files are given as '{name}={file}'"
                )
        return {
            name: (to_array(values[key], f"array {key!r}", copy=False), f"array {key!r}")
            for name, key in inputs.items()
        }
    where = "the array given"
    return {only_input(specs, where).name: (to_array(entry, where, copy=False), where)}


def _open_file(
    path: str, specs: Sequence[InputSpec], recipe: SoundRecipe | None, *, mapped: bool, alone: bool = False
) -> dict[str, tuple[Array, str]]:
    """The arrays of one file; where it is for one input alone, its only array may be called anything."""
    where = printable(path)

    def choose(members: list[str]) -> Mapping[str, str]:
        return {specs[0].name: members[0]} if alone and len(members) == 1 else match_names(members, specs, where)

    if is_sound(path):
        return {name: (array, where) for name, array in hear(path, specs, recipe).items()}
    with open_input(path) as stream:
        if suffix_of(path) == ".npz":
            arrays = (map_npz if mapped else read_npz)(stream, where, choose)
        elif suffix_of(path) == ".safetensors":
            arrays = map_safetensors(stream, where, choose)
        elif suffix_of(path) in TABLE_SUFFIXES:
            arrays = read_table(stream, where, specs)
        elif suffix_of(path) == ".pb":
            arrays = {only_input(specs, where).name: read_pb(stream, where)}
        else:
            arrays = {only_input(specs, where).name: (map_npy if mapped else read_npy)(stream, where)}
    return {name: (array, where) for name, array in arrays.items()}


def _open_test_data(folder: str, specs: Sequence[InputSpec]) -> dict[str, tuple[Array, str]]:
    """The tensors of a folder of onnx's test data, which stand in the order of the inputs: of these, or of all."""
    paths = tensor_files(folder)
    owner = next((spec.model for spec in specs if spec.model is not None), None)
    names = () if owner is None else tuple(spec.name for spec in owner.declared_inputs)
    if len(paths) == len(names) and {spec.name for spec in specs} <= set(names):
        paths = [paths[names.index(spec.name)] for spec in specs]
    if len(paths) != len(specs):
        raise InputError(
            f"{counted(len(paths), 'file')} input_N.pb for {counted(len(specs), 'input')}: {printable(folder)}"
        )
    opened = {}
    for spec, path in zip(specs, paths, strict=True):
        with open_input(path) as stream:
            opened[spec.name] = (read_pb(stream, printable(path)), printable(path))
    return opened


def _check_runs(arrays: Mapping[str, Array], specs: Sequence[InputSpec], axes: BatchAxes) -> None:
    """Refuse arrays that cannot be cut into runs together."""
    length = run_length(arrays, specs, axes)
    if length is None:
        return
    total = max(
        arrays[name].shape[axis] for name, axis in axes.items() if axis is not None and arrays[name].ndim > axis
    )
    for spec in specs:
        shape, axis = arrays[spec.name].shape, axes[spec.name]
        if axis is None:
            continue
        fixed = spec.shape[axis] if spec.shape else None
        if len(shape) <= axis or shape[axis] != total or (isinstance(fixed, int) and fixed != length):
            raise InputError(
                f"{total} samples go in runs of {length}, and {shape_text(shape)} does not: "
                f"input {spec.name!r} {spec_text(spec)}",
                hint=f"give every input the same number of samples along axis {axis}, or one run at a time",
            )
    if total % length:
        raise InputError(
            f"{total} samples do not fill runs of {length}, the model's fixed batch",
            hint=f"give a multiple of {length} samples",
        )
