"""How much is run: every row on every sample where that is cheap, else what so many passes of the model allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxscope.narrowing.formats import Format
from onnxscope.narrowing.measuring import Effect, Row
from onnxscope.narrowing.narrowed_runs import NarrowedRuns

__all__ = ["PASSES_PER_LAYER", "RunPlan", "choose_rows", "is_small", "plan_runs"]

PASSES_PER_LAYER = 0.6
"""How often all samples may go through the whole model, for each of its layers and whatever the formats are."""
_SMALL_WORK = 2e11  # multiply-adds: ten seconds or so
_SMALL_COUNT = 50_000  # runs of segments
_FEW = 4  # samples of a row that is run where not every one is
_GAINS = 32  # of so many samples one is for gains


@dataclass(frozen=True)
class RunPlan:
    """What is run.

    Attributes:
        gains: Samples that gains are from.
        rows: Samples that a row is run on.
        all_rows: Whether every row is run.
        passes: What rows may take, in passes over all samples, where not every one is run.
    """

    gains: int
    rows: int
    all_rows: bool
    passes: float


def is_small(runs: NarrowedRuns, samples: int, times: float, batch: int) -> bool:
    """Whether it takes ten seconds or so to run all samples through what is behind every layer.

    Args:
        runs: The model.
        samples: How many there are.
        times: How often.
        batch: Samples of a run.
    """
    behind = sum(map(runs.share_behind, runs.layers))
    segments = len(runs.segments.parts) * len(runs.layers) / 2 * math.ceil(samples / batch)
    return runs.segments.total_work * samples * behind * times <= _SMALL_WORK and segments * times <= _SMALL_COUNT


def plan_runs(runs: NarrowedRuns, formats: Sequence[Format], samples: int, batch: int, spent: float) -> RunPlan:
    """Choose how many samples and rows are run.

    Args:
        runs: The model; nothing is run.
        formats: Which ones.
        samples: How many samples errors are measured on.
        batch: Samples of a run.
        spent: Passes that ranges have taken.
    """
    if is_small(runs, samples, len(formats) + 1, batch):
        return RunPlan(samples, samples, True, math.inf)
    behind, forms = sum(map(runs.share_behind, runs.layers)), len(formats)
    gains = min(samples, max(1, samples // _GAINS))
    left = PASSES_PER_LAYER * len(runs.layers) - spent
    left -= forms + 1  # the whole model in each format, and as it is
    left -= (behind + 1) * gains / samples
    rows = min(samples, int(samples * left / (behind * forms + 1)))
    if rows:  # a run on a single sample tells more than any gain
        return RunPlan(gains, rows, True, math.inf)
    rows = min(_FEW, samples)
    return RunPlan(gains, rows, False, left - forms * gains / samples - rows / samples)


def choose_rows(runs: NarrowedRuns, predicted: Mapping[Row, Effect], plan: RunPlan, samples: int) -> list[Row]:
    """Choose which rows are run: those that have to be, and the worst of each format in turn.

    Args:
        runs: The model.
        predicted: All rows.
        plan: Where not every row is run.
        samples: How many samples errors are measured on.
    """
    forms = dict.fromkeys(form for _, form in predicted)
    ranks: dict[Row, int] = {}
    for form in forms:
        rows = [row for row in predicted if row[1] is form]
        rows.sort(key=lambda row: -predicted[row].output.relative_noise)
        ranks.update((row, rank) for rank, row in enumerate(rows))
    chosen, left = [], plan.passes
    for row in sorted(predicted, key=lambda row: (not _has_to_run(runs, row, predicted[row]), ranks[row])):
        cost = runs.share_behind(row[0]) * plan.rows / samples
        if _has_to_run(runs, row, predicted[row]) or cost <= left:
            chosen.append(row)
            left -= cost
    return chosen


def _has_to_run(runs: NarrowedRuns, row: Row, effect: Effect) -> bool:
    return effect.own.broken > 0 or bool(runs.must_run(*row, effect.own.noise_power))
