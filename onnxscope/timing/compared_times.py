"""What takes the time in two models, layer by layer: which is faster, and by what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onnxscope.base.tables import Cell
from onnxscope.base.text import printable
from onnxscope.timing.layer_times import Timing, milliseconds

__all__ = ["ComparedTimes", "PairTime", "compare_times"]

_NAMED = 3  # layers that the line names
_ALIKE = 0.03  # by what two runs may differ and be as fast: they do so by themselves


@dataclass(frozen=True)
class PairTime:
    """What a layer takes in both models.

    Attributes:
        a: The layer in the first.
        b: In the second.
        seconds: Of a run of either; None where the layer has no time of its own there.
    """

    a: str
    b: str
    seconds: tuple[float | None, float | None]

    @property
    def ratio(self) -> float | None:
        """How many times faster the second is; None where one of them has no time of its own."""
        first, second = self.seconds
        return first / second if first and second else None

    @property
    def saved_s(self) -> float:
        """What the second takes less; of a layer that has no time of its own in one of them nothing is known: 0."""
        first, second = self.seconds
        return 0.0 if first is None or second is None else first - second

    def cells(self) -> tuple[Cell, Cell, Cell]:
        """For tables: milliseconds in both, and how many times faster the second is."""
        first, second = (None if seconds is None else milliseconds(seconds) for seconds in self.seconds)
        return first, second, None if self.ratio is None else round(self.ratio, 2)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        first, second, ratio = self.cells()
        return {"a": self.a, "b": self.b, "a_ms": first, "b_ms": second, "ratio": ratio}


@dataclass(frozen=True, eq=False)
class ComparedTimes:
    """What a run takes in both models.

    Attributes:
        a: Of the first.
        b: Of the second.
        pairs: Its layers that are paired.
    """

    a: Timing
    b: Timing
    pairs: tuple[PairTime, ...]

    @property
    def ratio(self) -> float:
        """How many times faster a run of the second is."""
        return self.a.run_s / self.b.run_s if self.b.run_s else 1.0

    def of(self, a: str, b: str) -> PairTime | None:
        """The pair of two layers, None where nothing is known of it."""
        return next((pair for pair in self.pairs if (pair.a, pair.b) == (a, b)), None)

    @property
    def text(self) -> str:
        """The sentence."""
        name = printable(self.b.model["name"]) if self.a.model["name"] != self.b.model["name"] else "the second"
        runs = f"{milliseconds(self.a.run_s):g} and {milliseconds(self.b.run_s):g} ms a run"
        if abs(self.ratio - 1) <= _ALIKE:
            return f"{name}: as fast ({runs})"
        faster = self.ratio > 1
        line = f"{name}: {self.ratio if faster else 1 / self.ratio:.3g}x {'faster' if faster else 'slower'} ({runs})"
        change_s = self.a.run_s - self.b.run_s
        parts = sorted(
            (pair for pair in self.pairs if pair.saved_s * change_s > 0), key=lambda pair: -abs(pair.saved_s)
        )
        named = [
            f"{printable(pair.a)} {milliseconds(abs(pair.saved_s)):g} ms ({pair.saved_s / change_s:.0%})"
            for pair in parts[:_NAMED]
        ]
        return line + (f", of which {', '.join(named)}" if named else "")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "ratio": round(self.ratio, 4),
            "text": self.text,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


def compare_times(a: Timing, b: Timing, pairs: Iterable[tuple[str, str]]) -> ComparedTimes:
    """Put the times of two models beside each other.

    Args:
        a: Of the first.
        b: Of the second.
        pairs: Names of layers of both; a layer that is called several times counts with all its calls.
    """
    sums = [_by_layer(timing) for timing in (a, b)]
    rows = (PairTime(one, other, (sums[0].get(one), sums[1].get(other))) for one, other in dict.fromkeys(pairs))
    return ComparedTimes(a, b, tuple(rows))


def _by_layer(timing: Timing) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in timing.rows:
        if row.kind in ("layer", "node"):
            sums[row.layer] = sums.get(row.layer, 0.0) + row.seconds
    return sums
