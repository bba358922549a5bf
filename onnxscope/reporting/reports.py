"""One page about one model: `report()`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from onnxscope.analyses.activation_maps import Method
from onnxscope.analyses.feature_maps import FeatureMaps, Rank
from onnxscope.analyses.inspection import run_inspect
from onnxscope.analyses.weight_statistics import weights
from onnxscope.base import option_types
from onnxscope.base.files import PAGE, refuse_foreign, refuse_inputs, write_whole
from onnxscope.base.results import Record
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import printable
from onnxscope.comparison.compare_models import with_times
from onnxscope.errors import InputError, ProfileError
from onnxscope.explaining.explain_models import explain_comparison, explain_outputs
from onnxscope.explaining.explained import Explanation
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.profiling.dataset_statistics import DatasetStatistics
from onnxscope.profiling.profile import Profile
from onnxscope.reporting.attention import attention_of
from onnxscope.reporting.content import Content, Row
from onnxscope.reporting.page import Page, render_page
from onnxscope.reporting.page_run import Wanted, run_for_page
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.selectors import At, select_layers
from onnxscope.timing.time_model import REPEATS, time_model

__all__ = ["Report", "report"]


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

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the page, whole or not at all.

        Args:
            path: Where; a page of ours that is there is replaced.
            force: Whether any other file is replaced too.

        Raises:
            OutputError: It cannot be written, would replace the model, or another file is there.
        """
        refuse_inputs([path], self.model.files)
        refuse_foreign([(path, PAGE)], force=force)
        write_whole(path, self.html)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.report/1`, ready for JSON."""
        maps = self.content.maps
        return {
            "schema": "onnxscope.report/1",
            "model": self.content.summary.model,
            "input": None if maps is None else maps.input,
            "layers": self.page.layers,
            "attention": [remark.to_dict() for remark in self.content.attention],
            "unreachable": [{"name": name, "reason": reason} for name, reason in self.content.unreachable],
            "left_out": list(self.page.left_out),
            "size_bytes": len(self.html.encode()),
        }

    def table(self) -> Table:
        """One row for whatever deserves attention."""
        rows = tuple((remark.weight, remark.layer or "", remark.message) for remark in self.content.attention)
        counts = [
            f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in ((self.page.layers, "layer"), (len(rows), "remark"))
        ]
        title = f"{self.content.summary.model['name']}: {', '.join(counts)}"
        return Table(title, ("", "layer", "remark"), rows)

    def __repr__(self) -> str:
        return self.table().text()


@option_types.checked
def report(
    model: Any,
    inputs: Any = None,
    *,
    profile: str | os.PathLike[str] | Profile | None = None,
    against: Any = None,
    explain: bool = False,
    select: str | Sequence[str] = (),
    at: At = "post",
    channels: int = 12,
    rank: Rank = "index",
    cam: Method | None = "eigen",
    cam_layer: str | None = None,
    target: int | None = None,
    batch_size: int = 8,
    max_bytes: int = 12_000_000,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    progress: Callable[[str], None] | None = None,
    time: bool = False,
    repeats: int = REPEATS,
    **feeding: Unpack[FeedingOptions],
) -> Report:
    """Make one self-contained page about a model: what deserves attention, its layers, what they compute and hold.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: What it is run on, as for `features`; None shows structure and weights alone. The first six samples
            have pictures; statistics, and the comparison, are over all of them.
        profile: Statistics of a dataset, from `stats` or a file that `onnxscope stats` wrote, in place of those of
            `inputs`.
        against: Another model, compared with this one layer by layer and shown beside it.
        explain: Whether the page says why layers of the other model differ, and which of them carry the outputs'
            difference, as `explain` does; needs `inputs`.
        select: Selectors; none shows every layer that owns weights, and feature maps of those that do the work.
        at: After (`post`) or before (`pre`) the activation function that follows a layer.
        channels: How many channels a mosaic shows.
        rank: Which ones: the first, or those with the largest standard deviation, maximum or mean.
        cam: How the class activation map over the input is made; None for none.
        cam_layer: The convolution that it looks at, the last one by default.
        target: The class it is about, for `ablation` and `score`.
        batch_size: Samples of a run of statistics, where the model does not fix it.
        max_bytes: Pictures are left out where the page would be larger, and the page says so.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        dims: Sizes for open dimensions of the inputs: by their names, or as `INPUT:AXIS`.
        progress: Called with what is being done.
        time: Whether the models are also run as they are, to say what each layer takes; needs `inputs`.
        repeats: How many runs are measured, after two that are not; the median counts.
        feeding: How what is given becomes the model's inputs: see `FeedingOptions`.

    Raises:
        ModelError: A model cannot be read.
        SelectorError: A selector matches nothing.
        InputError: The inputs do not fit the model.
        RunError: onnxruntime fails.
        ProfileError: The profile cannot be read, or is another model's.
    """
    if explain and (against is None or inputs is None):
        raise InputError("nothing is compared on an input, so nothing can be explained", hint="name both")
    if time and inputs is None:
        raise InputError("nothing is fed, so nothing takes time", hint="name an input; `random` will do")
    say = progress or (lambda text: None)
    options = RunOptions(**feeding, batch_size=batch_size, threads=threads)
    wanted = Wanted(
        select=(select,) if isinstance(select, str) else tuple(select),
        at=at,
        channels=channels,
        rank=rank,
        cam=cam,
        cam_layer=cam_layer,
        target=target,
    )
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    summary = run_inspect(loaded, select=select, at=at, read=False)
    say("reading the weights")
    stored = weights(loaded)
    of_dataset = None if profile is None else _of_profile(profile, loaded)
    second = None if against is None else load_model(against, custom_ops=custom_ops).run_as(loaded.running)
    run = run_for_page(loaded, second, inputs, options, wanted, stored, of_dataset, say)
    reasons: list[Explanation] = []
    causes, remarks = None, tuple[str, ...]()
    if explain and second is not None and run.comparison is not None:
        say("trying what makes layers equal")
        reasons = explain_comparison(run.comparison, loaded, second, inputs, options)
        if not wanted.select:
            causes, remarks = explain_outputs(run.comparison, (loaded, second), inputs, options)
    timing, comparison = None, run.comparison
    if time:
        say("measuring what takes the time")
        timing = time_model(loaded, inputs, options, repeats=repeats)
        if comparison is not None and second is not None:
            comparison = with_times(comparison, loaded, second, inputs, options, repeats)
    say("drawing the page")
    dims = _sizes(loaded, run.maps)
    if dims or timing is not None:
        summary = run_inspect(loaded, select=select, at=at, dims=dims, read=False, timing=timing)
    content = Content(
        summary=summary,
        rows=_rows(loaded, select, at),
        weights=stored,
        maps=run.maps,
        statistics=run.statistics,
        sights=run.sights,
        attention=attention_of(
            loaded, stored, run.maps, run.statistics, run.comparison, run.unreachable, run.preparation
        ),
        comparison=comparison,
        others=run.others,
        unreachable=run.unreachable,
        notes=(*run.notes, *remarks),
        reasons=tuple(reasons),
        causes=causes,
    )
    return Report(loaded, content, render_page(content, max_bytes=max_bytes))


def _sizes(model: Model, maps: FeatureMaps | None) -> dict[str, int]:
    """The sizes that symbolic dimensions had in the run, but for the first axis of inputs, which counts samples."""
    fed = {array["name"]: array["shape"] for array in maps.input["inputs"]} if maps is not None else {}
    sizes: dict[str, set[int]] = {}
    for spec in model.declared_inputs:
        shape, found = spec.shape or (), fed.get(spec.name) or ()
        if len(shape) == len(found):
            for dim, size in zip(shape[1:], found[1:], strict=True):
                if isinstance(dim, str) and size:
                    sizes.setdefault(dim, set()).add(size)
    first = {spec.shape[0] for spec in model.declared_inputs if spec.shape}
    return {name: size for name, (size, *others) in sizes.items() if not others and name not in first}


def _of_profile(profile: str | os.PathLike[str] | Profile, model: Model) -> DatasetStatistics:
    taken = profile if isinstance(profile, Profile) else Profile.load(profile)
    if taken.digest != model.digest:
        raise ProfileError(
            f"the profile is of another model, {printable(taken.model['name'])}: {model.name}",
            hint="take it of this file with `onnxscope stats`",
        )
    return DatasetStatistics(taken)


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
