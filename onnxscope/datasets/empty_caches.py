"""Samples of tokens for a model with a key-value cache that is empty: each is one run over all of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import counted, printable
from onnxscope.datasets.derived_samples import DerivedSamples
from onnxscope.errors import InputError
from onnxscope.inputs.samples import Load, Samples, sample_count

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec
    from onnxscope.stepping.states import State

__all__ = ["with_empty_caches"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class _EmptyCaches(DerivedSamples):
    """Samples, with caches of nothing and with what follows from how many tokens there are.

    Attributes:
        ids: The one of the inputs of the data that takes tokens.
        states: The caches.
    """

    ids: InputSpec
    states: tuple[State, ...]

    @property
    def beside_record(self) -> dict[str, Any]:
        """Which outputs would feed the caches; there are no steps."""
        pairs = {state.output: state.input.name for state in self.states}
        return {"state": {"pairs": pairs, "steps": [], "step": None, "tokens": [], "generated": 0, "first": {}}}

    @property
    def beside_notes(self) -> list[str]:
        """What is fed beside the data."""
        caches = counted(len(self.states), "input")
        return [f"one run over all tokens, {caches} of the cache empty: `--state auto` steps over them one by one"]

    def first(self, count: int) -> _EmptyCaches:
        """The first samples."""
        return replace(self, data=self.data.first(count), count=count)

    def fed_to(self, specs: Sequence[InputSpec]) -> _EmptyCaches:
        """The same samples."""
        held = {spec.name for spec in self.data.specs}
        return replace(self, specs=tuple(specs), data=self.data.fed_to([spec for spec in specs if spec.name in held]))

    def tokens(self, arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], ...]:
        """As the data calls them."""
        return self.data.tokens(arrays)

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """One sample, with its caches."""
        arrays, remarks = self.data.load(position)
        return {**arrays, **self._beside(arrays)}, remarks

    def go_together(self, one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
        """As the data says."""
        return self.data.go_together(self._held(one), self._held(other))

    def together(self, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One batch, filled up as the data fills it up."""
        joined = self.data.together([self._held(sample) for sample in samples])
        return {**joined, **self._joined(joined, samples)}

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """All samples in one run, where the data goes into one."""
        loaded = [load(position) for position in range(self.count)]
        held = [(self._held(arrays), remarks) for arrays, remarks in loaded]
        arrays, count, notes = self.data.whole(lambda position: held[position])
        rows = sample_count(arrays, self.data.batch_axes) or 1
        samples = [sample for sample, _ in loaded]
        samples += samples[-1:] * (rows - len(samples))  # copies fill up a fixed batch
        return {**arrays, **self._joined(arrays, samples)}, count, [*notes, *self.beside_notes]

    def _held(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What of a sample is the data's."""
        return {spec.name: arrays[spec.name] for spec in self.data.specs}

    def _beside(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What is no data of one sample, or of one that is several."""
        from onnxscope.stepping.states import first_states
        from onnxscope.stepping.token_feeds import Place, tokens_fed

        of_data = self.data.batch_axes
        given = {name: _along(array, of_data[name]) for name, array in arrays.items()}
        rows = given[self.ids.name].reshape(-1, given[self.ids.name].shape[-1])
        names = {state.input.name for state in self.states}
        specs = [spec for spec in self.specs if spec.name not in names]
        made = tokens_fed(specs, self.ids, rows[0].tolist(), Place(room=0), given)
        beside = {name: array for name, array in made.items() if name not in arrays}
        beside |= first_states(self.states, len(rows))
        for spec in self.specs:
            if spec.name not in beside and spec.name not in arrays:
                raise InputError(f"no array for the input {printable(spec.name)!r}, which is no state")
        return {name: _without(array, self.batch_axes[name], len(rows)) for name, array in beside.items()}

    def _joined(self, joined: Mapping[str, Array], samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """What is no data of samples that have been put together."""
        length = joined[self.ids.name].shape[-1]
        longest = next((sample for sample in samples if sample[self.ids.name].shape[-1] == length), None)
        # What counts tokens for all samples together counts those that fill up, too.
        alike = samples[0] if longest is None else longest
        beside = {}
        for name in samples[0]:
            if name not in joined:
                axis = self.batch_axes[name]
                beside[name] = alike[name] if axis is None else np.stack([sample[name] for sample in samples], axis)
        return beside


class _OfText(_EmptyCaches):
    kind = "text"


class _OfArrays(_EmptyCaches):
    kind = "arrays"


def with_empty_caches(
    data: Samples, ids: InputSpec, specs: Sequence[InputSpec], states: Sequence[State]
) -> _EmptyCaches:
    """Return samples of tokens with caches of nothing.

    Args:
        data: Samples of text or of arrays, of all inputs that no tokens tell.
        ids: The one of their inputs that takes tokens.
        specs: All inputs of the model.
        states: The caches, which grow.
    """
    caches = {state.input.name: state.batch_axis for state in states}
    is_cut = data.batch_axes[ids.name] is not None
    axes: dict[str, int | None] = {}
    for spec in specs:
        if spec.name in data.batch_axes:
            axes[spec.name] = data.batch_axes[spec.name]
        else:
            axes[spec.name] = caches.get(spec.name, _axis_of_samples(spec)) if is_cut else None
    sizes = [None if axes[spec.name] is None else (spec.shape or ())[axes[spec.name] or 0] for spec in specs]
    fixed = {size for size in (*sizes, data.fixed_batch) if isinstance(size, int)}
    return (_OfText if data.kind == "text" else _OfArrays)(
        specs=tuple(specs),
        count=data.count,
        batch_axes=axes,
        layouts=data.layouts,
        fixed_batch=max(fixed, default=None),
        asked_axis=data.asked_axis if data.asked_axis is not None else "none",
        data=data,
        ids=ids,
        states=tuple(states),
    )


def _axis_of_samples(spec: InputSpec) -> int | None:
    """Where samples lie in an input that is made of tokens: a flag, and positions without samples, have none."""
    shape = spec.shape or ()
    if len(shape) >= 2:
        return 0
    is_count = spec.dtype != "bool" and len(shape) == 1 and not isinstance(shape[0], int)
    return 0 if is_count and "pos" not in spec.name.lower() else None


def _along(array: Array, axis: int | None) -> Array:
    return array if axis is None else np.expand_dims(array, axis)


def _without(array: Array, axis: int | None, rows: int) -> Array:
    """One sample's array; where a sample has rows of its own, as many."""
    if axis is not None:
        return np.array(array.take(0, axis), order="C")
    return array.repeat(rows, 0) if rows > 1 and array.ndim > 1 and len(array) == 1 else array
