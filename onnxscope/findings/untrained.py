"""Whether weights are as an initializer leaves them: the distributions that frameworks start from, and which fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxscope.analyses.weight_statistics import WeightRecord, WeightStatistics
from onnxscope.base.text import printable
from onnxscope.findings.kinds import Finding, listed

__all__ = ["find_untrained", "is_kernel"]

# Elements below which a distribution cannot be told; a bounded one is easier, for training breaks its bounds.
_FEWEST_BOUNDED, _FEWEST_NORMAL = 256, 2048
_ERRORS = 4  # standard errors that chance is given
_FEWEST_AGREEING = 3  # layers
_TRUNCATED_STD = 0.87962566103423978  # the deviation of a standard normal distribution cut at two deviations
_FRESH_NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def find_untrained(statistics: WeightStatistics) -> Iterator[Finding]:
    """Find the layers whose weights are as an initializer leaves them; at most one finding.

    Only kernels of enough numbers are judged, and it is said where several layers agree: three of them, or all where
    there are no more than two.

    Args:
        statistics: Of the model's parameters; those of biases and BatchNorms can acquit a kernel.
    """
    biases = {row.parameter.layer: row for row in statistics if row.parameter.role == "bias"}
    norms = _norms(statistics)
    judged: set[str] = set()
    untrained: dict[str, str] = {}
    for row in statistics:
        if is_kernel(row) and _can_be_judged(row):
            layer = row.parameter.layer or row.parameter.name
            judged.add(layer)
            name = _initializer_of(row, biases.get(row.parameter.layer), bounded=not all(norms.values()))
            if name is not None:
                untrained.setdefault(layer, f"{printable(row.parameter.name)} is {name}")
    if len(untrained) < min(_FEWEST_AGREEING, max(2, len(judged))):
        return
    first, example = next(iter(untrained.items()))
    fresh = f"; {sum(norms.values())} of {len(norms)} BatchNorms are as they were made" if any(norms.values()) else ""
    message = (
        f"weights look untrained, as an initializer leaves them, in {len(untrained)} of {len(judged)} layers that "
    )
    message += f"can be judged: {listed(untrained)} ({example}{fresh})"
    yield Finding(kind="untrained_weights", layer=first, channel=None, message=message)


def is_kernel(row: WeightRecord) -> bool:
    """Whether a parameter is the weight of a convolution or a linear layer, stored as real numbers."""
    parameter = row.parameter
    operand = parameter.operand
    return (
        operand is not None
        and operand.node.operator.cost in ("convolution", "product", "spreading")
        and operand.node.operator.attends is None
        and not operand.node.operator.integers
        and (operand.origin is None or operand.origin.dequantized is None)
        and parameter.role == "weight"
        and len(parameter.shape) > 1
        and "float" in parameter.dtype
    )


@dataclass(frozen=True)
class _Initializer:
    """A distribution around zero that frameworks start from.

    Attributes:
        name: What it is called in a message.
        size: The bound of a uniform distribution, the deviation of a normal one before it is cut.
        kind: `uniform`, `normal`, or `truncated` at two deviations, as Keras cuts its normal ones.
    """

    name: str
    size: float
    kind: str

    @property
    def std(self) -> float:
        """Its deviation."""
        return self.size * {"uniform": 1 / math.sqrt(3), "normal": 1.0, "truncated": _TRUNCATED_STD}[self.kind]

    def below(self, value: float) -> float:
        """The share of numbers below a value."""
        if self.kind == "uniform":
            return min(max((value / self.size + 1) / 2, 0.0), 1.0)
        share = math.erf(value / self.size / math.sqrt(2))
        if self.kind == "truncated":
            share = min(max(share / math.erf(math.sqrt(2)), -1.0), 1.0)
        return (1 + share) / 2

    def limit(self, count: int) -> float:
        """What none of so many numbers exceeds, but for one draw in a million."""
        if self.kind == "uniform":
            return self.size * (1 + 1e-6)
        uncut = self.size * math.sqrt(2 * math.log(count) + 2 * math.log(1e6))
        return min(uncut, 2 * self.size * (1 + 1e-6)) if self.kind == "truncated" else uncut


def _can_be_judged(row: WeightRecord) -> bool:
    overall = row.summary.overall
    return (
        overall.count >= _FEWEST_BOUNDED
        and not (overall.nan_count or overall.inf_count or row.parameter.folded)
        and row.summary.histogram is not None
        and row.parameter.channel_axis is not None
        and overall.min != overall.max
    )


def _initializer_of(row: WeightRecord, bias: WeightRecord | None, *, bounded: bool) -> str | None:
    """The initializer that a kernel and its bias fit; `bounded` leaves out normal ones, which training may keep."""
    fans = _fans(row)
    if fans is None:
        return None
    largest, overall = _largest(bias), row.summary.overall
    # PyTorch's bound of a bias; a transposed convolution counts its outputs as fan_in.
    if largest > (1 + 1e-6) / math.sqrt(min(fans)):
        return None
    may_be_normal = not bounded and not largest and overall.count >= _FEWEST_NORMAL
    fitting = [
        initializer
        for initializer in _initializers(*fans)
        if (may_be_normal or initializer.kind != "normal") and _fits(row, initializer)
    ]
    closest = min(fitting, key=lambda initializer: abs(math.log((overall.std or 1.0) / initializer.std)), default=None)
    return closest.name if closest is not None else None


def _largest(bias: WeightRecord | None) -> float:
    """The largest magnitude in a bias, 0 where there is none, infinite where it cannot be told."""
    if bias is None:
        return 0.0
    overall = bias.summary.overall
    if overall.min is None or overall.max is None or overall.nan_count or overall.inf_count or bias.parameter.folded:
        return math.inf
    return max(-overall.min, overall.max)


def _fans(row: WeightRecord) -> tuple[int, int] | None:
    """How many inputs and outputs a kernel connects, by the place of its output axis in the framework's shape."""
    shape, outputs = row.parameter.shape, row.parameter.channel_axis
    assert outputs is not None  # _can_be_judged asks
    inputs = {0: 1, 1: 0}.get(outputs, outputs - 1)
    if shape[inputs] * shape[outputs] == 0:
        return None
    places = math.prod(shape) // (shape[inputs] * shape[outputs])
    return shape[inputs] * places, shape[outputs] * places


