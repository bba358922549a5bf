"""Limits, what a process takes, and the words for its end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxscope.base import limits
from onnxscope.base.files import PARTIAL_FILES, list_partial
from onnxscope.base.last_words import LastWords, read_last_words
from onnxscope.base.limits import (
    Limits,
    clean,
    default_memory_bytes,
    descendants,
    memory_bytes,
    new_folder,
    over_memory,
    over_time,
    why_it_died,
)

RUNNING = LastWords(("running m.onnx for 'y'", "samples 0 to 7"))


def test_the_default_is_four_fifths_of_the_memory_at_most():
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < default_memory_bytes() <= 0.8 * 1024 * int(line.split()[1]) * 1.001


def test_the_limit_of_a_container_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    without = default_memory_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert default_memory_bytes() == without
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert default_memory_bytes() == 800_000_000


def test_memory_is_that_of_a_process_and_of_all_that_it_starts():
    child = "import time; x = b'1' * (100 << 20); print('ready', flush=True); time.sleep(60)"
    program = f"import subprocess, sys; x = b'1' * (50 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (other,) = descendants(process.pid)
        assert 150 << 20 <= memory_bytes(process.pid) < 200 << 20
        limits.kill(process.pid)  # leads no group, so that only what it has started is ended
        process.kill()
        end_s = time.monotonic() + 5
        while Path(f"/proc/{other}/cmdline").exists() and Path(f"/proc/{other}/cmdline").read_bytes():
            assert time.monotonic() < end_s
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, "onnxruntime has crashed (SIGSEGV) while running m.onnx for 'y' (samples 0 to 7)"),
        (signal.SIGABRT, "onnxruntime has crashed (SIGABRT) while running m.onnx for 'y' (samples 0 to 7)"),
        (signal.SIGKILL, "killed from outside while running m.onnx for 'y' (samples 0 to 7)"),
        (signal.SIGTERM, "ended from outside (SIGTERM) while running m.onnx for 'y' (samples 0 to 7)"),
        (40, "onnxruntime has crashed (signal 40) while running m.onnx for 'y' (samples 0 to 7)"),
    ],
)
def test_a_death_says_what_was_done_and_by_what(number, reason):
    assert why_it_died(number, RUNNING).reason == reason


def test_a_crash_outside_of_a_run_is_not_blamed_on_onnxruntime():
    assert why_it_died(signal.SIGSEGV, LastWords()).reason == "the process has crashed (SIGSEGV)"


def test_limits_name_the_option_that_raises_them():
    late = over_time(Limits(1.5, None), LastWords())
    assert (late.reason, "--timeout" in late.hint) == ("stopped after 1.5 s", True)
    large = over_memory(Limits(None, 3 << 29), RUNNING)
    assert large.reason == "stopped at 1.5 GiB of memory while running m.onnx for 'y' (samples 0 to 7)"
    assert "--memory-limit" in large.hint


def test_what_is_listed_is_removed_with_the_folder(tmp_path, monkeypatch):
    folder, words = new_folder()
    monkeypatch.setenv(PARTIAL_FILES, str(Path(folder, "partial")))
    names = ("line\nbreak", "made", "made/file", "taken", "whole", "link", "gone")
    for name in ("made", "taken", "whole", "kept"):
        (tmp_path / name).mkdir()
    for name in ("line\nbreak", "made/file", "taken/other", "whole/file", "kept/file"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in names:
        list_partial(str(tmp_path / name), with_content=name == "whole")
    clean(folder)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        *("kept", "kept/file", "taken", "taken/other")
    ]
    assert not Path(folder).exists()
    with words:
        assert read_last_words(words) == LastWords()
