"""A checkpoint against an export, or another checkpoint: what became of every tensor of either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxscope.base.name_patterns import select_names
from onnxscope.base.results import paragraph, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, printable
from onnxscope.checkpoints.checkpoint import is_checkpoint, load_weights
from onnxscope.checkpoints.explained import Explained, explain_tensors
from onnxscope.checkpoints.sides import Side
from onnxscope.comparison.result import Comparison
from onnxscope.comparison.weight_changes import WeightChange
from onnxscope.errors import InputError
from onnxscope.model.loading import CustomOps
from onnxscope.numerics.distances import Tolerance

__all__ = ["CheckpointComparison", "compare_checkpoint"]

_COLUMNS = ("first", "second", "change", "what")


@dataclass(frozen=True, eq=False)
class CheckpointComparison(Comparison):
    """Two files of which one at least has no graph, so that there are tensors and no layers.

    `weights` has a row for every tensor of either file, those that are equal included.
    """

    frame_keys = ("weights",)  # type: ignore[assignment]

    @property
    def aligned(self) -> bool:
        """Whether anything of one file was found in the other."""
        return any(row.a is not None and row.b is not None for row in self.weights)

    @property
    def constants(self) -> int:
        """How many numbers of the computation there are that the other file has nothing to say of."""
        return sum(row.change == "constant" for row in self.weights)

    def table(self) -> Table:
        """One row per tensor, those that make the files differ first; constants of the computation are left out."""
        rows = sorted((row for row in self.weights if row.change != "constant"), key=lambda row: not row.counts)
        title = f"{self.a['name']} against {self.b['name']}: {counted(len(rows), 'tensor')}"
        cells: tuple[tuple[Cell, ...], ...] = tuple((row.a, row.b, row.change, row.message) for row in rows)
        return Table(title, _COLUMNS, cells)

    def changes_table(self) -> Table:
        """The same."""
        return self.table()

    def flat_table(self) -> Table:
        """The same, then the verdict."""
        table = self.table()
        return Table(table.title, _COLUMNS, (*table.rows, (None, None, self.verdict, self.summary())))

    def tables(self) -> list[Table]:
        """The verdict, then the tensors."""
        return [Table("verdict", ("verdict", "why"), ((self.verdict, self.summary()),)), self.table()]

    def summary(self) -> str:
        """One line: the verdict, how many tensors became what, and the first that nothing explains."""
        if not self.aligned:
            return "differs: no tensor of one file was found in the other"
        counts = Counter(row.change for row in self.weights if row.change != "constant" and not row.counts)
        words = ", ".join(f"{count:,} {change}" for change, count in counts.most_common())
        off = [row for row in self.weights if row.counts]
        if not off:
            return f"equal: every tensor is explained ({words})"
        name = printable(off[0].a or off[0].b or "")
        first = f"{name} is {off[0].change}" + (f" ({printable(off[0].message)})" if off[0].message else "")
        more = f" and {len(off) - 1:,} more" if len(off) > 1 else ""
        return f"differs: {first}{more}; {words or 'nothing else is explained'}"

    def html_parts(self) -> list[str]:
        """The verdict, the tensors, and remarks."""
        return [paragraph(self.summary(), "good" if self.equal else "bad"), self.table().html(), *remarks(self.notes)]


def compare_checkpoint(
    a: Any,
    b: Any,
    inputs: Any = None,
    *,
    tolerance: Tolerance | None = None,
    select: str | Sequence[str] = (),
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
) -> CheckpointComparison:
    """Say of every tensor of two files what became of it; one of them is a checkpoint.

    Args:
        a: A path, a `ModelProto`, a loaded `Model` or a loaded `Checkpoint`.
        b: Likewise.
        inputs: What there is nothing to feed with.
        tolerance: What a number may be off by.
        select: Selectors over the names of tensors and layers.
        custom_ops: Libraries of custom operators that weights are computed by.
        dims: Sizes for open dimensions of a model.

    Raises:
        InputError: Inputs are given.
        ModelError: A file cannot be read.
        SelectorError: A selector matches nothing.
    """
    models = [load_weights(a, custom_ops=custom_ops, dims=dims), load_weights(b, custom_ops=custom_ops)]
    if inputs is not None:
        name = next(model.name for model in models if is_checkpoint(model))
        raise InputError(f"a checkpoint has no graph that could be run: {name}", hint="compare it without inputs")
    rows = explain_tensors(Side(models[0]), Side(models[1]), tolerance)
    selectors = [select] if isinstance(select, str) else list(select)
    if selectors:
        names = [(row.a or row.b or "", row.b or row.a or "", row.layer) for row in rows]
        rows = [rows[place] for place in select_names(names, selectors, where=models[0].name)]
    return CheckpointComparison(
        a=models[0].to_dict(),
        b=models[1].to_dict(),
        input=None,
        samples=0,
        layers=(),
        outputs=(),
        only_a=(),
        only_b=(),
        weights=tuple(map(_change, rows)),
        structure=(),
        notes=(),
    )


def _change(row: Explained) -> WeightChange:
    seen = row.form.seen
    return WeightChange(
        a=row.a,
        b=row.b,
        layer=row.layer,
        change=row.form.change,
        max_abs=None if seen is None else seen.largest,
        relative_l2=None if seen is None else seen.relative,
        channels=() if seen is None or not row.form.counts else seen.channels,
        message=row.form.message,
        counts=row.form.counts,
    )
