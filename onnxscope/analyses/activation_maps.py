"""Where in a picture a layer, or the model's answer, looks: `class_activation()`, without gradients.

eigen       what the channels of a layer have most in common, whatever the class
ablation    channels weighted by how far the class's score drops without them
score       channels weighted by how probable the class is where only they let the picture through
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import numpy as np
from PIL import Image

from onnxscope.analyses.channel_importance import Activation, WeighingSessions, weigh_by_ablation, weigh_by_score
from onnxscope.analyses.class_scores import Subject, cut_sample, find_class
from onnxscope.analyses.input_pictures import lay_over, prepared_pictures
from onnxscope.base import option_types
from onnxscope.base.results import Record, picture
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import printable
from onnxscope.datasets.dataset import open_dataset
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.drawing.figures import picture_figure
from onnxscope.drawing.mosaics import encode_png, scale_maps
from onnxscope.errors import InputError
from onnxscope.model.activation_functions import activation_after
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.encodings import codes_scale
from onnxscope.model.loading import CustomOps, Model
from onnxscope.operators.table import operator_of
from onnxscope.runtime.session import Session
from onnxscope.runtime.tapped_runs import TapShapes, run_tapped
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.selectors import Tap, select_taps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ClassActivation", "Method", "class_activation", "likely_taps", "run_class_activations"]

Array = np.ndarray[Any, Any]
Method = Literal["eigen", "ablation", "score"]

_NAMES: Mapping[Method, str] = {"eigen": "EigenCAM", "ablation": "Ablation-CAM", "score": "Score-CAM"}


@dataclass(frozen=True, eq=False)
class ClassActivation(Record):
    """Where in the input a layer, or the score of a class, takes its values from.

    Attributes:
        model: The `model` record.
        input: The `input` record.
        tap: The value that was looked at.
        method: `eigen`, `ablation` or `score`.
        sample: Which sample of the input.
        output: The model's output with the scores of the classes; None for `eigen`, which needs none.
        target: The class; None for `eigen`.
        score: What the model gives for the class: a logit or a probability; None for `eigen`.
        map: float32 of shape (height, width), 0 to 1, at the layer's own resolution.
        explained: For `eigen`, the share of the activation's sum of squares that the map stands for, 0 to 1; None for
            the others, and where the activation is all zeros.
        picture: What the model sees, or None where its input is no picture.
        notes: Remarks on the inputs, for people.
    """

    model: dict[str, Any]
    input: dict[str, Any]
    tap: Tap
    method: Method
    sample: int
    output: str | None
    target: int | None
    score: float | None
    map: Array
    explained: float | None
    picture: Image.Image | None
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line: the method, the class where there is one, and the layer."""
        of_class = "" if self.target is None else f", class {self.target}"
        return f"{_NAMES[self.method]}{of_class}: {printable(self.tap.layer)}"

    def overlay(self, *, cmap: str = "viridis") -> Image.Image:
        """The map over the picture that the model sees, or by itself where there is none; mode `RGB`.

        Raises:
            InputError: There is no colour map of this name.
        """
        return lay_over(self.picture, self.map, cmap=cmap)

    def plot(self) -> Figure:
        """Draw the overlay as a matplotlib Figure; it belongs to the caller and to no pyplot state."""
        return picture_figure(self.overlay(), self.title)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.class_activation/1`, ready for JSON."""
        return {
            "schema": "onnxscope.class_activation/1",
            "model": self.model,
            "input": self.input,
            "name": self.tap.name,
            "layer": self.tap.layer,
            "op_type": self.tap.op_type,
            "method": self.method,
            "sample": self.sample,
            "output": self.output,
            "target": self.target,
            "score": self.score,
            "explained": self.explained,
            "map": self.map.tolist(),
        }

    def __repr__(self) -> str:
        height, width = self.map.shape
        return f"<{self.title}, {height} x {width}: {self.model['name']}>"

    def table(self) -> Table:
        """One row."""
        columns = ("layer", "operator", "map", "output", "class", "score", "explained")
        numbers = (self.output or "", self.target, self.score, self.explained)
        return Table(self.title, columns, ((self.tap.layer, self.tap.op_type, self.map.shape, *numbers),))

    def html_parts(self) -> Iterable[str]:
        """The overlay, and the table."""
        return picture(encode_png(self.overlay()), self.title), self.table().html()


@option_types.checked
def class_activation(
    model: Any,
    inputs: Any,
    *,
    layer: str | None = None,
    method: Method = "eigen",
    target: int | None = None,
    sample: int = 0,
    batch_size: int = 8,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> ClassActivation:
    """Map where a layer, or the score of a class, takes its values from, without gradients.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: As for `features`; one sample of them is looked at.
        layer: A selector that chooses one value with two spatial axes, tapped after its activation function. None for
            the last convolution with spatial axes, behind its BatchNorm, a residual sum, and its activation function.
        method: `eigen` takes one run, `ablation` computes what follows the layer once a channel, and `score` runs the
            whole model once a channel.
        target: The class for `ablation` and `score`; None for the class with the largest score.
        sample: Which sample.
        batch_size: How many channels go into one run, where the model leaves its batch open.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Returns:
        The map of one sample. With `a` the activation in float64, one row a place and one column a channel, it is the
        following, scaled to 0..1 from its least to its largest value; a constant map becomes 0.

        `eigen`: `a v`, where `v` is the first right singular vector of `a`, not centred, with the sign that makes its
        elements' sum positive: then the map's product with the mean over channels is positive too.
        `ablation`: `max(0, a w)`, where `w` is the drop of the class's score when a channel is zero, over the score's
        magnitude.
        `score`: `max(0, a w)`, where `w` is the class's probability when the prepared input is multiplied by the
        channel, enlarged and scaled to 0..1, less its probability for an input of zeros.

    Raises:
        ModelError: The model cannot be read.
        SelectorError: The selector matches nothing.
        InputError: The inputs do not fit the model, the layer has no two spatial axes, or a class is wanted of a model
            that gives no scores.
        RunError: onnxruntime fails.

    References:
        Muhammad and Yeasin, "Eigen-CAM", 2020. Desai and Ramaswamy, "Ablation-CAM", 2020. Wang et al., "Score-CAM",
        2020.
    """
    options = RunOptions(**feeding, batch_size=batch_size, threads=threads)
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    prepared = open_dataset(inputs, loaded, options).whole()
    (activation,) = run_class_activations(
        loaded, prepared, options, [sample], layer=layer, method=method, target=target
    )
    return activation


def run_class_activations(
    model: Model,
    prepared: PreparedInput,
    options: RunOptions,
    samples: Sequence[int],
    *,
    layer: str | None = None,
    method: Method = "eigen",
    target: int | None = None,
    observed: Mapping[Tap, Any] | None = None,
) -> list[ClassActivation]:
    """Map for some samples where a layer, or the score of a class, takes its values from; see `class_activation`.

    The layer is looked for with the first of the samples, and one session runs all of them.

    Args:
        model: Who is run.
        prepared: What it is fed.
        options: Threads, and how many channels go into one run.
        samples: Which samples.
        layer: As for `class_activation`.
        method: As for `class_activation`.
        target: As for `class_activation`.
        observed: What some of the `likely_taps` held for all samples, where they were run already.

    Raises:
        SelectorError: The selector matches nothing.
        InputError: As `class_activation`, but for the inputs.
        RunError: onnxruntime fails.
    """
    if method not in get_args(Method):
        raise InputError(f"unknown method {method!r}", hint=f"one of {', '.join(get_args(Method))}")
    if method == "eigen" and target is not None:
        raise InputError(f"EigenCAM knows no classes, and was asked for class {target}", hint="ablation and score do")
    subjects = [cut_sample(prepared, model, sample, options.batch_size) for sample in samples]
    seen = {tap: value for tap, value in (observed or {}).items() if _is_cut_by_sample(value, prepared)}
    shapes = {tap: value.shape for tap, value in seen.items()}
    tap = _mapped_tap(model, layer, shapes, lambda taps: TapShapes(model, taps, options.threads).of(subjects[0].arrays))
    if method == "eigen" and tap in seen:
        answers: list[dict[str, Any]] = [{} for _ in samples]
        values = [seen[tap][sample : sample + 1] for sample in samples]
    else:
        answers, values = _run_subjects(model, tap, subjects, options.threads)
    sessions = WeighingSessions(model, options.threads)
    maps = []
    for sample, subject, answer, value in zip(samples, subjects, answers, values, strict=True):
        activation = Activation(tap, value, model)
        explained = scored = None
        if method == "eigen":
            heights, explained = _principal(activation.rows)
        else:
            scored = find_class(model, answer, model.main.outputs, target)
            if method == "ablation":
                weights = weigh_by_ablation(sessions, subject, activation, scored)
            else:
                weights = weigh_by_score(sessions, subject, prepared, activation, scored)
            heights = np.maximum(activation.rows @ weights, 0)
        pictures = prepared_pictures(prepared, only=sample)
        maps.append(
            ClassActivation(
                model=model.to_dict(),
                input=prepared.record,
                tap=tap,
                method=method,
                sample=sample,
                output=scored.output if scored else None,
                target=scored.place if scored else None,
                score=scored.score if scored else None,
                map=scale_maps(heights.reshape(1, *activation.size))[0].astype(np.float32),
                explained=explained,
                picture=pictures[0] if pictures else None,
                notes=prepared.notes,
            )
        )
    return maps


def likely_taps(model: Model, layer: str | None) -> list[Tap]:
    """Return what a class activation map most likely looks at, for a caller that runs the model anyway.

    Args:
        model: Who is run.
        layer: As for `class_activation`.

    Raises:
        SelectorError: The selector matches nothing.
        InputError: It chooses several values.
    """
    if layer is not None:
        return [_only_tap(select_taps(model, [layer]), layer, model)]
    convolutions = _convolutions(model)
    return list(dict.fromkeys([convolutions[-1], _finished(model, convolutions[-1])])) if convolutions else []


def _is_cut_by_sample(value: Any, prepared: PreparedInput) -> bool:
    first = not any(prepared.batch_axes.values())
    return first and isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == prepared.samples


def _run_subjects(
    model: Model, tap: Tap, subjects: Sequence[Subject], threads: int
) -> tuple[list[dict[str, Any]], list[Any]]:
    """All answers for each sample alone, and what the tap held."""

    def run_all(session: Session) -> dict[str, Any]:
        answers = [session.run(subject.arrays) for subject in subjects]
        return {name: [answer[name] for answer in answers] for name in session.outputs}

    outputs, tapped = run_tapped(model, [tap], run_all, threads=threads)
    for missed in tapped.unreachable:
        raise InputError(f"no map of {printable(missed.name)} ({missed.reason}): {model.name}")
    answers = [{name: values[place] for name, values in outputs.items()} for place in range(len(subjects))]
    return answers, outputs[tapped.outputs[tap.name]]


def _only_tap(taps: Sequence[Tap], layer: str, model: Model) -> Tap:
    if len(taps) > 1:
        shown = ", ".join(f"value:{printable(tap.name)}" for tap in taps[:3])
        raise InputError(
            f"{len(taps)} values, not one, match the selector '{printable(layer)}': {model.name}",
            hint=f"one of them: {shown}{', …' if len(taps) > 3 else ''}",
        )
    return taps[0]


def _mapped_tap(
    model: Model,
    layer: str | None,
    shapes: Mapping[Tap, tuple[int, ...]],
    shapes_of: Callable[[Sequence[Tap]], Mapping[Tap, tuple[int, ...]]],
) -> Tap:
    """The value that is looked at; by default what leaves the last convolution with spatial axes, ready to be pooled.

    Args:
        model: Where it is.
        layer: Its selector.
        shapes: Of values that are known.
        shapes_of: Finds the shapes of others, which takes a run.
    """
    if layer is not None:
        return _only_tap(select_taps(model, [layer]), layer, model)
    taps = _convolutions(model)
    for tap in reversed(taps):
        if tap not in shapes:
            shapes = shapes_of(taps)
        shape = shapes[tap]
        axis = default_axis(len(shape), tap.channel_axis)
        if len(shape) == 4 and axis and math.prod(shape[1:]) > shape[axis]:
            return _finished(model, tap)
    raise InputError(f"no convolution with spatial axes: {model.name}", hint="name a layer that has them")


def _convolutions(model: Model) -> list[Tap]:
    """Of the main graph, in execution order."""
    return [tap for tap in select_taps(model, []) if operator_of(tap.op_type).is_convolution and not tap.path]


def _finished(model: Model, tap: Tap) -> Tap:
    """Follow a value through what finishes its layer: normalization, a residual sum, the activation function."""
    graph, value = model.main, tap.value
    while True:
        value = activation_after(graph, value) or value
        readers = graph.readers.get(value, ())
        if len(readers) != 1 or not readers[0].operator.ends_block or not readers[0].is_standard:
            break
        value = readers[0].outputs[0]
    axis, scale = model.channel_axes(()).get(value), codes_scale(graph, value)
    return replace(tap, name=value, value=value, channel_axis=axis, scale=scale)


def _principal(rows: Array) -> tuple[Array, float | None]:
    """Project on the first right singular vector; also return its share of the sum of squares."""
    scale = float(np.abs(rows).max())
    if not scale:
        return np.zeros(len(rows)), None
    rows = rows / scale
    # The smaller Gram matrix has the same singular vectors, and at most as many rows as there are places or channels.
    wide = rows.shape[1] > rows.shape[0]
    squares, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    vector = rows.T @ vectors[:, -1] if wide else vectors[:, -1]
    vector = vector / np.linalg.norm(vector)
    projection: Array = rows @ (-vector if vector.sum() < 0 else vector)
    return projection, min(float(squares[-1] / np.square(rows).sum()), 1.0)
