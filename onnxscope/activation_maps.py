"""Where in a picture a layer, or the model's answer, looks: `class_activation()`, without gradients.

eigen       what the channels of a layer have most in common, whatever the class
ablation    channels weighted by how far the class's score drops without them
score       channels weighted by how probable the class is where only they let the picture through
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import onnx
from onnx import ModelProto
from PIL import Image

from onnxscope.activations import activation_after
from onnxscope.channels import activation_axes, default_axis
from onnxscope.errors import InputError, RunError
from onnxscope.figures import picture_figure
from onnxscope.graph import unused_prefix
from onnxscope.inputs import Feeds, prepare_for
from onnxscope.layouts import find_layout, shape_text
from onnxscope.model import Model, load_model
from onnxscope.mosaics import encode_png, scale_maps
from onnxscope.names import Names
from onnxscope.outputs import printable
from onnxscope.pictures import lay_over, prepared_pictures
from onnxscope.records import Record, picture
from onnxscope.selectors import Tap, select_taps
from onnxscope.session import Session
from onnxscope.shapes import infer_ranks, infer_types
from onnxscope.structure import Graph
from onnxscope.tables import Table
from onnxscope.tapping import reason_without_statistics, run_tapped, tap_shapes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ClassActivation", "Method", "class_activation"]

Array = np.ndarray[Any, Any]
Method = Literal["eigen", "ablation", "score"]

# What may stand between the last convolution and the value that is pooled; a residual sum is such an Add.
_FINISHING = frozenset(
    {"BatchNormalization", "Add", "Sum", "Transpose", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear"}
)
_NAMES: Mapping[Method, str] = {"eigen": "EigenCAM", "ablation": "Ablation-CAM", "score": "Score-CAM"}
_CHOOSE = "choose the layer of a convolution; `onnxscope inspect` lists them"


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


def class_activation(
    model: Any,
    inputs: Any,
    *,
    layer: str | None = None,
    method: Method = "eigen",
    target: int | None = None,
    sample: int = 0,
    preprocess: str | None = None,
    layout: Literal["auto", "nchw", "nhwc"] = "auto",
    batch_size: int = 8,
    threads: int = 0,
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
        preprocess: Preset for images, a recipe's path, or None for the one recorded in the model.
        layout: Of the model's image input.
        batch_size: How many channels go into one run, where the model leaves its batch open.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

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
    if method not in get_args(Method):
        raise InputError(f"unknown method {method!r}", hint=f"one of {', '.join(get_args(Method))}")
    if method == "eigen" and target is not None:
        raise InputError(f"EigenCAM knows no classes, and was asked for class {target}", hint="ablation and score do")
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size} channels", hint="give at least 1")
    loaded = load_model(model)
    infer = cache(partial(infer_types, loaded))
    feeds = prepare_for(loaded, inputs, preprocess=preprocess, layout=layout)
    subject = _subject(feeds, loaded, sample, batch_size)
    names = Names(loaded)
    if layer is None:
        tap = _last_convolution(names, lambda taps: tap_shapes(loaded, taps, subject.arrays, infer, threads))
    else:
        tap = _only_tap(select_taps(names, [layer], ranks=lambda: infer_ranks(infer())), layer, loaded)
    answers, tapped = run_tapped(
        loaded, [tap], lambda session: session.run(subject.arrays), infer=infer, threads=threads
    )
    for each in tapped.unreachable:
        raise InputError(f"no map of {printable(each.name)} ({each.reason}): {loaded.name}")
    activation = _Activation(tap, answers[tapped.outputs[tap.name]], loaded)
    explained = scored = None
    if method == "eigen":
        values, explained = _principal(activation.rows)
    else:
        scored = _find_class(loaded, answers, tapped.declared, target)
        if method == "ablation":
            weights = _drops(loaded, subject, activation, scored, threads)
        else:
            weights = _increases(loaded, subject, feeds, activation, scored, threads)
        values = np.maximum(activation.rows @ weights, 0)
    pictures = prepared_pictures(feeds)
    return ClassActivation(
        model=loaded.to_dict(),
        input=feeds.record,
        tap=tap,
        method=method,
        sample=sample,
        output=scored.output if scored else None,
        target=scored.place if scored else None,
        score=scored.score if scored else None,
        map=scale_maps(values.reshape(1, *activation.size))[0].astype(np.float32),
        explained=explained,
        picture=pictures[sample] if pictures else None,
        notes=feeds.notes,
    )


@dataclass(frozen=True)
class _Class:
    """The class whose score is looked at: its output, its place there, among how many, and its score."""

    output: str
    place: int
    count: int
    score: float


@dataclass(frozen=True)
class _Subject:
    """One sample, as a run takes it.

    Attributes:
        arrays: By input name; a sample of a fixed batch is repeated to fill it.
        batched: Whether the first axis of every array counts samples.
        fixed: How many samples every run takes, None where that is open.
        size: How many variants of the sample go into one run.
    """

    arrays: dict[str, Array]
    batched: bool
    fixed: int | None
    size: int

    def score(
        self,
        session: Session,
        name: str,
        others: Sequence[str],
        count: int,
        variants: Callable[[range], Array],
        scored: _Class,
    ) -> Array:
        """Return the scores of all classes for variants of the sample, float64, a row each.

        Args:
            session: Computes the output with the scores.
            name: The input that is varied.
            others: The inputs that are fed the sample as it is.
            count: How many variants there are.
            variants: Returns those of a range, along axis 0; a single one as it is where nothing is batched.
            scored: Where the scores are.

        Raises:
            InputError: A score is not finite.
            RunError: onnxruntime fails, or gives something else than scores.
        """
        size = self.size
        while True:
            try:
                runs = [range(start, min(start + size, count)) for start in range(0, count, size)]
                rows = np.concatenate([self._run(session, name, others, variants, run, scored) for run in runs])
                break
            except RunError:
                if size == 1 or self.fixed is not None:
                    raise
                size = 1  # an open batch that a Reshape inside holds to one
        if not np.isfinite(rows).all():
            raise InputError(
                f"scores that are not finite once the input is varied: output {printable(scored.output)!r}"
            )
        return rows

    def _run(
        self,
        session: Session,
        name: str,
        others: Sequence[str],
        variants: Callable[[range], Array],
        run: range,
        scored: _Class,
    ) -> Array:
        part = variants(run)
        if self.fixed is not None:
            part = np.concatenate([part, np.repeat(part[-1:], self.fixed - len(run), axis=0)])
        feeds = {each: self._repeated(each, len(part)) for each in others}
        answer = session.run({**feeds, name: part}, [scored.output])[scored.output]
        if answer.ndim != 2 or len(answer) < len(run) or answer.shape[1] != scored.count:
            raise RunError(
                f"no {scored.count} scores for each of {len(run)} samples but {shape_text(answer.shape)}: "
                f"output {printable(scored.output)!r}"
            )
        scores: Array = answer[: len(run)].astype(np.float64)
        return scores

    def _repeated(self, name: str, count: int) -> Array:
        return np.repeat(self.arrays[name][:1], count, axis=0) if self.batched else self.arrays[name]


def _subject(feeds: Feeds, model: Model, sample: int, batch_size: int) -> _Subject:
    """Cut one sample out of what the model is fed.

    Raises:
        InputError: There is no such sample.
    """
    layouts = [feeds.layouts.get(spec.name) or find_layout(spec.shape) for spec in model.inputs]
    sizes = {spec.shape[0] for spec in model.inputs if spec.shape and isinstance(spec.shape[0], int)}
    alone = any(layout is not None and layout.batch_axis is None for layout in layouts)
    batched = feeds.samples is not None and len(sizes) <= 1 and not alone
    samples = feeds.samples if batched and feeds.samples is not None else 1
    if not 0 <= sample < samples:
        raise InputError(f"no sample {sample} among {samples}: {model.name}", hint="samples count from 0")
    if not batched:
        return _Subject(feeds.arrays, False, None, 1)
    fixed = next(iter(sizes), None)
    arrays = {name: np.repeat(array[sample : sample + 1], fixed or 1, axis=0) for name, array in feeds.arrays.items()}
    return _Subject(arrays, True, fixed, fixed or batch_size)


class _Activation:
    """What a layer holds for one sample.

    Attributes:
        tap: Where it was taken.
        values: Shape (1, …), as the model holds it.
        channel_axis: Its axis with the channels.
        size: Height and width.
        rows: float64 of shape (height x width, channels).
    """

    def __init__(self, tap: Tap, data: Any, model: Model) -> None:
        """Check what a tap held.

        Raises:
            InputError: It is no floating-point array with two spatial axes, or holds NaN or infinities.
        """
        where = f"{printable(tap.layer)}: {model.name}"
        reason = reason_without_statistics(tap, data)
        if reason is not None:
            raise InputError(f"no map of a value without numbers ({reason}): {where}")
        self.tap = tap
        axis = default_axis(data.ndim, tap.channel_axis)
        if data.ndim != 4 or axis not in (1, 3) or not data.size:
            raise InputError(f"no two spatial axes in a value of shape {shape_text(data.shape)}: {where}", hint=_CHOOSE)
        if data.dtype.kind != "f" and "float" not in data.dtype.name:
            raise InputError(f"no map of whole numbers ({data.dtype.name}): {where}", hint=_CHOOSE)
        self.values: Array = data[:1]
        self.channel_axis: int = axis
        last = np.moveaxis(self.values[0].astype(np.float64), axis - 1, -1)
        self.size = last.shape[:2]
        self.rows: Array = np.ascontiguousarray(last.reshape(-1, last.shape[2]))
        if not np.isfinite(self.rows).all():
            odd = int(np.count_nonzero(~np.isfinite(self.rows)))
            raise InputError(f"no map of values that are not finite ({odd:,} of {self.rows.size:,}): {where}")

    def without(self, channels: range) -> Array:
        """Copies along axis 0, each with another channel at zero."""
        copies = np.repeat(self.values, len(channels), axis=0)
        by_channel = np.moveaxis(copies, self.channel_axis, 1)
        by_channel[np.arange(len(channels)), list(channels)] = 0
        return copies


def _only_tap(taps: Sequence[Tap], layer: str, model: Model) -> Tap:
    if len(taps) > 1:
        shown = ", ".join(f"value:{printable(tap.name)}" for tap in taps[:3])
        raise InputError(
            f"{len(taps)} values, not one, match the selector {printable(layer)!r}: {model.name}",
            hint=f"one of them: {shown}{', …' if len(taps) > 3 else ''}",
        )
    return taps[0]


def _last_convolution(names: Names, shapes_of: Callable[[Sequence[Tap]], Mapping[str, tuple[int, ...]]]) -> Tap:
    """What leaves the last convolution of the main graph that has spatial axes, ready to be pooled."""
    graph = names.model.main
    taps = [tap for tap in select_taps(names, []) if "Conv" in tap.op_type and not tap.path]
    shapes = shapes_of(taps) if taps else {}
    for tap in reversed(taps):
        shape = shapes[tap.name]
        axis = default_axis(len(shape), tap.channel_axis)
        if len(shape) == 4 and axis and math.prod(shape[1:]) > shape[axis]:
            value = _finished(graph, tap.value)
            return replace(tap, name=value, value=value, channel_axis=activation_axes(graph).get(value))
    raise InputError(f"no convolution with spatial axes: {names.model.name}", hint="name a layer that has them")


def _finished(graph: Graph, value: str) -> str:
    """Follow a value through what finishes its layer: normalization, a residual sum, the activation function."""
    while True:
        value = activation_after(graph, value) or value
        readers = graph.readers.get(value, ())
        if len(readers) != 1 or readers[0].op_type not in _FINISHING or not readers[0].is_standard:
            return value
        value = readers[0].outputs[0]


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


def _find_class(model: Model, answers: Mapping[str, Any], declared: Sequence[str], target: int | None) -> _Class:
    """Find the first output that scores classes, and the class there.

    Raises:
        InputError: No output does, the class is not among them, or a score is not finite.
    """
    for name in declared:
        scores = answers[name]
        if isinstance(scores, np.ndarray) and scores.ndim == 2 and scores.shape[1] > 1 and "float" in scores.dtype.name:
            where = f"output {printable(name)!r} of {model.name}"
            if target is not None and not 0 <= target < scores.shape[1]:
                raise InputError(f"no class {target} among {scores.shape[1]:,}: {where}", hint="classes count from 0")
            if not np.isfinite(scores[:1].astype(np.float64)).all():
                raise InputError(f"scores that are not finite: {where}")
            place = int(scores[0].argmax()) if target is None else target
            return _Class(name, place, scores.shape[1], float(scores[0, place]))
    shown = ", ".join(f"{printable(name)} {shape_text(getattr(answers[name], 'shape', None))}" for name in declared)
    raise InputError(
        f"no output scores classes (samples x classes): {shown}: {model.name}",
        hint="the method `eigen` needs no scores",
    )


def _drops(model: Model, subject: _Subject, activation: _Activation, scored: _Class, threads: int) -> Array:
    """How far the class's score drops without each channel, over the score's magnitude."""
    proto, others = _rest_of(model, activation, scored.output)
    session = Session(proto, folder=model.folder, where=model.name, threads=threads)
    channels = activation.rows.shape[1]
    scores = subject.score(session, activation.tap.value, others, channels, activation.without, scored)
    drops: Array = (scored.score - scores[:, scored.place]) / (abs(scored.score) or 1.0)
    return drops


def _rest_of(model: Model, activation: _Activation, output: str) -> tuple[ModelProto, list[str]]:
    """Build the part of a model that computes an output from a value, which becomes an input.

        x -> Conv -> Relu -> Gemm -> y      from h:      h -> Gemm -> y
                     h

    Returns:
        The model, and the inputs of the whole one that it still reads.

    Raises:
        InputError: The value is inside a body, or the output does not depend on it.
    """
    tap, graph = activation.tap, model.main
    where = f"{printable(tap.layer)}: {model.name}"
    if tap.path:
        raise InputError(f"no channel can be left out inside the body of {printable(tap.path[-1].attribute)}: {where}")
    needed: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name in graph.producers and name != tap.value:
                waiting += filter(None, (*graph.producers[name].inputs, *graph.producers[name].captured))
    if tap.value not in needed or tap.value == output:
        raise InputError(f"output {printable(output)!r} does not depend on the layer: {where}", hint=_CHOOSE)
    proto = ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "rest"
    prefix = unused_prefix(model)
    for node in graph.nodes:
        if needed.intersection(node.outputs) - {tap.value}:
            copy = proto.graph.node.add()
            copy.CopyFrom(node.proto)
            for place, name in enumerate(copy.output):
                if name == tap.value:
                    copy.output[place] = f"{prefix}replaced"
    proto.graph.initializer.extend(tensor for name, tensor in graph.initializers.items() if name in needed)
    proto.graph.sparse_initializer.extend(model.proto.graph.sparse_initializer)
    proto.graph.output.add().name = output
    others = [spec.name for spec in model.inputs if spec.name in needed]
    proto.graph.input.extend(value for value in model.proto.graph.input if value.name in others)
    elem_type = onnx.helper.np_dtype_to_tensor_dtype(activation.values.dtype)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(tap.value, elem_type, [None] * 4))
    return proto, others


def _increases(
    model: Model, subject: _Subject, feeds: Feeds, activation: _Activation, scored: _Class, threads: int
) -> Array:
    """How probable the class is where a channel lets the input through, less its probability for an input of zeros."""
    name = _only_picture(model, feeds)
    layout = feeds.layouts[name]
    has_batch = layout.batch_axis is not None
    picture = subject.arrays[name][0] if has_batch else subject.arrays[name]
    axis = layout.channel_axis - has_batch
    height, width = np.delete(picture.shape, axis).tolist()
    channels = activation.rows.shape[1]
    maps = activation.rows.T.reshape(channels, *activation.size).astype(np.float32)

    def variants(places: range) -> Array:
        masks = np.zeros((len(places), height, width))
        for mask, place in zip(masks, places, strict=True):
            if place < channels:
                mask[:] = Image.fromarray(maps[place]).resize((width, height), Image.Resampling.BILINEAR)
        masked = picture.astype(np.float64) * np.expand_dims(scale_maps(masks), axis + 1)
        masked = (np.rint(masked) if picture.dtype.kind in "iu" else masked).astype(picture.dtype)
        return masked if has_batch else masked[0]

    session = Session(model.proto, folder=model.folder, where=model.name, threads=threads)
    probabilities = _probabilities(subject.score(session, name, (), channels + 1, variants, scored))[:, scored.place]
    increases: Array = probabilities[:channels] - probabilities[channels]
    return increases


def _only_picture(model: Model, feeds: Feeds) -> str:
    """Return the name of the input that is masked.

    Raises:
        InputError: The model has several inputs, or its input is no image by its shape.
    """
    names = [spec.name for spec in model.inputs]
    if len(names) != 1 or names[0] not in feeds.layouts:
        inputs = ", ".join(f"{printable(spec.name)} {shape_text(spec.shape)}" for spec in model.inputs)
        raise InputError(
            f"Score-CAM masks one image, and the model takes {inputs or 'nothing'}: {model.name}",
            hint="the methods `eigen` and `ablation` mask no input",
        )
    return names[0]


def _probabilities(scores: Array) -> Array:
    """Softmax of each row, unless the model has done that already."""
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = raised / raised.sum(axis=1, keepdims=True)
    return probabilities
