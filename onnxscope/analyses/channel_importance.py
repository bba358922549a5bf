"""How much each channel of a layer matters to the score of a class.

ablation    how far the score drops without the channel
score       how probable the class is where only the channel lets the picture through
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from PIL import Image

from onnxscope.analyses.class_scores import ScoredClass, Subject
from onnxscope.base.shapes import shape_text
from onnxscope.base.text import printable
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.drawing.mosaics import scale_maps
from onnxscope.errors import InputError
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import unused_prefix
from onnxscope.runtime.tapped_runs import reason_without_statistics
from onnxscope.selection.selectors import Tap

__all__ = ["Activation", "WeighingSessions", "weigh_by_ablation", "weigh_by_score"]

Array = np.ndarray[Any, Any]
_CHOOSE = "choose the layer of a convolution; `onnxscope inspect` lists them"


class Activation:
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


class WeighingSessions:
    """The sessions that weigh channels: each is opened once, however many samples there are."""

    def __init__(self, model: Model, threads: int) -> None:
        """Open none yet.

        Args:
            model: Where the layer is.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        """
        self.model = model
        self._threads = threads
        self._whole: Session | None = None
        self._rests: dict[tuple[str, str], tuple[Session, list[str], str]] = {}

    def whole(self) -> Session:
        """One of the whole model."""
        if self._whole is None:
            self._whole = open_session(self.model, threads=self._threads)
        return self._whole

    def rest(self, activation: Activation, output: str) -> tuple[Session, list[str], str]:
        """One of what follows a layer up to an output, the model's inputs that it still reads, and where it is fed."""
        key = activation.tap.value, output
        if key not in self._rests:
            proto, others, fed = _rest_of(self.model, activation, output)
            self._rests[key] = open_session(self.model, proto, threads=self._threads), others, fed
        return self._rests[key]


def weigh_by_ablation(
    sessions: WeighingSessions, subject: Subject, activation: Activation, scored: ScoredClass
) -> Array:
    """Return how far the class's score drops without each channel, over the score's magnitude.

    Only what follows the layer is computed.

    Args:
        sessions: Of the model where the layer is.
        subject: What the rest of the model is fed.
        activation: What the layer holds for it.
        scored: The class.

    Returns:
        float64 of shape (channels,).

    Raises:
        InputError: The layer is inside a body, the score does not depend on it, or a score is not finite.
        RunError: onnxruntime fails.

    References:
        Desai and Ramaswamy, "Ablation-CAM", 2020.
    """
    session, others, fed = sessions.rest(activation, scored.output)
    channels = activation.rows.shape[1]
    scores = subject.score(session, fed, others, channels, activation.without, scored)
    drops: Array = (scored.score - scores[:, scored.place]) / (abs(scored.score) or 1.0)
    return drops


def weigh_by_score(
    sessions: WeighingSessions,
    subject: Subject,
    prepared: PreparedInput,
    activation: Activation,
    scored: ScoredClass,
) -> Array:
    """Return how probable the class is where a channel lets the input through, less that for an input of zeros.

    Args:
        sessions: Of the model, which is run as a whole.
        subject: The sample that is masked.
        prepared: What it was cut out of, with the layouts of the inputs.
        activation: What the layer holds for it: each channel, enlarged and scaled to 0..1, is a mask.
        scored: The class.

    Returns:
        float64 of shape (channels,).

    Raises:
        InputError: The model takes something else than one image, or a score is not finite.
        RunError: onnxruntime fails.

    References:
        Wang et al., "Score-CAM", 2020.
    """
    name = _only_picture(sessions.model, prepared)
    layout = prepared.layouts[name]
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

    session = sessions.whole()
    probabilities = _probabilities(subject.score(session, name, (), channels + 1, variants, scored))[:, scored.place]
    increases: Array = probabilities[:channels] - probabilities[channels]
    return increases


def _rest_of(model: Model, activation: Activation, output: str) -> tuple[ModelProto, list[str], str]:
    """Build the part of a model that computes an output from a value, which becomes an input.

        x -> Conv -> Relu -> Gemm -> y      from h:      h -> Gemm -> y
                     h

    Returns:
        The model, the inputs of the whole one that it still reads, and the input that takes the value: as real numbers
        where it holds codes.

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
        raise InputError(f"output '{printable(output)}' does not depend on the layer: {where}", hint=_CHOOSE)
    proto = ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "rest"
    prefix = unused_prefix(model)
    fed = tap.value
    if tap.scale is not None:
        fed = f"{prefix}real"
        proto.graph.node.append(onnx.helper.make_node("QuantizeLinear", [fed, *tap.scale], [tap.value]))
        needed.update(tap.scale)
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
    proto.graph.input.append(onnx.helper.make_tensor_value_info(fed, elem_type, [None] * 4))
    return proto, others, fed


def _only_picture(model: Model, prepared: PreparedInput) -> str:
    """Return the name of the input that is masked.

    Raises:
        InputError: The model has several inputs, or its input is no image by its shape.
    """
    names = [spec.name for spec in model.inputs]
    if len(names) != 1 or names[0] not in prepared.layouts:
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
