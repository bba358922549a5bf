"""Run two models on the same batches and measure how far apart their values are.

Both go into one merged graph where that is possible. Where it is not, and for values that are not finite, two sessions
return the values themselves, in groups under a memory budget, and numpy gives the same numbers. Which values belong
together at all, `near_values()` finds out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.comparison.floors import discrepancy_of
from onnxscope.comparison.merged_graph import Merged, merge_models, own_model
from onnxscope.errors import RunError
from onnxscope.model.channel_axes import default_axis
from onnxscope.numerics.composites import contents_of
from onnxscope.numerics.distances import Discrepancy, Tolerance, from_sums, measure
from onnxscope.numerics.score_agreement import ScoreAgreement, compare_scores
from onnxscope.pairing.match_values import Counterpart, FedInput, match_values
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tapped_runs import within_budget
from onnxscope.selection.selectors import Tap

__all__ = ["Comparer", "Composite", "Fetch", "Held", "Measured", "held_by", "near_values"]

Array = NDArray[Any]
Fetch = Callable[[Sequence[str]], Mapping[str, Any]]
"""Returns values of the reference for the current batch by name."""
_NEAR = 0.1  # a layer quantized to eight bits, with all that is quantized before it, is nearer
_FEWEST_NUMBERS = 8  # fewer are near each other by chance


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found out about one pair of values.

    Attributes:
        entire: The second model against the first.
        own: The same where every layer of the second is fed with the first one's values; None where that is unknown.
        scores: How far both agree as scores of classes; None where they are none.
    """

    entire: Discrepancy
    own: Discrepancy | None
    scores: ScoreAgreement | None = None

    def __add__(self, more: Measured) -> Measured:
        own = None if self.own is None or more.own is None else self.own + more.own
        scores = None if self.scores is None or more.scores is None else self.scores + more.scores
        return Measured(self.entire + more.entire, own, scores)


