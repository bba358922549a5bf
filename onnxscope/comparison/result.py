"""What a comparison found: rows of layers and outputs, changes of weights and structure, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import format_number, printable
from onnxscope.comparison.weight_changes import WeightChange
from onnxscope.numerics.distances import Discrepancy

__all__ = [
    "INTEGERS",
    "NOISE_FACTOR",
    "Comparison",
    "LayerDifference",
    "Side",
    "StructureChange",
    "floor_of",
    "not_measured",
]

INTEGERS = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})
"""numpy's names of the element types that nothing is rounded in."""

_RESOLUTIONS: Mapping[str, float] = {
    "float64": 2.0**-52,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    **dict.fromkeys(INTEGERS, 0.0),
}
NOISE_FACTOR = 10.0
"""A difference counts from so many times the noise floor on."""

_COLUMNS = (
    *("layer", "in the second", "operator", "differs", "max abs", "relative", "own", "noise", "SQNR dB"),
    *("cosine", "beyond", "worst channel", "reason"),
)


@dataclass(frozen=True)
class Side:
    """One model's part of a row.

    Attributes:
        layer: The layer, as the source framework called it.
        name: The value that is compared.
    """

    layer: str
    name: str

    def to_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return {"layer": self.layer, "name": self.name}


@dataclass(frozen=True, eq=False)
class LayerDifference(Record):
    """How far one layer, or one output, of the second model is from its counterpart.

    Attributes:
        a: In the first model.
        b: In the second.
        op_type: The layer's operator, `Output` for an output of the model.
        entire: With all that has accumulated since the input; None where it could not be measured.
        own: With the layer fed with the first model's values; None where that is unknown.
        noise: The first model against itself, on samples of the first batch.
        floor: What a relative difference is compared with: the noise, or the element types' resolution if that is more.
        reason: Why there are no numbers, or None.
        incomparable: Whether that is a difference itself: two shapes, or a value that one model alone has computed.
    """

    a: Side
    b: Side
    op_type: str
    entire: Discrepancy | None
    own: Discrepancy | None
    noise: Discrepancy | None
    floor: float
    reason: str | None
    incomparable: bool

    @property
    def differs(self) -> bool:
        """Whether the difference is beyond the noise, and beyond the tolerance where one was given."""
        return self.incomparable or _is_beyond(self.entire, self.floor)

    @property
    def is_guilty(self) -> bool:
        """Whether the layer adds a difference of its own."""
        return self.incomparable or _is_beyond(self.own, self.floor)

    def to_dict(self) -> dict[str, Any]:
        """The row in `onnxscope.diff/1`."""
        entire, own = self.entire, self.own
        worst = entire.worst_channel if entire else None
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "op_type": self.op_type,
            "max_abs": entire.max_abs if entire else None,
            "relative_l2": entire.relative_l2 if entire else None,
            "cosine": entire.cosine if entire else None,
            "sqnr_db": entire.sqnr_db if entire else None,
            "own_max_abs": own.max_abs if own else None,
            "own_relative_l2": own.relative_l2 if own else None,
            "noise_relative_l2": self.noise.relative_l2 if self.noise else None,
            "floor_relative_l2": self.floor,
            "beyond_fraction": entire.beyond_fraction if entire else None,
            "mismatched_count": entire.mismatched if entire else None,
            "worst_channel": worst[0] if worst else None,
            "worst_channel_relative_l2": worst[1] if worst else None,
            "differs": self.differs,
            "reason": self.reason,
        }

    def table(self) -> Table:
        """One row."""
        return Table("", _COLUMNS, (self._cells(),))

    def _cells(self, *, judged: bool = True) -> tuple[Cell, ...]:
        record = self.to_dict()
        other = "" if self.a.layer == self.b.layer else self.b.layer
        numbers = [record[key] for key in ("max_abs", "relative_l2", "own_relative_l2", "noise_relative_l2")]
        worst = self.entire.worst_channel if self.entire else None
        mismatched = self.entire.mismatched if self.entire else 0
        reason = self.reason or (f"{mismatched:,} numbers finite in one model only" if mismatched else "")
        shown = f"{worst[0]}: {format_number(worst[1])}" if worst and self.differs else ""
        verdict = ("own" if self.is_guilty else "inherited") if judged and self.differs else ""
        return (
            *(self.a.layer, other, self.op_type, verdict, *numbers, record["sqnr_db"]),
            *(record["cosine"], record["beyond_fraction"], shown, reason),
        )

    def __repr__(self) -> str:
        return self.table().text()


