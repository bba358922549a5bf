"""The fewest layers to keep in float, so that a model with all others narrowed is as good as is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnxscope.base.text import counted, format_number, printable
from onnxscope.errors import InputError
from onnxscope.narrowing.formats import Format
from onnxscope.narrowing.measuring import measure_sets
from onnxscope.narrowing.narrowed_layers import NarrowedLayer
from onnxscope.narrowing.narrowed_runs import NarrowedRuns
from onnxscope.narrowing.quality import Quality
from onnxscope.narrowing.sample_halves import Batches

__all__ = ["KeptLayers", "KeptStep", "Target", "keep_layers", "read_target"]

_TARGET = re.compile(r"(?:(top1|kl)=)?([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?) ?(dB)?", re.IGNORECASE)
_MOST_PRUNED = 16  # layers that are tried to be narrowed after all, where a run is no small matter
Kept = frozenset[NarrowedLayer]


@dataclass(frozen=True)
class Target:
    """How good a narrowed model has to be.

    Attributes:
        kind: Signal to noise of the outputs in decibels, the share of samples whose first class stays, or the mean
            divergence of a sample's probabilities in nats.
        value: The least that is enough, of the divergence the most.
    """

    kind: Literal["dB", "top1", "kl"]
    value: float

    @property
    def text(self) -> str:
        """As it is written."""
        number = format_number(self.value)
        return f"{number}dB" if self.kind == "dB" else f"{self.kind}={number}"

    def is_met(self, quality: Quality) -> bool:
        """Whether a quality is enough; one without any error is."""
        if quality.broken:
            return False
        if self.kind == "dB":
            return not quality.noise or (quality.sqnr_db is not None and quality.sqnr_db >= self.value)
        if self.kind == "top1":
            return quality.top1 is not None and quality.top1 >= self.value
        return quality.kl_nats is not None and quality.kl_nats <= self.value

    def badness(self, quality: Quality) -> tuple[float, ...]:
        """What is smaller for better qualities."""
        if self.kind == "top1" and quality.top1 is not None:
            return -quality.top1, quality.relative_noise
        if self.kind == "kl" and quality.kl_nats is not None:
            return math.inf if quality.broken else quality.kl_nats, quality.relative_noise
        return (quality.relative_noise,)


def read_target(text: str) -> Target:
    """Read `30dB`, `top1=0.99` or `kl=0.01`.

    Raises:
        InputError: It is none of these.
    """
    match = _TARGET.fullmatch(text.strip())
    kind = (match[1] or "").lower() if match else ""
    if match is None or bool(kind) == bool(match[3]):
        raise InputError(f"no target: '{printable(text)}'", hint="30dB, top1=0.99 or kl=0.01")
    value = float(match[2])
    if not math.isfinite(value) or (kind == "top1" and value > 1):
        raise InputError(f"no target: '{printable(text)}'", hint="a share of samples is at most 1, as in top1=0.99")
    return Target("top1" if kind == "top1" else "kl" if kind == "kl" else "dB", value)


@dataclass(frozen=True, eq=False)
class KeptStep:
    """A set of layers that was run in float, with all others narrowed.

    Attributes:
        layers: In float, in execution order.
        output: How far the outputs were off.
    """

    layers: tuple[NarrowedLayer, ...]
    output: Quality

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kept": len(self.layers),
            "layers": [layer.layer for layer in self.layers],
            "output_sqnr_db": self.output.sqnr_db,
            "top1_agreement": self.output.top1,
            "kl_nats": self.output.kl_nats,
        }


@dataclass(frozen=True, eq=False)
class KeptLayers:
    """The layers to keep in float.

    Attributes:
        form: The name of the format that all others are in.
        target: What was asked for.
        of_layers: How many layers there are.
        found: The set that was found.
        steps: What else was run on the way, fewer layers first.
    """

    form: str
    target: Target
    of_layers: int
    found: KeptStep
    steps: tuple[KeptStep, ...]

    @property
    def nodes_to_exclude(self) -> list[str]:
        """Names of the nodes, as onnxruntime's quantizers want them; nodes without a name are missing."""
        return list(dict.fromkeys(layer.node.name for layer in self.found.layers if layer.node.name))

    @property
    def text(self) -> str:
        """In words."""
        names = ", ".join(printable(layer.layer) for layer in self.found.layers)
        what = f"{len(self.found.layers)} of {counted(self.of_layers, 'layer')} in float"
        return f"{self.form}, {self.target.text}: {what}{': ' if names else ''}{names}"

    @property
    def notes(self) -> list[str]:
        """For people: what a quantizer cannot be told."""
        unnamed = [layer for layer in self.found.layers if not layer.node.name]
        if not unnamed:
            return []
        nodes = counted(len(unnamed), "node has no name", "nodes have no names")
        return [f"{nodes}, so that no quantizer can be told to leave it out: {printable(unnamed[0].layer)}"]

    def to_dict(self) -> dict[str, Any]:
        """The record in `kept` of `onnxscope.sensitivity/1`."""
        return {
            "as": self.form,
            "target": self.target.text,
            **self.found.to_dict(),
            "nodes_to_exclude": self.nodes_to_exclude,
            "steps": [step.to_dict() for step in self.steps],
        }


