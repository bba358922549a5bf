"""The commands. stdout carries the result, stderr notes and errors.

Exit codes: 0 done; 1 `diff`, `check`, `drift`, `bisect` or `convert --verify` found a difference, or something that
cannot be judged; 2 the work could not be done, usage errors included. Nothing heavier than click is imported before a
command runs.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from onnxscope._version import __version__
from onnxscope.cli.bisect import bisect
from onnxscope.cli.check import check
from onnxscope.cli.convert import convert
from onnxscope.cli.demo import demo
from onnxscope.cli.diff import diff
from onnxscope.cli.doctor import doctor
from onnxscope.cli.drift import drift
from onnxscope.cli.extract import extract
from onnxscope.cli.features import features
from onnxscope.cli.inspect import inspect
from onnxscope.cli.recipe import recipe
from onnxscope.cli.report import report
from onnxscope.cli.sensitivity import sensitivity
from onnxscope.cli.snapshot import snapshot
from onnxscope.cli.stats import stats
from onnxscope.cli.weights import weights
from onnxscope.terminal.feeding import BadValue
from onnxscope.terminal.options import ALONE
from onnxscope.terminal.streams import PIPE_CLOSED, fail, is_of_stdout, open_streams, tell_of_stdout
from onnxscope.terminal.supervision import leave

__all__ = ["cli", "main", "run"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; the console script's entry point."""
    open_streams()
    code = run(sys.argv[1:] if arguments is None else list(arguments), alone=True)
    if code == PIPE_CLOSED and hasattr(signal, "SIGPIPE"):  # end as any program does whose reader goes away
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(code)


def run(arguments: list[str], *, alone: bool = False) -> int:
    """Run one command and return its exit code. Errors become one line, and a hint where there is one.

    Args:
        arguments: The command's name, its options and arguments.
        alone: Whether the process is there for this command, which then may run in another one; see `supervision`.
    """
    here = os.getpid()
    try:
        code = _run(arguments, alone)
    except BaseException:
        if os.getpid() != here:
            traceback.print_exc()
            leave(2)
        raise
    if os.getpid() != here:  # what has called us goes on in the process that waits
        leave(code)
    return code


def _run(arguments: list[str], alone: bool) -> int:
    if sys.stdout is None:
        return fail("cannot write the result (it is closed): standard output", None)
    try:
        code = cli.main(args=arguments, prog_name="onnxscope", standalone_mode=False, obj=ALONE if alone else None)
        sys.stdout.flush()
    except click.ClickException as error:
        if not arguments:  # whose message is the help
            click.echo(error.format_message(), err=True)
            return 2
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "onnxscope"
        step = error.hint if isinstance(error, BadValue) else None
        return fail(error.format_message().rstrip("."), step or f"`{command} --help` shows how it is used")
    except OSError as error:
        if not is_of_stdout(error):
            raise
        return tell_of_stdout(error)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", None)
    return code if isinstance(code, int) else 0  # what a command's context exited with


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="onnxscope")
def cli() -> None:
    """See what is inside an ONNX model: what each layer computes, and what is in its weights."""


for _command in (
    inspect,
    weights,
    features,
    stats,
    diff,
    snapshot,
    check,
    drift,
    bisect,
    report,
    recipe,
    convert,
    extract,
    sensitivity,
    demo,
    doctor,
):
    cli.add_command(_command)
