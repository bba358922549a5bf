"""What INPUT names, opened once for a model: samples by position, everything at once, and what results say of it.

A dataset may be larger than memory. Nothing is read before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RecipeUsed, RunOptions
from onnxscope.base.shapes import spec_text
from onnxscope.base.text import printable
from onnxscope.datasets.given import Given
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.datasets.sequences import by_steps, for_inputs
from onnxscope.datasets.stepped_samples import SteppedSamples, parted
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import check_bounds, describe_array
from onnxscope.inputs.samples import (
    BatchAxes,
    Kept,
    Samples,
    input_record,
    run_length,
    some_samples,
)
from onnxscope.inputs.sources import Kind
from onnxscope.inputs.teaching import teaching
from onnxscope.selection.padding_masks import PaddingMask, find_padding_masks

if TYPE_CHECKING:
    from onnxscope.model.loading import Model
    from onnxscope.model.stored_model import InputSpec

__all__ = ["Dataset", "open_dataset", "open_inputs"]

Array = NDArray[Any]

Bounds = Mapping[str, tuple[int, int]] | None

_FIRST_NAMES = 3  # of a dataset's files; of what is fed at once, every name is recorded
_SAMPLES = frozenset({"images", "text"})  # kinds that are samples by what they are
_KEPT_BYTES = 32 << 20  # a first batch of photographs, which pilot runs are fed before the run itself is


class Dataset:
    """Samples by position. Safe to share between threads; travels to other processes by name.

    Images that were prepared are kept, first come first kept, as far as a budget of bytes goes: who walks over the
    samples again does not decode them again. They do not travel.

    Attributes:
        record: The `input` of results, ready for JSON: file names without folders, the preset, the layout, the seed.
        notes: Remarks for people.
        masks: Inputs that say which positions count.
    """

    def __init__(
        self,
        samples: Samples,
        notes: Sequence[str],
        kept: Kept,
        bounds: Bounds = None,
        masks: Sequence[PaddingMask] = (),
        recipe: RecipeUsed | None = None,
    ) -> None:
        """Take samples, remarks on opening them, those prepared already, bounds of whole numbers, masks, a recipe."""
        self._recipe = recipe
        self._samples = samples
        self._bounds = bounds
        self.masks = tuple(mask.cut_as(samples.batch_axes) for mask in masks)
        self._opening_notes = tuple(notes)
        self._kept = kept
        self.notes = (*notes, *samples.notes)
        rows = [
            {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
            for spec in samples.specs
        ]
        self._dims = dict(samples.dims)  # whose they are does not travel
        self.record = self._recorded(samples.count, samples.names[:_FIRST_NAMES], samples.batch_axes, rows)

    def _recorded(self, count: int, names: list[str], axes: BatchAxes, rows: list[dict[str, Any]]) -> dict[str, Any]:
        masks = {mask.name: mask.says for mask in self.masks}
        record = input_record(self._samples, count, names, axes, self._dims, rows, masks)
        return record if self._recipe is None else {**record, "recipe": self._recipe.to_dict()}

    def _with(self, samples: Samples, notes: Sequence[str], kept: Kept) -> Dataset:
        return Dataset(samples, notes, kept, self._bounds, self.masks, self._recipe)

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """The model's inputs."""
        return self._samples.specs

    @property
    def kind(self) -> Kind:
        """`images`, `arrays`, `text` or `random`."""
        return self._samples.kind

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self._samples.count

    @property
    def batch_axes(self) -> BatchAxes:
        """By input name, the axis of samples of what is fed, None for an input that has none."""
        return self._samples.batch_axes

    @property
    def channel_axes(self) -> dict[str, int | None]:
        """By input name, the channels of what is fed, None where they are not known."""
        layouts = self._samples.layouts
        return {spec.name: layouts[spec.name].channel_axis if spec.name in layouts else None for spec in self.specs}

    @property
    def fixed_batch(self) -> int | None:
        """How many samples a run must have, None for any number."""
        return self._samples.fixed_batch

    @property
    def files(self) -> list[str]:
        """The files that samples are read from."""
        return self._samples.files

    def name(self, position: int) -> str:
        """What a sample is called: its file's name, or its position."""
        return self._samples.name(position)

    def first(self, count: int) -> Dataset:
        """The first samples alone, all of them where there are no more; both know what either has prepared."""
        return self if count >= self.count else self._with(self._samples.first(count), self._opening_notes, self._kept)

    @property
    def may_be_one_sample(self) -> bool:
        """Whether samples were cut along an axis of arrays that nobody has named, nor fixed in the model."""
        return (
            self.kind not in _SAMPLES
            and self._samples.asked_axis is None
            and self.fixed_batch is None
            and any(axis is not None for axis in self.batch_axes.values())
        )

    def as_one_sample(self, note: str) -> Dataset:
        """The same arrays with no axis of samples, and a remark that says why."""
        return self._with(self._samples.as_one_sample(), (*self._opening_notes, note), Kept(0))

    def noting(self, *notes: str) -> Dataset:
        """The same samples with more remarks."""
        return self._with(self._samples, (*self._opening_notes, *notes), self._kept) if notes else self

    def fed_by(self, recipe: RecipeUsed) -> Dataset:
        """The same samples, which a recipe has said how to prepare: it is recorded, and a remark says so."""
        notes = (*self._opening_notes, recipe.note)
        return Dataset(self._samples, notes, self._kept, self._bounds, self.masks, recipe)

    def masked_by(self, masks: Sequence[PaddingMask]) -> Dataset:
        """The same samples, of whose positions not all count."""
        if not masks:
            return self
        left_out = f"positions that {' and '.join(printable(mask.name) for mask in masks)} leaves out do not count"
        notes = (*self._opening_notes, left_out)
        return Dataset(self._samples, notes, self._kept, self._bounds, masks, self._recipe)

    def fed_to(self, specs: Sequence[InputSpec]) -> Dataset:
        """The same samples for inputs that differ in nothing but a fixed batch.

        Raises:
            InputError: They differ in more.
        """
        if tuple(specs) == self.specs:
            return self
        if list(map(_of_a_sample, self.specs)) != list(map(_of_a_sample, specs)):
            raise InputError(
                f"the dataset was opened for other inputs: {', '.join(spec_text(spec) for spec in self.specs)}",
                hint="open it for this model, or give what it was opened from",
            )
        return self._with(self._samples.fed_to(specs), self._opening_notes, self._kept)

    @property
    def samples(self) -> Samples:
        """What they are made of."""
        return self._samples

    def stepping(self, samples: Samples) -> Dataset:
        """Other samples, which are the steps of these."""
        return self._with(samples, self._opening_notes, Kept(0))

    def parted(self, parting: Mapping[str, Any] | None, note: str) -> Dataset:
        """The same steps; the record and a remark say where another model parts."""
        return self._with(parted(self._samples, parting), (*self._opening_notes, note), self._kept)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Read and prepare one sample.

        Returns:
            An array for every input, without the axis of samples where it has one, not to be changed; and remarks,
            without the name.

        Raises:
            InputError: It is missing, broken, or does not become the input.
        """
        sample = self._kept.samples.get(position)
        if sample is None:
            with teaching(self.specs, self._bounds):
                sample = self._samples.load(position)
                check_bounds(sample[0], self._bounds, self.name(position))
            if self.kind == "images":
                self._kept.keep(position, sample)
        return sample

    def go_together(self, one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
        """Whether two samples can be in one batch."""
        return self._samples.go_together(one, other)

    def together(self, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Return a batch of samples that go together, which fills them up where they differ in length."""
        return self._samples.together(samples)

    def counted(self, name: str, array: Array, sample: Mapping[str, Array]) -> Array:
        """Return what of one input of a sample its masks leave in."""
        for mask in self.masks:
            axis = mask.axes.get(name)
            rows = mask.counted_of(sample) if axis is not None else None
            batch_axis = self.batch_axes[name]
            if axis is not None and batch_axis is not None and batch_axis < axis:
                axis -= 1
            if axis is not None and rows is not None and array.shape[axis : axis + 1] == rows.shape:
                array = array.compress(rows, axis)
        return array

    def whole(self, *, apart: bool = False) -> PreparedInput:
        """Prepare everything at once: in one run, or in runs of the model's fixed batch.

        Args:
            apart: Whether steps whose shapes grow may each have a run of their own.

        Raises:
            InputError: A sample is missing or broken, does not become the input, or all do not go into runs.
        """
        samples = self._samples
        runs: tuple[dict[str, Array], ...] = ()
        count: int | None
        with teaching(samples.specs, self._bounds, offer_random=self.kind != "random"):
            if apart and isinstance(samples, SteppedSamples) and samples.is_ragged(self.load):
                runs = tuple(samples.together([self.load(place)[0]]) for place in range(samples.count))
                arrays, count, notes = runs[-1], samples.count, list(samples.notes)
            else:
                arrays, count, notes = samples.whole(self.load)
            check_bounds(arrays, self._bounds, ", ".join(samples.names[:_FIRST_NAMES]) or "the arrays given")
        axes, channels = self.batch_axes, self.channel_axes
        rows = [
            describe_array(name, np.ascontiguousarray(some_samples(array, axes[name], 0, count)), channels[name])
            for name, array in arrays.items()
        ]
        rows = [_over_steps(row["name"], runs, axes[row["name"]]) for row in rows] if runs else rows
        asked = samples.kind in _SAMPLES or samples.asked_axis is not None
        cut = axes if asked or run_length(arrays, samples.specs, axes) is not None else dict.fromkeys(axes)
        tokens = [samples.tokens(run)[0:1] for run in runs] if runs else [samples.tokens(arrays)]
        return PreparedInput(
            specs=samples.specs,
            arrays=arrays,
            samples=count,
            record=self._recorded(samples.count if count is None else count, samples.names, cut, rows),
            notes=(*self._opening_notes, *notes),
            layouts=samples.layouts,
            preset=getattr(samples, "preset", None),
            batch_axes=axes,
            masks=() if runs else self.masks,
            fixed_batch=self.fixed_batch,
            tokens=tuple(name for names in tokens for name in names),
            sequences=getattr(samples, "sequences", ()),
            apart=runs,
        )


