"""Run a model on a batch and observe its taps: by probes where there is a cheap one, else by the taps themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxscope.analyses.counted_positions import ALL_COUNT, CutValue
from onnxscope.errors import RunError
from onnxscope.model.loading import Model
from onnxscope.numerics.attention_shares import AttentionShares
from onnxscope.numerics.moments import Moments
from onnxscope.numerics.sample_moments import GroupedMoments, Observation, observe_array
from onnxscope.profiling.groups import Grouping
from onnxscope.profiling.probes import PlannedTap, Probes, append_probes
from onnxscope.runtime.half_range import Magnitudes, Unfit, merged_unfit, open_watched
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import Unreachable, expose, unused_prefix
from onnxscope.runtime.tapped_runs import reason_without_statistics, within_budget
from onnxscope.selection.padding_masks import PaddingMask, left_out

__all__ = ["Observer", "Plan"]

Array = NDArray[Any]
_WIDE = frozenset({"float64", "int64", "uint64"})


@dataclass(frozen=True)
class Plan:
    """How every tap is observed. It depends on the model and the first samples alone, and travels to workers.

    Attributes:
        taps: In execution order.
        unreachable: Taps that cannot be observed at all.
        batch_size: Samples of a full run.
        memory_budget_bytes: How much raw values one run may return.
        exact: Whether zeros and histograms are counted from every element.
        unfit: Values of half precision that held numbers beyond their type in the pilot run.
        masks: Inputs that say which positions count.
        notes: Remarks for people.
        grouping: Which groups of tokens or of positions are told apart, None where none are.
    """

    taps: tuple[PlannedTap, ...]
    unreachable: tuple[Unreachable, ...]
    batch_size: int
    memory_budget_bytes: int
    exact: bool
    unfit: tuple[Unfit, ...] = ()
    masks: tuple[PaddingMask, ...] = ()
    notes: tuple[str, ...] = ()
    grouping: Grouping | None = None

    def groups(self, taps: Iterable[PlannedTap]) -> list[list[PlannedTap]]:
        """Cut taps into groups whose values fit the memory budget together; one that does not fit stands alone."""
        return within_budget(taps, self.raw_bytes, self.memory_budget_bytes)

    def raw_bytes(self, planned: PlannedTap) -> int:
        """How much memory a tap's own value takes in a full run, as far as the pilot run tells."""
        batch = self.batch_size if planned.batch_axis is not None else 1
        return math.prod(planned.shape or ()) * batch * (8 if planned.dtype in _WIDE else 4)


