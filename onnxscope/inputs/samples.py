"""Samples by position, whatever they are made of: how they are read, and how they go into runs."""

from __future__ import annotations

import hashlib
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis
from onnxscope.base.shapes import shape_text
from onnxscope.base.text import as_typed, printable
from onnxscope.errors import InputError
from onnxscope.inputs.layouts import ImageLayout, find_layout
from onnxscope.inputs.sources import Kind
from onnxscope.selection.input_roles import is_called

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = [
    "BatchAxes",
    "Kept",
    "Load",
    "Samples",
    "axis_of_samples",
    "find_batching",
    "find_layouts",
    "input_record",
    "join_samples",
    "position_name",
    "run_length",
    "sample_count",
    "some_samples",
]

Array = NDArray[Any]
BatchAxes = Mapping[str, int | None]
Load = Callable[[int], tuple[dict[str, Array], list[str]]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples(ABC):
    """Samples by position, read when they are asked for.

    Attributes:
        specs: The model's inputs.
        count: How many samples there are.
        batch_axes: By input name, the axis of samples of what is fed, None for an input that has none.
        layouts: Where the axes of an input are, by its name, for those that are images by their shape.
        fixed_batch: How many samples a run must have, None for any number.
        asked_axis: The axis of samples that somebody has decided on, None where the shapes alone did.
    """

    kind: ClassVar[Kind]

    specs: tuple[InputSpec, ...]
    count: int
    batch_axes: BatchAxes
    layouts: Mapping[str, ImageLayout]
    fixed_batch: int | None
    asked_axis: BatchAxis = None

    @property
    def files(self) -> list[str]:
        """The paths that samples are read from."""
        return []

    @property
    def names(self) -> list[str]:
        """The files' names, without folders."""
        return []

    @property
    def record(self) -> dict[str, Any]:
        """How the samples are made, as the `input` of results says it."""
        return {"preset": None, "layout": None, "random_seed": None}

    @property
    def dims(self) -> Mapping[str, int]:
        """Sizes of open dimensions that were given."""
        model = next((spec.model for spec in self.specs if spec.model is not None), None)
        return {} if model is None else model.dims

    @property
    def notes(self) -> list[str]:
        """Remarks for people on samples that are fed in batches."""
        return []

    def name(self, position: int) -> str:
        """What a sample is called: its file's name, or its position."""
        return position_name(position)

    def first(self, count: int) -> Self:
        """The first samples alone; `count` is at most that of these."""
        return replace(self, count=count)

    @abstractmethod
    def fed_to(self, specs: Sequence[InputSpec]) -> Self:
        """The same samples for inputs that differ in nothing but a fixed batch."""

    def as_one_sample(self) -> Samples:
        """The same, with no axis of samples; of those that are samples by what they are, nothing changes."""
        return self

    @abstractmethod
    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Read and prepare one sample.

        Returns:
            An array for every input, without the axis of samples where it has one; and remarks, without the name.

        Raises:
            InputError: It is missing, broken, or does not become the input.
        """

    def tokens(self, arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], ...]:
        """What the tokens of all samples are called, as they are in `whole`; nothing for what is no text."""
        return ()

    def token_names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """What tokens are called, by their numbers; nothing where nobody knows."""
        return ()

    def go_together(self, one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
        """Whether two samples can be in one batch: whether their shapes are the same."""
        return all(array.shape == other[name].shape for name, array in one.items())

    def together(self, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Return a batch of samples that go together; an input without an axis of samples has that of the first."""
        return {
            name: samples[0][name] if axis is None else np.stack([sample[name] for sample in samples], axis)
            for name, axis in self.batch_axes.items()
        }

    @abstractmethod
    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """Prepare everything at once.

        Args:
            load: Gives a sample as the method of that name does; it may know it already.

        Returns:
            An array for every input, C-contiguous and the caller's; how many samples are real, None where no input has
            an axis of samples; and remarks.

        Raises:
            InputError: It cannot be read, or not be fed at once or in runs of the model's fixed batch.
        """


def join_samples(
    loaded: Sequence[tuple[dict[str, Array], list[str]]], samples: Samples
) -> tuple[dict[str, Array], int | None, list[str]]:
    """Put samples together along their axes: see `Samples.whole`.

    Args:
        loaded: What `load` gave, for each.
        samples: Whose they are.

    Raises:
        InputError: They have several shapes, or do not fill runs of a fixed batch.
    """
    notes = list(dict.fromkeys(itertools.chain.from_iterable(notes for _, notes in loaded)))
    if samples.fixed_batch and samples.count % samples.fixed_batch:
        raise InputError(
            f"{samples.count} samples do not fill runs of {samples.fixed_batch}, the model's fixed batch",
            hint=f"give a multiple of {samples.fixed_batch} samples",
        )
    joined = {}
    for spec in samples.specs:
        arrays = [sample[spec.name] for sample, _ in loaded]
        axis = samples.batch_axes[spec.name]
        shapes = dict.fromkeys(array.shape for array in arrays)
        if len(shapes) > 1 or (axis is None and samples.count > 1):
            shown = " and ".join(map(shape_text, shapes))
            raise InputError(
                f"{samples.count} samples of {shown[:120]} do not go into one run: input {spec.name!r}",
                hint="give one of them, or use `stats`, which runs samples with others of their shape",
            )
        joined[spec.name] = np.array(arrays[0]) if axis is None else np.stack(arrays, axis)
    return joined, sample_count(joined, samples.batch_axes), notes


def position_name(position: int) -> str:
    """Return what a sample is called that has no file of its own."""
    return f"sample {position}"


def find_batching(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], asked: BatchAxis = None
) -> tuple[dict[str, int | None], int | None, int]:
    """Find each input's axis of samples, the model's own batch size, and how many samples there are.

    Raises:
        InputError: The axis asked for does not exist, or inputs differ in length along it.
    """
    if asked is not None:
        return _asked_batching(specs, shapes, asked)
    lengths = {shape[0] if shape else None for shape in shapes.values()}
    fixed = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    if len(lengths) != 1 or None in lengths or len(fixed) > 1:
        return dict.fromkeys(shapes, None), 1, 1
    return dict.fromkeys(shapes, 0), next(iter(fixed), None), lengths.pop() or 0