class Comparer:
    """What compares the batches, one after the other.

    Attributes:
        fallback: Why one graph was not enough, or None.
    """

    def __init__(
        self,
        a: Pilot | None,
        b: Pilot,
        counterparts: Sequence[Counterpart],
        inputs: Sequence[FedInput],
        *,
        fed: Sequence[Counterpart] = (),
        tolerance: Tolerance | None,
        samples: int,
        memory_budget_bytes: int,
        threads: int,
    ) -> None:
        """Build the merged graph; where that is possible both pilots are closed.

        Args:
            a: The reference, None where its values come from elsewhere.
            b: The model to be compared with it.
            counterparts: In execution order.
            inputs: What the inputs of `b` are made of.
            fed: More values that the second model's layers are fed with, where own errors are measured.
            tolerance: Count the numbers beyond it.
            samples: How many times the pilot run's samples a batch has, rounded up.
            memory_budget_bytes: What values may take that leave onnxruntime.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        """
        self._a, self._b = a, b
        self._counterparts = counterparts
        self._inputs = inputs
        self._fed = [*counterparts, *fed]
        self._tolerance = tolerance
        self._threads = threads
        self._groups = within_budget(
            range(len(counterparts)),
            lambda place: samples * _bytes(counterparts[place].shape_a),
            memory_budget_bytes // 2,
        )
        self._merged: Merged | None = None
        self._session: Session | None = None
        self._own: dict[int, tuple[Session, dict[str, Counterpart]]] = {}
        self.fallback: str | None = None
        apart = a is not None and not (a.model.running.is_default and b.model.running.is_default)
        if apart:
            # A provider would run what compares them too, in its own precision.
            self.fallback = "each model is run in its own way"
        elif a is not None and counterparts:
            try:
                self._merged = merge_models(
                    a.model, a.tapped.proto, b.model, b.tapped.proto, counterparts, inputs, fed=fed, tolerance=tolerance
                )
            except RunError as error:
                self.fallback = str(error)
            else:
                a.close()
                b.close()
                made = {name for node in self._merged.proto.graph.node for name in node.output}
                for pair in counterparts:
                    names = [f"a:{pair.a}", f"b:{pair.b}"] if pair.scores else []
                    for name in names if made.issuperset(names) else []:
                        self._merged.proto.graph.output.add().name = name

    def run(self, feeds: Mapping[str, Array], fetch: Fetch | None = None) -> list[Measured]:
        """Measure one batch.

        Args:
            feeds: For the inputs of `a`; for those of `b` where there is no `a`.
            fetch: The reference's values where there is no `a`.

        Returns:
            One for every counterpart.

        Raises:
            RunError: onnxruntime cannot run one of the models.
        """
        measured: dict[int, Measured] = {}
        feeds_b = {fed.b: fed.apply(feeds[fed.a]) for fed in self._inputs}
        if self._merged is not None:
            try:
                measured = self._run_merged(self._merged, feeds)
            except RunError as error:
                self._merged = self._session = None
                self.fallback = str(error)
        missing = [place for place in range(len(self._counterparts)) if place not in measured]
        if missing:
            measured |= self._run_apart(set(missing), feeds, feeds_b, fetch)
        for pilot, fed_to in ((self._a, feeds), (self._b, feeds_b)):
            if pilot is not None:
                pilot.watch(fed_to)
        return [measured[place] for place in range(len(self._counterparts))]

    def _run_merged(self, merged: Merged, feeds: Mapping[str, Array]) -> dict[int, Measured]:
        if self._session is None:
            models = [pilot.model for pilot in (self._a, self._b) if pilot is not None]
            self._session = Session(
                merged.proto,
                folder=merged.folder,
                where=" and ".join(model.name for model in models),
                threads=self._threads,
                plan_memory=False,
                custom_ops=[path for model in models for path in model.custom_ops],
            )
        answers = self._session.run({f"a:{name}": array for name, array in feeds.items()})
        measured = {}
        for place, outputs in enumerate(merged.outputs):
            numbers = {key: answers[output] for key, output in outputs.items()}
            entire, own = from_sums(numbers, ""), from_sums(numbers, "own_")
            if entire is not None and own is not None:
                pair = self._counterparts[place]
                scores = None
                if pair.scores:
                    scores = _agreement(answers.get(f"a:{pair.a}"), answers.get(f"b:{pair.b}"), pair)
                measured[place] = Measured(entire, own, scores)
        return measured

    def _run_apart(
        self,
        places: Collection[int],
        feeds: Mapping[str, Array],
        feeds_b: Mapping[str, Array],
        fetch: Fetch | None,
    ) -> dict[int, Measured]:
        """The same numbers from two sessions that return the values themselves."""
        if fetch is None:
            assert self._a is not None
            fetch = partial(self._a.values, feeds=feeds)
        measured = {}
        for number, group in enumerate(self._groups):
            wanted = [place for place in group if place in places]
            if not wanted:
                continue
            pairs = [self._counterparts[place] for place in wanted]
            second = self._b.values([pair.b for pair in pairs], feeds_b)
            alone, first = self._run_own(number, group, feeds_b, fetch, [pair.a for pair in pairs])
            for place, pair in zip(wanted, pairs, strict=True):
                left = first[pair.a]
                own = alone.get(pair.b)
                measured[place] = Measured(
                    self._measure(left, second[pair.b], pair),
                    None if own is None else self._measure(left, own, pair),
                    _agreement(left, second[pair.b], pair) if pair.scores else None,
                )
        return measured

    def _run_own(
        self, number: int, group: Sequence[int], feeds_b: Mapping[str, Array], fetch: Fetch, names: Sequence[str]
    ) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The values of a group's layers fed with the reference's; and the reference's values of `names`."""
        model = self._b.model
        if number not in self._own:
            wanted = [self._counterparts[place] for place in group]
            proto, used = own_model(model, self._b.tapped.proto, self._fed, wanted)
            session = open_session(model, proto, threads=self._threads)
            self._own[number] = session, used
        session, used = self._own[number]
        first = fetch(list(dict.fromkeys([*names, *(pair.a for pair in used.values())])))
        fed = {name: pair.to_b(first[pair.a]) for name, pair in used.items()}
        answers = session.run({**feeds_b, **fed})
        return {name.removeprefix("o:"): value for name, value in answers.items()}, first

    def _measure(self, left: Array, right: Array, pair: Counterpart) -> Discrepancy:
        return measure(left, pair.to_a(np.asarray(right)), pair.channel_axis, self._tolerance)


class Composite:
    """An output that is no tensor of numbers: strings, a sequence, an optional or maps.

    Attributes:
        pair: Its names in both models; it has no shape.
        total: How far its numbers are apart, over all batches.
        own: The same where the second model is fed with the first one's values; None where it was not.
        noise: How far the first model is from itself.
        reason: What else is not the same in the first batch where something is.
    """

    def __init__(self, a: str, b: str) -> None:
        """Nothing has been compared yet."""
        self.pair = Counterpart(
            a, b, (), (), "float32", "float32", (), reshaped=False, channel_axis=None, replaced=False
        )
        self.total: Discrepancy | None = None
        self.own: Discrepancy | None = None
        self.noise: Discrepancy | None = None
        self.reason: str | None = None

    def add(self, left: Any, right: Any, tolerance: Tolerance | None) -> None:
        """Take in what one batch gave."""
        reason = contents_of(left).difference_in_kind(contents_of(right))
        self.reason = self.reason or reason
        if reason is None:
            measured = discrepancy_of(left, right, None, tolerance)
            self.total = measured if self.total is None else self.total + measured

    def add_own(self, left: Any, own: Any, tolerance: Tolerance | None) -> None:
        """Take in what one batch gave where the second model was fed with the first one's values."""
        measured = discrepancy_of(left, own, None, tolerance)
        self.own = measured if self.own is None else self.own + measured