class Observer:
    """Sessions over one model, made when they are first needed. Not to be shared between threads.

    Attributes:
        unfit: Values of half precision that held numbers beyond their type, since this was last emptied.
    """

    def __init__(self, model: Model, plan: Plan, *, threads: int = 0) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            model: It is not changed.
            plan: From `make_plan`, for this model.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        """
        self._model = model
        self._plan = plan
        self._threads = threads
        self._probed = [planned for planned in plan.taps if planned.probed]
        groups = plan.groups(planned for planned in plan.taps if not planned.probed)
        # The first group travels with the probes: a run of its own would cost as much as the model does.
        self._beside = groups[0] if groups and self._probed else []
        self._groups = groups[1:] if self._beside else groups
        self._again = plan.groups(self._probed)
        self._main: tuple[Session, Probes] | None = None
        self._watching: tuple[Session, Magnitudes] | None = None
        self._watched: Mapping[str, Array] | None = None
        self.unfit: tuple[Unfit, ...] = ()
        self._counted: Mapping[int, NDArray[np.bool_]] = {}
        self._keys: Mapping[str, NDArray[np.int64]] = {}
        self._fed = 1
        self._raw: dict[tuple[str, ...], tuple[Session, Mapping[str, str]]] = {}

    def open(self) -> None:
        """Open the session with the probes, where there are any and it is not open yet.

        Raises:
            RunError: onnxruntime refuses the model, or has no kernel for a probe.
        """
        if self._probed and self._main is None:
            tapped = expose(self._model, [planned.tap for planned in self._beside])
            probes = append_probes(tapped.proto, self._probed, unused_prefix(self._model))
            self._raw[self._key(self._beside)] = (self._session(tapped.proto), tapped.outputs)
            self._main = self._raw[self._key(self._beside)][0], probes

    def observe(
        self, feeds: Mapping[str, Array], samples: int, *, padded: bool = False
    ) -> tuple[dict[str, Observation], dict[str, str]]:
        """Run once, or as often as the memory budget asks for.

        Args:
            feeds: An array for every input.
            samples: How many samples of the run are real, the first ones.
            padded: Whether there are others after them.

        Returns:
            Observations by tap name, and the reasons for the taps that this run did not reach.

        Raises:
            RunError: onnxruntime fails.
        """
        observations: dict[str, Observation] = {}
        reasons: dict[str, str] = {}
        if padded:
            note = "it has no batch axis, and the run is filled up with copies"
            reasons |= {planned.name: note for planned in self._plan.taps if planned.batch_axis is None}
        self._counted = left_out(self._plan.masks, feeds)
        if self._plan.grouping is not None:
            self._keys = self._plan.grouping.keys(feeds)
            self._fed = self._plan.grouping.samples_fed(feeds, self._plan.masks)
        again = {planned.name for planned in self._probed if planned.name not in reasons}
        groups = self._groups
        if self._probed:
            try:
                answers = self._run_probes(feeds)
            except RunError:
                groups = [self._beside, *groups] if self._beside else groups
            else:
                self._take_probes(answers, samples, observations, reasons, again)
        for group in groups:
            reached = [planned for planned in group if planned.name not in reasons]
            self._observe_raw(reached, feeds, samples, observations, reasons)
        for group in self._again:
            flagged = [planned for planned in group if planned.name in again]
            if flagged:
                self._observe_raw(flagged, feeds, samples, observations, reasons, session_of=group)
        return observations, reasons

    def _run_probes(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        self.open()
        assert self._main is not None
        session, probes = self._main
        _, outputs = self._raw[self._key(self._beside)]
        return self._run(session, feeds, [*probes.outputs, *outputs.values()])

    def _take_probes(
        self,
        answers: Mapping[str, Any],
        samples: int,
        observations: dict[str, Observation],
        reasons: dict[str, str],
        again: set[str],
    ) -> None:
        assert self._main is not None
        for planned in self._probed:
            if planned.name not in again or planned.positions.counted(
                self._counted
            ):  # nothing is left out inside the graph
                continue
            observation = self._main[1].observe(planned, answers, samples)
            if observation is not None:
                observations[planned.name] = observation
                again.discard(planned.name)
        _, outputs = self._raw[self._key(self._beside)]
        beside = [planned for planned in self._beside if planned.name not in reasons]
        values = {planned.name: answers[outputs[planned.name]] for planned in beside}
        self._reduce(beside, values, samples, observations, reasons)

    def _observe_raw(
        self,
        taps: Sequence[PlannedTap],
        feeds: Mapping[str, Array],
        samples: int,
        observations: dict[str, Observation],
        reasons: dict[str, str],
        *,
        session_of: Sequence[PlannedTap] = (),
    ) -> None:
        if not taps:
            return
        try:
            values = self._run_raw(taps, feeds, session_of or taps)
        except RunError as error:
            if not any(planned.tap.path for planned in taps):
                raise
            if len(taps) == 1:
                changes = "inconsistent shape" in str(error).lower()
                reasons[taps[0].name] = "its shape changes from one iteration to the next" if changes else str(error)
                return
            for planned in taps:  # a value inside a body may break the run; the others need not suffer
                self._observe_raw([planned], feeds, samples, observations, reasons)
            return
        self._reduce(taps, values, samples, observations, reasons)

    def _run_raw(
        self, taps: Sequence[PlannedTap], feeds: Mapping[str, Array], session_of: Sequence[PlannedTap]
    ) -> dict[str, Any]:
        key = self._key(session_of)
        if key not in self._raw:
            tapped = expose(self._model, [planned.tap for planned in session_of])
            self._raw[key] = self._session(tapped.proto), tapped.outputs
        session, outputs = self._raw[key]
        answers = self._run(session, feeds, (outputs[planned.name] for planned in taps))
        return {planned.name: answers[outputs[planned.name]] for planned in taps}

    def _reduce(
        self,
        taps: Sequence[PlannedTap],
        values: dict[str, Any],
        samples: int,
        observations: dict[str, Observation],
        reasons: dict[str, str],
    ) -> None:
        for planned in taps:
            value = values.pop(planned.name)  # its memory is given back as soon as it is reduced
            reason = reason_without_statistics(planned.tap, value)
            if reason is None:
                observation = self._observed(planned, value, samples)
                observations[planned.name] = replace(observation, groups=self._groups_of(planned, value, samples))
            else:
                reasons[planned.name] = reason

    def _observed(self, planned: PlannedTap, value: Array, samples: int) -> Observation:
        same_rank = planned.shape is not None and len(planned.shape) == value.ndim
        if same_rank and self._counted:
            axes = planned.batch_axis, planned.channel_axis
            cut = planned.positions.cut(value, *axes, self._counted, samples)
            if cut is not None:
                parts = tuple((places, self._of_part(planned, part, cut)) for places, part in cut.parts)
                return Observation(Moments.empty(0, 1), value[:0], (), parts=parts)
        batch, channel = (planned.batch_axis, planned.channel_axis) if same_rank else (None, None)
        steps = planned.steps if same_rank and not self._plan.exact else None
        observation = observe_array(value, batch, channel, samples=samples, steps=steps)
        return replace(observation, heads=_heads(planned, value, samples)) if planned.heads else observation

    def _groups_of(self, planned: PlannedTap, value: Array, samples: int) -> GroupedMoments | None:
        """The value by groups of tokens or of positions, where it has any."""
        if planned.groups is None or planned.shape is None or len(planned.shape) != value.ndim:
            return None
        counted = planned.positions.counted(self._counted)
        return planned.groups.observe(value, self._keys, counted, samples, self._fed)

    def _of_part(self, planned: PlannedTap, part: Array, cut: CutValue) -> Observation:
        """What samples are of which as much counts, as they would be without what does not."""
        steps = planned.steps
        if steps is not None and len(steps) < part.ndim and cut.batch_axis is not None:
            steps = (*steps[: cut.batch_axis], 1, *steps[cut.batch_axis :])
        whole = replace(
            planned,
            positions=ALL_COUNT,
            shape=part.shape,
            batch_axis=cut.batch_axis,
            channel_axis=cut.channel_axis,
            steps=steps,
        )
        samples = 1 if cut.batch_axis is None else part.shape[cut.batch_axis]
        return self._observed(whole, part, samples)

    def _session(self, proto: ModelProto) -> Session:
        """A session; the first one, which is run on every batch, also tells the magnitudes of half precision."""
        if self._watching is not None:
            return open_session(self._model, proto, threads=self._threads)
        prefix = f"{unused_prefix(self._model)}watched_"
        self._watching = open_watched(
            self._model, proto, prefix, lambda copy: open_session(self._model, copy, threads=self._threads)
        )
        return self._watching[0]

    def _run(self, session: Session, feeds: Mapping[str, Array], outputs: Iterable[str]) -> dict[str, Any]:
        watched: tuple[str, ...] = ()
        if self._watching is not None and session is self._watching[0] and self._watched is not feeds:
            watched = self._watching[1].outputs
        answers = session.run(feeds, dict.fromkeys([*outputs, *watched]))
        if self._watching is not None and watched:
            largest = {output: answers.pop(output) for output in watched}
            self.unfit = merged_unfit(self.unfit, self._watching[1].unfit(largest, feeds.values()))
            self._watched = feeds
        return answers

    @staticmethod
    def _key(taps: Iterable[PlannedTap]) -> tuple[str, ...]:
        return tuple(planned.name for planned in taps)


def _heads(planned: PlannedTap, value: Array, samples: int) -> AttentionShares | None:
    """Sums over the heads of real samples; samples and heads may share the first axis."""
    if planned.heads is None or value.ndim < 3 or not value.size:
        return None
    shares = value.reshape(-1, planned.heads, *value.shape[-2:])
    return AttentionShares.of(shares[:samples] if planned.batch_axis == 0 else shares)
