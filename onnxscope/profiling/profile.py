"""The mergeable record of one analysis: a shard, a worker's answer, a stored baseline and a result are all profiles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxscope.base.files import record_file, refuse_foreign, write_whole
from onnxscope.base.json_files import dump_json
from onnxscope.errors import MergeError
from onnxscope.findings.kinds import Finding
from onnxscope.profiling.groups import Grouping
from onnxscope.profiling.profile_file import (
    PROFILE_FORMAT,
    grouping_of,
    intervals,
    names_by_position,
    skipped_samples,
    tap_of,
    tap_record,
    unfit_values,
    unstable_findings,
)
from onnxscope.profiling.tap_profile import TapProfile
from onnxscope.runtime.half_range import Unfit, merged_unfit

__all__ = ["Profile"]

_CONTENT_BITS = 256
Interval = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Profile:
    """What an analysis knows after some or all of its samples.

    Attributes:
        model: The `model` record.
        digest: SHA-256 of the model's file and its external data.
        input: The dataset: kind, number of samples, digest of their names, preset, layout.
        provenance: How the numbers were made: versions, execution provider, optimization, selectors, batch size.
        shards: Half-open intervals of positions in the dataset that were seen, ascending; adjacent ones are joined.
        samples: How many samples were run.
        skipped: Position, name and fault of every sample that could not be read.
        remarks: How many samples each remark on their preparation is about.
        content: Sum, modulo 2**256, of a SHA-256 over position and prepared tensors of every sample.
        inputs: The prepared input tensors, before any padding.
        taps: Every tap that was planned, in execution order, also those without a sample.
        reasons: By tap name, why a tap was not reached: at all, or in some run.
        weights: Statistics of every parameter; they depend on the model alone.
        sample_names: Names of the samples that extremes and faults refer to, by position.
        unfit: Values of half precision that held numbers beyond their type, in execution order.
        unstable: Findings on random and stateful nodes; they depend on the model alone.
        grouping: Which groups of tokens or of positions taps are told by, None where none were asked for.
    """

    model: Mapping[str, Any]
    digest: str
    input: Mapping[str, Any]
    provenance: Mapping[str, Any]
    shards: tuple[Interval, ...]
    samples: int
    skipped: tuple[tuple[int, str, str], ...]
    remarks: Mapping[str, int]
    content: int
    inputs: tuple[TapProfile, ...]
    taps: tuple[TapProfile, ...]
    reasons: Mapping[str, str]
    weights: tuple[Mapping[str, Any], ...]
    sample_names: Mapping[int, str]
    unfit: tuple[Unfit, ...] = ()
    unstable: tuple[Finding, ...] = ()
    grouping: Grouping | None = None

    def merge(self, other: Profile) -> Profile:
        """Return the profile over the samples of both; associative, and commutative up to rounding.

        Raises:
            MergeError: They are of different models, data, settings or taps, or have a shard in common.
        """
        for field, subject in (("digest", "models"), ("model", "models"), ("input", "datasets")):
            if getattr(self, field) != getattr(other, field):
                raise MergeError(f"the profiles are of different {subject}: {_difference(self, other, field)}")
        if self.provenance != other.provenance:
            raise MergeError(f"the profiles were made in different ways: {_difference(self, other, 'provenance')}")
        if self.grouping != other.grouping:
            raise MergeError("the profiles are by other groups of tokens")
        mine, theirs = ([tap.name for tap in (*side.inputs, *side.taps)] for side in (self, other))
        if mine != theirs:
            raise MergeError(f"the profiles are of different taps: {len(mine)} and {len(theirs)} of them")
        if self.weights and other.weights and self.weights != other.weights:
            raise MergeError("the profiles disagree on the weights of one model")
        reasons = {**other.reasons, **self.reasons}
        merged = replace(
            self,
            shards=_joined(self.shards, other.shards),
            samples=self.samples + other.samples,
            skipped=tuple(sorted((*self.skipped, *other.skipped))),
            remarks={key: self.remarks.get(key, 0) + other.remarks.get(key, 0) for key in _keys(self, other)},
            content=(self.content + other.content) % (1 << _CONTENT_BITS),
            inputs=tuple(a.merge(b) for a, b in zip(self.inputs, other.inputs, strict=True)),
            taps=tuple(a.merge(b) for a, b in zip(self.taps, other.taps, strict=True)),
            reasons={name: reasons[name] for name in sorted(reasons)},
            weights=self.weights or other.weights,
            sample_names={**self.sample_names, **other.sample_names},
            unfit=merged_unfit(self.unfit, other.unfit),
        )
        return merged._pruned()

    @property
    def unreachable(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of every tap that no sample reached."""
        reached = {tap.name for tap in self.taps if tap.samples}
        return tuple((name, reason) for name, reason in self.reasons.items() if name not in reached)

    @property
    def reached(self) -> tuple[TapProfile, ...]:
        """The taps of which something is known."""
        return tuple(tap for tap in self.taps if tap.samples)

    def sample_name(self, position: int) -> str:
        """Return what a sample is called: its file's name, or `sample 12`."""
        return self.sample_names.get(position, f"sample {position}")

    def to_dict(self) -> dict[str, Any]:
        """The record that `save` writes: `onnxscope.profile/1`, ready for strict JSON."""
        return {
            "schema": PROFILE_FORMAT.schema,
            "model": dict(self.model),
            "digest": self.digest,
            "input": dict(self.input),
            "provenance": dict(self.provenance),
            "shards": [list(interval) for interval in self.shards],
            "samples": self.samples,
            "skipped": [list(sample) for sample in self.skipped],
            "remarks": dict(self.remarks),
            "content": f"{self.content:064x}",
            "sample_names": {str(position): name for position, name in self.sample_names.items()},
            "inputs": [tap_record(tap) for tap in self.inputs],
            "taps": [tap_record(tap) for tap in self.taps],
            "unreachable": [{"name": name, "reason": reason} for name, reason in self.reasons.items()],
            "weights": [dict(row) for row in self.weights],
            **({"unfit": [value.to_dict() for value in self.unfit]} if self.unfit else {}),
            **({} if self.grouping is None else {"grouping": self.grouping.to_dict()}),
            "unstable": [
                {"kind": finding.kind, "layer": finding.layer, "message": finding.message} for finding in self.unstable
            ],
        }

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the profile as JSON, whole or not at all; the same profile gives the same bytes.

        Args:
            path: Where; a profile that is there is replaced.
            force: Whether any other file is replaced too.

        Raises:
            OutputError: The file cannot be written, or another file is there.
        """
        refuse_foreign([(path, record_file(PROFILE_FORMAT.schema))], force=force)
        write_whole(path, dump_json(self.to_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile that `save` wrote; the file is not trusted.

        Raises:
            ProfileError: The file is missing, is no profile, or contradicts itself.
        """
        fields = PROFILE_FORMAT.read(path)
        with fields.checking():
            return cls(
                model=fields.mapping("model"),
                digest=fields.text("digest"),
                input=fields.mapping("input"),
                provenance=fields.mapping("provenance"),
                shards=intervals(fields, "shards"),
                samples=fields.count("samples"),
                skipped=skipped_samples(fields, "skipped"),
                remarks=fields.counts("remarks"),
                content=fields.hexadecimal("content", _CONTENT_BITS),
                inputs=tuple(map(tap_of, fields.rows("inputs"))),
                taps=tuple(map(tap_of, fields.rows("taps"))),
                reasons={row.text("name"): row.text("reason") for row in fields.rows("unreachable")},
                weights=tuple(row.values for row in fields.rows("weights")),
                sample_names=names_by_position(fields, "sample_names"),
                unfit=unfit_values(fields),
                unstable=unstable_findings(fields, "unstable"),
                grouping=grouping_of(fields),
            )

    @property
    def named_samples(self) -> list[int]:
        """Positions of the samples that extremes and faults refer to, ascending."""
        needed = {position for position, _, _ in self.skipped}
        for tap in (*self.inputs, *self.taps):
            for samples in (tap.state.min_sample, tap.state.max_sample, tap.state.nonfinite_sample):
                needed.update(samples.tolist())
            needed.update(() if tap.token is None else (tap.token.sample,))
        return sorted(needed - {-1})

    def _pruned(self) -> Profile:
        """Forget the names of samples that nothing refers to any more."""
        names = self.sample_names
        return replace(self, sample_names={key: names[key] for key in self.named_samples if key in names})


def _keys(left: Profile, right: Profile) -> Iterable[str]:
    return sorted({*left.remarks, *right.remarks})


def _joined(left: tuple[Interval, ...], right: tuple[Interval, ...]) -> tuple[Interval, ...]:
    joined: list[Interval] = []
    for start, stop in sorted((*left, *right)):
        if joined and start < joined[-1][1]:
            last = min(stop, joined[-1][1]) - 1
            raise MergeError(f"the same shard twice: samples {start} to {last} are in both profiles")
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def _difference(left: Profile, right: Profile, field: str) -> str:
    mine, theirs = getattr(left, field), getattr(right, field)
    if not isinstance(mine, Mapping):
        return f"{field} {str(mine)[:16]} and {str(theirs)[:16]}"
    for key in (*mine, *theirs):
        if mine.get(key) != theirs.get(key):
            return f"{key} {str(mine.get(key))[:80]!r} and {str(theirs.get(key))[:80]!r}"
    return field
