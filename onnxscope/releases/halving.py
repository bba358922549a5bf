"""The search for the first of several releases that behaves unlike the first one, in few trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Found", "first_unlike"]


@dataclass(frozen=True)
class Found:
    """What halving has found.

    Attributes:
        last: The last place that is like the first.
        first: The next that was tried and is not.
        between: Places between both that cannot be tried, so that it may be one of them.
    """

    last: int
    first: int
    between: tuple[int, ...]


def first_unlike(low: int, high: int, is_like: Callable[[int], bool | None]) -> Found:
    """Halve until two neighbours are left, of which one is like the first, and the other is not.

    Args:
        low: A place that is like the first.
        high: A later one that is not.
        is_like: Whether a place between is like the first; None where it cannot be tried. Each is asked once, so many
            in all: the logarithm to base 2 of `high - low`, rounded up, and what cannot be tried.
    """
    skipped: set[int] = set()
    while True:
        left = [place for place in range(low + 1, high) if place not in skipped]
        if not left:
            return Found(low, high, tuple(place for place in sorted(skipped) if low < place < high))
        middle = left[(len(left) - 1) // 2] if skipped else (low + high) // 2
        like = is_like(middle)
        if like is None:
            skipped.add(middle)
        elif like:
            low = middle
        else:
            high = middle
