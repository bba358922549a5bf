"""The smallest set of layers that carries the difference of the outputs: `find_causes()`.

A set carries what goes away where its layers, and no others, compute in the second model what they do in the first.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.results import Record
from onnxscope.base.run_options import RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, label, output_text, printable
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.comparison.layer_difference import LayerDifference, size_of
from onnxscope.comparison.result import Comparison, Undecided
from onnxscope.explaining.exchanges import ExchangedModel, find_exchanges
from onnxscope.explaining.fed_parts import blamed_rows
from onnxscope.inputs.samples import sample_count
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.loading import Model
from onnxscope.pairing.match_values import match_values, pair_outputs
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.runtime.session import open_session
from onnxscope.structure.standard_model import standard_model

__all__ = ["Cause", "Causes", "find_causes"]

Array = NDArray[Any]
_CARRIED = 0.95
_MOST_LAYERS = 64  # that are exchanged
_MOST_TRIED = 8  # for each layer that is added behind the first
_MOST_NEEDED = 16  # layers of a set of which it is tried whether they are needed
_MOST_SETS = 150  # that are tried to rule out that fewer layers do
_MOST_ORDERED = 5  # layers whose shares are taken over every order in which they may be exchanged
_NAMED = 5  # in words
_ROUNDING = 1e-5  # of the difference, which two sessions round otherwise
_COLUMNS = ("layer", "in the second", "operator", "share", "own")


@dataclass(frozen=True, eq=False)
class Cause:
    """A layer of the set.

    Attributes:
        row: Of the comparison.
        share: What it carries of the outputs' difference: the mean, over the orders in which the layers of the set may
            be exchanged, of what goes away at its turn (its Shapley value); below 0 where it makes good for others.
    """

    row: LayerDifference
    share: float

    @property
    def name(self) -> str:
        """What it is called in words."""
        return output_text(self.row.a.layer) if self.row.op_type == "Output" else label(self.row.a.layer)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = self.row.own
        return {
            "a": self.row.a.to_dict(),
            "b": self.row.b.to_dict(),
            "op_type": self.row.op_type,
            "share": self.share,
            "own_relative_l2": None if own is None else own.relative_l2,
        }


@dataclass(frozen=True, eq=False)
class Causes(Record):
    """Which layers carry the difference of the outputs.

    Attributes:
        layers: The set, the largest share first.
        count: How many layers were compared; outputs are counted where one is in the set.
        share: What the set carries: 1 less the norm of the difference that is left over that of the whole one.
        whole: What all layers carry that can be exchanged, in the same way.
        is_smallest: Whether no set of fewer layers carries as much; False where that was not tried out.
        tried: How many layers with a difference of their own were exchanged.
        runs: How often the second model was run.
        samples: How many samples were run each time; None where the inputs have no such axis.
        others: Layers with a difference of their own that cannot be exchanged, and why.
    """

    layers: tuple[Cause, ...]
    count: int
    share: float
    whole: float
    is_smallest: bool
    tried: int
    runs: int
    samples: int | None
    others: tuple[Undecided, ...]

    @property
    def reached(self) -> bool:
        """Whether the set carries 95 % of the difference."""
        return self.share >= _CARRIED

    @property
    def text(self) -> str:
        """In words."""
        count = len(self.layers)
        parts = []
        if not count:
            parts.append("no layer that can be exchanged carries any of the outputs' difference")
        else:
            carry = "carries" if count == 1 else "carry"
            shares = [f" ({_percent(cause.share)})" if count > 1 else "" for cause in self.layers]
            named = [f"{cause.name}{share}" for cause, share in zip(self.layers[:_NAMED], shares, strict=False)]
            named += [f"{count - _NAMED:,} more"] if count > _NAMED else []
            has_output = any(cause.row.op_type == "Output" for cause in self.layers)
            of = f"{self.count:,} layers and outputs" if has_output else counted(self.count, "layer")
            parts.append(f"{count:,} of {of} {carry} {_percent(self.share)} of the difference: {', '.join(named)}")
            if not self.reached:
                parts.append(f"all {self.tried:,} that can be exchanged carry {_percent(self.whole)}")
            if not self.is_smallest:
                parts.append("that no smaller set does was not tried out")
        if self.others:
            shown = [f"{label(other.layer)} ({printable(other.reason)})" for other in self.others[:2]]
            shown += [f"{len(self.others) - 2:,} more"] if len(self.others) > 2 else []
            parts.append(f"not to be exchanged: {', '.join(shown)}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The record `causes` of `onnxscope.diff/1`."""
        return {
            "text": self.text,
            "layers": [cause.to_dict() for cause in self.layers],
            "compared": self.count,
            "share": self.share,
            "share_of_all": self.whole,
            "smallest": self.is_smallest,
            "exchanged": self.tried,
            "runs": self.runs,
            "samples": self.samples,
            "not_exchanged": [other.to_dict() for other in self.others],
        }

    def table(self) -> Table:
        """A row for each layer of the set."""
        rows = []
        for cause in self.layers:
            row = cause.row
            other = "" if row.a.layer == row.b.layer else row.b.layer
            own = None if row.own is None else row.own.relative_l2
            rows.append((row.a.layer, other, row.op_type, _percent(cause.share), own))
        return Table(f"what carries {_percent(self.share)} of the outputs' difference", _COLUMNS, tuple(rows))

    def __repr__(self) -> str:
        return f"<Causes: {self.text}>"