def find_layouts(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], axes: BatchAxes
) -> dict[str, ImageLayout]:
    """Find the layouts of inputs that are images by their shape or by that of what is fed; samples lie along axis 0."""
    layouts = {}
    for spec in specs:
        shape = shapes[spec.name]
        layout = None
        # With three axes it is more likely a sequence, and what a decoder remembers of one may have four.
        if len(shape) == 4 and not axes[spec.name] and not is_called(spec.name, "cache"):
            layout = find_layout(spec.shape) or find_layout(tuple(shape))
        if layout is not None:
            layouts[spec.name] = layout
    return layouts


def sample_count(arrays: Mapping[str, Array], axes: BatchAxes) -> int | None:
    """Return how many samples arrays have along their axes of samples, None where no array has one."""
    return next((arrays[name].shape[axis] for name, axis in axes.items() if axis is not None), None)


def some_samples(array: Array, axis: int | None, start: int, stop: int | None) -> Array:
    """Return a view of some of an array's samples, all of it where it has no axis of samples."""
    return array if axis is None else array[(slice(None),) * axis + (slice(start, stop),)]


def run_length(arrays: Mapping[str, Array], specs: Sequence[InputSpec], axes: BatchAxes) -> int | None:
    """Return the fixed batch that samples go beyond, or None where one run takes everything."""
    for spec in specs:
        axis = axes[spec.name]
        fixed = None if axis is None or not spec.shape else spec.shape[axis]
        if axis is not None and isinstance(fixed, int) and 0 < fixed < arrays[spec.name].shape[axis]:
            return fixed
    return None


