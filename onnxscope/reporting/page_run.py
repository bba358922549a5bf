"""What a page wants to know of a model that runs, and of another one beside it: one plan, and one pilot for all of it.

taps of feature maps, of the class activation map and of the comparison
  -> one pilot on the samples that have pictures
  -> pictures, maps of both models side by side, the plan for statistics, the noise
then one walk over all samples for statistics, and one in a merged graph for the comparison
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxscope.analyses.activation_maps import ClassActivation, Method, likely_taps, run_class_activations
from onnxscope.analyses.counted_positions import PositionFinder, find_counted
from onnxscope.analyses.feature_maps import FeatureMap, FeatureMaps, Rank, describe_features
from onnxscope.analyses.input_pictures import prepared_pictures
from onnxscope.analyses.weight_statistics import WeightStatistics
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import CommonFeed, open_common_feed
from onnxscope.comparison.layer_comparison import ComparedLayers, LayerComparison
from onnxscope.comparison.result import Comparison
from onnxscope.datasets.dataset import Dataset, open_dataset
from onnxscope.errors import InputError, RunError
from onnxscope.inputs.image_samples import ImageSamples
from onnxscope.model.loading import Model
from onnxscope.model.value_axes import Growth, grown_axis
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.preparing.prepared_result import Preparation
from onnxscope.preparing.preset_hint import cheap_preparation
from onnxscope.profiling.dataset_run import run_stats
from onnxscope.profiling.dataset_statistics import DatasetStatistics
from onnxscope.profiling.plan import make_plan
from onnxscope.reporting.content import Sight
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.sample_axes import start_on_samples
from onnxscope.runtime.tap_outputs import Unreachable
from onnxscope.selection.padding_masks import left_out
from onnxscope.selection.selectors import At, Tap, select_taps
from onnxscope.selection.working_layers import note_on_default
from onnxscope.structure.standard_model import standard_model

__all__ = ["PageRun", "Wanted", "run_for_page"]

_MAX_COLUMNS = 6  # inputs that have pictures; statistics are over all of them
_KEPT_BYTES = 256 << 20  # of prepared images: pictures, statistics and a comparison each walk over them


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a page shows of a model that runs; see `report`.

    Attributes:
        select: Selectors.
        at: After or before the activation function that follows a layer.
        channels: How many channels a mosaic shows.
        rank: Which ones.
        cam: How the class activation map over the input is made; None for none.
        cam_layer: The layer that it looks at.
        target: The class that it is about.
    """

    select: tuple[str, ...]
    at: At
    channels: int
    rank: Rank
    cam: Method | None
    cam_layer: str | None
    target: int | None


@dataclass(frozen=True, eq=False)
class PageRun:
    """What was found out, for `Content`; nothing where nothing was run.

    Attributes:
        maps: Feature maps of the samples that have pictures.
        statistics: Of all samples, or of a dataset.
        sights: The inputs as pictures.
        comparison: With the other model.
        others: By the name of the first model's value, what both models hold at an aligned layer.
        unreachable: Name and reason of taps that could not be observed.
        notes: Remarks for people.
        preparation: What the model's running statistics say of how pictures were prepared, where they say something.
    """

    maps: FeatureMaps | None
    statistics: DatasetStatistics | None
    sights: tuple[Sight, ...]
    comparison: Comparison | None
    others: Mapping[str, tuple[FeatureMap, FeatureMap]]
    unreachable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    preparation: Preparation | None = None


def run_for_page(
    model: Model,
    second: Model | None,
    inputs: Any,
    options: RunOptions,
    wanted: Wanted,
    stored: WeightStatistics,
    of_dataset: DatasetStatistics | None,
    say: Callable[[str], None],
) -> PageRun:
    """Run a model, and the one that it is compared with, for everything that a page shows.

    Args:
        model: The page is about it.
        second: The other model, None for no comparison.
        inputs: As for `report`; None compares structure and weights alone.
        options: What is asked of the run.
        wanted: What is shown.
        stored: Statistics of all parameters.
        of_dataset: Statistics that were taken before, in place of those of `inputs`.
        say: Called with what is being done.

    Raises:
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit.
        RunError: onnxruntime fails.
    """
    dataset = None if inputs is None else open_dataset(inputs, model, options, keep_bytes=_KEPT_BYTES)
    with contextlib.ExitStack() as stack:
        comparison = None
        samples, feed = dataset, None
        if second is not None:
            say("comparing layers and weights")
            if dataset is not None:
                feed = stack.enter_context(contextlib.closing(open_common_feed((model, second), dataset, options)))
                samples = feed.dataset
            sides = ModelLayers(standard_model(model), model), ModelLayers(standard_model(second), second)
            comparison = LayerComparison(sides, feed, options, select=wanted.select)
        if dataset is None or samples is None:
            unreachable = () if of_dataset is None else of_dataset.profile.unreachable
            compared = None if comparison is None else comparison.run().comparison
            notes = () if compared is None else compared.notes
            return PageRun(None, of_dataset, (), compared, {}, unreachable, notes)
        plan = _PagePlan(model, samples, dataset, options, wanted, comparison, feed)
        say("running the model")
        return plan.run(stored, of_dataset, say)