@dataclass(frozen=True)
class StructureChange:
    """Something about an aligned layer, or about the models, that is not the same apart from weights and values.

    Attributes:
        layer: The layer in the first model, empty for the model itself.
        message: In words.
    """

    layer: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return {"layer": self.layer, "message": self.message}


@dataclass(frozen=True, eq=False)
class Comparison(Record, Sequence[LayerDifference]):
    """Two models compared layer by layer; a sequence of the aligned layers, in the first model's execution order.

    Attributes:
        a: The `model` record of the first.
        b: Of the second.
        input: The `input` record, None where nothing was run.
        samples: How many samples were run.
        layers: The aligned layers.
        outputs: The outputs.
        only_a: Layers of the first model without a counterpart, as layer and operator.
        only_b: Of the second.
        weights: What is not the same about the weights.
        structure: What is not the same about the structure.
        notes: Remarks for people.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    input: dict[str, Any] | None
    samples: int
    layers: tuple[LayerDifference, ...]
    outputs: tuple[LayerDifference, ...]
    only_a: tuple[tuple[str, str], ...]
    only_b: tuple[tuple[str, str], ...]
    weights: tuple[WeightChange, ...]
    structure: tuple[StructureChange, ...]
    notes: tuple[str, ...]

    frame_keys = ("layers", "outputs")

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> LayerDifference: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerDifference, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerDifference | tuple[LayerDifference, ...]:
        return self.layers[index]

    @property
    def was_run(self) -> bool:
        """Whether the models ran, so that values were compared and not weights and structure alone."""
        return self.input is not None

    @property
    def aligned(self) -> bool:
        """Whether anything of one model was found in the other: nothing compared is nothing equal."""
        return bool(self.layers or self.outputs)

    @property
    def equal(self) -> bool:
        """Whether no layer, output, weight or, where nothing was run, structure differs, and nothing is unaligned."""
        if not self.aligned or self.only_a or self.only_b or any(change.counts for change in self.weights):
            return False
        if self.was_run:
            return not any(row.differs for row in (*self.layers, *self.outputs))
        return not self.structure

    @property
    def first_divergence(self) -> LayerDifference | None:
        """The first aligned layer, or output, that differs."""
        return next((row for row in (*self.layers, *self.outputs) if row.differs), None)

    @property
    def guilty(self) -> tuple[LayerDifference, ...]:
        """Layers with a difference of their own, the largest first; then those whose weights changed without effect."""
        own = [row for row in self.layers if row.is_guilty]
        own.sort(key=lambda row: _size(row.own), reverse=True)
        changed = {change.layer for change in self.weights if change.counts}
        named = (*own, *(row for row in self.layers if row.a.layer in changed and not row.is_guilty))
        if named or self.first_divergence is None:
            return named
        return (self.first_divergence,)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.diff/1`, ready for JSON."""
        first = self.first_divergence
        return {
            "schema": "onnxscope.diff/1",
            "a": self.a,
            "b": self.b,
            "input": self.input,
            "samples": self.samples,
            "equal": self.equal,
            "first_divergence": None if first is None else {"a": first.a.to_dict(), "b": first.b.to_dict()},
            "guilty": [{"a": row.a.to_dict(), "b": row.b.to_dict()} for row in self.guilty],
            "layers": [row.to_dict() for row in self.layers],
            "outputs": [row.to_dict() for row in self.outputs],
            "unaligned": {
                "a": [{"layer": layer, "op_type": op_type} for layer, op_type in self.only_a],
                "b": [{"layer": layer, "op_type": op_type} for layer, op_type in self.only_b],
            },
            "weights": [change.to_dict() for change in self.weights],
            "structure": [change.to_dict() for change in self.structure],
        }

    def table(self) -> Table:
        """One row per aligned layer and output."""
        rows = tuple(row._cells(judged=self.was_run) for row in (*self.layers, *self.outputs))
        title = f"{self.a['name']} against {self.b['name']}: {len(self.layers)} layers aligned"
        return Table(title, _COLUMNS, rows)

    def changes_table(self) -> Table:
        """One row for whatever is not the same about weights, structure and alignment."""
        rows: list[tuple[Cell, ...]] = []
        for side, only in (("first", self.only_a), ("second", self.only_b)):
            rows += [(layer, "unaligned", f"{op_type}, only in the {side} model") for layer, op_type in only]
        rows += [(change.layer, "structure", change.message) for change in self.structure]
        rows += [(change.layer, change.change, change.message) for change in self.weights if change.counts]
        rows += [(change.layer, change.change, change.message) for change in self.weights if not change.counts]
        return Table("weights and structure", ("layer", "change", "what"), tuple(rows))

    def verdict(self) -> str:
        """One line: whether the models are equal, and if not, where it starts and who is to blame."""
        compared = f"{_counted(len(self.layers), 'layer')} and {_counted(len(self.outputs), 'output')}"
        if not self.aligned:
            return "differ: nothing of one model was found in the other"
        if self.equal:
            return f"equal: {compared}" + ("" if self.was_run else ", weights and structure only; nothing was run")
        parts = []
        first = self.first_divergence
        if first is not None:
            parts.append(f"the first layer that diverges is {_shown(first)}")
        named = [f"{_shown(row)}{_much(row)}" for row in self.guilty[:3]]
        if named:
            more = f" and {len(self.guilty) - 3} more" if len(self.guilty) > 3 else ""
            parts.append(f"the difference comes from {', '.join(named)}{more}")
        count = len(self.only_a) + len(self.only_b)
        if count:
            parts.append(f"{_counted(count, 'layer')} without a counterpart")
        changed = sum(change.counts for change in self.weights)
        if changed:
            parts.append(f"{_counted(changed, 'weight')} changed")
        return "differ: " + "; ".join(parts or ["the structure"])

    def __repr__(self) -> str:
        return f"{self.table().text()}{self.verdict()}\n"

    def html_parts(self) -> list[str]:
        """The verdict, the layers to blame, all layers, changes of weights and structure, and remarks."""
        parts = [paragraph(self.verdict(), "good" if self.equal else "bad")]
        blamed = [row for row in self.guilty if row.entire is not None]
        if blamed and not self.equal:
            title = f"where the difference comes from: {_counted(len(blamed), 'layer')}"
            parts.append(Table(title, _COLUMNS, tuple(row._cells() for row in blamed)).html(max_rows=5))
        parts.append(self.table().html())
        changes = self.changes_table()
        if changes.rows:
            parts.append(changes.html())
        return parts + remarks(self.notes)