def axis_of_samples(shape: Sequence[int], count: int, axes: BatchAxes) -> int | None:
    """Return where so many samples lie in a value, as far as its shape tells.

    Args:
        shape: Of the value.
        count: How many samples the run had.
        axes: Where they lie in the inputs.

    Returns:
        The axis of the inputs, or else the first one, if it is that long; or else the only axis that is.
    """
    fed = [axis for axis in axes.values() if axis is not None]
    for axis in dict.fromkeys([*fed, 0]):
        if axis < len(shape) and shape[axis] == count:
            return axis
    return list(shape).index(count) if fed and list(shape).count(count) == 1 else None


def input_record(
    samples: Samples,
    count: int,
    shown: list[str],
    batch_axes: BatchAxes,
    dims: Mapping[str, int],
    inputs: list[dict[str, Any]],
    masks: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the `input` of results: what was given, with the names of some files, and a row for each model input."""
    names = samples.names
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", errors="surrogateescape") + b"\0")
    return {
        "kind": samples.kind,
        "files": shown,
        "file_count": len(names),
        "names_sha256": digest.hexdigest(),
        "samples": count,
        **samples.record,
        "batch_axes": dict(batch_axes),
        "dims": dict(dims),
        **({"masks": dict(masks)} if masks else {}),
        "inputs": inputs,
    }


def _axis_hint(asked: str) -> str:
    return f"`--batch-axis {as_typed(asked)}`, or without it what the arrays' shapes tell"


def _asked_batching(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], asked: BatchAxis
) -> tuple[dict[str, int | None], int | None, int]:
    axes: dict[str, int | None] = dict.fromkeys(shapes, None)
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in axes:
                raise InputError(
                    f"no input '{printable(name)}' has a batch axis", hint=_axis_hint(f"{specs[0].name}=0")
                )
        axes |= asked
    elif isinstance(asked, int):
        axes = dict.fromkeys(shapes, asked)
    lengths, fixed = set(), set()
    for spec in specs:
        axis, shape = axes[spec.name], shapes[spec.name]
        if axis is None:
            continue
        if not -len(shape) <= axis < len(shape):
            raise InputError(
                f"input '{printable(spec.name)}' has no axis {axis} for a batch: it has {len(shape)} axes",
                hint=_axis_hint("0" if shape else "none"),
            )
        axes[spec.name] = axis = axis % len(shape)
        lengths.add(shape[axis])
        declared = spec.shape[axis] if spec.shape else None
        fixed |= {declared} if isinstance(declared, int) else set()
    if not lengths:
        return axes, 1, 1
    if len(lengths) > 1 or len(fixed) > 1:
        many = sorted(lengths if len(lengths) > 1 else fixed)
        raise InputError(
            f"the inputs do not agree on how many samples there are: {', '.join(map(str, many))}",
            hint="`--batch-axis INPUT=AXIS` names the inputs that have a batch axis; the others are fed whole",
        )
    return axes, next(iter(fixed), None), lengths.pop()


class Kept:
    """Prepared samples by position, as many as a budget of bytes holds; they do not travel to other processes."""

    def __init__(self, budget_bytes: int) -> None:
        self.samples: dict[int, tuple[dict[str, Array], list[str]]] = {}
        self._free_bytes = budget_bytes
        self._lock = threading.Lock()

    def keep(self, position: int, sample: tuple[dict[str, Array], list[str]]) -> None:
        """Keep a sample if there is room."""
        size_bytes = sum(array.nbytes for array in sample[0].values())
        with self._lock:
            if position not in self.samples and size_bytes <= self._free_bytes:
                self.samples[position] = sample
                self._free_bytes -= size_bytes

    def __reduce__(self) -> tuple[type[Kept], tuple[int]]:
        return Kept, (0,)
