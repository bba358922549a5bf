"""One page about one model: `report()`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnxscope.analyses.activation_maps import ClassActivation, Method, run_class_activations
from onnxscope.analyses.feature_maps import FeatureMap, FeatureMaps, Rank, run_features
from onnxscope.analyses.input_pictures import prepared_pictures
from onnxscope.analyses.inspection import inspect
from onnxscope.analyses.weight_statistics import weights
from onnxscope.base.files import refuse_inputs, write_whole
from onnxscope.base.results import Record
from onnxscope.base.run_options import Layout, RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import printable
from onnxscope.comparison.compare_models import run_diff
from onnxscope.comparison.match_values import match_inputs, match_values
from onnxscope.comparison.result import Comparison
from onnxscope.errors import InputError, ProfileError, RunError
from onnxscope.inputs.dataset import Dataset, PreparedInput, open_dataset, open_inputs
from onnxscope.model.loading import Model, load_model
from onnxscope.model.selectors import At, select_layers, select_taps, tap_values
from onnxscope.profiling.dataset_run import run_stats
from onnxscope.profiling.dataset_statistics import DatasetStatistics
from onnxscope.profiling.profile import Profile
from onnxscope.reporting.attention import attention_of
from onnxscope.reporting.content import Content, Row, Sight
from onnxscope.reporting.page import Page, render_page

__all__ = ["Report", "report"]

_MAX_COLUMNS = 6  # inputs that have pictures; statistics are over all of them
_KEPT_BYTES = 256 << 20  # of prepared images: pictures, statistics and a comparison each walk over them


@dataclass(frozen=True, eq=False)
class Report(Record):
    """A page about a model.

    Attributes:
        model: What it is about.
        content: The records that it shows.
        page: The page, and what it leaves out.
    """

    frame_keys: ClassVar[tuple[str, ...]] = ("attention",)

    model: Model
    content: Content
    page: Page

    @property
    def html(self) -> str:
        """The whole page: no other file, no network."""
        return self.page.html

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all.

        Raises:
            OutputError: It cannot be written, or would replace the model.
        """
        refuse_inputs([path], self.model.storage.files)
        write_whole(path, self.html)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.report/1`, ready for JSON."""
        maps = self.content.maps
        return {
            "schema": "onnxscope.report/1",
            "model": self.content.summary.model,
            "input": None if maps is None else maps.input,
            "layers": self.page.layers,
            "attention": [each.to_dict() for each in self.content.attention],
            "unreachable": [{"name": name, "reason": reason} for name, reason in self.content.unreachable],
            "left_out": list(self.page.left_out),
            "size_bytes": len(self.html.encode()),
        }

    def table(self) -> Table:
        """One row for whatever deserves attention."""
        rows = tuple((each.weight, each.layer or "", each.message) for each in self.content.attention)
        counts = [
            f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in ((self.page.layers, "layer"), (len(rows), "remark"))
        ]
        title = f"{self.content.summary.model['name']}: {', '.join(counts)}"
        return Table(title, ("", "layer", "remark"), rows)

    def __repr__(self) -> str:
        return self.table().text()


def report(
    model: Any,
    inputs: Any = None,
    *,
    profile: str | os.PathLike[str] | Profile | None = None,
    against: Any = None,
    select: str | Sequence[str] = (),
    at: At = "post",
    channels: int = 12,
    rank: Rank = "index",
    cam: Method | None = "eigen",
    cam_layer: str | None = None,
    target: int | None = None,
    preprocess: str | None = None,
    layout: Layout = "auto",
    max_bytes: int = 12_000_000,
    threads: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Make one self-contained page about a model: what deserves attention, its layers, what they compute and hold.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: What it is run on, as for `features`; None shows structure and weights alone. The first six samples
            have pictures; statistics, and the comparison, are over all of them.
        profile: Statistics of a dataset, from `stats` or a file that `onnxscope stats` wrote, in place of those of
            `inputs`.
        against: Another model, compared with this one layer by layer and shown beside it.
        select: Selectors; none shows every layer that owns weights, and feature maps of every convolution.
        at: After (`post`) or before (`pre`) the activation function that follows a layer.
        channels: How many channels a mosaic shows.
        rank: Which ones: the first, or those with the largest standard deviation, maximum or mean.
        cam: How the class activation map over the input is made; None for none.
        cam_layer: The convolution that it looks at, the last one by default.
        target: The class it is about, for `ablation` and `score`.
        preprocess: Preset for images, a recipe's path, or None for the one recorded in the model.
        layout: Of the model's image input.
        max_bytes: Pictures are left out where the page would be larger, and the page says so.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        progress: Called with what is being done.

    Raises:
        ModelError: A model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit the model.
        RunError: onnxruntime fails.
        ProfileError: The profile cannot be read, or is another model's.
    """
    say = progress or (lambda text: None)
    options = RunOptions(preprocess=preprocess, layout=layout, threads=threads)
    loaded = load_model(model)
    summary = inspect(loaded, select=select, at=at)
    say("reading the weights")
    stored = weights(loaded)
    notes: list[str] = []
    dataset: Dataset | None = None
    maps: FeatureMaps | None = None
    statistics = None if profile is None else _dataset(profile, loaded)
    comparison: Comparison | None = None
    others: dict[str, tuple[FeatureMap, FeatureMap]] = {}
    sights: list[Sight] = []
    if inputs is not None:
        dataset = open_dataset(inputs, loaded, options, keep_bytes=_KEPT_BYTES)
        say("running the model")
        chosen = [select] if isinstance(select, str) else list(select)
        taps = select_taps(loaded, chosen, at=at)
        prepared = _first_samples(dataset).whole()
        maps = run_features(loaded, taps, prepared, channels=channels, rank=rank, threads=threads)
        notes += maps.notes
        if dataset.count > _MAX_COLUMNS:
            notes.append(f"pictures show the first {_MAX_COLUMNS} of {dataset.count:,} samples, statistics all of them")
        if statistics is None:
            statistics = run_stats(
                loaded,
                taps,
                dataset,
                options,
                selection={"select": chosen, "at": at},
                progress=lambda done, total: say(f"running the model: {done:,} of {total:,} samples"),
                stored=stored,
            )
        say("looking for what the model looks at")
        sights, remarks = _sights(loaded, dataset, prepared, options, method=cam, layer=cam_layer, target=target)
        notes += remarks
    if against is not None:
        say("comparing the two models")
        second = load_model(against)
        comparison = run_diff(loaded, second, dataset, options, select=select)
        notes += comparison.notes
        if maps is not None:
            others, remarks = _others((loaded, second), prepared, channels, comparison, threads)
            notes += remarks
    say("drawing the page")
    unreachable = _unreachable(maps, statistics)
    content = Content(
        summary,
        _rows(loaded, select, at),
        sum(layer.multiply_accumulates or 0 for layer in (inspect(loaded) if select else summary).layers),
        stored,
        maps,
        statistics,
        tuple(sights),
        attention_of(loaded, stored, maps, statistics, comparison, unreachable),
        comparison,
        others,
        unreachable,
        tuple(dict.fromkeys(notes)),
    )
    return Report(loaded, content, render_page(content, max_bytes=max_bytes))


def _dataset(profile: str | os.PathLike[str] | Profile, model: Model) -> DatasetStatistics:
    found = profile if isinstance(profile, Profile) else Profile.load(profile)
    if found.digest != model.digest:
        raise ProfileError(
            f"the profile is of another model, {printable(found.model['name'])}: {model.name}",
            hint="take it of this file with `onnxscope stats`",
        )
    return DatasetStatistics(found)


def _rows(model: Model, select: str | Sequence[str], at: At) -> tuple[Row, ...]:
    """What belongs to each layer of the summary."""
    chosen = [select] if isinstance(select, str) else select
    return tuple(
        Row(
            tuple(dict.fromkeys([*(tap.name for tap in taps), *(tap.value for tap in taps)])),
            frozenset(
                operand.origin.value
                for operand in (model.names.operands(node) if node else ())
                if operand.origin is not None
            ),
        )
        for node, taps in select_layers(model, chosen, at=at)
    )


def _unreachable(maps: FeatureMaps | None, statistics: DatasetStatistics | None) -> tuple[tuple[str, str], ...]:
    """Names of values that could not be observed, with the reason."""
    if maps is not None:
        return tuple((missed.name, missed.reason) for missed in maps.unreachable)
    return () if statistics is None else statistics.profile.unreachable


def _first_samples(dataset: Dataset) -> Dataset:
    """The samples that have pictures, and arrays up to where a run of a fixed batch ends."""
    size = 1 if dataset.kind == "images" else dataset.fixed_batch or 1
    return dataset.first(-(-_MAX_COLUMNS // size) * size)


def _sights(
    model: Model,
    dataset: Dataset,
    prepared: PreparedInput,
    options: RunOptions,
    *,
    method: Method | None,
    layer: str | None,
    target: int | None,
) -> tuple[list[Sight], list[str]]:
    """What the inputs look like, and where the model looks; no map where the model has no place for one."""
    photographs = prepared_pictures(prepared)[:_MAX_COLUMNS]
    samples = range(len(photographs) if prepared.samples is not None else min(1, len(photographs)))
    activations: list[ClassActivation] = []
    notes: list[str] = []
    if method is not None and samples:
        try:
            activations = run_class_activations(
                model, prepared, options, samples, layer=layer, method=method, target=target
            )
        except (InputError, RunError) as error:
            if layer is not None or target is not None:
                raise
            notes.append(f"no class activation map: {error}")
    sights = []
    for sample, photograph in enumerate(photographs):
        activation = activations[sample] if sample < len(activations) else None
        overlay, caption = (None, "") if activation is None else (activation.overlay(), activation.title)
        sights.append(Sight(dataset.name(sample), photograph, overlay, caption))
    return sights, notes


def _others(
    models: tuple[Model, Model], prepared: PreparedInput, channels: int, comparison: Comparison, threads: int
) -> tuple[dict[str, tuple[FeatureMap, FeatureMap]], list[str]]:
    """What both models hold at aligned layers, with the first one's axes, by the name of the first one's value.

    The second one is fed what the first one is, as `diff` does: prepared by the first one's preset.
    """
    rows = [row for row in comparison.layers if row.entire is not None]
    if not rows:
        return {}, []
    fed, _ = match_inputs(models[0].inputs, models[1].inputs)
    arrays = prepared.arrays, {pair.b: pair.apply(prepared.arrays[pair.a]) for pair in fed}
    values = {row.a.name for row in rows}, {row.b.name for row in rows}
    by_value: list[dict[str, FeatureMap]] = []
    for model, given, chosen in zip(models, arrays, values, strict=True):
        taps = tap_values(model, [(layer.path, layer.value) for layer in model.layers if layer.value in chosen])
        try:
            whole = open_inputs(given, model.inputs, RunOptions()).whole()
            maps = run_features(model, list(taps.values()), whole, channels=channels, threads=threads)
        except (InputError, RunError) as error:
            return {}, [f"feature maps are not shown side by side: {error}"]
        by_value.append({feature.tap.name: feature for feature in maps})
    pairs = {}
    for row in rows:
        first, second = by_value[0].get(row.a.name), by_value[1].get(row.b.name)
        if first is None or second is None:
            continue
        counterpart = match_values(
            *(row.a.name, row.b.name),
            (first.data.shape, second.data.shape),
            (first.data.dtype.name, second.data.dtype.name),
            (first.channel_axis, second.channel_axis),
            replaced=False,
        )
        if counterpart is not None:
            data = counterpart.to_a(np.asarray(second.data))
            pairs[row.a.name] = first, replace(second, data=data, channel_axis=first.channel_axis)
    return pairs, []