@dataclass(frozen=True)
class Held:
    """Values of one side, whose partners are looked for.

    Attributes:
        taps: Named uniquely; those with the same `at` are compared.
        shapes: Of the taps that hold numbers, by name.
        fetch: Returns values by name.
    """

    taps: Sequence[Tap]
    shapes: Mapping[str, tuple[int, ...]]
    fetch: Fetch

    @property
    def size_bytes(self) -> int:
        """What all values take at most."""
        return sum(map(_bytes, self.shapes.values()))


def held_by(pilot: Pilot) -> Held:
    """Return what a model holds at its taps, once its first run is made."""
    outputs = {tap.name: output for tap, output in pilot.outputs.items()}

    def fetch(names: Sequence[str]) -> Mapping[str, Any]:
        values = pilot.values([outputs[name] for name in names])
        return {name: values[outputs[name]] for name in names}

    return Held(pilot.taps, {tap.name: shape for tap, shape in pilot.shapes.items()}, fetch)


def near_values(a: Held, b: Held, memory_budget_bytes: int) -> list[tuple[Tap, Tap]]:
    """Find values that are nearly the same numbers, also with the channels along another axis.

    Args:
        a: One side.
        b: The other.
        memory_budget_bytes: What values may take that are held at a time.

    Returns:
        Every pair whose distance is at most a tenth of the first value's norm. Values that are constant, not finite, or
        of very few numbers are near nothing.

    Raises:
        RunError: onnxruntime fails.
    """
    groups = [
        within_budget(
            [tap for tap in side.taps if math.prod(side.shapes.get(tap.name, ())) >= _FEWEST_NUMBERS],
            lambda tap, shapes=side.shapes: _bytes(shapes[tap.name]),  # type: ignore[misc]
            memory_budget_bytes // 2,
        )
        for side in (a, b)
    ]

    def evidence(side: Held, group: Sequence[Tap]) -> list[tuple[Tap, Array, tuple[float, float, float]]]:
        values = side.fetch([tap.name for tap in group])
        observed = [(tap, values[tap.name]) for tap in group]
        return [(tap, value, sums) for tap, value in observed if (sums := _sums(value)) is not None]

    near = []
    for some in groups[0]:
        left = evidence(a, some)
        for others in groups[1]:
            right = evidence(b, others)
            sums = np.array([sizes for _, _, sizes in right]).reshape(-1, 3)
            for x, value, (size, total, norm) in left:
                # Whatever the order of the axes, sums and norms are no further apart than the values themselves.
                allowed = (0.0, _NEAR * norm * math.sqrt(size), _NEAR * norm)
                for place in np.flatnonzero((np.abs(sums - (size, total, norm)) <= allowed).all(axis=1)):
                    y, other, _ = right[place]
                    if x.at == y.at and _is_near(value, other, norm, (x, y)):
                        near.append((x, y))
    return near


def _agreement(left: Any, right: Any, pair: Counterpart) -> ScoreAgreement | None:
    """How far two outputs agree as scores of classes; None where they are not at hand, or not in rows any more."""
    if left is None or right is None:
        return None
    right = pair.to_a(np.asarray(right))
    return compare_scores(left, right) if left.ndim == 2 and left.shape == right.shape else None


def _bytes(shape: tuple[int, ...]) -> int:
    return 8 * math.prod(shape)


def _sums(value: Array) -> tuple[float, float, float] | None:
    """Size, sum and norm of a value, None where it is no evidence."""
    if value.dtype.kind != "f" or not np.isfinite(value).all() or value.min() == value.max():
        return None
    return value.size, float(value.sum(dtype=np.float64)), math.sqrt(np.square(value, dtype=np.float64).sum())


def _is_near(x: Array, y: Array, norm: float, taps: tuple[Tap, Tap]) -> bool:
    axes = default_axis(x.ndim, taps[0].channel_axis), default_axis(y.ndim, taps[1].channel_axis)
    pair = match_values("", "", (x.shape, y.shape), (x.dtype.name, y.dtype.name), axes, replaced=False)
    if pair is None:
        return False
    longest = int(np.argmax(x.shape))
    left, right = (np.moveaxis(array, longest, 0) for array in (x, pair.to_a(y)))
    allowed = (_NEAR * norm) ** 2
    for one, other in zip(left, right, strict=True):  # most are told apart by the first few
        allowed -= float(np.square(one.astype(np.float64) - other.astype(np.float64)).sum())
        if allowed < 0:
            return False
    return True
