"""Throwaway environments, made by `venv` and by pip as it is set up for the user: one for each release."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from onnxscope.base.text import printable
from onnxscope.errors import InputError, OutputError, RunError
from onnxscope.releases.environment import Environment, python_command

__all__ = ["Environments", "NotInstalledError", "PipEnvironments", "read_package"]

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_PYTHON_NAME = re.compile(r"[\w.-]{1,40}")
_DONE = "onnxscope_release.json"
_QUIET = ("--disable-pip-version-check", "--no-input", "--no-color")
_TELL = "import sys; v = sys.version_info; print(sys.implementation.cache_tag, sys.platform)"
# Telemetry is off before the import, as everywhere.
_IMPORT = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import numpy, onnxruntime; onnxruntime.InferenceSession"
)


class NotInstalledError(Exception):
    """A release cannot be installed, or cannot be imported where it is."""


class Environments(Protocol):
    """Gives an environment for each release; a context manager, which removes what it has made."""

    installs: int
    """How many releases were installed."""

    def releases(self, *, early: bool) -> list[str]:
        """All releases that can be installed; with `early` those before the release too."""
        ...

    def environment(self, release: str) -> Environment:
        """The environment of a release.

        Raises:
            NotInstalledError: It cannot be had.
        """
        ...

    def __enter__(self) -> Environments: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def read_package(name: str) -> str:
    """Check the name of a package.

    Raises:
        InputError: It is none.
    """
    if not isinstance(name, str) or not _PACKAGE.fullmatch(name):
        raise InputError(f"no package: {printable(str(name))[:80]!r}", hint="for example `--package onnxruntime-gpu`")
    return name


class PipEnvironments:
    """Environments of pip; they are removed at the end, but for those in a folder that somebody keeps.

    Attributes:
        installs: How many releases were installed.
    """

    def __init__(self, package: str = "onnxruntime", *, python: str | None = None, keep: Path | None = None) -> None:
        """Find pip.

        Args:
            package: What is installed; it brings the module `onnxruntime`.
            python: The interpreter that environments are made of; None for this one.
            keep: The folder in which environments stay, and are found again; None for a temporary one.

        Raises:
            InputError: There is no such interpreter.
            OutputError: The folder cannot be made.
        """
        self._package = read_package(package)
        self._python = sys.executable if python is None else python
        self._tag = _PYTHON_NAME.findall(_told([self._python, "-I", "-c", _TELL]) or "")
        if not self._tag:
            raise InputError(f"no Python can be started: {printable(self._python)}", hint="give an interpreter's path")
        self._kept = keep is not None
        try:
            if keep is None:
                self._folder = Path(tempfile.mkdtemp(prefix="onnxscope-releases-"))
            else:
                keep.mkdir(parents=True, exist_ok=True)
                self._folder = keep.resolve()
        except OSError as error:
            raise OutputError(f"{error.strerror}: {keep or error.filename}") from error
        self._pip: list[str] | None = None
        self.installs = 0

    def __enter__(self) -> PipEnvironments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            shutil.rmtree(self._folder, ignore_errors=True)

    def releases(self, *, early: bool) -> list[str]:
        """All releases with a wheel for this Python, as pip lists them.

        Raises:
            RunError: pip does not run, or cannot reach its index.
            InputError: There is no such package.
        """
        arguments = ["index", "versions", *_QUIET, "--only-binary", ":all:", *(["--pre"] if early else [])]
        said = self._run([*arguments, self._package])
        match = re.search(r"^Available versions: (.*)$", said.stdout, re.MULTILINE)
        if match is not None:
            return [name.strip() for name in match[1].split(",")]
        reason = _reason(said)
        if "No matching distribution" in reason and "retrying" not in said.stderr.lower():
            raise InputError(
                f"pip knows no release of {self._package} for this Python", hint="`--package` names what is installed"
            )
        raise RunError(
            f"pip cannot list the releases of {self._package}: {reason}", hint="`pip config` says where from"
        )

    def environment(self, release: str) -> Environment:
        """Install a release, where that was not done before.

        Raises:
            NotInstalledError: pip cannot install it, or it cannot be imported.
            OutputError: The folder cannot be written to.
        """
        place = self._folder / "-".join([self._package, release, *self._tag])
        if not self._is_done(place, release):
            self._install(place, release)
        return Environment(release, python_command(_python_in(place)))

    def _install(self, place: Path, release: str) -> None:
        if (place / "pyvenv.cfg").is_file():  # of a run that was ended
            shutil.rmtree(place, ignore_errors=True)
        if place.exists():
            raise OutputError(f"no environment of ours: {place}", hint="name another folder, or remove it")
        made = subprocess.run(
            [self._python, "-I", "-m", "venv", "--without-pip", str(place)],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if made.returncode:
            raise OutputError(f"no environment can be made ({_reason(made)}): {place}")
        self.installs += 1
        wanted = f"{self._package}=={release}"
        # onnxruntime runs with numpy alone, so that nothing else is downloaded; the oldest releases take numpy 1 only,
        # and another package may need what it says that it needs.
        said = self._into(place, ["--no-deps", wanted, "numpy"])
        if not said.returncode and not self._imports(place):
            for more in (["--no-deps", "numpy<2"], [wanted]):
                again = self._into(place, more)
                if not again.returncode and self._imports(place):
                    break
        if said.returncode:
            raise NotInstalledError(f"cannot be installed: {_reason(said)}")
        words = {"package": self._package, "release": release}
        (place / _DONE).write_text(json.dumps(words), encoding="utf-8")

    def _into(self, place: Path, wanted: Sequence[str]) -> subprocess.CompletedProcess[str]:
        arguments = ["install", *_QUIET, "-q", "--only-binary", ":all:", "--no-compile", *wanted]
        return self._run(arguments, _python_in(place))

    @staticmethod
    def _imports(place: Path) -> bool:
        return _told([*python_command(_python_in(place)), "-c", _IMPORT]) is not None

    def _is_done(self, place: Path, release: str) -> bool:
        try:
            words = json.loads((place / _DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return words == {"package": self._package, "release": release} and os.path.exists(_python_in(place))

    def _run(self, arguments: Sequence[str], python: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run pip for a Python, that of the environments by default."""
        if self._pip is None:
            self._pip = self._found_pip()
        target = python or self._python
        if self._pip[0] != target:
            arguments = ["--python", target, *arguments]
        return subprocess.run(
            [*self._pip, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )

    def _found_pip(self) -> list[str]:
        """That of the Python in question, or of this one, or else one of our own."""
        for python in dict.fromkeys((self._python, sys.executable)):
            if python == sys.executable and importlib.util.find_spec("pip") is not None:
                return [python, "-m", "pip"]
            if _told([python, "-m", "pip", "--version"]) is not None:
                return [python, "-m", "pip"]
        own = self._folder / "pip"
        python = _python_in(own)
        if not os.path.exists(python):
            made = subprocess.run(
                [sys.executable, "-I", "-m", "venv", str(own)],
                capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            if made.returncode:
                raise RunError(f"there is no pip ({_reason(made)})", hint="install pip, or use `--python`")
        return [python, "-m", "pip"]


def _python_in(environment: Path) -> str:
    return str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def _told(command: Sequence[str]) -> str | None:
    """What a command prints, None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line of pip's that says why, or the last one."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return printable((errors or lines[-1:] or [f"exit code {done.returncode}"])[-1])[:300]
