"""How far a narrowed model's outputs are from the model's own: signal to noise, cosine, classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.numerics.score_agreement import ScoreAgreement, are_scores, compare_scores

__all__ = ["Quality", "ratio_db"]

Array = NDArray[Any]


def ratio_db(signal: float, noise: float) -> float | None:
    """Return a ratio of powers in decibels, None where there is no noise, or no signal."""
    if not noise or not signal or not math.isfinite(noise):
        return None
    return 10 * math.log10(signal / noise)


class Quality:
    """Sums over everything seen of some values.

    Attributes:
        signal: Sum of squares of the reference.
        noise: Sum of squares of the difference.
        count: Numbers compared: those that are finite in the reference.
        broken: Numbers that are finite in the reference alone.
        agreement: Of the first value that scores classes, None where none does.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.signal = self.noise = self._product = self._other = 0.0
        self.count = self.broken = 0
        self.agreement: ScoreAgreement | None = None

    def add(self, reference: Mapping[str, Array], other: Mapping[str, Array]) -> None:
        """Compare values of one run, by name; those that are no floating-point numbers count for nothing."""
        scored = False
        for name, clean in reference.items():
            if not _is_float(clean):
                continue
            changed = other[name]
            x, y = clean.astype(np.float64), changed.astype(np.float64)
            if x.shape != y.shape:
                self.broken += x.size
                continue
            kept = np.isfinite(x)
            both = kept & np.isfinite(y)
            self.count += int(kept.sum())
            self.broken += int(kept.sum() - both.sum())
            if not both.all():
                x, y = x[both], y[both]
            self.signal += float(np.square(x).sum())
            self.noise += float(np.square(y - x).sum())
            self._product += float((x * y).sum())
            self._other += float(np.square(y).sum())
            if not scored and are_scores(clean.shape, clean.dtype.name):
                scored = True
                more = compare_scores(clean, changed)
                self.agreement = more if self.agreement is None else self.agreement + more

    def include(self, more: Quality) -> None:
        """Add what another has seen."""
        self.signal += more.signal
        self.noise += more.noise
        self._product += more._product
        self._other += more._other
        self.count += more.count
        self.broken += more.broken
        if more.agreement is not None:
            self.agreement = more.agreement if self.agreement is None else self.agreement + more.agreement

    @property
    def power(self) -> float:
        """Mean square of the reference."""
        return self.signal / self.count if self.count else 0.0

    @property
    def noise_power(self) -> float:
        """Mean square of the difference."""
        return self.noise / self.count if self.count else 0.0

    @property
    def relative_noise(self) -> float:
        """Noise over signal, infinite where numbers are broken; what orders qualities where decibels are None."""
        if self.broken or not math.isfinite(self.noise):
            return math.inf
        return self.noise / self.signal if self.signal else math.inf if self.noise else 0.0

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise, None where nothing differs, and where numbers are broken."""
        return None if self.broken else ratio_db(self.signal, self.noise)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both, None where one of them is zero."""
        norm = math.sqrt(self.signal) * math.sqrt(self._other)
        return max(-1.0, min(1.0, self._product / norm)) if norm else None

    @property
    def top1(self) -> float | None:
        """The share of samples whose first class stays, None without classes."""
        return self.agreement.top1 / self.agreement.count if self.agreement and self.agreement.count else None

    @property
    def kl_nats(self) -> float | None:
        """The mean divergence of a sample's probabilities, None without classes."""
        return self.agreement.divergence_nats if self.agreement else None


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and (array.dtype.kind == "f" or "float" in array.dtype.name)
