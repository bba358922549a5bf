"""Cut a dataset into shards and turn a shard into a Profile: the function that engines map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxscope.base.last_words import doing
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.batches import Fed, read_batches
from onnxscope.datasets.dataset import Dataset
from onnxscope.findings.unstable import find_unstable_layers
from onnxscope.inputs.samples import position_name
from onnxscope.model.loading import Model
from onnxscope.numerics.code_use import CodeGrid, CodeUse
from onnxscope.numerics.log_histogram import LogHistogram
from onnxscope.numerics.sample_moments import GroupedMoments
from onnxscope.profiling.observer import Observer, Plan
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import ChannelState, TapProfile
from onnxscope.runtime.half_range import merged_unfit

__all__ = ["Shard", "ShardWorker", "cut_shards", "empty_profile"]

_MAX_SHARDS = 512  # each costs a merge and, where it is asked for, a write of what is known so far
_SHARD_BATCHES = 16


@dataclass(frozen=True)
class Shard:
    """The samples from `start` up to `stop`."""

    start: int
    stop: int


def cut_shards(samples: int, batch_size: int) -> list[Shard]:
    """Cut by the data alone: 16 batches a shard, more where that would make over 512 shards."""
    batches = -(-samples // batch_size)
    length = max(_SHARD_BATCHES, -(-batches // _MAX_SHARDS)) * batch_size
    return [Shard(start, min(start + length, samples)) for start in range(0, samples, length)]


class ShardWorker:
    """Runs shards. It builds its sessions when it first needs them; a copy, or one that was pickled, has its own.

    Args:
        model: Read-only; another process loads it again from its file.
        plan: How the taps are observed.
        dataset: Where the samples come from.
        empty: The profile without a sample, that every shard begins with.
        options: The batch, what happens to samples that cannot be read, and each worker's threads.

    Attributes:
        progress: Called with the number of samples of every batch; it does not travel to other processes.
        observer: Its sessions, None before they are needed. The first copy takes them along.
    """

    def __init__(self, model: Model, plan: Plan, dataset: Dataset, empty: Profile, options: RunOptions) -> None:
        self._model = model
        self._plan = plan
        self._dataset = dataset
        self._empty = empty
        self._options = options
        self.progress: Callable[[int], None] | None = None
        self.observer: Observer | None = None

    def __copy__(self) -> ShardWorker:
        copied = ShardWorker(
            model=self._model, plan=self._plan, dataset=self._dataset, empty=self._empty, options=self._options
        )
        copied.progress = self.progress
        copied.observer, self.observer = self.observer, None
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "observer": None, "progress": None}

    def __call__(self, shard: Shard) -> Profile:
        """Return the profile of one shard.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
        if self.observer is None:
            self.observer = Observer(self._model, self._plan, threads=self._options.threads)
        fed = Fed()
        self.observer.unfit = ()
        inputs = {tap.name: tap for tap in self._empty.inputs}
        taps = {tap.name: tap for tap in self._empty.taps}
        ways = {planned.name: planned for planned in self._plan.taps}
        groups: dict[str, GroupedMoments | None] = {}
        reasons: dict[str, str] = {}
        samples = 0
        batches = read_batches(self._dataset, shard.start, shard.stop, fed, self._options)
        for batch in batches:
            for name, observations in batch.observations.items():
                for position, observation in zip(batch.positions, observations, strict=True):
                    inputs[name] = inputs[name].observed(observation, [position], self._dataset.batch_axes[name])
            with doing(f"samples {batch.positions[0]} to {batch.positions[-1]}"):
                observed, missed = self.observer.observe(batch.feeds, len(batch.positions), padded=batch.padded)
            for name, observation in observed.items():
                way = ways[name]
                before, now = groups.get(name, GroupedMoments.empty()), observation.groups
                groups[name] = None if before is None or now is None else before.merge(now)
                for places, part in observation.by_samples():
                    positions = [batch.positions[place] for place in places]
                    taps[name] = taps[name].observed(part, positions, way.batch_axis, way.token_step)
            reasons = {**missed, **reasons}
            samples += len(batch.positions)
            if self.progress is not None:
                self.progress(len(batch.positions))
        profile = replace(
            self._empty,
            shards=((shard.start, shard.stop),),
            samples=samples,
            skipped=tuple(fed.skipped),
            remarks=dict(sorted(fed.remarks.items())),
            content=fed.content,
            unfit=merged_unfit(self._empty.unfit, self.observer.unfit),
            inputs=tuple(inputs.values()),
            taps=tuple(replace(tap, groups=groups.get(name)) for name, tap in taps.items()),
            reasons={**self._empty.reasons, **reasons},
        )
        return replace(profile, sample_names=self._names(profile))

    def _names(self, profile: Profile) -> Mapping[int, str]:
        names = {position: self._dataset.name(position) for position in profile.named_samples}
        return {position: name for position, name in names.items() if name != position_name(position)}


def empty_profile(model: Model, plan: Plan, dataset: Dataset, *, provenance: Mapping[str, Any]) -> Profile:
    """Return the profile that has seen nothing, for this model, these taps and this data."""
    inputs = tuple(
        _unseen(
            name=spec.name,
            layer="",
            op_type="",
            at=None,
            dtype=spec.dtype,
            channel_axis=dataset.channel_axes[spec.name],
            limits=None,
        )
        for spec in dataset.specs
    )
    taps = tuple(
        _unseen(
            name=planned.name,
            layer=planned.tap.layer,
            op_type=planned.tap.op_type,
            at=planned.tap.at,
            dtype=planned.dtype,
            channel_axis=planned.channel_axis,
            limits=planned.limits,
            masked=planned.masked,
            codes=planned.codes,
        )
        for planned in plan.taps
    )
    return Profile(
        model=model.to_dict(),
        digest=model.digest,
        input=dataset.record,
        provenance=provenance,
        shards=(),
        samples=0,
        skipped=(),
        remarks={},
        content=0,
        inputs=inputs,
        taps=taps,
        reasons={tap.name: tap.reason for tap in plan.unreachable},
        weights=(),
        sample_names={},
        unfit=plan.unfit,
        grouping=plan.grouping,
        unstable=find_unstable_layers(model),
    )


def _unseen(
    *,
    name: str,
    layer: str,
    op_type: str,
    at: str | None,
    dtype: str,
    channel_axis: int | None,
    limits: tuple[float, float] | None,
    masked: bool = False,
    codes: CodeGrid | None = None,
) -> TapProfile:
    return TapProfile(
        name=name,
        layer=layer,
        op_type=op_type,
        at=at,
        dtype=dtype,
        shape=None,
        channel_axis=channel_axis,
        limits=limits,
        samples=0,
        state=ChannelState.empty(0),
        histogram=LogHistogram.empty(),
        masked=masked,
        codes=None if codes is None else CodeUse.empty(codes),
    )