def keep_layers(
    runs: NarrowedRuns,
    every: Batches,
    form: Format,
    losses: Mapping[NarrowedLayer, float],
    target: Target,
    *,
    is_small: bool,
) -> KeptLayers:
    """Find the fewest layers to keep in float.

    Where runs are cheap, that layer is kept next without which the others are best; else layers are kept in the order
    of what each loses alone, and how many is found by halving. Then each is narrowed again that is not needed.

    Args:
        runs: The model.
        every: The samples.
        form: The format of all others.
        losses: Noise over signal at the outputs, where a layer alone is narrowed.
        target: What has to be met.
        is_small: Whether runs are cheap.

    Raises:
        InputError: The target is of classes, and no output scores any.
        RunError: onnxruntime fails.
    """
    search = _Search(runs, every, form, target)
    whole = search.run([frozenset()])[0]
    if target.kind != "dB" and whole.agreement is None:
        raise InputError(f"no output scores classes, so that nothing has a {target.kind}", hint="give decibels: 30dB")
    kept = _one_by_one(search) if is_small else _by_halves(search, losses)
    if is_small or len(kept) <= _MOST_PRUNED:
        kept = _pruned(search, kept, losses)
    return search.result(kept)


class _Search:
    """Sets that were run already, each once."""

    def __init__(self, runs: NarrowedRuns, every: Batches, form: Format, target: Target) -> None:
        self.layers, self.target = runs.layers, target
        self._form = form
        self._found: dict[Kept, Quality] = {}
        self._measure: Callable[[Sequence[tuple[Sequence[NarrowedLayer], Format]]], list[Quality]]
        self._measure = lambda sets: measure_sets(runs, every, sets)

    def run(self, kept: Sequence[Kept]) -> list[Quality]:
        """Run the model with all layers narrowed but some."""
        new = [each for each in dict.fromkeys(kept) if each not in self._found]
        sets = [([layer for layer in self.layers if layer not in each], self._form) for each in new]
        self._found.update(zip(new, self._measure(sets), strict=True) if new else ())
        return [self._found[each] for each in kept]

    def is_met(self, kept: Kept) -> bool:
        return self.target.is_met(self.run([kept])[0])

    def result(self, kept: Kept) -> KeptLayers:
        """The best of each number of layers are the steps."""
        best: dict[int, Kept] = {}
        for each in sorted(self._found, key=lambda each: self.target.badness(self._found[each])):
            best.setdefault(len(each), each)
        steps = tuple(self._step(best[count]) for count in sorted(best) if count != len(kept))
        return KeptLayers(self._form.name, self.target, len(self.layers), self._step(kept), steps)

    def _step(self, kept: Kept) -> KeptStep:
        return KeptStep(tuple(layer for layer in self.layers if layer in kept), self.run([kept])[0])


def _one_by_one(search: _Search) -> Kept:
    kept: Kept = frozenset()
    while not search.is_met(kept):
        larger = [kept | {layer} for layer in search.layers if layer not in kept]
        if not larger:
            break
        qualities = search.run(larger)
        kept = min(zip(larger, qualities, strict=True), key=lambda pair: search.target.badness(pair[1]))[0]
    return kept


def _by_halves(search: _Search, losses: Mapping[NarrowedLayer, float]) -> Kept:
    order = sorted(search.layers, key=lambda layer: -losses[layer])
    low, high = -1, 0  # so many are too few, so many may do
    while high < len(order) and not search.is_met(frozenset(order[:high])):
        low, high = high, min(len(order), max(1, 2 * high))
    while high - low > 1:
        middle = (low + high) // 2
        if search.is_met(frozenset(order[:middle])):
            high = middle
        else:
            low = middle
    return frozenset(order[:high])


def _pruned(search: _Search, kept: Kept, losses: Mapping[NarrowedLayer, float]) -> Kept:
    for layer in sorted(kept, key=lambda layer: losses[layer]):
        if search.is_met(kept - {layer}):
            kept -= {layer}
    return kept