def open_dataset(sources: Any, model: Model, options: RunOptions, *, keep_bytes: int = _KEPT_BYTES) -> Dataset:
    """Find out what there is for a model, without reading it.

    Args:
        sources: One of these, or a sequence or generator of several of a kind: the path of an image, of a file of
            arrays (`.npy`, `.npz`, `.safetensors`, `.pb`), of text (`.txt`, `.jsonl`), of a folder or a glob of these,
            of a folder of onnx's test data; `NAME=FILE` for an input of that name; `text:` with a text behind it;
            `random` or `random:SEED`; a Pillow image; an array or tensor; a mapping of arrays by input name. What is
            given keeps its order; a folder or a glob is in natural order. Or a dataset that was opened for this model
            before: then the limit alone counts.
        model: Who is fed: with its inputs, its recorded preset, and whole numbers that it can take.
        options: Its preset, layout and limit count here. Of random samples as many are made as the limit says, one
            without a limit.
        keep_bytes: How much of the prepared images is kept for another walk over them.

    Raises:
        InputError: Whatever the user gave does not exist, cannot be read, or does not fit the model.
    """
    recorded = model.provenance.preprocess if model.provenance else None
    return open_inputs(
        sources, model.inputs, options, recorded_preset=recorded, bounds=model.index_bounds, keep_bytes=keep_bytes
    )


