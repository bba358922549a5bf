"""The command `stats`: statistics of activations over a whole dataset."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxscope.base.files import partial_path
from onnxscope.base.text import counted, samples_text
from onnxscope.errors import OnnxscopeError, RunError
from onnxscope.terminal.feeding import dim_option, feeding_options, input_option, replace_option
from onnxscope.terminal.options import (
    Presentation,
    at_option,
    batch_options,
    common,
    custom_ops_option,
    force_option,
    model_argument,
    select_option,
)
from onnxscope.terminal.outputs import output_option
from onnxscope.terminal.row_order import order_options
from onnxscope.terminal.streams import StatusLine

if TYPE_CHECKING:
    from onnxscope.base.run_options import FeedingOptions
    from onnxscope.profiling.dataset_statistics import DatasetStatistics

__all__ = ["stats"]

_SHOWN_EVERY_S = 0.2


@click.command()
@model_argument
@input_option(required=True)
@select_option
@at_option
@replace_option
@feeding_options
@output_option("PROFILE.json", ".profile.json", "The mergeable profile")
@force_option
@batch_options
@click.option(
    "--by",
    metavar="token[:IDS]|position",
    help="Also by special and ordinary tokens, by tokens named, or by position.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What an unreadable sample does.",
)
@click.option("--exact", is_flag=True, help="Count zeros and quantiles from every element, not from a sample.")
@click.option(
    "--memory-budget",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="MIB",
    help="What raw values may take, where there is no probe for them.",
)
@click.option("--engine", default="local", show_default=True, metavar="local|ray", help="Where shards run.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many shards at a time.")
@click.option("--ray-address", metavar="ADDRESS", help="Of an existing Ray cluster, or auto.")
@click.option("--resume", is_flag=True, help="Go on from what an interrupted run left beside the output.")
@dim_option
@custom_ops_option
@order_options("layer", "mean", "std", "min", "1 %", "median", "99 %", "max", "zeros")
@common
def stats(
    model: Path,
    inputs: tuple[str, ...],
    output: Path,
    force: bool,
    select: tuple[str, ...],
    at: Literal["post", "pre"],
    batch_size: int,
    limit: int | None,
    by: str | None,
    on_error: Literal["fail", "skip"],
    exact: bool,
    memory_budget: int,
    engine: str,
    workers: int,
    ray_address: str | None,
    resume: bool,
    replace: dict[str, str],
    feeding: FeedingOptions,
    dims: dict[str, int],
    custom_ops: tuple[Path, ...],
    shown: Presentation,
) -> None:
    """Compute statistics of every layer and channel of MODEL over a dataset, and what is odd about them."""
    from onnxscope.profiling.dataset_run import stats as analyze

    progress = _Progress() if sys.stderr.isatty() and not shown.quiet else None
    try:
        result = analyze(
            model,
            list(inputs),
            select=select,
            at=at,
            by=by,
            **feeding,
            batch_size=batch_size,
            limit=limit,
            custom_ops=custom_ops,
            dims=dims,
            on_error=on_error,
            exact=exact,
            memory_budget_bytes=memory_budget << 20,
            engine=engine,
            workers=workers,
            address=ray_address,
            output=output,
            force=force,
            resume=resume,
            replace=replace,
            progress=None if progress is None else progress.reach,
        )
    except KeyboardInterrupt as stop:
        partial = partial_path(output)
        hint = "the same command with `--resume` goes on from there" if os.path.exists(partial) else None
        detail = (
            f"; what is known so far is in {partial}" if os.path.exists(partial) else " before the first shard was done"
        )
        raise RunError(f"interrupted{detail}", hint=hint) from stop
    except OnnxscopeError as error:
        if error.hint is None and os.path.exists(partial_path(output)):
            error.hint = "the same command with `--resume` goes on behind the last shard that is done"
        raise
    finally:
        if progress is not None:
            progress.clear()
    for remark in result.notes:
        shown.note(remark)
    shown.show(result)
    if shown.form == "table" and result.groups is not None:
        click.echo()
        shown.show_table(result.groups.table())
    if shown.form == "table" and result.findings:
        click.echo()
        shown.show_table(result.findings_table())
    _say(result, output, shown)


def _say(result: DatasetStatistics, output: Path, shown: Presentation) -> None:
    profile = result.profile
    for position, name, fault in profile.skipped[:3]:
        shown.note(f"skipped sample {position}, {name}: {fault}")
    if len(profile.skipped) > 3:
        shown.note(f"skipped {counted(len(profile.skipped) - 3, 'more sample')}; all of them are in {output}")
    for remark, count in profile.remarks.items():
        shown.note(f"{counted(count, 'sample')}: {remark}")
    for name, reason in profile.unreachable:
        shown.note(f"not reached: {name}: {reason}")
    if result.groups is not None and result.groups.without:
        named = ", ".join(result.groups.without[:3]) + (", …" if len(result.groups.without) > 3 else "")
        shown.note(f"no axis of tokens that are known in {counted(len(result.groups.without), 'tap')}: {named}")
    sampled = [tap.sampled for tap in result if tap.sampled is not None]
    if sampled:
        shown.note(
            f"zeros and quantiles of {counted(len(sampled), 'tap')} rest on a sample of their elements, at least "
            f"{min(sampled):.2g} of them; --exact counts all",
        )
    shown.note(f"the profile is in {output}; peak memory {_peak_mib():,.0f} MiB")


def _peak_mib() -> float:
    """The most memory that this process has had; workers of Ray have their own."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class _Progress(StatusLine):
    """How many samples are done, how many a second, and the time left."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._first: int | None = None
        self._shown_s = 0.0

    def reach(self, done: int, total: int) -> None:
        """Show that so many of all samples are done."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._start_s = done, now
        if now - self._shown_s < _SHOWN_EVERY_S and done < total:
            return
        self._shown_s = now
        rate = (done - self._first) / max(now - self._start_s, 1e-9)
        time_left = f", {_duration(round((total - done) / rate))} left" if rate else ""
        self(f"{done:,} of {samples_text(total)}, {rate:,.1f} a second{time_left}")


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
