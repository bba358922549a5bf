"""A dataset that may be larger than memory: what INPUT names, opened one sample at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import check_shape, element_type, fit_array, match_names, spec_text, to_array
from onnxscope.inputs.feeds import image_pixels, only_input, preset_of_model
from onnxscope.inputs.layouts import ImageLayout, find_layout, image_layout
from onnxscope.inputs.npy import map_npy, map_npz
from onnxscope.inputs.presets import Preset, load_preset
from onnxscope.inputs.random_inputs import random_feeds
from onnxscope.inputs.sources import Kind, files_behind, gather, open_input, suffix_of
from onnxscope.model.stored_model import InputSpec

__all__ = ["Dataset", "open_dataset"]

Array = NDArray[Any]
_FIRST_NAMES = 3


@dataclass(eq=False)
class Dataset:
    """Samples by position. Read-only once made; safe to share between threads; travels to other processes by name.

    Attributes:
        specs: The model's inputs.
        kind: `images`, `arrays` or `random`.
        count: How many samples there are.
        record: The `input` of a profile, ready for JSON.
        notes: Remarks for people.
        batch_axes: By input name, the axis of samples of what is fed, None for an input that has none.
        channel_axes: By input name, the channels of what is fed, None where they are not known.
        fixed_batch: How many samples a run must have, None for any number.
    """

    specs: tuple[InputSpec, ...]
    kind: Kind
    count: int
    record: dict[str, Any]
    notes: tuple[str, ...]
    batch_axes: dict[str, int | None]
    channel_axes: dict[str, int | None]
    fixed_batch: int | None
    _entries: Sequence[Any]
    _preset: Preset | None = None
    _axes: ImageLayout | None = None
    _bounds: Mapping[str, tuple[int, int]] | None = None
    _arrays: dict[str, tuple[Array, str]] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if isinstance(self._entries[0], str):
            state["_arrays"] = None  # mapped again where they arrive
        return state

    @property
    def files(self) -> list[str]:
        """The files that samples are read from."""
        return files_behind(self._entries)

    def name(self, position: int) -> str:
        """What a sample is called: its file's name, or its position."""
        entry = self._entries[position] if self.kind == "images" else None
        return printable(os.path.basename(entry)) if isinstance(entry, str) else f"sample {position}"

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Read and prepare one sample.

        Returns:
            An array for every input, without the axis of samples where it has one; and remarks, without the name.

        Raises:
            InputError: It is missing, broken, or does not become the input.
        """
        if self.kind == "images":
            return self._image(position)
        notes: list[str] = []
        arrays = self._random(position) if self.kind == "random" else self._sliced(position, notes)
        return arrays, notes

    def _image(self, position: int) -> tuple[dict[str, Array], list[str]]:
        assert self._axes is not None
        assert self._preset is not None
        remarks: list[str] = []
        pixels = image_pixels(self._entries[position], position, self.specs[0], self._axes, self._preset, remarks)
        if self._axes.channel_axis < self._axes.height_axis:
            pixels = pixels.transpose(2, 0, 1)
        pixels = np.ascontiguousarray(pixels, element_type(self.specs[0]))
        return {self.specs[0].name: pixels}, [remark.split(": ", 1)[-1] for remark in remarks]

    def _random(self, position: int) -> dict[str, Array]:
        seed = self._entries[0]
        made = random_feeds(self.specs, seed if position == 0 else [seed, position], self._bounds)
        return {name: array if self.batch_axes[name] is None else array[0] for name, array in made.items()}

    def _sliced(self, position: int, notes: list[str]) -> dict[str, Array]:
        whole = self._whole()
        arrays = {}
        for spec in self.specs:
            array = whole[spec.name][0]
            if self.batch_axes[spec.name] is not None:
                array = array[position : position + 1]
            fitted, remarks = fit_array(array, _one_sample(spec, self.batch_axes[spec.name]), whole[spec.name][1])
            notes += [remark.removeprefix(f"{whole[spec.name][1]}: ") for remark in remarks]
            arrays[spec.name] = fitted if self.batch_axes[spec.name] is None else fitted[0]
        return arrays

    def _whole(self) -> dict[str, tuple[Array, str]]:
        if self._arrays is None:
            opened, _ = _open_arrays(self._entries[0], self.specs)
            for name, (array, where) in opened.items():
                if self.batch_axes[name] is not None and len(array) < self.count:
                    raise InputError(f"{len(array)} of {self.count} samples are left: {where}")
            self._arrays = opened
        return self._arrays


def open_dataset(
    sources: Any,
    specs: Sequence[InputSpec],
    *,
    preset: str | os.PathLike[str] | Preset | None = None,
    recorded_preset: str | None = None,
    layout: Literal["auto", "nchw", "nhwc"] = "auto",
    bounds: Mapping[str, tuple[int, int]] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Find out what there is, without reading it.

    Args:
        sources: As for `inputs.prepare`.
        specs: The model's inputs.
        preset: For images: a preset's name, a recipe's path or JSON, or None for the recorded one.
        recorded_preset: What the model's converter recorded.
        layout: Of an image input.
        bounds: For random whole numbers: see `random_feeds`.
        limit: Only the first so many samples; of random ones so many are made, one without a limit.

    Raises:
        InputError: Whatever the user gave does not exist, cannot be read, or does not fit the model.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} leaves no sample", hint="give a limit of at least 1")
    chosen = None if preset is None else load_preset(preset)
    kind, entries, notes = gather(sources)
    if kind == "images":
        return _image_dataset(entries[:limit], specs, chosen or preset_of_model(recorded_preset), layout, notes)
    if chosen is not None:
        notes.append(f"preset {chosen.name!r} is ignored: presets are for images")
    if kind == "random":
        return _random_dataset(entries, specs, bounds, limit or 1, notes)
    return _array_dataset(entries, specs, limit, notes)


def _image_dataset(
    entries: Sequence[Any], specs: Sequence[InputSpec], preset: Preset, layout: str, notes: list[str]
) -> Dataset:
    spec = only_input(specs, "images")
    axes = image_layout(spec.name, spec.shape, layout)
    dtype = element_type(spec)
    if dtype.kind not in "fiu" and "float" not in dtype.name:
        raise InputError(f"no image becomes {spec.dtype}: input {spec.name!r}", hint="give a .npy file")
    shape = spec.shape or ()
    if any(isinstance(dim, int) and dim < 1 for dim in shape):
        raise InputError(f"no image fits: input {spec.name!r} {spec_text(spec)}")
    fixed = 1 if axes.batch_axis is None else shape[axes.batch_axis]
    names = [printable(os.path.basename(entry)) for entry in entries if isinstance(entry, str)]
    return Dataset(
        specs=tuple(specs),
        kind="images",
        count=len(entries),
        record=_record("images", len(entries), names, specs, preset=preset.record, layout=axes.name),
        notes=tuple(notes),
        batch_axes={spec.name: axes.batch_axis},
        channel_axes={spec.name: axes.channel_axis},
        fixed_batch=fixed if isinstance(fixed, int) else None,
        _entries=entries,
        _preset=preset,
        _axes=axes,
    )


def _random_dataset(
    entries: Sequence[Any],
    specs: Sequence[InputSpec],
    bounds: Mapping[str, tuple[int, int]] | None,
    count: int,
    notes: list[str],
) -> Dataset:
    made = random_feeds(specs, entries[0], bounds)
    lengths = {name: len(array) if array.ndim else None for name, array in made.items()}
    batch_axes, fixed, _ = _batching(specs, lengths)
    notes.append(f"the input is random (seed {entries[0]}), no real data")
    return Dataset(
        specs=tuple(specs),
        kind="random",
        count=count,
        record=_record("random", count, (), specs, seed=entries[0]),
        notes=tuple(notes),
        batch_axes=batch_axes,
        channel_axes=_channel_axes(specs, {name: array.shape for name, array in made.items()}),
        fixed_batch=fixed,
        _entries=entries,
        _bounds=bounds,
    )


def _array_dataset(entries: Sequence[Any], specs: Sequence[InputSpec], limit: int | None, notes: list[str]) -> Dataset:
    opened, names = _open_arrays(entries[0], specs)
    lengths = {name: len(array) if array.ndim else None for name, (array, _) in opened.items()}
    batch_axes, fixed, count = _batching(specs, lengths)
    if all(axis is None for axis in batch_axes.values()):
        notes.append("the arrays share no axis of samples: they are fed as they are, as one sample")
    for spec in specs:
        array, where = opened[spec.name]
        if batch_axes[spec.name] is None:
            check_shape(array.shape, spec, where)
        else:
            check_shape((1, *array.shape[1:]), _one_sample(spec, 0), where)
    if not count:
        raise InputError(f"no sample along axis 0: {next(iter(opened.values()))[1]}")
    count = min(count, limit or count)
    dataset = Dataset(
        specs=tuple(specs),
        kind="arrays",
        count=count,
        record=_record("arrays", count, names, specs),
        notes=tuple(notes),
        batch_axes=batch_axes,
        channel_axes=_channel_axes(specs, {name: array.shape for name, (array, _) in opened.items()}),
        fixed_batch=fixed,
        _entries=entries,
    )
    dataset.load(0)  # a wrong element type should not wait for the first run
    return dataset


def _open_arrays(entry: Any, specs: Sequence[InputSpec]) -> tuple[dict[str, tuple[Array, str]], list[str]]:
    """Map or take each input's array, with its place for messages; and the files' names."""
    if isinstance(entry, str):
        where = printable(entry)
        with open_input(entry) as stream:
            if suffix_of(entry) == ".npz":
                found = map_npz(stream, where, lambda members: match_names(members, specs, where))
            else:
                found = {only_input(specs, where).name: map_npy(stream, where)}
        return {name: (array, where) for name, array in found.items()}, [printable(os.path.basename(entry))]
    if isinstance(entry, Mapping):
        values = {str(key): value for key, value in entry.items()}
        inputs = match_names(values, specs, "the arrays given")
        wheres = {name: (values[key], f"array {key!r}") for name, key in inputs.items()}
        return {name: (to_array(value, where, copy=False), where) for name, (value, where) in wheres.items()}, []
    where = "the array given"
    return {only_input(specs, where).name: (to_array(entry, where, copy=False), where)}, []


def _batching(
    specs: Sequence[InputSpec], lengths: Mapping[str, int | None]
) -> tuple[dict[str, int | None], int | None, int]:
    """Find each input's axis of samples, the model's own batch size, and how many samples there are."""
    shared = set(lengths.values())
    fixed = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    if len(shared) != 1 or None in shared or len(fixed) > 1:
        return dict.fromkeys(lengths, None), 1, 1
    return dict.fromkeys(lengths, 0), next(iter(fixed), None), shared.pop() or 0


def _one_sample(spec: InputSpec, batch_axis: int | None) -> InputSpec:
    """The input as a single sample has to fit it."""
    if batch_axis is None or not spec.shape:
        return spec
    return InputSpec(spec.name, spec.dtype, (1, *spec.shape[1:]))


def _channel_axes(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> dict[str, int | None]:
    axes: dict[str, int | None] = {}
    for spec in specs:
        layout = None
        if len(shapes[spec.name]) == 4:  # with three axes it is more likely a sequence
            layout = find_layout(spec.shape) or find_layout(tuple(shapes[spec.name]))
        axes[spec.name] = layout.channel_axis if layout else None
    return axes


def _record(
    kind: Kind,
    count: int,
    names: Sequence[str],
    specs: Sequence[InputSpec],
    *,
    preset: str | dict[str, Any] | None = None,
    layout: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", errors="surrogateescape") + b"\0")
    return {
        "kind": kind,
        "files": list(names[:_FIRST_NAMES]),
        "file_count": len(names),
        "names_sha256": digest.hexdigest(),
        "samples": count,
        "preset": preset,
        "layout": layout,
        "random_seed": seed,
        "inputs": [
            {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
            for spec in specs
        ],
    }