def not_measured(a: Side, b: Side, op_type: str, reason: str | None, *, incomparable: bool) -> LayerDifference:
    """Return a row without numbers.

    Args:
        a: In the first model.
        b: In the second.
        op_type: The layer's operator.
        reason: Why there are no numbers; None where nothing was run.
        incomparable: Whether that is a difference itself.
    """
    return LayerDifference(
        a=a,
        b=b,
        op_type=op_type,
        entire=None,
        own=None,
        noise=None,
        floor=0.0,
        reason=reason,
        incomparable=incomparable,
    )


def floor_of(noise: Discrepancy, dtypes: Iterable[str]) -> float:
    """Return what a relative difference is judged by: the noise, or what rounding alone may do if that is more.

    Args:
        noise: The first model against itself.
        dtypes: Element types of both values, and of those that they are computed from: rounding is never undone.
            Integers alone have no resolution, so that any difference beyond the noise counts.
    """
    return max(noise.relative_l2 or 0.0, *(_RESOLUTIONS.get(dtype, 2.0**-23) for dtype in dtypes))


def _is_beyond(discrepancy: Discrepancy | None, floor: float) -> bool:
    if discrepancy is None:
        return False
    if discrepancy.mismatched:
        return True
    return _size(discrepancy) > NOISE_FACTOR * floor and discrepancy.beyond != 0


def _size(discrepancy: Discrepancy | None) -> float:
    relative = None if discrepancy is None else discrepancy.relative_l2
    return math.inf if relative is None else relative


def _shown(row: LayerDifference) -> str:
    if row.a.layer == row.b.layer:
        return printable(row.a.layer)
    return f"{printable(row.a.layer)} ({printable(row.b.layer)} in the second)"


def _much(row: LayerDifference) -> str:
    if row.reason is not None:
        return f" ({row.reason})"
    if row.own is None or not row.is_guilty:
        return " (its weights)" if row.own is not None else ""
    size = _size(row.own)
    return f" (relative {size:.3g})" if math.isfinite(size) else " (not finite)"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
