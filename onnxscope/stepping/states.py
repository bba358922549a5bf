"""Which outputs of a model feed which of its inputs in the next step: by names and shapes, or as somebody says."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.selection.input_roles import is_called

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["State", "find_states", "first_states", "possible_state"]

_PAST = re.compile(r"past(?:_key_?values?)?|cache", re.IGNORECASE)
_PRESENT = re.compile(r"present(?:_key_?values?)?|cache", re.IGNORECASE)
_NEW = frozenset({"n", "new", "next", "out", "output", "final", "last", "updated", "present", "t"})
_OLD = frozenset({"prev", "previous", "in", "input", "init", "initial", "old", "past", "0", "t"})
_STATES = re.compile(r"state|hidden|cell|cache|past|memory|rnn|lstm|gru|cached|buffer|context|^[hcs]$")
_STATE_WORD = re.compile(
    r"(?:state|hidden|cell|cache|past|present|memory|rnn|lstm|gru)\w*|\w*(?:state|cell|cache|rnn|lstm|gru)s?|[hcs][nt0]?"
)
_LENGTH = re.compile(r"past|cache|seq|len", re.IGNORECASE)


@dataclass(frozen=True)
class State:
    """An input that is fed what an output was in the step before.

    Attributes:
        input: The input, its sizes as far as the model declares them.
        output: The output's name.
        batch_axis: Where samples lie in it.
        grows: Whether it is empty at first and grows, as a key-value cache does.
        length_axis: Where a cache has its positions, None where it is no cache.
    """

    input: InputSpec
    output: str
    batch_axis: int
    grows: bool
    length_axis: int | None = None


def find_states(
    inputs: Sequence[InputSpec], outputs: Sequence[InputSpec], pairs: Mapping[str, str] | None = None
) -> tuple[State, ...]:
    """Find which outputs feed which inputs.

    Args:
        inputs: The model's.
        outputs: The model's, as declared.
        pairs: Inputs by output, as somebody says; None to find them by name (`stateN` and `state`, `hn` and `h`,
            `present.*` and `past_key_values.*`), type and shape. Never all of the inputs are found.

    Raises:
        InputError: There is no such input or output, or they are of different types or shapes.
    """
    by_name = {spec.name: spec for spec in inputs}
    if pairs is None:
        found = {spec.name: output for spec in inputs if (output := _partner(spec, outputs)) is not None}
        if len(set(found.values())) < len(found) or len(found) == len(inputs):
            return ()
    else:
        found = {}
        for output, name in pairs.items():
            declared = next((spec for spec in outputs if spec.name == output), None)
            if declared is None:
                raise _unknown("output", output, [spec.name for spec in outputs])
            if name not in by_name:
                raise _unknown("input", name, list(by_name))
            if not _fit(by_name[name], declared):
                raise InputError(f"the output {printable(output)!r} does not fit the input {printable(name)!r}")
            found[name] = output
    if not found:
        return ()
    batch = _symbol_of_samples([spec for spec in inputs if spec.name not in found])
    return tuple(_state(by_name[name], output, batch) for name, output in found.items())


def first_states(
    states: Sequence[State], samples: int = 1, given: Mapping[str, NDArray[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """Return what states are before the first step: zeros; one that grows is empty.

    Args:
        states: Some.
        samples: How many samples they are of.
        given: What some are instead, by input, for one sample.

    Raises:
        InputError: What is given is of another shape.
    """
    arrays = {}
    for state in states:
        shape = []
        array = (given or {}).get(state.input.name)
        if array is not None:
            arrays[state.input.name] = _of_samples(array, state, samples)
            continue
        for axis, dim in enumerate(state.input.shape or ()):
            if axis == state.batch_axis:
                shape.append(samples if not isinstance(dim, int) else dim)
            elif isinstance(dim, int):
                shape.append(dim)
            else:
                shape.append(0 if state.grows and _is_length(state.input, axis) else 1)
        arrays[state.input.name] = np.zeros(shape, np.dtype(state.input.dtype))
    return arrays


def _of_samples(array: NDArray[Any], state: State, samples: int) -> NDArray[Any]:
    """What is given of one sample, for so many; a batch that is fixed in the model is given as it is."""
    axis, shape = state.batch_axis, state.input.shape or ()
    whole = shape[axis] if isinstance(shape[axis], int) else 1
    if array.ndim != len(shape) or array.shape[axis] != whole:
        raise InputError(
            f"the first value of the state {printable(state.input.name)!r} is of {array.shape}, not of one sample",
            hint=f"its axis {axis} counts samples: give {whole} along it",
        )
    return array if whole != 1 or isinstance(shape[axis], int) else np.repeat(array, samples, axis)


def possible_state(inputs: Sequence[InputSpec], outputs: Sequence[InputSpec]) -> tuple[str, str] | None:
    """Return an output and an input that may be a state, though their names do not belong together; None without.

    One of the two is called a state or a cache, both are of one type and shape, and nothing but the axis of samples is
    open in it, as what a step gives is what the next one takes; only a cache may grow.
    """
    for spec in inputs[1:]:
        open_axes = sum(not isinstance(dim, int) for dim in spec.shape or ())
        if len(spec.shape or ()) < 2 or (open_axes > 1 and not _PAST.search(spec.name)):
            continue
        alike = [output.name for output in outputs if output.shape == spec.shape and output.dtype == spec.dtype]
        called = alike if _is_called_a_state(spec.name) else [name for name in alike if _is_called_a_state(name)]
        if len(alike) == 1 and called:
            return called[0], spec.name
    return None


def _state(spec: InputSpec, output: str, batch: str | None) -> State:
    shape = spec.shape or ()
    grows = bool(_PAST.search(spec.name)) and len(shape) >= 3
    lengths = [axis for axis in range(1, len(shape)) if _is_length(spec, axis)]
    grows = grows and bool(lengths)
    # Of a fixed size, (batch, heads, length, width): it moves on by one position with each step.
    moves = is_called(spec.name, "past") and len(shape) == 4 and all(isinstance(dim, int) for dim in shape[1:])
    by_symbol = [axis for axis, dim in enumerate(shape) if batch is not None and dim == batch]
    open_axes = [axis for axis, dim in enumerate(shape) if not isinstance(dim, int)]
    ones = [axis for axis, dim in enumerate(shape) if dim == 1]
    axes = by_symbol or ([0] if grows else open_axes) or ([1] if 1 in ones and len(shape) == 3 else ones) or [0]
    return State(spec, output, axes[0], grows, lengths[0] if grows else 2 if moves else None)


def _is_length(spec: InputSpec, axis: int) -> bool:
    """Whether an axis counts what is past, so that it is 0 at first."""
    shape = spec.shape or ()
    dim = shape[axis]
    if isinstance(dim, int) or axis == 0:
        return False
    if isinstance(dim, str) and _LENGTH.search(dim):
        return True
    named = [one for one in shape[1:] if isinstance(one, str) and _LENGTH.search(one)]
    # Without names: of (batch, heads, length, width) the third, of (batch, length, width) the second.
    return not named and axis == len(shape) - 2


def _symbol_of_samples(specs: Sequence[InputSpec]) -> str | None:
    symbols = [spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)]
    return symbols[0] if symbols else None


def _partner(spec: InputSpec, outputs: Sequence[InputSpec]) -> str | None:
    """The one output that an input's name and shape speak for."""
    if spec.shape is None or not spec.shape:
        return None
    fitting = [output for output in outputs if _fit(spec, output)]
    if _PAST.search(spec.name):
        stem = _stem_of_cache(spec.name, _PAST)
        cached = [
            output.name
            for output in fitting
            if _PRESENT.search(output.name) and _stem_of_cache(output.name, _PRESENT) == stem
        ]
        if len(cached) == 1:
            return cached[0]
    stems = _stem(spec.name, _OLD, "0")
    if not stems or not any(_STATES.search(word) for word in (*stems, spec.name.lower())):
        return None
    named = [output.name for output in fitting if _stem(output.name, _NEW, "n") == stems and output.name != spec.name]
    return named[0] if len(named) == 1 else None


