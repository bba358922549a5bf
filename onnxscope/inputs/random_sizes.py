"""Sizes of open dimensions, and numbers, with which a model runs on random input: relations first, then trial.

What random input has always been fed is tried first, and stays what it was where the model runs. Otherwise names tell
(`total_sequence_length`), the node that refuses (a Reshape to 1536 numbers, a window of 512), and at last doubling.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError, RunError
from onnxscope.inputs.random_inputs import STEPS, Fitting, dim_name, open_dims, random_feeds
from onnxscope.inputs.trial_runs import Refusal, TrialRuns
from onnxscope.model.loading import Model
from onnxscope.selection.input_roles import is_called

if TYPE_CHECKING:
    from onnxscope.model.graphs import Node
    from onnxscope.model.stored_model import InputSpec

__all__ = ["find_fitting"]

_LONGEST_S = 20.0
_MOST_RUNS = 120
_LARGEST = 1 << 17  # of one dimension: eight seconds of sound
_MOST_NUMBERS = 1 << 24  # that a trial is fed
_LONG = 64  # a dimension that is rather halved than doubled, to see what it does
_ROUND = (32, 16, 8)  # what sizes are rather a multiple of
_MOST_STEPS = 16  # from one refusal to the next
_WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
_TOTAL = re.compile(r"total_(.+)")


@dataclass
class _Spent:
    """How much of what trial may take is left."""

    end_s: float
    runs: int = _MOST_RUNS

    def take(self) -> bool:
        """Whether one more run may be made."""
        self.runs -= 1
        return self.runs >= 0 and time.monotonic() < self.end_s


def find_fitting(
    specs: Sequence[InputSpec], seed: int, bounds: Mapping[str, tuple[int, int]] | None
) -> tuple[Fitting, list[str]]:
    """Find sizes and numbers with which the model runs that these are the inputs of.

    Args:
        specs: The inputs. Where nobody knows whose they are, or none of them is open, nothing is tried.
        seed: Of the numbers that are tried.
        bounds: As for `random_feeds`.

    Returns:
        What fits, and a note for people where it is not what random input is by itself.

    Raises:
        InputError: Nothing was found that runs: says which node refused, and which dimensions can be set.
    """
    model = next((spec.model for spec in specs if spec.model is not None), None)
    fitting = Fitting(dict(model.dims)) if isinstance(model, Model) and model.dims else Fitting()
    if not isinstance(model, Model) or not _is_open(specs):
        return fitting, []
    search = _Search(model, specs, seed, bounds)
    return search.found(fitting) if search.trials is not None else (fitting, [])


def _is_open(specs: Sequence[InputSpec]) -> bool:
    """Whether there is more to choose than how many samples there are."""
    return any(
        (spec.shape is not None and any(not isinstance(dim, int) for dim in spec.shape[1:]))
        or (spec.shape is not None and len(spec.shape) == 1 and not isinstance(spec.shape[0], int))
        or spec.dtype.startswith(("int", "uint", "bool"))
        for spec in specs
    )


class _Search:
    """Looks for sizes with which one model runs."""

    def __init__(
        self, model: Model, specs: Sequence[InputSpec], seed: int, bounds: Mapping[str, tuple[int, int]] | None
    ) -> None:
        self._model, self._specs, self._seed, self._bounds = model, specs, seed, bounds
        self._spent = _Spent(time.monotonic() + _LONGEST_S)
        self._defaults = open_dims(specs)
        self.trials: TrialRuns | None = None
        try:
            self.trials = TrialRuns(model)
        except RunError:
            return  # the run itself says why

    def found(self, fitting: Fitting) -> tuple[Fitting, list[str]]:
        """What runs, and a note; see `find_fitting`."""
        refusal = first = self._refusal(fitting)
        if refusal is None:
            return fitting, []
        related = {name: size for name, size in self._related().items() if name not in fitting.dims}
        current = Fitting({**self._defaults, **fitting.dims, **related}, self._compared(), is_ordered=True)
        refusal = self._refusal(current)
        for _ in range(_MOST_STEPS):
            if refusal is None:
                return self._told(current)
            better = self._solved(current, refusal) or self._doubled(current, refusal)
            if better is None:
                break
            current, refusal = better
        if refusal is None:
            return self._told(current)
        if not self._defaults:
            return fitting, []  # nothing to set: the run itself says why
        raise self._nothing_runs(first or refusal)

    def _refusal(self, fitting: Fitting) -> Refusal | None:
        assert self.trials is not None
        return self.trials.refusal(self._feeds(fitting))

    def _feeds(self, fitting: Fitting) -> dict[str, NDArray[Any]]:
        return random_feeds(self._specs, self._seed, self._bounds, fitting)

    def _is_small(self, dims: Mapping[str, int]) -> bool:
        """Whether so many numbers may be fed for a trial."""
        largest = (
            math.prod(
                dim if isinstance(dim, int) else dims.get(dim_name(spec, axis), 1)
                for axis, dim in enumerate(spec.shape or ())
            )
            for spec in self._specs
        )
        return max(largest, default=0) <= _MOST_NUMBERS

    def _related(self) -> dict[str, int]:
        """Sizes that names tell: a cache is no image, and all of a sequence is its past and what is new."""
        related = {
            dim_name(spec, axis): STEPS
            for spec in self._specs
            if len(spec.shape or ()) == 4 and is_called(spec.name, "cache")
            for axis, dim in enumerate(spec.shape or ())
            if axis and not isinstance(dim, int)
        }
        known = {**self._defaults, **related, **self._model.dims}
        for name in self._defaults:
            match = _TOTAL.fullmatch(name)
            if match and f"past_{match[1]}" in known and match[1] in known:
                related[name] = known[f"past_{match[1]}"] + known[match[1]]
        return related

    def _compared(self) -> dict[str, int]:
        """By input, the first number that the graph compares it with, as a sampling rate is."""
        numbers: dict[str, int | None] = {}
        graph = self._model.main
        for spec in self._specs:
            if spec.shape is None or spec.dtype not in _WHOLE or math.prod(_sizes(spec)) > 1:
                continue
            waiting, seen = [spec.name], {spec.name}
            while waiting:
                for node in graph.readers.get(waiting.pop(), ()):
                    if node.op_type == "Equal" and node.is_standard:
                        numbers.setdefault(spec.name, self._constant(node, seen, np.iinfo(spec.dtype)))
                    elif node.operator.passes_on in ("same", "cast", "reshaped") and node.outputs[0] not in seen:
                        seen.add(node.outputs[0])
                        waiting.append(node.outputs[0])
        return {name: number for name, number in numbers.items() if number is not None}

    def _constant(self, node: Node, seen: set[str], limits: np.iinfo[Any]) -> int | None:
        for name in node.inputs:
            tensor = self._model.main.stored(name) if name not in seen else None
            if tensor is not None and math.prod(tensor.dims) == 1:
                number = np.ravel(self._model.array(tensor))[0]
                return int(number) if limits.min <= number <= limits.max else None  # nor NaN
        return None

    def _candidates(self) -> list[str]:
        """Dimensions that may be another: later axes first, the number of samples last."""
        counting = {
            dim_name(spec, 0)
            for spec in self._specs
            if len(spec.shape or ()) > 1 and not isinstance((spec.shape or ())[0], int)
        }
        return sorted((name for name in self._defaults if name not in self._model.dims), key=counting.__contains__)

    def _solved(self, fitting: Fitting, refusal: Refusal) -> tuple[Fitting, Refusal | None] | None:
        """Another size with which the node that refused takes what it reads."""
        node = refusal.node
        misfit = None if node is None else self._misfit(fitting, node)
        if node is None or not misfit:
            return None
        roots = {name: self._root(fitting, node, name, misfit) for name in self._candidates()}
        found = [(name, size) for name, size in roots.items() if size is not None]
        # Rather a longer dimension than one that shrinks to what the other happens to be.
        for name, size in sorted(found, key=lambda root: root[1] < fitting.dims[root[0]]):
            better = replace(fitting, dims={**fitting.dims, name: size})
            answer = self._refusal(better) if self._spent.take() else refusal
            if answer is None or answer.rank > refusal.rank:
                return better, answer
        return None

    def _misfit(self, fitting: Fitting, node: Node) -> int | None:
        if not self._spent.take() or not self._is_small(fitting.dims):
            return None
        assert self.trials is not None
        return self.trials.misfit(node, self._feeds(fitting))

    def _root(self, fitting: Fitting, node: Node, name: str, misfit: int) -> int | None:
        """The size of one dimension where a misfit is 0, by secants and halving; None where it has none."""
        here = fitting.dims[name]
        there = max(2 * here, 2) if here < _LONG else here // 2
        known = {here: misfit}

        def at(size: int) -> int | None:
            if size not in known:
                found = self._misfit(replace(fitting, dims={**fitting.dims, name: size}), node)
                if found is None:
                    return None
                known[size] = found
            return known[size]

        other = at(there)
        if other is None:
            there = max(here // 2, 1) if here < _LONG else 2 * here
            other = at(there)
        if other is None or other == misfit:
            return there if other == 0 else None
        for _ in range(_MOST_STEPS):
            if 0 in known.values():
                size = next(size for size, found in known.items() if found == 0)
                return next((found for part in _ROUND if at(found := -(-size // part) * part) == 0), size)
            guess = _guess(known)
            if guess is None or guess in known or not 1 <= guess <= _LARGEST or at(guess) is None:
                return None
        return None

    def _doubled(self, fitting: Fitting, refusal: Refusal) -> tuple[Fitting, Refusal | None] | None:
        """Another size, or one for all, that lets the model run further."""
        furthest: tuple[Fitting, Refusal] | None = None
        names = self._candidates()
        for group in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
            if len(group) > 1 and furthest is not None:
                break
            for size in _steps([fitting.dims[name] for name in group]):
                better = replace(fitting, dims={**fitting.dims, **dict.fromkeys(group, size)})
                if not self._is_small(better.dims):
                    continue
                if not self._spent.take():
                    return furthest
                found = self._refusal(better)
                if found is None:
                    return better, None
                if found.rank > (refusal if furthest is None else furthest[1]).rank:
                    furthest = better, found
        return furthest

    def _told(self, fitting: Fitting) -> tuple[Fitting, list[str]]:
        """What runs without what random input has by itself, and a note."""
        changed = {name: size for name, size in fitting.dims.items() if self._defaults.get(name) != size}
        fitting = replace(fitting, dims={**self._model.dims, **changed})
        shown = [f"{name}={size}" for name, size in changed.items() if name not in self._model.dims]
        shown += [f"{name} is {number}" for name, number in fitting.numbers.items()]
        if not shown:
            return fitting, []
        note = f"found what runs on random input: {', '.join(map(printable, shown))}"
        return fitting, [f"{note}; `--dim NAME=SIZE` sets a size" if changed else note]

    def _nothing_runs(self, refusal: Refusal) -> InputError:
        names = [name for name in self._candidates() if name not in self._model.dims]
        reason = f" ({refusal.reason[:120]})" if refusal.reason else ""
        fault = f"no random input was found that runs: {refusal.called} refuses it{reason}: {self._model.name}"
        shown = ", ".join(printable(name) for name in names[:4])
        hint = f"`--dim {printable(names[0])}=SIZE` sets a size" if names else "give real data"
        return InputError(fault[:300], hint=f"{hint}; open are {shown}" if len(names) > 1 else hint)


def _sizes(spec: InputSpec) -> Iterator[int]:
    return (dim if isinstance(dim, int) else 1 for dim in spec.shape or ())


def _guess(known: Mapping[int, int]) -> int | None:
    """Where a misfit may be 0: between sizes on both sides of it, or beyond the two that come nearest."""
    short = [size for size, misfit in known.items() if misfit < 0]
    long = [size for size, misfit in known.items() if misfit > 0]
    if short and long:
        low, high = min(((a, b) for a in short for b in long), key=lambda pair: abs(pair[0] - pair[1]))
        if abs(low - high) < 2:
            return None
    else:
        low, high = sorted(known, key=lambda size: abs(known[size]))[:2]
        if known[low] == known[high]:
            return None
    guess = round(low - known[low] * (high - low) / (known[high] - known[low]))
    if short and long:
        return guess if min(low, high) < guess < max(low, high) else (low + high) // 2
    return max(1, min(guess, _LARGEST)) if guess not in known else guess + 1


def _steps(sizes: Iterable[int]) -> Iterator[int]:
    """Sizes to try: twice as long again and again, then half as long; windows are that long."""
    largest = max(sizes)
    size = 1 << max(largest, 1).bit_length()
    while size <= _LARGEST:
        yield size
        size *= 2
    size = 1 << (max(largest, 1) - 1).bit_length() >> 1
    while size >= 1:
        yield size
        size //= 2
