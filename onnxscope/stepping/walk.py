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
from onnxscope.selection.input_roles import is_called
from onnxscope.stepping.states import State, first_states

if TYPE_CHECKING:
    from onnxscope.model.loading import Model
    from onnxscope.model.stored_model import InputSpec

__all__ = ["Walk", "Walker", "made_of_tokens", "masks_tokens", "token_input"]

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


def token_input(specs: Iterable[InputSpec]) -> InputSpec | None:
    """Return the input of (batch, sequence) token ids, None where there is no single one."""
    whole = [
        spec
        for spec in specs
        if spec.dtype in ("int64", "int32")
        and spec.shape is not None
        and len(spec.shape) == 2
        and not isinstance(spec.shape[1], int)
        and not _follows_tokens(spec)
    ]
    whole = [spec for spec in whole if not is_called(spec.name, "types")] or whole
    for role in ("ids", "text"):
        named = [spec for spec in whole if is_called(spec.name, role)]
        if len(named) == 1:
            return named[0]
    return whole[0] if len(whole) == 1 else None


def masks_tokens(spec: InputSpec, specs: Iterable[InputSpec]) -> bool:
    """Whether an input is a mask of (batch, tokens), and not one over what another of the inputs has as many of."""
    shape = spec.shape or ()
    if not is_called(spec.name, "mask") or len(shape) != 2:
        return False
    others = (other.shape or () for other in specs if "float" in other.dtype)
    return not isinstance(shape[1], str) or not any(shape[1] in other for other in others)


def made_of_tokens(spec: InputSpec) -> bool:
    """Whether an input can be made of how many tokens there are: what `_follows_tokens`, types, and flags."""
    flag = spec.dtype == "bool" and len(spec.shape or ()) < 2
    return _follows_tokens(spec) or flag or (spec.dtype in ("int64", "int32") and is_called(spec.name, "types"))


def _follows_tokens(spec: InputSpec) -> bool:
    """Whether an input says nothing but how many tokens there are: a mask, or positions."""
    return bool(spec.shape) and (is_called(spec.name, "mask") or is_called(spec.name, "positions"))


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

    def over_frames(self, frames: Iterable[Mapping[str, Array]]) -> Walk:
        """Run one step for each frame.

        Args:
            frames: Whatever is no state, by input, for one sample.

        Raises:
            InputError: The states take too much memory, or a step gives one that the next does not take.
            RunError: onnxruntime fails.
        """
        states = first_states(self._states)
        steps = []
        for frame in frames:
            feeds = {**frame, **states}
            steps.append(feeds)
            states, _ = self._step(feeds, [])
        return Walk(tuple(steps))

    def over_tokens(self, tokens: Sequence[int], beside: Mapping[str, Array], generate: int | None = None) -> Walk:
        """Run one step for each token, or for all given ones and then for each that is generated greedily.

        Args:
            tokens: The sequence, one or more.
            beside: What else is fed, by input, for one sample; a mask over the given tokens counts on.
            generate: How many tokens follow: each is where the logits of the last position are largest.

        Raises:
            InputError: As for `over_frames`, or nothing that the model gives is logits.
            RunError: onnxruntime fails.
        """
        logits = self._logits()
        if generate is not None and logits is None:
            shown = ", ".join(f"{printable(spec.name)}" for spec in self._model.outputs[:8])
            raise InputError(f"no output is logits of (batch, sequence, tokens), to generate from: {shown}")
        given = list(tokens)
        pieces = [given[:1]] if generate is None else [given]
        states, steps, answers = first_states(self._states), [], []
        past = 0
        while pieces:
            piece = pieces.pop()
            whole = given[: past + len(piece)]
            # Without states nothing remembers what was: all of it is fed again.
            feeds = {**self._tokens_fed(whole, past if self._states else 0, beside), **states}
            steps.append(feeds)
            states, scores = self._step(feeds, [] if logits is None else [logits])
            past += len(piece)
            answers += [scores[logits]] if logits is not None else []
            if generate is None and past < len(given):
                pieces.append(given[past : past + 1])
            elif generate is not None and len(given) - len(tokens) < generate:
                given.append(_largest(scores[logits or ""]))
                if len(given) - len(tokens) < generate:
                    pieces.append(given[-1:])
        apart = self._apart(given[:past], beside, logits, answers) if self._states and logits is not None else None
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

    def _tokens_fed(self, tokens: Sequence[int], past: int, beside: Mapping[str, Array]) -> dict[str, Array]:
        """The tokens behind the past ones, with what counts them."""
        names = {state.input.name for state in self._states}
        specs = [spec for spec in self._model.inputs if spec.name not in names]
        ids = token_input(specs)
        assert ids is not None  # whoever has tokens has asked
        total = len(tokens)
        feeds = {}
        for spec in specs:
            dtype = np.dtype(spec.dtype)
            if spec.name == ids.name:
                feeds[spec.name] = np.array([tokens[past:]], dtype)
            elif masks_tokens(spec, specs):
                given = beside.get(spec.name, np.ones((1, 0), dtype))[:, :total]
                feeds[spec.name] = np.concatenate([given, np.ones((1, total - given.shape[1]), dtype)], axis=1)
            elif is_called(spec.name, "positions"):
                given = beside.get(spec.name, np.zeros(0, dtype)).reshape(-1)[:total]
                after = int(given[-1]) + 1 if given.size else 0
                counted = np.concatenate([given, np.arange(after, after + total - given.size, dtype=dtype)])[past:]
                feeds[spec.name] = counted if len(spec.shape or ()) == 1 else counted[None]
            elif spec.name in beside:
                array = beside[spec.name]
                along = spec.shape is not None and len(spec.shape) == 2 and spec.shape[1] == (ids.shape or (0, 0))[1]
                feeds[spec.name] = array[:, past:total] if along else array
            elif is_called(spec.name, "types"):
                feeds[spec.name] = np.zeros((1, total - past), dtype)
            elif spec.dtype == "bool" and not is_called(spec.name, "mask"):
                feeds[spec.name] = np.full([1] * len(spec.shape or ()), past > 0)  # use_cache_branch
        return feeds

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

    def _apart(
        self, tokens: Sequence[int], beside: Mapping[str, Array], logits: str | None, answers: Sequence[Array]
    ) -> tuple[float, float] | None:
        """How far the steps are from one run over all tokens."""
        if logits is None or len(answers) < 2 or any(answer.ndim != 3 for answer in answers):
            return None
        feeds = {**self._tokens_fed(tokens, 0, beside), **first_states(self._states)}
        try:
            whole = np.asarray(self._session.run(feeds, [logits])[logits], np.float64)
        except RunError:
            return None  # it takes one token at a time
        steps = np.concatenate([answer.astype(np.float64) for answer in answers], axis=1)
        if whole.shape != steps.shape:
            return None
        return float(np.abs(whole - steps).max()), float(np.abs(whole).max())


def _largest(scores: Array) -> int:
    """The token with the largest number at the last position, the first of equal ones."""
    last = scores[0] if scores.ndim == 2 else scores[0, -1]
    return int(last.argmax())
