"""What a model's weights, its input and the taps in it give reason to look at, without a profile.

Each function says only what the numbers bear out: a finding that is often wrong teaches people to skip the list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxscope.errors import InputError
from onnxscope.findings import FLOAT16_LARGEST, GRAVITY, Finding, FindingKind, count_odd
from onnxscope.inputs import Preset, load_preset, preset_of_model
from onnxscope.model import Model
from onnxscope.outputs import printable
from onnxscope.parameters import read_parameter
from onnxscope.selectors import Tap
from onnxscope.structure import Graph, Node
from onnxscope.weight_statistics import WeightRecord, WeightStatistics

__all__ = ["find_in_input", "find_in_weights", "find_unfused"]

Array = np.ndarray[Any, Any]

_KERNELS = frozenset({"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
# Elements below which a distribution cannot be told; a bounded one is easier, for training breaks its bounds.
_FEWEST_BOUNDED, _FEWEST_NORMAL = 256, 2048
_ERRORS = 4  # standard errors that chance is given
_FEWEST_AGREEING = 3  # layers
_CLIPPED_SHARE, _CLIPPED_COUNT = 0.001, 8
_FEWEST_LEVELS = 64  # distinct numbers below which weights were quantized, and piles are what that leaves
_SAMPLED = 65_536

# What onnxruntime's CPU provider fuses, as its optimized graphs show (1.32).
_FOLDED = {"Conv": ("BatchNormalization", "Add", "Mul"), "ConvTranspose": ("BatchNormalization",)}
_FUSED = {
    "Conv": ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid"),
    "Gemm": (
        *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"),
        *("Elu", "Selu", "Softplus", "Softsign", "ThresholdedRelu"),
    ),
}


def find_in_weights(statistics: WeightStatistics, model: Model) -> tuple[Finding, ...]:
    """Return what weights give reason to look at, the gravest first, then in the order of parameters.

    Numbers that are not finite or beyond float16, kernels that are constant, zero or repeated, piles at the extremes,
    and weights as an initializer leaves them. Values are read only where the statistics raise a suspicion.

    Args:
        statistics: Of the model's parameters, or of some of them.
        model: Where their values are read.
    """
    found: list[Finding] = []
    for row in statistics:
        found += _odd_numbers(row)
        if _is_kernel(row):
            found += _constant_or_zero(row)
            found += _duplicates(row, model)
            found += _clipped(row, model)
    found += _untrained(statistics)
    return _sorted(found)


def find_in_input(record: Mapping[str, Any], model: Model) -> tuple[Finding, ...]:
    """Return what speaks against the pre-processing of an input.

    Images are judged by the presets: the one used and the one that the model records. Arrays are judged by their
    numbers: those that the recorded preset cannot make, those between 0 and 1 where it takes the mean away, and, where
    the model records none and does not scale its input itself, those that look like 8-bit pixels. Random numbers are
    not judged.

    Args:
        record: The `input` record of results.
        model: What it was fed to.
    """
    recorded = _preset(lambda: preset_of_model(model.provenance.preprocess if model.provenance else None))
    if record["kind"] == "images" and recorded is not None:
        given = record["preset"]
        used = _preset(lambda: load_preset(given if isinstance(given, str) else json.dumps(given), files=False))
        name = model.inputs[0].name if model.inputs else ""
        return _sorted(_other_preset(used, recorded, name)) if used is not None else ()
    if record["kind"] != "arrays":
        return ()
    pictures = [
        each
        for each in record["inputs"]
        if "mean" in each
        and each["channel_axis"] is not None
        and "float" in each["dtype"]
        and len(each["mean"]) in (1, 3)
    ]
    found = [_other_range(each, recorded) if recorded else _raw_pixels(each, model) for each in pictures]
    return _sorted(finding for finding in found if finding is not None)


def find_unfused(taps: Iterable[Tap], model: Model) -> tuple[Finding, ...]:
    """Return which taps keep onnxruntime from fusing a layer with what follows it; at most one finding.

    A value that is observed cannot disappear into a fused operator. These are, on the CPU: the output of a Conv or a
    Gemm before its activation function, and that of a Conv or ConvTranspose before what would be folded into its
    weights (BatchNormalization; for a Conv also the addition of, or multiplication by, a constant).

    Args:
        taps: What was observed.
        model: Where it was observed.
    """
    fusions = {tap.layer: fusion for tap in taps if not tap.path and (fusion := _fusion(model.main, tap.value))}
    if not fusions:
        return ()
    kinds = " and ".join(dict.fromkeys(fusions.values()))
    message = f"observed where onnxruntime would fuse {kinds}: {_listed(fusions)}; "
    message += "numbers from there on may differ from the deployed model's by rounding, and the run is slower"
    return (Finding("unfused", next(iter(fusions)), None, message),)


def _sorted(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: GRAVITY.index(finding.kind)))


def _listed(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    unique = [printable(name) for name in dict.fromkeys(names)]
    rest = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ", ".join(unique[:3]) + rest


# Weights


def _is_kernel(row: WeightRecord) -> bool:
    """Whether a parameter is the weight of a convolution or a linear layer, stored as real numbers."""
    parameter = row.parameter
    operand = parameter.operand
    return (
        operand is not None
        and operand.node.op_type in _KERNELS
        and (operand.origin is None or operand.origin.dequantized is None)
        and parameter.role == "weight"
        and len(parameter.shape) > 1
        and "float" in parameter.dtype
    )


def _odd_numbers(row: WeightRecord) -> Iterator[Finding]:
    parameter, overall = row.parameter, row.summary.overall
    if overall.nan_count or overall.inf_count:
        what = count_odd(overall.nan_count, overall.inf_count)
        yield _finding("non_finite_weight", row, f"holds {what} in {overall.count:,} numbers")
    if overall.min is not None and overall.max is not None and parameter.dtype != "float16":
        largest = max(overall.max, overall.min, key=abs)
        if abs(largest) > FLOAT16_LARGEST:
            yield _finding("float16_weight", row, f"reaches {largest:.6g}, beyond float16's {FLOAT16_LARGEST:,.0f}")


def _constant_or_zero(row: WeightRecord) -> Iterator[Finding]:
    overall = row.summary.overall
    if overall.min is None or overall.nan_count or overall.inf_count or overall.count < 2:
        return
    if overall.min == overall.max:
        yield _finding("constant_weight", row, f"is {overall.min:.6g} in every one of its {overall.count:,} numbers")
        return
    for channel in row.summary.zero_channels:
        yield _finding("zero_kernel", row, "is zero in every number of this channel", channel)


def _duplicates(row: WeightRecord, model: Model) -> Iterator[Finding]:
    """Channels with the weights of an earlier one; a filter that all channels share (blur, upsampling) is meant so."""
    channels, axis = row.summary.channels, row.parameter.channel_axis
    if channels is None or axis is None or row.parameter.groups > 1:
        return
    numbers = list(zip(channels.mean, channels.std, channels.min, channels.max, strict=True))
    alike: dict[Any, list[int]] = {}
    for channel, key in enumerate(numbers):
        if key[2] is not None and key[2] != key[3]:
            alike.setdefault(key, []).append(channel)
    suspects = [group for group in alike.values() if len(group) > 1]
    if not suspects or len(suspects[0]) == len(numbers):
        return
    kernels = np.moveaxis(read_parameter(model, row.parameter), axis, 0)
    for group in suspects:
        seen: dict[bytes, int] = {}
        for channel in group:
            first = seen.setdefault(kernels[channel].tobytes(), channel)
            if first != channel:
                yield _finding("duplicate_kernel", row, f"is the same in this channel as in channel {first}", channel)


def _clipped(row: WeightRecord, model: Model) -> Iterator[Finding]:
    """Many numbers at the least or the largest value, and few right beside it."""
    histogram, overall = row.summary.histogram, row.summary.overall
    if histogram is None or overall.min == overall.max:
        return
    enough = max(_CLIPPED_COUNT, math.floor(_CLIPPED_SHARE * overall.count) + 1)
    ends = [(overall.min, histogram.counts[0], "least"), (overall.max, histogram.counts[-1], "largest")]
    suspects = [(value, count, end) for value, count, end in ends if value and count >= enough]
    if not suspects:
        return
    values = read_parameter(model, row.parameter).reshape(-1)
    if np.unique(values[:: max(1, values.size // _SAMPLED)].astype(np.float64)).size < min(_FEWEST_LEVELS, values.size):
        return
    piles = []
    for value, count, end in suspects:
        pile = int(np.count_nonzero(values == value))
        if pile >= enough and pile > 2 * (count - pile):
            piles.append(f"{pile:,} of {overall.count:,} numbers are exactly the {end}, {value:.6g}")
    if piles:
        yield _finding("clipped_weight", row, f"looks clipped: {' and '.join(piles)}")


def _finding(kind: FindingKind, row: WeightRecord, message: str, channel: int | None = None) -> Finding:
    parameter = row.parameter
    return Finding(kind, parameter.layer or parameter.name, channel, f"{printable(parameter.name)} {message}")


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
        whole = self.size * math.sqrt(2 * math.log(count) + 2 * math.log(1e6))
        return min(whole, 2 * self.size * (1 + 1e-6)) if self.kind == "truncated" else whole


_TRUNCATED_STD = 0.87962566103423978  # the deviation of a standard normal distribution cut at two deviations


def _untrained(statistics: WeightStatistics) -> Iterator[Finding]:
    """Layers whose weights are as an initializer leaves them; said where several layers agree."""
    biases = {row.parameter.layer: row for row in statistics if row.parameter.role == "bias"}
    norms = _norms(statistics)
    judged: set[str] = set()
    untrained: dict[str, str] = {}
    for row in statistics:
        if _is_kernel(row) and _can_be_judged(row):
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
    message += f"can be judged: {_listed(untrained)} ({example}{fresh})"
    yield Finding("untrained_weights", first, None, message)


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
    told = not bounded and not largest and overall.count >= _FEWEST_NORMAL
    fitting = [each for each in _initializers(*fans) if (told or each.kind != "normal") and _fits(row, each)]
    closest = min(fitting, key=lambda each: abs(math.log((overall.std or 1.0) / each.std)), default=None)
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
    mean, found, low, high = (float(each or 0) for each in (overall.mean, overall.std, overall.min, overall.max))
    if abs(mean) > _ERRORS * std / math.sqrt(count) or abs(found / std - 1) > _ERRORS * math.sqrt(0.5 / count):
        return False
    if max(-low, high) > initializer.limit(count):
        return False
    shares = [initializer.below(edge) for edge in histogram.edges]
    # Between the extremes and the ends of the distribution some numbers are missing, but not more than chance leaves.
    if count * (1 - shares[-1] + shares[0]) > 20:
        return False
    expected = np.diff(shares) * count
    told = expected >= 5
    if told.sum() < 5:
        return False
    counts = np.array(histogram.counts)
    deviation = float((np.square(counts - expected)[told] / expected[told]).sum())
    bins = int(told.sum())
    return deviation < bins + _ERRORS * math.sqrt(2 * bins)


_FRESH_NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def _norms(statistics: WeightStatistics) -> dict[str, bool]:
    """Whether each BatchNorm stands as it was made, by layer: that proves nothing, but one that moved was trained."""
    norms: dict[str, bool] = {}
    for row in statistics:
        parameter, overall = row.parameter, row.summary.overall
        if parameter.operand is not None and parameter.operand.node.op_type == "BatchNormalization":
            fresh = overall.min == overall.max == _FRESH_NORM.get(parameter.role)
            norms[parameter.layer] = norms.get(parameter.layer, True) and fresh
    return norms


# Inputs


def _preset(read: Callable[[], Preset]) -> Preset | None:
    try:
        return read()
    except InputError:
        return None


def _other_preset(used: Preset, recorded: Preset, name: str) -> Iterator[Finding]:
    if used.order != recorded.order:
        message = f"prepared as {used.order} with the preset {used.name!r}, and the model records {recorded.order} "
        yield Finding("input_order", name, None, message + f"({recorded.name!r})")
    by_colour = [_range(preset, 3) if preset.order == "RGB" else _range(preset, 3)[::-1] for preset in (used, recorded)]
    if not np.allclose(by_colour[0], by_colour[1], rtol=1e-3, atol=1e-6):
        message = f"prepared with the preset {used.name!r}, which gives {_range_text(used)}, and the model records "
        yield Finding("input_range", name, None, message + f"{recorded.name!r}, which gives {_range_text(recorded)}")


def _range(preset: Preset, channels: int) -> Array:
    """What a preset makes of 0 and 255: an array of shape (channels, 2), ascending in each row."""
    mean, std = (np.broadcast_to(np.asarray(each, np.float64), channels) for each in (preset.mean, preset.std))
    ends = (np.array([[0.0, 255.0]]) / preset.divisor - mean[:, None]) / std[:, None]
    return np.sort(ends, axis=1)


def _range_text(preset: Preset) -> str:
    ends = _range(preset, 3)
    return f"numbers from {_short(ends.min())} to {_short(ends.max())}"


def _short(number: float) -> str:
    return f"{number:.3g}"


def _other_range(array: Mapping[str, Any], recorded: Preset) -> Finding | None:
    """Numbers that the recorded preset does not make of any picture, or that look as if it had been left out."""
    low, high = array["min"], array["max"]
    channels = len(low)
    if None in low or None in high or max(len(recorded.mean), len(recorded.std)) > channels:
        return None
    ends = _range(recorded, channels)
    slack = 0.02 * (ends[:, 1] - ends[:, 0])
    held = f"holds numbers from {_short(min(low))} to {_short(max(high))}"
    makes = f"the preset that the model records, {recorded.name!r}, makes {_short(ends.min())} to {_short(ends.max())}"
    outside = (np.array(low) < ends[:, 0] - slack) | (np.array(high) > ends[:, 1] + slack)
    if outside.any():
        channel = int(np.flatnonzero(outside)[0])
        if not np.any((min(low) < ends.min() - slack.max(), max(high) > ends.max() + slack.max())):
            held = f"holds numbers from {_short(low[channel])} to {_short(high[channel])} in channel {channel}"
            makes = f"the preset that the model records, {recorded.name!r}, makes {_short(ends[channel, 0])} to "
            makes += _short(ends[channel, 1])
        return Finding("input_range", array["name"], None, f"{held}; {makes}")
    if min(low) >= 0 and max(high) <= 1 and max(high) > 0.2:
        if ends.min() <= -0.5:
            why = "it looks as if mean and deviation had been left out"
        elif ends.max() >= 100:
            why = "it looks divided by 255 once too often"
        else:
            return None
        return Finding("input_range", array["name"], None, f"{held}; {makes}: {why}")
    return None


def _raw_pixels(array: Mapping[str, Any], model: Model) -> Finding | None:
    """Numbers like 8-bit pixels, for a model that records no preset and does not scale them itself."""
    low, high = array["min"], array["max"]
    if None in low or None in high or min(low) < 0 or not 128 <= max(high) <= 255:
        return None
    readers = model.main.readers.get(array["name"], ())
    while len(readers) == 1 and readers[0].op_type in ("Transpose", "Identity", "Reshape"):
        readers = model.main.readers.get(readers[0].outputs[0], ())
    if not readers or any(not reader.op_type.startswith("Conv") for reader in readers):
        return None
    message = (
        f"holds numbers from {_short(min(low))} to {_short(max(high))}, like pixels that were not scaled, and goes "
    )
    message += "into a convolution as it is; the model records no preset that would say whether that is meant"
    return Finding("input_range", array["name"], None, message)


# Taps


def _fusion(graph: Graph, value: str) -> str | None:
    """What onnxruntime would fuse over a value if that were not observed: `Conv with Relu`, or None."""
    reader = _only_reader(graph, value)
    node = graph.producers.get(value)
    while node is not None and node.op_type not in _FOLDED and node.op_type not in _FUSED:
        source = node.inputs[0] if node.inputs else ""
        maker = graph.producers.get(source)
        if _only_reader(graph, source) is not node or not _is_folded(graph, node, source):
            return None
        node = maker
    if node is None or reader is None or not node.is_standard:
        return None
    kind = node.op_type
    if reader.op_type in _FUSED.get(kind, ()):
        return f"{kind} with {reader.op_type}"
    if reader.op_type in _FOLDED.get(kind, ()) and _is_folded(graph, reader, value):
        return f"{kind} with {reader.op_type}"
    return None


def _is_folded(graph: Graph, node: Node, value: str) -> bool:
    """Whether a node could be folded into the weights of the layer that makes its first input."""
    if node.op_type not in _FOLDED["Conv"] or node.inputs[0] != value:
        return False
    return all(name in graph.constants for name in node.inputs[1:])


def _only_reader(graph: Graph, value: str) -> Node | None:
    readers = graph.readers.get(value, ())
    alone = len(readers) == 1 and value not in graph.outputs and readers[0].is_standard
    return readers[0] if alone else None
