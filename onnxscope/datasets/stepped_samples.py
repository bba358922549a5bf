"""Samples that are the steps of sequences, where outputs of a model feed its inputs: each with the states it is fed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis, RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.errors import InputError, RunError
from onnxscope.inputs.array_samples import ArraySamples
from onnxscope.inputs.array_sets import ArraySets
from onnxscope.inputs.samples import Load, Samples

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec
    from onnxscope.stepping.states import State
    from onnxscope.stepping.walk import Walk, Walker

__all__ = ["SteppedSamples", "by_steps", "for_inputs", "parted"]

Array = NDArray[Any]
_SHOWN_TOKENS = 16
_PIECES = """`--preprocess '{"features": "wave", "rate": 16000, "length": 512}'` steps over pieces of so many samples"""
_FEW_NAMES = 4


class _Opened(Protocol):
    """As much of a dataset as it takes; `onnxscope.datasets.dataset.Dataset` says more."""

    @property
    def samples(self) -> Samples:
        """What it is made of."""

    def stepping(self, samples: Samples) -> Self:
        """The same with other samples."""


_Data = TypeVar("_Data", bound=_Opened)


@dataclass(frozen=True, eq=False, kw_only=True)
class SteppedSamples(Samples):
    """The steps of sequences, one sequence after the other; each is a sample, fed the states that it had.

    Attributes:
        steps: The samples, as arrays.
        data: What the sequences were made of.
        labels: What each step is called.
        walked: What results say of the states.
        remarks: Remarks for people.
    """

    kind = "arrays"

    steps: ArraySamples | ArraySets
    data: Samples
    labels: tuple[str, ...]
    walked: Mapping[str, Any]
    remarks: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Those of the data."""
        return self.data.files

    @property
    def names(self) -> list[str]:
        """Those of the data."""
        return self.data.names

    @property
    def record(self) -> dict[str, Any]:
        """That of the data, and which output feeds which input."""
        return {**self.data.record, "state": dict(self.walked)}

    @property
    def notes(self) -> list[str]:
        """Those of the data, and what was stepped."""
        return [*self.data.notes, *self.remarks]

    def name(self, position: int) -> str:
        """The sequence's name, and the step."""
        return self.labels[position]

    def first(self, count: int) -> SteppedSamples:
        """The first steps."""
        return replace(self, steps=self.steps.first(count), count=count, labels=self.labels[:count])

    def fed_to(self, specs: Sequence[InputSpec]) -> SteppedSamples:
        """The same steps, cut anew."""
        return _around(self.steps.fed_to(specs), self.data, self.labels, self.walked, self.remarks)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """One step."""
        return self.steps.load(position)

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """All steps together, where they have one shape."""
        shapes = {tuple(array.shape for array in load(position)[0].values()) for position in range(self.count)}
        if self.count > 1 and (len(shapes) > 1 or not any(axis is not None for axis in self.batch_axes.values())):
            raise InputError(
                f"{self.count} steps do not go into one run: what is fed grows from step to step",
                hint="`--step K` takes one of them; `stats` takes them all",
            )
        arrays, count, notes = self.steps.whole(load)
        return arrays, count, [*self.data.notes, *self.remarks, *notes]


def by_steps(opened: Callable[[Sequence[InputSpec]], _Data], specs: Sequence[InputSpec], options: RunOptions) -> _Data:
    """Open data for inputs, or for those that are no states, and step the model over it.

    Args:
        opened: Opens the data for some inputs.
        specs: All inputs.
        options: Which states, how many tokens to generate, and which step alone.

    Raises:
        InputError: The data does not fit, there is no such state or step, or a step does not fit the next.
        RunError: onnxruntime fails at a step.
    """
    asked = options.state not in (None, "none") or options.generate is not None
    if options.state == "none" and options.generate is None:
        return opened(specs)
    if asked:
        return _open_stepped(opened, specs, options, None)
    try:
        return opened(specs)
    except InputError as error:
        return _open_stepped(opened, specs, options, error)


def for_inputs(options: RunOptions, specs: Sequence[InputSpec]) -> RunOptions:
    """The options for some inputs: axes of samples that a baseline has of steps say nothing of what is stepped."""
    axes, owner = options.batch_axis, next((spec.model for spec in specs if spec.model is not None), None)
    if not isinstance(axes, Mapping) or owner is None or len(specs) == len(owner.declared_inputs):
        return options
    names = {spec.name for spec in specs}
    return options if names >= axes.keys() else replace(options, batch_axis=None)


def parted(samples: Samples, parting: Mapping[str, Any] | None) -> Samples:
    """The same steps, with what results say of where another model parts."""
    if not isinstance(samples, SteppedSamples):
        return samples
    return replace(samples, walked={**samples.walked, "parting": parting})