def open_inputs(
    sources: Any,
    specs: Sequence[InputSpec],
    options: RunOptions,
    *,
    recorded_preset: str | None = None,
    bounds: Mapping[str, tuple[int, int]] | None = None,
    keep_bytes: int = _KEPT_BYTES,
) -> Dataset:
    """Find out what there is for inputs, without reading it.

    Args:
        sources: As for `open_dataset`; a dataset that was opened before is cut anew for these inputs.
        specs: The inputs.
        options: As for `open_dataset`.
        recorded_preset: What the model's converter recorded: a name or a recipe in JSON, never a path.
        bounds: For random whole numbers: see `random_feeds`.
        keep_bytes: As for `open_dataset`.

    Raises:
        InputError: As `open_dataset`.
    """
    if isinstance(sources, Dataset):
        return sources.fed_to(specs).first(options.limit or sources.count)
    is_random = isinstance(sources, str) and sources.startswith("random")
    with teaching(specs, bounds, offer_random=not is_random):
        given = Given.gathered(sources)

        def opened(of: Sequence[InputSpec]) -> Dataset:
            with teaching(of, bounds, offer_random=given.kind != "random"):
                samples, notes = given.open(of, for_inputs(options, of), recorded_preset, bounds)
            return Dataset(samples, notes, Kept(keep_bytes), bounds if given.kind in ("arrays", "text") else None)

        dataset = by_steps(given, opened, specs, options)
        asked = (options.mask,) if isinstance(options.mask, str) else options.mask
        if asked is not None or dataset.kind != "random":  # whose masks leave nothing out
            dataset = dataset.masked_by(find_padding_masks(specs, asked))
    return dataset if options.recipe_used is None else dataset.fed_by(options.recipe_used)


def _of_a_sample(spec: InputSpec) -> tuple[str, str, tuple[int | str | None, ...] | None]:
    """An input's name, element type and shape behind the axis of samples."""
    return spec.name, spec.dtype, None if spec.shape is None else spec.shape[1:]


def _over_steps(name: str, runs: Sequence[Mapping[str, Array]], axis: int | None) -> dict[str, Any]:
    """What steps of several shapes were fed: the numbers of all, and the longest shape."""
    arrays = [run[name] for run in runs]
    shape = np.max([array.shape for array in arrays], axis=0).tolist()
    if axis is not None:
        shape[axis] = sum(array.shape[axis] for array in arrays)
    return {**describe_array(name, np.concatenate(arrays, axis=None), None), "shape": shape}
