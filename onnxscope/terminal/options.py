"""Options that commands share, and how they show results, notes and faults."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from onnxscope.base.files import partial_path
from onnxscope.base.limits import MAX_NODES, MEMORY_LIMIT, Limits, default_memory_bytes
from onnxscope.base.text import plain_shapes, printable
from onnxscope.errors import OnnxscopeError
from onnxscope.terminal.row_order import RowOrder
from onnxscope.terminal.streams import fail, is_of_stdout, tell_of_stdout
from onnxscope.terminal.supervision import Ended, NoFolderError, can_supervise, supervised, was_interrupted

if TYPE_CHECKING:
    from onnxscope.base.tables import Format, Result, Table

__all__ = [
    "ALONE",
    "Presentation",
    "at_option",
    "batch_options",
    "batch_size_option",
    "channel_options",
    "common",
    "custom_ops_option",
    "force_option",
    "model_argument",
    "repeats_option",
    "select_option",
]

ALONE = object()
"""What the context of the commands holds where each has the process for itself."""
_FILES = ("model", "a", "b", "source")  # options and arguments that say what a command is about
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_LEAST_BYTES = 128 << 20
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_MEMORY_HELP = "End at so much memory, such as 4G; four fifths of the machine's or container's by default."
_TIMEOUT_HELP = "End after so many seconds; never by default."
_Command = TypeVar("_Command", bound=Callable[..., Any])

_SELECT_HELP = (
    "What to look at: a layer or module, a glob, op:Conv, value:NAME, node:NAME, rank:4, re:REGEX;"
    " ! excludes (a parameter by itself, its layer stays)."
)


@dataclass(frozen=True)
class Presentation:
    """How a command shows its result, and what else it says.

    Attributes:
        form: How stdout carries the result.
        quiet: Whether notes on stderr are left out.
        debug: Whether a fault ends with a traceback.
        is_wide: Whether tables have all their columns and names, however wide the terminal is.
        order: Which rows of the result's own table are shown, and in which order.
    """

    form: Format
    quiet: bool
    debug: bool
    is_wide: bool = False
    order: RowOrder = field(default_factory=RowOrder)

    def show(self, result: Result) -> None:
        """Print a result on stdout."""
        from onnxscope.base.tables import render

        if self.order.column is not None and self.order.column not in result.table().columns:
            self.note(f"not sorted: this table has no column '{self.order.column}'")
        if self.form == "table":
            self.show_table(self.order.of(result.table()))
        else:
            click.echo(render(result, self.form, self.order.of), nl=False)

    def show_table(self, table: Table) -> None:
        """Print a table on stdout, for a person or for a pipe."""
        from onnxscope.base.fitted_tables import as_shown, can_show_signs, show_table

        if sys.stdout.isatty():
            show_table(table, is_wide=self.is_wide)
            return
        longest = {"max_cell": sys.maxsize} if self.is_wide else {}
        click.echo(as_shown(table.text(is_plain=not can_show_signs(), **longest)), nl=False)

    @staticmethod
    def tell(text: str, *, indent: int = 0) -> None:
        """Print lines of text on stdout, broken between words where the terminal is narrower.

        Args:
            text: The lines.
            indent: Spaces before what is left of a line that was broken.
        """
        from onnxscope.base.fitted_tables import as_shown, can_show_signs, fit_text

        for line in (text if can_show_signs() else plain_shapes(text)).splitlines():
            lines = fit_text(line, shutil.get_terminal_size().columns, indent=indent) if sys.stdout.isatty() else ()
            click.echo(as_shown("\n".join(lines or [printable(line)])))

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        if not self.quiet:
            click.echo(printable(text), err=True)

    @contextlib.contextmanager
    def telling_faults(self, options: Mapping[str, Any]) -> Iterator[None]:
        """End with a line about what could not be done, and a hint where there is one, instead of a traceback.

        Args:
            options: What the command was given, its files among them.
        """
        try:
            yield
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            if is_of_stdout(error):
                raise click.exceptions.Exit(tell_of_stdout(error)) from error
            if self.debug:
                raise
            raise click.exceptions.Exit(_tell(error, options)) from error


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command, which is given a `Presentation` for them."""

    @functools.wraps(command)
    def presented(
        *,
        form: Format,
        quiet: bool,
        debug: bool,
        wide: bool,
        isolation: Literal["auto", "process", "none"],
        timeout: float | None,
        memory_limit: int | None,
        max_nodes: int | None,
        **options: Any,
    ) -> None:
        shown = Presentation(form, quiet, debug, wide, RowOrder(options.pop("column", None), options.pop("top", None)))

        def work() -> None:
            limits = {MEMORY_LIMIT: memory_limit, MAX_NODES: max_nodes}
            with shown.telling_faults(options), _environment(limits):
                command(shown=shown, **options)

        alone = click.get_current_context().find_root().obj is ALONE
        if isolation == "none" or (isolation == "auto" and not alone) or not can_supervise():
            work()
            return
        limits = Limits(timeout, default_memory_bytes() if memory_limit is None else memory_limit)
        try:
            ended = supervised(work, limits, alone=alone)
        except NoFolderError as error:
            if isolation == "process":
                fault = f"cannot make a folder for temporary files ({error})"
                raise click.exceptions.Exit(fail(fault, "`TMPDIR` names another place")) from error
            work()
            return
        if ended is not None:
            raise click.exceptions.Exit(_end(ended, options))

    for option in (
        click.option("--debug", is_flag=True, help="Show a traceback when something fails."),
        click.option("-q", "--quiet", is_flag=True, help="No notes on stderr."),
        click.option(
            "--isolation",
            type=click.Choice(["auto", "process", "none"]),
            default="auto",
            show_default=True,
            help="Whether the work is done in a process of its own, which can be killed; auto does where it can.",
        ),
        click.option(
            "--max-nodes", type=click.IntRange(1), metavar="N", help="Read models of so many nodes; 250,000 by default."
        ),
        click.option("--memory-limit", metavar="SIZE", callback=_read_size, help=_MEMORY_HELP),
        click.option("--timeout", type=float, callback=_read_time, metavar="S", help=_TIMEOUT_HELP),
        click.option(
            "--format",
            "form",
            type=click.Choice(["table", "json", "csv", "md"]),
            default="table",
            show_default=True,
            help="How stdout carries the result.",
        ),
        click.option("--wide", is_flag=True, help="Tables with all their columns and names, wider than the terminal."),
    ):
        presented = option(presented)
    return presented