def _stem_of_cache(name: str, of: re.Pattern[str]) -> str:
    return re.sub(r"[^a-z0-9]+|new|out|decoder|next|prev", "", of.sub("", name).lower())


def _stem(name: str, without: frozenset[str], suffix: str) -> tuple[str, ...]:
    """The words of a name without those that say before or after: `stateN`, `new_state` and `state_out` are `state`."""
    words = _words(name)
    words = [word[0] if re.fullmatch(rf"[hcs]{suffix}", word) else word for word in words]
    return tuple(word for word in words if word not in without)


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[0-9])(?=[a-zA-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def _is_called_a_state(name: str) -> bool:
    """Whether a word of a name is one for states, or begins or ends with one."""
    return any(_STATE_WORD.fullmatch(word) for word in _words(name))


def _fit(spec: InputSpec, output: InputSpec) -> bool:
    if spec.dtype != output.dtype:
        return False
    if not spec.shape or not output.shape:
        return True
    pairs = zip(spec.shape, output.shape, strict=False)
    same = all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in pairs)
    return same and len(spec.shape) == len(output.shape)


def _unknown(kind: str, name: str, names: Sequence[str]) -> InputError:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:8]
    return InputError(
        f"the model has no {kind} {printable(name)!r} for a state",
        hint=f"`--state OUTPUT=INPUT`; the nearest {kind}s: {', '.join(map(printable, near))}",
    )
