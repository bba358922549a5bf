"""What was found out: why layers differ, the edits that mend them, and how the mended copy compares."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxscope.base.results import Record, remarks
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, printable
from onnxscope.comparison.layer_difference import Side
from onnxscope.comparison.result import Comparison
from onnxscope.explaining.causes import Causes
from onnxscope.explaining.edits import Edit
from onnxscope.explaining.mended_copy import save_mended
from onnxscope.model.loading import Model

__all__ = ["ExplainedComparison", "Explanation"]

_COLUMNS = ("layer", "operator", "what", "B has", "equal with", "own before", "own after", "why")


@dataclass(frozen=True, eq=False)
class Explanation(Record):
    """Why one layer, or one output, of the second model differs.

    Attributes:
        a: In the first model.
        b: In the second.
        text: The sentence that says it.
        edits: What together mends it; none: nothing explains it.
        also: Other values that are equal on the data.
        before: The own error before, relative; None where there is none to tell.
        after: With the edits.
    """

    a: Side
    b: Side
    text: str
    edits: tuple[Edit, ...] = ()
    also: tuple[Any, ...] = ()
    before: float | None = None
    after: float | None = None

    @property
    def is_explained(self) -> bool:
        """Whether anything mends it."""
        return bool(self.edits)

    def to_dict(self) -> dict[str, Any]:
        """The record in `explanations` of `onnxscope.diff/1`."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "explained": self.is_explained,
            "text": self.text,
            "edits": [
                {
                    "node": edit.node.label,
                    "op_type": edit.node.op_type,
                    "kind": edit.kind,
                    "what": edit.what,
                    "found": _as_json(edit.found),
                    "wanted": _as_json(edit.wanted),
                }
                for edit in self.edits
            ],
            "also_equal": [_as_json(value) for value in self.also],
            "own_relative_l2_before": self.before,
            "own_relative_l2_after": self.after,
        }

    def table(self) -> Table:
        """One row."""
        names = ", ".join(edit.what for edit in self.edits)
        operators = ", ".join(dict.fromkeys(edit.node.op_type for edit in self.edits))
        return Table(
            "",
            ("layer", "operator", "what", "own before", "own after", "why"),
            ((self.a.layer, operators, names, self.before, self.after, self.text),),
        )

    def __repr__(self) -> str:
        return f"<Explanation of {printable(self.a.layer)}: {self.text}>"


@dataclass(frozen=True, eq=False)
class ExplainedComparison(Comparison):
    """A comparison that says why layers differ.

    Attributes:
        explanations: Of layers and outputs with a difference of their own, in execution order.
        mended: The first model against the mended copy of the second; None where none was written.
        second: The second model, of which copies are made.
        causes: Which layers carry the difference of the outputs; None where there is none, or a selection was compared.
    """

    explanations: tuple[Explanation, ...] = ()
    mended: Comparison | None = None
    second: Model | None = None
    causes: Causes | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All that mends the second model, each once."""
        found = [edit for explanation in self.explanations for edit in explanation.edits]
        return tuple({edit.key: edit for edit in found}.values())

    def save_mended(self, path: str | os.PathLike[str], *, force: bool = False) -> list[str]:
        """Write a copy of the second model with all edits.

        Args:
            path: The new model; where its weights do not fit into one file, they are beside it in `<path>.data`.
            force: Whether a file that is no model may be replaced.

        Returns:
            The files.

        Raises:
            InputError: Nothing was explained, so there is nothing to mend.
            OutputError: It cannot be written, or would replace a file that is read.
        """
        return save_mended(self.second, self.edits, Path(path), force=force)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.diff/1` with `explanations`, `causes`, and with `mended` where a copy was written."""
        record = super().to_dict()
        record["explanations"] = [explanation.to_dict() for explanation in self.explanations]
        record["causes"] = None if self.causes is None else self.causes.to_dict()
        if self.mended is not None:
            record["mended"] = self.mended.to_dict()
        return record

    def explanations_table(self) -> Table:
        """A row for each explanation."""
        rows = tuple(explanation.table().rows[0] for explanation in self.explanations)
        explained = sum(explanation.is_explained for explanation in self.explanations)
        title = f"why: {explained:,} of {counted(len(rows), 'difference')} explained"
        return Table(title, ("layer", "operator", "what", "own before", "own after", "why"), rows)

    def tables(self) -> list[Table]:
        """Those of the comparison, the explanations, and what carries the difference."""
        why = [self.explanations_table()] if self.explanations else []
        return [*super().tables(), *why, *([self.causes.table()] if self.causes is not None else [])]

    def html_parts(self) -> list[str]:
        """Those of the comparison, the explanations, and what carries the difference."""
        lines = [f"{each.a.layer}: {each.text}" for each in self.explanations]
        return [*super().html_parts(), *remarks(lines + ([self.causes.text] if self.causes is not None else []))]

    def __repr__(self) -> str:
        lines = [f"{printable(each.a.layer)}: {each.text}\n" for each in self.explanations]
        lines += [] if self.causes is None else [f"{self.causes.text}\n"]
        return super().__repr__() + "".join(lines)


def _as_json(value: Any) -> Any:
    """A value of an attribute or operand; an object stands for a number that JSON lacks."""
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return {"float": f"{value}"} if isinstance(value, float) and not math.isfinite(value) else value
