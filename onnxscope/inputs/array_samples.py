"""Samples that are arrays along axis 0, in memory or in a file, and as they are where they share no such axis."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis
from onnxscope.base.text import counted, printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import (
    check_shape,
    element_type,
    fit_array,
    match_names,
    only_input,
    spec_text,
    to_array,
)
from onnxscope.inputs.layouts import shape_text
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
from onnxscope.inputs.sources import NamedFiles, files_behind, open_input, suffix_of, tensor_files
from onnxscope.inputs.table_files import TABLE_SUFFIXES, read_table, unused_columns
from onnxscope.readers.npy import map_npy, map_npz, read_npy, read_npz
from onnxscope.readers.sounds import read_wav
from onnxscope.readers.tensor_files import map_safetensors, read_pb

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["ArraySamples"]

Array = NDArray[Any]

_RATE = re.compile(r"(?:^|[^a-z])(?:sr|fs|rate|sample_?rate|sampling_?rate)$")
_SHORTEST = 64  # samples of a sound: an input of fewer numbers takes something else


@dataclass(frozen=True, eq=False, kw_only=True)
class ArraySamples(Samples):
    """Arrays along axis 0: a file's are mapped, so that only what is asked for is read.

    Attributes:
        entry: A path, files by input, an array-like, or a mapping of array-likes.
        opened: Each input's array with its place for messages; empty where they have travelled to another process,
            which maps the file again.
    """

    kind = "arrays"

    entry: Any
    opened: dict[str, tuple[Array, str]] = field(repr=False)

    @classmethod
    def open(cls, entry: Any, specs: Sequence[InputSpec], batch_axis: BatchAxis = None) -> ArraySamples:
        """Map or take the arrays, and check one sample.

        Raises:
            InputError: They cannot be read, or do not fit the inputs.
        """
        samples = cls._of(entry, specs, _open_arrays(entry, specs, mapped=True), batch_axis)
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
    def notes(self) -> list[str]:
        """Says where there is no axis of samples, what columns of a table are not fed, and at what rate a sound is."""
        if isinstance(self.entry, str) and suffix_of(self.entry) in TABLE_SUFFIXES:
            with open_input(self.entry) as stream:
                unused = unused_columns(stream, printable(self.entry), self.specs)
            return [f"{counted(len(unused), 'column')} of the table not fed: {', '.join(unused[:5])}"] if unused else []
        sounds = [path for path in self.files if suffix_of(path) == ".wav"]
        if sounds:
            return [_heard(path) for path in sounds]
        if self.asked_axis is not None or any(axis is not None for axis in self.batch_axes.values()):
            return []
        return ["the arrays share no axis of samples: they are fed as they are, as one sample"]

    def fed_to(self, specs: Sequence[InputSpec]) -> ArraySamples:
        """The same arrays, cut anew."""
        samples = ArraySamples._of(self.entry, specs, self._arrays(), self.asked_axis)
        return samples.first(min(self.count, samples.count))

    def as_one_sample(self) -> ArraySamples:
        """All of the arrays together, with no axis of samples."""
        return ArraySamples._of(self.entry, self.specs, self._arrays(), "none")

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
            given = _open_arrays(self.entry, self.specs, mapped=False)
        arrays, notes = {}, []
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
        if not self.opened:
            opened = _open_arrays(self.entry, self.specs, mapped=True)
            for name, (array, where) in opened.items():
                axis = self.batch_axes[name]
                if axis is not None and array.shape[axis] < self.count:
                    raise InputError(f"{array.shape[axis]} of {self.count} samples are left: {where}")
            self.opened.update(opened)
        return self.opened


def _of_any_count(spec: InputSpec, axis: int | None) -> InputSpec:
    """The input with any number of samples along an axis that is not the first, which has rules of its own."""
    if not axis or spec.shape is None or axis >= len(spec.shape):
        return spec
    return replace(spec, shape=(*spec.shape[:axis], None, *spec.shape[axis + 1 :]))


def _open_arrays(entry: Any, specs: Sequence[InputSpec], *, mapped: bool) -> dict[str, tuple[Array, str]]:
    """Map, read or take each input's array, with its place for messages."""
    if isinstance(entry, NamedFiles):
        inputs = match_names(entry.paths, specs, "the files named")
        by_name = {spec.name: spec for spec in specs}
        opened: dict[str, tuple[Array, str]] = {}
        sizes: dict[str, int] = {}
        for name, key in inputs.items():
            if entry.number(key) is None:
                opened |= _open_file(entry.paths[key], [by_name[name]], mapped=mapped, alone=True)
                sides = zip(by_name[name].shape or (), opened[name][0].shape, strict=False)
                sizes |= {dim: size for dim, size in sides if isinstance(dim, str)}
        for name, key in inputs.items():
            if name not in opened:
                where = f"{printable(key)}={entry.paths[key]}"
                opened[name] = (_full(by_name[name], entry.paths[key], sizes), where)
        return opened
    if isinstance(entry, str):
        return _open_test_data(entry, specs) if os.path.isdir(entry) else _open_file(entry, specs, mapped=mapped)
    if isinstance(entry, Mapping):
        values = {str(key): value for key, value in entry.items()}
        inputs = match_names(values, specs, "the arrays given")
        return {
            name: (to_array(values[key], f"array {key!r}", copy=False), f"array {key!r}")
            for name, key in inputs.items()
        }
    where = "the array given"
    return {only_input(specs, where).name: (to_array(entry, where, copy=False), where)}


