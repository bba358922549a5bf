"""How must pictures be prepared? The model knows: `preparation()`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from onnxscope.base import option_types
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.text import counted, label
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type, to_array
from onnxscope.inputs.image_samples import ImageSamples, preset_for
from onnxscope.inputs.presets import PRESETS, Preset
from onnxscope.inputs.sources import NamedFiles, gather, open_input
from onnxscope.model.loading import CustomOps, Model
from onnxscope.preparing.candidates import candidates_for
from onnxscope.preparing.prepared_result import Preparation
from onnxscope.preparing.running_statistics import first_running_statistics, running_statistics
from onnxscope.preparing.scores import channel_moments, score_of
from onnxscope.preparing.trials import open_part, prepared_in_all_ways, run_pictures
from onnxscope.preparing.verdict import Ranked, Verdict, judge
from onnxscope.readers.npy import read_npy, read_npz
from onnxscope.selection.feeding_recipes import load_to_run

__all__ = ["find_preparation", "preparation"]

Array = NDArray[Any]

_MOST_PICTURES = 16
_FEW_REFERENCES = 8


@option_types.checked
def preparation(
    model: Any,
    inputs: Any,
    *,
    expect: Any = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> Preparation:
    """Say how pictures must be prepared for a model: scale, mean and deviation, order of the channels, resizing.

    All usual ways are tried on the pictures. Those are right that give the first BatchNormalizations what they were
    trained on, or the outputs that are expected. What cannot be told is undecided.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`, with one input that takes pictures.
        inputs: Pictures like those that it was trained on, as for `features`; the first 16 count. Four of different
            things tell far more than one.
        expect: The right outputs for these pictures, where they are known: an array, or the path of a `.npy`, of the
            first output; arrays by output name, or the path of a `.npz`. The pictures lie along the first axis. Then
            models whose BatchNormalizations are folded can be asked too, and how to resize can be told.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`. A preset that is asked for or
            recorded is ranked beside the others.

    Raises:
        ModelError: The model cannot be read.
        InputError: These are no pictures, the model has no place for them, or the expected outputs do not fit.
        RunError: onnxruntime fails.
    """
    options = RunOptions(**feeding, threads=threads)
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    kind, entries, notes = gather(inputs)
    if kind != "images" or any(isinstance(entry, NamedFiles) for entry in entries):
        given = "pictures by the name of an input" if kind == "images" else kind
        raise InputError(f"only pictures are prepared, and these are {given}", hint="`-i photo.jpg`")
    if len(entries) > _MOST_PICTURES:
        notes = [*notes, f"the first {_MOST_PICTURES} of {len(entries):,} pictures are tried"]
    try:
        used, _ = preset_for(loaded.inputs, options, loaded.provenance.preprocess if loaded.provenance else None)
    except InputError:
        if options.preprocess is not None:
            raise
        used = None
    expected = None if expect is None else _expected(expect, loaded)
    return find_preparation(loaded, entries[:_MOST_PICTURES], options, used=used, expected=expected, notes=notes)


def find_preparation(
    model: Model,
    entries: Sequence[Any],
    options: RunOptions,
    *,
    used: Preset | None,
    expected: Mapping[str, Array] | None = None,
    notes: Iterable[str] = (),
) -> Preparation:
    """Try all ways to prepare pictures: see `preparation`.

    Args:
        model: Who is fed.
        entries: Paths, or Pillow's images; at least one.
        options: Layout, size and threads count.
        used: What somebody asked for, or the model records.
        expected: The right outputs by name.
        notes: Remarks for people, to go with the result.

    Raises:
        InputError: The model takes no pictures, or one cannot be read.
        RunError: onnxruntime fails.
    """
    samples = ImageSamples.open(entries, model.inputs, PRESETS["half"], options.layout)
    (spec,) = samples.specs
    references = [] if expected is not None else first_running_statistics(model, spec.name)[:_FEW_REFERENCES]
    if expected is None and not references:
        return _nothing_tells(model, len(entries), notes)
    shape = spec.shape or ()
    channels = shape[samples.axes.channel_axis] if shape else None
    sides = shape[samples.axes.height_axis : samples.axes.width_axis + 1]
    candidates = candidates_for(
        channels if isinstance(channels, int) else 3,
        element_type(spec),
        used,
        options.size,
        is_open=not all(isinstance(side, int) for side in sides),
        by_outputs=expected is not None,
    )
    if not candidates:
        raise InputError(f"no usual preparation gives {spec.dtype}: input {spec.name!r}")
    values = [reference.node.inputs[0] for reference in references] if expected is None else list(expected)
    session = open_part(model, values, threads=options.threads)
    keep = dict if expected is not None else _moments
    kept: list[list[Any]] = [[] for _ in candidates]
    for pictures in prepared_in_all_ways(samples, candidates):
        for place, one in enumerate(run_pictures(session, samples, pictures, keep)):
            kept[place].append(one)
    scores = [score_of(of_one, references, expected) for of_one in kept]
    every = range(len(entries))
    rows = [Ranked(*row) for row in zip(candidates, (score.over(every) for score in scores), scores, strict=True)]
    ranked = sorted(rows, key=lambda row: row.distance.distance)
    if expected is None:
        references_text = [label(reference.node.name or reference.node.outputs[0]) for reference in references]
    else:
        references_text = [label(name) for name in expected]
    few = (
        []
        if expected is not None or len(entries) > 2
        else [f"{counted(len(entries), 'picture')} may have any colours: four of different things tell more"]
    )
    return Preparation(
        model=model.name,
        samples=len(entries),
        by="running statistics" if expected is None else "outputs",
        references=tuple(references_text),
        ranked=tuple(ranked),
        verdict=judge(ranked, len(entries), by_outputs=expected is not None),
        notes=(*notes, *few),
    )


def _moments(values: Mapping[str, Any]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return {name: channel_moments(value) for name, value in values.items()}


def _nothing_tells(model: Model, samples: int, notes: Iterable[str]) -> Preparation:
    stored = list(running_statistics(model))
    if not stored:
        why = "no BatchNormalization is left whose running statistics would tell"
    elif all(entry.is_initial for entry in stored):
        why = "the running statistics are those of a model that was never trained"
    else:
        why = "no BatchNormalization that the input reaches would tell"
    why += "; the right outputs would (`--expect OUT.npy`)"
    verdict = Verdict("undecided", "undecided", "undecided", why)
    return Preparation(model.name, samples, None, (), (), verdict, tuple(notes))


def _expected(given: Any, model: Model) -> dict[str, Array]:
    """The right outputs, by the names that the model gives them."""
    names = [spec.name for spec in model.outputs]
    if isinstance(given, str | os.PathLike):
        where = os.fsdecode(given)
        with open_input(where) as stream:
            if where.lower().endswith(".npz"):
                found: Any = read_npz(stream, where, lambda stored: {name: name for name in stored})
            else:
                found = read_npy(stream, where)
    else:
        found = given
    if not isinstance(found, Mapping):
        found = {names[0]: found}
    unknown = next((name for name in found if name not in names), None)
    if unknown is not None or not found:
        raise InputError(
            f"the model has no output {unknown!r}: {model.name}" if found else "no output is expected",
            hint=f"its outputs: {', '.join(map(label, names[:5]))}",
        )
    arrays = {name: to_array(value, f"the expected output {name!r}") for name, value in found.items()}
    if any(array.dtype.kind not in "fiub" or not np.isfinite(array).all() for array in arrays.values()):
        raise InputError("the expected output holds something else than finite numbers")
    return arrays
