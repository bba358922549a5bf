"""Batches from files or arrays: whatever the user gives becomes one checked array for every input of the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import (
    describe_array,
    element_type,
    fit_array,
    match_names,
    spec_text,
    to_array,
)
from onnxscope.inputs.images import MAX_IMAGE_BYTES, Colour, normalize_image, read_image
from onnxscope.inputs.layouts import ImageLayout, Layout, find_layout, image_layout, shape_text
from onnxscope.inputs.npy import read_npy, read_npz
from onnxscope.inputs.presets import PRESETS, Preset, load_preset, recipe_file
from onnxscope.inputs.random_inputs import random_feeds
from onnxscope.inputs.sources import Kind, files_behind, gather, open_input, suffix_of

if TYPE_CHECKING:
    from onnxscope.model.loading import Model
    from onnxscope.model.stored_model import InputSpec

__all__ = [
    "PRESETS",
    "Feeds",
    "Kind",
    "Layout",
    "Preset",
    "cut",
    "files_of",
    "image_pixels",
    "load_preset",
    "only_input",
    "prepare",
    "prepare_for",
    "preset_of_model",
    "random_feeds",
]

_MAX_BATCH_BYTES = 4 << 30


@dataclass(frozen=True, eq=False)
class Feeds:
    """What the model is fed.

    Attributes:
        arrays: By input name, C-contiguous, of the input's element type, and ours: nothing else changes them. Where
            the model's batch is fixed, the first axis is a multiple of it, and `cut` makes the runs.
        samples: How many samples are real, along axis 0; repeated images that fill the last run come after them.
            None where the inputs do not share a first axis.
        kind: `images`, `arrays` or `random`.
        record: The `input` of results, ready for JSON: file names without folders, the preset, the layout, the seed,
            and for each input its name, shape, type, and the mean, sample deviation, least and largest number of
            every channel (of all numbers where it is no image), over the finite numbers of the real samples.
        notes: Remarks for people.
        layouts: Where the axes of an input are, by its name, for those that are images by their shape.
        preset: The recipe that made images into numbers, None for arrays and random numbers.
    """

    arrays: dict[str, NDArray[Any]]
    samples: int | None
    kind: Kind
    record: dict[str, Any]
    notes: tuple[str, ...]
    layouts: Mapping[str, ImageLayout]
    preset: Preset | None


def prepare(
    sources: Any,
    specs: Sequence[InputSpec],
    *,
    preset: str | os.PathLike[str] | Preset | None = None,
    recorded_preset: str | None = None,
    layout: str = "auto",
    bounds: Mapping[str, tuple[int, int]] | None = None,
) -> Feeds:
    """Turn what the user gave into the model's inputs.

    Args:
        sources: One of these, or a sequence of images: the path of an image, of a folder or a glob of images, of a
            `.npy` or a `.npz`; `random` or `random:SEED`; a Pillow image; an array or tensor; a mapping of arrays by
            input name. Images keep the order given; those of a folder or a glob are in natural order.
        specs: The model's inputs.
        preset: For images: a preset's name, a recipe's path or JSON, or None for the recorded one.
        recorded_preset: What the model's converter recorded: a name or a recipe in JSON, never a path.
        layout: Of an image input: `auto`, `nchw` or `nhwc`.
        bounds: For random whole numbers: see `random_feeds`.

    Raises:
        InputError: Whatever the user gave does not exist, cannot be read, or does not fit the model.
    """
    chosen = None if preset is None else load_preset(preset)
    kind, entries, notes = gather(sources)
    if kind == "images":
        recipe = chosen or preset_of_model(recorded_preset)
        return _image_feeds(entries, specs, recipe, layout, notes)
    if chosen is not None:
        notes.append(f"preset {chosen.name!r} is ignored: presets are for images")
    if kind == "random":
        arrays = random_feeds(specs, entries[0], bounds)
        notes.append(f"the input is random (seed {entries[0]}), no real data")
        return _feeds(arrays, specs, kind, notes, seed=entries[0])
    arrays, names = _read_arrays(entries[0], specs, notes)
    _check_runs(arrays, specs)
    return _feeds(arrays, specs, kind, notes, files=names)


def prepare_for(
    model: Model, sources: Any, *, preprocess: str | os.PathLike[str] | Preset | None = None, layout: str = "auto"
) -> Feeds:
    """Prepare what the user gave for a model: with its inputs, its recorded preset, and whole numbers that it can take.

    Args:
        model: Who is fed.
        sources: As for `prepare`.
        preprocess: For images: a preset's name, a recipe's path or JSON, or None for the recorded one.
        layout: Of an image input: `auto`, `nchw` or `nhwc`.

    Raises:
        InputError: As `prepare`.
    """
    return prepare(
        sources,
        model.inputs,
        preset=preprocess,
        recorded_preset=model.provenance.preprocess if model.provenance else None,
        layout=layout,
        bounds=model.index_bounds,
    )


def files_of(
    *models: Model, inputs: Any = None, preprocess: str | os.PathLike[str] | Preset | None = None
) -> list[str | os.PathLike[str]]:
    """Return the files that a run reads: those of its models with their external data, its inputs' and its recipe's.

    Args:
        models: Who is fed.
        inputs: As for `prepare`; None or nothing feeds none. An iterator would be used up.
        preprocess: As for `prepare_for`.

    Raises:
        InputError: What `gather` raises.
    """
    files: list[str | os.PathLike[str]] = [file for model in models for file in model.storage.files]
    if inputs is not None and not (isinstance(inputs, list | tuple) and not inputs):
        files += files_behind(gather(inputs)[1])
    recipe = recipe_file(preprocess)
    return files if recipe is None else [*files, recipe]


def cut(feeds: Feeds, specs: Sequence[InputSpec]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what each run is fed: everything at once, or runs of the model's fixed batch along axis 0.

    Args:
        feeds: From `prepare`, with the same `specs`. The arrays yielded are views of its arrays.
        specs: The model's inputs.
    """
    length = _run_length(feeds.arrays, specs)
    if length is None:
        yield dict(feeds.arrays)
        return
    total = len(next(iter(feeds.arrays.values())))
    for start in range(0, total, length):
        yield {name: array[start : start + length] for name, array in feeds.arrays.items()}


