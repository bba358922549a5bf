"""What the heads of an attention do with their shares: how many go to the first key, how even they are, who agrees.

A mergeable accumulator: sums over queries, for each head and for each two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import MergeError

__all__ = ["AttentionShares"]

Array = NDArray[Any]
_BLOCK = 1 << 20  # numbers that are widened at a time


@dataclass(frozen=True, eq=False)
class AttentionShares:
    """Sums over queries whose shares are all finite; each array has shape (heads,) but the last.

    Attributes:
        queries: int64, how many there were.
        later: int64, those of them that are not the first of several.
        first: float64, what the later ones give to the first key.
        entropy: float64, the entropy of each query's shares, in nats.
        room: float64, the largest that it could be: the logarithm of how many keys have a share above 0.
        products: float64 of shape (heads, heads), the products of two heads' shares at the same place.
    """

    queries: NDArray[np.int64]
    later: NDArray[np.int64]
    first: NDArray[np.float64]
    entropy: NDArray[np.float64]
    room: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def empty(cls, heads: int) -> AttentionShares:
        """The sums of nothing."""
        return cls(
            queries=np.zeros(heads, np.int64),
            later=np.zeros(heads, np.int64),
            first=np.zeros(heads),
            entropy=np.zeros(heads),
            room=np.zeros(heads),
            products=np.zeros((heads, heads)),
        )

    @classmethod
    def of(cls, shares: Array) -> AttentionShares:
        """Sum shares of shape (samples, heads, queries, keys), which are neither changed nor kept."""
        found = cls.empty(shares.shape[1])
        heads, queries, keys = shares.shape[1:]
        count = max(1, _BLOCK // max(1, heads * keys))
        for sample in shares:
            for start in range(0, queries, count):
                rows = sample[:, start : start + count].astype(np.float64)
                found = found.merge(cls._of_rows(rows, start, queries))
        return found

    @classmethod
    def _of_rows(cls, rows: Array, start: int, queries: int) -> AttentionShares:
        known: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=2))
        rows = np.where(known[:, :, None], rows, 0.0)
        counted = known.copy()
        if queries > 1 and start == 0:
            counted[:, 0] = False
        used = rows > 0
        terms = np.where(used, rows * np.log(np.where(used, rows, 1.0)), 0.0)
        room = np.log(np.maximum(used.sum(axis=2), 1))
        flat = rows.reshape(len(rows), -1)
        return cls(
            queries=known.sum(axis=1, dtype=np.int64),
            later=counted.sum(axis=1, dtype=np.int64),
            first=(rows[:, :, :1].sum(axis=2) * counted).sum(axis=1),
            entropy=-terms.sum(axis=(1, 2)),
            room=(room * known).sum(axis=1),
            products=np.einsum("ik,jk->ij", flat, flat),  # the same bytes on any number of threads
        )

    def merge(self, other: AttentionShares) -> AttentionShares:
        """Return the sums over the queries of both.

        Raises:
            MergeError: They have different numbers of heads.
        """
        if self.queries.size != other.queries.size:
            raise MergeError(f"cannot merge {self.queries.size} heads with {other.queries.size}")
        mine, theirs = vars(self), vars(other)
        return AttentionShares(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def first_key_share(self) -> list[float | None]:
        """What queries after the first give to the first key, on average, for each head."""
        return _ratios(self.first, self.later)

    @property
    def mean_entropy(self) -> list[float | None]:
        """The mean entropy of a query's shares, in nats, for each head."""
        return _ratios(self.entropy, self.queries)

    @property
    def evenness(self) -> list[float | None]:
        """The entropy over the largest that it could be: 1 where a head gives every key that it sees the same."""
        return _ratios(self.entropy, self.room)

    @property
    def alike(self) -> tuple[tuple[int, int, float], ...]:
        """For each head but the first the earlier one that is most like it, itself, and the cosine of both."""
        sizes = np.sqrt(np.diag(self.products))
        found = []
        for head in range(1, sizes.size):
            bounds = sizes[:head] * sizes[head]
            cosines = np.where(bounds > 0, self.products[head, :head] / np.where(bounds > 0, bounds, 1.0), 0.0)
            nearest = int(cosines.argmax())
            found.append((nearest, head, float(min(cosines[nearest], 1.0))))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """What a tap's record says of its heads."""
        return {
            "first_key_share": self.first_key_share,
            "entropy": self.mean_entropy,
            "evenness": self.evenness,
            "most_alike": [None, *(other for other, _, _ in self.alike)],
            "likeness": [None, *(cosine for _, _, cosine in self.alike)],
        }


def _ratios(sums: Array, counts: Array) -> list[float | None]:
    return [float(total / count) if count > 0 else None for total, count in zip(sums, counts, strict=True)]
