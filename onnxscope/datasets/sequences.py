"""Data opened as sequences that a model is stepped over, where outputs of it feed its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import BatchAxis, RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.datasets.empty_caches import with_empty_caches
from onnxscope.datasets.first_values import FirstValues
from onnxscope.datasets.given import Given
from onnxscope.datasets.stepped_samples import SteppedSamples
from onnxscope.errors import InputError, RunError
from onnxscope.inputs.array_samples import ArraySamples
from onnxscope.inputs.array_sets import ArraySets
from onnxscope.inputs.samples import Samples
from onnxscope.selection.token_inputs import token_parts

if TYPE_CHECKING:
    from onnxscope.model.loading import Model
    from onnxscope.model.stored_model import InputSpec
    from onnxscope.stepping.states import State
    from onnxscope.stepping.walk import Walk, Walker

__all__ = ["by_steps", "for_inputs"]

Array = NDArray[Any]
_SHOWN_TOKENS = 16
_PIECES = """`--preprocess '{"features": "wave", "rate": 16000, "length": 512}'` steps over pieces of so many samples"""
_FEW_NAMES = 4


class _Opened(Protocol):
    """As much of a dataset as it takes; `onnxscope.datasets.dataset.Dataset` says more."""

    @property
    def samples(self) -> Samples:
        """What it is made of."""

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """One sample, checked."""

    def stepping(self, samples: Samples) -> Self:
        """The same with other samples."""


_Data = TypeVar("_Data", bound=_Opened)


def by_steps(
    given: Given, opened: Callable[[Sequence[InputSpec]], _Data], specs: Sequence[InputSpec], options: RunOptions
) -> _Data:
    """Open data for all inputs, or for those that are no states, and step the model over it.

    It is stepped where that is asked for, or where the model has states and the data names none of them; a decoder with
    caches that grow is run once over all tokens instead, from empty ones, where nobody asks for steps. Whatever does
    not fit the other inputs is told as it would be of a model without states.

    Args:
        given: The sources.
        opened: Opens them for some inputs.
        specs: All inputs.
        options: Which states, how many tokens to generate, and which step alone.

    Raises:
        InputError: The data does not fit, there is no such state or step, or a step does not fit the next.
        RunError: onnxruntime fails at a step.
    """
    owner = next((spec.model for spec in specs if spec.model is not None), None)
    asked = options.state not in (None, "none") or options.generate is not None
    if not asked and (owner is None or options.state == "none"):
        return _unstepped(given, opened, specs, (), options)
    from onnxscope.model.loading import Model  # and with it onnx, which arrays do not need
    from onnxscope.stepping.states import find_states

    if not isinstance(owner, Model):
        raise InputError("a model that is not known cannot be stepped")
    pairs = options.state if isinstance(options.state, Mapping) else None
    states = () if options.state == "none" else find_states(specs, owner.outputs, pairs)
    if not asked and (not states or given.names(specs) & _names(states)):
        return _unstepped(given, opened, specs, states, options)
    if not states and options.generate is None:
        raise InputError(
            "no output of the model feeds an input, as far as names and shapes tell",
            hint="leave `--state` out, or `--state OUTPUT=INPUT` says which does",
        )
    return _open_stepped(owner, given, opened, specs, states, options)


def for_inputs(options: RunOptions, specs: Sequence[InputSpec]) -> RunOptions:
    """The options for some inputs: axes of samples that a baseline has of steps say nothing of what is stepped."""
    axes, owner = options.batch_axis, next((spec.model for spec in specs if spec.model is not None), None)
    if not isinstance(axes, Mapping) or owner is None or len(specs) == len(owner.declared_inputs):
        return options
    names = {spec.name for spec in specs}
    return options if names >= axes.keys() else replace(options, batch_axis=None)


def _unstepped(
    given: Given,
    opened: Callable[[Sequence[InputSpec]], _Data],
    specs: Sequence[InputSpec],
    states: Sequence[State],
    options: RunOptions,
) -> _Data:
    """Open the data for all inputs; where it does not fit and would fit a model that is stepped, say so."""
    if options.step is not None:
        raise InputError(
            f"there is no step {options.step}: the model is not run step after step",
            hint="leave `--step` out, or `--state OUTPUT=INPUT` says which output feeds which input in the next step",
        )
    try:
        return opened(specs)
    except InputError as error:
        way = None if options.state == "none" or given.kind == "random" else _other_way(given, opened, specs, states)
        if way is not None:
            error.hint = f"{error.hint}; {way}" if error.hint else way
        raise


def _other_way(
    given: Given,
    opened: Callable[[Sequence[InputSpec]], _Data],
    specs: Sequence[InputSpec],
    states: Sequence[State],
) -> str | None:
    """How what does not fit all inputs would be stepped over, None where the rest of it does not fit either."""
    from onnxscope.stepping.states import possible_state

    model = next((spec.model for spec in specs if spec.model is not None), None)
    possible = None if model is None or states else possible_state(specs, model.outputs)
    without = _names(states) if possible is None else {possible[1]}
    try:
        if not without or (possible is not None and given.names(specs) & without):
            return None
        opened([spec for spec in specs if spec.name not in without])
    except InputError:
        return None
    if possible is None:
        return "`--state auto` steps over the other inputs, from what states are given"
    return f"`--state {printable(possible[0])}={printable(possible[1])}` if that output feeds it in the next step"


def _open_stepped(
    model: Model,
    given: Given,
    opened: Callable[[Sequence[InputSpec]], _Data],
    specs: Sequence[InputSpec],
    states: Sequence[State],
    options: RunOptions,
) -> _Data:
    """Open the data for what is no state, and step over it."""
    from onnxscope.stepping.token_feeds import takes_one_token, token_input
    from onnxscope.stepping.walk import Walker

    first = FirstValues.named(given, specs, states)
    fed, ids = _fed(given, specs, states)
    dataset = opened(fed)
    if ids is None:
        ids = token_input([spec for spec in dataset.samples.specs if spec.name not in _names(states)])
    if options.generate is not None and ids is None:
        raise InputError(
            "no input of the model takes tokens of (batch, sequence), to generate more", hint="leave `--generate` out"
        )
    asked = (options.state, options.generate, options.step) != (None, None, None)
    if not asked and ids is not None and all(state.grows for state in states) and not takes_one_token(ids, states):
        return dataset.stepping(with_empty_caches(dataset.samples, ids, specs, states))
    walker = Walker(model, states, options.threads)
    if ids is not None:
        sequences = _over_tokens(walker, dataset, ids, states, first, options)
    else:
        sequences = _over_frames(walker, dataset, states, first)
    return _stepped(dataset, sequences, specs, states, first, ids, options)


def _fed(given: Given, specs: Sequence[InputSpec], states: Sequence[State]) -> tuple[list[InputSpec], InputSpec | None]:
    """The inputs that the data is opened for: no states, and nothing that tokens tell and the data does not name.

    What is random is of all inputs. Where a text is for an input that has room for one token, that input comes with it:
    the data has all of them.
    """
    from onnxscope.stepping.token_feeds import made_of_tokens, one_token_input, token_input

    rest = [spec for spec in specs if spec.name not in _names(states)]
    if not rest:
        raise InputError(
            "every input of the model is a state: there is nothing to step over",
            hint="leave `--state` out, or name fewer of them",
        )
    if given.kind == "random":
        return list(specs), None  # sizes are tried on the whole model
    single = one_token_input(rest, states) if given.kind == "text" else None
    if single is not None:
        long = single.owned(((single.shape or (None,))[0], None), lambda: single.model)
        return [long if spec is single else spec for spec in rest if not made_of_tokens(spec)], single
    if token_input(rest) is None or given.kind == "images":
        return rest, None
    of_text = {name for name, part in token_parts(rest).items() if part != "length"} if given.kind == "text" else set()
    known = given.names(specs) | of_text
    by_itself = given.kind == "arrays" and not known and not given.is_one_array
    return [spec for spec in rest if by_itself or spec.name in known or not made_of_tokens(spec)], None


def _names(states: Sequence[State]) -> set[str]:
    return {state.input.name for state in states}


def _over_frames(
    walker: Walker, dataset: _Opened, states: Sequence[State], first: FirstValues
) -> list[tuple[str, Walk]]:
    """One sequence for each source: its samples are the steps, or the frames of an only one."""
    data, place = dataset.samples, 0
    parts: Sequence[Samples] = data.parts if isinstance(data, ArraySets) else (data,)
    sequences = []
    for source, part in enumerate(parts):
        frames = []
        for position in range(place, place + part.count):
            frames += _cut_frames(_one(dataset, position, states), part)
        place += part.count
        try:
            sequences.append(
                (", ".join(part.names), walker.over_frames(frames, first.of_sequence(source, 0, len(frames))))
            )
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
    walker: Walker,
    dataset: _Opened,
    ids: InputSpec,
    states: Sequence[State],
    first: FirstValues,
    options: RunOptions,
) -> list[tuple[str, Walk]]:
    """One sequence for each sample."""
    from onnxscope.stepping.token_feeds import masks_tokens

    data = dataset.samples
    specs = [spec for spec in data.specs if spec.name not in _names(states)]
    sequences = []
    counts = [part.count for part in data.parts] if isinstance(data, ArraySets) else [data.count]
    places = [(source, place, count) for source, count in enumerate(counts) for place in range(count)]
    for position, place in enumerate(places):
        sample = _one(dataset, position, states)
        tokens = [int(token) for token in sample.pop(ids.name).reshape(-1)]
        masks = [sample[spec.name] for spec in specs if spec.name in sample and masks_tokens(spec, specs)]
        mask = masks[0] if masks else None
        if mask is not None and mask.shape[1] == len(tokens) and mask.any():
            tokens = tokens[: int(np.flatnonzero(mask[0])[-1]) + 1]  # what is behind fills up the batch
        if data.kind == "random":
            sample = {}
        if not tokens:
            raise InputError(f"no token to begin with: {data.name(position)}")
        walk = walker.over_tokens(tokens, sample, options.generate, ids=ids, first=first.of_sequence(*place))
        sequences.append((data.name(position), walk))
    return sequences


def _one(dataset: _Opened, position: int, states: Sequence[State]) -> dict[str, Array]:
    """One sample as the model takes it, without states."""
    arrays, _ = dataset.load(position)
    axes = dataset.samples.batch_axes
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
    first: FirstValues,
    ids: InputSpec | None,
    options: RunOptions,
) -> _Data:
    """The steps of all sequences as samples."""
    from onnxscope.stepping.held_tokens import names_held

    data = dataset.samples
    steps = list(itertools.chain.from_iterable(walk.steps for _, walk in sequences))
    labels = [f"{name} step {step}".strip() for name, walk in sequences for step in range(len(walk.steps))]
    names = [data.token_names(walk.tokens or ()) for _, walk in sequences]
    remarks = [*_remarks(sequences, names, states, len(steps)), *first.remarks]
    if "sound" in data.record and len(steps) == len(sequences):
        remarks.append(f"each sound is a step, as the model leaves its length open: {_PIECES}")
    walked = {
        "pairs": {state.output: state.input.name for state in states},
        "steps": [len(walk.steps) for _, walk in sequences],
        "step": options.step,
        "tokens": [list(walk.tokens) for _, walk in sequences if walk.tokens is not None],
        "generated": options.generate or 0,
        "first": first.record,
        **({"names": [list(of) for of in names]} if any(names) else {}),
    }
    # Of what a cache held before nobody knows the names.
    held = [
        ((),) * len(walk.steps) if first.states or ids is None else names_held(walk, of, ids.name, states)
        for of, (_, walk) in zip(names, sequences, strict=True)
    ]
    if options.step is not None:
        longest = max(len(walk.steps) for _, walk in sequences)
        if options.step >= longest:
            hint = f"steps count from 0: `--step {longest - 1}` is the last"
            raise InputError(f"there is no step {options.step} among {len(steps)}", hint=hint)
        chosen = [(name, walk.steps[options.step]) for name, walk in sequences if options.step < len(walk.steps)]
        steps = [step for _, step in chosen]
        labels = [f"{name} step {options.step}".strip() for name, _ in chosen]
        held = [of[options.step : options.step + 1] for of in held]
    arrays = _as_arrays(steps, specs, states)
    stepped = SteppedSamples.around(arrays, data, tuple(labels), walked, tuple(remarks))
    called = tuple(itertools.chain.from_iterable(held))
    return dataset.stepping(replace(stepped, ids=None if ids is None else ids.name, sequences=called))


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


def _remarks(
    sequences: Sequence[tuple[str, Walk]], names: Sequence[Sequence[str]], states: Sequence[State], total: int
) -> list[str]:
    fed = [f"{printable(state.output)} feeds {printable(state.input.name)}" for state in states]
    shown = ", ".join(fed[:_FEW_NAMES]) + (f" and {len(fed) - _FEW_NAMES} more" if len(fed) > _FEW_NAMES else "")
    of = f" of {counted(len(sequences), 'sequence')}" if len(sequences) > 1 else ""
    remarks = [f"{counted(total, 'step')}{of}: {shown}" if fed else f"{counted(total, 'step')}{of}, without states"]
    for (name, walk), called in zip(sequences[:_FEW_NAMES], names, strict=False):
        if walk.generated and walk.tokens is not None:
            tokens = (called or walk.tokens)[-walk.generated :]
            more = " …" if len(tokens) > _SHOWN_TOKENS else ""
            said = " ".join(printable(str(token)) for token in tokens[:_SHOWN_TOKENS])
            remarks.append(f"{name}: {counted(walk.generated, 'token')} generated: {said}{more}")
    apart = [walk.apart for _, walk in sequences if walk.apart is not None]
    if apart:
        worst = max(apart)
        far = f"within {worst[0]:.2g} of" if worst[0] else "bit for bit"
        remarks.append(f"step by step its scores are {far} those of one run (largest {worst[1]:.3g})")
    return remarks
