"""What `stats()` returns: a profile as statistics, findings and tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, overload

from onnxscope.base.results import Record, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, not_finite_text, samples_text
from onnxscope.findings.kinds import Finding
from onnxscope.numerics.quantization import QUANTIZED, quantized_cells
from onnxscope.patching.effects import PatchEffect
from onnxscope.profiling.findings import find, saturated_fraction
from onnxscope.profiling.groups import GroupedStatistics, tap_groups
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import COLUMNS, LEAST, TapProfile

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["DatasetStatistics"]

_DRAWN = ("0.01", "0.25", "0.5", "0.75", "0.99")
_MAX_DRAWN = 200  # rows of a figure: a thousand would be higher than matplotlib can draw
_LISTED = 5  # channels that a line of the findings names


class DatasetStatistics(Record, Sequence[TapProfile]):
    """Statistics of every tap over a dataset; a sequence of the taps that were reached, in execution order.

    Attributes:
        profile: The mergeable state that everything here is derived from.
        notes: Remarks on the inputs, for people.
        replaced: What stood in place of values, and how far that moved the outputs; None where nothing did.
    """

    frame_keys = ("taps",)

    def __init__(self, profile: Profile, notes: Sequence[str] = ()) -> None:
        self.profile = profile
        self.notes = tuple(notes)
        self.replaced: PatchEffect | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DatasetStatistics:
        """Read a profile that `onnxscope stats -o` wrote.

        Raises:
            ProfileError: The file is missing, is no profile, or contradicts itself.
        """
        return cls(Profile.load(path))

    def with_effect(self, effect: PatchEffect) -> DatasetStatistics:
        """The same statistics, which know how far what was replaced has moved the outputs."""
        other = DatasetStatistics(self.profile, (*self.notes, *effect.notes))
        other.replaced = effect
        return other

    def __len__(self) -> int:
        return len(self.profile.reached)

    def __iter__(self) -> Iterator[TapProfile]:
        return iter(self.profile.reached)

    @overload
    def __getitem__(self, index: int) -> TapProfile: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TapProfile, ...]: ...
    def __getitem__(self, index: int | slice) -> TapProfile | tuple[TapProfile, ...]:
        return self.profile.reached[index]

    def layer(self, name: str) -> TapProfile:
        """Return the first tap of a layer.

        Raises:
            KeyError: No tap has that layer.
        """
        for tap in self:
            if name in (tap.layer, tap.name):
                return tap
        raise KeyError(name)

    @cached_property
    def groups(self) -> GroupedStatistics | None:
        """Statistics by tokens or by positions, None where they were not asked for."""
        grouping = self.profile.grouping
        if grouping is None:
            return None
        rows = [
            row
            for tap in self
            if tap.groups is not None
            for row in tap_groups(tap.name, tap.layer, tap.op_type, tap.groups, grouping)
        ]
        return GroupedStatistics(grouping.by, rows, [tap.name for tap in self if tap.groups is None])

    def to_frame(self) -> DataFrame:
        """Return a pandas frame with a row for each tap, or for each group of each where groups were asked for.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return super().to_frame() if self.groups is None else self.groups.to_frame()

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What there is reason to look at, the gravest first."""
        return find(self.profile)

    @cached_property
    def _kinds(self) -> Mapping[str, Counter[str]]:
        """How many findings of each kind every layer has."""
        kinds: dict[str, Counter[str]] = {}
        for finding in self.findings:
            kinds.setdefault(finding.layer, Counter())[finding.kind] += 1
        return kinds

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.stats/1`, ready for JSON."""
        return {
            "schema": "onnxscope.stats/1",
            "model": dict(self.profile.model),
            "input": {
                **self.profile.input,
                "statistics": [_input_record(tap) for tap in self.profile.inputs],
                "skipped": [list(sample) for sample in self.profile.skipped],
                "remarks": dict(self.profile.remarks),
            },
            "samples": self.profile.samples,
            "taps": [self._tap_record(tap) for tap in self],
            "unreachable": [{"name": name, "reason": reason} for name, reason in self.profile.unreachable],
            "unfit": [value.to_dict() for value in self.profile.unfit],
            "findings": [finding.to_dict() for finding in self.findings],
            **({} if self.groups is None else self.groups.to_dict()),
            **({} if self.replaced is None else {"replaced": self.replaced.to_dict()}),
        }

    def table(self) -> Table:
        """One row per tap."""
        columns = QUANTIZED if any(tap.codes is not None for tap in self) else ()
        rows = tuple(
            (*tap.cells(), *self._quantized(tap)[: len(columns)], ", ".join(self._remarks(tap))) for tap in self
        )
        skipped = f", {len(self.profile.skipped):,} skipped" if self.profile.skipped else ""
        title = f"{self.profile.model['name']} over {self._counted()}{skipped}: {counted(len(rows), 'tap')}"
        return Table(title, (*COLUMNS, *columns, "remarks"), rows, (*columns, *LEAST))

    @staticmethod
    def _quantized(tap: TapProfile) -> tuple[Cell, ...]:
        return quantized_cells(None if tap.codes is None else tap.codes.quantization)

    def tables(self) -> list[Table]:
        """The taps, the groups, the findings, and how far outputs moved where something was replaced."""
        groups = [] if self.groups is None else [self.groups.table()]
        moved = [] if self.replaced is None else [self.replaced.table()]
        return [self.table(), *groups, *([self.findings_table()] if self.findings else []), *moved]

    def flat_table(self) -> Table:
        """The taps, whose remarks name the findings; or the groups, where they were asked for."""
        return self.table() if self.groups is None else self.groups.table()

    def findings_table(self) -> Table:
        """One row for each kind of finding in each layer, however many channels it is about."""
        rows = []
        for (kind, layer), group in groupby(self.findings, key=lambda finding: (finding.kind, finding.layer)):
            members = list(group)
            channels = [str(finding.channel) for finding in members if finding.channel is not None]
            more = f" and {len(channels) - _LISTED} more" if len(channels) > _LISTED else ""
            rows.append((kind, layer, ", ".join(channels[:_LISTED]) + more, members[0].message))
        title = counted(len(self.findings), "finding")
        return Table(title, ("finding", "layer", "channels", "the first"), tuple(rows))

    def plot(self) -> Figure:
        """Draw every tap's quantiles and zeros as a matplotlib Figure; it belongs to the caller."""
        from onnxscope.drawing.figures import quantile_figure

        rows = []
        for tap in self:
            values = [tap.overall.min, *(tap.quantiles[share] for share in _DRAWN), tap.overall.max]
            numbers = [float(value) for value in values if value is not None]
            if len(numbers) == len(values):
                rows.append((tap.layer, numbers, tap.overall.zero_fraction))
        title = f"{self.profile.model['name']} over {self._counted()}"
        if len(rows) > _MAX_DRAWN:
            title += f", the first {_MAX_DRAWN} of {len(rows):,} taps"
        return quantile_figure(rows[:_MAX_DRAWN], title)

    def __repr__(self) -> str:
        return "\n".join(table.text() for table in self.tables())

    def html_parts(self) -> list[str]:
        """Statistics, findings and remarks."""
        return [*(table.html() for table in self.tables()), *remarks(self.notes)]

    def _counted(self) -> str:
        return samples_text(self.profile.samples)

    def _remarks(self, tap: TapProfile) -> list[str]:
        moments = tap.state.moments
        odd_numbers = not_finite_text(int(moments.nan.sum()), int(moments.inf.sum()))
        remarks = [odd_numbers] if odd_numbers else []
        kinds = self._kinds.get(tap.layer, Counter())
        for kind, word in (
            ("duplicate_channel", "duplicate"),
            ("constant_channel", "constant"),
            ("massive_activation", "massive"),
            ("outlier_channel", "outlying"),
            ("outlier_token", "token stands out"),
            ("clipped_activation", "clipped"),
            ("dead_head", "dead heads"),
            ("duplicate_head", "duplicate heads"),
            ("attention_sink", "sinks"),
            ("float16_overflow", "beyond float16"),
            ("float16_underflow", "below float16"),
        ):
            count = kinds[kind]
            counted = kind.endswith(("channel", "head", "sink"))
            remarks += [f"{word} {count}" if counted else word] * (count > 0)
        saturated = saturated_fraction(tap)
        if saturated is not None and saturated >= 0.01:
            remarks.append(f"saturated {saturated:.0%}")
        return remarks

    def _tap_record(self, tap: TapProfile) -> dict[str, Any]:
        state, moments = tap.state, tap.state.moments
        return {
            **tap.to_dict(),
            "saturated_fraction": saturated_fraction(tap),
            "min_sample": self._holder(state.min_sample, moments.min == moments.min.min(initial=float("inf"))),
            "max_sample": self._holder(state.max_sample, moments.max == moments.max.max(initial=float("-inf"))),
            "nonfinite_sample": self._holder(state.nonfinite_sample, state.nonfinite_sample >= 0),
        }

    def _holder(self, samples: Any, where: Any) -> str | None:
        holders = samples[where & (samples >= 0)]
        return self.profile.sample_name(int(holders.min())) if holders.size else None


def _input_record(tap: TapProfile) -> dict[str, Any]:
    overall = tap.overall
    channels = tap.channels
    return {
        "name": tap.name,
        "shape": None if tap.shape is None else list(tap.shape),
        "dtype": tap.dtype,
        "channel_axis": tap.channel_axis,
        **{
            key: [getattr(overall, key)] if channels is None else list(getattr(channels, key))
            for key in ("mean", "std", "min", "max")
        },
    }
