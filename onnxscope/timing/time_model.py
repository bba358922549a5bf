"""Run a model as it is, and say what takes the time: `time_model`."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError, RunError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, open_session
from onnxscope.selection.costs import Costs
from onnxscope.timing.covered_nodes import covered_nodes
from onnxscope.timing.layer_times import LayerTime, Timing
from onnxscope.timing.profile_events import ModelRun, read_profile
from onnxscope.timing.run_graph import NamedModel, RunNode, name_nodes, nodes_of_calls, read_run_graph
from onnxscope.timing.time_shares import Owner, Shares, execution_order, is_run_of, owners_of, share_out

__all__ = ["REPEATS", "time_feeds", "time_model"]

Array = np.ndarray[Any, Any]

REPEATS = 10
"""Runs that are measured, where nobody says how many."""
_WARM_UP = 2  # the first allocates value by value, the second in the one block that the first has planned
_BUDGET_S = 60.0  # fewer runs of a model that takes longer
_FEWEST = 3


def time_model(model: Model, inputs: Any, options: RunOptions, *, repeats: int = REPEATS) -> Timing:
    """Measure what each layer takes in one run of what is given.

    Args:
        model: Loaded to be run: see `load_to_run`.
        inputs: What it is fed; of several runs (the model fixes its batch, or has states) the first one counts.
        options: How it is fed, and with how many threads it runs.
        repeats: How many runs are measured, after two that are not; fewer where they take more than a minute.

    Raises:
        InputError: The inputs do not fit the model, or no run is to be measured.
        RunError: onnxruntime fails.
    """
    if repeats < 1:
        raise InputError(f"{repeats} repeats measure nothing", hint="give at least 1")
    prepared = open_dataset(inputs, model, options).whole(apart=True)
    runs = prepared.runs()
    feeds = next(runs)
    notes = list(prepared.notes)
    if next(runs, None) is not None:
        notes.append("what was given takes several runs: the first one is measured")
    return time_feeds(model, feeds, threads=options.threads, repeats=repeats, notes=notes, record=prepared.record)


def time_feeds(
    model: Model,
    feeds: Mapping[str, Array],
    *,
    threads: int = 0,
    repeats: int = REPEATS,
    notes: Sequence[str] = (),
    record: Mapping[str, Any] | None = None,
) -> Timing:
    """Measure what each layer takes in one run; see `time_model`.

    Args:
        model: Its weights are read where they lie.
        feeds: For every input an array.
        threads: As for `open_session`.
        repeats: As for `time_model`.
        notes: Remarks for people on what is fed.
        record: The `input` of results.

    Raises:
        RunError: onnxruntime fails.
    """
    named = name_nodes(model)
    with tempfile.TemporaryDirectory(prefix="onnxscope-") as name:
        folder = Path(name)
        nodes = read_run_graph(named, folder, threads)
        session, runs, plain_s = _measured(named, feeds, folder, threads, repeats)
    main = next((run.calls for run in runs if run.calls), ())
    if nodes is None or not is_run_of(main, nodes):
        nodes = nodes_of_calls(main, _taken(named, session))
    whole = [run for run in runs if is_run_of(run.calls, nodes)]
    if len(whole) <= _WARM_UP:
        raise RunError(f"onnxruntime has left no whole profile of a run: {model.name}")
    costs = Costs(model, _sizes(model, feeds))
    covers = covered_nodes(named, nodes)
    owners = owners_of(model, covers, costs)
    shares = share_out(whole, _WARM_UP, nodes, owners)
    samples = _fixed_samples(model, feeds)
    return Timing(
        model=model.to_dict(),
        input=None if record is None else dict(record),
        run_s=plain_s,
        profiled_s=statistics.median(run.duration_us for run in whole[_WARM_UP:]) / 1e6,
        repeats=len(whole) - _WARM_UP,
        rows=tuple(_rows(model, shares, plain_s, costs, samples)),
        inside=_inside(model, covers, owners, shares),
        peak_bytes=shares.peak_bytes,
        notes=tuple(notes),
        places={owner: place for place, owner in enumerate(_ordered(model, shares))},
    )


def _measured(
    named: NamedModel, feeds: Mapping[str, Array], folder: Path, threads: int, repeats: int
) -> tuple[Session, list[ModelRun], float]:
    """The profile of some runs, and the median seconds of as many without one, in the same session."""

    def configure(options: Any) -> None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")

    session = open_session(named.model, named.proto, threads=threads, configure=configure)
    session.timed_runs(feeds, _WARM_UP)
    session.timed_runs(feeds, repeats, fewest=_FEWEST, budget_s=_BUDGET_S)
    runs = read_profile(session.end_profiling())
    session.timed_runs(feeds, 1)  # the first run after that is slower
    return session, runs, statistics.median(session.timed_runs(feeds, repeats, fewest=_FEWEST, budget_s=_BUDGET_S))


def _taken(named: NamedModel, session: Session) -> list[tuple[Node, ...]]:
    parts = [[node for name, _ in part.nodes for node in named.named_in(name)] for part in session.assignments]
    return [
        tuple(part)
        for part, told in zip(parts, session.assignments, strict=True)
        if told.provider != "CPUExecutionProvider"
    ]


def _ordered(model: Model, shares: Shares) -> list[Owner]:
    order: dict[Owner, int] = {node: place for place, node in enumerate(execution_order(model))}
    return sorted(shares.microseconds, key=lambda owner: order.get(owner, -1))


def _rows(model: Model, shares: Shares, run_s: float, costs: Costs, samples: int) -> list[LayerTime]:
    """A row for each layer and node, for what is of none, and for what no node took; together they are the run.

    The profiler's own work is in the durations of calls, as long for each. It shows where all calls together take
    longer than a run without it. What then is left between both is how much the machine's speed has changed.
    """
    total_us = sum(shares.microseconds.values()) + shares.unknown_us
    calls = sum(shares.calls.values()) + shares.unknown_calls
    run_us = run_s * 1e6
    each_us = min(max(total_us - run_us, 0.0) / calls, shares.least_us) if calls else 0.0
    nodes_us = max(total_us - each_us * calls, 0.0)
    outside_us = min(shares.outside_us, max(run_us - nodes_us, 0.0))
    scale = run_us / (nodes_us + outside_us) if nodes_us + outside_us else 0.0

    def seconds(took_us: float, calls: float) -> float:
        return max(took_us - each_us * calls, 0.0) * scale / 1e6

    rows: list[LayerTime] = []
    weighted = set(model.names.weighted)
    for owner in _ordered(model, shares):
        took_s = seconds(shares.microseconds[owner], shares.calls[owner])
        if isinstance(owner, str):
            rows.append(LayerTime("provider", printable(owner), "", "", took_s, run_s, None, None))
            continue
        cost = costs.of(owner)
        rows.append(
            LayerTime(
                kind="layer" if owner in weighted else "node",
                layer=model.names.layers[owner],
                op_type=owner.op_type,
                value=next(filter(None, owner.outputs), ""),
                seconds=took_s,
                run_s=run_s,
                multiply_accumulates=None if cost is None else cost * samples,
                in_use_bytes=shares.in_use_bytes.get(owner),
            )
        )
    if shares.unknown_calls:
        took_s = seconds(shares.unknown_us, shares.unknown_calls)
        text = f"{counted(math.ceil(shares.unknown_calls), 'node')} of no layer"
        rows.append(LayerTime("unknown", text, "", "", took_s, run_s, None, None))
    rows.append(LayerTime("outside", "outside nodes", "", "", outside_us * scale / 1e6, run_s, None, None))
    return rows


def _inside(
    model: Model, covers: Mapping[RunNode, Sequence[Node]], owners: Mapping[RunNode, Owner], shares: Shares
) -> dict[Node, Owner]:
    """The nodes of the model that have no time of their own, by the layer whose time theirs is in."""
    return {
        original: owners[node]
        for node, originals in covers.items()
        if node in owners
        for original in originals
        if original is not owners[node] and original not in shares.microseconds
    }


def _sizes(model: Model, feeds: Mapping[str, Array]) -> dict[str, int]:
    """The sizes of open dimensions of the inputs in what is fed; without those of inputs of unknown rank."""
    sizes: dict[str, int] = {}
    for spec in model.declared_inputs:
        fed = feeds.get(spec.name)
        shape = getattr(fed, "shape", ())
        if spec.shape is not None and len(spec.shape) == len(shape):
            sizes.update(
                (dim or f"{spec.name}:{axis}", size)
                for axis, (dim, size) in enumerate(zip(spec.shape, shape, strict=True))
                if isinstance(dim, str) and size
            )
    return sizes


def _fixed_samples(model: Model, feeds: Mapping[str, Array]) -> int:
    """By what multiply-accumulates of one sample are to be multiplied: the batch, where the model fixes it."""
    for spec in model.declared_inputs:
        if spec.shape and isinstance(spec.shape[0], int) and spec.name in feeds:
            return spec.shape[0] if spec.shape[0] > 0 else 1
        if spec.shape:
            return 1
    return 1