def find_causes(comparison: Comparison, models: tuple[Model, Model], inputs: Any, options: RunOptions) -> Causes | None:
    """Find the smallest set of layers that carries 95 % of the difference of the outputs, on the first batch.

    Of layers with a difference of their own, those are added one by one that take most of it away, and those are left
    out again without which it is taken away all the same; then smaller sets are tried, where these are not too many.

    Args:
        comparison: Of both models, all layers of it.
        models: Both.
        inputs: What they were fed.
        options: How.

    Returns:
        None where no output differs, or no layer has a difference of its own.

    Raises:
        InputError: A sample cannot be read, or the second model's operator set is too old.
        RunError: onnxruntime fails.
    """
    rows = blamed_rows(comparison)
    if not rows or not any(row.differs and row.entire is not None for row in comparison.outputs):
        return None
    with contextlib.closing(open_common_feed(models, inputs, options)) as feed:
        first = feed.first()
        feeds = first, feed.of_second(first)
        samples = sample_count(first, feed.dataset.batch_axes)
    a, b = models
    sides = ModelLayers(standard_model(a, b), a), ModelLayers(standard_model(b, a), b)
    found, others = find_exchanges(comparison, sides, rows)
    found.sort(key=lambda each: size_of(each.row.own), reverse=True)
    exchanged = ExchangedModel(sides, found[:_MOST_LAYERS], feeds, options)
    others += exchanged.others
    others += [Undecided(e.row.a.layer, e.row.a.name, "too many layers differ") for e in found[_MOST_LAYERS:]]
    search = _Search(exchanged, _measure_of(sides, feeds, options))
    if not search.apart(()):
        return None
    chosen, is_smallest = search.smallest()
    shares = search.shares(chosen)
    layers = [Cause(exchanged.exchanges[place].row, shares[place]) for place in chosen]
    layers.sort(key=lambda cause: cause.share, reverse=True)
    has_output = any(cause.row.op_type == "Output" for cause in layers)
    return Causes(
        layers=tuple(layers),
        count=len(comparison.layers) + (len(comparison.outputs) if has_output else 0),
        share=search.share(chosen),
        whole=search.share(search.every),
        is_smallest=is_smallest,
        tried=len(exchanged.exchanges),
        runs=exchanged.runs,
        samples=samples,
        others=tuple(others),
    )