def _open_stepped(
    opened: Callable[[Sequence[InputSpec]], _Data],
    specs: Sequence[InputSpec],
    options: RunOptions,
    fault: InputError | None,
) -> _Data:
    """Open the data for what is no state, and step over it; where nothing can be stepped, raise the fault."""
    from onnxscope.model.loading import Model  # and with it onnx, which arrays do not need
    from onnxscope.stepping.states import find_states, possible_state
    from onnxscope.stepping.token_feeds import token_input
    from onnxscope.stepping.walk import Walker

    model = next((spec.model for spec in specs if spec.model is not None), None)
    if not isinstance(model, Model):
        raise fault or InputError("a model that is not known cannot be stepped")
    pairs = options.state if isinstance(options.state, Mapping) else None
    states = () if options.state == "none" else find_states(specs, model.outputs, pairs)
    if not states and (fault is not None or options.generate is None):
        possible = possible_state(specs, model.outputs)
        if fault is not None and possible is not None:
            step = (
                f"`--state {printable(possible[0])}={printable(possible[1])}` if that output feeds it in the next step"
            )
            fault.hint = f"{fault.hint}; {step}" if fault.hint else step
        raise fault or InputError(
            "no output of the model feeds an input, as far as names and shapes tell",
            hint="`--state OUTPUT=INPUT` says which does",
        )
    dataset = _data(opened, specs, states, fault)
    ids = token_input([spec for spec in dataset.samples.specs if spec.name not in _names(states)])
    if options.generate is not None and ids is None:
        raise InputError("no input of the model takes tokens of (batch, sequence), to generate more")
    walker = Walker(model, states, options.threads)
    if ids is not None:
        sequences = _over_tokens(walker, dataset.samples, ids, states, options)
    else:
        sequences = _over_frames(walker, dataset.samples, states)
    return _stepped(dataset, sequences, specs, states, options)


def _names(states: Sequence[State]) -> set[str]:
    return {state.input.name for state in states}


def _data(
    opened: Callable[[Sequence[InputSpec]], _Data],
    specs: Sequence[InputSpec],
    states: Sequence[State],
    fault: InputError | None,
) -> _Data:
    """Open the data: for what is no state, or else without masks, positions and the like, or else for everything."""
    from onnxscope.stepping.token_feeds import made_of_tokens

    rest = [spec for spec in specs if spec.name not in _names(states)]
    without = [spec for spec in rest if not made_of_tokens(spec)]
    first: InputError | None = fault
    for some in dict.fromkeys((tuple(rest), tuple(without), tuple(specs))):
        try:
            return opened(some)
        except InputError as error:
            first = first or error
    assert first is not None
    raise first


def _over_frames(walker: Walker, data: Samples, states: Sequence[State]) -> list[tuple[str, Walk]]:
    """One sequence for each source: its samples are the steps, or the frames of an only one."""
    parts: Sequence[Samples] = data.parts if isinstance(data, ArraySets) else (data,)
    sequences = []
    for part in parts:
        frames = []
        for position in range(part.count):
            frames += _cut_frames(_one(part, position, states), part)
        try:
            sequences.append((", ".join(part.names), walker.over_frames(frames)))
        except RunError as error:
            if "sound" not in part.record:
                raise
            raise InputError(f"one step over the sound is not what the model takes: {error}", hint=_PIECES) from error
    return sequences


def _cut_frames(sample: dict[str, Array], part: Samples) -> list[dict[str, Array]]:
    """A sample as it is, by rows that are not told to be samples, or by frames of (batch, frames, numbers)."""
    spec = max((spec for spec in part.specs if spec.name in sample), key=lambda spec: len(spec.shape or ()))
    shape, array = spec.shape or (), sample[spec.name]
    if part.batch_axes[spec.name] is None and array.ndim > 1 and len(array) > 1:
        along = [name for name, other in sample.items() if other.ndim and len(other) == len(array)]
        return [sample | {name: sample[name][row : row + 1] for name in along} for row in range(len(array))]
    if part.count > 1 or len(shape) != 3 or isinstance(shape[1], int) or not isinstance(shape[2], int):
        return [sample]
    return [{**sample, spec.name: array[:, frame : frame + 1]} for frame in range(array.shape[1])]


def _over_tokens(
    walker: Walker, data: Samples, ids: InputSpec, states: Sequence[State], options: RunOptions
) -> list[tuple[str, Walk]]:
    """One sequence for each sample."""
    from onnxscope.stepping.token_feeds import masks_tokens

    specs = [spec for spec in data.specs if spec.name not in _names(states)]
    sequences = []
    for position in range(data.count):
        sample = _one(data, position, states)
        tokens = [int(token) for token in sample.pop(ids.name).reshape(-1)]
        masks = [sample[spec.name] for spec in specs if spec.name in sample and masks_tokens(spec, specs)]
        mask = masks[0] if masks else None
        if mask is not None and mask.shape[1] == len(tokens) and mask.any():
            tokens = tokens[: int(np.flatnonzero(mask[0])[-1]) + 1]  # what is behind fills up the batch
        if data.kind == "random":
            sample = {}
        if not tokens:
            raise InputError(f"no token to begin with: {data.name(position)}")
        sequences.append((data.name(position), walker.over_tokens(tokens, sample, options.generate)))
    return sequences


