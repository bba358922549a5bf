"""Pairs of models that are the same, the same but rounded, or not: what every way of comparing them says.

Whether a pair is the same is what plain onnxruntime answers, without optimization and without us. The plain suite takes
every seventh pair; `make acceptance` takes all of them, and prints the table of errors of both kinds.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import model_changes as changes
import numpy as np
import pytest
from onnx import ModelProto
from plain_runs import Oracle
from small_networks import NETWORKS, Network

from onnxscope import check, diff, snapshot
from onnxscope.comparison.result import Comparison
from onnxscope.errors import OnnxscopeError
from onnxscope.gate.baseline import Baseline
from onnxscope.gate.check_result import Check

WAYS = ("diff", "diff without data", "check", "check without data")
SEEDS = (0, 1)


Copier = Callable[[Network, Oracle, np.random.Generator], "ModelProto | changes.Change | None"]


def optimized(network: Network, oracle: Oracle, rng: np.random.Generator) -> ModelProto | None:
    with tempfile.TemporaryDirectory() as folder:
        copy = changes.optimized(network.model, "BASIC", Path(folder))
    # Casts around kernels that a CPU lacks: that copy computes in float32 what was float16.
    return None if any(node.name.startswith("InsertedPrecisionFreeCast") for node in copy.graph.node) else copy


def numbers(fits: Callable[[np.ndarray], bool], change: Callable, *, moves: bool = True) -> Copier:
    """A change of a stored number that moves the outputs, or that does not."""

    def copier(network: Network, oracle: Oracle, rng: np.random.Generator) -> changes.Change | None:
        for _ in range(60):
            changed = changes.with_numbers(network.model, rng, fits, change(rng))
            if changed is None:
                return None
            if moves == oracle.moves(changed.model) and (moves or oracle.distance(changed.model) <= oracle.rounding):
                return changed
        return None

    return copier


def bit(place: Callable[[int], int]) -> Callable[[np.random.Generator], Callable[[np.ndarray], None]]:
    return lambda rng: changes.flipped_bit(rng, place)


SAME: dict[str, Copier] = {
    "the same": lambda network, oracle, rng: changes.copied(network.model),
    "renamed and reordered": lambda network, oracle, rng: changes.rewritten(network.model, rng),
    "its inputs and outputs too": lambda network, oracle, rng: changes.rewritten(network.model, rng, interface=True),
    "Identity and Dropout between": lambda network, oracle, rng: changes.with_copies(network.model, rng),
    "weights in Constant nodes": lambda network, oracle, rng: changes.with_constant_nodes(network.model, rng),
    "a newer operator set": lambda network, oracle, rng: changes.with_newer_operators(network.model, rng),
    "onnxruntime's basic copy": optimized,
}
DIFFERENT: dict[str, Copier] = {
    "the highest bit of an exponent": numbers(changes.is_weight, bit(lambda size: 8 * size - 2)),
    "the lowest bit of a weight": numbers(changes.is_weight, bit(lambda size: 0), moves=False),
    "the sign of a weight": numbers(changes.is_weight, changes.negated_entry),
    "one weight": numbers(changes.is_weight, changes.moved_entry),
    "one constant": numbers(changes.is_constant, changes.moved_entry),
    "one attribute": lambda network, oracle, rng: changes.with_attribute(network.model, rng, oracle.moves),
    "the sign of a value": lambda network, oracle, rng: changes.with_another_sign(network.model, rng, oracle.moves),
    "a random node": lambda network, oracle, rng: changes.with_random_node(network.model, rng, oracle.moves),
    "a Dropout in training": lambda network, oracle, rng: changes.with_training_dropout(
        network.model, rng, oracle.moves
    ),
}


@dataclass
class Sweep:
    """What was said of the pairs."""

    pairs: Counter[str] = field(default_factory=Counter)
    said: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # kind, way, verdict
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'pairs':32}{'':>6}" + "".join(f"{way:>27}" for way in WAYS), "  equal / differs / undecided"]
        for kind, count in self.pairs.items():
            cells = (
                " / ".join(f"{self.said[kind, way, word]}" for word in ("equal", "differs", "undecided"))
                for way in WAYS
            )
            lines.append(f"{kind:32}{count:6}" + "".join(f"{cell:>27}" for cell in cells))
        for name, kinds, word in (
            ("equal for what differs", DIFFERENT, "equal"),
            ("differs for what is the same", SAME, "differs"),
        ):
            total = [sum(self.said[kind, way, word] for kind in kinds) for way in WAYS]
            lines.append(f"{name:38}" + "".join(f"{number:27}" for number in total))
        return "\n".join([f"{sum(self.pairs.values())} pairs", *lines, *self.errors])


def pairs() -> Iterator[tuple[Callable[[], Network], str, int]]:
    for make in NETWORKS:
        for kind in (*SAME, *DIFFERENT):
            for seed in SEEDS if kind in DIFFERENT else SEEDS[:1]:
                yield make, kind, seed


def sweep(chosen: Iterator[tuple[Callable[[], Network], str, int]]) -> Sweep:
    result = Sweep()
    for make, group in itertools.groupby(chosen, key=lambda pair: pair[0]):
        network = make()
        oracle = Oracle(network)
        baselines = snapshot(network.model, network.feeds), snapshot(network.model)
        for _, kind, seed in group:
            rng = np.random.default_rng([seed, len(kind)])
            made = (SAME | DIFFERENT)[kind](network, oracle, rng)
            if made is None:
                continue
            other, what = (made.model, made.what) if isinstance(made, changes.Change) else (made, "")
            if kind in SAME:
                assert oracle.distance(other) <= oracle.rounding, (make.__name__, kind)
            result.pairs[kind] += 1
            for way in WAYS:
                if way.startswith("check") and kind == "its inputs and outputs too":
                    continue  # to a baseline another interface is a difference
                decision, verdict = answer(way, network, other, baselines)
                result.said[kind, way, decision] += 1
                if decision in ("refused", "equal" if kind in DIFFERENT else "differs"):
                    result.errors.append(f"{make.__name__}: {kind} {seed} {what}, {way}: {verdict}")
    return result


def answer(way: str, network: Network, other: ModelProto, baselines: tuple[Baseline, Baseline]) -> tuple[str, str]:
    """The decision and the verdict; `refused` where there is none."""
    feeds = None if way.endswith("without data") else network.feeds
    try:
        if way.startswith("diff"):
            compared: Comparison | Check = diff(network.model, other, feeds)
        else:
            compared = check(other, baselines[feeds is None], feeds)
    except OnnxscopeError as error:
        return "refused", str(error)
    return compared.verdict, compared.summary()


def test_a_sample_of_the_pairs_is_told_apart():
    result = sweep(itertools.islice(pairs(), 0, None, 10))
    print(result)
    assert result.errors == []
    assert sum(result.pairs.values()) >= 25


@pytest.mark.acceptance
def test_what_differs_is_never_equal_and_what_is_the_same_never_differs():
    result = sweep(pairs())
    print(result)
    assert result.errors == []
    assert sum(result.pairs.values()) >= 200
