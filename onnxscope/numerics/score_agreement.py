"""How far two outputs that score classes agree: the first class, the first five, and the divergence of the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoreAgreement", "are_scores", "compare_scores"]

Array = NDArray[Any]
_FEW = 5
_SUM_TOLERANCE = 1e-3  # probabilities in half precision add up to one no better


@dataclass(frozen=True)
class ScoreAgreement:
    """What two models say of the classes of the same samples.

    Attributes:
        count: Rows of scores that are finite in both.
        top1: In how many the class of the largest score is the same.
        top5: In how many the largest of the first is among the five largest of the second; None below six classes.
        divergence: Sum over rows of the Kullback-Leibler divergence of the second's probabilities from the first's, in
            nats; those of scores that are no probabilities are their softmax.
    """

    count: int
    top1: int
    top5: int | None
    divergence: float

    def __add__(self, more: ScoreAgreement) -> ScoreAgreement:
        """What both have seen together."""
        top5 = None if self.top5 is None or more.top5 is None else self.top5 + more.top5
        return ScoreAgreement(self.count + more.count, self.top1 + more.top1, top5, self.divergence + more.divergence)

    @property
    def divergence_nats(self) -> float | None:
        """The mean divergence of a row, None where there is no row."""
        return self.divergence / self.count if self.count else None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "count": self.count,
            "top1_fraction": self.top1 / self.count if self.count else None,
            "top5_fraction": self.top5 / self.count if self.count and self.top5 is not None else None,
            "divergence_nats": self.divergence_nats,
        }

    @property
    def text(self) -> str:
        """In words."""
        if not self.count:
            return ""
        parts = [f"top-1 {self.top1:,}/{self.count:,}"]
        if self.top5 is not None:
            parts.append(f"top-5 {self.top5:,}/{self.count:,}")
        return f"{', '.join(parts)}, KL {self.divergence_nats:.2g} nats"


def are_scores(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a value looks like scores of classes: a row of several floating-point numbers for each sample."""
    return len(shape) == 2 and shape[1] > 1 and "float" in dtype


def compare_scores(reference: Array, other: Array) -> ScoreAgreement:
    """Compare two outputs of samples by classes; of equal scores the first one is the largest.

    Args:
        reference: The first model's, (samples, classes).
        other: The second's, of the same shape.
    """
    x, y = (array.astype(np.float64) for array in (reference, other))
    finite = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    x, y = x[finite], y[finite]
    classes = x.shape[1]
    best = x.argmax(axis=1)
    top5 = None
    if classes > _FEW:
        few = np.argsort(-y, axis=1, kind="stable")[:, :_FEW]
        top5 = int((few == best[:, None]).any(axis=1).sum())
    return ScoreAgreement(len(x), int((best == y.argmax(axis=1)).sum()), top5, _divergence(x, y))


def _divergence(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if not x.size:
        return 0.0
    if all((array >= 0).all() and (np.abs(array.sum(axis=1) - 1) <= _SUM_TOLERANCE).all() for array in (x, y)):
        smallest = np.finfo(np.float64).tiny
        logs = [np.log(np.maximum(array, smallest)) for array in (x, y)]
        shares = x
    else:
        logs = [array - _log_sum(array) for array in (x, y)]
        shares = np.exp(logs[0])
    return max(0.0, float((shares * (logs[0] - logs[1])).sum()))


def _log_sum(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = scores.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = largest + np.log(np.exp(scores - largest).sum(axis=1, keepdims=True))
    return total
