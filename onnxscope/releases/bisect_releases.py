"""Which release of onnxruntime changed a model's answers: `bisect()`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from onnxscope.base import option_types
from onnxscope.base.last_words import doing
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError, OutputError
from onnxscope.model.loading import CustomOps
from onnxscope.releases.bisection import Bisection
from onnxscope.releases.environment import Environment
from onnxscope.releases.pip_environments import Environments, PipEnvironments, read_package
from onnxscope.releases.release_range import chosen_releases, has_early_end, read_range
from onnxscope.releases.release_search import ReleaseSearch
from onnxscope.releases.trial_case import TrialCase
from onnxscope.selection.feeding_recipes import load_to_run

__all__ = ["bisect", "search_releases"]


@option_types.checked
def bisect(
    model: Any,
    inputs: Any,
    *,
    release: str | None = None,
    package: str = "onnxruntime",
    python: str | os.PathLike[str] | None = None,
    against_python: str | os.PathLike[str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    run_timeout_s: float = 600.0,
    limit: int | None = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> Bisection:
    """Find the release of onnxruntime with which a model's answers change, or compare two environments.

    Every release is installed by pip, as it is set up for the user, into an environment of its own, and runs the model
    there in a process of its own: as it is, and with its layers as outputs. Both ends are tried first. Where they
    differ by more than the first one's noise, as `diff` judges it, or one of them crashes, halving finds two
    neighbours.

    Args:
        model: A path, a `ModelProto` or a `Model`.
        inputs: What it is fed; see `open_dataset`.
        release: `FIRST..LAST`. Without the last one up to the release that is installed here, or where none is, to the
            newest; without the first one from the oldest with a wheel for this Python.
        package: The package that brings onnxruntime.
        python: The interpreter that environments are made of; this one by default. Without `release` the first of the
            two environments that are compared.
        against_python: The second environment's interpreter, in place of `release`; this one by default.
        keep: The folder in which environments are kept and found again. By default they are temporary.
        run_timeout_s: Seconds that one release may take for all its runs of the model.
        limit: Only the first so many samples.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads: their code runs.
        dims: Sizes for open dimensions of the model's inputs.
        feeding: As in `FeedingOptions`.

    Raises:
        InputError: There is no such range, release, package or Python, or the inputs do not fit.
        ModelError: The model cannot be read.
        OutputError: Environments cannot be written.
        RunError: pip does not reach its index, or fewer than two releases can be tried.
    """
    pythons = tuple(None if one is None else _interpreter(one) for one in (python, against_python))
    if release is None and pythons == (None, None):
        raise InputError(
            "nothing says which releases", hint="`--release 1.20.1..1.32.0`, or two environments: `--python`"
        )
    if release is not None and against_python is not None:
        raise InputError("releases are halved, or two environments compared: not both", hint="leave one of them out")
    if keep is not None:
        option_types.path("keep", keep)
    if not isinstance(run_timeout_s, int | float) or not 0 < run_timeout_s < float("inf"):
        raise InputError(f"no number of seconds above 0: {run_timeout_s!r}", hint="for example `--run-timeout 60`")
    options = RunOptions(**feeding, limit=limit, threads=threads)
    if release is None:
        names = [one or sys.executable for one in pythons]
        return search_releases(model, inputs, options, _Given(names), names, None, run_timeout_s, custom_ops, dims)
    first, last = read_range(release)
    with PipEnvironments(read_package(package), python=pythons[0], keep=None if keep is None else Path(keep)) as made:
        with doing(f"asking pip for the releases of {package}"):
            known = made.releases(early=has_early_end([first, last]))
        last = last or (_installed(package) if pythons[0] is None else "")
        names = chosen_releases(known, first, last, package)
        return search_releases(model, inputs, options, made, names, package, run_timeout_s, custom_ops, dims)


def search_releases(
    model: Any,
    inputs: Any,
    options: RunOptions,
    environments: Environments,
    names: Sequence[str],
    package: str | None,
    run_timeout_s: float,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
) -> Bisection:
    """Halve releases whose environments somebody gives; see `bisect`.

    Args:
        model: A path, a `ModelProto` or a `Model`.
        inputs: What it is fed.
        options: How.
        environments: Where each release is.
        names: At least two releases, in the order of versions.
        package: Whose; None of environments that were named.
        run_timeout_s: Seconds that one release may take.
        custom_ops: Libraries of custom operators.
        dims: Sizes for open dimensions.

    Raises:
        InputError: The inputs do not fit.
        ModelError: The model cannot be read.
        OutputError: There is no place for temporary files.
        RunError: Fewer than two releases can be tried.
    """
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    prepared = open_dataset(inputs, loaded, options).whole(apart=True)
    with tempfile.TemporaryDirectory(prefix="onnxscope-trials-", ignore_cleanup_errors=True) as folder:
        try:
            case = TrialCase(loaded, prepared, Path(folder), threads=options.threads, timeout_s=float(run_timeout_s))
            search = ReleaseSearch(case, environments, names, package or "environment")
            search.run()
        except OSError as error:
            raise OutputError(
                f"nothing can be handed to another environment ({error.strerror}): {error.filename}",
                hint="`TMPDIR` names another place for temporary files",
            ) from error
        tried = search.tried()
        notes = [*prepared.notes, *search.notes]
        notes += [f"not looked at: {printable(name)}: {reason}" for name, reason in case.unreachable]
    skipped = [one for one in tried if one.answers == "skipped"]
    if skipped:
        notes.append(f"{counted(len(skipped), 'release')} cannot be tried: {', '.join(one.release for one in skipped)}")
    return Bisection(
        model=loaded.to_dict(),
        input=prepared.record,
        package=package,
        tried=tried,
        pair=search.pair,
        between=search.between,
        releases=len(names),
        installs=environments.installs,
        crash=search.crash,
        notes=tuple(notes),
    )


class _Given:
    """Environments that there are already, by their interpreters."""

    installs = 0

    def __init__(self, pythons: Sequence[str]) -> None:
        self._pythons = pythons

    def __enter__(self) -> _Given:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was made."""

    def releases(self, *, early: bool) -> list[str]:
        """The interpreters."""
        return list(self._pythons)

    def environment(self, release: str) -> Environment:
        """The environment of an interpreter, with what its user has installed for it."""
        return Environment(release, (release, "-E"))


def _interpreter(given: str | os.PathLike[str]) -> str:
    """The path of an interpreter, or its name; a link is not followed, since it says which environment is meant.

    Raises:
        InputError: There is none.
    """
    option_types.path("python", given)
    found = shutil.which(os.fspath(given))
    if found is None:
        raise InputError(f"no Python: {printable(os.fspath(given))}", hint="give an interpreter's path")
    return os.path.abspath(found)


def _installed(package: str) -> str:
    """The release that is installed here, empty where none is."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
