"""One model run in two ways, or two models each in its own: what providers take, in which precision they compute."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from onnxscope.base.results import remarks
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, printable
from onnxscope.comparison.layer_difference import LayerDifference, size_of
from onnxscope.comparison.result import Comparison
from onnxscope.comparison.rounding_trial import rounds_as
from onnxscope.model.loading import Model
from onnxscope.providers.provider import Running
from onnxscope.runtime.session import Assignment, open_session

__all__ = ["Precision", "Way", "WaysComparison", "compared_ways", "precision_of"]

# The bits of a type's significand, and how far from its rounding unit own errors lie that are of rounding to it.
# Operands and result are rounded, each by 0.3 to 0.5 of the unit in the mean, and errors of operands add up as they do
# in a sum: 0.4 to 0.9 of the unit. From one type to the next it is a factor of eight.
_TYPES = (("bfloat16", 8), ("float16 or TF32", 11))
_BELOW, _ABOVE, _CANCELLED = 2.5, 1.0, 5.0  # in bits
_NAMED = 3  # operators that stay elsewhere


@dataclass(frozen=True)
class Way:
    """How one side ran, and which provider has run what of the model without taps.

    Attributes:
        running: What was asked for.
        parts: By onnxruntime's own record; empty where its code for the processor ran everything.
    """

    running: Running
    parts: tuple[Assignment, ...]

    @property
    def text(self) -> str:
        """In words: what the provider takes as a whole, and what it leaves to others."""
        if not self.parts:
            return self.running.text
        total = sum(len(part.nodes) for part in self.parts)
        asked = [part for part in self.parts if part.provider != "CPUExecutionProvider"]
        taken = sum(len(part.nodes) for part in asked)
        text = f"{self.running.text}: takes {taken:,} of {counted(total, 'node')}"
        wholes = [part for part in asked if len(part.nodes) > 1]
        if wholes:
            inside = sum(len(part.nodes) for part in wholes)
            text += f", {inside:,} of them in {counted(len(wholes), 'part')} whose inner values it keeps to itself"
        left = Counter(op for part in self.parts if part not in asked for _, op in part.nodes)
        if left:
            shown = ", ".join(f"{count} {printable(op)}" for op, count in left.most_common(_NAMED))
            more = f" and {len(left) - _NAMED} operators more" if len(left) > _NAMED else ""
            text += f"; the processor's code runs {shown}{more}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "running": self.running.to_dict(),
            "parts": [
                {
                    "provider": part.provider,
                    "nodes": [{"name": printable(name), "op_type": printable(op)} for name, op in part.nodes],
                }
                for part in self.parts
            ],
        }


@dataclass(frozen=True)
class Precision:
    """In which precision one of the sides computes, as the layers' own errors tell.

    Attributes:
        dtype: The element type, or types, whose rounding they are.
        bits: Of its significand: own errors are near two to the minus that.
        layers: How many layers are so far off.
        total: Of how many that were measured.
        side: Which of both it is: `first`, `second`, or `one of the two` where both run elsewhere than on the
            processor.
    """

    dtype: str
    bits: int
    layers: int
    total: int
    side: str

    @property
    def text(self) -> str:
        """The sentence."""
        count = "all layers" if self.layers == self.total else f"{self.layers:,} of {counted(self.total, 'layer')}"
        who = self.side if self.side == "one of the two" else f"the {self.side}"
        return f"{count} at 2^-{self.bits}: {who} computes in {self.dtype}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**dataclasses.asdict(self), "text": self.text}


@dataclass(frozen=True, eq=False)
class WaysComparison(Comparison):
    """A comparison of two sides that were run in two ways.

    Attributes:
        ways: How the first and the second ran.
        precision: In which precision one of them computes; None where own errors are none of rounding, or there are
            none.
    """

    ways: tuple[Way, Way] = dataclasses.field(kw_only=True)
    precision: Precision | None = None

    def summary(self) -> str:
        """The verdict, led by the precision where that is what differs."""
        verdict = super().summary()
        if self.precision is None:
            return verdict
        first, _, rest = verdict.partition(": ")
        return f"{first}: {self.precision.text}; {rest}"

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.diff/1` with `ways`."""
        ways = {side: way.to_dict() for side, way in zip("ab", self.ways, strict=True)}
        precision = None if self.precision is None else self.precision.to_dict()
        return {**super().to_dict(), "ways": {**ways, "precision": precision}}

    def table(self) -> Table:
        """The rows of the comparison under how both ran."""
        table = super().table()
        name = self.a["name"] if self.a["name"] == self.b["name"] else f"{self.a['name']} and {self.b['name']}"
        ways = " against ".join(way.running.text for way in self.ways)
        return dataclasses.replace(table, title=f"{name}, {ways}: {self._count} aligned")

    @property
    def lines(self) -> tuple[str, ...]:
        """How each side ran, a line for each."""
        return tuple(f"{name}: {way.text}" for name, way in zip(("first", "second"), self.ways, strict=True))

    def html_parts(self) -> list[str]:
        """Those of the comparison, and how both ran."""
        return [*super().html_parts(), *remarks(self.lines)]

    def __repr__(self) -> str:
        return super().__repr__() + "".join(f"{line}\n" for line in self.lines)


def compared_ways(comparison: Comparison, first: Model, second: Model) -> WaysComparison:
    """Say of a comparison how both sides ran, by opening each without taps on what is not the processor.

    Raises:
        RunError: A provider refuses the model.
    """
    fields = {field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)}
    ways = _way(first), _way(second)
    precision = precision_of(comparison.layers, (first.running, second.running))
    if precision is not None and not _is_confirmed(precision, comparison, first, second):
        precision = None
    return WaysComparison(**fields, ways=ways, precision=precision)


def precision_of(rows: Iterable[LayerDifference], running: Sequence[Running]) -> Precision | None:
    """Find out in which precision one side may compute: where all layers that are off are so by one type's rounding.

    Of sums in which all terms have one sign, rounding cancels: one layer in four may be nearer than it lets expect.
    """
    measured = [row for row in rows if row.own is not None and row.own.count]
    sizes = [size_of(row.own) for row in measured if row.is_guilty]
    if not sizes or not all(0 < size < math.inf for size in sizes):
        return None
    on_cpu = [way.provider.is_cpu for way in running]
    side = "second" if on_cpu[0] else "first" if on_cpu[1] else "one of the two"
    for dtype, bits in _TYPES:
        above = [math.log2(size) + bits for size in sizes]
        near = sum(-_BELOW <= distance < _ABOVE for distance in above)
        if max(above) < _ABOVE and min(above) >= -_CANCELLED and 4 * near >= 3 * len(sizes):
            return Precision(dtype, bits, len(sizes), len(measured), side)
    return None


def _is_confirmed(precision: Precision, comparison: Comparison, first: Model, second: Model) -> bool:
    """Whether a layer of the side that is suspected rounds so; also where that cannot be tried."""
    found = []
    for name, model in (("first", first), ("second", second)):
        if precision.side in (name, "one of the two"):
            values = [(row.a if name == "first" else row.b).name for row in comparison.guilty]
            found.append(rounds_as(model, values, precision.bits))
    return any(answer is not False for answer in found)


def _way(model: Model) -> Way:
    parts = () if model.running.provider.is_cpu else open_session(model).assignments
    return Way(model.running, parts)