@contextlib.contextmanager
def _environment(limits: Mapping[str, int | None]) -> Iterator[None]:
    """Hand limits on to whatever reads and runs a model for this command, in other processes too."""
    given = {name: str(value) for name, value in limits.items() if value is not None}
    before = {name: os.environ[name] for name in given if name in os.environ}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]
        os.environ.update(before)


def _read_time(context: click.Context, option: click.Parameter, given: float | None) -> float | None:
    if given is not None and not 0 < given < math.inf:
        raise click.BadParameter(f"no number of seconds above 0: {given}", context, option)
    return given


def _read_size(context: click.Context, option: click.Parameter, given: str | None) -> int | None:
    found = None if given is None else _SIZE.fullmatch(given)
    if given is not None and found is None:
        raise click.BadParameter(f"not a size: {given}; for example 800M or 4G", context, option)
    size = None if found is None else int(float(found[1]) * (1 << _SHIFTS[found[2].upper()]))
    if size is not None and size < _LEAST_BYTES:
        raise click.BadParameter(f"no command runs in {given}; for example 800M or 4G", context, option)
    return size


def _end(ended: Ended, options: Mapping[str, Any]) -> int:
    """Say why a command was ended, where it cannot say so itself any more, and return the exit code."""
    code = 2 if ended.code is None else ended.code
    if ended.death is not None:
        hint = ended.death.hint
        if options.get("resume") is not None and os.path.exists(partial_path(options["output"])):
            hint = "the same command with `--resume` goes on behind the last shard that is done"
        code = fail(_naming(ended.death.reason, options), hint)
    if ended.signal not in (None, signal.SIGINT):
        signal.signal(ended.signal, signal.SIG_DFL)
        os.kill(os.getpid(), ended.signal)
    return code


def _naming(message: str, options: Mapping[str, Any]) -> str:
    """A message with the files that the command is about behind it, unless it names one that the command was given."""
    values = [(key, one) for key, value in options.items() for one in (value if isinstance(value, tuple) else (value,))]
    given = [str(value) for key, value in values if isinstance(value, Path) or key in ("inputs", "source")]
    if any(name in message for name in (printable(os.path.basename(path)) for path in given) if name):
        return message
    files = [str(options[name]) for name in _FILES if options.get(name) is not None]
    return f"{message}: {' and '.join(files)}" if files else message


def model_argument(command: _Command) -> _Command:
    """The model's file."""
    return click.argument("model", type=click.Path(path_type=Path))(command)


def custom_ops_option(command: _Command) -> _Command:
    """What onnxruntime loads beside its own operators."""
    return click.option(
        "--custom-ops",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="LIB",
        help="A library of custom operators for onnxruntime; its code runs.",
    )(command)


def force_option(command: _Command) -> _Command:
    """Whether what someone else wrote may be replaced."""
    text = "Also replace files that this command did not write; never an input."
    return click.option("--force", is_flag=True, help=text)(command)


def select_option(command: _Command) -> _Command:
    """Which layers or values."""
    return click.option("-s", "--select", multiple=True, metavar="SELECTOR", help=_SELECT_HELP)(command)


def batch_options(command: _Command) -> _Command:
    """How many samples, and how many at a time."""
    for option in (
        click.option("--limit", type=click.IntRange(1), help="Only the first so many samples."),
        batch_size_option,
    ):
        command = option(command)
    return command


def batch_size_option(command: _Command) -> _Command:
    """How many samples at a time."""
    return click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Samples of a run.")(
        command
    )


def repeats_option(command: _Command) -> _Command:
    """How many runs are measured."""
    return click.option(
        "--repeats",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        metavar="N",
        help="How many runs --time measures, after two that warm up; the median counts.",
    )(command)


def at_option(command: _Command) -> _Command:
    """Where a layer is looked at."""
    return click.option(
        "--at",
        type=click.Choice(["post", "pre"]),
        default="post",
        show_default=True,
        help="After or before the activation.",
    )(command)


def channel_options(command: _Command) -> _Command:
    """Which channels a picture shows."""
    for option in (
        click.option(
            "--rank",
            type=click.Choice(["index", "std", "max", "mean"]),
            default="index",
            show_default=True,
            help="Which channels: the first, or those with the largest value of this.",
        ),
        click.option(
            "--channels", type=click.IntRange(1), default=12, show_default=True, help="Channels in a picture."
        ),
    ):
        command = option(command)
    return command


def _tell(error: Exception, options: Mapping[str, Any]) -> int:
    """Print what could not be done, and return its exit code."""
    if was_interrupted() and not str(error).startswith("interrupted"):
        return fail("interrupted", None)
    if isinstance(error, OnnxscopeError):
        return fail(_naming(str(error), options), error.hint)
    if isinstance(error, MemoryError):
        return fail(_naming("not enough memory", options), "`--memory-limit` allows more; `--select` takes less")
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return fail(f"unexpected {text[:300]}", "this is a fault of onnxscope; --debug shows where")
