"""What a comparison found: rows of layers and outputs, changes of weights and structure, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, output_text, printable
from onnxscope.comparison.layer_difference import COLUMNS, LEAST, RANKED, LayerDifference, Verdict, size_of
from onnxscope.comparison.structure_changes import FusedPart, StructureChange
from onnxscope.comparison.weight_changes import WeightChange
from onnxscope.numerics.distances import decibels
from onnxscope.patching.effects import PatchEffect
from onnxscope.runtime.half_range import Unfit, unfit_sentence
from onnxscope.timing.compared_times import ComparedTimes

__all__ = ["Comparison", "Undecided"]

_ROUNDED = ("quantized", "rounded")  # changes of weights that a partner in few bits has everywhere
_NAMED = 3  # layers, or outputs, that the verdict names
_TIMES = ("ms", "ms of the second", "times faster")


@dataclass(frozen=True)
class Undecided:
    """What could not be compared, or does not reproduce.

    Attributes:
        layer: The layer, or the output.
        name: The value in the first model.
        reason: Why.
    """

    layer: str
    name: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return {"layer": self.layer, "name": self.name, "reason": self.reason}


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
        replaced: What stood in place of the second one's values, and how far that moved its outputs; None for nothing.
        unfit: Of either model, values of half precision that held numbers beyond their type: a CPU hides it.
        partner: In words, the form of few bits that one of the models is in and the other is not; None where there is
            none.
        times: What both take, layer by layer; None where nobody asked.
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
    unfit: tuple[tuple[Unfit, ...], tuple[Unfit, ...]] = ((), ())
    partner: str | None = None
    replaced: PatchEffect | None = None
    times: ComparedTimes | None = None

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
    def verdict(self) -> Verdict:
        """`equal`: everything was compared, and nothing is beyond its tolerance. `undecided`: something was not.

        Without a run, all of the structure counts. Where a value does not fit its type, what was compared is not what
        hardware that has the type computes.
        """
        if not self.aligned or self.only_a or self.only_b or any(change.counts for change in self.weights):
            return "differs"
        if any(row.differs for row in (*self.layers, *self.outputs)) or self.counted_structure:
            return "differs"
        return "undecided" if self.undecided or any(self.unfit) else "equal"

    @property
    def counted_structure(self) -> tuple[StructureChange, ...]:
        """Changes of the structure that make the models differ: all that are not forgiven where nothing was run."""
        changes = (change for change in self.structure if change.fused is None and not change.forgiven)
        return tuple(change for change in changes if change.counts or not self.was_run)

    @property
    def equal(self) -> bool:
        """Whether the verdict is `equal`."""
        return self.verdict == "equal"

    @property
    def undecided(self) -> tuple[Undecided, ...]:
        """The aligned layers and outputs of which nobody can say whether they are equal.

        Without a run, also what is one operator in one model and several nodes in the other.
        """
        rows = tuple(
            Undecided(row.a.layer, row.a.name, row.undecided)
            for row in (*self.layers, *self.outputs)
            if row.undecided is not None
        )
        if self.was_run:
            return rows
        untold = (change for change in self.structure if change.fused is not None)
        return (*rows, *(Undecided(change.layer, change.fused_value, change.untold) for change in untold))

    @property
    def fused(self) -> tuple[FusedPart, ...]:
        """Operators of one model that stand for several nodes of the other, and where they are compared."""
        return tuple(change.fused for change in self.structure if change.fused is not None)

    @property
    def unfit_sentences(self) -> tuple[str, ...]:
        """What does not fit its type, a sentence for each model that has any."""
        names = (self.a["name"], self.b["name"])
        return tuple(
            f"{printable(name)}: {unfit_sentence(values)}"
            for name, values in zip(names, self.unfit, strict=True)
            if values
        )

    @property
    def first_divergence(self) -> LayerDifference | None:
        """The first aligned layer, or output, that differs."""
        return next((row for row in (*self.layers, *self.outputs) if row.differs), None)

    @property
    def guilty(self) -> tuple[LayerDifference, ...]:
        """Layers with a difference of their own, the largest first; then those whose weights changed without effect."""
        own = [row for row in self.layers if row.is_guilty]
        own.sort(key=lambda row: size_of(row.own), reverse=True)
        changed = {change.place for change in self.weights if change.counts}
        others = (row for place, row in enumerate(self.layers) if place in changed and not row.is_guilty)
        named = (*own, *others)
        if named or self.first_divergence is None:
            return named
        return (self.first_divergence,)

    @property
    def _changed_node(self) -> StructureChange | None:
        """The first change of structure, where a run has shown a difference that no weight explains."""
        first = self.first_divergence
        if not self.was_run or first is None:
            return None
        explained = any(change.layer == first.a.layer and change.counts for change in self.weights)
        untold = (change for change in self.structure if not change.forgiven and change.fused is None)
        return None if explained else next(untold, None)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.diff/1`, ready for JSON."""
        first = self.first_divergence
        return {
            "schema": "onnxscope.diff/1",
            "a": self.a,
            "b": self.b,
            "partner": self.partner,
            **({} if self.replaced is None else {"replaced": self.replaced.to_dict()}),
            "input": self.input,
            "samples": self.samples,
            "equal": self.equal,
            "verdict": self.verdict,
            "undecided": [undecided.to_dict() for undecided in self.undecided],
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
            "fused": [part.to_dict() for part in self.fused],
            "unfit": {
                side: [value.to_dict() for value in values] for side, values in zip("ab", self.unfit, strict=True)
            },
            **({} if self.times is None else {"times": self.times.to_dict()}),
        }

    def table(self) -> Table:
        """One row per output, then one per aligned layer; for a partner in few bits what costs most comes first."""
        title = f"{self.a['name']} against {self.b['name']}: {self._count} aligned"
        if not self.is_ranked:
            rows = tuple(row.cells(judged=self.was_run) for row in (*self.outputs, *self.layers))
            return self._timed(Table(title, COLUMNS, rows, LEAST), self.layers)
        cells = [row.ranked_cells(None) for row in self.outputs]
        cells += [row.ranked_cells(self._weights_db(place)) for place, row in self._ranking]
        return self._timed(Table(title, RANKED, tuple(cells), LEAST), [row for _, row in self._ranking])

    def _timed(self, table: Table, layers: Sequence[LayerDifference]) -> Table:
        """The table of outputs and layers with what these take in both models, where that was measured."""
        if self.times is None:
            return table
        pairs = [self.times.of(row.a.layer, row.b.layer) for row in layers]
        cells: list[tuple[Cell, ...]] = [(None,) * len(_TIMES) for _ in self.outputs]
        cells += [(None,) * len(_TIMES) if pair is None else pair.cells() for pair in pairs]
        rows = tuple((*row, *times) for row, times in zip(table.rows, cells, strict=True))
        return replace(table, columns=(*table.columns, *_TIMES), rows=rows)

    @property
    def is_ranked(self) -> bool:
        """Whether layers are ranked by what they cost: of a partner in few bits, all of them differ."""
        return self.partner is not None

    @property
    def _ranking(self) -> list[tuple[int, LayerDifference]]:
        """The layers with their places, those with the lowest signal-to-noise ratio of their own first.

        Where nothing was run, of their weights.
        """
        if self.was_run:
            return sorted(enumerate(self.layers), key=lambda item: -size_of(item[1].own) if item[1].own else 1.0)
        ratios = map(self._weights_db, range(len(self.layers)))
        order = [(math.inf if ratio is None else ratio, place) for place, ratio in enumerate(ratios)]
        return [(place, self.layers[place]) for _, place in sorted(order)]

    @property
    def costly(self) -> tuple[LayerDifference, ...]:
        """The layers in the order of what each adds by itself, the lowest signal-to-noise ratio first.

        Where nothing was run, in that of the ratios of their weights.
        """
        return tuple(row for row, _ in self.costs)

    @property
    def costs(self) -> tuple[tuple[LayerDifference, float | None], ...]:
        """The same, with the ratio in decibels; None where it is infinite, or there is none."""
        own = [None if row.own is None else row.own.sqnr_db for row in self.layers]
        return tuple((row, own[place] if self.was_run else self._weights_db(place)) for place, row in self._ranking)

    def _weights_db(self, place: int) -> float | None:
        """The lowest signal-to-noise ratio of a layer's weights; None where none was rounded."""
        changes = [change for change in self.weights if change.place == place and change.change in _ROUNDED]
        ratios = [decibels(change.relative_l2) for change in changes]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    @property
    def _count(self) -> str:
        """How many rows there are: layers, and fused operators where there are any."""
        ends = {part.compared_at for part in self.fused}
        fused = sum((row.a.name, row.b.name) in ends for row in self.layers)
        layers = counted(len(self.layers) - fused, "layer")
        return f"{layers}, {counted(fused, 'fused operator')}" if fused else layers

    def changes_table(self) -> Table:
        """One row for whatever is not the same about weights, structure and alignment."""
        rows: list[tuple[Cell, ...]] = []
        for side, only in (("first", self.only_a), ("second", self.only_b)):
            rows += [(layer, "unaligned", f"{op_type}, only in the {side} model") for layer, op_type in only]
        folded = sum(change.folded for change in self.structure)
        if self.partner is not None and folded:
            what = "nodes and operands that come with that are not listed (JSON has them)"
            rows.append(("", "form", f"{self.partner}; {folded:,} {what}"))
        fused = (change for change in self.structure if change.fused is not None)
        rows += [(change.layer, "fused", change.fused_text(was_run=self.was_run)) for change in fused]
        others = (change for change in self.structure if not change.folded and change.fused is None)
        rows += [(change.layer, "structure", change.message) for change in others]
        changes = [change for change in self.weights if not (self.is_ranked and change.change in _ROUNDED)]
        rows += [(change.layer, change.change, change.message) for change in changes if change.counts]
        rows += [(change.layer, change.change, change.message) for change in changes if not change.counts]
        for values, sentence in zip(filter(None, self.unfit), self.unfit_sentences, strict=True):
            rows.append((values[0].layer, "does not fit", sentence))
        return Table("weights and structure", ("layer", "change", "what"), tuple(rows))

    def tables(self) -> list[Table]:
        """The verdict and what is undecided, the layers and outputs, and what is not the same about the rest."""
        rows: list[tuple[Cell, ...]] = [("", self.verdict, self.summary())]
        rows += [(undecided.layer, "undecided", undecided.reason) for undecided in self.undecided]
        rows += [("", "time", self.times.text)] if self.times is not None else []
        changes = self.changes_table()
        verdict = Table("verdict", ("layer", "verdict", "why"), tuple(rows))
        moved = [] if self.replaced is None else [self.replaced.table()]
        return [verdict, self.table(), *([changes] if changes.rows else []), *moved]

    def flat_table(self) -> Table:
        """The rows of `table()`, then those of `changes_table()`, then the verdict, under the columns of the first."""
        table = self.table()
        empty: tuple[Cell, ...] = (None,) * (len(COLUMNS) - 5)
        rows = [(layer, None, "change", change, *empty, what) for layer, change, what in self.changes_table().rows]
        rows.append((None, None, "verdict", self.verdict, *empty, self.summary()))
        wider: tuple[Cell, ...] = (None,) * (len(table.columns) - len(COLUMNS))
        return Table(table.title, table.columns, (*table.rows, *((*row, *wider) for row in rows)))

    def summary(self) -> str:
        """One line: the verdict; where the models differ, where that starts and who is to blame; what is undecided."""
        compared = f"{self._count} and {counted(len(self.outputs), 'output')}"
        if not self.aligned:
            return "differs: nothing of one model was found in the other"
        if self.equal:
            return f"equal: {compared}" + ("" if self.was_run else ", weights and structure only; nothing was run")
        parts = self._in_few_bits() if self.is_ranked else self._where()
        count = len(self.only_a) + len(self.only_b)
        if count:
            parts.append(f"{counted(count, 'layer')} without a counterpart")
        changed = sum(change.counts for change in self.weights if not (self.is_ranked and change.change in _ROUNDED))
        if changed:
            parts.append(f"{counted(changed, 'weight')} changed")
        if self.was_run and self.counted_structure:
            parts.append(printable(self.counted_structure[0].message))
        if self.undecided:
            first_undecided = self.undecided[0]
            where = f"first {printable(first_undecided.layer)} ({first_undecided.reason})"
            total = len(self.layers) + len(self.outputs)
            of = f"{len(self.undecided):,} of {counted(total, 'layer or output', 'layers and outputs')}"
            if not self.was_run and self.fused:
                of = counted(len(self.undecided), "fused operator")
            parts.append(f"{of} cannot be judged, {where}")
        parts += self.unfit_sentences
        return f"{self.verdict}: " + "; ".join(parts or ["the structure"])

    def _where(self) -> list[str]:
        """Where a difference starts, and what it comes from."""
        parts = []
        first = self.first_divergence
        if self._changed_node is not None:
            parts.append(f"{printable(self._changed_node.message)}")
        if first is not None:
            parts.append(f"the first layer that diverges is {self._shown(first)}")
        named = [f"{self._shown(row)}{_much(row)}" for row in self.guilty[:3]]
        if named:
            more = f" and {len(self.guilty) - 3} more" if len(self.guilty) > 3 else ""
            parts.append(f"the difference comes from {', '.join(named)}{more}")
        return parts

    def _in_few_bits(self) -> list[str]:
        """The partner's form, what the outputs say, and the layers that cost most."""
        parts = [f"{self.partner}"]
        for row in self.outputs[:_NAMED] if self.was_run else ():
            ratio, cosine = row.ratio, row.entire.cosine if row.entire else None
            words = [f"{ratio:.1f} dB" if isinstance(ratio, float) else ratio or ""]
            words += [f"cosine {cosine:.6g}"] if cosine is not None and ratio != "exact" else []
            words += [row.scores.text] if row.scores else []
            words += [row.reason or row.undecided or row.unstable or ""]
            parts.append(f"{output_text(row.a.name)}: {', '.join(filter(None, words))}")
        if self.was_run and len(self.outputs) > _NAMED:
            parts.append(f"{len(self.outputs) - _NAMED} more outputs")
        costly = [
            f"{printable(row.a.layer)} ({ratio:.1f} dB{' of its own' if self.was_run else ''})"
            for row, ratio in self.costs[:_NAMED]
            if ratio is not None
        ]
        where = "most is lost in" if self.was_run else "nothing was run; most is lost in the weights of"
        return parts + ([f"{where} {', '.join(costly)}"] if costly else [])

    def _shown(self, row: LayerDifference) -> str:
        """The layer in both models, and its value where several layers have that name."""
        name = printable(row.a.layer)
        if sum(other.a.layer == row.a.layer for other in self.layers) > 1:
            name = f"{name} at {printable(row.a.name)}"
        return name if row.a.layer == row.b.layer else f"{name} ({printable(row.b.layer)} in the second)"

    def __repr__(self) -> str:
        times = "" if self.times is None else f"{self.times.text}\n"
        return f"{self.table().text()}{self.summary()}\n{times}"

    def html_parts(self) -> list[str]:
        """The verdict, the layers to blame, all layers, changes of weights and structure, and remarks."""
        parts = [paragraph(self.summary(), "good" if self.equal else "bad")]
        parts += [] if self.times is None else [paragraph(self.times.text)]
        blamed = [row for row in self.guilty if row.entire is not None]
        if blamed and not self.equal and not self.is_ranked:
            title = f"where the difference comes from: {counted(len(blamed), 'layer')}"
            parts.append(Table(title, COLUMNS, tuple(row.cells() for row in blamed)).html(max_rows=5))
        parts.append(self.table().html())
        changes = self.changes_table()
        if changes.rows:
            parts.append(changes.html())
        return parts + remarks(self.notes)


def _much(row: LayerDifference) -> str:
    if row.reason is not None:
        return f" ({row.reason})"
    if row.own is None or not row.is_guilty:
        return " (its weights)" if row.own is not None else ""
    size = size_of(row.own)
    return f" (relative {size:.3g})" if math.isfinite(size) else " (not finite)"
