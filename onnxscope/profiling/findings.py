"""What a profile gives reason to look at: dead channels, duplicates, non-finite values, trouble in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxscope.findings.kinds import FLOAT16_LARGEST, Finding, by_gravity, count_odd
from onnxscope.profiling.outliers import find_outliers
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import TapProfile
from onnxscope.runtime.half_range import unfit_sentence

__all__ = ["find", "saturated_fraction"]

_FLOAT16_SMALLEST = 2.0**-24  # its smallest subnormal number
_UNDERFLOW_SHARE = 0.01
_FILL = -3.3e38  # exporters mask with the least number of float32, -3.403e38, to which scores are added
_SATURATED_SHARE = 0.5
_CLIPPED_SHARE = 0.01  # a calibration leaves out a tenth of that
_MARGIN = 1 / 128  # of the distance between the limits


def find(profile: Profile) -> tuple[Finding, ...]:
    """Return everything that a profile gives reason to look at, the gravest first, then in execution order."""
    findings = [*_non_finite(profile), *profile.unstable, *_unfit(profile)]
    is_fed_constants = any(_is_constant(tap).all() for tap in profile.inputs)
    for tap in profile.reached:
        findings += _dead_and_constant(tap, is_fed_constants=is_fed_constants)
        findings += _duplicates(tap)
        findings += _overflow(profile, tap)
        findings += _underflow(tap)
        findings += _saturation(tap)
        findings += _clipped(tap)
        findings += find_outliers(profile, tap)
    return by_gravity(findings)


def saturated_fraction(tap: TapProfile) -> float | None:
    """Return the share of the examined elements within 1/128 of a limit of the tap's bounded activation function.

    Only the upper limit counts where the lower one is 0 and many zeros are what the function is for (Clip, as ReLU6).
    None for an unbounded function, and where nothing was examined.
    """
    total = tap.histogram.total
    if tap.limits is None or not total:
        return None
    low, high = tap.limits
    margin = (high - low) * _MARGIN
    near = tap.histogram.count_between(high - margin, float("inf"))
    if not (low == 0 and high > 1):
        near += tap.histogram.count_between(float("-inf"), low + margin)
    return min(near / total, 1.0)


def _non_finite(profile: Profile) -> Iterator[Finding]:
    maker: TapProfile | None = None
    for tap in (*profile.inputs, *profile.reached):
        state, moments = tap.state, tap.state.moments
        channels = np.flatnonzero(moments.nan + moments.inf)
        if not channels.size:
            continue
        if tap.masked and not moments.nan.any():
            message = f"holds {count_odd(0, int(moments.inf.sum()))}, which come from a mask, a fill or a limit"
            yield Finding(kind="infinite_by_design", layer=tap.layer or tap.name, channel=None, message=message)
        elif maker is None:
            maker = tap
            for channel in channels.tolist():
                sample = profile.sample_name(int(state.nonfinite_sample[channel]))
                odd_numbers = count_odd(int(moments.nan[channel]), int(moments.inf[channel]))
                where = "the input holds" if tap in profile.inputs else "makes"
                message = f"{where} {odd_numbers}, first in {sample}; nothing observed before it does"
                yield Finding(
                    kind="non_finite", layer=tap.layer or tap.name, channel=_channel(tap, channel), message=message
                )
        elif maker.name != tap.name:
            sample = profile.sample_name(int(state.nonfinite_sample[channels].min()))
            odd_numbers = count_odd(int(moments.nan.sum()), int(moments.inf.sum()))
            message = f"holds {odd_numbers} in {channels.size} of {moments.count.size} channels, first in {sample}; "
            message += f"they appear first in {maker.layer or maker.name}"
            yield Finding(kind="non_finite_spread", layer=tap.layer, channel=None, message=message)


def _unfit(profile: Profile) -> Iterator[Finding]:
    """What a CPU hides: numbers of half precision that live on in float32; at most one finding."""
    if profile.unfit:
        message = unfit_sentence(profile.unfit)
        yield Finding(kind="does_not_fit", layer=profile.unfit[0].layer, channel=None, message=message)


def _is_constant(tap: TapProfile) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Of each channel, whether it held one value everywhere."""
    moments = tap.state.moments
    return np.asarray((moments.min == moments.max) & (moments.count > 1) & (moments.nan + moments.inf == 0))