class _Search:
    """Looks for the smallest set of exchanges after which little is left of the difference."""

    def __init__(
        self, model: ExchangedModel, measure: tuple[Collection[str], Callable[[Mapping[str, Any]], float]]
    ) -> None:
        self._model = model
        self._outputs, self._measure = measure
        self._known: dict[frozenset[int], float] = {}
        self.every = frozenset(range(len(model.exchanges)))

    def apart(self, chosen: Collection[int]) -> float:
        """How far the outputs are from the first model's where these exchanges are made."""
        key = frozenset(chosen)
        if key not in self._known:
            self._known[key] = self._measure(self._model.run(key, self._outputs))
        return self._known[key]

    def share(self, chosen: Collection[int]) -> float:
        """What a set carries of the difference."""
        return 1 - self.apart(chosen) / self.apart(())

    def smallest(self) -> tuple[tuple[int, ...], bool]:
        """The smallest set that was found, and whether all smaller ones are ruled out."""
        whole = self.share(self.every)
        if whole <= 0:
            return (), True
        enough = _CARRIED if whole >= _CARRIED else _CARRIED * whole
        chosen = self._without_idle(self._added(enough), enough)
        sizes = range(1, len(chosen))
        if sum(math.comb(len(self.every), size) for size in sizes) > _MOST_SETS:
            return tuple(chosen), False
        for size in sizes:
            for smaller in itertools.combinations(sorted(self.every), size):
                if self.share(smaller) >= enough:
                    return smaller, True
        return tuple(chosen), True

    def _added(self, enough: float) -> list[int]:
        """Add what takes most away, until enough is; gains of the round before tell whom to try first."""
        chosen: list[int] = []
        gains = dict.fromkeys(sorted(self.every), math.inf)
        while gains and self.share(chosen) < enough:
            now, best = self.share(chosen), None
            for turn, place in enumerate(sorted(gains, key=lambda each: -gains[each])):
                if best is not None and (gains[place] <= gains[best] or (chosen and turn >= _MOST_TRIED)):
                    break
                after = self.share([*chosen, place])
                gains[place] = after - now
                best = place if best is None or gains[place] > gains[best] else best
                if after >= enough:
                    best = place
                    break
            assert best is not None
            chosen.append(best)
            del gains[best]
        return chosen

    def _without_idle(self, chosen: Sequence[int], enough: float) -> list[int]:
        """Leave out again what is not needed, that of the least share alone first."""
        kept = list(chosen)
        for place in sorted(chosen, key=lambda each: self.share([each])) if 1 < len(chosen) <= _MOST_NEEDED else ():
            fewer = [other for other in kept if other != place]
            if fewer and self.share(fewer) >= enough:
                kept = fewer
        return kept

    def shares(self, chosen: Sequence[int]) -> dict[int, float]:
        """What each of a set carries; they add up to what the set carries.

        References:
            Shapley, "A value for n-person games", 1953. Of many layers only two orders are taken, one the other's
            reverse.
        """
        few = len(chosen) <= _MOST_ORDERED
        orders = list(itertools.permutations(chosen)) if few else [tuple(chosen), tuple(reversed(chosen))]
        shares = dict.fromkeys(chosen, 0.0)
        for order in orders:
            for turn, place in enumerate(order):
                gain = self.share(order[: turn + 1]) - self.share(order[:turn])
                shares[place] += gain / len(orders)
        return shares


def _measure_of(
    sides: tuple[ModelLayers, ModelLayers], feeds: tuple[Mapping[str, Array], Mapping[str, Array]], options: RunOptions
) -> tuple[list[str], Callable[[Mapping[str, Any]], float]]:
    """Outputs of the second model, and what tells how far they are from the first one's.

    That is the norm of all differences, of each output relative to the norm of the first one's. A number that is finite
    in one model alone, or infinite in two directions, counts as off by as much as the output's numbers are large.
    """
    first, second = (side.model for side in sides)
    pairs = pair_outputs(first, second)
    wanted = [a for a, _ in pairs if a in first.main.producers]
    expected = open_session(first, threads=options.threads).run(feeds[0], wanted)

    def apart(answers: Mapping[str, Any]) -> float:
        total = 0.0
        for a, b in pairs:
            if b in answers and isinstance(expected.get(a), np.ndarray) and isinstance(answers[b], np.ndarray):
                total += _squares((first, second), (a, b), expected[a], answers[b])
        return math.sqrt(total)

    return [b for a, b in pairs if a in wanted and b in second.main.producers], apart


def _squares(models: tuple[Model, Model], names: tuple[str, str], left: Array, right: Array) -> float:
    """The squares of the difference of two outputs over those of the first; 0 where they cannot be compared."""
    if {left.dtype.kind, right.dtype.kind} & set("OUSc"):
        return 0.0
    axes = [
        default_axis(array.ndim, model.channel_axes(()).get(name))
        for model, name, array in zip(models, names, (left, right), strict=True)
    ]
    kinds = left.dtype.name, right.dtype.name
    pair = match_values("a", "b", (left.shape, right.shape), kinds, (axes[0], axes[1]), replaced=False)
    if pair is None:
        return 0.0
    x, y = left.astype(np.float64), pair.to_a(right).astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    off = ~finite & ~((x == y) | (np.isnan(x) & np.isnan(y)))
    reference = float(np.square(x[finite]).sum())
    gap = float(np.square(y[finite] - x[finite]).sum())
    count = int(np.count_nonzero(off))
    if not reference:
        return gap + count
    return gap / reference + count / max(int(np.count_nonzero(finite)), 1)


def _percent(share: float) -> str:
    """A share in words: what is not all or nothing, but for rounding, is not called so."""
    if share >= 1 - _ROUNDING:
        return "all"
    if 0 < abs(share) < 0.005:
        return "less than 1 %" if share > 0 else "a little below 0 %"
    return "more than 99 %" if share >= 0.995 else f"{100 * share:.0f} %"
