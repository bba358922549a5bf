"""Run a model step after step: each is fed the states that the step before gave, and what comes next of the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError, RunError
from onnxscope.runtime.session import Session, open_session
from onnxscope.stepping.states import State, first_states
from onnxscope.stepping.token_feeds import Place, masks_tokens, takes_one_token, token_input, tokens_fed

if TYPE_CHECKING:
    from onnxscope.model.loading import Model
    from onnxscope.model.stored_model import InputSpec

__all__ = ["Walk", "Walker"]

Array = NDArray[Any]

_BUDGET_BYTES = 2 << 30  # of the states of all steps together
_LOGITS = re.compile(r"logit|logprob|score")


@dataclass(frozen=True)
class Walk:
    """One sequence, step by step.

    Attributes:
        steps: What each step was fed, by input, as the model takes it.
        tokens: All tokens of the sequence, with those that were generated; None where there are none.
        generated: How many of them were generated.
        apart: The largest difference between what steps gave and what one run over the whole sequence gives, and the
            largest number there; None where that was not compared.
    """

    steps: tuple[dict[str, Array], ...]
    tokens: tuple[int, ...] | None = None
    generated: int = 0
    apart: tuple[float, float] | None = None


class Walker:
    """Runs sequences of one model; a session is opened once."""

    def __init__(self, model: Model, states: Sequence[State], threads: int = 0) -> None:
        """Open the model.

        Raises:
            RunError: onnxruntime refuses it.
        """
        self._model = model
        self._states = tuple(states)
        self._session: Session = open_session(model, threads=threads)
        self._held_bytes = 0

    def over_frames(self, frames: Iterable[Mapping[str, Array]], first: Mapping[str, Array] | None = None) -> Walk:
        """Run one step for each frame.

        Args:
            frames: Whatever is no state, by input, for one sample.
            first: What states are before the first step, by input; others are zeros or empty.

        Raises:
            InputError: The states take too much memory, or a step gives one that the next does not take.
            RunError: onnxruntime fails.
        """
        states = first_states(self._states, given=first)
        steps = []
        for frame in frames:
            feeds = {**frame, **states}
            steps.append(feeds)
            states, _ = self._step(feeds, [])
        return Walk(tuple(steps))

    def over_tokens(
        self,
        tokens: Sequence[int],
        beside: Mapping[str, Array],
        generate: int | None = None,
        *,
        ids: InputSpec | None = None,
        first: Mapping[str, Array] | None = None,
    ) -> Walk:
        """Run one step for each token, or for all given ones and then for each that is generated greedily.

        Args:
            tokens: The sequence, one or more.
            beside: What else is fed, by input, for one sample; a mask over the given tokens counts on.
            generate: How many tokens follow: each is where the logits of the last position are largest.
            ids: The input of tokens, None to find it; where it has room for one, each step has one.
            first: As for `over_frames`; tokens come after what a cache holds.

        Raises:
            InputError: As for `over_frames`, or nothing that the model gives is logits.
            RunError: onnxruntime fails.
        """
        logits = self._logits()
        if generate is not None and logits is None:
            shown = ", ".join(f"{printable(spec.name)}" for spec in self._model.outputs[:8])
            raise InputError(
                f"no output is logits of (batch, sequence, tokens), to generate from: {shown}",
                hint="leave `--generate` out",
            )
        run = _Tokens.of(self._model, self._states, ids, beside, len(tokens), first)
        given = list(tokens)
        singly = generate is None or run.takes_one
        states, steps, answers = dict(run.first), [], []
        past, wanted = 0, len(tokens) + (generate or 0)
        while past < len(given):
            upto = past + 1 if singly or past else len(given)
            # Without states nothing remembers what was: all of it is fed again.
            feeds = {**run.fed(given[:upto], past if self._states else 0, states), **states}
            steps.append(feeds)
            states, scores = self._step(feeds, [] if logits is None else [logits])
            past = upto
            answers += [scores[logits]] if logits is not None else []
            if past == len(given) < wanted:
                given.append(_largest(scores[logits or ""]))
                if len(given) == wanted:
                    break
        apart = None
        if self._states and logits is not None and not run.takes_one:
            apart = self._apart({**run.fed(given[:past], 0, run.first), **run.first}, logits, answers)
        return Walk(tuple(steps), tuple(given), len(given) - len(tokens), apart)

    def _step(self, feeds: Mapping[str, Array], more: list[str]) -> tuple[dict[str, Array], dict[str, Array]]:
        """The states that follow, and other outputs."""
        self._held_bytes += sum(feeds[state.input.name].nbytes for state in self._states)
        if self._held_bytes > _BUDGET_BYTES:
            raise InputError(
                f"the states of all steps take more than {_BUDGET_BYTES >> 30} GiB",
                hint="give a shorter sequence, or `--limit` fewer steps",
            )
        answers = self._session.run(feeds, [*(state.output for state in self._states), *more])
        states = {}
        for state in self._states:
            value = np.asarray(answers[state.output])
            before = feeds[state.input.name]
            if value.ndim != before.ndim or (not state.grows and value.shape != before.shape):
                raise InputError(
                    f"the output {printable(state.output)!r} of {value.shape} does not feed the input "
                    f"{printable(state.input.name)!r} of {before.shape} in the next step",
                    hint="`--state OUTPUT=INPUT` names others, `--state none` feeds everything at once",
                )
            states[state.input.name] = value
        return states, {name: answers[name] for name in more}

    def _logits(self) -> str | None:
        """The output of numbers for every token of the vocabulary."""
        taken = {state.output for state in self._states}
        floats = [
            spec
            for spec in self._model.outputs
            if spec.name not in taken and "float" in spec.dtype and len(spec.shape or (0, 0, 0)) in (2, 3)
        ]
        named = [spec.name for spec in floats if _LOGITS.search(spec.name.lower())]
        return named[0] if named else floats[0].name if len(floats) == 1 else None

    def _apart(self, feeds: Mapping[str, Array], logits: str, answers: Sequence[Array]) -> tuple[float, float] | None:
        """How far the steps are from one run over all tokens, which is fed these."""
        if len(answers) < 2 or any(answer.ndim != 3 for answer in answers):
            return None
        try:
            whole = np.asarray(self._session.run(feeds, [logits])[logits], np.float64)
        except RunError:
            return None  # it takes one token at a time
        steps = np.concatenate([answer.astype(np.float64) for answer in answers], axis=1)
        if whole.shape != steps.shape:
            return None
        return float(np.abs(whole - steps).max()), float(np.abs(whole).max())


@dataclass(frozen=True)
class _Tokens:
    """How one sequence of tokens is fed.

    Attributes:
        specs: The inputs that are no states.
        ids: That of tokens.
        beside: What else is given; masks begin with what the first states hold.
        first: The first states.
        before: How many positions they hold that somebody has given.
        cache: A state that has positions.
        takes_one: Whether a step takes a single token.
    """

    specs: tuple[InputSpec, ...]
    ids: InputSpec
    beside: Mapping[str, Array]
    first: Mapping[str, Array]
    before: int
    cache: State | None
    takes_one: bool

    @classmethod
    def of(
        cls,
        model: Model,
        states: Sequence[State],
        ids: InputSpec | None,
        beside: Mapping[str, Array],
        count: int,
        given: Mapping[str, Array] | None,
    ) -> _Tokens:
        names = {state.input.name for state in states}
        specs = tuple(spec for spec in model.inputs if spec.name not in names)
        ids = token_input(specs) if ids is None else ids
        assert ids is not None  # whoever has tokens has asked
        cache = next((state for state in states if state.length_axis is not None), None)
        first = first_states(states, given=given)
        is_given = cache is not None and cache.input.name in (given or {})
        before = first[cache.input.name].shape[cache.length_axis or 0] if cache is not None and is_given else 0
        beside = {
            spec.name: np.concatenate([np.ones((1, before), array.dtype), array], axis=1)
            if masks_tokens(spec, specs) and array.shape[1] <= count
            else array
            for spec in specs
            if (array := beside.get(spec.name)) is not None
        }
        return cls(specs, ids, beside, first, before, cache, takes_one_token(ids, states))

    def fed(self, tokens: Sequence[int], past: int, states: Mapping[str, Array]) -> dict[str, Array]:
        """The tokens behind the past ones, with what counts them."""
        cache = self.cache
        room = None if cache is None else states[cache.input.name].shape[cache.length_axis or 0]
        return tokens_fed(self.specs, self.ids, tokens, Place(past, self.before, room), self.beside)


def _largest(scores: Array) -> int:
    """The token with the largest number at the last position, the first of equal ones."""
    last = scores[0] if scores.ndim == 2 else scores[0, -1]
    return int(last.argmax())