def _dead_and_constant(tap: TapProfile, *, is_fed_constants: bool) -> Iterator[Finding]:
    """Dead channels, and constant ones; not those of a value that hangs on a constant input, and is constant itself."""
    dead = set(tap.dead_channels)
    moments = tap.state.moments
    for channel in sorted(dead):
        yield Finding(
            kind="dead_channel",
            layer=tap.layer,
            channel=channel,
            message=f"zero in every element of all {_samples(tap)}",
        )
    constant = _is_constant(tap)
    if is_fed_constants and constant.all():
        return
    for channel in np.flatnonzero(constant).tolist():
        if channel not in dead and tap.channel_axis is not None:
            value = float(moments.min[channel])
            message = f"{value:.6g} in every element of all {_samples(tap)}"
            yield Finding(kind="constant_channel", layer=tap.layer, channel=channel, message=message)


def _duplicates(tap: TapProfile) -> Iterator[Finding]:
    if tap.channel_axis is None or tap.heads is not None:  # heads are compared by all that they give
        return
    state, moments = tap.state, tap.state.moments
    first: dict[int, int] = {}
    for channel in np.flatnonzero((moments.min < moments.max) & (moments.count > 1)).tolist():
        fingerprint = int(state.fingerprint[channel])
        if fingerprint in first:
            message = f"the same as channel {first[fingerprint]} in all {_samples(tap)}"
            yield Finding(kind="duplicate_channel", layer=tap.layer, channel=channel, message=message)
        else:
            first[fingerprint] = channel


def _overflow(profile: Profile, tap: TapProfile) -> Iterator[Finding]:
    state, moments = tap.state, tap.state.moments
    if tap.dtype == "float16":
        return
    least = np.where(moments.min < _FILL, 0.0, moments.min)  # no layer makes such a number: a mask or a fill does
    beyond = (moments.count > 0) & ((moments.max > FLOAT16_LARGEST) | (least < -FLOAT16_LARGEST))
    for channel in np.flatnonzero(beyond).tolist():
        low, high = float(least[channel]), float(moments.max[channel])
        value, samples = (high, state.max_sample) if high >= -low else (low, state.min_sample)
        sample = profile.sample_name(int(samples[channel]))
        message = f"reaches {value:.6g} in {sample}, beyond float16's {FLOAT16_LARGEST:,.0f}"
        yield Finding(kind="float16_overflow", layer=tap.layer, channel=_channel(tap, channel), message=message)


def _underflow(tap: TapProfile) -> Iterator[Finding]:
    tiny = tap.histogram.count_tiny(_FLOAT16_SMALLEST)
    nonzero = tap.histogram.total - int(tap.state.moments.zeros.sum())
    if nonzero > 0 and tiny / nonzero > _UNDERFLOW_SHARE:
        message = f"{tiny / nonzero:.1%} of what is not zero is below 2**-24 in magnitude, and zero in float16"
        yield Finding(kind="float16_underflow", layer=tap.layer, channel=None, message=message)


def _saturation(tap: TapProfile) -> Iterator[Finding]:
    share = saturated_fraction(tap)
    if share is not None and tap.limits is not None and share > _SATURATED_SHARE:
        low, high = tap.limits
        message = f"{share:.1%} of the values are within 1/128 of a limit of {low:g} to {high:g}"
        yield Finding(kind="saturation", layer=tap.layer, channel=None, message=message)


def _clipped(tap: TapProfile) -> Iterator[Finding]:
    """A quantized value of which many numbers have the codes at the ends, where no function limits it as well."""
    if tap.codes is None or tap.limits is not None or tap.codes.clipped_fraction <= _CLIPPED_SHARE:
        return
    grid = tap.codes.grid
    low, high = ((end - grid.zero_point) * grid.scale for end in (grid.lowest, grid.highest))
    share = f"{tap.codes.clipped_fraction:.1%} of the values"
    message = f"{share} are rounded to an end of what the codes reach, {low:.4g} to {high:.4g}"
    yield Finding(kind="clipped_activation", layer=tap.layer, channel=None, message=message)


def _samples(tap: TapProfile) -> str:
    return "1 sample seen" if tap.samples == 1 else f"{tap.samples:,} samples"


def _channel(tap: TapProfile, channel: int) -> int | None:
    return None if tap.channel_axis is None else channel