def _open_file(
    path: str, specs: Sequence[InputSpec], *, mapped: bool, alone: bool = False
) -> dict[str, tuple[Array, str]]:
    """The arrays of one file; where it is for one input alone, its only array may be called anything."""
    where = printable(path)

    def choose(members: list[str]) -> Mapping[str, str]:
        return {specs[0].name: members[0]} if alone and len(members) == 1 else match_names(members, specs, where)

    with open_input(path) as stream:
        if suffix_of(path) == ".npz":
            arrays = (map_npz if mapped else read_npz)(stream, where, choose)
        elif suffix_of(path) == ".safetensors":
            arrays = map_safetensors(stream, where, choose)
        elif suffix_of(path) in TABLE_SUFFIXES:
            arrays = read_table(stream, where, specs)
        elif suffix_of(path) == ".wav":
            arrays = _sound(*read_wav(stream, where), specs, where)
        elif suffix_of(path) == ".pb":
            arrays = {only_input(specs, where).name: read_pb(stream, where)}
        else:
            arrays = {only_input(specs, where).name: (map_npy if mapped else read_npy)(stream, where)}
    return {name: (array, where) for name, array in arrays.items()}


def _heard(path: str) -> str:
    with open_input(path) as stream:
        sound, rate = read_wav(stream, printable(path))
    seconds = f"{len(sound) / rate:.3g} s"
    return f"{printable(os.path.basename(path))}: {seconds} of sound at its own rate of {rate:,} samples a second"


def _sound(sound: Array, rate: int, specs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """A sound as one row, or as windows of the length that the model takes; its rate where an input asks for it."""
    rates = [spec for spec in specs if _RATE.search(spec.name.lower()) and len(spec.shape or ()) < 2]
    spec = only_input([spec for spec in specs if spec not in rates], where)
    shape = spec.shape or ()
    axis = {1: 0, 2: 1, 3: 1 if shape[-1:] == (1,) else 2}.get(len(shape))
    length = len(sound) if axis is None or not isinstance(shape[axis], int) else int(shape[axis] or 0)
    one_channel = len(shape) < 3 or not isinstance(shape[3 - (axis or 0)], int) or shape[3 - (axis or 0)] == 1
    if axis is None or not one_channel or element_type(spec).kind != "f" or min(length, len(sound)) < _SHORTEST:
        raise InputError(f"no sound of {len(sound):,} samples becomes {spec_text(spec)}: input {spec.name!r}: {where}")
    count = 1 if len(shape) == 1 else -(-len(sound) // length)
    windows = np.zeros(count * length, element_type(spec))
    windows[: len(sound)] = sound[: len(windows)]
    rows = windows if len(shape) == 1 else windows.reshape(count, length)
    return {
        spec.name: np.expand_dims(rows, 3 - axis) if len(shape) == 3 else rows,
        **{asked.name: _full(asked, str(rate), {}) for asked in rates},
    }


def _full(spec: InputSpec, written: str, sizes: Mapping[str, int]) -> Array:
    """An input that is one number throughout, a sampling rate for example; what nobody knows of its shape is 1."""
    dtype = element_type(spec)
    number = float(written)
    if dtype.kind in "iu" and (number != int(number) or not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max):
        raise InputError(f"input {spec.name!r} takes {spec.dtype}, not {written}")
    if dtype.kind == "U":
        raise InputError(f"input {spec.name!r} takes strings, not {written}", hint="give a .npy or a .csv of them")
    shape = [dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in spec.shape or ()]
    return np.full(shape, number).astype(dtype)


def _open_test_data(folder: str, specs: Sequence[InputSpec]) -> dict[str, tuple[Array, str]]:
    """The tensors of a folder of onnx's test data, which stand in the order of the model's inputs."""
    paths = tensor_files(folder)
    if len(paths) != len(specs):
        shown = ", ".join(f"{printable(spec.name)} {spec_text(spec)}" for spec in specs)
        raise InputError(
            f"{counted(len(paths), 'file')} input_N.pb for {counted(len(specs), 'input')}: {printable(folder)}",
            hint=f"the model's inputs, in order: {shown or 'none'}",
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
