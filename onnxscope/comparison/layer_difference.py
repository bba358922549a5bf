"""One row of a comparison: how far one layer, or one output, of the second model is from its counterpart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxscope.base.results import Record
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import format_number
from onnxscope.model.layer_names import own_name
from onnxscope.numerics.distances import Discrepancy
from onnxscope.numerics.score_agreement import ScoreAgreement

__all__ = [
    "COLUMNS",
    "LEAST",
    "NOISE_FACTOR",
    "RANKED",
    "LayerDifference",
    "Side",
    "Verdict",
    "not_measured",
    "size_of",
]

Verdict = Literal["equal", "differs", "undecided"]
NOISE_FACTOR = 10.0
"""A difference counts from so many times the noise floor on."""

_NUMBERS: Mapping[str, str] = {  # the columns of numbers, and which field of the record each shows
    "max abs": "max_abs",
    "relative": "relative_l2",
    "own": "own_relative_l2",
    "noise": "noise_relative_l2",
    "SQNR dB": "sqnr_db",
    "cosine": "cosine",
    "beyond": "beyond_fraction",
}
LEAST = ("in the second", "operator", "noise", "worst channel", "weights SNR", "beyond", "cosine", "SQNR dB")
"""Those that matter least."""

COLUMNS = ("layer", "in the second", "operator", "differs", *_NUMBERS, "worst channel", "scores", "reason")
RANKED = (
    *("layer", "in the second", "operator", "SNR dB", "own SNR", "weights SNR", "cosine", "beyond", "worst channel"),
    *("scores", "reason"),
)
"""Of a partner in few bits, whose layers all differ: what each costs, in decibels."""


@dataclass(frozen=True)
class Side:
    """One model's part of a row.

    Attributes:
        layer: The layer, as the source framework called it.
        name: The value that leaves it.
        fused: In words, the fused node that the layer is part of; None where it is a node of the file.
        before: The value that is compared, where that is before what one of both models alone has behind the layer.
    """

    layer: str
    name: str
    fused: str | None = None
    before: str | None = None

    @property
    def compared(self) -> str:
        """The value that is compared."""
        return self.name if self.before is None else self.before

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
        unstable: Why the first model's value does not reproduce, so that no number but `own` can be judged; None where
            it does.
        reason: Why there are no numbers, or None.
        incomparable: Whether that is a difference itself: two shapes, or a value that one model alone has computed.
        settled: Whether equal weights and attributes stand for values that could not be compared.
        own_floor: Where the value does not reproduce, what its own error is judged by: what is before it is random, and
            the layer, fed with the first model's values, is not. None where it is, or where that is unknown.
        scores: Of an output that scores classes, how far the models agree on them.
    """

    a: Side
    b: Side
    op_type: str
    entire: Discrepancy | None
    own: Discrepancy | None
    noise: Discrepancy | None
    floor: float
    unstable: str | None
    reason: str | None
    incomparable: bool
    settled: bool = False
    own_floor: float | None = None
    scores: ScoreAgreement | None = None

    @property
    def differs(self) -> bool:
        """Whether the difference is beyond the noise, and beyond the tolerance where one was given.

        Of a value that does not reproduce, whether the layer's own error is, fed with the first model's values.
        """
        return self.is_guilty if self.unstable is not None else self.incomparable or _is_beyond(self.entire, self.floor)

    @property
    def is_guilty(self) -> bool:
        """Whether the layer adds a difference of its own."""
        floor = self.floor if self.unstable is None else self.own_floor
        return self.incomparable or (floor is not None and _is_beyond(self.own, floor))

    @property
    def undecided(self) -> str | None:
        """Why nobody can say whether the values are equal; None where one can, and where nothing was run."""
        if self.differs or self.settled:
            return None
        return self.unstable if self.unstable is not None or self.entire is not None else self.reason

    @property
    def verdict(self) -> Verdict:
        """What became of the row."""
        return "differs" if self.differs else "undecided" if self.undecided is not None else "equal"

    @property
    def ratio(self) -> float | str | None:
        """The signal-to-noise ratio in decibels, or a word where it is infinite; None where nothing was measured."""
        return _ratio(self.entire)

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
            "own_sqnr_db": own.sqnr_db if own else None,
            "noise_relative_l2": self.noise.relative_l2 if self.noise else None,
            "floor_relative_l2": self.floor,
            "beyond_fraction": entire.beyond_fraction if entire else None,
            "mismatched_count": entire.mismatched if entire else None,
            "worst_channel": worst[0] if worst else None,
            "worst_channel_relative_l2": worst[1] if worst else None,
            "differs": self.differs,
            "verdict": self.verdict,
            "reason": self.reason or self.undecided or self.unstable,
            "scores": self.scores.to_dict() if self.scores else None,
            "fused": {"a": self.a.fused, "b": self.b.fused},
        }

    def table(self) -> Table:
        """One row."""
        return Table("", COLUMNS, (self.cells(),), LEAST)

    def cells(self, *, judged: bool = True) -> tuple[Cell, ...]:
        """A row of a table with `COLUMNS`; `judged` tells whether something was run that tells own errors."""
        record = self.to_dict()
        other = "" if self.a.layer == self.b.layer else self.b.layer
        numbers = [record[key] for key in _NUMBERS.values()]
        worst = self.entire.worst_channel if self.entire else None
        mismatched = self.entire.mismatched if self.entire else 0
        reason = record["reason"] or (f"{mismatched:,} numbers finite in one model only" if mismatched else "")
        reason = reason or self.fused_text
        shown = f"{worst[0]}: {format_number(worst[1])}" if worst and self.differs and self.unstable is None else ""
        verdict = "undecided" if self.undecided is not None else ""
        if judged and self.differs:
            verdict = "own" if self.is_guilty else "inherited"
        scores = self.scores.text if self.scores else ""
        return (self.a.layer, other, self.op_type, verdict, *numbers, shown, scores, reason)

    def ranked_cells(self, weights_db: float | None) -> tuple[Cell, ...]:
        """A row of a table with `RANKED`; `weights_db` is the ratio of the layer's weights."""
        record = self.to_dict()
        name, other = self.a.layer, self.b.layer
        worst = self.entire.worst_channel if self.entire else None
        return (
            name,
            "" if own_name(other) == own_name(name) else other,
            self.op_type,
            self.ratio,
            None if self.op_type == "Output" else _ratio(self.own),
            weights_db,
            record["cosine"],
            record["beyond_fraction"],
            f"{worst[0]}: {worst[1]:.2g}" if worst else "",
            self.scores.text if self.scores else "",
            record["reason"] or self.fused_text,
        )

    @property
    def fused_text(self) -> str:
        """Of which fused nodes the layer is part, on either side."""
        return "; ".join(dict.fromkeys(filter(None, (self.a.fused, self.b.fused))))

    def __repr__(self) -> str:
        return self.table().text()


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
        unstable=None,
        reason=reason,
        incomparable=incomparable,
    )


def _ratio(discrepancy: Discrepancy | None) -> float | str | None:
    if discrepancy is None or discrepancy.sqnr_db is not None:
        return None if discrepancy is None else discrepancy.sqnr_db
    return "exact" if discrepancy.relative_l2 == 0 else "not finite"


def _is_beyond(discrepancy: Discrepancy | None, floor: float) -> bool:
    if discrepancy is None:
        return False
    if discrepancy.mismatched:
        return True
    return size_of(discrepancy) > NOISE_FACTOR * floor and discrepancy.beyond != 0


def size_of(discrepancy: Discrepancy | None) -> float:
    """The relative size of a difference, infinite where there is none to tell."""
    relative = None if discrepancy is None else discrepancy.relative_l2
    return math.inf if relative is None else relative
