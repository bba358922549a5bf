"""Layers of a baseline that hold their numbers otherwise: folded into fewer weights, or the other way round.

A baseline has no weights, only their digests. For each layer that is one weight and one bias altogether it has a sketch
of these, which rounding hardly moves and any other change does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxscope.gate.baseline import Baseline

__all__ = ["Folded", "folded_layers", "remarks_on_folds"]

_TOLERANCE = 2e-6  # of the norm; rounding to float32 moves a sketch by a tenth of that


@dataclass(frozen=True)
class Folded:
    """What need not be compared one by one.

    Attributes:
        layers: Places of the baseline's layers that hold BatchNorms, scales and shifts otherwise.
        weights: Names of weights that were compared as a part of a layer.
    """

    layers: frozenset[int]
    weights: frozenset[str]


def folded_layers(expected: Baseline, actual: Baseline, pairs: Iterable[tuple[int, int]]) -> Folded:
    """Return which layers hold other weights and do the same.

    Args:
        expected: The baseline.
        actual: Of the model as it is now.
        pairs: Places of layers that belong together.
    """
    layers: set[int] = set()
    weights: set[str] = set()
    kept: set[str] = set()
    for left, right in pairs:
        old, new = expected.layers[left], actual.layers[right]
        wholes = old.get("whole"), new.get("whole")
        if wholes[0] is None or wholes[1] is None:
            continue
        names = wholes[0]["weights"], wholes[1]["weights"]
        is_one = _agree(wholes[0]["sketch"], wholes[1]["sketch"])
        if is_one and names[0].keys() != names[1].keys():
            layers.add(left)
            weights |= {*names[0].values(), *names[1].values()}
        elif is_one and old["content"] == new["content"] and names[0]["weight"] != names[1]["weight"]:
            weights |= {names[0]["weight"], names[1]["weight"]}
        else:
            kept |= {*names[0].values(), *names[1].values()}
    return Folded(frozenset(layers), frozenset(weights - kept))


def remarks_on_folds(expected: Baseline, folded: Folded) -> list[str]:
    """Return one remark on all layers that hold their numbers otherwise."""
    if not folded.layers:
        return []
    first = expected.layers[min(folded.layers)]["layer"]
    return [f"layers whose BatchNorm, scale or shift is folded otherwise: {len(folded.layers):,}, the first {first}"]


def _agree(old: list[float], new: list[float]) -> bool:
    x, y = np.array(old), np.array(new)
    if len(x) != len(y):
        return False
    norms = np.repeat(np.maximum(x[-2:], y[-2:]), (len(x) - 2) // 2)
    return bool(np.all(np.abs(x[:-2] - y[:-2]) <= _TOLERANCE * norms))
