"""What the weights of a model give reason to look at, without a profile.

Only what the numbers bear out: a finding that is often wrong teaches people to skip the list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxscope.analyses.weight_statistics import WeightRecord, WeightStatistics
from onnxscope.base.text import printable
from onnxscope.findings.kinds import FLOAT16_LARGEST, Finding, FindingKind, by_gravity, count_odd
from onnxscope.findings.untrained import find_untrained, is_kernel
from onnxscope.model.loading import Model
from onnxscope.runtime.masks import Masks, find_masks
from onnxscope.runtime.stored_values import read_parameter

__all__ = ["find_in_weights"]

_CLIPPED_SHARE, _CLIPPED_COUNT = 0.001, 8
_FEWEST_LEVELS = 64  # distinct numbers below which weights were quantized, and piles are what that leaves
_SAMPLED = 65_536


def find_in_weights(statistics: WeightStatistics, model: Model) -> tuple[Finding, ...]:
    """Return what weights give reason to look at, the gravest first, then in the order of parameters.

    Numbers that are not finite or beyond float16, kernels that are constant, zero or repeated, piles at the extremes,
    and weights as an initializer leaves them. Values are read only where the statistics raise a suspicion.

    Args:
        statistics: Of the model's parameters, or of some of them.
        model: Where their values are read.
    """
    findings: list[Finding] = []
    may_mask = any(row.summary.overall.inf_count or _is_beyond_half(row) for row in statistics)
    masks = find_masks(model) if may_mask else Masks(frozenset(), frozenset())
    for row in statistics:
        findings += _odd_numbers(row, masks)
        if is_kernel(row):
            findings += _constant_or_zero(row)
            findings += _duplicates(row, model)
            findings += _clipped(row, model)
    findings += find_untrained(statistics)
    return by_gravity(findings)


def _odd_numbers(row: WeightRecord, masks: Masks) -> Iterator[Finding]:
    parameter, overall = row.parameter, row.summary.overall
    if (parameter.graph.path, parameter.initializer) in masks.constants:
        odd_numbers = count_odd(overall.nan_count, overall.inf_count)
        yield _finding("infinite_by_design", row, f"is a mask or a limit: {odd_numbers} in {overall.count:,} numbers")
    elif overall.nan_count or overall.inf_count:
        odd_numbers = count_odd(overall.nan_count, overall.inf_count)
        yield _finding("non_finite_weight", row, f"holds {odd_numbers} in {overall.count:,} numbers")
    if _is_beyond_half(row) and (parameter.graph.path, parameter.initializer) not in masks.large:
        largest = max(overall.max or 0.0, overall.min or 0.0, key=abs)
        yield _finding("float16_weight", row, f"reaches {largest:.6g}, beyond float16's {FLOAT16_LARGEST:,.0f}")


def _is_beyond_half(row: WeightRecord) -> bool:
    overall = row.summary.overall
    largest = max(abs(overall.max or 0.0), abs(overall.min or 0.0))
    return row.parameter.dtype != "float16" and largest > FLOAT16_LARGEST


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
        first_by_kernel: dict[bytes, int] = {}
        for channel in group:
            first = first_by_kernel.setdefault(kernels[channel].tobytes(), channel)
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
    return Finding(
        kind=kind,
        layer=parameter.layer or parameter.name,
        channel=channel,
        message=f"{printable(parameter.name)} {message}",
    )