def preset_of_model(recorded: str | None) -> Preset:
    """Return the preset that the model records.

    Raises:
        InputError: It records none, or one that cannot be read.
    """
    names = ", ".join(PRESETS)
    if recorded is None:
        raise InputError(
            "which preset? The model records none, and images need one",
            hint=f"name it with `--preprocess`: {names}, or a JSON file with a recipe",
        )
    try:
        return load_preset(recorded, files=False)  # the model is not trusted with a path
    except InputError as error:
        raise InputError(f"{error}: recorded in the model", hint=f"name one with `--preprocess`: {names}") from error


def _read_arrays(entry: Any, specs: Sequence[InputSpec], notes: list[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    given: dict[str, tuple[NDArray[Any], str]]
    names: list[str] = []
    if isinstance(entry, str):
        where = printable(entry)
        names = [printable(os.path.basename(entry))]
        with open_input(entry) as stream:
            if suffix_of(entry) == ".npz":
                found = read_npz(stream, where, lambda members: match_names(members, specs, where))
                given = {name: (array, where) for name, array in found.items()}
            else:
                given = {only_input(specs, where).name: (read_npy(stream, where), where)}
    elif isinstance(entry, Mapping):
        values = {str(key): value for key, value in entry.items()}
        inputs = match_names(values, specs, "the arrays given")
        given = {name: (to_array(values[key], f"array {key!r}"), f"array {key!r}") for name, key in inputs.items()}
    else:
        where = "the array given"
        given = {only_input(specs, where).name: (to_array(entry, where), where)}
    arrays = {}
    for spec in specs:
        arrays[spec.name], remarks = fit_array(given[spec.name][0], spec, given[spec.name][1])
        notes += remarks
    return arrays, names


def only_input(specs: Sequence[InputSpec], where: str) -> InputSpec:
    """Return the model's single input.

    Raises:
        InputError: It has another number of them.
    """
    if len(specs) != 1:
        inputs = ", ".join(f"{printable(spec.name)} {spec_text(spec)}" for spec in specs)
        raise InputError(
            f"the model has {len(specs)} inputs, not one: {where}",
            hint=f"give a .npz with one array for each of: {inputs}" if specs else "the model takes no input",
        )
    return specs[0]


def _image_feeds(
    entries: Sequence[Any], specs: Sequence[InputSpec], preset: Preset, layout: str, notes: list[str]
) -> Feeds:
    names = [printable(os.path.basename(entry)) for entry in entries if isinstance(entry, str)]
    spec = only_input(specs, "images")
    axes = image_layout(spec.name, spec.shape, layout)
    dtype = element_type(spec)
    if dtype.kind not in "fiu" and "float" not in dtype.name:
        raise InputError(f"no image becomes {spec.dtype}: input {spec.name!r}", hint="give a .npy file")
    padded = _padded_count(len(entries), spec, axes, notes)
    batch: NDArray[Any] | None = None
    for index, entry in enumerate(entries):
        pixels = image_pixels(entry, index, spec, axes, preset, notes)
        if axes.channel_axis < axes.height_axis:
            pixels = pixels.transpose(2, 0, 1)
        if batch is None:
            batch = _reserve((padded, *pixels.shape), dtype, spec)
        batch[index] = pixels
    assert batch is not None  # there is at least one image
    batch[len(entries) :] = batch[len(entries) - 1]
    arrays = {spec.name: batch[0] if axes.batch_axis is None else batch}
    return _feeds(arrays, specs, "images", notes, files=names, preset=preset, axes=axes, samples=len(entries))


def image_pixels(
    entry: Any, index: int, spec: InputSpec, axes: ImageLayout, preset: Preset, notes: list[str]
) -> NDArray[Any]:
    """Return an image as (height, width, channels) of the input's element type, with remarks added to `notes`.

    Raises:
        InputError: It is missing, broken, or does not become the input.
    """
    shape = spec.shape or ()
    height, width = (size if isinstance(size, int) else None for size in shape[axes.height_axis : axes.width_axis + 1])
    colour: Colour = "L" if shape[axes.channel_axis] == 1 else "RGB"
    if isinstance(entry, str):
        where, name = printable(entry), printable(os.path.basename(entry))
        with open_input(entry, limit_bytes=MAX_IMAGE_BYTES) as stream:
            image, remarks = read_image(stream, where, colour)
    else:
        where = name = f"image {index}"
        image, remarks = normalize_image(entry, where, colour)
    notes += [f"{name}: {remark}" for remark in remarks]
    try:
        return preset.apply(image, height, width, element_type(spec))
    except InputError as error:
        raise InputError(f"{error}: {where}", hint=error.hint) from error


def _padded_count(count: int, spec: InputSpec, axes: ImageLayout, notes: list[str]) -> int:
    """Return how many images fill the runs of a fixed batch."""
    shape = spec.shape or ()
    if any(isinstance(dim, int) and dim < 1 for dim in shape):
        raise InputError(f"no image fits: input {spec.name!r} {spec_text(spec)}")
    if axes.batch_axis is None:
        if count > 1:
            raise InputError(
                f"{count} images for an input without a batch axis: input {spec.name!r} {spec_text(spec)}",
                hint="give one image",
            )
        return count
    fixed = shape[axes.batch_axis]
    if not isinstance(fixed, int) or count % fixed == 0:
        return count
    padded = math.ceil(count / fixed) * fixed
    copies = "1 copy" if padded - count == 1 else f"{padded - count} copies"
    notes.append(f"the model's batch is fixed at {fixed}: {copies} of the last image added to fill it, not counted")
    return padded


def _reserve(shape: tuple[int, ...], dtype: np.dtype[Any], spec: InputSpec) -> NDArray[Any]:
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes > _MAX_BATCH_BYTES:
        raise InputError(
            f"a batch of {shape[0]:,} images would take {size_bytes:,} bytes, more than the {_MAX_BATCH_BYTES:,} that "
            f"we make: input {spec.name!r} {spec_text(spec)}",
            hint="give fewer images",
        )
    return np.empty(shape, dtype)


def _run_length(arrays: Mapping[str, NDArray[Any]], specs: Sequence[InputSpec]) -> int | None:
    """Return the fixed batch that a first axis goes beyond, or None where one run takes everything."""
    for spec in specs:
        first = spec.shape[0] if spec.shape else None
        if isinstance(first, int) and 0 < first < len(arrays[spec.name]):
            return first
    return None


def _check_runs(arrays: Mapping[str, NDArray[Any]], specs: Sequence[InputSpec]) -> None:
    """Refuse arrays that cannot be cut into runs together."""
    length = _run_length(arrays, specs)
    if length is None:
        return
    total = max(len(array) for array in arrays.values() if array.ndim)
    for spec in specs:
        shape = arrays[spec.name].shape
        first = spec.shape[0] if spec.shape else None
        if not shape or shape[0] != total or (isinstance(first, int) and first != length):
            raise InputError(
                f"{total} samples go in runs of {length}, and {shape_text(shape)} does not: "
                f"input {spec.name!r} {spec_text(spec)}",
                hint="give every input the same number of samples along axis 0, or one run at a time",
            )


def _feeds(
    arrays: dict[str, NDArray[Any]],
    specs: Sequence[InputSpec],
    kind: Kind,
    notes: Sequence[str],
    *,
    files: Sequence[str] = (),
    preset: Preset | None = None,
    axes: ImageLayout | None = None,
    seed: int | None = None,
    samples: int | None = None,
) -> Feeds:
    count = _sample_count(arrays) if samples is None else samples
    inputs = []
    layouts: dict[str, ImageLayout] = {}
    for spec in specs:
        array = arrays[spec.name]
        if axes is not None and axes.batch_axis is not None:
            array = array[:count]
        layout = axes
        if layout is None and array.ndim == 4:  # with three axes it is more likely a sequence
            layout = find_layout(spec.shape) or find_layout(array.shape)
        if layout is not None:
            layouts[spec.name] = layout
        inputs.append(describe_array(spec.name, array, layout.channel_axis if layout else None))
    record = {
        "kind": kind,
        "files": list(files),
        "preset": preset.record if preset is not None else None,
        "layout": axes.name if axes else None,
        "random_seed": seed,
        "inputs": inputs,
    }
    return Feeds(arrays, count, kind, record, tuple(notes), layouts, preset)


def _sample_count(arrays: Mapping[str, NDArray[Any]]) -> int | None:
    lengths = {len(array) if array.ndim else None for array in arrays.values()}
    return lengths.pop() if len(lengths) == 1 else None
