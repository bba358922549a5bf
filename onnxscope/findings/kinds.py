"""Kinds of findings, the gravest first, and what a finding says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from onnxscope.base.text import printable

__all__ = ["FLOAT16_LARGEST", "GRAVITY", "Finding", "FindingKind", "by_gravity", "count_odd", "listed"]

FindingKind = Literal[
    "non_finite_weight",
    "non_finite",
    "non_finite_spread",
    "does_not_fit",
    "random",
    "stateful",
    "input_range",
    "input_order",
    "untrained_weights",
    "constant_weight",
    "float16_weight",
    "float16_overflow",
    "clipped_weight",
    "clipped_activation",
    "massive_activation",
    "outlier_channel",
    "outlier_token",
    "zero_kernel",
    "dead_channel",
    "dead_head",
    "duplicate_kernel",
    "duplicate_channel",
    "duplicate_head",
    "attention_sink",
    "constant_channel",
    "saturation",
    "float16_underflow",
    "infinite_by_design",
    "unfused",
]
GRAVITY: tuple[FindingKind, ...] = get_args(FindingKind)
"""Kinds of findings, the gravest first."""

FLOAT16_LARGEST = 65504.0
"""The largest finite number in half precision."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: What it is.
        layer: Where, as the source framework called it; an input's name for the model's inputs.
        channel: Which channel, None for the layer as a whole.
        message: A sentence with the numbers.
    """

    kind: FindingKind
    layer: str
    channel: int | None
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The record that results carry."""
        return asdict(self)


def by_gravity(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings in the order of their kinds' gravity, those of a kind as they came."""
    return tuple(sorted(found, key=lambda finding: GRAVITY.index(finding.kind)))


def listed(names: Iterable[str]) -> str:
    """Return the first three names, each once, and how many more there are."""
    unique = [printable(name) for name in dict.fromkeys(names)]
    rest = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return ", ".join(unique[:3]) + rest


def count_odd(nan: int, inf: int) -> str:
    """Say how many numbers are not finite: `2 NaN and 1 infinity`."""
    parts = [f"{nan:,} NaN"] * (nan > 0) + [f"{inf:,} {'infinity' if inf == 1 else 'infinities'}"] * (inf > 0)
    return " and ".join(parts)
