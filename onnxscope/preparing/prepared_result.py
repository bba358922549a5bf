"""What is said of how pictures must be prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from onnxscope.base.results import Record
from onnxscope.base.tables import Table
from onnxscope.base.text import counted, printable
from onnxscope.inputs.presets import PRESETS, Preset
from onnxscope.preparing.candidates import Candidate
from onnxscope.preparing.verdict import Ranked, Verdict

__all__ = ["Preparation", "as_option"]

_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Preparation(Record):
    """How pictures must be prepared for a model, as far as that can be said.

    Attributes:
        model: Its file name.
        samples: How many pictures were tried.
        by: What tells: `outputs` that are known to be right, or `running statistics`; None where nothing does.
        references: The layers whose running statistics, or the outputs whose values, tell.
        ranked: All that was tried, the nearest first; nothing where nothing tells.
        verdict: What can be said of the first.
        notes: For people.
    """

    frame_keys: ClassVar[tuple[str, ...]] = ("recipes",)

    model: str
    samples: int
    by: Literal["outputs", "running statistics"] | None
    references: tuple[str, ...]
    ranked: tuple[Ranked, ...]
    verdict: Verdict
    notes: tuple[str, ...] = ()

    @property
    def sureness(self) -> str:
        """`sure`, `likely` or `undecided`."""
        return self.verdict.sureness

    @property
    def answer(self) -> Preset | None:
        """The steps to use, None where that is undecided.

        Where nothing tells how to resize, it is what was asked for or recorded, if its numbers are right, or what the
        preset of these numbers does.
        """
        if self.sureness == "undecided":
            return None
        best = self.ranked[0].candidate
        if self.verdict.resize != "undecided":
            return best.preset
        alike = [row.candidate for row in self.ranked if _is_alike(row.candidate, best)]
        used = next((candidate for candidate in alike if candidate.is_used), None)
        named = next((candidate for candidate in alike if candidate.preset.name == candidate.scale), None)
        return (used or named or best).preset

    @property
    def used(self) -> Ranked | None:
        """What was asked for, or is recorded in the model, where it was tried."""
        return next((row for row in self.ranked if row.candidate.is_used), None)

    @property
    def is_used_wrong(self) -> bool:
        """Whether it is decided, and what was asked for or recorded has another scale or order."""
        if self.sureness == "undecided" or self.used is None:
            return False
        return not _is_alike(self.used.candidate, self.ranked[0].candidate)

    @property
    def text(self) -> str:
        """The verdict, for people."""
        answer = self.answer
        if answer is None:
            return f"undecided: {self.verdict.why}"
        return f"`--preprocess {as_option(answer)}` ({self.sureness})"

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.preparation/1`, ready for JSON."""
        answer = self.answer
        return {
            "schema": "onnxscope.preparation/1",
            "model": self.model,
            "samples": self.samples,
            "by": self.by,
            "references": list(self.references),
            "sureness": self.sureness,
            "preprocess": None if answer is None else answer.record,
            "verdict": {"scale": self.verdict.scale, "order": self.verdict.order, "resize": self.verdict.resize},
            "why": self.verdict.why,
            "recipes": [_row(row) for row in self.ranked],
        }

    def table(self) -> Table:
        """The nearest, and what was asked for."""
        rows = [row for place, row in enumerate(self.ranked) if place < _SHOWN or row.candidate.is_used]
        cells = [
            (
                row.candidate.scale,
                row.candidate.preset.order,
                row.candidate.resize,
                _rounded(row.distance.distance),
                _rounded(row.distance.shift),
                _rounded(row.distance.spread),
                "used" if row.candidate.is_used else "",
            )
            for row in rows
        ]
        distance = "relative error" if self.by == "outputs" else "distance (nats)"
        columns = ("scale of", "order", "resize", distance, "shift (deviations)", "spread (log ratio)", "")
        return Table(f"{self.model}, {counted(self.samples, 'picture')}: {self.text}", columns, tuple(cells))

    def __repr__(self) -> str:
        return self.table().text()


def as_option(preset: Preset) -> str:
    """What `--preprocess` takes: the name of one of ours, else the recipe in JSON, between quotes for a shell."""
    if preset == PRESETS.get(preset.name):
        return preset.name
    plain = Preset(name=preset.name).to_dict()
    steps = {key: value for key, value in preset.to_dict().items() if plain.get(key) != value and key != "name"}
    return f"'{json.dumps(steps)}'"


def _is_alike(one: Candidate, other: Candidate) -> bool:
    return one.has_numbers_of(other) and one.preset.order == other.preset.order


def _row(row: Ranked) -> Mapping[str, Any]:
    numbers = (row.distance.distance, row.distance.shift, row.distance.spread)
    distance, shift, spread = (number if number is not None and np.isfinite(number) else None for number in numbers)
    return {
        "preprocess": row.candidate.preset.record,
        "scale": printable(row.candidate.scale),
        "order": row.candidate.preset.order,
        "resize": row.candidate.preset.resize,
        "used": row.candidate.is_used,
        "distance": distance,
        "shift": shift,
        "spread": spread,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.3g}")
