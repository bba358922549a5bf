"""Find out how a model is fed, and keep it with the model: `recipe()`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from onnx import ModelProto

from onnxscope.base import option_types
from onnxscope.base.files import MODEL, refuse_foreign, refuse_inputs, writing_whole
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.text import printable
from onnxscope.datasets.dataset import Dataset, open_dataset
from onnxscope.errors import InputError
from onnxscope.inputs.image_samples import place_of_images, preset_for
from onnxscope.inputs.presets import recipe_file
from onnxscope.inputs.random_sizes import find_fitting
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.runtime.session import open_session
from onnxscope.selection.feeding_recipes import KINDS, METADATA_KEY, FeedingRecipe, load_to_run

__all__ = ["recipe", "write_into"]

_LAYOUTS = {"chw": "nchw", "hwc": "nhwc"}


@option_types.checked
def recipe(
    model: Any,
    inputs: Any = None,
    *,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> FeedingRecipe:
    """Find out how a model is fed, for a record that travels with it.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: What it is fed, as for `features`: its first sample is run. None says what can be known without data,
            and with which sizes the model runs on random input.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`. A recipe that is there already does
            not count.

    Returns:
        The record; its `save()` writes it beside the model, where everything that runs the model finds it.

    Raises:
        ModelError: The model cannot be read.
        InputError: The inputs do not fit, or a file that is to be recorded lies outside of the model's folder.
        RunError: onnxruntime fails.
    """
    options = replace(RunOptions(**feeding), recipe="none")
    loaded, _ = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    given = {name: value for name in KINDS if (value := _given(options, name)) is not None}
    random_dims: Mapping[str, int] = {}
    notes: list[str] = []
    if inputs is None:
        random_dims, notes = _runs_on(loaded)
        found = _known(loaded, options)
    else:
        dataset = open_dataset(inputs, loaded, options)
        prepared = dataset.first(max(1, dataset.fixed_batch or 1)).whole()
        open_session(loaded, loaded.proto).run(next(prepared.runs()))
        found, notes = _found(dataset, loaded), [*prepared.notes, "the first sample of it has been run"]
        if dataset.kind == "random":
            random_dims = {name: size for name, size in dataset.record["dims"].items() if name not in loaded.dims}
    if "preprocess" in found:
        given.pop("size", None)  # it is part of the preset that was found
    recorded = {name: _as_recorded(name, value, loaded) for name, value in {**given, **found}.items()}
    return FeedingRecipe(
        model=loaded.name,
        inputs=tuple(
            {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
            for spec in loaded.declared_inputs
        ),
        dims=dict(loaded.dims),
        random_dims=dict(random_dims),
        feeding={name: recorded[name] for name in KINDS if name in recorded},
        notes=tuple(notes),
        path=loaded.path,
    )


def write_into(
    found: FeedingRecipe, model: str | os.PathLike[str], output: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write a copy of a model with a recipe in its metadata; weights in files of their own stay where they are.

    Args:
        found: The recipe.
        model: The model's file.
        output: The copy: in the same folder where weights lie in files of their own.
        force: Also replace a file that is no model; never the model itself.

    Raises:
        InputError: The copy would lie where it does not find its weights.
        OutputError: It cannot be written.
    """
    loaded = load_model(model)
    refuse_inputs([output], loaded.files)
    refuse_foreign([(output, MODEL)], force=force)
    apart = [path for path in loaded.storage.files if path != Path(model).resolve()]
    if apart and Path(output).absolute().parent.resolve() != Path(model).absolute().parent.resolve():
        raise InputError(
            f"the model's weights lie in {printable(apart[0].name)} beside it, where its copy would not find them",
            hint="write the copy into the same folder",
        )
    text = json.dumps(found.to_dict(), ensure_ascii=False)
    with open(model, "rb") as source, writing_whole(output) as target:
        if METADATA_KEY not in loaded.metadata:
            # Messages that follow one another are merged: a repeated field grows, and nothing is read into memory.
            while part := source.read(1 << 20):
                target.write(part)
            target.write(_metadata(text).SerializeToString())
            return
        proto = ModelProto.FromString(source.read())
        kept = [entry for entry in proto.metadata_props if entry.key != METADATA_KEY]
        del proto.metadata_props[:]
        proto.metadata_props.extend([*kept, *_metadata(text).metadata_props])
        target.write(proto.SerializeToString())


def _metadata(text: str) -> ModelProto:
    proto = ModelProto()
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, text
    return proto


def _given(options: RunOptions, name: str) -> Any:
    """An option that somebody has asked for, None for one that nobody has, or that this version does not know."""
    value = getattr(options, name, None)
    return None if value == getattr(RunOptions, name, None) else value


def _runs_on(model: Model) -> tuple[dict[str, int], list[str]]:
    """With which sizes a model runs on random input, and remarks."""
    try:
        fitting, notes = find_fitting(model.inputs, 0, model.index_bounds)
    except InputError as error:
        return {}, [f"no random input: {error}"]
    return {name: size for name, size in fitting.dims.items() if name not in model.dims}, notes


def _known(model: Model, options: RunOptions) -> dict[str, Any]:
    """What is known without data, by option: how pictures are prepared, and the tokenizer that lies there."""
    known: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # no model of pictures, or nobody says
        preset, _ = preset_for(model.inputs, options, model.provenance.preprocess if model.provenance else None)
        layout = place_of_images(model.inputs, options.layout)[1].name
        known = {"preprocess": preset.record, "layout": _LAYOUTS.get(layout, layout)}
    beside = None if model.path is None else model.path.with_name("tokenizer.json")
    unnamed = "tokenizer" in FeedingOptions.__annotations__ and _given(options, "tokenizer") is None
    if unnamed and beside is not None and beside.is_file():
        known["tokenizer"] = str(beside)
    return known


def _found(dataset: Dataset, model: Model) -> dict[str, Any]:
    """What was found for an input, by option."""
    found: dict[str, Any] = {}
    if dataset.kind == "images":
        layout = dataset.record["layout"]
        found = {"preprocess": dataset.record["preset"]}
        if len(model.inputs) == 1:  # several may have one each, which their shapes tell
            found["layout"] = _LAYOUTS.get(layout, layout)
    if "tokenizer" in FeedingOptions.__annotations__:
        beside = [path for path in dataset.files if os.path.basename(path) == "tokenizer.json"]
        if beside:
            found["tokenizer"] = beside[0]
    return found


def _as_recorded(name: str, value: Any, model: Model) -> Any:
    """An option as a recipe holds it: files by their content, or by a name in the model's folder and their digest."""
    if name == "tokenizer":
        return _file_beside(value, model)
    if name == "preprocess":
        file = recipe_file(value) if isinstance(value, str | os.PathLike) else None
        text = Path(file).read_text(encoding="utf-8-sig") if file is not None else value
        return json.loads(text) if isinstance(text, str) and text.lstrip().startswith("{") else text
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _file_beside(path: str | os.PathLike[str], model: Model) -> dict[str, str]:
    file = Path(path).absolute()
    folder = None if model.path is None else model.path.parent
    if folder is None or not file.parent.resolve().is_relative_to(folder):
        raise InputError(
            f"a recipe names files in the model's own folder alone: {printable(str(path))}",
            hint="copy it beside the model, or below it",
        )
    place = (file.parent.resolve() / file.name).relative_to(folder)
    return {"file": place.as_posix(), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
