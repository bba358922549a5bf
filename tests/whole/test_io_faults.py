"""Files that cannot be opened, read, written, moved or mapped, at any moment of a command: one line, and nothing left.

Faults are planted where Python asks the system: its audit hooks are told of every file that is opened, moved, made or
mapped, and may answer for the system. What is written is stopped at the stream.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxscope
from onnxscope.base import files
from onnxscope.cli.main import run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
COMMANDS = {
    "inspect": "inspect m.onnx",
    "weights": "weights m.onnx -o out",
    "features": "features m.onnx -i x.npz -o out --arrays",
    "stats": "stats m.onnx -i x.npz -o out",
    "diff": "diff m.onnx n.onnx -i x.npz",
    "snapshot": "snapshot m.onnx -i x.npz -o out",
    "check": "check m.onnx --baseline b.json -i x.npz --junit out --markdown out.md",
    "report": "report m.onnx -i x.npz -o out",
    "sensitivity": "sensitivity m.onnx -i x.npz --limit 2 --select stem.0 -o out.svg",
    "drift": "drift p.json p.json",
    "extract": "extract m.onnx --select block.0 -i x.npz -o out",
}
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "mmap.__new__", "os.listdir", "os.truncate")


class Planted:
    """What the hook, which cannot be removed, does at the moment."""

    folder: str | None = None
    number = errno.EIO
    fails_at = -1
    count = 0
    failed: str | None = None


def hook(event: str, arguments: tuple[object, ...]) -> None:
    if Planted.folder is None or event not in EVENTS:
        return
    place = arguments[0]
    if event == "mmap.__new__":
        place = Planted.folder if place != -1 else None
    if isinstance(place, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(place)).startswith(Planted.folder):
        Planted.count += 1
        if Planted.count == Planted.fails_at:
            Planted.failed = f"{event} {arguments}"
            raise OSError(Planted.number, os.strerror(Planted.number), Planted.folder)


sys.addaudithook(hook)


@contextlib.contextmanager
def planted(folder: Path, fails_at: int, number: int = errno.EIO) -> Iterator[None]:
    """Let one of the questions to the system about a folder fail; 0 for none."""
    Planted.folder, Planted.fails_at, Planted.number = str(folder), fails_at, number
    Planted.count, Planted.failed = 0, None
    try:
        yield
    finally:
        Planted.folder = None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, source in (("m.onnx", "digits.onnx"), ("n.onnx", "digits.onnx"), ("x.npz", "digits.npz")):
        shutil.copyfile(FIXTURES / source, tmp_path / name)
    onnxscope.snapshot(tmp_path / "m.onnx", tmp_path / "x.npz").save(tmp_path / "b.json")
    onnxscope.stats(tmp_path / "m.onnx", tmp_path / "x.npz").profile.save(tmp_path / "p.json")
    monkeypatch.chdir(tmp_path)
    Planted.failed = None
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def assert_told(code: int, err: str, what: str) -> None:
    """One line, whatever it was."""
    lines = [line for line in err.splitlines() if line.startswith("onnxscope: error: ")]
    assert code == 2, what
    assert len(lines) == 1, (what, err)
    assert "unexpected" not in err, (what, err)
    assert "Traceback" not in err, (what, err)


def may_stay(command: str, path: str) -> bool:
    """Whether it is there for a reason: `check` reports its own errors, and what cannot be removed stays."""
    if command == "stats" and Path(path).name == "out.partial":  # for `--resume`
        return True
    if command == "check":
        return Path(path).name in ("out", "out.md")
    return (Planted.failed or "").startswith("os.remove") and ".partial" in path


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_system_may_refuse_at_any_moment(name, number, folder, capsys):
    command = [*COMMANDS[name].split(), "--isolation", "none"]
    before = contents(folder)
    with planted(folder, 0):
        assert run(command) == 0
    asked, after = Planted.count, contents(folder)
    assert asked
    capsys.readouterr()
    refused = 0
    for moment in sorted({1, *range(1 + number % 3, asked + 1, max(1, asked // 4))}):
        for path in contents(folder).keys() - before.keys():
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)
        with planted(folder, moment, number):
            code = run(command)
        what, err = f"{Planted.failed} at {moment} of {asked}", capsys.readouterr().err
        if code:
            assert_told(code, err, what)
            left = {path: content for path, content in contents(folder).items() if not may_stay(name, path)}
            assert left == before, what
            refused += 1
        else:
            left = {
                path: content for path, content in contents(folder).items() if path in after or not may_stay(name, path)
            }
            assert left == after, what
    assert refused


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if "out" in command])
def test_a_disk_may_be_full_at_any_byte(name, number, folder, capsys, monkeypatch):
    command = [*COMMANDS[name].split(), "--isolation", "none"]
    before = contents(folder)
    left = 0

    class Filling:
        """A stream of a disk with room for so many bytes."""

        def __init__(self, stream):
            self.stream = stream

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *fault):
            self.stream.close()

        def write(self, content):
            nonlocal left
            size = memoryview(content).nbytes
            if size > left:
                raise OSError(number, os.strerror(number))
            left -= size
            return self.stream.write(content)

    monkeypatch.setattr(files.os, "fdopen", lambda *given, fdopen=os.fdopen: Filling(fdopen(*given)))
    for room in (0, 100, 3_000)[: 2 if name == "check" else None]:  # its files are small
        left = room
        code = run(command)
        assert_told(code, capsys.readouterr().err, f"{room} bytes")
        assert contents(folder) == before, room
    left = 1 << 30
    assert run(command) == 0
    assert contents(folder) != before


def test_signals_in_the_middle_of_a_question_to_the_system_do_no_harm(folder):
    """A timer goes off every millisecond, so that whatever waits is interrupted again and again."""
    program = (
        "import signal, sys; from onnxscope.cli.main import run;"
        "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001);"
        "code = run(sys.argv[1:]); signal.setitimer(signal.ITIMER_REAL, 0); sys.exit(code)"
    )
    for mode in ("none", "process"):
        command = [*COMMANDS["stats"].split()[:-1], mode, "--isolation", mode, "--batch-size", "8"]
        done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    onnxscope.stats("m.onnx", "x.npz", batch_size=8).profile.save("plain")
    assert Path("none").read_bytes() == Path("process").read_bytes() == Path("plain").read_bytes()
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