def _initializers(fan_in: int, fan_out: int) -> Iterator[_Initializer]:
    """PyTorch's and Keras's defaults, and those that are named after Glorot, He and LeCun."""
    for fan, name in ((fan_in, "fan_in"), (fan_out, "fan_out")):
        for square in (1, 3, 6):
            yield _uniform(square / fan, f"sqrt({square} / {name})")
        for square in (1, 2):
            yield from _normals(square / fan, f"sqrt({square} / {name})")
    yield _uniform(6 / (fan_in + fan_out), "sqrt(6 / (fan_in + fan_out))")
    yield from _normals(2 / (fan_in + fan_out), "sqrt(2 / (fan_in + fan_out))")


def _uniform(square: float, formula: str) -> _Initializer:
    return _Initializer(f"uniform within {formula} = {math.sqrt(square):.4g}", math.sqrt(square), "uniform")


def _normals(square: float, formula: str) -> Iterator[_Initializer]:
    std = math.sqrt(square)
    yield _Initializer(f"normal with a deviation of {formula} = {std:.4g}", std, "normal")
    yield _Initializer(f"truncated normal with a deviation of {formula} = {std:.4g}", std / _TRUNCATED_STD, "truncated")


def _fits(row: WeightRecord, initializer: _Initializer) -> bool:
    """Whether mean, deviation, extremes and histogram are all within what chance leaves."""
    overall, histogram = row.summary.overall, row.summary.histogram
    if histogram is None or None in (overall.mean, overall.std, overall.min, overall.max):
        return False
    count, std = overall.count, initializer.std
    mean, kernel_std, low, high = (
        float(number or 0) for number in (overall.mean, overall.std, overall.min, overall.max)
    )
    if abs(mean) > _ERRORS * std / math.sqrt(count) or abs(kernel_std / std - 1) > _ERRORS * math.sqrt(0.5 / count):
        return False
    if max(-low, high) > initializer.limit(count):
        return False
    shares = [initializer.below(edge) for edge in histogram.edges]
    # Between the extremes and the ends of the distribution some numbers are missing, but not more than chance leaves.
    if count * (1 - shares[-1] + shares[0]) > 20:
        return False
    expected = np.diff(shares) * count
    usable = expected >= 5
    if usable.sum() < 5:
        return False
    counts = np.array(histogram.counts)
    deviation = float((np.square(counts - expected)[usable] / expected[usable]).sum())
    bins = int(usable.sum())
    return deviation < bins + _ERRORS * math.sqrt(2 * bins)


def _norms(statistics: WeightStatistics) -> dict[str, bool]:
    """Whether each BatchNorm stands as it was made, by layer: that proves nothing, but one that moved was trained."""
    norms: dict[str, bool] = {}
    for row in statistics:
        parameter, overall = row.parameter, row.summary.overall
        if parameter.operand is not None and parameter.operand.node.op_type == "BatchNormalization":
            fresh = overall.min == overall.max == _FRESH_NORM.get(parameter.role)
            norms[parameter.layer] = norms.get(parameter.layer, True) and fresh
    return norms