def _first_samples(dataset: Dataset) -> Dataset:
    """The samples that have pictures, and arrays up to where a run of a fixed batch ends."""
    size = 1 if dataset.kind == "images" else dataset.fixed_batch or 1
    return dataset.first(-(-_MAX_COLUMNS // size) * size)


class _PagePlan:
    """Which values are wanted for what, and one pilot that holds them."""

    def __init__(
        self,
        model: Model,
        samples: Dataset,
        dataset: Dataset,
        options: RunOptions,
        wanted: Wanted,
        comparison: LayerComparison | None,
        feed: CommonFeed | None,
    ) -> None:
        self._model = model
        self._samples = samples
        self._feed = feed
        self._prepared = _first_samples(samples).whole(apart=True)
        self._dataset = dataset
        self._options = options
        self._wanted = wanted
        self._comparison = comparison
        self._taps = select_taps(model, list(wanted.select), at=wanted.at)
        self._looked_at = [] if wanted.cam is None else likely_taps(model, wanted.cam_layer)
        self._runs = list(self._prepared.runs())
        compared = comparison.taps if comparison is not None and comparison.model is model else ()
        self._pilot = Pilot(model, list(dict.fromkeys([*compared, *self._taps, *self._looked_at])), options)

    def run(
        self, stored: WeightStatistics, of_dataset: DatasetStatistics | None, say: Callable[[str], None]
    ) -> PageRun:
        remarks = self._start()
        parts = self._parts([*self._taps, *self._looked_at])
        maps = self._maps(parts)
        looked_at = [tap.layer for tap in self._taps]
        notes = [*maps.notes, *remarks, *note_on_default(self._model, self._wanted.select, looked_at)]
        count = self._dataset.count
        if count > _MAX_COLUMNS:
            notes.append(f"pictures show the first {_MAX_COLUMNS} of {count:,} samples, statistics all of them")
        statistics = self._statistics(stored, say) if of_dataset is None else of_dataset
        say("looking for what the model looks at")
        sights, remarks = self._sights(parts)
        notes += remarks
        compared = None
        if self._comparison is not None:
            say("comparing the two models")
            compared = self._comparison.run(self._pilot_of(self._comparison), self._runs)
            notes += compared.comparison.notes
        return PageRun(
            maps=maps,
            statistics=statistics,
            sights=tuple(sights),
            comparison=None if compared is None else compared.comparison,
            others={} if compared is None else self._others(compared),
            unreachable=tuple((missed.name, missed.reason) for missed in maps.unreachable),
            notes=tuple(dict.fromkeys(notes)),
            preparation=self._preparation(),
        )

    def _preparation(self) -> Preparation | None:
        samples = self._dataset.samples
        if not isinstance(samples, ImageSamples):
            return None
        return cheap_preparation(self._model, samples.entries, self._options, used=samples.preset)

    def _start(self) -> Sequence[str]:
        """Make the first run, which decides what a sample is; return what there is to say of that."""
        settled = start_on_samples(self._pilot, self._samples, self._runs[0])
        if settled.batch_axes != self._samples.batch_axes:
            self._dataset = settled
            self._prepared = settled.whole()
            self._runs = [dict(self._pilot.feeds)]
        if self._feed is not None:
            self._feed.cut_as(settled)
        return settled.notes if settled is not self._samples else ()

    def _pilot_of(self, comparison: LayerComparison) -> Pilot:
        """The page's own, unless the comparison has the model in another form."""
        if comparison.model is self._model:
            return self._pilot
        pilot = Pilot(comparison.model, comparison.taps, self._options)
        pilot.run(self._pilot.feeds)
        return pilot

    def _parts(self, taps: Sequence[Tap]) -> dict[Tap, list[Any]]:
        """What taps hold on the samples that have pictures, of each run."""
        outputs = {tap: self._pilot.exposed[tap] for tap in taps if tap in self._pilot.exposed}
        answers = [self._pilot.values(outputs.values(), run) for run in self._runs]
        return {tap: [answer[output] for answer in answers] for tap, output in outputs.items()}

    def _maps(self, parts: Mapping[Tap, Sequence[Any]]) -> FeatureMaps:
        return describe_features(
            self._model,
            self._taps,
            self._prepared,
            {tap.name: parts[tap] for tap in self._taps if tap in parts},
            [Unreachable(tap.name, self._pilot.reasons[tap]) for tap in self._taps if tap not in parts],
            channels=self._wanted.channels,
            rank=self._wanted.rank,
            growth=self._growth(),
            finder=self._finder(),
        )

    def _finder(self) -> PositionFinder | None:
        """Where masks have their positions in values; None where they leave out none."""
        prepared = self._prepared
        if not left_out(prepared.masks, prepared.arrays):
            return None
        return find_counted(
            self._pilot.shapes_of,
            self._runs[0],
            prepared.masks,
            prepared.batch_axes,
            count=prepared.samples or 1,
            fixed_batch=prepared.fixed_batch,
            values_of=self._pilot.values_of,
        )

    def _growth(self) -> dict[Tap, Growth]:
        """Where one sample more makes a value longer; the plan for statistics asks for the same shapes."""
        if self._dataset.fixed_batch is not None:
            return {}
        try:
            one, two = self._pilot.sample_shapes(self._dataset.batch_axes)
        except RunError:
            return {}  # it takes no other number of samples
        found = {tap: grown_axis(one.get(tap), two.get(tap)) for tap in self._taps}
        return {tap: growth for tap, growth in found.items() if growth is not None}

    def _statistics(self, stored: WeightStatistics, say: Callable[[str], None]) -> DatasetStatistics:
        plan = make_plan(self._pilot, self._taps, self._dataset, self._options)
        return run_stats(
            self._model,
            self._dataset,
            self._options,
            plan,
            stored,
            selection={"select": list(self._wanted.select), "at": self._wanted.at},
            progress=lambda done, total: say(f"running the model: {done:,} of {total:,} samples"),
        )

    def _sights(self, parts: Mapping[Tap, Sequence[Any]]) -> tuple[list[Sight], list[str]]:
        """What the inputs look like, and where the model looks; no map where the model has no place for one."""
        wanted, prepared = self._wanted, self._prepared
        photographs = prepared_pictures(prepared)[:_MAX_COLUMNS]
        samples = range(len(photographs) if prepared.samples is not None else min(1, len(photographs)))
        activations: list[ClassActivation] = []
        notes: list[str] = []
        if wanted.cam is not None and samples:
            try:
                activations = run_class_activations(
                    self._model,
                    prepared,
                    self._options,
                    samples,
                    layer=wanted.cam_layer,
                    method=wanted.cam,
                    target=wanted.target,
                    observed={tap: prepared.joined(parts[tap]) for tap in self._looked_at if tap in parts},
                )
            except (InputError, RunError) as error:
                if wanted.cam_layer is not None or wanted.target is not None:
                    raise
                notes.append(f"no class activation map: {error}")
        sights = []
        for sample, photograph in enumerate(photographs):
            activation = activations[sample] if sample < len(activations) else None
            overlay, caption = (None, "") if activation is None else (activation.overlay(), activation.title)
            sights.append(Sight(self._dataset.name(sample), photograph, overlay, caption))
        return sights, notes

    def _others(self, compared: ComparedLayers) -> dict[str, tuple[FeatureMap, FeatureMap]]:
        """What both models hold at aligned layers, with the first one's axes, by the name of the first one's value."""
        pairs = {}
        growth = {tap.name: grown for tap, grown in self._growth().items()}
        for place, row in enumerate(compared.comparison.layers):
            batches = [batch[place] for batch in compared.side_by_side if place in batch]
            if not batches or self._comparison is None:
                continue
            tap = self._comparison.taps[place]
            taps = [replace(tap, name=row.a.name), replace(tap, name=row.b.name, value=row.b.name, layer=row.b.layer)]
            maps = [
                describe_features(
                    self._model,
                    [tap],
                    self._prepared,
                    {tap.name: [batch[side] for batch in batches]},
                    (),
                    channels=self._wanted.channels,
                    growth={tap: growth[row.a.name]} if row.a.name in growth else None,
                )
                for side, tap in enumerate(taps)
            ]
            if all(maps):
                pairs[row.a.name] = maps[0][0], maps[1][0]
        return pairs
