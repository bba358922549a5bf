"""What takes the time of a run: rows that sum up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxscope.base.results import Record
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted
from onnxscope.model.graphs import Node

__all__ = ["LayerTime", "Timing", "milliseconds"]

_NAMED = 3  # operators that the line above the table names

Kind = Literal["layer", "node", "provider", "unknown", "outside"]


@dataclass(frozen=True)
class LayerTime:
    """What one row takes of a run.

    Attributes:
        kind: `layer` owns weights, `node` is another node of the model, `provider` a part that an execution provider
            has taken as a whole, `unknown` what belongs to none of them, `outside` what no node took: the runtime's own
            work, and the way into it.
        layer: The layer's name, else what it is in words.
        op_type: Its operator, empty where it is no node.
        value: The value that it produces, likewise.
        seconds: Of one run.
        run_s: What the whole run takes.
        multiply_accumulates: Of one run; None where they are not known.
        in_use_bytes: What onnxruntime's arena held at most while it ran, in the first run: values, and weights that it
            has not mapped. None where nobody says.
    """

    kind: Kind
    layer: str
    op_type: str
    value: str
    seconds: float
    run_s: float
    multiply_accumulates: int | None
    in_use_bytes: int | None

    @property
    def share(self) -> float:
        """Of the run, 0 to 1."""
        return self.seconds / self.run_s if self.run_s else 0.0

    @property
    def per_second(self) -> float | None:
        """Multiply-accumulates in a second; None where they are not known, or nothing was measured."""
        return self.multiply_accumulates / self.seconds if self.multiply_accumulates and self.seconds else None

    @property
    def ms(self) -> float:
        """Milliseconds of one run."""
        return milliseconds(self.seconds)

    def cells(self) -> tuple[Cell, Cell, Cell]:
        """For tables: milliseconds, per cent of the run, multiply-accumulates a second."""
        return self.ms, round(100 * self.share, 2), None if self.per_second is None else round(self.per_second)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": self.kind,
            "layer": self.layer,
            "op_type": self.op_type,
            "value": self.value,
            "ms": self.ms,
            "share": round(self.share, 6),
            "multiply_accumulates": self.multiply_accumulates,
            "per_second": None if self.per_second is None else round(self.per_second),
            "in_use_bytes": self.in_use_bytes,
        }


@dataclass(frozen=True, eq=False)
class Timing(Record):
    """What one run of a model takes, and where.

    Attributes:
        model: The `model` record.
        input: The `input` record; None where arrays were fed as they are.
        run_s: Seconds of a run without a profile, the median.
        profiled_s: Seconds of a run with one, the median.
        repeats: Runs with a profile that were measured; as many without one.
        rows: In execution order; together they are the run.
        inside: Nodes without a time of their own, by whose time theirs is in: a node, or a part in words.
        peak_bytes: The most that onnxruntime's arena held in any run: values, and weights that it has not mapped. None
            where this onnxruntime does not say.
        notes: Remarks for people.
        places: By node or part, its row.
    """

    model: dict[str, Any]
    input: dict[str, Any] | None
    run_s: float
    profiled_s: float
    repeats: int
    rows: tuple[LayerTime, ...]
    inside: Mapping[Node, Node | str]
    peak_bytes: int | None
    notes: tuple[str, ...]
    places: Mapping[Node | str, int]

    frame_keys = ("rows",)

    @property
    def attributed(self) -> float:
        """The share of the time of nodes that is a layer's, another node's or a provider's, 0 to 1."""
        nodes_s = sum(row.seconds for row in self.rows if row.kind != "outside")
        unknown_s = sum(row.seconds for row in self.rows if row.kind == "unknown")
        return 1 - unknown_s / nodes_s if nodes_s else 1.0

    @property
    def peak_row(self) -> LayerTime | None:
        """Where values took the most in the first run; None where nobody says."""
        told = [row for row in self.rows if row.in_use_bytes is not None]
        return max(told, key=lambda row: row.in_use_bytes or 0, default=None)

    def of(self, node: Node) -> LayerTime | None:
        """The row of a node; None where it has none of its own."""
        place = self.places.get(node)
        return None if place is None else self.rows[place]

    def holder(self, node: Node) -> LayerTime | None:
        """The row in whose time that of a node is; None where it has its own, or takes none."""
        place = self.places.get(self.inside[node]) if node in self.inside else None
        return None if place is None else self.rows[place]

    def text(self) -> str:
        """What there is to say of them, in one line."""
        layers = sum(row.share for row in self.rows if row.kind == "layer")
        operators: dict[str, float] = {}
        for row in self.rows:
            if row.kind == "node":
                operators[row.op_type] = operators.get(row.op_type, 0.0) + row.share
        line = f"{milliseconds(self.run_s):g} ms a run, median of {self.repeats}: {layers:.1%} in layers"
        if operators:
            largest = sorted(operators.items(), key=lambda item: -item[1])[:_NAMED]
            named = ", ".join(f"{name} {share:.1%}" for name, share in largest)
            more = ", …" if len(operators) > _NAMED else ""
            line += f", {sum(operators.values()):.1%} in other nodes ({named}{more})"
        for row in self.rows:
            if row.kind == "provider":
                line += f", {row.share:.1%} in {row.layer}"
            elif row.kind in ("unknown", "outside"):
                line += f", {row.share:.1%} {'in ' if row.kind == 'unknown' else ''}{row.layer}"
        return line

    def memory_text(self) -> str:
        """The most that onnxruntime's arena held, in one line; empty where nobody says."""
        if self.peak_bytes is None:
            return ""
        row = self.peak_row
        return f"the arena holds {self.peak_bytes:,} bytes at most" + (f", the most at {row.layer}" if row else "")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "run_ms": milliseconds(self.run_s),
            "profiled_ms": milliseconds(self.profiled_s),
            "repeats": self.repeats,
            "attributed": round(self.attributed, 6),
            "peak_bytes": self.peak_bytes,
            "peak_layer": None if self.peak_row is None else self.peak_row.layer,
            "rows": [row.to_dict() for row in self.rows],
        }

    def table(self) -> Table:
        """One row for each layer and node, the longest first."""
        columns = ("layer", "operator", "ms", "share %", "multiply-adds a second", "bytes in use", "value")
        rows: list[tuple[Cell, ...]] = [
            (
                row.layer,
                row.op_type,
                *row.cells(),
                row.in_use_bytes,
                row.value,
            )
            for row in sorted(self.rows, key=lambda row: -row.seconds)
        ]
        return Table(f"{counted(len(rows), 'row')}: {self.text()}", columns, tuple(rows))

    def __repr__(self) -> str:
        return self.table().text()


def milliseconds(seconds: float) -> float:
    """Milliseconds of seconds, to the tenth of a microsecond: beyond that is noise."""
    return round(seconds * 1e3, 4)
