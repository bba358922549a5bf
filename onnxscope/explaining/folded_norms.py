"""BatchNorms that one model has and the other has folded into its weights: with which epsilon, and whether whole.

The epsilon follows from the weights channel by channel, since the folded weight is the other one multiplied by
gamma / sqrt(variance + epsilon); one that does not hold for all channels is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import format_number
from onnxscope.explaining.choices import choices_of
from onnxscope.explaining.edits import Edit, set_attribute, set_operands
from onnxscope.explaining.parameters import plain
from onnxscope.explaining.weight_edits import weight_of
from onnxscope.extracting.chosen_part import Part
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model

__all__ = ["epsilon_of", "fold_edits"]

Array = NDArray[np.float64]
_FLOAT = 1  # ONNX's number of an attribute of that type
_DEFAULT = 1e-5
_CLOSE = 2e-6  # relative: a weight and its factor are rounded to float32


@dataclass(frozen=True, eq=False)
class _Norm:
    """A BatchNorm behind a layer: arrays of a number a channel, in float64."""

    node: Node
    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    epsilon: float


def fold_edits(
    models: tuple[Model, Model], parts: tuple[Part, Part], pairs: Sequence[tuple[Node, Node]]
) -> Iterator[Edit]:
    """Yield what folds a BatchNorm as the first model has it, or gives the second model's BatchNorm its epsilon.

    Args:
        models: Both.
        parts: Of their main graphs.
        pairs: Nodes in the same place.
    """
    for left, right in pairs:
        axis = _output_axis(right)
        if left.op_type != right.op_type or left.path or right.path or axis is None:
            continue
        weights = [_stored(model, node, 1) for model, node in zip(models, (left, right), strict=True)]
        norms = [_behind(model, part, node) for model, part, node in zip(models, parts, (left, right), strict=True)]
        if weights[0] is None or weights[1] is None or weights[0].shape != weights[1].shape:
            continue
        if norms[0] is not None and norms[1] is None:
            yield from _folded_otherwise(models, left, right, (weights[0], weights[1]), norms[0], axis)
        elif norms[1] is not None and norms[0] is None:
            yield from _kept_otherwise((weights[0], weights[1]), norms[1], axis)


def epsilon_of(
    plain_weight: Array, folded: Array, gamma: Array, variance: Array, likely: Sequence[float]
) -> float | None:
    """Return the epsilon with which a weight was folded; None where no one holds for all channels.

    Args:
        plain_weight: Outputs first, of any rank.
        folded: Of the same shape.
        gamma: A number an output.
        variance: Likewise.
        likely: What is taken where it is as close as what is computed.
    """
    rows = [array.reshape(len(array), -1) for array in (plain_weight, folded)]
    squares = (rows[0] ** 2).sum(axis=1)
    if not squares.all() or not gamma.all() or len(gamma) != len(squares):
        return None
    factors = (rows[0] * rows[1]).sum(axis=1) / squares
    largest = np.abs(rows[1]).max(axis=1)
    if not factors.all() or (np.abs(rows[1] - factors[:, None] * rows[0]).max(axis=1) > _CLOSE * largest).any():
        return None
    each = (gamma / factors) ** 2 - variance
    found = float(each[np.argmin(variance)])  # the smallest variance tells it best
    for epsilon in (*likely, float(f"{found:.3g}"), found):
        with np.errstate(all="ignore"):
            expected = gamma / np.sqrt(variance + epsilon)
        if (np.abs(factors - expected) <= _CLOSE * np.abs(factors)).all():
            return float(epsilon)
    return None


def _folded_otherwise(
    models: tuple[Model, Model], left: Node, right: Node, weights: tuple[Array, Array], norm: _Norm, axis: int
) -> Iterator[Edit]:
    rows = [np.moveaxis(weight, axis, 0) for weight in weights]
    likely = (norm.epsilon, 0.0, *choices_of("BatchNormalization", "epsilon"))
    epsilon = epsilon_of(rows[0], rows[1], norm.gamma, norm.variance, likely)
    bias, found = (_stored(model, node, 2) for model, node in zip(models, (left, right), strict=True))
    if epsilon is None or any(
        read and array is None for read, array in ((left.inputs[2:3], bias), (right.inputs[2:3], found))
    ):
        return
    zeros = np.zeros(len(norm.gamma))
    lacking = _lacking(zeros if bias is None else bias, zeros if found is None else found, norm, epsilon)
    if lacking is None or (epsilon == norm.epsilon and not lacking):
        return
    scale = norm.gamma / np.sqrt(norm.variance + norm.epsilon)
    folded = np.moveaxis(rows[0] * scale.reshape(-1, *[1] * (rows[0].ndim - 1)), 0, axis)
    shift = ((zeros if bias is None else bias) - norm.mean) * scale + norm.beta
    says = "has A's BatchNormalization folded into its weights"
    if epsilon != norm.epsilon:
        says += f" with `epsilon` {format_number(epsilon)}" if epsilon else " without its `epsilon`"
    says += f"{' and' if epsilon != norm.epsilon and lacking else ''}{lacking}"
    wanted = f"with {format_number(plain(norm.epsilon))}" if epsilon != norm.epsilon else "with all of it"
    change = set_operands({1: folded.astype(np.float32), 2: shift.astype(np.float32)})
    what = "epsilon" if epsilon != norm.epsilon else "BatchNormalization"
    yield Edit(right, "weight", what, plain(epsilon), wanted, change, says)


def _lacking(bias: Array, found: Array, norm: _Norm, epsilon: float) -> str | None:
    """In words what a folded bias is without; empty where it has all, None where it is something else."""
    scale = norm.gamma / np.sqrt(norm.variance + epsilon)
    ways: Mapping[str, Array] = {
        "": (bias - norm.mean) * scale + norm.beta,
        " without its mean": bias * scale + norm.beta,
        " without its `B`": (bias - norm.mean) * scale,
        " without the layer's own bias": -norm.mean * scale + norm.beta,
        " beside the layer's own bias, which it does not scale": bias - norm.mean * scale + norm.beta,
    }
    size = max(np.abs(bias * scale).max(), np.abs(norm.mean * scale).max(), np.abs(norm.beta).max(), 1e-30)
    return next((says for says, way in ways.items() if np.abs(way - found).max() <= _CLOSE * size), None)


def _kept_otherwise(weights: tuple[Array, Array], norm: _Norm, axis: int) -> Iterator[Edit]:
    rows = [np.moveaxis(weight, axis, 0) for weight in weights]
    likely = (norm.epsilon, 0.0, *choices_of("BatchNormalization", "epsilon"))
    epsilon = epsilon_of(rows[1], rows[0], norm.gamma, norm.variance, likely)
    if epsilon is not None and epsilon != norm.epsilon:
        change = set_attribute("epsilon", epsilon, _FLOAT)
        yield Edit(norm.node, "attribute", "epsilon", plain(norm.epsilon), plain(epsilon), change)


def _behind(model: Model, part: Part, node: Node) -> _Norm | None:
    """The BatchNorm that reads what a node gives, within a part."""
    found = next((each for each in part.nodes if each.inputs[:1] == node.outputs[:1]), None)
    if found is None or found.op_type != "BatchNormalization" or len(found.inputs) < 5:
        return None
    gamma, beta, mean, variance = (_stored(model, found, place) for place in range(1, 5))
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    epsilon = found.attribute("epsilon")
    return _Norm(found, gamma, beta, mean, variance, _DEFAULT if epsilon is None else float(epsilon))


def _output_axis(node: Node) -> int | None:
    """Along which axis of its weight a node has its outputs; None of those that are not looked at."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attribute("group") in (None, 1) else None
    if node.op_type == "Gemm" and all(node.attribute(name) in (None, 1.0) for name in ("alpha", "beta")):
        return 0 if node.attribute("transB") else 1
    return None


def _stored(model: Model, node: Node, position: int) -> Array | None:
    name = node.inputs[position] if position < len(node.inputs) else ""
    array = weight_of(model, model.main, name) if name else None
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else None
