"""Findings on what quantizers fail on, and on the heads of an attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxscope.findings.kinds import FLOAT16_LARGEST, Finding
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import TapProfile

__all__ = ["find_outliers"]

# A massive activation by Sun et al., "Massive Activations in Large Language Models", 2024.
_MASSIVE = 100.0
_TIMES_MEDIAN = 1000.0
_FEW = 0.01
_OUTLIER = 20.0  # times the median of all channels: over four bits of every other channel's eight are lost
_FEWEST_CHANNELS = 16
_SINK = 0.5
_EVEN = 0.999
_ALL = 0.999
_ALIKE = 0.999


def find_outliers(profile: Profile, tap: TapProfile) -> Iterator[Finding]:
    """Yield massive activations and outlying channels; of an attention's shares heads that are dead, alike or sinks."""
    if tap.heads is not None:
        yield from _heads(tap)
        return
    if tap.masked or tap.dtype == "bool" or "int" in tap.dtype:
        return
    largest = tap.channel_magnitudes
    magnitude = max((abs(number) for number in (tap.overall.min, tap.overall.max) if number is not None), default=0.0)
    overflows = magnitude > FLOAT16_LARGEST  # which is said by itself
    is_massive = tap.massive is not None and magnitude > _MASSIVE and tap.massive > _TIMES_MEDIAN
    if is_massive and not overflows and _is_rare(tap, magnitude):
        channel = int(largest.argmax()) if largest.size else None
        message = f"reaches {magnitude:.4g}, {tap.massive:,.0f} times the median magnitude"
        yield Finding(kind="massive_activation", layer=tap.layer, channel=channel, message=message)
    if tap.token is not None and tap.token.ratio > _OUTLIER:
        token = tap.token
        message = (
            f"token {token.token} of {profile.sample_name(token.sample)} reaches {token.ratio:.3g} times as far as"
        )
        message += " the median token of its sample"
        yield Finding(kind="outlier_token", layer=tap.layer, channel=None, message=message)
    alive = largest[(largest > 0) & np.isfinite(largest)]
    if alive.size < _FEWEST_CHANNELS:
        return
    median = float(np.median(alive))
    for channel in np.flatnonzero(np.isfinite(largest) & (largest > _OUTLIER * median)).tolist():
        size = float(largest[channel])
        times = f"{size / median:.3g} times as far as the median channel"
        message = f"reaches {size:.4g}, {times}: one scale for all leaves the others few codes"
        yield Finding(kind="outlier_channel", layer=tap.layer, channel=channel, message=message)


def _is_rare(tap: TapProfile, magnitude: float) -> bool:
    """Whether few numbers are as large, as few are not where a mask is added."""
    limit = magnitude * _TIMES_MEDIAN / (tap.massive or 1.0)
    count = tap.histogram.count_between(limit, np.inf) + tap.histogram.count_between(-np.inf, -limit)
    return count <= _FEW * tap.histogram.total


def _heads(tap: TapProfile) -> Iterator[Finding]:
    heads = tap.heads
    assert heads is not None
    rows = zip(heads.first_key_share, heads.evenness, strict=True)
    dead = set()
    for head, (first, even) in enumerate(rows):
        message = ""
        if even is not None and even > _EVEN:
            message = "gives every key that it sees the same share"
        elif first is not None and first > _ALL:
            message = f"gives {first:.2%} of its attention to the first key"
        if message:
            dead.add(head)
            yield Finding(kind="dead_head", layer=tap.layer, channel=head, message=f"head {head} {message}")
        elif first is not None and first > _SINK:
            message = f"head {head} gives {first:.0%} of its attention to the first key"
            yield Finding(kind="attention_sink", layer=tap.layer, channel=head, message=message)
    for other, head, cosine in heads.alike:
        if cosine > _ALIKE and not {other, head} & dead:
            message = f"head {head} attends as head {other} does: cosine {cosine:.5g}"
            yield Finding(kind="duplicate_head", layer=tap.layer, channel=head, message=message)
