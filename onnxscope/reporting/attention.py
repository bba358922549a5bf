"""What deserves attention, in plain words and the gravest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from onnxscope.analyses.feature_maps import FeatureMaps
from onnxscope.analyses.weight_statistics import WeightStatistics
from onnxscope.base.text import printable
from onnxscope.comparison.result import Comparison
from onnxscope.findings.kinds import Finding, by_gravity
from onnxscope.findings.of_inputs import find_in_input, find_in_preparation
from onnxscope.findings.of_weights import find_in_weights
from onnxscope.findings.unfused import find_unfused
from onnxscope.findings.unstable import find_unstable_layers
from onnxscope.model.loading import Model
from onnxscope.preparing.prepared_result import Preparation
from onnxscope.profiling.dataset_statistics import DatasetStatistics
from onnxscope.reporting.content import Attention

__all__ = ["attention_of"]

_LISTED = 6  # channels that a sentence names
_ENOUGH = 16  # samples from which on a channel that is always zero is more than a remark
_BAD = frozenset({"non_finite_weight", "non_finite", "non_finite_spread", "does_not_fit"})
_MINOR = frozenset(
    {
        *("duplicate_channel", "constant_channel", "duplicate_kernel", "float16_underflow", "unfused"),
        *(
            "infinite_by_design",
            "attention_sink",
            "duplicate_head",
            "massive_activation",
            "outlier_channel",
            "outlier_token",
        ),
    }
)
_OF_KERNELS = frozenset({"zero_kernel", "duplicate_kernel"})
_PLURAL = {
    "zero_kernel": "have kernels of nothing but zeros",
    "duplicate_kernel": "have the same kernel as another one",
    "dead_channel": "are zero everywhere {seen}",
    "constant_channel": "hold one value everywhere {seen}",
    "duplicate_channel": "hold the same as another one {seen}",
}


def attention_of(
    model: Model,
    stored: WeightStatistics,
    maps: FeatureMaps | None,
    statistics: DatasetStatistics | None,
    comparison: Comparison | None,
    unreachable: Sequence[tuple[str, str]],
    preparation: Preparation | None = None,
) -> tuple[Attention, ...]:
    """Gather what the results of one report give reason to look at.

    Args:
        model: What they are about.
        stored: Of its parameters.
        maps: Of the inputs shown, None where nothing was run.
        statistics: Of the inputs or of a dataset.
        comparison: With another model.
        unreachable: Name and reason of taps that could not be observed.
        preparation: What running statistics say of how pictures were prepared.
    """
    blamed = _blamed(comparison) if comparison is not None else ()
    findings = _findings(model, stored, maps, statistics)
    if preparation is not None:
        name = model.inputs[0].name
        findings = by_gravity((*findings, *find_in_preparation(preparation, name)))
    return (*blamed, *_attention(findings, stored, statistics, unreachable))


def _findings(
    model: Model, stored: WeightStatistics, maps: FeatureMaps | None, statistics: DatasetStatistics | None
) -> tuple[Finding, ...]:
    """Everything that there is reason to look at, the gravest first."""
    findings = [*find_in_weights(stored, model), *find_unstable_layers(model)]
    findings += statistics.findings if statistics is not None else ()
    if maps is not None:
        findings += [*find_in_input(maps.input, model), *find_unfused((feature_map.tap for feature_map in maps), model)]
    return by_gravity(dict.fromkeys(findings))  # statistics name unstable nodes too


def _attention(
    findings: Iterable[Finding],
    stored: WeightStatistics,
    statistics: DatasetStatistics | None,
    unreachable: Sequence[tuple[str, str]],
) -> list[Attention]:
    """Findings as sentences: one for each kind in each layer, the gravest first."""
    kernels, maps = _channel_counts(stored, statistics)
    samples = statistics.profile.samples if statistics is not None else 0
    seen = "on this input" if samples == 1 else f"in all {samples:,} samples"
    notices = []
    for (kind, layer), group in groupby(findings, key=lambda finding: (finding.kind, finding.layer)):
        listed = list(group)
        channels = sorted({finding.channel for finding in listed if finding.channel is not None})
        counts = (kernels if kind in _OF_KERNELS else maps).get(layer, set())
        clause = _PLURAL.get(kind, "").format(seen=seen)
        if clause and channels:
            subject = f"{len(channels):,} of {min(counts):,} channels" if len(counts) == 1 else "channels that"
            message = f"{subject} {clause}: {_numbers(channels)}"
        else:
            message = listed[0].message
            if len(listed) > 1:
                noun = "finding like it" if len(channels) < 2 else "channel"
                message += f" (and {len(listed) - 1:,} more {noun}{'s' if len(listed) > 2 else ''})"
        weight = "bad" if kind in _BAD else "warn"
        if kind in _MINOR or (kind == "dead_channel" and samples < _ENOUGH):
            weight = "note"
        notices.append(Attention(kind=kind, weight=weight, layer=layer or None, message=message))
    if unreachable:
        count = len(unreachable)
        message = f"{count:,} value{'s' if count > 1 else ''} could not be observed, listed below with the reason"
        notices.append(Attention(kind="unreachable", weight="warn", layer=None, message=message))
    order = ("bad", "warn", "note")
    return sorted(notices, key=lambda notice: order.index(notice.weight))


def _blamed(comparison: Comparison) -> Iterator[Attention]:
    """The layers that a difference comes from, the largest error of their own first."""
    other = printable(comparison.b["name"])
    kind, of = ("own_error", "of its own") if comparison.was_run else ("changed_weights", "of its weights")
    for row, ratio in comparison.costs[:_LISTED] if comparison.is_ranked else ():
        if ratio is not None:
            message = f"is among those that cost most against {other}: {ratio:.1f} dB {of}"
            yield Attention(kind=kind, weight="note", layer=row.a.layer, message=message)
    for row in comparison.guilty[:_LISTED]:
        if comparison.is_ranked and row.reason is None:
            continue
        relative = None if row.own is None else row.own.relative_l2
        if row.reason is not None:
            kind, message = "incomparable", f"cannot be compared with {other}: {row.reason}"
        elif row.is_guilty:
            size = "not finite" if relative is None else f"relative {relative:.3g}, the floor {row.floor:.2g}"
            kind, message = "own_error", f"has an error of its own against {other}: {size}"
        elif row.differs:
            kind, message = "divergence", f"is the first that differs from {other}"
        else:
            effect = ", without effect here" if comparison.was_run else ""
            kind, message = "changed_weights", f"holds other weights than {other}{effect}"
        yield Attention(kind=kind, weight="bad", layer=row.a.layer, message=message)


def _channel_counts(
    stored: WeightStatistics, statistics: DatasetStatistics | None
) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """How many channels a layer's kernels have, and its activations; several numbers where they do not agree."""
    kernels: dict[str, set[int]] = {}
    for row in stored:
        if row.summary.channels is not None:
            name = row.parameter.layer or row.parameter.name
            kernels.setdefault(name, set()).add(len(row.summary.channels.mean))
    maps: dict[str, set[int]] = {}
    for tap in statistics or ():
        if tap.channel_axis is not None:
            maps.setdefault(tap.layer, set()).add(tap.state.moments.count.size)
    return kernels, maps


def _numbers(channels: Sequence[int]) -> str:
    more = f" and {len(channels) - _LISTED:,} more" if len(channels) > _LISTED else ""
    return ", ".join(map(str, channels[:_LISTED])) + more