def _one(data: Samples, position: int, states: Sequence[State]) -> dict[str, Array]:
    """One sample as the model takes it, without states."""
    arrays, _ = data.load(position)
    axes = data.batch_axes
    return {
        name: array if (axis := axes[name]) is None else np.expand_dims(array, axis)
        for name, array in arrays.items()
        if name not in _names(states)
    }


def _stepped(
    dataset: _Data,
    sequences: Sequence[tuple[str, Walk]],
    specs: Sequence[InputSpec],
    states: Sequence[State],
    options: RunOptions,
) -> _Data:
    """The steps of all sequences as samples."""
    data = dataset.samples
    steps = list(itertools.chain.from_iterable(walk.steps for _, walk in sequences))
    labels = [f"{name} step {step}".strip() for name, walk in sequences for step in range(len(walk.steps))]
    remarks = _remarks(sequences, states, len(steps))
    if "sound" in data.record and len(steps) == len(sequences):
        remarks.append(f"each sound is a step, as the model leaves its length open: {_PIECES}")
    walked = {
        "pairs": {state.output: state.input.name for state in states},
        "steps": [len(walk.steps) for _, walk in sequences],
        "step": options.step,
        "tokens": [list(walk.tokens) for _, walk in sequences if walk.tokens is not None],
        "generated": options.generate or 0,
    }
    if options.step is not None:
        if options.step >= max(len(walk.steps) for _, walk in sequences):
            raise InputError(f"there is no step {options.step} among {len(steps)}", hint="steps count from 0")
        chosen = [(name, walk.steps[options.step]) for name, walk in sequences if options.step < len(walk.steps)]
        steps = [step for _, step in chosen]
        labels = [f"{name} step {options.step}".strip() for name, _ in chosen]
    return dataset.stepping(_around(_as_arrays(steps, specs, states), data, tuple(labels), walked, tuple(remarks)))


def _around(
    steps: ArraySamples | ArraySets,
    data: Samples,
    labels: tuple[str, ...],
    walked: Mapping[str, Any],
    remarks: tuple[str, ...],
) -> SteppedSamples:
    return SteppedSamples(
        specs=steps.specs,
        count=steps.count,
        batch_axes=steps.batch_axes,
        layouts=steps.layouts,
        fixed_batch=steps.fixed_batch,
        asked_axis=steps.asked_axis if steps.asked_axis is not None else "none",
        steps=steps,
        data=data,
        labels=labels,
        walked=walked,
        remarks=remarks,
    )


def _as_arrays(
    steps: Sequence[dict[str, Array]], specs: Sequence[InputSpec], states: Sequence[State]
) -> ArraySamples | ArraySets:
    """Steps as samples along the axes of states and data; by themselves where their shapes differ."""
    missing = [spec.name for spec in specs if spec.name not in steps[0]]
    if missing:
        raise InputError(f"no array for the input {missing[0]!r}, which is no state")
    of_states = {state.input.name: state.batch_axis for state in states}
    axes: dict[str, int | None] = {}
    for spec in specs:
        array = steps[0][spec.name]
        axis = of_states.get(spec.name, 0 if array.ndim > 1 else None)
        axes[spec.name] = axis if axis is not None and array.shape[axis] == 1 else None
    whole = [name for name, axis in axes.items() if axis is None]
    differ = any(not np.array_equal(step[name], steps[0][name]) for step in steps for name in whole)
    cut: BatchAxis = "none" if differ else axes
    shapes = {tuple(step[spec.name].shape for spec in specs) for step in steps}
    if len(steps) == 1 or differ or len(shapes) > 1:
        parts = ArraySets.open([dict(step) for step in steps], specs, cut)
        return parts.parts[0] if len(steps) == 1 else parts
    joined = {
        name: steps[0][name] if axis is None else np.concatenate([step[name] for step in steps], axis)
        for name, axis in axes.items()
    }
    return ArraySamples.open(joined, specs, cut)


def _remarks(sequences: Sequence[tuple[str, Walk]], states: Sequence[State], total: int) -> list[str]:
    fed = [f"{printable(state.output)} feeds {printable(state.input.name)}" for state in states]
    shown = ", ".join(fed[:_FEW_NAMES]) + (f" and {len(fed) - _FEW_NAMES} more" if len(fed) > _FEW_NAMES else "")
    of = f" of {counted(len(sequences), 'sequence')}" if len(sequences) > 1 else ""
    remarks = [f"{counted(total, 'step')}{of}: {shown}" if fed else f"{counted(total, 'step')}{of}, without states"]
    for name, walk in sequences[:_FEW_NAMES]:
        if walk.generated and walk.tokens is not None:
            tokens = walk.tokens[-walk.generated :]
            more = " …" if len(tokens) > _SHOWN_TOKENS else ""
            said = " ".join(map(str, tokens[:_SHOWN_TOKENS]))
            remarks.append(f"{name}: {counted(walk.generated, 'token')} generated: {said}{more}")
    apart = [walk.apart for _, walk in sequences if walk.apart is not None]
    if apart:
        worst = max(apart)
        remarks.append(
            f"step by step its scores are within {worst[0]:.2g} of those of one run (largest {worst[1]:.3g})"
        )
    return remarks
