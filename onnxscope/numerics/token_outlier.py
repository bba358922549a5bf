"""The token that stands out most: its largest magnitude over the median of those of all tokens of its sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenOutlier"]

_FEWEST = 4  # tokens, of which a median says something


@dataclass(frozen=True)
class TokenOutlier:
    """One token of one sample; the merge of two is the one that stands out more, the earlier one of equals.

    Attributes:
        ratio: How many times the median its largest magnitude is.
        token: Its place.
        sample: The position of its sample in the data.
    """

    ratio: float
    token: int
    sample: int

    @classmethod
    def of(cls, values: NDArray[Any], samples: Sequence[int], step: int) -> TokenOutlier | None:
        """Look through values of shape (samples, channels, tokens).

        Args:
            values: Neither changed nor kept.
            samples: The position of each sample in the data.
            step: Every how manyth token they are.

        Returns:
            None below four tokens, and where no sample has finite numbers with a median above 0.
        """
        if values.shape[2] < _FEWEST or not values.shape[1]:
            return None
        largest = np.maximum(values.max(axis=1), -values.min(axis=1)).astype(np.float64)
        medians = np.median(largest, axis=1)
        usable = np.isfinite(largest).all(axis=1) & (medians > 0)
        if not usable.any():
            return None
        ratios = np.where(usable, largest.max(axis=1), 0.0) / np.where(usable, medians, 1.0)
        row = int(ratios.argmax())
        return cls(float(ratios[row]), int(largest[row].argmax()) * step, int(samples[row]))

    def merge(self, other: TokenOutlier | None) -> TokenOutlier:
        """Return the one that stands out more."""
        if other is None or (self.ratio, -self.sample) >= (other.ratio, -other.sample):
            return self
        return other
